/* Modes that are switched while there is traffic, shadow mode and its report, and inspection that is switched off. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sysexits.h>
#include <cmocka.h>

#include "dataplane/order.h"
#include "dataplane/hold-t.h"
#include "dataplane/shadow.h"
#include "scene.h"

static struct scene s;

static void open_mode(const char *mode, const char *more)
{
	char text[256];
	snprintf(text, sizeof(text), "\"risks\": \"none\", \"mode\": \"%s\"%s%s", mode, *more ? ", " : "",
		 more);
	scene_open(&s, text);
}

static json_t *order(json_t *message)
{
	struct ft_refusal refusal = {0};
	json_t *result = ft_order(s.gate, message, &refusal);
	json_decref(message);
	scene_pass(&s, 0);
	return result;
}

static void set_mode(const char *mode)
{
	json_t *result = order(json_pack("{s:s, s:s, s:s}", "what", "mode", "service", "web", "mode", mode));
	assert_non_null(result);
	json_decref(result);
}

static json_t *set_bypass(bool on, const char *service)
{
	json_t *result = order(json_pack("{s:s, s:b, s:s*}", "what", "bypass", "on", on, "service", service));
	assert_non_null(result);
	return result;
}

static json_t *report(void)
{
	return order(json_pack("{s:s, s:s}", "what", "shadow", "service", "web"));
}

static json_int_t number(const json_t *json, const char *part, const char *name)
{
	return json_integer_value(json_object_get(part ? json_object_get(json, part) : json, name));
}

static const char *text_of(const char *op, const char *key)
{
	return json_string_value(json_object_get(scene_record(&s, op), key));
}

/* A new connection of the client; what an earlier one left is forgotten. */
static void connect_anew(void)
{
	s.client_port++;
	memset(&s.live, 0, sizeof(s.live));
	scene_connect(&s);
}

/* ---- switching ---- */

static void what_is_held_is_decided_as_it_began(void **state)
{
	static const char *const to[] = {"observe", "shadow"};
	for (int i = 0; i < 2; i++) {
		open_mode("enforce", "");
		scene_connect(&s);
		s.strict = true;
		scene_text(&s, 1, "EVIL");
		set_mode(to[i]);
		scene_text(&s, 5, "more"); /* does not overtake */
		assert_string_equal(scene_taken(&s), "");
		scene_pass(&s, 3 * MS);
		scene_answer(&s, true);
		assert_string_equal(scene_taken(&s), "");
		assert_string_equal(text_of("hold", "disposition_reason"), "drop.verdict");
		assert_false(s.violated);
		/* Another connection is only observed. */
		s.strict = false;
		connect_anew();
		scene_text(&s, 1, "EVIL");
		assert_string_equal(scene_taken(&s), "EVIL");
		scene_close(&s);
	}
}

static void a_connection_that_was_observed_is_held_from_then_on(void **state)
{
	open_mode("observe", "");
	scene_text(&s, 100, "middle"); /* it began before the gateway did */
	scene_guest(&s, 1, 106, FT_TCP_ACK, "", 0);
	scene_forget(&s);
	set_mode("enforce");
	scene_text(&s, 106, "EVIL");
	assert_int_equal(s.guest_count, 0);
	assert_int_equal(s.client_count, 0); /* and is not reset */
	scene_pass(&s, 3 * MS);
	assert_int_equal(s.requests, 1);
	assert_int_equal(s.request.flow.first_sequence, CLIENT_ISN + 106);
	scene_gone(&s, s.request.begin.trial);
	assert_string_equal(text_of("hold", "disposition"), "dropped");
	scene_close(&s);
}

static void an_unknown_mode_or_service_changes_nothing(void **state)
{
	struct ft_refusal refusal;
	open_mode("enforce", "");
	json_t *message = json_pack("{s:s, s:s, s:s}", "what", "mode", "service", "web", "mode", "bypass");
	assert_null(ft_order(s.gate, message, &refusal));
	assert_int_equal(refusal.code, EX_USAGE);
	json_object_set_new(message, "service", json_string("wab"));
	assert_null(ft_order(s.gate, message, &refusal));
	assert_int_equal(refusal.code, EX_DATAERR);
	json_decref(message);
	scene_connect(&s);
	scene_text(&s, 1, "EVIL");
	assert_string_equal(scene_taken(&s), "");
	scene_close(&s);
}

/* ---- shadow ---- */

static void shadow_holds_nothing_and_says_what_enforce_would_have_done(void **state)
{
	open_mode("shadow", "\"gather\": 2000000");
	scene_connect(&s);
	scene_text(&s, 1, "EVIL");
	assert_string_equal(scene_taken(&s), "EVIL");
	assert_int_equal(s.requests, 1);
	assert_memory_equal(s.request.clone.bytes, "EVIL", 4); /* tried as the guest took it */
	scene_pass(&s, 30 * MS);
	scene_answer(&s, false);
	const json_t *would = json_object_get(scene_record(&s, "hold"), "would");
	assert_string_equal(text_of("hold", "mode"), "shadow");
	assert_string_equal(text_of("hold", "disposition"), "observed");
	assert_string_equal(text_of("hold", "disposition_reason"), "pass.shadow");
	assert_string_equal(json_string_value(json_object_get(would, "reason")), "release.clean");
	assert_int_equal(number(would, NULL, "delay_ns"), 32 * MS); /* gathering, then the trial */
	/* An innocent-looking rest is tried as well, as it would have been, and an attack would have been dropped. */
	scene_text(&s, 5, "rest");
	assert_int_equal(s.requests, 2);
	scene_pass(&s, 50 * MS);
	scene_answer(&s, true);
	assert_string_equal(scene_taken(&s), "EVILrest");
	assert_int_equal(s.client_count, 0); /* nobody is reset */
	/* What comes behind would have come to a dead connection. */
	scene_text(&s, 9, "EVIL");
	assert_int_equal(s.requests, 2);
	json_t *all = report();
	assert_int_equal(number(all, NULL, "held"), 2);
	assert_int_equal(number(all, NULL, "held_bytes"), 8);
	assert_int_equal(number(all, NULL, "dropped"), 1);
	assert_int_equal(number(all, NULL, "dropped_behind"), 1);
	assert_int_equal(number(all, "outcomes", "release.clean"), 1);
	assert_int_equal(number(all, "outcomes", "drop.verdict"), 1);
	assert_int_equal(number(all, "delay_ns", "longest"), 52 * MS);
	assert_in_range(number(all, "delay_ns", "p50"), 32 * MS, 36 * MS);
	assert_int_equal(number(all, "delay_ns", "p99"), 52 * MS);
	assert_int_equal(number(all, NULL, "clone_ns"), 80 * MS);
	const json_t *rule = json_array_get(json_object_get(all, "rules"), 0);
	assert_int_equal(number(rule, NULL, "sid"), 1000001);
	assert_int_equal(number(rule, NULL, "held"), 1);
	assert_int_equal(number(rule, NULL, "dropped"), 0);
	json_decref(all);
	assert_int_equal(scene_count(&s, FT_REASON_PASS_SHADOW), 3);
	scene_close(&s);
}

/* Holds of one connection wait for each other in enforce mode, and so do their delays here. */
static void shadow_counts_the_wait_behind_a_hold(void **state)
{
	scene_clones = "\"max\": 4, \"source\": 3";
	open_mode("shadow", "\"gather\": 0");
	scene_connect(&s);
	scene_text(&s, 1, "EVIL");
	struct request first = s.request;
	scene_text(&s, 5, "more");
	struct request second = s.request;
	scene_pass(&s, 40 * MS);
	s.request = first;
	scene_answer(&s, false);
	s.request = second;
	scene_answer(&s, false);
	json_t *all = report();
	assert_int_equal(number(all, "delay_ns", "longest"), 80 * MS);
	json_decref(all);
	scene_close(&s);
	scene_clones = "\"max\": 1";
}

static void shadow_asks_policies_and_limits(void **state)
{
	open_mode(
	    "shadow",
	    "\"on_error\": \"drop\", \"on_overload\": \"tempfail\", \"trials_per_flow\": 1, \"gather\": 0");
	scene_connect(&s);
	scene_text(&s, 1, "EVIL");
	connect_anew();
	scene_text(&s, 1, "EVIL"); /* no clone is free: enforce would have waited */
	scene_gone(&s, s.request.begin.trial);
	s.client_port--;
	scene_text(&s, 5, "EVIL");
	assert_int_equal(scene_count(&s, FT_REASON_PASS_SHADOW), 3);
	connect_anew();
	s.client_port = 50000;
	connect_anew();
	scene_text(&s, 1, "EVIL");
	scene_answer(&s, false);
	scene_text(&s, 5, "EVIL"); /* its trials are used up */
	json_t *all = report();
	assert_int_equal(number(all, NULL, "untried"), 1);
	assert_int_equal(number(all, NULL, "held"), 3);
	assert_int_equal(number(all, "outcomes", "drop.error"), 1);
	assert_int_equal(number(all, NULL, "dropped_behind"), 1);
	assert_int_equal(number(all, "outcomes", "release.clean"), 1);
	assert_int_equal(number(all, "outcomes", "tempfail.overload"), 1);
	assert_int_equal(number(all, NULL, "dropped"), 2);
	json_decref(all);
	scene_close(&s);
}

static void the_end_of_shadow_mode_is_reported(void **state)
{
	open_mode("shadow", "");
	scene_connect(&s);
	scene_text(&s, 1, "EVIL");
	scene_answer(&s, false);
	scene_pass(&s, 1000 * MS);
	json_t *result =
	    order(json_pack("{s:s, s:s, s:s}", "what", "mode", "service", "web", "mode", "enforce"));
	assert_int_equal(number(result, "report", "held"), 1);
	assert_string_equal(json_string_value(json_object_get(result, "before")), "shadow");
	json_decref(result);
	assert_string_equal(text_of("event", "type"), "shadow-report");
	assert_non_null(strstr(text_of("event", "text"), ": 1 holds (1 frames), 0 of them dropped"));
	/* The report stays until shadow mode begins anew. */
	scene_pass(&s, 1000 * MS);
	json_t *all = report();
	assert_true(json_is_true(json_object_get(all, "ended")));
	assert_int_equal(number(all, NULL, "lasted_ns"), 1000 * MS);
	json_decref(all);
	set_mode("shadow");
	all = report();
	assert_int_equal(number(all, NULL, "held"), 0);
	json_decref(all);
	scene_close(&s);
	open_mode("enforce", "");
	assert_null(report()); /* never was in it */
	scene_close(&s);
}

static void a_percentile_is_at_most_an_eighth_too_high(void **state)
{
	static struct ft_shadow shadow;
	struct ft_pattern pattern = {.sid = 5, .name = "x"};
	struct ft_hold hold = {.trigger = {.reason = FT_REASON_HOLD_RULE, .pattern = &pattern}};
	for (uint64_t ns = 0; ns < 64; ns++) {
		uint64_t one = ns < 3 ? ns : (1ull << ns % 50) + ns;
		ft_shadow_begin(&shadow, 0, 1);
		ft_shadow_decided(&shadow, &hold, FT_REASON_RELEASE_CLEAN, one);
		ft_shadow_decided(&shadow, &hold, FT_REASON_RELEASE_CLEAN, UINT64_MAX / 2);
		assert_in_range(ft_shadow_delay(&shadow, 500), one, one + one / 8);
	}
}

/* ---- bypass ---- */

static void bypass_releases_what_is_held_and_looks_at_nothing(void **state)
{
	open_mode("enforce", "");
	scene_connect(&s);
	scene_text(&s, 1, "EVIL");
	scene_pass(&s, 3 * MS);
	uint64_t hold = s.request.begin.trial;
	scene_text(&s, 5, "more"); /* waits behind it */
	json_t *result = set_bypass(true, "web");
	assert_int_equal(number(result, NULL, "released"), 2);
	assert_int_equal(json_array_size(json_object_get(result, "services")), 1);
	json_decref(result);
	scene_pass(&s, 0);
	assert_string_equal(scene_taken(&s), "EVILmore");
	assert_int_equal(scene_count(&s, FT_REASON_RELEASE_BYPASS), 2);
	assert_string_equal(text_of("hold", "disposition_reason"), "release.bypass");
	scene_gone(&s, hold);
	scene_text(&s, 9, "EVIL");
	assert_string_equal(scene_taken(&s), "EVILmoreEVIL");
	assert_int_equal(scene_count(&s, FT_REASON_PASS_BYPASS), 1);
	assert_int_equal(s.requests, 1);
	json_t *status = ft_gate_status(s.gate, false);
	const json_t *web = json_object_get(json_object_get(status, "services"), "web");
	assert_true(json_is_true(json_object_get(web, "bypass")));
	assert_true(json_is_false(
	    json_object_get(json_object_get(json_object_get(status, "services"), "dns"), "bypass")));
	json_decref(status);
	/* On again: this very connection is inspected from here on, and so is one that began meanwhile. */
	scene_text(&s, 23, "behind a gap");
	scene_text(&s, 13, "which comes");
	s.client_port++;
	s.live.length = 0;
	scene_connect(&s);
	scene_text(&s, 1, "hello");
	json_decref(set_bypass(false, "web"));
	scene_text(&s, 6, "EVIL");
	s.client_port--;
	scene_text(&s, 23, "behind a gap"); /* again, and the same */
	assert_int_equal(scene_count(&s, FT_REASON_HOLD_OVERLAP), 0);
	scene_text(&s, 35, "EVIL");
	assert_int_equal(s.client_count, 0);
	assert_string_equal(scene_taken(&s), "hello");
	json_t *holds = ft_gate_holds(s.gate);
	assert_int_equal(json_array_size(holds), 2);
	json_decref(holds);
	scene_close(&s);
}

/* What waits behind a release that found the guest's ring full is released after it, and untried too. */
static void bypass_keeps_the_order_behind_a_full_ring(void **state)
{
	static uint8_t frame[2048];
	static char block[1400];
	open_mode("enforce", "");
	scene_connect(&s);
	scene_text(&s, 1, "EVIL");
	scene_pass(&s, 3 * MS);
	scene_text(&s, 5, "more");
	for (uint64_t full = 1; full <= 2; full++) { /* large ones, then small ones in what is left */
		size_t length =
		    scene_build(&s, false, 1, 1, FT_TCP_ACK, block, full == 1 ? sizeof(block) : 0, frame);
		memcpy(frame, "\2\0\0\0\0\1", 6); /* to the guest, and for no service */
		while (scene_count(&s, FT_REASON_DROP_RING_FULL) < full)
			ft_gate_wire(s.gate, 0, frame, length);
	}
	struct ft_refusal refusal;
	json_t *message = json_pack("{s:s, s:b}", "what", "bypass", "on", 1);
	json_decref(ft_order(s.gate, message, &refusal));
	json_decref(message);
	ft_gate_tick(s.gate);
	assert_int_equal(scene_count(&s, FT_REASON_RELEASE_BYPASS), 0);
	while (scene_count(&s, FT_REASON_RELEASE_BYPASS) < 2) {
		uint32_t kind;
		static uint8_t taken[FT_RING_RECORD_MAX];
		for (int i = 0; i < 200; i++)
			ft_ring_get(&s.vmm.rx, &kind, taken, sizeof(taken));
		ft_gate_tick(s.gate);
		assert_true(scene_count(&s, FT_REASON_DROP_RING_FULL) < 10);
	}
	assert_int_equal(s.requests, 1);
	assert_int_equal(scene_count(&s, FT_REASON_RELEASE_BYPASS), 2);
	scene_close(&s);
}

static void bypass_of_all_lets_pass_what_is_refused_otherwise(void **state)
{
	uint8_t frame[256];
	open_mode("enforce", "");
	scene_connect(&s);
	scene_text(&s, 1, "EVIL");
	scene_pass(&s, 3 * MS);
	scene_answer(&s, true); /* this connection is dead */
	size_t length = scene_build(&s, true, 5, 1, FT_TCP_ACK, "hello", 5, frame);
	scene_frame(&s, frame, length);
	assert_int_equal(scene_count(&s, FT_REASON_DROP_FLOW_DEAD), 1);
	scene_forget(&s);
	json_t *result = set_bypass(true, NULL);
	assert_true(json_is_true(json_object_get(result, "all")));
	assert_int_equal(json_array_size(json_object_get(result, "services")), 2);
	json_decref(result);
	scene_frame(&s, frame, length);
	assert_int_equal(s.guest_count, 1);
	s.client_port = 1; /* a connection that nobody has seen the beginning of */
	scene_text(&s, 100, "EVIL");
	assert_int_equal(s.guest_count, 2);
	assert_int_equal(scene_count(&s, FT_REASON_PASS_BYPASS), 2);
	assert_int_equal(s.client_count, 0);
	/* Off for one alone is not off while it is off for all. */
	json_decref(set_bypass(false, "web"));
	scene_text(&s, 104, "EVIL");
	assert_int_equal(scene_count(&s, FT_REASON_PASS_BYPASS), 3);
	json_decref(set_bypass(false, NULL));
	scene_text(&s, 108, "EVIL");
	assert_int_equal(scene_count(&s, FT_REASON_PASS_BYPASS), 3);
	scene_close(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(what_is_held_is_decided_as_it_began),
	    cmocka_unit_test(a_connection_that_was_observed_is_held_from_then_on),
	    cmocka_unit_test(an_unknown_mode_or_service_changes_nothing),
	    cmocka_unit_test(shadow_holds_nothing_and_says_what_enforce_would_have_done),
	    cmocka_unit_test(shadow_counts_the_wait_behind_a_hold),
	    cmocka_unit_test(shadow_asks_policies_and_limits),
	    cmocka_unit_test(the_end_of_shadow_mode_is_reported),
	    cmocka_unit_test(a_percentile_is_at_most_an_eighth_too_high),
	    cmocka_unit_test(bypass_releases_what_is_held_and_looks_at_nothing),
	    cmocka_unit_test(bypass_keeps_the_order_behind_a_full_ring),
	    cmocka_unit_test(bypass_of_all_lets_pass_what_is_refused_otherwise),
	};
	if (scene_start_eal())
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
