/* What becomes of a segment by its numbers and flags: bytes once more, other bytes, ends of connections, what is neither. In every
 * test the live guest takes no byte that no clone took. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <netinet/in.h>
#include <string.h>
#include <cmocka.h>

#include "dataplane/order.h"
#include "scene.h"

static struct scene s;

static int open_rules(void **state)
{
	scene_open(&s, "\"risks\": \"none\", \"mode\": \"enforce\", \"on_exception\": \"drop\"");
	return 0;
}

static int open_observe(void **state)
{
	scene_open(&s, "\"risks\": \"none\", \"mode\": \"observe\"");
	return 0;
}

static int close_scene(void **state)
{
	bool violated = s.violated;
	scene_close(&s);
	return violated ? -1 : 0;
}

static const char *disposition(void)
{
	return json_string_value(json_object_get(scene_record(&s, "hold"), "disposition"));
}

static const char *reason(void)
{
	return json_string_value(json_object_get(scene_record(&s, "hold"), "disposition_reason"));
}

static void data_in_a_syn_is_stripped(void **state)
{
	s.strict = true;
	scene_client(&s, 0, 0, FT_TCP_SYN, "EVIL", 4);
	assert_int_equal(s.guest_count, 1);
	assert_int_equal(s.to_guest[0].frame.payload_length, 0);
	assert_true(s.to_guest[0].frame.window_scale == 7);
	assert_int_equal(scene_count(&s, FT_REASON_DROP_SYN_DATA), 1);
	scene_guest(&s, 0, 1, FT_TCP_SYN | FT_TCP_ACK, "", 0);
	/* The sender sends it again, and then it is payload. */
	scene_text(&s, 1, "EVIL");
	assert_string_equal(scene_taken(&s), "");
	assert_int_equal(scene_count(&s, FT_REASON_HOLD_RULE), 1);
}

static void other_bytes_under_passed_numbers_are_held(void **state)
{
	scene_connect(&s);
	scene_text(&s, 1, "GET /harmless");
	s.strict = true;
	scene_text(&s, 1, "GET /EVILxxxx");
	assert_int_equal(scene_count(&s, FT_REASON_HOLD_OVERLAP), 1);
	assert_string_equal(scene_taken(&s), "GET /harmless");
	scene_pass(&s, 3 * MS);
	assert_int_equal(s.requests, 1);
	/* The clone has to prove that it took them: they are what this is about. */
	assert_int_equal(s.request.flow.bytes, 13);
	assert_int_equal(s.request.flow.first_sequence, CLIENT_ISN + 1);
	assert_int_equal(s.request.flow.next_sequence, CLIENT_ISN + 14);
	scene_answer(&s, true);
	assert_string_equal(scene_taken(&s), "GET /harmless");
	assert_string_equal(disposition(), "dropped");
	assert_string_equal(
	    json_string_value(json_object_get(json_object_get(scene_record(&s, "hold"), "input"), "printable")),
	    "GET /EVILxxxx");
}

static void only_what_the_guest_can_still_take_needs_a_proof(void **state)
{
	scene_connect(&s);
	scene_text(&s, 1, "GET /harmless");
	scene_guest(&s, 1, 6, FT_TCP_ACK, "", 0);
	s.strict = true;
	scene_text(&s, 1, "GET /EVILxxxx");
	scene_pass(&s, 3 * MS);
	assert_int_equal(s.request.flow.bytes, 8);
	assert_int_equal(s.request.flow.first_sequence, CLIENT_ISN + 6);
	assert_int_equal(s.request.flow.next_sequence, CLIENT_ISN + 14);
}

static void a_hold_has_each_byte_in_one_version(void **state)
{
	scene_connect(&s);
	s.strict = true;
	scene_client(&s, 1, 1, FT_TCP_ACK, "EVIL", 4);
	scene_text(&s, 1, "GOODmore");  /* other bytes, and new ones behind */
	scene_text(&s, 5, "moreagain"); /* the same bytes, and new ones behind */
	scene_client(&s, 10, 1, FT_TCP_ACK | FT_TCP_FIN, "gain", 4);
	scene_pass(&s, 3 * MS);
	uint32_t next = CLIENT_ISN + 1;
	char bytes[32] = "";
	for (unsigned i = 0; i < s.request.frames; i++) {
		const struct ft_frame *frame = &s.request.list[i].frame;
		assert_int_equal(ft_frame_checksum(frame), FT_CHECKSUM_GOOD);
		assert_int_equal(frame->sequence, next);
		strncat(bytes, (const char *)frame->data + frame->payload, frame->payload_length);
		next += frame->payload_length;
	}
	assert_string_equal(bytes, "EVILmoreagain");
	assert_true(s.request.list[s.request.frames - 1].frame.flags & FT_TCP_FIN);
	assert_int_equal(s.request.flow.next_sequence, next + 1);
	scene_answer(&s, false);
	assert_string_equal(scene_taken(&s), "EVILmoreagain");
	assert_string_equal(reason(), "release.clean");
	assert_true(json_is_true(
	    json_object_get(json_object_get(scene_record(&s, "hold"), "trigger"), "overlap")));
}

/* A guest discards a segment that acknowledges what it has not sent yet, or what is older than any window, or nothing. A clone may
 * not have sent it where the live guest has: it would show what a second version does, and the live guest would take the first. */
static void bytes_that_the_guest_would_not_take_are_none(void **state)
{
	static const struct { uint32_t ack; unsigned flags; const char *text; } ways[] = {
	    {100, FT_TCP_ACK, "EVIL"}, {2, FT_TCP_ACK, "EVIL"}, {100, FT_TCP_ACK | FT_TCP_FIN, ""}, {0, FT_TCP_ACK, "EVIL"},
	    {(uint32_t)-70000, FT_TCP_ACK, "EVIL"}, {0, FT_TCP_PSH, "EVIL"}};
	const unsigned count = sizeof(ways) / sizeof(*ways);
	scene_connect(&s);
	for (unsigned i = 0; i < count; i++) {
		scene_forget(&s);
		scene_client(&s, 1, ways[i].ack, ways[i].flags, ways[i].text, strlen(ways[i].text));
		assert_int_equal(scene_count(&s, FT_REASON_DROP_ACKNOWLEDGEMENT), i + 1);
		/* What else it says the guest hears, and answers as it sees fit. */
		assert_int_equal(s.guest_count, !!(ways[i].flags & FT_TCP_ACK));
		assert_int_equal(s.client_count, 0);
		if (!s.guest_count)
			continue;
		assert_int_equal(s.to_guest[0].frame.payload_length, 0);
		assert_int_equal(s.to_guest[0].frame.flags, FT_TCP_ACK);
		assert_int_equal(s.to_guest[0].frame.sequence, CLIENT_ISN + 1);
		assert_int_equal(s.to_guest[0].frame.acknowledgement, GUEST_ISN + ways[i].ack);
	}
	assert_string_equal(scene_taken(&s), "");
	/* Nothing of it is there to be compared with, or to be tried. */
	scene_text(&s, 1, "GOOD");
	assert_string_equal(scene_taken(&s), "GOOD");
	scene_pass(&s, 3 * MS);
	assert_int_equal(s.requests, 0);
}

/* The largest window offered was 1000 times 2^7, and then counts how much has been acknowledged since the beginning. */
static void an_acknowledgement_may_be_a_window_old(void **state)
{
	static const char data[1000];
	uint32_t sent = 1;
	scene_connect(&s);
	for (unsigned i = 0; i < 129; i++) {
		scene_guest(&s, sent, 1, FT_TCP_ACK, data, sizeof(data));
		sent += sizeof(data);
		scene_client(&s, 1, sent, FT_TCP_ACK, "", 0);
		scene_forget(&s);
		if (i == 63) {
			scene_client(&s, 1, 0, FT_TCP_ACK, "x", 1);
			assert_int_equal(scene_count(&s, FT_REASON_DROP_ACKNOWLEDGEMENT), 1);
			scene_client(&s, 1, 1, FT_TCP_ACK, "a", 1);
			assert_string_equal(scene_taken(&s), "a");
		}
	}
	scene_client(&s, 2, sent - 128001, FT_TCP_ACK, "x", 1);
	assert_int_equal(scene_count(&s, FT_REASON_DROP_ACKNOWLEDGEMENT), 2);
	scene_client(&s, 2, sent - 128000, FT_TCP_ACK, "b", 1);
	assert_string_equal(scene_taken(&s), "ab");
	assert_int_equal(scene_count(&s, FT_REASON_DROP_ACKNOWLEDGEMENT), 2);
}

/* Where everything passes this does, too, and what is acknowledged on a connection that was picked up in its middle is how it is
 * known what the guest has sent. */
static void observing_judges_no_acknowledgement(void **state)
{
	struct ft_refusal refusal;
	scene_client(&s, 1, 50, FT_TCP_ACK, "hello", 5);
	scene_client(&s, 6, 90, FT_TCP_ACK, "", 0);
	scene_client(&s, 6, 120, FT_TCP_ACK, "world", 5);
	json_t *order = json_pack("{s:s, s:s, s:s}", "what", "mode", "service", "web", "mode", "enforce");
	json_decref(ft_order(s.gate, order, &refusal));
	json_decref(order);
	unsigned got = s.guest_count;
	scene_client(&s, 11, 120, FT_TCP_ACK, "again", 5);
	assert_int_equal(s.guest_count, got + 1);
	assert_int_equal(s.to_guest[got].frame.payload_length, 5);
	scene_client(&s, 16, 121, FT_TCP_ACK, "never", 5);
	assert_int_equal(scene_count(&s, FT_REASON_DROP_ACKNOWLEDGEMENT), 1);
}

static void other_bytes_under_held_numbers_change_nothing(void **state)
{
	scene_connect(&s);
	s.strict = true;
	scene_text(&s, 1, "EVIL");
	scene_text(&s, 1, "GOOD");
	scene_pass(&s, 3 * MS);
	assert_int_equal(s.request.frames, 1);
	scene_text(&s, 1, "BADD");
	scene_answer(&s, false);
	assert_string_equal(scene_taken(&s), "EVIL");
	assert_int_equal(s.requests, 1);
	json_t *trigger = json_object_get(scene_record(&s, "hold"), "trigger");
	assert_true(json_is_true(json_object_get(trigger, "overlap")));
}

static void overlap_with_new_bytes_behind_is_tried_as_it_is(void **state)
{
	scene_connect(&s);
	scene_text(&s, 1, "abcd");
	s.strict = true;
	scene_text(&s, 3, "XYef"); /* X, Y differ from c, d; e, f are new */
	scene_pass(&s, 3 * MS);
	assert_int_equal(s.requests, 1);
	assert_int_equal(s.request.flow.bytes, 4);
	assert_memory_equal(s.request.clone.bytes, "abcdef", 6);
	scene_answer(&s, false);
	assert_string_equal(scene_taken(&s), "abcdef");
}

static void retransmissions_of_held_bytes_start_no_second_clone(void **state)
{
	scene_connect(&s);
	s.strict = true;
	scene_text(&s, 1, "EVIL");
	scene_text(&s, 1, "EVIL");
	scene_pass(&s, 3 * MS);
	scene_text(&s, 1, "EVIL");
	scene_pass(&s, 300 * MS);
	scene_answer(&s, false);
	assert_int_equal(s.requests, 1);
	assert_int_equal(s.request.frames, 1);
	assert_int_equal(scene_count(&s, FT_REASON_DROP_HOLD_DUPLICATE), 2);
	assert_string_equal(scene_taken(&s), "EVIL");
}

static void retransmissions_of_passed_bytes_pass_if_equal(void **state)
{
	scene_connect(&s);
	scene_text(&s, 1, "hello");
	scene_forget(&s);
	scene_text(&s, 1, "hello");
	assert_int_equal(s.guest_count, 1);
	assert_int_equal(s.to_guest[0].frame.payload_length, 5);
	/* Once acknowledged, bytes under these numbers are of no use and do not travel. */
	scene_guest(&s, 1, 6, FT_TCP_ACK, "", 0);
	scene_forget(&s);
	scene_text(&s, 1, "EVILS");
	assert_int_equal(s.guest_count, 1);
	assert_int_equal(s.to_guest[0].frame.payload_length, 0);
	assert_int_equal(s.requests, 0);
}

static void acknowledgements_pass_during_a_hold(void **state)
{
	s.timestamps = true;
	scene_connect(&s);
	scene_text(&s, 1, "hi");
	uint32_t given = s.tsval;
	s.strict = true;
	scene_text(&s, 3, "EVIL");
	scene_guest(&s, 1, 3, FT_TCP_ACK, "an answer", 9);
	scene_forget(&s);
	scene_client(&s, 7, 10, FT_TCP_ACK, "", 0);
	assert_int_equal(s.guest_count, 1);
	const struct ft_frame *frame = &s.to_guest[0].frame;
	assert_int_equal(frame->sequence, CLIENT_ISN + 3); /* what the guest expects, not behind held bytes */
	assert_int_equal(frame->acknowledgement, GUEST_ISN + 10);
	assert_int_equal(frame->payload_length, 0);
	/* A newer TSval would make the guest discard the held segment later. */
	assert_int_equal(ft_load32(s.to_guest[0].data + frame->timestamp), given);
	/* Held bytes that carry an acknowledgement: the acknowledgement travels, the bytes do not. */
	scene_guest(&s, 10, 3, FT_TCP_ACK, "more", 4);
	scene_forget(&s);
	scene_client(&s, 7, 14, FT_TCP_ACK, "tail", 4);
	assert_int_equal(s.guest_count, 1);
	assert_int_equal(s.to_guest[0].frame.payload_length, 0);
	assert_int_equal(s.to_guest[0].frame.acknowledgement, GUEST_ISN + 14);
	assert_int_equal(scene_count(&s, FT_REASON_PASS_ACK), 2);
}

static void observing_lets_unknown_connections_and_gaps_pass(void **state)
{
	scene_text(&s, 100, "middle");
	assert_int_equal(s.guest_count, 1);
	scene_text(&s, 200, "after a gap");
	assert_int_equal(s.guest_count, 2);
	scene_text(&s, 100, "middle");
	assert_int_equal(s.guest_count, 3);
}

static void an_unknown_connection_is_reset(void **state)
{
	scene_text(&s, 100, "EVIL");
	assert_int_equal(s.guest_count, 0);
	assert_int_equal(scene_count(&s, FT_REASON_DROP_NO_FLOW), 1);
	assert_int_equal(s.client_count, 1);
	assert_int_equal(s.to_client[0].frame.sequence, GUEST_ISN + 1);
}

static void a_reset_of_the_client_waits_behind_its_bytes(void **state)
{
	scene_connect(&s);
	s.strict = true;
	scene_text(&s, 1, "EVIL");
	scene_client(&s, 5, 1, FT_TCP_RST | FT_TCP_ACK, "", 0);
	scene_pass(&s, 3 * MS);
	assert_int_equal(s.guest_count, 0);
	assert_int_equal(s.request.frames, 1);
	scene_answer(&s, false);
	assert_int_equal(s.guest_count, 2);
	assert_true(s.to_guest[1].frame.flags & FT_TCP_RST);
	assert_int_equal(s.to_guest[1].frame.sequence, CLIENT_ISN + 5);
}

static void a_fin_joins_the_hold_and_ends_the_stream(void **state)
{
	scene_connect(&s);
	s.strict = true;
	scene_text(&s, 1, "EVIL");
	scene_client(&s, 5, 1, FT_TCP_FIN | FT_TCP_ACK, "", 0);
	scene_pass(&s, 3 * MS);
	assert_int_equal(s.request.frames, 2);
	assert_int_equal(s.request.flow.bytes, 4);
	assert_int_equal(s.request.flow.next_sequence, CLIENT_ISN + 6);
	scene_answer(&s, false);
	assert_true(s.live.fin);
	scene_text(&s, 6, "EVIL"); /* behind the end */
	assert_int_equal(scene_count(&s, FT_REASON_DROP_OUT_OF_WINDOW), 1);
}

static void a_byte_into_a_closed_window_is_a_question(void **state)
{
	s.timestamps = true;
	scene_connect(&s);
	s.strict = true;
	scene_text(&s, 1, "EVIL");
	scene_pass(&s, 3 * MS);
	scene_answer(&s, false);
	uint32_t given = s.tsval;
	s.closed = true;
	scene_guest(&s, 1, 5, FT_TCP_ACK, "", 0);
	for (unsigned i = 1; i <= 3; i++) {
		scene_forget(&s);
		scene_client(&s, 5, 1, FT_TCP_ACK, "x", 1);
		scene_pass(&s, 3 * MS);
		/* No trial, which no clone could pass, and not the byte; but a question that the guest answers. */
		assert_int_equal(s.requests, 1);
		assert_int_equal(s.guest_count, 1);
		const struct ft_frame *frame = &s.to_guest[0].frame;
		assert_int_equal(frame->sequence, CLIENT_ISN + 4);
		assert_int_equal(frame->payload_length, 0);
		assert_int_equal(ft_load32(s.to_guest[0].data + frame->timestamp), given);
		assert_int_equal(scene_count(&s, FT_REASON_PASS_PROBE), i);
	}
	/* The window opens: the byte is tried like any other of a suspect flow. */
	s.closed = false;
	scene_guest(&s, 1, 5, FT_TCP_ACK, "", 0);
	scene_forget(&s);
	scene_client(&s, 5, 1, FT_TCP_ACK, "xyz", 3);
	scene_pass(&s, 3 * MS);
	assert_int_equal(s.guest_count, 0);
	assert_int_equal(s.requests, 2);
	scene_answer(&s, false);
	assert_string_equal(scene_taken(&s), "EVILxyz");
}

static void an_ordinary_goodbye_needs_no_clone(void **state)
{
	scene_connect(&s);
	s.strict = true;
	scene_text(&s, 1, "EVIL");
	scene_pass(&s, 3 * MS);
	scene_answer(&s, false);
	scene_guest(&s, 1, 5, FT_TCP_ACK, "an answer", 9);
	scene_client(&s, 5, 10, FT_TCP_FIN | FT_TCP_ACK, "", 0);
	assert_true(s.live.fin);
	scene_pass(&s, 10 * MS);
	assert_int_equal(s.requests, 1);
}

static void a_goodbye_without_an_answer_is_tried(void **state)
{
	scene_connect(&s);
	s.strict = true;
	scene_text(&s, 1, "EVIL");
	scene_pass(&s, 3 * MS);
	scene_answer(&s, false);
	scene_client(&s, 5, 1, FT_TCP_FIN | FT_TCP_ACK, "", 0);
	assert_false(s.live.fin);
	scene_pass(&s, 3 * MS);
	assert_int_equal(s.requests, 2);
	scene_answer(&s, false);
	assert_true(s.live.fin);
}

/* The guest would take the urgent byte out of the stream, also one that a later segment brings. */
static void no_byte_is_urgent(void **state)
{
	uint8_t frame[256];
	scene_connect(&s);
	size_t length = scene_build(&s, true, 1, 1, FT_TCP_ACK | FT_TCP_URG, "EVxIL", 5, frame);
	for (int i = 0; i < 2; i++) {
		struct ft_frame parsed;
		enum ft_reason why;
		assert_int_equal(ft_frame_parse(&parsed, frame, length, &why), 0);
		ft_store16(frame + parsed.l4 + 18, 3);
		ft_frame_seal(&parsed, frame);
		scene_frame(&s, frame, length);
		length = scene_build(&s, true, 6, 1, FT_TCP_ACK | FT_TCP_URG, "", 0, frame);
	}
	assert_string_equal(scene_taken(&s), "EVxIL");
	assert_int_equal(s.guest_count, 2);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(s.to_guest[i].frame.flags, FT_TCP_ACK);
		assert_int_equal(ft_load16(s.to_guest[i].data + s.to_guest[i].frame.l4 + 18), 0);
	}
	json_t *counters = ft_gate_counters(s.gate);
	assert_int_equal(json_integer_value(json_object_get(counters, "urgent_cleared")), 2);
	json_decref(counters);
}

static void observing_changes_no_urgent_byte(void **state)
{
	scene_connect(&s);
	scene_client(&s, 1, 1, FT_TCP_ACK | FT_TCP_URG, "EVIL", 4);
	assert_true(s.to_guest[0].frame.flags & FT_TCP_URG);
}

static void a_segment_with_nothing_in_it_is_counted(void **state)
{
	scene_connect(&s);
	scene_text(&s, 1, "EVIL");
	scene_client(&s, 5, 1, 0, "", 0);
	assert_int_equal(s.guest_count, 0);
	assert_int_equal(scene_count(&s, FT_REASON_DROP_MALFORMED), 1);
}

static void a_wrong_checksum_is_refused_and_a_partial_one_completed(void **state)
{
	uint8_t frame[256];
	scene_connect(&s);
	size_t length = scene_build(&s, true, 1, 1, FT_TCP_ACK, "hello", 5, frame);
	frame[50] ^= 0x55;
	scene_frame(&s, frame, length);
	assert_int_equal(scene_count(&s, FT_REASON_DROP_CHECKSUM), 1);
	assert_int_equal(s.guest_count, 0);
	/* As a kernel leaves it to hardware: the sum of the pseudo-header, not inverted. */
	uint32_t sum = 0;
	for (int i = 26; i < 34; i += 2)
		sum += ft_load16(frame + i);
	sum += IPPROTO_TCP + 25;
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	ft_store16(frame + 50, (uint16_t)sum);
	scene_frame(&s, frame, length);
	assert_string_equal(scene_taken(&s), "hello"); /* the scene checks checksums */
}

int main(void)
{
#define T(name, open) cmocka_unit_test_setup_teardown(name, open, close_scene)
	const struct CMUnitTest tests[] = {
	    T(data_in_a_syn_is_stripped, open_rules),
	    T(other_bytes_under_passed_numbers_are_held, open_rules),
	    T(only_what_the_guest_can_still_take_needs_a_proof, open_rules),
	    T(a_hold_has_each_byte_in_one_version, open_rules),
	    T(bytes_that_the_guest_would_not_take_are_none, open_rules),
	    T(an_acknowledgement_may_be_a_window_old, open_rules),
	    T(observing_judges_no_acknowledgement, open_observe),
	    T(other_bytes_under_held_numbers_change_nothing, open_rules),
	    T(overlap_with_new_bytes_behind_is_tried_as_it_is, open_rules),
	    T(retransmissions_of_held_bytes_start_no_second_clone, open_rules),
	    T(retransmissions_of_passed_bytes_pass_if_equal, open_rules),
	    T(acknowledgements_pass_during_a_hold, open_rules),
	    T(observing_lets_unknown_connections_and_gaps_pass, open_observe),
	    T(an_unknown_connection_is_reset, open_rules),
	    T(a_reset_of_the_client_waits_behind_its_bytes, open_rules),
	    T(a_fin_joins_the_hold_and_ends_the_stream, open_rules),
	    T(a_byte_into_a_closed_window_is_a_question, open_rules),
	    T(an_ordinary_goodbye_needs_no_clone, open_rules),
	    T(a_goodbye_without_an_answer_is_tried, open_rules),
	    T(no_byte_is_urgent, open_rules),
	    T(observing_changes_no_urgent_byte, open_observe),
	    T(a_segment_with_nothing_in_it_is_counted, open_rules),
	    T(a_wrong_checksum_is_refused_and_a_partial_one_completed, open_rules),
	};
	if (scene_start_eal())
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
