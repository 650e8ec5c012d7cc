/* A journal's records as bytes, through the ring and the scribe into segments, and out again: whole, in order, or refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include <sodium.h>

#include "journal/reader.h"
#include "journal/scribe.h"

/* A disk that is full for a while. */
static int failing, full; /* writes that fail; all do */
ssize_t __real_write(int fd, const void *bytes, size_t length);
ssize_t __wrap_write(int fd, const void *bytes, size_t length);
ssize_t __wrap_write(int fd, const void *bytes, size_t length)
{
	if ((failing || full) && length != sizeof(uint64_t) && fd > 2) {
		failing -= failing > 0;
		errno = ENOSPC;
		return length > 40 ? __real_write(fd, bytes, 40) : -1; /* a part first, then nothing */
	}
	return __real_write(fd, bytes, length);
}

static uint64_t random_state;

static uint64_t next_random(void)
{
	uint64_t z = random_state += 0x9e3779b97f4a7c15ull;
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

/* ---- Made-up journals ------------------------------------------------------------------------------------------------ */

#define RECORDS 3000u

struct script {
	struct ft_record records[RECORDS];
	uint8_t data[RECORDS][1600];
	unsigned count;
};

static void make_script(struct script *s, unsigned count, uint64_t seed, uint32_t number)
{
	static const uint8_t kinds[] = {FT_INPUT_FRAME, FT_INPUT_CLOCK, FT_INPUT_CLOCK,	FT_INPUT_CLOCK, FT_INPUT_ENTROPY,
					FT_INPUT_CONSOLE, FT_INPUT_GENERATION, FT_RECORD_CHECK, FT_RECORD_CHECK_WRITTEN, FT_RECORD_STOP,
					FT_RECORD_PEER, FT_RECORD_FRAME_FROM, FT_RECORD_FRAME_FROM};
	uint64_t next[4] = {0};
	bool known[4] = {0};
	uint64_t icount = 1000 * seed, boundary = icount, clock = 0;
	random_state = seed;
	s->count = count;
	s->records[0] = (struct ft_record){.kind = FT_RECORD_CHECKPOINT, .where = FT_WHERE_SAME, .icount = icount, .value = number};
	for (unsigned i = 1; i < count; i++) {
		struct ft_record *r = &s->records[i];
		*r = (struct ft_record){.kind = kinds[next_random() % sizeof(kinds)]};
		unsigned peer = next_random() % 4;
		if (r->kind == FT_RECORD_FRAME_FROM && !known[peer])
			r->kind = FT_RECORD_PEER;
		if (r->kind == FT_RECORD_PEER) {
			r->value = peer;
			known[peer] = true;
			next[peer] = 0;
		} else if (r->kind == FT_RECORD_FRAME_FROM) {
			r->peer = (uint8_t)peer;
			r->value = next[peer] + next_random() % 3;
			next[peer] = r->value + 1;
		}
		bool inside = r->kind == FT_INPUT_ENTROPY && next_random() % 2;
		r->where = inside ? FT_WHERE_INSIDE : (uint8_t)(next_random() % FT_WHERE_INSIDE);
		if (icount > boundary && r->where == FT_WHERE_SAME)
			r->where = FT_WHERE_COUNT;
		if (icount > boundary + FT_RECORD_SLICE && r->where == FT_WHERE_SLICE)
			r->where = FT_WHERE_HALT;
		icount = r->where == FT_WHERE_SAME ? boundary : r->where == FT_WHERE_SLICE ? boundary + FT_RECORD_SLICE : icount + next_random() % 50000;
		r->icount = icount;
		if (!inside)
			boundary = icount;
		if (r->kind == FT_INPUT_CLOCK)
			r->value = clock += next_random() % 3 ? next_random() % 100 * FT_RECORD_CLOCK_UNIT : next_random() % 1000000;
		for (unsigned b = 0; b < sizeof(s->data[i]); b++)
			s->data[i][b] = (uint8_t)(next_random() & (b % 3 ? 0xff : 1));
		if (r->kind == FT_RECORD_PEER)
			memcpy(s->data[i] + offsetof(struct ft_record_peer, guest), "some-guest\0and more, up to the end", 32);
		s->data[i][sizeof(struct ft_record_peer) - 1] = r->kind == FT_RECORD_PEER ? 0 : s->data[i][sizeof(struct ft_record_peer) - 1];
		r->data = s->data[i];
		r->length = r->kind == FT_RECORD_CHECK		 ? FT_CHECK_BYTES
			    : r->kind == FT_RECORD_CHECK_WRITTEN ? FT_CHECK_WRITTEN_BYTES
			    : r->kind == FT_INPUT_GENERATION	 ? 16
			    : r->kind == FT_RECORD_PEER		 ? sizeof(struct ft_record_peer)
			    : r->kind == FT_RECORD_FRAME_FROM	 ? 4
			    : ft_record_has_payload(r)		 ? (uint32_t)(1 + next_random() % 1514)
								 : 0;
	}
}

static void expect_equal(const struct ft_record *a, const struct ft_record *b)
{
	assert_int_equal(a->kind, b->kind);
	assert_int_equal(a->where, b->where);
	assert_true(a->icount == b->icount && a->value == b->value);
	assert_int_equal(a->peer, b->peer);
	assert_int_equal(a->length, b->length);
	if (a->length)
		assert_memory_equal(a->data, b->data, a->length);
}

/* ---- Records ------------------------------------------------------------------------------------------------------- */

static void records_come_back(void **state)
{
	static struct script s;
	static uint8_t bytes[RECORDS * 1700];
	make_script(&s, RECORDS, 7, 1);
	struct ft_record_state to = {0}, from = {0};
	size_t n = 0;
	for (unsigned i = 0; i < s.count; i++) {
		n += ft_record_encode(&to, &s.records[i], bytes + n);
		if (ft_record_has_payload(&s.records[i])) {
			memcpy(bytes + n, s.records[i].data, s.records[i].length);
			n += s.records[i].length;
		}
	}
	struct ft_record_cursor cursor = {bytes, bytes + n};
	for (unsigned i = 0; i < s.count; i++) {
		struct ft_record r;
		const uint8_t *start = cursor.at;
		/* Cut anywhere it is not there whole, and nothing has moved. */
		struct ft_record_state before = from;
		struct ft_record_cursor whole = cursor;
		assert_int_equal(ft_record_decode(&before, &whole, &whole, &r, NULL), 0);
		for (const uint8_t *end = start; end < whole.at; end += 1 + (end - start > 20 ? (whole.at - end) / 3 : 0)) {
			struct ft_record_cursor cut = {start, end};
			struct ft_record_state same = from;
			assert_int_equal(ft_record_decode(&same, &cut, &cut, &r, NULL), -EAGAIN);
			assert_ptr_equal(cut.at, start);
			assert_memory_equal(&same, &from, sizeof(same));
		}
		assert_int_equal(ft_record_decode(&from, &cursor, &cursor, &r, NULL), 0);
		expect_equal(&r, &s.records[i]);
	}
	assert_ptr_equal(cursor.at, cursor.end);
}

/* A clock input that comes a slice after the last one takes three bytes. */
static void records_are_small(void **state)
{
	struct ft_record_state s = {0};
	uint8_t bytes[FT_RECORD_CONTROL_MAX];
	ft_record_encode(&s, &(struct ft_record){.kind = FT_RECORD_CHECKPOINT, .icount = 1ull << 40, .value = 1}, bytes);
	ft_record_encode(&s, &(struct ft_record){.kind = FT_INPUT_CLOCK, .where = FT_WHERE_SAME, .icount = 1ull << 40, .value = 1ull << 40}, bytes);
	assert_int_equal(ft_record_encode(&s, &(struct ft_record){.kind = FT_INPUT_CLOCK, .where = FT_WHERE_SLICE,
								    .icount = (1ull << 40) + FT_RECORD_SLICE, .value = (1ull << 40) + 400 * 1024}, bytes), 3);
	assert_int_equal(FT_CHECK_BYTES, 12);
	/* A frame of a peer, after the one before it: nine bytes at a place of its own. */
	static const struct ft_record_peer peer = {.run = 1, .segment = 1, .guest = "near"};
	ft_record_encode(&s, &(struct ft_record){.kind = FT_RECORD_PEER, .icount = s.last, .data = (const uint8_t *)&peer, .length = sizeof(peer)}, bytes);
	assert_int_equal(ft_record_encode(&s, &(struct ft_record){.kind = FT_RECORD_FRAME_FROM, .where = FT_WHERE_COUNT, .icount = s.last + 10000,
								    .data = (const uint8_t *)"abcd", .length = 4}, bytes), 9);
}

static void impossible_records_are_refused(void **state)
{
	static const struct {
		const char *what;
		uint8_t bytes[48];
		size_t length;
	} cases[] = {
	    {"a kind that is none", {7}, 1},
	    {"a frame of a peer that nobody named", {FT_RECORD_FRAME_FROM, 3, 0, 1, 2, 3, 4}, 7},
	    {"a frame of a peer beyond all", {FT_RECORD_FRAME_FROM, FT_RECORD_PEERS, 0, 1, 2, 3, 4}, 7},
	    {"a frame of a peer inside a run", {FT_RECORD_FRAME_FROM | FT_WHERE_INSIDE << 4, 0, 3, 0, 1, 2, 3, 4}, 8},
	    {"a peer beyond all", {FT_RECORD_PEER, FT_RECORD_PEERS, [12] = 'x'}, 44},
	    {"a peer without a name", {FT_RECORD_PEER, 1}, 44},
	    {"a peer whose name does not end", {FT_RECORD_PEER, 1, [10] = 'x', [41] = 'x'}, 44},
	    {"another kind that is none", {6}, 1},
	    {"a piece of a trial inside a run", {FT_RECORD_TRIAL | FT_WHERE_INSIDE << 4, 0, 1, 0}, 4},
	    {"a piece of a trial longer than any", {FT_RECORD_TRIAL, 1, 0x81, 0x80, 0x04}, 5},
	    {"a place that is none", {FT_INPUT_CLOCK | 5 << 4, 0}, 2},
	    {"a check inside a run", {FT_RECORD_CHECK | FT_WHERE_INSIDE << 4, 0}, 2},
	    {"a checkpoint in the middle", {FT_RECORD_CHECKPOINT, 1, 1}, 3},
	    {"a number longer than it has to be", {FT_INPUT_FRAME, 0x80, 0}, 3},
	    {"a number beyond 64 bits", {FT_INPUT_CLOCK, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2}, 11},
	    {"a time beyond its range", {FT_INPUT_CLOCK, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}, 11},
	    {"a count beyond its range", {FT_RECORD_STOP | FT_WHERE_COUNT << 4, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}, 11},
	    {"a frame longer than any", {FT_INPUT_FRAME, 0x81, 0x80, 0x04}, 4},
	    {"an end that is none", {FT_RECORD_END, 4}, 2},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct ft_record_state s = {.begun = true, .boundary = 5, .last = 5};
		struct ft_record_cursor cursor = {cases[i].bytes, cases[i].bytes + cases[i].length};
		struct ft_record r;
		struct ft_error err = {0};
		if (ft_record_decode(&s, &cursor, &cursor, &r, &err) != -EBADMSG)
			fail_msg("%s was taken", cases[i].what);
		assert_ptr_equal(cursor.at, cases[i].bytes);
		assert_non_null(strstr(err.text, "tag 0x"));
	}
	/* What is beside a run cannot have been before what was inside it; nothing is before the checkpoint. */
	struct ft_record_state s = {.begun = true, .boundary = 5, .last = 9};
	uint8_t same[] = {FT_RECORD_STOP};
	struct ft_record_cursor cursor = {same, same + 1};
	struct ft_record r;
	assert_int_equal(ft_record_decode(&s, &cursor, &cursor, &r, NULL), -EBADMSG);
	s = (struct ft_record_state){0};
	assert_int_equal(ft_record_decode(&s, &cursor, &cursor, &r, NULL), -EBADMSG);
}

static void checks_name_what_differs(void **state)
{
	uint64_t a[FT_COMPONENT_COUNT], b[FT_COMPONENT_COUNT];
	uint8_t x[FT_CHECK_WRITTEN_BYTES], y[FT_CHECK_WRITTEN_BYTES];
	char names[256];
	for (unsigned i = 0; i < FT_COMPONENT_COUNT; i++)
		a[i] = b[i] = 0x0123456789abcdefull * (i + 1);
	ft_record_check(a, x);
	ft_record_check(b, y);
	ft_record_difference(false, x, y, names, sizeof(names));
	assert_string_equal(names, "");
	b[FT_COMPONENT_UART]++;
	ft_record_check(b, y);
	ft_record_difference(false, x, y, names, sizeof(names));
	assert_string_equal(names, "uart");
	/* Where four bits are the same by chance, the 32 over all are not. */
	b[FT_COMPONENT_UART] = a[FT_COMPONENT_UART] + 16;
	ft_record_check(b, y);
	ft_record_difference(false, x, y, names, sizeof(names));
	assert_string_equal(names, "unknown");
	b[FT_COMPONENT_RAM]++;
	ft_record_check_written(a, x);
	ft_record_check_written(b, y);
	ft_record_difference(true, x, y, names, sizeof(names));
	assert_string_equal(names, "uart, ram");
}

/* ---- The way through ring, scribe and segments -------------------------------------------------------------------------- */

struct way {
	struct ft_journal_ring ring;
	struct ft_journal_files files;
	int orders[2], wake;
};

static const uint8_t *way_key; /* the operator's; NULL: nothing is encrypted */

static int memory_file(void)
{
	int fd = memfd_create("journal", MFD_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

static void open_way(struct way *w)
{
	struct ft_snapshot_seal seal;
	*w = (struct way){.files.ring = memory_file(), .files.key = way_key, .wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)};
	if (way_key)
		ft_snapshot_seal(&seal, way_key);
	assert_int_equal(ft_journal_ring_make(w->files.ring, way_key ? &seal : NULL, NULL), 0);
	assert_int_equal(ft_journal_ring_open(&w->ring, w->files.ring, true, NULL), 0);
	if (way_key)
		assert_int_equal(ft_journal_ring_unseal(&w->ring, &seal, NULL), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, w->orders), 0);
}

static void give_segment(struct way *w, uint32_t number)
{
	char room[CMSG_SPACE(sizeof(int))] = {0};
	int fd = w->files.segments[w->files.count++] = memory_file();
	struct ft_scribe_order order = {.number = number, .sealed = way_key != NULL};
	if (way_key)
		ft_snapshot_seal(&order.seal, way_key);
	struct iovec part = {&order, sizeof(order)};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof(room)};
	*CMSG_FIRSTHDR(&message) = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int))};
	memcpy(CMSG_DATA(CMSG_FIRSTHDR(&message)), &fd, sizeof(fd));
	assert_int_equal(sendmsg(w->orders[0], &message, 0), sizeof(order));
}

static void put_script(struct way *w, const struct script *s, unsigned from, unsigned to, struct ft_record_state *state)
{
	for (unsigned i = from; i < to; i++) {
		uint8_t control[FT_RECORD_CONTROL_MAX];
		const struct ft_record *r = &s->records[i];
		size_t n = ft_record_encode(state, r, control);
		assert_true(ft_journal_ring_put(&w->ring, control, n, r->data, ft_record_has_payload(r) ? r->length : 0));
	}
}

static int scribble(struct way *w)
{
	struct ft_scribe scribe = {.ring = &w->ring,
				   .header = {.run = 3, .memory = 64 << 20, .guest = "web"},
				   .wake = w->wake,
				   .done = -1,
				   .orders = w->orders[1],
				   .channel = -1};
	struct ft_error err = {0};
	pid_t child = fork();
	int status;
	if (child == 0) {
		close(w->orders[0]);
		int error = ft_scribe_run(&scribe, &err);
		if (error)
			fprintf(stderr, "scribe: %s\n", err.text);
		_exit(error ? 1 : 0);
	}
	close(w->orders[0]);
	close(w->orders[1]);
	assert_int_equal(waitpid(child, &status, 0), child);
	return WEXITSTATUS(status);
}

static void expect_scripts(struct way *w, const struct script *const *scripts, unsigned count, struct ft_journal *j)
{
	struct ft_error err = {0};
	assert_int_equal(ft_journal_open(j, &w->files, &err), 0);
	for (unsigned k = 0; k < count; k++)
		for (unsigned i = 0; i < scripts[k]->count; i++) {
			const struct ft_record *r = ft_journal_peek(j, 0, &err);
			if (!r)
				fail_msg("record %u of script %u is missing: %s", i, k, err.text);
			expect_equal(r, &scripts[k]->records[i]);
			/* Looking ahead changes nothing. */
			if (i % 50 == 0 && i + 40 < scripts[k]->count) {
				const struct ft_record *ahead = ft_journal_peek(j, 40, &err);
				assert_non_null(ahead);
				expect_equal(ahead, &scripts[k]->records[i + 40]);
				expect_equal(ft_journal_peek(j, 0, &err), &scripts[k]->records[i]);
			}
			ft_journal_take(j);
		}
	assert_null(ft_journal_peek(j, 0, &err));
	assert_int_equal(err.code, 0);
}

static void close_way(struct way *w)
{
	for (unsigned i = 0; i < w->files.count; i++)
		close(w->files.segments[i]);
	ft_journal_ring_close(&w->ring);
	close(w->files.ring);
	close(w->wake);
}

static struct script one, two;

static void fill_way(struct way *w)
{
	struct ft_record_state state = {0};
	open_way(w);
	make_script(&one, RECORDS, 11, 1);
	make_script(&two, RECORDS / 2, 5000000, 2);
	give_segment(w, 1);
	put_script(w, &one, 0, one.count, &state);
	state = (struct ft_record_state){0};
	give_segment(w, 2);
	put_script(w, &two, 0, two.count, &state);
}

static void everything_comes_through(void **state)
{
	struct way w;
	struct ft_journal j;
	fill_way(&w);
	assert_int_equal(scribble(&w), 0);
	assert_true(w.ring.page->tail == w.ring.page->head);
	expect_scripts(&w, (const struct script *[]){&one, &two}, 2, &j);
	assert_int_equal(j.in_ring, 0);
	assert_true(j.chunks >= 2 && j.stored_bytes < j.control_bytes + j.payload_bytes);
	ft_journal_close(&j);
	close_way(&w);
}

/* What the scribe did not come to is read from the ring, also a checkpoint whose segment has nothing in it. */
static void the_ring_has_the_rest(void **state)
{
	struct way w;
	struct ft_journal j;
	struct ft_record_state s = {0};
	open_way(&w);
	make_script(&one, RECORDS, 11, 1);
	give_segment(&w, 1);
	put_script(&w, &one, 0, 1000, &s);
	assert_int_equal(scribble(&w), 0);
	put_script(&w, &one, 1000, one.count, &s);
	expect_scripts(&w, (const struct script *[]){&one}, 1, &j);
	assert_true(j.in_ring > 0);
	ft_journal_close(&j);
	/* A record that is not there whole cannot be in a ring. */
	w.ring.page->head -= 2;
	struct ft_error err = {0};
	assert_int_equal(ft_journal_open(&j, &w.files, &err), 0);
	while (ft_journal_peek(&j, 0, &err))
		ft_journal_take(&j);
	assert_int_equal(err.code, -EBADMSG);
	ft_journal_close(&j);
	w.ring.page->head = 1ull << 50;
	err.code = 0;
	assert_int_equal(ft_journal_open(&j, &w.files, &err), 0);
	while (ft_journal_peek(&j, 0, &err))
		ft_journal_take(&j);
	assert_int_equal(err.code, -EBADMSG);
	ft_journal_close(&j);
	close_way(&w);
}

/* Read while the machine runs: behind the rest of a segment there may be the next checkpoint, whose segment has nothing yet. */
static void the_ring_has_the_next_checkpoint(void **state)
{
	struct way w;
	struct ft_journal j;
	struct ft_record_state s = {0}, next = {0};
	open_way(&w);
	make_script(&one, RECORDS, 11, 1);
	make_script(&two, RECORDS / 2, 22, 2);
	give_segment(&w, 1);
	put_script(&w, &one, 0, 1000, &s);
	assert_int_equal(scribble(&w), 0);
	put_script(&w, &one, 1000, one.count, &s);
	put_script(&w, &two, 0, two.count, &next);
	expect_scripts(&w, (const struct script *[]){&one, &two}, 2, &j);
	assert_true(j.in_ring > 0);
	ft_journal_close(&j);
	close_way(&w);
}

static void the_second_too(void *context, struct ft_journal_files *files)
{
	files->segments[files->count++] = *(int *)context;
}

/* A segment that was begun after the list was made has what had left the ring when that was looked at. */
static void a_segment_that_was_begun_since_is_read(void **state)
{
	struct way w;
	struct ft_journal j;
	struct ft_error err = {0};
	fill_way(&w);
	assert_int_equal(scribble(&w), 0);
	int second = w.files.segments[1];
	w.files.count = 1;
	assert_int_equal(ft_journal_open(&j, &w.files, &err), 0);
	while (ft_journal_peek(&j, 0, &err))
		ft_journal_take(&j);
	assert_int_equal(err.code, -EBADMSG);
	ft_journal_close(&j);
	w.files.more = the_second_too;
	w.files.context = &second;
	expect_scripts(&w, (const struct script *[]){&one, &two}, 2, &j);
	ft_journal_close(&j);
	close_way(&w);
}

/* Chunks that could not be written come when there is room again; a part of one is never in the way. */
static void a_full_disk_loses_nothing(void **state)
{
	struct way w;
	struct ft_journal j;
	struct ft_segment_writer writer;
	struct ft_segment_chunk chunk;
	struct ft_error err = {0};
	uint8_t bytes[4] = {1, 2, 3, 4};
	struct ft_segment_header header = {.run = 3, .number = 1, .memory = 64 << 20};
	int fd = memory_file();
	assert_int_equal(ft_segment_writer_open(&writer, &err), 0);
	assert_int_equal(ft_segment_begin(&writer, dup(fd), &header, NULL, &err), 0);
	off_t before = lseek(fd, 0, SEEK_END);
	failing = 2;
	assert_int_equal(ft_segment_put(&writer, bytes, 4, bytes, 4, 1, 1, &chunk, &err), -ENOSPC);
	failing = 0;
	assert_int_equal(lseek(fd, 0, SEEK_END), before);
	assert_int_equal(ft_segment_put(&writer, bytes, 4, bytes, 4, 1, 1, &chunk, &err), 0);
	ft_segment_writer_close(&writer);
	close(fd);
	/* The scribe keeps in the ring what it could not write, whose length is known: the next one goes on with it. */
	fill_way(&w);
	uint64_t head = w.ring.page->head;
	full = 1;
	assert_int_equal(scribble(&w), 0);
	full = 0;
	assert_true(w.ring.page->tail == 0 && w.ring.page->head == head);
	close_way(&w);
	fill_way(&w);
	assert_int_equal(scribble(&w), 0);
	expect_scripts(&w, (const struct script *[]){&one, &two}, 2, &j);
	ft_journal_close(&j);
	close_way(&w);
}

/* A checkpoint that there was no room for in the ring: its segment is nobody's, and the next one's is its own. */
static void an_order_without_a_checkpoint_is_passed_over(void **state)
{
	struct way w;
	struct ft_journal j;
	struct ft_record_state s = {0};
	open_way(&w);
	make_script(&one, 60, 11, 1);
	make_script(&two, 40, 5000000, 3);
	give_segment(&w, 1);
	put_script(&w, &one, 0, one.count, &s);
	give_segment(&w, 2);
	give_segment(&w, 3);
	s = (struct ft_record_state){0};
	put_script(&w, &two, 0, two.count, &s);
	assert_int_equal(scribble(&w), 0);
	assert_int_equal(lseek(w.files.segments[1], 0, SEEK_END), 0);
	close(w.files.segments[1]);
	w.files.segments[1] = w.files.segments[2];
	w.files.count = 2;
	expect_scripts(&w, (const struct script *[]){&one, &two}, 2, &j);
	ft_journal_close(&j);
	close_way(&w);
}

/* What somebody waits for is written at once, though it is little, and whoever waits is woken. */
static void what_is_wanted_is_written_at_once(void **state)
{
	struct way w;
	struct ft_record_state s = {0};
	struct ft_error err = {0};
	uint64_t value;
	open_way(&w);
	make_script(&one, 20, 11, 1);
	give_segment(&w, 1);
	put_script(&w, &one, 0, 10, &s);
	int done = eventfd(0, EFD_CLOEXEC);
	struct ft_scribe scribe = {.ring = &w.ring, .header = {.run = 3, .memory = 64 << 20, .guest = "web"}, .wake = w.wake, .done = done,
				   .orders = w.orders[1], .channel = -1};
	pid_t child = fork();
	if (child == 0) {
		close(w.orders[0]);
		_exit(ft_scribe_run(&scribe, &err) ? 1 : 0);
	}
	for (unsigned i = 10; i < 20; i++) {
		put_script(&w, &one, i, i + 1, &s);
		uint64_t wanted = w.ring.page->head, one_more = 1;
		__atomic_store_n(&w.ring.page->wanted, wanted, __ATOMIC_RELEASE);
		assert_int_equal(write(w.wake, &one_more, sizeof(one_more)), sizeof(one_more));
		while (__atomic_load_n(&w.ring.page->tail, __ATOMIC_ACQUIRE) < wanted)
			assert_int_equal(read(done, &value, sizeof(value)), sizeof(value)); /* for ever, where nobody wakes it */
	}
	close(w.orders[0]);
	close(w.orders[1]);
	assert_int_equal(waitpid(child, NULL, 0), child);
	struct ft_journal j;
	expect_scripts(&w, (const struct script *[]){&one}, 1, &j);
	assert_true(j.chunks >= 10);
	ft_journal_close(&j);
	close(done);
	close_way(&w);
}

static int read_all(struct way *w, struct ft_error *err, uint64_t *torn)
{
	struct ft_journal j;
	err->code = 0;
	int error = ft_journal_open(&j, &w->files, err);
	if (error)
		return error;
	while (ft_journal_peek(&j, 0, err))
		ft_journal_take(&j);
	*torn = j.torn;
	ft_journal_close(&j);
	return err->code;
}

/* A bit of any byte of the headers and of many others, and a cut at many a length: refused, by name. */
static void changed_journals_are_refused(void **state)
{
	struct way w;
	struct ft_error err;
	struct stat st;
	uint64_t torn;
	struct ft_record_state s = {0};
	open_way(&w);
	make_script(&one, 60, 11, 1);
	make_script(&two, 40, 5000000, 2);
	give_segment(&w, 1);
	put_script(&w, &one, 0, one.count, &s);
	s = (struct ft_record_state){0};
	give_segment(&w, 2);
	put_script(&w, &two, 0, two.count, &s);
	assert_int_equal(scribble(&w), 0);
	assert_int_equal(read_all(&w, &err, &torn), 0);
	for (unsigned k = 0; k < 2; k++) {
		int fd = w.files.segments[k];
		assert_int_equal(fstat(fd, &st), 0);
		for (off_t at = 0; at < st.st_size; at += at < 400 ? 1 : 97) {
			uint8_t byte, other;
			assert_int_equal(pread(fd, &byte, 1, at), 1);
			other = byte ^ (uint8_t)(1 << at % 8);
			assert_int_equal(pwrite(fd, &other, 1, at), 1);
			int error = read_all(&w, &err, &torn);
			/* Its own words about encryption: no key for what was none, another key than the one it names now. */
			bool about_key = at >= 152 && at < 208 && error == (way_key ? -EKEYREJECTED : -EACCES);
			if (error != -EBADMSG && error != -ENOTSUP && !about_key)
				fail_msg("segment %u, byte %lld: %d, %s", k + 1, (long long)at, error, err.text);
			assert_int_equal(pwrite(fd, &byte, 1, at), 1);
		}
		/* Cut: the ring knows that there was more, or the next segment does. */
		uint8_t *all = malloc((size_t)st.st_size);
		assert_int_equal(pread(fd, all, (size_t)st.st_size, 0), st.st_size);
		for (off_t length = st.st_size - 1; length >= 0; length -= 1 + length / 20) {
			assert_int_equal(ftruncate(fd, length), 0);
			assert_int_equal(read_all(&w, &err, &torn), -EBADMSG);
		}
		assert_int_equal(pwrite(fd, all, (size_t)st.st_size, 0), st.st_size);
		free(all);
	}
	assert_int_equal(read_all(&w, &err, &torn), 0);
	/* Without a ring, a tail that was being written is told, and what is before it is good. */
	int ring = w.files.ring;
	w.files.ring = -1;
	assert_int_equal(fstat(w.files.segments[1], &st), 0);
	assert_int_equal(ftruncate(w.files.segments[1], st.st_size - 1), 0);
	assert_int_equal(read_all(&w, &err, &torn), 0);
	assert_true(torn > 0);
	/* Segments in another order, or one twice. */
	w.files.segments[1] = w.files.segments[0];
	assert_int_equal(read_all(&w, &err, &torn), -EBADMSG);
	w.files.count = 1;
	w.files.ring = ring;
	close_way(&w);
}

/* A segment that is good, but of another history, is not what the next one goes on from. */
static void another_segment_is_refused(void **state)
{
	struct way w, other;
	struct ft_error err;
	uint64_t torn;
	fill_way(&w);
	assert_int_equal(scribble(&w), 0);
	fill_way(&other);
	make_script(&one, RECORDS, 12, 1);
	struct ft_record_state s = {0};
	other.ring.page->head = other.ring.head = 0;
	put_script(&other, &one, 0, one.count, &s);
	s = (struct ft_record_state){0};
	put_script(&other, &two, 0, two.count, &s);
	assert_int_equal(scribble(&other), 0);
	assert_int_equal(read_all(&other, &err, &torn), 0);
	int kept = w.files.segments[0];
	w.files.segments[0] = other.files.segments[0];
	assert_int_equal(read_all(&w, &err, &torn), -EBADMSG);
	assert_non_null(strstr(err.text, "segment 1 ends before what segment 2 goes on from"));
	w.files.segments[0] = kept;
	assert_int_equal(read_all(&w, &err, &torn), 0);
	close_way(&w);
	close_way(&other);
}

/* A ring whose vmm lies ends its journal, and nothing else. */
static void a_lying_ring_ends_its_journal(void **state)
{
	static const uint8_t nonsense[] = {15, 15, 15};
	struct way w;
	open_way(&w);
	give_segment(&w, 1);
	assert_true(ft_journal_ring_put(&w.ring, nonsense, sizeof(nonsense), NULL, 0));
	assert_int_equal(scribble(&w), 1);
	close_way(&w);
	open_way(&w);
	w.ring.page->head = 1ull << 60;
	assert_int_equal(scribble(&w), 1);
	close_way(&w);
	/* A checkpoint without a file for it. */
	struct ft_record_state s = {0};
	open_way(&w);
	make_script(&one, 10, 1, 1);
	put_script(&w, &one, 0, one.count, &s);
	assert_int_equal(scribble(&w), 1);
	close_way(&w);
}

/* ---- Encryption ------------------------------------------------------------------------------------------------------ */

static const uint8_t operators[32] = {1, 2, 3}, anothers[32] = {1, 2, 4};

static void encrypted_it_is_the_same(void **state)
{
	way_key = operators;
	everything_comes_through(state);
	the_ring_has_the_rest(state);
	a_full_disk_loses_nothing(state);
	changed_journals_are_refused(state);
	what_is_wanted_is_written_at_once(state);
	way_key = NULL;
}

static bool in_ring(const struct way *w, const struct script *s)
{
	for (unsigned i = 0; i < s->count; i++)
		if (s->records[i].kind == FT_INPUT_FRAME && s->records[i].length >= 64)
			return memmem(w->ring.bytes, FT_JOURNAL_RING_SIZE, s->records[i].data, 64) != NULL;
	return false;
}

/* zstd's magic number is where the first chunk's bytes begin (RFC 8878 section 3.1.1). */
static bool is_packed_in_the_clear(const struct way *w)
{
	uint8_t bytes[4];
	assert_int_equal(pread(w->files.segments[0], bytes, 4, sizeof(struct ft_segment_header) + sizeof(struct ft_segment_chunk)), 4);
	return !memcmp(bytes, "\x28\xb5\x2f\xfd", 4);
}

static void nothing_is_in_the_clear(void **state)
{
	struct way w;
	for (int encrypted = 0; encrypted < 2; encrypted++) {
		way_key = encrypted ? operators : NULL;
		fill_way(&w);
		assert_int_equal(in_ring(&w, &one), !encrypted);
		assert_int_equal(scribble(&w), 0);
		assert_int_equal(is_packed_in_the_clear(&w), !encrypted);
		close_way(&w);
	}
	way_key = NULL;
}

static void keys_are_told_apart(void **state)
{
	struct way w;
	struct ft_error err;
	uint64_t torn;
	way_key = operators;
	fill_way(&w);
	assert_int_equal(scribble(&w), 0);
	assert_int_equal(read_all(&w, &err, &torn), 0);
	w.files.key = NULL;
	assert_int_equal(read_all(&w, &err, &torn), -EACCES);
	assert_non_null(strstr(err.text, "no key was given"));
	w.files.key = anothers;
	assert_int_equal(read_all(&w, &err, &torn), -EKEYREJECTED);
	assert_non_null(strstr(err.text, "another key"));
	/* Segments say so by themselves. */
	int without = w.files.ring;
	w.files.ring = -1;
	assert_int_equal(read_all(&w, &err, &torn), -EKEYREJECTED);
	w.files.ring = without;
	w.files.key = operators;
	/* The ring by itself. */
	struct ft_snapshot_seal seal;
	struct ft_journal_ring ring;
	uint8_t byte;
	ft_snapshot_seal(&seal, anothers);
	assert_int_equal(ft_journal_ring_open(&ring, w.files.ring, false, &err), 0);
	assert_int_equal(ft_journal_ring_peek(&ring, 0, &byte, 1), -EACCES);
	assert_int_equal(ft_journal_ring_unseal(&ring, &seal, &err), -EKEYREJECTED);
	ft_journal_ring_close(&ring);
	/* Who changes a chunk and works its hash out anew lacks the key all the same. */
	struct ft_segment_header header;
	struct ft_segment_chunk chunk;
	int fd = w.files.segments[0];
	assert_int_equal(pread(fd, &header, sizeof(header), 0), sizeof(header));
	assert_int_equal(pread(fd, &chunk, sizeof(chunk), sizeof(header)), sizeof(chunk));
	size_t length = (size_t)chunk.control_stored + chunk.payload_stored + 16;
	uint8_t *stored = malloc(length), before[32];
	assert_int_equal(pread(fd, stored, length, sizeof(header) + sizeof(chunk)), length);
	stored[length / 2] ^= 1;
	crypto_generichash_state hash;
	crypto_generichash(before, 32, (const uint8_t *)&header, sizeof(header), NULL, 0);
	crypto_generichash_init(&hash, NULL, 0, 32);
	crypto_generichash_update(&hash, before, 32);
	crypto_generichash_update(&hash, (const uint8_t *)&chunk, 48);
	crypto_generichash_update(&hash, stored, length);
	crypto_generichash_final(&hash, chunk.hash, 32);
	assert_int_equal(pwrite(fd, &chunk, sizeof(chunk), sizeof(header)), sizeof(chunk));
	assert_int_equal(pwrite(fd, stored, length, sizeof(header) + sizeof(chunk)), length);
	assert_int_equal(read_all(&w, &err, &torn), -EBADMSG);
	assert_non_null(strstr(err.text, "chunk 0 of segment 1 was changed"));
	free(stored);
	close_way(&w);
	way_key = NULL;
}

static void a_full_ring_takes_nothing_by_half(void **state)
{
	static uint8_t bytes[60000];
	struct way w;
	open_way(&w);
	unsigned count = 0;
	while (ft_journal_ring_put(&w.ring, bytes, 100, bytes, sizeof(bytes) - 100))
		count++;
	assert_int_equal(count, FT_JOURNAL_RING_SIZE / sizeof(bytes));
	assert_true(w.ring.page->head == count * sizeof(bytes));
	ft_journal_ring_release(&w.ring, sizeof(bytes));
	bytes[59999] = 42;
	assert_true(ft_journal_ring_put(&w.ring, bytes, 100, bytes + 100, sizeof(bytes) - 100));
	uint8_t back[60000];
	assert_int_equal(ft_journal_ring_peek(&w.ring, count * sizeof(bytes), back, sizeof(back)), (long)sizeof(back));
	assert_memory_equal(back, bytes, sizeof(back));
	close(w.orders[0]);
	close(w.orders[1]);
	close_way(&w);
}

int main(void)
{
	if (sodium_init() < 0)
		return 1;
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(records_come_back),
	    cmocka_unit_test(records_are_small),
	    cmocka_unit_test(impossible_records_are_refused),
	    cmocka_unit_test(checks_name_what_differs),
	    cmocka_unit_test(everything_comes_through),
	    cmocka_unit_test(the_ring_has_the_rest),
	    cmocka_unit_test(the_ring_has_the_next_checkpoint), cmocka_unit_test(a_segment_that_was_begun_since_is_read),
	    cmocka_unit_test(a_full_disk_loses_nothing),
	    cmocka_unit_test(an_order_without_a_checkpoint_is_passed_over),
	    cmocka_unit_test(what_is_wanted_is_written_at_once),
	    cmocka_unit_test(changed_journals_are_refused),
	    cmocka_unit_test(another_segment_is_refused),
	    cmocka_unit_test(a_lying_ring_ends_its_journal),
	    cmocka_unit_test(a_full_ring_takes_nothing_by_half),
	    cmocka_unit_test(encrypted_it_is_the_same),
	    cmocka_unit_test(nothing_is_in_the_clear),
	    cmocka_unit_test(keys_are_told_apart),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
