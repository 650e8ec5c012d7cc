/* Suppressions: what they let pass is exactly what they name, counted, and no longer than they last. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "dataplane/order.h"
#include "dataplane/suppress.h"
#include "scene.h"

static struct scene s;

static int begin(void **state)
{
	scene_open(&s, "\"risks\": \"none\", \"mode\": \"enforce\"");
	return 0;
}

static int end(void **state)
{
	scene_close(&s);
	return 0;
}

/* list: of entries, taken over. */
static json_t *suppress(json_t *list)
{
	struct ft_refusal refusal;
	json_t *message = json_pack("{s:s, s:o}", "what", "suppress", "list", list);
	json_t *result = ft_order(s.gate, message, &refusal);
	json_decref(message);
	return result;
}

static void suppress_one(json_t *entry)
{
	json_object_set_new(entry, "id", json_integer(1));
	if (!json_object_get(entry, "until_ns"))
		json_object_set_new(entry, "until_ns", json_integer((json_int_t)(s.now + 1000 * MS)));
	json_t *result = suppress(json_pack("[o]", entry));
	assert_non_null(result);
	json_decref(result);
}

static json_int_t hits(void)
{
	struct ft_refusal refusal;
	json_t *message = json_pack("{s:s}", "what", "suppressions");
	json_t *list = ft_order(s.gate, message, &refusal);
	json_int_t value = json_integer_value(json_object_get(json_array_get(list, 0), "hits"));
	json_decref(message);
	json_decref(list);
	return value;
}

/* A new connection that sends something suspicious: does it pass? */
static bool passes(uint32_t host)
{
	s.client_host = host;
	s.client_port++;
	memset(&s.live, 0, sizeof(s.live));
	scene_connect(&s);
	scene_text(&s, 1, "EVIL");
	bool passed = !strcmp(scene_taken(&s), "EVIL");
	scene_forget(&s);
	return passed;
}

static void a_rule_is_suppressed_until_its_time_is_over(void **state)
{
	assert_false(passes(1));
	suppress_one(json_pack("{s:i}", "sid", 1000001));
	assert_true(passes(1));
	assert_true(passes(2));
	assert_int_equal(hits(), 2);
	assert_int_equal(scene_count(&s, FT_REASON_PASS_SUPPRESSED), 2);
	scene_pass(&s, 1000 * MS);
	assert_false(passes(1));
	assert_int_equal(hits(), 2);
}

static void another_rule_is_not(void **state)
{
	suppress_one(json_pack("{s:i}", "sid", 1000002));
	assert_false(passes(1));
	assert_int_equal(hits(), 0);
}

static void a_network_is_exactly_that(void **state)
{
	/* The scene's clients are 10.0.2.9 and on: 10.0.2.16/30 has .16 to .19. */
	suppress_one(json_pack("{s:s}", "network", "10.0.2.16/30"));
	assert_false(passes(6));
	assert_true(passes(7));
	assert_true(passes(10));
	assert_false(passes(11));
	suppress_one(json_pack("{s:s}", "network", "10.0.2.11"));
	assert_true(passes(2));
	assert_false(passes(7));
	s.six = true;
	suppress_one(json_pack("{s:s}", "network", "0.0.0.0/0")); /* of IPv4 */
	assert_false(passes(2));
	suppress_one(json_pack("{s:s}", "network", "fd00::/14"));
	assert_true(passes(2));
	suppress_one(json_pack("{s:s}", "network", "fe00::/16"));
	assert_false(passes(2));
}

static void a_service_is_exactly_that(void **state)
{
	suppress_one(json_pack("{s:s}", "service", "dns"));
	assert_false(passes(1));
	suppress_one(json_pack("{s:s, s:i}", "service", "web", "sid", 1000001));
	assert_true(passes(1));
	assert_int_equal(hits(), 1); /* the same entry goes on counting */
}

static void a_suspicious_connection_stays_so(void **state)
{
	assert_false(passes(1));
	scene_pass(&s, 3 * MS);
	scene_answer(&s, false);
	suppress_one(json_pack("{s:i}", "sid", 1000001));
	scene_text(&s, 5, "EVIL");
	assert_string_equal(scene_taken(&s), "EVIL");
}

static void observing_counts_them_too(void **state)
{
	scene_close(&s);
	scene_open(&s, "\"risks\": \"none\", \"mode\": \"observe\"");
	suppress_one(json_pack("{s:i}", "sid", 1000001));
	assert_true(passes(1));
	assert_int_equal(s.requests, 0);
	assert_int_equal(scene_count(&s, FT_REASON_PASS_SUPPRESSED), 1);
}

static void screening_all_is_suppressed_by_network(void **state)
{
	scene_close(&s);
	scene_open(&s, "\"risks\": \"none\", \"mode\": \"enforce\", \"screen\": \"all\"");
	suppress_one(json_pack("{s:i}", "sid", 1000001));
	assert_false(passes(1)); /* it is held for another reason */
	suppress_one(json_pack("{s:s}", "network", "10.0.2.10"));
	assert_true(passes(1));
	assert_false(passes(2));
}

static void a_list_with_a_mistake_changes_nothing(void **state)
{
	suppress_one(json_pack("{s:i}", "sid", 1000001));
	const char *const wrong[] = {
	    "[{\"id\": 1, \"until_ns\": 9000000000000}]", /* of everything */
	    "[{\"id\": 1, \"sid\": 5}]",                  /* for ever */
	    "[{\"sid\": 5, \"until_ns\": 9}]",            /* without a number */
	    "[{\"id\": 1, \"network\": \"10.0.0.0/33\", \"until_ns\": 9}]",
	    "[{\"id\": 1, \"network\": \"10.0.0/8\", \"until_ns\": 9}]",
	    "[{\"id\": 1, \"network\": \"10.0.0.0/\", \"until_ns\": 9}]",
	    "[{\"id\": 1, \"network\": \"fd00::/129\", \"until_ns\": 9}]",
	    "[{\"id\": 1, \"sid\": -5, \"until_ns\": 9}]",
	    "[3]",
	};
	for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++)
		assert_null(suppress(json_loads(wrong[i], 0, NULL)));
	assert_true(passes(1));
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, begin, end)
	const struct CMUnitTest tests[] = {
	    T(a_rule_is_suppressed_until_its_time_is_over),
	    T(another_rule_is_not),
	    T(a_network_is_exactly_that),
	    T(a_service_is_exactly_that),
	    T(a_suspicious_connection_stays_so),
	    T(observing_counts_them_too),
	    T(screening_all_is_suppressed_by_network),
	    T(a_list_with_a_mistake_changes_nothing),
	};
	if (scene_start_eal())
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
