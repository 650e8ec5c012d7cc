/* Releases that wait for the ledger: nothing that was held reaches the guest before its decision is durable, and what becomes of
 * it when it never is. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <cmocka.h>

#include "base/durable.h"
#include "scene.h"

static struct scene s;
static struct ft_durable page;

/* A held input whose trial was clean: the gate has decided. */
static void decide(const char *on_failure, bool evil)
{
	static char keys[200];
	snprintf(keys, sizeof(keys), ", \"log\": {\"commit\": \"before-release\", \"on_failure\": \"%s\", \"timeout\": 2000000000}", on_failure);
	scene_keys = keys;
	scene_open(&s, "\"risks\": \"none\", \"mode\": \"enforce\"");
	scene_keys = "";
	page = (struct ft_durable){.run = 3, .sequence = 0, .working = 1};
	ft_gate_durable(s.gate, &page);
	scene_connect(&s);
	scene_text(&s, 1, "EVIL");
	scene_pass(&s, 3 * MS);
	scene_answer(&s, evil);
	scene_pass(&s, 0);
}

static json_int_t sequence(void)
{
	json_t *record = scene_record(&s, "decided");
	assert_non_null(record);
	assert_string_equal(json_string_value(json_object_get(record, "verdict")), "clean");
	assert_string_equal(json_string_value(json_object_get(record, "disposition")), "released");
	return json_integer_value(json_object_get(record, "sequence"));
}

static const char *reason(void)
{
	return json_string_value(json_object_get(scene_record(&s, "hold"), "disposition_reason"));
}

static unsigned decisions(void)
{
	unsigned n = 0;
	size_t i;
	json_t *record;
	json_array_foreach(s.records, i, record) n += !strcmp(json_string_value(json_object_get(record, "op")), "decided");
	return n;
}

static void nothing_goes_on_before_it_is_durable(void **state)
{
	decide("drop", false);
	json_int_t number = sequence();
	scene_pass(&s, 500 * MS);
	assert_string_equal(scene_taken(&s), "");
	assert_null(scene_record(&s, "hold"));
	/* Another's number is not this one's. */
	atomic_store(&page.sequence, (uint64_t)number - 1);
	scene_pass(&s, MS);
	assert_string_equal(scene_taken(&s), "");
	atomic_store(&page.sequence, (uint64_t)number);
	scene_pass(&s, MS);
	assert_string_equal(scene_taken(&s), "EVIL");
	assert_string_equal(reason(), "release.clean");
	assert_int_equal(decisions(), 1);
	scene_close(&s);
}

/* The ledger died: what it had in memory is gone, whatever number the next one comes to. */
static void a_new_ledger_is_told_again(void **state)
{
	decide("drop", false);
	json_int_t first = sequence();
	atomic_store(&page.run, 4);
	atomic_store(&page.sequence, (uint64_t)first);
	scene_pass(&s, MS);
	assert_string_equal(scene_taken(&s), "");
	assert_int_equal(decisions(), 2);
	json_int_t second = sequence();
	assert_true(second > first);
	atomic_store(&page.sequence, (uint64_t)second);
	scene_pass(&s, MS);
	assert_string_equal(scene_taken(&s), "EVIL");
	scene_close(&s);
}

static void without_a_ledger_on_failure_decides(void **state)
{
	static const struct {
		const char *on_failure, *taken, *reason;
	} cases[] = {{"release", "EVIL", "release.ledger"}, {"drop", "", "drop.ledger"}};
	for (unsigned i = 0; i < 2; i++) {
		/* One that is slow... */
		decide(cases[i].on_failure, false);
		scene_pass(&s, 1900 * MS);
		assert_string_equal(scene_taken(&s), "");
		assert_null(scene_record(&s, "hold"));
		scene_pass(&s, 200 * MS);
		assert_string_equal(scene_taken(&s), cases[i].taken);
		assert_string_equal(reason(), cases[i].reason);
		assert_non_null(strstr(s.log, "log.on_failure"));
		scene_close(&s);
		/* ... and one that says that there is none. */
		decide(cases[i].on_failure, false);
		atomic_store(&page.working, 0);
		scene_pass(&s, MS);
		assert_string_equal(scene_taken(&s), cases[i].taken);
		assert_string_equal(reason(), cases[i].reason);
		scene_close(&s);
	}
}

static void held_until_the_ledger_is_back(void **state)
{
	decide("hold", false);
	for (unsigned i = 0; i < 100; i++)
		scene_pass(&s, 1000 * MS);
	assert_string_equal(scene_taken(&s), "");
	atomic_store(&page.sequence, (uint64_t)sequence());
	scene_pass(&s, MS);
	assert_string_equal(scene_taken(&s), "EVIL");
	json_t *status = ft_gate_status(s.gate, false);
	assert_int_equal(json_integer_value(json_object_get(json_object_get(status, "decisions"), "failed")), 1);
	json_decref(status);
	scene_close(&s);
}

static void the_end_of_the_gateway_waits_for_nobody(void **state)
{
	decide("hold", false);
	ft_gate_stop(s.gate);
	scene_pass(&s, 0);
	assert_string_equal(scene_taken(&s), "");
	assert_string_equal(reason(), "drop.ledger");
	scene_close(&s);
}

static void a_drop_waits_for_nobody(void **state)
{
	decide("drop", true);
	assert_null(scene_record(&s, "decided"));
	assert_string_equal(reason(), "drop.verdict");
	assert_string_equal(scene_taken(&s), "");
	scene_close(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(nothing_goes_on_before_it_is_durable),
	    cmocka_unit_test(a_new_ledger_is_told_again),
	    cmocka_unit_test(without_a_ledger_on_failure_decides),
	    cmocka_unit_test(held_until_the_ledger_is_back),
	    cmocka_unit_test(the_end_of_the_gateway_waits_for_nobody),
	    cmocka_unit_test(a_drop_waits_for_nobody),
	};
	return scene_start_eal() ? EX_UNAVAILABLE : cmocka_run_group_tests(tests, NULL, NULL);
}
