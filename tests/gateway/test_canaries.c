/* What follows from self-tests for readiness, the feed and the watchdog. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "gateway/canaries.h"

#define S      1000000000ull
#define RECENT (100 * S)

static struct ft_canary_state states[2];
static struct ft_canaries canaries;
static unsigned told, alarms;
static char last[512];

static int reset(void **state)
{
	states[0] = (struct ft_canary_state){
	    .service = "http", .guest = "web", .result = FT_CANARY_RESULT_COUNT, .since = 1000 * S};
	states[1] = (struct ft_canary_state){.service = "ssh", .guest = "web", .result = FT_CANARY_OFF};
	canaries = (struct ft_canaries){.list = states, .count = 2, .every_ns = 30 * S, .recent_ns = RECENT};
	told = alarms = 0;
	last[0] = 0;
	return 0;
}

static void tell(void *context, const char *guest, bool failing, const char *text)
{
	assert_string_equal(guest, "web");
	told++;
	alarms += failing;
	snprintf(last, sizeof(last), "%s", text);
}

static uint64_t at(uint64_t seconds)
{
	return ft_canaries_serve(&canaries, seconds * S, tell, NULL);
}

static bool comes(const char *result, uint64_t seconds)
{
	json_t *message = json_pack("{s:s, s:s, s:s, s:I}", "service", "http", "result", result, "why",
				    "it is \x1b[31mred", "took_ns", (json_int_t)5);
	bool taken = ft_canaries_note(&canaries, message, seconds * S);
	json_decref(message);
	at(seconds);
	return taken;
}

static bool ready(uint64_t seconds)
{
	json_t *json = ft_canaries_json(&canaries, seconds * S);
	bool ok = true;
	const char *name;
	json_t *one;
	json_object_foreach(json_object_get(json, "services"), name, one) ok &= json_is_true(json_object_get(one, "ok"));
	json_decref(json);
	return ok;
}

static bool live(uint64_t seconds)
{
	return ft_canaries_live(&canaries, seconds * S);
}

static void ready_is_who_passed_lately(void **state)
{
	assert_false(ready(1000));
	assert_true(comes("ok", 1010));
	assert_true(ready(1010) && ready(1110));
	assert_false(ready(1111));
	assert_int_equal(told, 0);
}

static void a_test_that_does_not_come_any_more_is_an_alarm_and_stops_the_watchdog(void **state)
{
	comes("ok", 1010);
	/* It is looked at in time, though nothing happens. */
	assert_int_equal(at(1010), 1110 * S + 1);
	at(1110);
	assert_true(live(1110));
	assert_int_equal(told, 0);
	at(1111);
	assert_int_equal(alarms, 1);
	assert_non_null(strstr(last, "it has not run for 101 s"));
	assert_false(live(1111));
	at(1200);
	assert_int_equal(told, 1); /* once */
	comes("ok", 1201);
	assert_string_equal(last, "the self-test of service http passes again");
	assert_true(live(1201) && ready(1201));
}

static void a_failure_is_told_at_once_and_bites_when_it_stays(void **state)
{
	comes("ok", 1010);
	comes("failed", 1020);
	assert_int_equal(alarms, 1);
	assert_non_null(strstr(last, "\\x1b[31mred")); /* cleaned */
	assert_false(ready(1020));
	assert_true(live(1020) && live(1110));
	comes("failed", 1111);
	assert_false(live(1111));
	assert_int_equal(told, 1);
}

static void a_udp_service_has_time_to_start(void **state)
{
	states[0].udp = true;
	comes("failed", 1010);
	assert_int_equal(alarms, 0);
	assert_false(ready(1010));
	comes("failed", 1101);
	assert_int_equal(alarms, 1);
	comes("ok", 1110);
	comes("failed", 1120);
	assert_int_equal(alarms, 2);
}

static void a_guest_that_starts_is_no_alarm_unless_it_takes_for_ever(void **state)
{
	comes("silent", 1010);
	comes("refused", 1020);
	comes("silent", 1030);
	at(1120);
	assert_int_equal(told, 0);
	assert_false(ready(1120));
	at(1121); /* RECENT after somebody was there last who could have passed */
	assert_int_equal(alarms, 1);
	assert_true(live(1121) && live(9999)); /* but it never worked, so a restart is no remedy */
}

static bool hung(uint64_t seconds)
{
	return ft_canaries_hung(&canaries, "web", seconds * S);
}

static void a_guest_that_falls_silent_hangs_but_not_the_gateway(void **state)
{
	comes("silent", 1005);
	assert_false(hung(9999)); /* it never passed: it may be booting, or nobody there */
	comes("ok", 1010);
	comes("silent", 1020);
	assert_int_equal(alarms, 1);
	comes("silent", 1110);
	assert_false(hung(1110));
	assert_true(hung(1111));
	assert_false(ft_canaries_hung(&canaries, "mail", 1111 * S));
	assert_true(live(1111) && live(1210));
	/* Unless the one who says so falls silent itself. */
	assert_false(live(1211));
	comes("down", 1212);
	assert_false(hung(1212));
}

static void a_guest_that_passes_for_another_service_does_not_hang(void **state)
{
	states[1].result = FT_CANARY_OK;
	states[1].last_ok = states[1].heard = 1100 * S;
	comes("ok", 1010);
	comes("silent", 1020);
	assert_false(hung(1111) || hung(1200));
	assert_true(hung(1201));
}

static void what_is_no_fault_of_the_gateway_does_not_stop_the_watchdog(void **state)
{
	const char *const innocent[] = {"refused", "down", "off", "busy"};
	for (size_t i = 0; i < 4; i++) {
		reset(NULL);
		comes("ok", 1010);
		comes(innocent[i], 1020);
		comes(innocent[i], 4950);
		assert_true(live(1020) && live(5000));
		assert_int_equal(ready(1020), !strcmp(innocent[i], "off"));
	}
	/* That all clones are taken for long is no reason to end the gateway, but worth an alarm. */
	at(5000);
	assert_int_equal(alarms, 1);
}

static void another_dataplane_starts_anew(void **state)
{
	comes("ok", 1010);
	comes("failed", 1020);
	ft_canaries_forget(&canaries, 1030 * S);
	at(1030);
	assert_true(live(5000));
	assert_false(ready(1030));
	assert_int_equal(told, 1);
	comes("ok", 1040);
	assert_int_equal(told, 2);
}

static void what_makes_no_sense_is_refused(void **state)
{
	assert_false(comes("wonderful", 1010));
	json_t *const wrong[] = {
	    json_pack("{s:s, s:s, s:s}", "service", "smtp", "result", "ok", "why", ""),
	    json_pack("{s:i, s:s, s:s}", "service", 1, "result", "ok", "why", ""),
	    json_pack("{s:s, s:s}", "service", "http", "result", "ok"),
	    json_pack("{s:s, s:s, s:s, s:i}", "service", "http", "result", "ok", "why", "", "took_ns", -1),
	    json_pack("{}"),
	};
	for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
		assert_false(ft_canaries_note(&canaries, wrong[i], 1010 * S));
		json_decref(wrong[i]);
	}
	assert_false(ready(1010));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup(ready_is_who_passed_lately, reset),
	    cmocka_unit_test_setup(a_test_that_does_not_come_any_more_is_an_alarm_and_stops_the_watchdog, reset),
	    cmocka_unit_test_setup(a_failure_is_told_at_once_and_bites_when_it_stays, reset),
	    cmocka_unit_test_setup(a_udp_service_has_time_to_start, reset),
	    cmocka_unit_test_setup(a_guest_that_starts_is_no_alarm_unless_it_takes_for_ever, reset),
	    cmocka_unit_test_setup(a_guest_that_falls_silent_hangs_but_not_the_gateway, reset),
	    cmocka_unit_test_setup(a_guest_that_passes_for_another_service_does_not_hang, reset),
	    cmocka_unit_test_setup(what_is_no_fault_of_the_gateway_does_not_stop_the_watchdog, reset),
	    cmocka_unit_test_setup(another_dataplane_starts_anew, reset),
	    cmocka_unit_test_setup(what_makes_no_sense_is_refused, reset),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
