/* Segments that come before their time: kept in order and each byte once, given to nobody before what is missing has come, told
 * to the client, and bounded. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "dataplane/early.h"
#include "dataplane/order.h"
#include "dataplane/reload.h"
#include "scene.h"

static struct scene s;

#define RULES "\"risks\": \"none\", \"mode\": \"enforce\""
#define ALL   RULES ", \"screen\": \"all\", \"trials_per_flow\": 500"

static int open_with(const char *service)
{
	scene_open(&s, service);
	s.timestamps = s.sack = true;
	return 0;
}

static int open_rules(void **state)
{
	return open_with(RULES);
}

static int open_all(void **state)
{
	return open_with(ALL);
}

static int close_scene(void **state)
{
	/* Whatever was done: the guest was never given anything that it cannot take. */
	assert_false(s.live.early);
	assert_false(s.live.stale);
	assert_false(s.violated);
	scene_close(&s);
	return 0;
}

static uint64_t early_bytes(void)
{
	json_t *status = ft_gate_status(s.gate, false);
	uint64_t bytes = (uint64_t)json_integer_value(json_object_get(status, "held_bytes"));
	json_decref(status);
	return bytes;
}

static void order(const char *message)
{
	struct ft_refusal refusal;
	json_t *json = json_loads(message, 0, NULL), *result = ft_order(s.gate, json, &refusal);
	assert_non_null(result);
	json_decref(json);
	json_decref(result);
}

/* What the last frame to the client says: SACK blocks, numbers relative to the client's ISN. */
struct told {
	unsigned count;
	uint32_t blocks[4][2];
	uint32_t tsval, tsecr;
};

static const struct ft_frame *last_told(struct told *told)
{
	assert_true(s.client_count > 0);
	const struct ft_frame *frame = &s.to_client[s.client_count - 1].frame;
	memset(told, 0, sizeof(*told));
	for (uint32_t at = frame->l4 + 20u; at < frame->payload;) {
		const uint8_t *option = frame->data + at;
		if (option[0] == 1) {
			at++;
			continue;
		}
		if (option[0] == 5) {
			told->count = (option[1] - 2u) / 8;
			assert_true(told->count <= 4);
			for (unsigned i = 0; i < told->count; i++)
				for (unsigned k = 0; k < 2; k++)
					told->blocks[i][k] = ft_load32(option + 2 + 8 * i + 4 * k) - CLIENT_ISN;
		}
		if (option[0] == 8) {
			told->tsval = ft_load32(option + 2);
			told->tsecr = ft_load32(option + 6);
		}
		at += option[1];
	}
	return frame;
}

static void is_told(unsigned count, ...)
{
	struct told told;
	last_told(&told);
	assert_int_equal(told.count, count);
	va_list args;
	va_start(args, count);
	for (unsigned i = 0; i < count; i++)
		for (unsigned k = 0; k < 2; k++)
			assert_int_equal(told.blocks[i][k], va_arg(args, unsigned));
	va_end(args);
}

/* The guest acknowledges all that it has. */
static void guest_acks(void)
{
	scene_guest(&s, 1, s.live.next - CLIENT_ISN, FT_TCP_ACK, "", 0);
}

/* ---- order ---- */

static void what_comes_early_waits_for_what_is_missing(void **state)
{
	scene_connect(&s);
	scene_text(&s, 6, "world");
	assert_int_equal(scene_count(&s, FT_REASON_HOLD_EARLY), 1);
	assert_int_equal(s.guest_count, 0);
	scene_text(&s, 1, "hello");
	assert_int_equal(s.guest_count, 2);
	assert_string_equal(scene_taken(&s), "helloworld");
	assert_int_equal(early_bytes(), 0);
}

static void any_order_of_segments_comes_out_as_one(void **state)
{
	static const char text[] = "abcdefghijklmnopqrstuvwxyz";
	scene_connect(&s);
	uint32_t base = 1;
	unsigned seed = 5;
	for (unsigned round = 0; round < 200; round++) {
		unsigned list[13];
		for (unsigned i = 0; i < 13; i++) {
			unsigned k = (unsigned)rand_r(&seed) % (i + 1);
			list[i] = list[k];
			list[k] = i;
		}
		for (unsigned i = 0; i < 13; i++)
			scene_client(&s, base + 2 * list[i], 1, FT_TCP_ACK, text + 2 * list[i], 2);
		base += 26;
		assert_int_equal(s.live.length, 26 * (round + 1));
		assert_memory_equal(s.live.bytes + s.live.length - 26, text, 26);
		guest_acks();
		scene_forget(&s);
	}
	assert_int_equal(early_bytes(), 0);
}

static void numbers_wrap(void **state)
{
	/* The connection's numbers pass 2^32 in the middle of what comes early. */
	uint32_t isn = 0xfffffff8u - CLIENT_ISN;
	scene_client(&s, isn, 0, FT_TCP_SYN, "", 0);
	scene_guest(&s, 0, isn + 1, FT_TCP_SYN | FT_TCP_ACK, "", 0);
	scene_client(&s, isn + 1, 1, FT_TCP_ACK, "", 0);
	scene_forget(&s);
	scene_text(&s, isn + 13, "mno");
	is_told(1, isn + 13, isn + 16);
	scene_text(&s, isn + 5, "efgh");
	is_told(2, isn + 5, isn + 9, isn + 13, isn + 16);
	scene_text(&s, isn + 9, "ijkl");
	is_told(1, isn + 5, isn + 16);
	scene_text(&s, isn + 1, "abcd");
	assert_string_equal(scene_taken(&s), "abcdefghijklmno");
}

static void patterns_see_the_bytes_in_order(void **state)
{
	scene_connect(&s);
	scene_text(&s, 3, "IL");
	scene_text(&s, 1, "EV");
	/* "EV" alone was innocent and has passed. */
	scene_pass(&s, 3 * MS);
	assert_int_equal(scene_count(&s, FT_REASON_HOLD_RULE), 1);
	assert_int_equal(s.requests, 1);
	scene_answer(&s, true);
	assert_string_equal(scene_taken(&s), "EV");
}

/* ---- one version of each byte ---- */

static void the_first_version_of_a_byte_stays(void **state)
{
	scene_connect(&s);
	scene_text(&s, 5, "efgh");
	scene_text(&s, 3, "XdeXXhijk"); /* 3..11: its own are 3, 4 and 9.. */
	assert_int_equal(scene_count(&s, FT_REASON_HOLD_EARLY), 2);
	scene_text(&s, 7, "ZZ");
	assert_int_equal(scene_count(&s, FT_REASON_DROP_EARLY_OVERLAP), 1);
	scene_text(&s, 1, "ab");
	/* Other bytes came under numbers of "efgh": it is held for that, as it would have been without the gap. */
	assert_string_equal(scene_taken(&s), "abXd");
	assert_int_equal(scene_count(&s, FT_REASON_HOLD_OVERLAP), 1);
	scene_pass(&s, 60 * MS);
	assert_int_equal(s.requests, 1);
	scene_answer(&s, false);
	assert_string_equal(scene_taken(&s), "abXdefghijk");
}

static void what_fills_a_gap_is_cut_where_something_is(void **state)
{
	scene_connect(&s);
	scene_text(&s, 4, "de");
	scene_text(&s, 8, "hi");
	scene_forget(&s);
	scene_text(&s, 1, "abcdefghijkl"); /* over all of it and beyond */
	assert_string_equal(scene_taken(&s), "abcdefghijkl");
	uint32_t at = 1;
	for (unsigned i = 0; i < s.guest_count; i++) {
		assert_int_equal(s.to_guest[i].frame.sequence, CLIENT_ISN + at);
		at += s.to_guest[i].frame.payload_length;
	}
	assert_int_equal(at, 13);
	assert_int_equal(early_bytes(), 0);
}

static void other_bytes_of_a_filler_are_held(void **state)
{
	scene_connect(&s);
	scene_text(&s, 4, "def");
	scene_text(&s, 1, "abcXYZ");
	assert_string_equal(scene_taken(&s), "abc");
	scene_pass(&s, 3 * MS);
	scene_answer(&s, false);
	assert_string_equal(scene_taken(&s), "abcdef");
	assert_int_equal(scene_count(&s, FT_REASON_HOLD_OVERLAP), 1);
}

static void a_retransmission_is_no_second_copy(void **state)
{
	scene_connect(&s);
	scene_text(&s, 6, "world");
	uint64_t bytes = early_bytes();
	for (unsigned i = 0; i < 20; i++)
		scene_text(&s, 6, "world");
	assert_int_equal(early_bytes(), bytes);
	assert_int_equal(scene_count(&s, FT_REASON_DROP_EARLY_DUPLICATE), 20);
	/* Each is answered: the first answer may have been lost. */
	assert_int_equal(scene_count(&s, FT_REASON_PASS_SACK), 21);
	scene_text(&s, 1, "hello");
	assert_string_equal(scene_taken(&s), "helloworld");
}

/* ---- ends ---- */

static void a_fin_waits_like_a_byte(void **state)
{
	scene_connect(&s);
	scene_client(&s, 6, 1, FT_TCP_ACK | FT_TCP_FIN, "world", 5);
	is_told(1, 6, 12);
	scene_client(&s, 11, 1, FT_TCP_ACK | FT_TCP_FIN, "", 0);
	assert_int_equal(scene_count(&s, FT_REASON_DROP_EARLY_DUPLICATE), 1);
	/* Nothing is behind a FIN. */
	scene_text(&s, 12, "more");
	assert_int_equal(scene_count(&s, FT_REASON_DROP_OUT_OF_WINDOW), 1);
	assert_false(s.live.fin);
	scene_text(&s, 1, "hello");
	assert_string_equal(scene_taken(&s), "helloworld");
	assert_true(s.live.fin);
}

static void a_fin_before_bytes_that_are_there_is_none(void **state)
{
	scene_connect(&s);
	scene_text(&s, 8, "hij");
	scene_client(&s, 3, 1, FT_TCP_ACK | FT_TCP_FIN, "cd", 2);
	scene_text(&s, 5, "efg");
	scene_text(&s, 1, "ab");
	assert_string_equal(scene_taken(&s), "abcdefghij");
	assert_false(s.live.fin);
}

static void a_lone_fin_comes_early(void **state)
{
	scene_connect(&s);
	scene_client(&s, 6, 1, FT_TCP_ACK | FT_TCP_FIN, "", 0);
	is_told(1, 6, 7);
	scene_text(&s, 1, "hello");
	scene_pass(&s, 3 * MS);
	if (s.requests) /* a goodbye that may be one of an attack is tried */
		scene_answer(&s, false);
	assert_true(s.live.fin);
}

static void a_reset_ends_what_waits(void **state)
{
	scene_connect(&s);
	scene_text(&s, 6, "world");
	scene_client(&s, 11, 1, FT_TCP_RST, "", 0); /* at no number that ends anything */
	assert_true(early_bytes() > 0);
	scene_client(&s, 1, 1, FT_TCP_RST, "", 0);
	assert_int_equal(early_bytes(), 0);
	assert_int_equal(scene_count(&s, FT_REASON_DROP_EARLY_END), 1);
}

static void a_reset_of_the_guest_ends_what_waits(void **state)
{
	scene_connect(&s);
	scene_text(&s, 6, "world");
	scene_guest(&s, 1, 1, FT_TCP_RST | FT_TCP_ACK, "", 0);
	assert_int_equal(early_bytes(), 0);
	assert_int_equal(scene_count(&s, FT_REASON_DROP_EARLY_END), 1);
}

static void a_new_connection_has_nothing_of_the_old(void **state)
{
	scene_connect(&s);
	scene_text(&s, 6, "world");
	/* The guest has forgotten, the client begins again with other numbers. */
	scene_client(&s, 5000, 0, FT_TCP_SYN, "", 0);
	scene_guest(&s, 0, 5001, FT_TCP_SYN | FT_TCP_ACK, "", 0);
	assert_int_equal(early_bytes(), 0);
	assert_int_equal(scene_count(&s, FT_REASON_DROP_EARLY_END), 1);
	scene_text(&s, 5001, "again");
	assert_string_equal(scene_taken(&s), "again");
}

static void a_guest_that_goes_takes_it_along(void **state)
{
	scene_connect(&s);
	scene_text(&s, 6, "world");
	ft_gate_guest_down(s.gate, "web", "it died");
	assert_int_equal(early_bytes(), 0);
	assert_int_equal(scene_count(&s, FT_REASON_DROP_FLOW_DEAD), 1);
}

static void the_end_of_the_gate_is_counted(void **state)
{
	scene_connect(&s);
	scene_text(&s, 6, "world");
	ft_gate_stop(s.gate);
	assert_int_equal(early_bytes(), 0);
	assert_int_equal(scene_count(&s, FT_REASON_DROP_EARLY_END), 1);
}

static void bypass_gives_the_guest_what_is_there(void **state)
{
	scene_connect(&s);
	scene_text(&s, 6, "world");
	order("{\"what\": \"bypass\", \"on\": true}");
	scene_pass(&s, 0);
	assert_int_equal(early_bytes(), 0);
	assert_int_equal(s.guest_count, 1);
	assert_int_equal(s.to_guest[0].frame.sequence, CLIENT_ISN + 6);
	assert_int_equal(scene_count(&s, FT_REASON_PASS_BYPASS), 1);
	assert_true(s.live.early); /* what it does with that is its own affair now */
	s.live.early = false;
}

static void another_mode_lets_the_gap_close(void **state)
{
	scene_connect(&s);
	scene_text(&s, 6, "world");
	order("{\"what\": \"mode\", \"service\": \"web\", \"mode\": \"observe\"}");
	scene_text(&s, 1, "hello");
	assert_string_equal(scene_taken(&s), "helloworld");
	assert_int_equal(early_bytes(), 0);
}

static void reload(const char *service)
{
	struct ft_rulebook *book = NULL;
	struct ft_error err = {0};
	json_t *config = scene_config(service, "", "");
	assert_int_equal(ft_rulebook_new(config, &book, &err), 0);
	assert_int_equal(ft_gate_reload(s.gate, book, &err), 0);
	json_decref(config);
}

static void a_reload_loses_nothing(void **state)
{
	scene_connect(&s);
	scene_text(&s, 6, "world");
	reload(ALL);
	scene_text(&s, 1, "hello");
	scene_pass(&s, 3 * MS);
	assert_int_equal(s.requests, 1);
	assert_int_equal(s.request.flow.bytes, 10);
	scene_answer(&s, false);
	assert_string_equal(scene_taken(&s), "helloworld");
}

/* ---- holds ---- */

static void what_comes_early_joins_the_hold_in_its_turn(void **state)
{
	scene_connect(&s);
	s.strict = true;
	scene_text(&s, 1, "one ");
	scene_text(&s, 9, "three");
	scene_pass(&s, 3 * MS); /* the hold waits for the gap, which would cost another trial */
	assert_int_equal(s.requests, 0);
	scene_text(&s, 5, "two ");
	scene_pass(&s, 3 * MS);
	assert_int_equal(s.requests, 1);
	assert_int_equal(s.request.frames, 3);
	assert_int_equal(s.request.flow.bytes, 13);
	scene_answer(&s, false);
	assert_string_equal(scene_taken(&s), "one two three");
	assert_int_equal(s.requests, 1);
}

static void a_hold_does_not_wait_for_ever_for_a_gap(void **state)
{
	scene_connect(&s);
	s.strict = true;
	scene_text(&s, 1, "one ");
	scene_text(&s, 9, "three");
	scene_pass(&s, 60 * MS);
	assert_int_equal(s.requests, 1);
	assert_int_equal(s.request.flow.bytes, 4);
	scene_text(&s, 5, "two "); /* during the trial: the next hold */
	scene_answer(&s, false);
	assert_string_equal(scene_taken(&s), "one ");
	guest_acks();
	scene_pass(&s, 3 * MS);
	assert_int_equal(s.requests, 2);
	assert_int_equal(s.request.flow.bytes, 9);
	scene_answer(&s, false);
	assert_string_equal(scene_taken(&s), "one two three");
}

static void a_dropped_flow_has_nothing_waiting(void **state)
{
	scene_connect(&s);
	s.strict = true;
	scene_text(&s, 1, "one ");
	scene_text(&s, 9, "three");
	scene_pass(&s, 60 * MS);
	scene_answer(&s, true);
	assert_int_equal(early_bytes(), 0);
	assert_int_equal(scene_count(&s, FT_REASON_DROP_FLOW_DEAD), 1);
	assert_string_equal(scene_taken(&s), "");
}

/* The gap's filler is younger than what waits: a guest that saw the filler would discard the older (PAWS), and of what the
 * client has acknowledged meanwhile it need not be told less. */
static void what_waited_is_brought_up_to_date(void **state)
{
	scene_connect(&s);
	guest_acks();
	scene_guest(&s, 1, 1, FT_TCP_ACK, "greeting", 8);
	scene_text(&s, 6, "world");
	scene_client(&s, 11, 9, FT_TCP_ACK, "", 0); /* takes the greeting */
	assert_int_equal(scene_count(&s, FT_REASON_PASS_ACK), 1);
	scene_forget(&s);
	scene_client(&s, 1, 9, FT_TCP_ACK, "hello", 5);
	assert_string_equal(scene_taken(&s), "helloworld");
	assert_int_equal(s.guest_count, 2);
	const struct ft_frame *late = &s.to_guest[1].frame;
	assert_int_equal(late->acknowledgement, GUEST_ISN + 9);
	assert_int_equal(ft_load32(late->data + late->timestamp), s.tsval);
}

static void acknowledgements_pass_a_gap(void **state)
{
	scene_connect(&s);
	scene_guest(&s, 1, 1, FT_TCP_ACK, "greeting", 8);
	scene_forget(&s);
	scene_client(&s, 6, 9, FT_TCP_ACK, "world", 5);
	assert_int_equal(s.guest_count, 1);
	assert_int_equal(s.to_guest[0].frame.payload_length, 0);
	assert_int_equal(s.to_guest[0].frame.sequence, CLIENT_ISN + 1);
	assert_int_equal(s.to_guest[0].frame.acknowledgement, GUEST_ISN + 9);
	/* A stranger does not know what the guest has sent. */
	scene_client(&s, 8, 90000, FT_TCP_ACK, "xyz", 3);
	scene_client(&s, 8, 0, 0, "xyz", 3);
	assert_int_equal(scene_count(&s, FT_REASON_DROP_ACKNOWLEDGEMENT), 2);
	assert_int_equal(scene_count(&s, FT_REASON_PASS_SACK), 1);
}

/* ---- what the client is told ---- */

static void the_client_is_told_what_came(void **state)
{
	struct told told;
	scene_connect(&s);
	scene_guest(&s, 1, 1, FT_TCP_ACK, "greeting", 8);
	uint32_t tsval = s.tsval;
	scene_client(&s, 1, 9, FT_TCP_ACK, "hello", 5);
	scene_guest(&s, 9, 6, FT_TCP_ACK, "", 0);
	scene_forget(&s);
	scene_client(&s, 11, 9, FT_TCP_ACK, "again", 5);
	assert_int_equal(s.client_count, 1);
	const struct ft_frame *frame = last_told(&told);
	assert_int_equal(frame->flags, FT_TCP_ACK);
	assert_int_equal(frame->payload_length, 0);
	assert_int_equal(frame->source_port, 80);
	assert_int_equal(frame->acknowledgement, CLIENT_ISN + 6);
	assert_int_equal(frame->sequence, GUEST_ISN + 9);
	assert_int_equal(frame->window, 1000);
	assert_true(told.tsval > tsval); /* the guest's last */
	is_told(1, 11, 16);
	assert_int_equal(scene_count(&s, FT_REASON_PASS_SACK), 1);
	/* The block of the segment that came now is first, the others follow by age, three beside a timestamp. */
	scene_client(&s, 21, 9, FT_TCP_ACK, "a", 1);
	scene_client(&s, 31, 9, FT_TCP_ACK, "b", 1);
	scene_client(&s, 41, 9, FT_TCP_ACK, "c", 1);
	is_told(3, 41, 42, 31, 32, 21, 22);
	scene_client(&s, 11, 9, FT_TCP_ACK, "again", 5);
	is_told(3, 11, 16, 41, 42, 31, 32);
	scene_client(&s, 42, 9, FT_TCP_ACK, "d", 1);
	is_told(3, 41, 43, 11, 16, 31, 32);
}

static void without_sack_the_number_of_acknowledgements_tells(void **state)
{
	s.sack = s.timestamps = false;
	scene_connect(&s);
	scene_text(&s, 1, "hello");
	guest_acks();
	scene_forget(&s);
	for (unsigned i = 0; i < 3; i++)
		scene_client(&s, 11 + 5 * i, 1, FT_TCP_ACK, "again", 5);
	assert_int_equal(s.client_count, 3);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(s.to_client[i].frame.acknowledgement, CLIENT_ISN + 6);
		assert_int_equal(s.to_client[i].frame.payload, s.to_client[i].frame.l4 + 20);
	}
}

static void four_blocks_fit_without_a_timestamp(void **state)
{
	s.timestamps = false;
	scene_connect(&s);
	for (unsigned i = 1; i <= 6; i++)
		scene_client(&s, 1 + 10 * i, 1, FT_TCP_ACK, "x", 1);
	is_told(4, 61, 62, 51, 52, 41, 42, 31, 32);
}

/* What the guest was given and has not acknowledged yet would look lost, too. */
static void the_guest_may_speak_first(void **state)
{
	scene_connect(&s);
	scene_text(&s, 1, "hello");
	scene_text(&s, 11, "again");
	scene_text(&s, 16, "again");
	assert_int_equal(s.client_count, 0);
	guest_acks();
	assert_int_equal(s.client_count, 2); /* its own, and ours behind it */
	assert_int_equal(s.to_client[1].frame.acknowledgement, CLIENT_ISN + 6);
	is_told(1, 11, 21);
	/* But it may not take its time. */
	scene_text(&s, 6, "hello");
	assert_string_equal(scene_taken(&s), "hellohelloagainagain");
	scene_text(&s, 26, "again");
	scene_forget(&s);
	scene_pass(&s, FT_EARLY_SOON_NS);
	assert_int_equal(s.client_count, 1);
	assert_int_equal(s.to_client[0].frame.acknowledgement, CLIENT_ISN + 6);
	is_told(1, 26, 31);
}

static void held_bytes_are_not_acknowledged(void **state)
{
	scene_connect(&s);
	s.strict = true;
	scene_text(&s, 1, "hello");
	scene_text(&s, 11, "again");
	struct told told;
	assert_int_equal(last_told(&told)->acknowledgement, CLIENT_ISN + 1);
	is_told(1, 11, 16);
}

/* ---- limits ---- */

static void no_more_waits_than_the_window_offers(void **state)
{
	scene_connect(&s);
	guest_acks(); /* a window of 1000 << 7 */
	scene_client(&s, 1 + 128000, 1, FT_TCP_ACK, "x", 1);
	assert_int_equal(scene_count(&s, FT_REASON_DROP_OUT_OF_WINDOW), 1);
	scene_client(&s, 1 + 127998, 1, FT_TCP_ACK, "yyyyyy", 6);
	assert_int_equal(scene_count(&s, FT_REASON_HOLD_EARLY), 1);
	is_told(1, 127999, 128001);
	scene_client(&s, 128002, 1, FT_TCP_ACK, "", 0);
	assert_int_equal(scene_count(&s, FT_REASON_DROP_OUT_OF_WINDOW), 2);
}

static void segments_of_a_flow_are_limited(void **state)
{
	scene_connect(&s);
	for (unsigned i = 0; i < FT_EARLY_SEGMENTS + 10; i++) {
		scene_client(&s, 3 + 2 * i, 1, FT_TCP_ACK, "x", 1);
		scene_forget(&s);
	}
	assert_int_equal(scene_count(&s, FT_REASON_HOLD_EARLY), FT_EARLY_SEGMENTS);
	assert_int_equal(scene_count(&s, FT_REASON_DROP_OUT_OF_ORDER), 10);
	for (unsigned i = 0; i < FT_EARLY_SEGMENTS + 10; i++) {
		scene_client(&s, i ? 2 + 2 * i : 1, 1, FT_TCP_ACK, "xx", i ? 1 : 2);
		scene_forget(&s);
	}
	assert_int_equal(s.live.length, 2 + 2 * FT_EARLY_SEGMENTS);
	assert_int_equal(early_bytes() > 0, 1);
}

/* A quarter of the 64 MiB that may be held: then whoever has waited longest goes, and a hold still finds room. */
static void a_flood_of_early_segments_takes_its_part(void **state)
{
	char block[1400];
	uint64_t most = 0;
	memset(block, 'x', sizeof(block));
	for (unsigned flow = 0; flow < 200; flow++) {
		s.client_port = (uint16_t)(20000 + flow);
		scene_connect(&s);
		guest_acks();
		for (unsigned i = 0; i < 90; i++) {
			scene_client(&s, 2 + 1400 * i, 1, FT_TCP_ACK, block, sizeof(block));
			scene_forget(&s);
		}
		most = early_bytes() > most ? early_bytes() : most;
	}
	assert_in_range(most, 15u << 20, 16u << 20);
	assert_true(scene_count(&s, FT_REASON_DROP_OUT_OF_ORDER) > 5000);
	/* The first has lost what waited, the last has not. */
	scene_client(&s, 1, 1, FT_TCP_ACK, "x", 1);
	assert_int_equal(s.live.length, 1 + 90 * sizeof(block));
	scene_forget(&s);
	s.client_port = 20000;
	memset(&s.live, 0, sizeof(s.live));
	scene_client(&s, 1, 1, FT_TCP_ACK, "x", 1);
	assert_int_equal(s.guest_count, 1);
	scene_forget(&s);
	s.client_port = 19999;
	memset(&s.live, 0, sizeof(s.live));
	scene_connect(&s);
	scene_text(&s, 1, "EVIL");
	scene_pass(&s, 3 * MS);
	scene_answer(&s, false);
	assert_string_equal(scene_taken(&s), "EVIL");
}

static void a_gap_that_stays_open_is_given_up(void **state)
{
	scene_connect(&s);
	scene_text(&s, 6, "world");
	scene_pass(&s, FT_EARLY_NS - 1000 * MS);
	assert_true(early_bytes() > 0);
	scene_pass(&s, 2000 * MS);
	assert_int_equal(early_bytes(), 0);
	assert_int_equal(scene_count(&s, FT_REASON_DROP_EARLY_TIMEOUT), 1);
	scene_text(&s, 1, "hello");
	scene_text(&s, 6, "world");
	assert_string_equal(scene_taken(&s), "helloworld");
}

int main(void)
{
#define T(name, open) cmocka_unit_test_setup_teardown(name, open, close_scene)
	const struct CMUnitTest tests[] = {
	    T(what_comes_early_waits_for_what_is_missing, open_rules),
	    T(any_order_of_segments_comes_out_as_one, open_rules),
	    T(numbers_wrap, open_rules),
	    T(patterns_see_the_bytes_in_order, open_rules),
	    T(the_first_version_of_a_byte_stays, open_rules),
	    T(what_fills_a_gap_is_cut_where_something_is, open_rules),
	    T(other_bytes_of_a_filler_are_held, open_rules),
	    T(a_retransmission_is_no_second_copy, open_rules),
	    T(a_fin_waits_like_a_byte, open_rules),
	    T(a_fin_before_bytes_that_are_there_is_none, open_rules),
	    T(a_lone_fin_comes_early, open_rules),
	    T(a_reset_ends_what_waits, open_rules),
	    T(a_reset_of_the_guest_ends_what_waits, open_rules),
	    T(a_new_connection_has_nothing_of_the_old, open_rules),
	    T(a_guest_that_goes_takes_it_along, open_rules),
	    T(the_end_of_the_gate_is_counted, open_rules),
	    T(bypass_gives_the_guest_what_is_there, open_rules),
	    T(another_mode_lets_the_gap_close, open_rules),
	    T(a_reload_loses_nothing, open_rules),
	    T(what_comes_early_joins_the_hold_in_its_turn, open_all),
	    T(a_hold_does_not_wait_for_ever_for_a_gap, open_all),
	    T(a_dropped_flow_has_nothing_waiting, open_all),
	    T(what_waited_is_brought_up_to_date, open_rules),
	    T(acknowledgements_pass_a_gap, open_rules),
	    T(the_client_is_told_what_came, open_rules),
	    T(without_sack_the_number_of_acknowledgements_tells, open_rules),
	    T(four_blocks_fit_without_a_timestamp, open_rules),
	    T(the_guest_may_speak_first, open_rules),
	    T(held_bytes_are_not_acknowledged, open_all),
	    T(no_more_waits_than_the_window_offers, open_rules),
	    T(segments_of_a_flow_are_limited, open_rules),
	    T(a_flood_of_early_segments_takes_its_part, open_rules),
	    T(a_gap_that_stays_open_is_given_up, open_rules),
	};
	if (scene_start_eal())
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
