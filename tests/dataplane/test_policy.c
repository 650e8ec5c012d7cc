/* What becomes of held input without a verdict: each exception under each policy, seen from both ends. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <cmocka.h>

#include "dataplane/order.h"
#include "dataplane/policy.h"
#include "scene.h"

static struct scene s;

static void open_with(const char *policies)
{
	char text[512];
	snprintf(text, sizeof(text), "\"risks\": \"none\", \"mode\": \"enforce\", %s", policies);
	scene_open(&s, text);
	scene_connect(&s);
}

static const char *text_of(const char *key)
{
	return json_string_value(json_object_get(scene_record(&s, "hold"), key));
}

/* ---- the ways to each exception; afterwards "EVIL" (or more) is held no longer ---- */

static void end_trial(unsigned end)
{
	scene_text(&s, 1, "EVIL");
	scene_pass(&s, 3 * MS);
	assert_int_equal(s.requests, 1);
	scene_event(&s, s.request.begin.trial, FT_EVENT_TRIAL_END, FT_ROLE_TRIAL,
		    (uint64_t[6]){end, 1, 2, 3, 0}, "", NULL);
	scene_pass(&s, 0);
	scene_gone(&s, s.request.begin.trial);
}

static void time_runs_out(void)
{
	end_trial(FT_TRIAL_END_WALL);
}

static void instructions_run_out(void)
{
	end_trial(FT_TRIAL_END_INSTRUCTIONS);
}

static void nobody_answers(void)
{
	scene_text(&s, 1, "EVIL");
	scene_pass(&s, 3 * MS);
	scene_pass(&s, 60000 * MS);
}

static void the_clone_dies(void)
{
	end_trial(FT_TRIAL_END_KILLED);
}

static void the_clone_takes_nothing(void)
{
	end_trial(FT_TRIAL_END_HORIZON);
}

static void the_slots_are_taken(void)
{
	scene_text(&s, 1, "EVIL");
	scene_pass(&s, 3 * MS);
	scene_event(&s, s.request.begin.trial, FT_EVENT_SEED_GONE, FT_ROLE_SEED, (uint64_t[6]){FT_SEED_BUSY},
		    "", NULL);
	scene_pass(&s, 0);
}

static void no_clone_is_free(void)
{
	uint16_t port = s.client_port;
	s.client_port = 50000;
	scene_connect(&s);
	scene_text(&s, 1, "EVIL");
	scene_pass(&s, 3 * MS);
	assert_int_equal(s.requests, 1);
	memset(&s.live, 0, sizeof(s.live));
	scene_forget(&s);
	s.client_port = port;
	s.live.next = CLIENT_ISN + 1;
	s.live.sent = GUEST_ISN + 1;
	scene_text(&s, 1, "EVIL");
	scene_pass(&s, 3 * MS);
	scene_forget(&s);
	scene_pass(&s, 1100 * MS); /* the scene's wall budget is a second */
	s.client_port = port;
}

static void it_is_too_long(void)
{
	char block[1000];
	memset(block, 'a', sizeof(block));
	memcpy(block, "EVIL", 4);
	for (uint32_t i = 0; i < 3; i++) {
		scene_client(&s, 1 + i * 1000, 1, FT_TCP_ACK, block, sizeof(block));
		scene_pass(&s, 3 * MS);
		if (i < 2)
			scene_answer(&s, false);
	}
	assert_int_equal(s.requests, 2); /* 2048 bytes may be tried */
}

static const struct {
	enum ft_exception exception;
	void (*way)(void);
	bool hopeless;      /* another try of this connection cannot help */
	const char *passed; /* what the guest had before */
	const char *held;
} ways[] = {
    {FT_EXCEPTION_TIMEOUT, time_runs_out, false, "", "EVIL"},
    {FT_EXCEPTION_TIMEOUT, instructions_run_out, false, "", "EVIL"},
    {FT_EXCEPTION_TIMEOUT, nobody_answers, false, "", "EVIL"},
    {FT_EXCEPTION_ERROR, the_clone_dies, false, "", "EVIL"},
    {FT_EXCEPTION_ERROR, the_clone_takes_nothing, false, "", "EVIL"},
    {FT_EXCEPTION_OVERLOAD, the_slots_are_taken, false, "", "EVIL"},
    {FT_EXCEPTION_OVERLOAD, no_clone_is_free, false, "", "EVIL"},
    {FT_EXCEPTION_OVERSIZE, it_is_too_long, true, NULL, NULL},
};

static unsigned resets(const struct wire *list, unsigned count)
{
	unsigned n = 0;
	for (unsigned i = 0; i < count; i++)
		n += !!(list[i].frame.flags & FT_TCP_RST);
	return n;
}

/* Only this exception has the policy, the others have another one: each key is its own. */
static void open_for(enum ft_exception exception, enum ft_policy policy)
{
	char text[300];
	snprintf(text, sizeof(text),
		 "\"on_exception\": \"%s\", \"on_%s\": \"%s\", \"hold_limit\": 2048, \"input_limit\": 2048",
		 ft_policy_name(policy == FT_POLICY_DROP ? FT_POLICY_RELEASE : FT_POLICY_DROP),
		 ft_exception_name(exception), ft_policy_name(policy));
	open_with(text);
}

static void each_exception_is_dropped_where_its_policy_says_so(void **state)
{
	for (size_t i = 0; i < sizeof(ways) / sizeof(*ways); i++) {
		enum ft_reason reason = ft_policy_reason(ways[i].exception, FT_POLICY_DROP);
		open_for(ways[i].exception, FT_POLICY_DROP);
		size_t before = ways[i].held ? 0 : 2000;
		ways[i].way();
		assert_int_equal(s.live.length, before);
		assert_string_equal(text_of("disposition"), "dropped");
		assert_string_equal(text_of("disposition_reason"), ft_reason_label(reason));
		assert_int_equal(scene_count(&s, reason), 1);
		assert_true(resets(s.to_client, s.client_count) >= 1);
		assert_int_equal(resets(s.to_guest, s.guest_count), 1);
		assert_non_null(scene_record(&s, "packets"));
		scene_close(&s);
	}
}

static void each_exception_is_released_where_its_policy_says_so(void **state)
{
	for (size_t i = 0; i < sizeof(ways) / sizeof(*ways); i++) {
		enum ft_reason reason = ft_policy_reason(ways[i].exception, FT_POLICY_RELEASE);
		open_for(ways[i].exception, FT_POLICY_RELEASE);
		ways[i].way();
		if (ways[i].held)
			assert_string_equal(scene_taken(&s), ways[i].held);
		else
			assert_int_equal(s.live.length, 3000);
		assert_string_equal(text_of("disposition"), "released");
		assert_string_equal(text_of("disposition_reason"), ft_reason_label(reason));
		assert_int_equal(scene_count(&s, reason), 1);
		assert_int_equal(resets(s.to_client, s.client_count), 0);
		assert_null(scene_record(&s, "packets"));
		scene_close(&s);
	}
}

static void each_exception_is_tried_again_where_its_policy_says_so(void **state)
{
	for (size_t i = 0; i < sizeof(ways) / sizeof(*ways); i++) {
		enum ft_reason reason = ft_policy_reason(ways[i].exception, FT_POLICY_TEMPFAIL);
		open_for(ways[i].exception, FT_POLICY_TEMPFAIL);
		ways[i].way();
		assert_string_equal(text_of("disposition"), ways[i].hopeless ? "reset" : "tempfailed");
		assert_string_equal(text_of("disposition_reason"), ft_reason_label(reason));
		assert_int_equal(scene_count(&s, reason), 1);
		assert_null(scene_record(&s, "packets"));
		assert_int_equal(resets(s.to_client, s.client_count) >= 1, ways[i].hopeless);
		assert_int_equal(resets(s.to_guest, s.guest_count), ways[i].hopeless);
		if (!ways[i].hopeless) {
			assert_string_equal(scene_taken(&s), "");
			/* The sender heard nothing, so it sends that again: held anew, tried anew. */
			unsigned requests = s.requests;
			scene_gone(&s, s.request.begin.trial); /* whose clone it was */
			scene_text(&s, 1, "EVIL");
			scene_pass(&s, 3 * MS);
			assert_int_equal(s.requests, requests + 1);
			assert_int_equal(s.request.flow.first_sequence, CLIENT_ISN + 1);
			scene_answer(&s, false);
			assert_string_equal(scene_taken(&s), "EVIL");
			assert_string_equal(text_of("disposition_reason"), "release.clean");
		}
		scene_close(&s);
	}
}

/* Bytes, a FIN and bytes in another version that wait behind what was not taken are not taken either; then all may come
 * again, in whatever version, and is tried as it comes. */
static void what_waits_behind_a_tempfail_comes_again_too(void **state)
{
	open_with("\"on_exception\": \"tempfail\"");
	s.strict = true;
	scene_text(&s, 1, "EVIL");
	scene_pass(&s, 3 * MS);
	scene_client(&s, 5, 1, FT_TCP_ACK | FT_TCP_FIN, "more", 4);
	scene_event(&s, s.request.begin.trial, FT_EVENT_TRIAL_END, FT_ROLE_TRIAL,
		    (uint64_t[6]){FT_TRIAL_END_KILLED, 1, 2, 3, 0}, "", NULL);
	scene_pass(&s, 0);
	scene_gone(&s, s.request.begin.trial);
	assert_string_equal(text_of("disposition_reason"), "tempfail.behind");
	assert_int_equal(scene_count(&s, FT_REASON_TEMPFAIL_BEHIND), 1);
	scene_client(&s, 1, 1, FT_TCP_ACK | FT_TCP_FIN, "EVILLESS", 8);
	assert_int_equal(scene_count(&s, FT_REASON_HOLD_OVERLAP), 0);
	scene_pass(&s, 3 * MS);
	assert_int_equal(s.requests, 2);
	scene_answer(&s, false);
	assert_string_equal(scene_taken(&s), "EVILLESS");
	assert_true(s.live.fin);
	assert_false(s.violated);
	scene_close(&s);
}

static void a_client_that_gave_up_is_not_waited_for(void **state)
{
	open_with("\"on_exception\": \"tempfail\"");
	scene_text(&s, 1, "EVIL");
	scene_client(&s, 5, 1, FT_TCP_RST | FT_TCP_ACK, "", 0);
	scene_pass(&s, 3 * MS);
	scene_gone(&s, s.request.begin.trial);
	assert_string_equal(text_of("disposition"), "reset");
	assert_int_equal(resets(s.to_guest, s.guest_count), 1);
	assert_int_equal(s.to_guest[0].frame.sequence, CLIENT_ISN + 1); /* where the guest takes it */
	scene_close(&s);
}

static void trials_used_up_are_no_reason_to_try_again(void **state)
{
	open_with("\"on_exception\": \"tempfail\", \"trials_per_flow\": 1");
	scene_text(&s, 1, "EVIL");
	scene_pass(&s, 3 * MS);
	scene_answer(&s, false);
	scene_text(&s, 5, "EVIL");
	scene_pass(&s, 3 * MS);
	assert_int_equal(s.requests, 1);
	assert_string_equal(text_of("disposition"), "reset");
	assert_string_equal(text_of("disposition_reason"), "tempfail.overload");
	scene_close(&s);
}

static void a_stop_resets_what_was_to_be_tried_again(void **state)
{
	open_with("\"on_error\": \"tempfail\"");
	scene_text(&s, 1, "EVIL");
	ft_gate_stop(s.gate);
	assert_string_equal(text_of("disposition"), "reset");
	assert_string_equal(text_of("disposition_reason"), "tempfail.shutdown");
	assert_int_equal(resets(s.to_client, s.client_count), 1);
	scene_close(&s);
}

/* A rule objects, though not as to an attack: that is a verdict and no exception. */
static void suspicious(const char *policies)
{
	open_with(policies);
	scene_text(&s, 1, "EVIL");
	scene_pass(&s, 3 * MS);
	uint64_t hold = s.request.begin.trial;
	s.sequence = 0;
	scene_event(&s, hold, FT_EVENT_TRIAL_HANDLED, FT_ROLE_TRIAL, (uint64_t[6]){4, 4, 1}, NULL, NULL);
	scene_event(&s, hold, FT_EVENT_RESET, FT_ROLE_TRIAL, NULL, "", NULL);
	scene_event(&s, hold, FT_EVENT_TRIAL_END, FT_ROLE_TRIAL,
		    (uint64_t[6]){FT_TRIAL_END_HORIZON, 1, 2, 3, 1}, "", NULL);
	scene_pass(&s, 0);
	assert_int_equal(s.twins, 1);
	s.sequence = 0;
	scene_event(&s, hold, FT_EVENT_TRIAL_END, FT_ROLE_TWIN,
		    (uint64_t[6]){FT_TRIAL_END_HORIZON, 1, 2, 3, 1}, "", NULL);
	scene_pass(&s, 0);
	assert_string_equal(text_of("verdict"), "suspicious");
}

static void a_suspicious_verdict_is_no_exception(void **state)
{
	suspicious("\"on_exception\": \"release\"");
	assert_string_equal(text_of("disposition_reason"), "drop.verdict");
	assert_string_equal(scene_taken(&s), "");
	scene_close(&s);
	suspicious("\"on_exception\": \"drop\", \"on_suspicious\": \"release\"");
	assert_string_equal(text_of("disposition_reason"), "release.suspicious");
	assert_string_equal(scene_taken(&s), "EVIL");
	assert_int_equal(scene_count(&s, FT_REASON_RELEASE_SUSPICIOUS), 1);
	scene_close(&s);
}

/* ---- what operators do ---- */

static json_t *order(json_t *message, int *code)
{
	struct ft_refusal refusal = {0};
	json_t *result = ft_order(s.gate, message, &refusal);
	*code = result ? 0 : refusal.code;
	json_decref(message);
	scene_pass(&s, 0);
	return result;
}

static int decide(const char *what, uint64_t hold)
{
	int code;
	json_decref(order(json_pack("{s:s, s:I}", "what", what, "hold", (json_int_t)hold), &code));
	return code;
}

static void an_operator_releases_an_open_hold(void **state)
{
	open_with("\"on_exception\": \"drop\"");
	scene_text(&s, 1, "EVIL");
	scene_pass(&s, 3 * MS);
	uint64_t hold = s.request.begin.trial;
	scene_text(&s, 5, "more");
	assert_int_equal(decide("release", hold + 1), EX_TEMPFAIL); /* waits behind the first */
	assert_int_equal(decide("release", hold + 7), EX_DATAERR);
	assert_int_equal(decide("sell", hold), 0); /* no such order, and nothing has come of it */
	assert_string_equal(scene_taken(&s), "");
	assert_int_equal(decide("release", hold), 0);
	assert_string_equal(text_of("disposition_reason"), "release.operator");
	assert_int_equal(scene_count(&s, FT_REASON_RELEASE_OPERATOR), 1);
	assert_string_equal(scene_taken(&s), "EVIL");
	assert_int_equal(s.finishes, 1); /* its clone is not needed any more */
	assert_int_equal(decide("release", hold), EX_DATAERR);
	scene_gone(&s, hold);
	/* What waited behind it is tried as ever. */
	scene_pass(&s, 3 * MS);
	assert_int_equal(s.requests, 2);
	scene_close(&s);
}

static void an_operator_drops_an_open_hold(void **state)
{
	open_with("\"on_exception\": \"release\"");
	scene_text(&s, 1, "EVIL");
	json_t *holds = ft_gate_holds(s.gate);
	uint64_t hold = (uint64_t)json_integer_value(json_object_get(json_array_get(holds, 0), "hold"));
	json_decref(holds);
	assert_int_equal(decide("drop", hold), 0);
	assert_string_equal(text_of("disposition_reason"), "drop.operator");
	assert_int_equal(scene_count(&s, FT_REASON_DROP_OPERATOR), 1);
	assert_string_equal(scene_taken(&s), "");
	assert_int_equal(resets(s.to_client, s.client_count), 1);
	assert_int_equal(resets(s.to_guest, s.guest_count), 1);
	assert_non_null(scene_record(&s, "packets"));
	scene_close(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(each_exception_is_dropped_where_its_policy_says_so),
	    cmocka_unit_test(each_exception_is_released_where_its_policy_says_so),
	    cmocka_unit_test(each_exception_is_tried_again_where_its_policy_says_so),
	    cmocka_unit_test(what_waits_behind_a_tempfail_comes_again_too),
	    cmocka_unit_test(a_client_that_gave_up_is_not_waited_for),
	    cmocka_unit_test(trials_used_up_are_no_reason_to_try_again),
	    cmocka_unit_test(a_stop_resets_what_was_to_be_tried_again),
	    cmocka_unit_test(a_suspicious_verdict_is_no_exception),
	    cmocka_unit_test(an_operator_releases_an_open_hold),
	    cmocka_unit_test(an_operator_drops_an_open_hold),
	};
	if (scene_start_eal())
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
