/* Requests of trials and what is known of processes, as they are kept: there and back is the same; what was cut, changed or made up is
 * refused, and nothing of it stays. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "clone/book.h"
#include "clone/transcript.h"

#define FLOWS 3u

static struct ft_request request;
static struct ft_outside_config outside = {.guest_ip = 0x0f02000a, .dns_address = 7, .tcp = FT_SINK_SILENT, .delay_ns = 200000,
						  .guest_ip6.bytes = {0xfd, 1, [15] = 9}};

static int make(void **state)
{
	static uint8_t bytes[4096];
	request = (struct ft_request){.begin = {.trial = 9, .flows = FLOWS, .seed = 42, .horizon_ns = 1000}, .used = true, .bytes = bytes};
	for (uint32_t i = 0; i < FLOWS; i++) {
		request.flows[i] = (struct ft_trial_flow){.trial = 9,
							  .frames = i + 1,
							  .bytes = 10,
							  .client_port = (uint16_t)i,
							  .protocol = 6,
							  .first_sequence = 100 * i,
							  .next_sequence = 100 * i + 10};
		request.flow_count++;
		for (uint32_t n = 0; n <= i; n++) {
			uint32_t length = 60 + i + n;
			memset(bytes + request.filled, (int)(16 * i + n), length);
			request.lengths[request.frames++] = length;
			request.filled += length;
		}
	}
	request.begin.frames = request.frames;
	return 0;
}

static void expect(const struct ft_transcript *t, uint32_t flows)
{
	const struct ft_request *r = t->request;
	uint32_t frames = 0;
	size_t bytes = 0;
	assert_non_null(r);
	assert_int_equal(r->flow_count, flows);
	assert_memory_equal(r->flows, request.flows, flows * sizeof(*r->flows));
	for (uint32_t i = 0; i < flows; i++)
		frames += request.flows[i].frames;
	assert_int_equal(r->frames, frames);
	assert_int_equal(r->begin.frames, frames);
	for (uint32_t i = 0; i < frames; i++)
		bytes += request.lengths[i];
	assert_memory_equal(r->lengths, request.lengths, frames * sizeof(*r->lengths));
	assert_memory_equal(r->bytes, request.bytes, bytes);
	assert_int_equal(r->begin.seed, 42);
	assert_memory_equal(&t->outside, &outside, sizeof(outside));
}

static void there_and_back(void **state)
{
	static struct ft_transcript t;
	uint8_t *packed;
	size_t length, pieces;
	assert_int_equal(ft_transcript_pack(&request, &outside, 5, &packed, &length), 0);
	assert_int_equal(ft_transcript_size(&request, &pieces) + 8 * pieces, length);
	assert_int_equal(ft_transcript_take_all(&t, packed, length, NULL), 1);
	assert_int_equal(t.seed, 5);
	expect(&t, FLOWS);
	ft_transcript_cut(&t, 2);
	expect(&t, 2);
	assert_int_equal(t.request->filled, t.request->lengths[0] + t.request->lengths[1] + t.request->lengths[2]);
	ft_transcript_clear(&t);
	/* The one that is looked for, behind another. */
	t.wanted = 6;
	assert_int_equal(ft_transcript_take_all(&t, packed, length, NULL), 0);
	assert_null(t.request);
	free(packed);
	assert_int_equal(ft_transcript_pack(&request, &outside, 6, &packed, &length), 0);
	assert_int_equal(ft_transcript_take_all(&t, packed, length, NULL), 1);
	expect(&t, FLOWS);
	ft_transcript_clear(&t);
	free(packed);
}

static void what_is_none_is_refused(void **state)
{
	static struct ft_transcript t;
	uint8_t *packed, *copy;
	size_t length;
	assert_int_equal(ft_transcript_pack(&request, &outside, 5, &packed, &length), 0);
	copy = malloc(length + 1);
	memcpy(copy, packed, length);
	copy[length] = 0;
	assert_int_equal(ft_transcript_take_all(&t, copy, length + 1, NULL), -EBADMSG);
	assert_null(t.request);
	for (size_t cut = 0; cut < length; cut++) {
		/* In memory of exactly that size, for the sanitizers. */
		uint8_t *some = malloc(cut + !cut);
		memcpy(some, packed, cut);
		assert_int_equal(ft_transcript_take_all(&t, some, cut, NULL), -EBADMSG);
		assert_null(t.request);
		ft_transcript_clear(&t);
		free(some);
	}
	/* Each byte of the heads, and of what is no frame, made another one: refused, or a request that is sound. */
	for (size_t i = 0; i < length; i++) {
		memcpy(copy, packed, length);
		copy[i] ^= 0x81;
		if (ft_transcript_take_all(&t, copy, length, NULL) == 1) {
			assert_true(t.request->flow_count == FLOWS && t.request->frames == request.frames);
			assert_in_range(t.outside.tcp, 0, FT_SINK_SILENT);
		}
		ft_transcript_clear(&t);
	}
	/* No outside. */
	assert_int_equal(ft_transcript_take_all(&t, packed + 8 + sizeof(struct ft_transcript_outside), length - 8 - sizeof(struct ft_transcript_outside), NULL),
			 -EBADMSG);
	ft_transcript_clear(&t);
	free(copy);
	free(packed);
}

/* ---- What is known of processes ------------------------------------------------------------------------------------ */

static struct ft_observer *observer(void)
{
	static const struct ft_observe_source source;
	struct ft_observer *o = calloc(1, sizeof(*o));
	ft_observe_begin(o, &source, NULL, 0x1000);
	return o;
}

static struct ft_observer *filled(void)
{
	struct ft_observer *o = observer();
	o->user_seen = true;
	o->cr3 = 0x7000;
	for (uint64_t i = 1; i < 200; i++) {
		struct ft_process *p = ft_process_get(&o->processes, i << 12);
		p->pid = i % 3 ? (int64_t)i : -1;
		p->born_of = i % 7 ? 0 : 0x5000;
		ft_process_set_name(p, i % 2 ? "/usr/bin/a-long-name-of-a-program" : "sh");
		memset(p->directory, i % 5 ? 0 : 'd', i % 5 ? 1 : sizeof(p->directory) - 1);
	}
	o->calls_clock = 50;
	o->calls_used = 41;
	for (unsigned i = 0; i <= 40; i += 8) {
		struct ft_observe_call *c = &o->calls[i];
		*c = (struct ft_observe_call){.cr3 = 0x9000 + (i << 12), .rsp = i, .rip = 2, .began = i, .nr = 56, .args = {1, 2, 3, 4, 5, 6}, .flags = i};
		c->has_strings = i % 16;
		c->child_ran = i == 8;
		c->parent_ran = i == 16;
		c->child_pid = -1;
		memset(c->first, 'f', i == 40 ? sizeof(c->first) - 1 : i);
		memset(c->second, 's', i);
	}
	return o;
}

static void a_book_there_and_back(void **state)
{
	struct ft_observer *o = filled(), *other = observer();
	uint8_t *bytes, *more;
	size_t length, more_length;
	assert_int_equal(ft_book_save(o, &bytes, &length), 0);
	assert_int_equal(ft_book_load(other, bytes, length, NULL), 0);
	/* All that the live guest's observer goes by. */
	assert_memory_equal(&other->processes, &o->processes, sizeof(o->processes));
	assert_memory_equal(other->calls, o->calls, sizeof(o->calls));
	assert_int_equal(other->calls_used, o->calls_used);
	assert_int_equal(other->calls_clock, o->calls_clock);
	assert_int_equal(other->cr3, o->cr3);
	assert_true(other->user_seen);
	assert_int_equal(ft_book_save(other, &more, &more_length), 0);
	assert_int_equal(length, more_length);
	assert_memory_equal(bytes, more, length);
	free(bytes);
	free(more);
	free(o);
	free(other);
}

static void a_damaged_book_is_refused(void **state)
{
	struct ft_observer *o = filled(), *empty = observer(), *other = observer();
	uint8_t *bytes;
	size_t length, refused = 0;
	assert_int_equal(ft_book_save(o, &bytes, &length), 0);
	for (size_t cut = 0; cut < length; cut++) {
		uint8_t *some = malloc(cut + !cut);
		memcpy(some, bytes, cut);
		assert_int_equal(ft_book_load(other, some, cut, NULL), -EBADMSG);
		/* It knows nothing then. */
		if (cut % 64 == 0)
			assert_memory_equal(other, empty, sizeof(*other));
		free(some);
	}
	for (size_t i = 0; i < length; i++) {
		bytes[i] ^= 0xff;
		int error = ft_book_load(other, bytes, length, NULL);
		bytes[i] ^= 0xff;
		refused += error != 0;
		for (unsigned n = 0; !error && n < FT_PROCESS_BUCKETS * FT_PROCESS_WAYS; n++) {
			const struct ft_process *p = &other->processes.entries[n];
			assert_true(memchr(p->name, 0, sizeof(p->name)) && memchr(p->directory, 0, sizeof(p->directory)));
		}
		assert_true(error || other->calls_used <= FT_OBSERVE_CALLS);
		memcpy(other, empty, sizeof(*other));
	}
	assert_true(refused > 200);
	/* One process, whose name, and whose directory, is one byte longer than there is room for. */
	for (unsigned longest = 0; longest < 4; longest++) {
		const uint16_t name = longest & 1 ? FT_PROCESS_NAME : FT_PROCESS_NAME - 1, directory = longest & 2 ? FT_PROCESS_PATH : FT_PROCESS_PATH - 1;
		uint8_t raw[1024] = {1};
		memset(raw + 77, 'x', name + directory);
		memcpy(raw + 32, &(uint32_t){1}, 4);   /* processes */
		memcpy(raw + 42, &name, 1);
		memcpy(raw + 43, &directory, 2);
		memcpy(raw + 45, &(uint64_t){0x1000}, 8); /* its address space */
		assert_int_equal(ft_book_load(other, raw, 77u + name + directory, NULL), longest ? -EBADMSG : 0);
		memcpy(other, empty, sizeof(*other));
	}
	free(bytes);
	free(o);
	free(empty);
	free(other);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(there_and_back), cmocka_unit_test(what_is_none_is_refused),
					   cmocka_unit_test(a_book_there_and_back), cmocka_unit_test(a_damaged_book_is_refused)};
	return cmocka_run_group_tests(tests, make, NULL);
}
