/* Holds, seen from both sides of the gate. In every test the live guest takes no byte that no clone took. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <cmocka.h>

#include "base/channel.h"
#include "scene.h"

static struct scene s;

static int open_rules(void **state)
{
	scene_open(&s, "\"risks\": \"none\", \"mode\": \"enforce\", \"on_exception\": \"drop\"");
	return 0;
}

static int open_all(void **state)
{
	scene_open(&s, "\"risks\": \"none\", \"mode\": \"enforce\", \"screen\": \"all\"");
	return 0;
}

static int open_release(void **state)
{
	scene_open(&s, "\"risks\": \"none\", \"mode\": \"enforce\", \"on_exception\": \"release\"");
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

static void innocent_bytes_pass_at_once(void **state)
{
	scene_connect(&s);
	scene_text(&s, 1, "GET / HTTP/1.1\r\n\r\n");
	assert_string_equal(scene_taken(&s), "GET / HTTP/1.1\r\n\r\n");
	assert_int_equal(s.requests, 0);
	assert_int_equal(scene_count(&s, FT_REASON_PASS_INSPECTED), 3);
}

static void a_clean_hold_is_released_exactly_once(void **state)
{
	scene_connect(&s);
	s.strict = true;
	scene_text(&s, 1, "GET /EVIL HTTP/1.1\r\n\r\n");
	assert_string_equal(scene_taken(&s), "");
	assert_int_equal(s.requests, 0); /* gathers first */
	scene_pass(&s, 3 * MS);
	assert_int_equal(s.requests, 1);
	assert_int_equal(s.request.frames, 1);
	assert_int_equal(s.request.flow.bytes, 22);
	assert_int_equal(s.request.flow.first_sequence, CLIENT_ISN + 1);
	assert_int_equal(s.request.flow.next_sequence, CLIENT_ISN + 23);
	assert_string_equal(scene_taken(&s), "");
	scene_answer(&s, false);
	assert_string_equal(scene_taken(&s), "GET /EVIL HTTP/1.1\r\n\r\n");
	assert_int_equal(s.guest_count, 1);
	assert_memory_equal(s.to_guest[0].data, s.request.list[0].data, s.request.list[0].length);
	assert_string_equal(disposition(), "released");
	assert_string_equal(reason(), "release.clean");
	assert_int_equal(scene_count(&s, FT_REASON_HOLD_RULE), 1);
	assert_int_equal(scene_count(&s, FT_REASON_RELEASE_CLEAN), 1);
	assert_int_equal(s.finishes, 1);
	scene_pass(&s, 5000 * MS);
	assert_int_equal(s.guest_count, 1);
}

static void each_direction_is_counted_by_itself(void **state)
{
	scene_connect(&s);
	scene_text(&s, 1, "hello");
	scene_guest(&s, 1, 6, FT_TCP_ACK, "an answer", 9);
	scene_text(&s, 6, "EVIL");
	scene_pass(&s, 3 * MS);
	scene_answer(&s, false);
	json_t *flow = json_object_get(scene_record(&s, "hold"), "flow");
	assert_int_equal(json_integer_value(json_object_get(flow, "packets")), 4);
	assert_int_equal(json_integer_value(json_object_get(flow, "bytes")), 62 + 54 + 59 + 58);
	assert_int_equal(json_integer_value(json_object_get(flow, "packets_toclient")), 2);
	assert_int_equal(json_integer_value(json_object_get(flow, "bytes_toclient")), 62 + 63);
}

static void an_attack_is_dropped_and_both_ends_are_reset(void **state)
{
	scene_connect(&s);
	s.strict = true;
	scene_text(&s, 1, "EVIL");
	scene_pass(&s, 3 * MS);
	scene_forget(&s);
	scene_answer(&s, true);
	assert_string_equal(scene_taken(&s), "");
	assert_string_equal(disposition(), "dropped");
	assert_string_equal(reason(), "drop.verdict");
	assert_string_equal(json_string_value(json_object_get(scene_record(&s, "hold"), "verdict")),
			    "malicious");
	assert_int_equal(s.twins, 1);
	/* Exactly what each end expects next. */
	assert_int_equal(s.guest_count, 1);
	assert_true(s.to_guest[0].frame.flags & FT_TCP_RST);
	assert_int_equal(s.to_guest[0].frame.sequence, CLIENT_ISN + 1);
	assert_int_equal(s.client_count, 1);
	assert_true(s.to_client[0].frame.flags & FT_TCP_RST);
	assert_int_equal(s.to_client[0].frame.sequence, GUEST_ISN + 1);
	/* The packets are there for the quarantine. */
	json_t *packets = scene_record(&s, "packets");
	assert_int_equal(json_array_size(json_object_get(packets, "frames")), 1);
	/* Nothing of the flow passes any more; the sender hears so at its own number. */
	scene_forget(&s);
	scene_text(&s, 5, "more");
	assert_int_equal(s.guest_count, 0);
	assert_int_equal(s.client_count, 1);
	assert_int_equal(s.to_client[0].frame.sequence, GUEST_ISN + 1);
	assert_int_equal(scene_count(&s, FT_REASON_DROP_FLOW_DEAD), 1);
	/* A new connection under the same addresses is a new flow. */
	scene_connect(&s);
	s.strict = false;
	s.live.length = 0;
	scene_text(&s, 1, "hello");
	assert_string_equal(scene_taken(&s), "hello");
}

static void the_tenth_request_is_inspected_like_the_first(void **state)
{
	uint32_t at = 1, answered = 1;
	scene_connect(&s);
	for (int i = 0; i < 9; i++) {
		scene_text(&s, at, "GET / HTTP/1.1\r\n\r\n");
		at += 18;
		scene_guest(&s, answered, at, FT_TCP_ACK, "200 OK", 6);
		answered += 6;
	}
	s.strict = true;
	size_t before = s.live.length;
	assert_int_equal(before, 9 * 18);
	scene_text(&s, at, "GET /EVIL HTTP/1.1\r\n\r\n");
	scene_pass(&s, 3 * MS);
	scene_forget(&s);
	scene_answer(&s, true);
	assert_int_equal(s.live.length, before);
	assert_int_equal(s.to_guest[0].frame.sequence, CLIENT_ISN + at);
	/* The client has not acknowledged the answers yet: one reset at either number. */
	assert_int_equal(s.client_count, 2);
	assert_int_equal(s.to_client[1].frame.sequence, GUEST_ISN + answered);
}

static void two_attacks_on_one_connection_are_two_holds(void **state)
{
	scene_connect(&s);
	s.strict = true;
	scene_text(&s, 1, "EVIL1");
	scene_pass(&s, 3 * MS);
	scene_answer(&s, false);
	scene_guest(&s, 1, 6, FT_TCP_ACK, "ok", 2);
	scene_text(&s, 6, "EVIL2");
	scene_pass(&s, 3 * MS);
	assert_int_equal(s.requests, 2);
	scene_answer(&s, true);
	assert_string_equal(scene_taken(&s), "EVIL1");
	assert_string_equal(reason(), "drop.verdict");
}

static void bytes_that_come_during_a_trial_are_the_next_trial(void **state)
{
	scene_connect(&s);
	s.strict = true;
	scene_text(&s, 1, "EVIL");
	scene_pass(&s, 3 * MS);
	assert_int_equal(s.requests, 1);
	scene_text(&s, 5, " and");
	scene_text(&s, 9, " more");
	scene_pass(&s, 10 * MS);
	assert_int_equal(s.requests, 1); /* not before the first is decided */
	scene_answer(&s, false);
	assert_string_equal(scene_taken(&s), "EVIL");
	scene_pass(&s, 3 * MS);
	assert_int_equal(s.requests, 2);
	assert_int_equal(s.request.frames, 2);
	assert_int_equal(s.request.flow.first_sequence, CLIENT_ISN + 5);
	/* This clone was forked after the release. */
	assert_int_equal(s.request.clone.length, 13);
	scene_answer(&s, true);
	assert_string_equal(scene_taken(&s), "EVIL");
	assert_string_equal(reason(), "drop.verdict");
}

static void what_waits_behind_a_dropped_hold_is_never_let_through(void **state)
{
	scene_connect(&s);
	s.strict = true;
	scene_text(&s, 1, "EVIL");
	scene_pass(&s, 3 * MS);
	scene_text(&s, 5, "later");
	scene_answer(&s, true);
	scene_pass(&s, 100 * MS);
	assert_string_equal(scene_taken(&s), "");
	assert_int_equal(s.requests, 1);
	assert_string_equal(reason(), "drop.flow-dead");
	assert_int_equal(scene_count(&s, FT_REASON_DROP_FLOW_DEAD), 1);
}

static void an_attack_split_over_segments_never_completes(void **state)
{
	scene_connect(&s);
	scene_text(&s, 1, "GET /E");
	scene_text(&s, 7, "VI");
	assert_string_equal(scene_taken(&s), "GET /EVI");
	s.strict = true;
	scene_text(&s, 9, "L HT");
	assert_int_equal(scene_count(&s, FT_REASON_HOLD_RULE), 1);
	scene_pass(&s, 3 * MS);
	scene_answer(&s, false); /* half a request does nothing yet */
	assert_string_equal(scene_taken(&s), "GET /EVIL HT");
	/* The rest matches no pattern; it is what completes the attack. */
	scene_text(&s, 13, "TP/1.1\r\n\r\n");
	assert_string_equal(scene_taken(&s), "GET /EVIL HT");
	scene_pass(&s, 3 * MS);
	assert_int_equal(s.requests, 2);
	scene_answer(&s, true);
	assert_string_equal(scene_taken(&s), "GET /EVIL HT");
}

static void one_byte_per_segment_is_gathered_into_one_trial(void **state)
{
	const char *text = "GET /EVIL HTTP/1.1\r\n\r\n";
	scene_connect(&s);
	for (uint32_t i = 0; i < 8; i++)
		scene_client(&s, 1 + i, 1, FT_TCP_ACK, text + i, 1);
	s.strict = true;
	for (uint32_t i = 8; i < 22; i++) {
		scene_client(&s, 1 + i, 1, FT_TCP_ACK, text + i, 1);
		scene_pass(&s, 1 * MS);
	}
	assert_int_equal(s.requests, 0);
	assert_string_equal(scene_taken(&s), "GET /EVI");
	scene_pass(&s, 2 * MS);
	assert_int_equal(s.requests, 1);
	assert_int_equal(s.request.frames, 14);
	assert_int_equal(s.request.flow.bytes, 14);
	scene_answer(&s, false);
	assert_string_equal(scene_taken(&s), text);
}

static void a_dribbling_sender_does_not_gather_for_ever(void **state)
{
	scene_connect(&s);
	s.strict = true;
	for (uint32_t i = 0; i < 60 && !s.requests; i++) {
		scene_client(&s, 1 + i, 1, FT_TCP_ACK, "x", 1);
		scene_pass(&s, 1 * MS);
	}
	assert_int_equal(s.requests, 1);
	assert_true(s.request.frames >= 49 && s.request.frames <= 51);
}

static void a_clone_that_did_not_take_the_input_proves_nothing(void **state)
{
	scene_connect(&s);
	s.strict = true;
	scene_text(&s, 1, "EVIL");
	scene_pass(&s, 3 * MS);
	uint64_t hold = s.request.begin.trial;
	scene_event(&s, hold, FT_EVENT_TRIAL_HANDLED, FT_ROLE_TRIAL, (uint64_t[6]){3, 4, 1}, NULL, NULL);
	scene_event(&s, hold, FT_EVENT_TRIAL_END, FT_ROLE_TRIAL,
		    (uint64_t[6]){FT_TRIAL_END_HORIZON, 1, 2, 3, 1}, "", NULL);
	scene_pass(&s, 0);
	assert_string_equal(reason(), "drop.error");
	assert_string_equal(json_string_value(json_object_get(scene_record(&s, "hold"), "verdict")),
			    "inconclusive");
	assert_string_equal(scene_taken(&s), "");
}

static void a_lie_about_how_much_was_held_proves_nothing(void **state)
{
	scene_connect(&s);
	s.strict = true;
	scene_text(&s, 1, "EVIL");
	scene_pass(&s, 3 * MS);
	uint64_t hold = s.request.begin.trial;
	scene_event(&s, hold, FT_EVENT_TRIAL_HANDLED, FT_ROLE_TRIAL, (uint64_t[6]){5, 5, 1}, NULL, NULL);
	scene_event(&s, hold, FT_EVENT_TRIAL_END, FT_ROLE_TRIAL,
		    (uint64_t[6]){FT_TRIAL_END_HORIZON, 1, 2, 3, 1}, "", NULL);
	scene_pass(&s, 0);
	assert_string_equal(reason(), "drop.error");
}

static void an_ended_seed_or_silence_is_an_exception(void **state)
{
	scene_connect(&s);
	scene_text(&s, 1, "EVIL");
	scene_pass(&s, 3 * MS);
	scene_gone(&s, s.request.begin.trial);
	assert_string_equal(reason(), "release.error");
	assert_string_equal(scene_taken(&s), "EVIL");
	scene_text(&s, 5, "EVIL");
	scene_pass(&s, 3 * MS);
	assert_int_equal(s.requests, 2);
	scene_pass(&s, 3000 * MS);
	assert_string_equal(scene_taken(&s), "EVIL");
	scene_pass(&s, 2000 * MS); /* the wall budget and the grace are over */
	assert_string_equal(scene_taken(&s), "EVILEVIL");
	assert_string_equal(reason(), "release.timeout");
	assert_int_equal(scene_count(&s, FT_REASON_RELEASE_ERROR), 1);
	assert_int_equal(scene_count(&s, FT_REASON_RELEASE_TIMEOUT), 1);
}

static void observed_input_passes_at_once_and_is_tried(void **state)
{
	scene_connect(&s);
	scene_text(&s, 1, "EVIL");
	assert_string_equal(scene_taken(&s), "EVIL");
	assert_int_equal(s.requests, 1);
	/* The clone is the guest before the frame: then it takes the frame as the guest did. */
	assert_memory_equal(s.request.clone.bytes, "EVIL", 4);
	scene_answer(&s, true);
	assert_string_equal(disposition(), "observed");
	assert_string_equal(json_string_value(json_object_get(scene_record(&s, "hold"), "verdict")),
			    "malicious");
	assert_int_equal(s.client_count, 0);
	scene_text(&s, 5, "more");
	assert_string_equal(scene_taken(&s), "EVILmore");
}

static void a_lost_guest_ends_its_holds_by_policy(void **state)
{
	scene_connect(&s);
	s.strict = true;
	scene_text(&s, 1, "EVIL");
	scene_pass(&s, 3 * MS);
	scene_forget(&s);
	ft_gate_guest_down(s.gate, "web", "killed");
	assert_string_equal(disposition(), "dropped");
	assert_string_equal(reason(), "drop.error");
	assert_int_equal(s.client_count, 1); /* the client is told */
	assert_true(s.to_client[0].frame.flags & FT_TCP_RST);
	scene_text(&s, 5, "more");
	assert_int_equal(scene_count(&s, FT_REASON_DROP_GUEST_DOWN), 1);
}

static void garbage_from_the_vmm_ends_the_link_and_nothing_else(void **state)
{
	scene_connect(&s);
	s.strict = true;
	scene_text(&s, 1, "EVIL");
	scene_pass(&s, 3 * MS);
	memset(s.vmm.tx.shared->data, 0xee, 4096);
	__atomic_store_n(&s.vmm.tx.shared->producer.index, 4096, __ATOMIC_RELEASE);
	scene_pass(&s, 0);
	assert_string_equal(reason(), "drop.error");
	assert_non_null(strstr(s.log, "is cut"));
	json_t *status = ft_gate_status(s.gate, false);
	const json_t *guest = json_object_get(json_object_get(status, "guests"), "web");
	assert_true(json_is_false(json_object_get(guest, "up")));
	assert_int_equal(json_integer_value(json_object_get(status, "holds")), 0);
	assert_int_equal(json_integer_value(json_object_get(status, "held_bytes")), 0);
	json_decref(status);
	assert_string_equal(scene_taken(&s), "");
}

static void an_event_that_is_none_ends_the_link(void **state)
{
	scene_connect(&s);
	assert_int_equal(send(s.vmm.events, "junk", 4, 0), 4);
	scene_pass(&s, 0);
	assert_non_null(strstr(s.log, "is cut"));
}

static void a_stop_ends_holds_by_policy(void **state)
{
	scene_connect(&s);
	scene_text(&s, 1, "EVIL");
	ft_gate_stop(s.gate);
	assert_string_equal(reason(), "release.shutdown");
	scene_pass(&s, 0);
	assert_string_equal(scene_taken(&s), "EVIL");
}

static void trials_of_one_flow_are_limited(void **state)
{
	scene_close(&s);
	scene_open(&s,
		   "\"risks\": \"none\", \"mode\": \"enforce\", \"screen\": \"all\", \"trials_per_flow\": 3");
	scene_connect(&s);
	s.strict = true;
	for (uint32_t i = 0; i < 4; i++) {
		scene_client(&s, 1 + i, 1, FT_TCP_ACK, "x", 1);
		scene_pass(&s, 3 * MS);
		if (i < 3)
			scene_answer(&s, false);
	}
	assert_int_equal(s.requests, 3);
	assert_string_equal(scene_taken(&s), "xxx");
	assert_string_equal(reason(), "drop.overload");
}

static void clones_are_limited_and_others_wait(void **state)
{
	scene_connect(&s);
	scene_text(&s, 1, "first");
	scene_pass(&s, 3 * MS);
	struct ft_trial_begin first = s.request.begin;
	struct ft_trial_flow first_flow = s.request.flow;
	s.client_port = 40001;
	scene_connect(&s);
	s.live.length = 0;
	scene_text(&s, 1, "second");
	scene_pass(&s, 3 * MS);
	assert_int_equal(s.requests, 1);
	s.request.begin = first;
	s.request.flow = first_flow;
	scene_answer(&s, false);
	scene_pass(&s, 0);
	assert_int_equal(s.requests, 2);
	assert_int_equal(s.request.flow.client_port, __builtin_bswap16(40001));
}

static void a_hold_has_a_limit_and_the_rest_waits_behind_it(void **state)
{
	scene_close(&s);
	scene_open(&s,
		   "\"risks\": \"none\", \"mode\": \"enforce\", \"screen\": \"all\", \"hold_limit\": 2048");
	scene_connect(&s);
	scene_guest(&s, 1, 1, FT_TCP_ACK, "", 0); /* the window of a SYN is a small one */
	s.strict = true;
	char block[1000];
	memset(block, 'a', sizeof(block));
	for (uint32_t i = 0; i < 3; i++)
		scene_client(&s, 1 + i * 1000, 1, FT_TCP_ACK, block, sizeof(block));
	assert_int_equal(scene_count(&s, FT_REASON_HOLD_EARLY), 1);
	scene_pass(&s, 3 * MS);
	assert_int_equal(s.request.flow.bytes, 2000);
	/* It waits for its own trial, and its sender has nothing to send again. */
	scene_pass(&s, 3 * MS);
	assert_int_equal(s.requests, 1);
	scene_answer(&s, false);
	assert_int_equal(s.live.length, 2000);
	scene_pass(&s, 3 * MS);
	assert_int_equal(s.request.flow.bytes, 1000);
	assert_int_equal(s.requests, 2);
	scene_answer(&s, false);
	assert_int_equal(s.live.length, 3000);
	assert_int_equal(scene_count(&s, FT_REASON_DROP_HOLD_LIMIT), 0);
}

/* While there is no room for holds: what inspection pointed at is not let through when it comes again, though a pattern
 * that ended in it does not end there a second time. */
static void a_trigger_is_remembered_when_there_is_no_room(void **state)
{
	scene_close(&s);
	scene_open(&s, "\"risks\": \"none\", \"mode\": \"enforce\", \"holds\": 1, \"on_overload\": \"tempfail\"");
	scene_connect(&s);
	scene_text(&s, 1, "EVIL");
	s.client_port++;
	memset(&s.live, 0, sizeof(s.live));
	scene_connect(&s);
	scene_text(&s, 1, "EV");
	scene_text(&s, 3, "IL");
	assert_int_equal(scene_count(&s, FT_REASON_TEMPFAIL_OVERLOAD), 1);
	scene_text(&s, 3, "IL");
	assert_string_equal(scene_taken(&s), "EV");
	assert_int_equal(scene_count(&s, FT_REASON_TEMPFAIL_OVERLOAD), 2);
}

/* When much is held is when somebody asks what. */
static void a_list_of_many_holds_fits_a_message(void **state)
{
	char text[600];
	scene_close(&s);
	scene_open(&s, "\"risks\": \"none\", \"mode\": \"enforce\", \"source_holds\": 500");
	memset(text, 1, sizeof(text)); /* four characters a byte where people read it */
	memcpy(text, "EVIL", 4);
	for (s.client_port = 20000; s.client_port < 20200; s.client_port++) {
		scene_connect(&s);
		scene_client(&s, 1, 1, FT_TCP_ACK, text, sizeof(text));
	}
	json_t *list = ft_gate_holds(s.gate);
	size_t count = json_array_size(list);
	assert_true(json_dumpb(list, NULL, 0, JSON_COMPACT) < FT_CHANNEL_MESSAGE - 512);
	assert_in_range(count, 20, 200);
	assert_int_equal(json_integer_value(json_object_get(json_array_get(list, count - 1), "more")),
			 200 - (count - 1));
	json_decref(list);
}

static void datagrams_are_held_and_dropped_silently(void **state)
{
	uint8_t frame[128] = {2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9, 8, 0};
	uint8_t *ip = frame + 14;
	ip[0] = 0x45;
	ft_store16(ip + 2, 32);
	ip[8] = 64;
	ip[9] = IPPROTO_UDP;
	ft_store32(ip + 12, 0x0a000209);
	ft_store32(ip + 16, 0x0a00020f);
	ft_store16(ip + 20, 1111);
	ft_store16(ip + 22, 53);
	ft_store16(ip + 24, 12);
	memcpy(ip + 28, "EVIL", 4);
	struct ft_frame shape = {.kind = FT_FRAME_IPV4,
				 .transport = true,
				 .protocol = IPPROTO_UDP,
				 .ip = 14,
				 .l4 = 34,
				 .payload = 42,
				 .payload_length = 4};
	ft_frame_seal(&shape, frame);
	scene_frame(&s, frame, 46);
	assert_int_equal(s.guest_count, 0);
	scene_pass(&s, 3 * MS);
	assert_int_equal(s.requests, 1);
	assert_int_equal(s.request.flow.bytes, 4);
	assert_int_equal(s.request.flow.protocol, IPPROTO_UDP);
	scene_answer(&s, true);
	assert_int_equal(s.guest_count, 0);
	assert_int_equal(s.client_count, 0);
	assert_string_equal(reason(), "drop.verdict");
	scene_frame(&s, frame, 46);
	assert_int_equal(scene_count(&s, FT_REASON_DROP_FLOW_DEAD), 1);
}

int main(void)
{
#define T(name, open) cmocka_unit_test_setup_teardown(name, open, close_scene)
	const struct CMUnitTest tests[] = {
	    T(innocent_bytes_pass_at_once, open_rules),
	    T(a_clean_hold_is_released_exactly_once, open_rules),
	    T(each_direction_is_counted_by_itself, open_rules),
	    T(an_attack_is_dropped_and_both_ends_are_reset, open_rules),
	    T(the_tenth_request_is_inspected_like_the_first, open_rules),
	    T(two_attacks_on_one_connection_are_two_holds, open_rules),
	    T(bytes_that_come_during_a_trial_are_the_next_trial, open_rules),
	    T(what_waits_behind_a_dropped_hold_is_never_let_through, open_rules),
	    T(an_attack_split_over_segments_never_completes, open_rules),
	    T(one_byte_per_segment_is_gathered_into_one_trial, open_rules),
	    T(a_dribbling_sender_does_not_gather_for_ever, open_all),
	    T(a_clone_that_did_not_take_the_input_proves_nothing, open_rules),
	    T(a_lie_about_how_much_was_held_proves_nothing, open_rules),
	    T(an_ended_seed_or_silence_is_an_exception, open_release),
	    T(observed_input_passes_at_once_and_is_tried, open_observe),
	    T(a_lost_guest_ends_its_holds_by_policy, open_rules),
	    T(garbage_from_the_vmm_ends_the_link_and_nothing_else, open_rules),
	    T(an_event_that_is_none_ends_the_link, open_rules),
	    T(a_stop_ends_holds_by_policy, open_release),
	    T(trials_of_one_flow_are_limited, open_all),
	    T(clones_are_limited_and_others_wait, open_all),
	    T(a_hold_has_a_limit_and_the_rest_waits_behind_it, open_all),
	    T(a_trigger_is_remembered_when_there_is_no_room, open_rules),
	    T(a_list_of_many_holds_fits_a_message, open_rules),
	    T(datagrams_are_held_and_dropped_silently, open_rules),
	};
	if (scene_start_eal())
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
