/* Reloads under traffic: connections and holds go on with the service that they belong to, nothing is lost, nothing untried
 * reaches the guest, and old rules stay exactly as long as something needs them. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "dataplane/gate-t.h"
#include "dataplane/reload.h"
#include "scene.h"

static struct scene s;

#define ENFORCE "\"risks\": \"none\", \"mode\": \"enforce\""

static int begin(void **state)
{
	scene_open(&s, ENFORCE);
	return 0;
}

static int end(void **state)
{
	bool violated = s.violated;
	scene_close(&s);
	return violated ? -1 : 0;
}

static int load(json_t *config)
{
	struct ft_rulebook *book = NULL;
	struct ft_error err = {0};
	int error = ft_rulebook_new(config, &book, &err);
	json_decref(config);
	return error ? error : ft_gate_reload(s.gate, book, &err);
}

static void reload(const char *service)
{
	assert_int_equal(load(scene_config(service, "", "")), 0);
}

/* Without the service "web". */
static void remove_service(void)
{
	json_t *config = scene_config(ENFORCE, "", "");
	json_object_del(json_object_get(config, "services"), "web");
	assert_int_equal(load(config), 0);
}

static unsigned retired(void)
{
	unsigned n = 0;
	for (struct ft_rulebook *book = s.gate->retired; book; book = book->next)
		n++;
	return n;
}

static const char *reason(void)
{
	return json_string_value(json_object_get(scene_record(&s, "hold"), "disposition_reason"));
}

static void holds_and_connections_go_on(void **state)
{
	scene_connect(&s);
	scene_text(&s, 1, "hello");
	s.strict = true;
	scene_text(&s, 6, "EVIL");
	scene_pass(&s, 3 * MS);
	scene_text(&s, 10, "more");
	for (int i = 0; i < 100; i++) {
		reload(ENFORCE ", \"gather\": 1000000");
		scene_pass(&s, 0);
	}
	assert_string_equal(scene_taken(&s), "hello");
	scene_answer(&s, false);
	assert_string_equal(scene_taken(&s), "helloEVIL");
	assert_string_equal(reason(), "release.clean");
	scene_pass(&s, 3 * MS);
	assert_int_equal(s.requests, 2); /* what waited is tried, under the new gather time */
	assert_memory_equal(s.request.clone.bytes, "helloEVILmore", 13);
	scene_answer(&s, true);
	assert_string_equal(scene_taken(&s), "helloEVIL");
	assert_string_equal(reason(), "drop.verdict");
	scene_pass(&s, 5000 * MS);
	assert_int_equal(retired(), 0);
	assert_int_equal(s.client_count > 0, 1);
}

static void old_rules_stay_while_a_hold_needs_them_and_no_longer(void **state)
{
	scene_connect(&s);
	scene_text(&s, 1, "EVIL");
	scene_pass(&s, 3 * MS);
	reload(ENFORCE);
	scene_pass(&s, 0);
	assert_int_equal(retired(), 1);
	reload(ENFORCE); /* nothing was opened under the one in between */
	scene_pass(&s, 0);
	assert_int_equal(retired(), 1);
	scene_answer(&s, true);
	scene_pass(&s, 0);
	assert_int_equal(retired(), 0);
	assert_string_equal(json_string_value(json_object_get(scene_record(&s, "hold"), "rule")), "exec");
	json_t *trigger = json_object_get(scene_record(&s, "hold"), "trigger");
	assert_string_equal(json_string_value(json_object_get(trigger, "name")), "evil");
}

/* Policies, modes and patterns are those of now, also for what began before. */
static void new_settings_hold_for_old_connections(void **state)
{
	scene_connect(&s);
	scene_text(&s, 1, "WICKED");
	assert_string_equal(scene_taken(&s), "WICKED");
	json_t *config = scene_config(ENFORCE ", \"on_exception\": \"release\"", "", "");
	json_object_set_new(json_array_get(json_object_get(config, "rules"), 0), "pattern",
			    json_string("WICKED"));
	assert_int_equal(load(config), 0);
	scene_text(&s, 7, "EVIL");
	assert_string_equal(scene_taken(&s), "WICKEDEVIL");
	scene_text(&s, 11, "WICKED");
	assert_string_equal(scene_taken(&s), "WICKEDEVIL");
	scene_pass(&s, 3 * MS);
	scene_gone(&s, s.request.begin.trial);
	assert_string_equal(reason(), "release.error");
	reload("\"risks\": \"none\", \"mode\": \"observe\"");
	scene_text(&s, 17, "EVIL");
	assert_string_equal(scene_taken(&s), "WICKEDEVILWICKEDEVIL");
	assert_int_equal(s.client_count, 0);
}

static void a_service_that_is_gone_keeps_its_holds_to_their_end(void **state)
{
	scene_connect(&s);
	s.strict = true;
	scene_text(&s, 1, "EVIL");
	scene_pass(&s, 3 * MS);
	remove_service();
	scene_text(&s, 5, "more"); /* does not overtake what is held */
	scene_pass(&s, 0);
	assert_string_equal(scene_taken(&s), "");
	scene_answer(&s, true);
	assert_int_equal(scene_count(&s, FT_REASON_DROP_VERDICT), 1);
	assert_string_equal(reason(), "drop.flow-dead");
	assert_string_equal(scene_taken(&s), "");
	scene_pass(&s, 0);
	scene_pass(&s, 0);
	assert_int_equal(retired(), 0);
	/* Then nothing of it is inspected any more. */
	s.strict = false;
	s.client_port++;
	memset(&s.live, 0, sizeof(s.live));
	scene_connect(&s);
	scene_text(&s, 1, "EVIL");
	assert_string_equal(scene_taken(&s), "EVIL");
	assert_int_equal(scene_count(&s, FT_REASON_PASS_UNINSPECTED), 3);
	/* And back: who is connected is not known any more. */
	reload(ENFORCE);
	s.client_port++;
	memset(&s.live, 0, sizeof(s.live));
	scene_connect(&s);
	scene_text(&s, 1, "EVIL");
	assert_string_equal(scene_taken(&s), "");
}

static void others_of_a_service_that_is_gone_go_on_beside_its_holds(void **state)
{
	scene_connect(&s);
	scene_text(&s, 1, "EVIL");
	scene_pass(&s, 3 * MS);
	memset(&s.live, 0, sizeof(s.live));
	s.client_port++;
	scene_connect(&s);
	scene_text(&s, 1, "hello");
	remove_service();
	scene_pass(&s, 0);
	scene_text(&s, 6, "EVIL");
	assert_string_equal(scene_taken(&s), "helloEVIL");
	/* It comes back while a hold of its former self is open: the connection is inspected again. */
	reload(ENFORCE);
	scene_text(&s, 10, "EVIL");
	assert_string_equal(scene_taken(&s), "helloEVIL");
}

static void a_wrong_book_changes_nothing(void **state)
{
	json_t *config = scene_config(ENFORCE, "", "");
	json_object_set_new(json_array_get(json_object_get(config, "rules"), 0), "pattern", json_string("("));
	assert_true(load(config) < 0);
	config = scene_config(ENFORCE, ", \"db\": {\"mac\": \"02:00:00:00:00:07\"}", "");
	assert_true(load(config) < 0); /* another guest */
	scene_connect(&s);
	scene_text(&s, 1, "EVIL");
	assert_string_equal(scene_taken(&s), "");
	assert_int_equal(retired(), 0);
}

static void counts_go_on(void **state)
{
	scene_connect(&s);
	scene_text(&s, 1, "EVIL");
	scene_pass(&s, 3 * MS);
	reload(ENFORCE);
	json_t *status = ft_gate_status(s.gate, false);
	json_t *web = json_object_get(json_object_get(status, "services"), "web");
	assert_int_equal(json_integer_value(json_object_get(web, "holds")), 1);
	assert_int_equal(json_integer_value(json_object_get(web, "clones")), 1);
	json_decref(status);
	scene_gone(&s, s.request.begin.trial);
	scene_pass(&s, 0);
	status = ft_gate_status(s.gate, false);
	web = json_object_get(json_object_get(status, "services"), "web");
	assert_int_equal(json_integer_value(json_object_get(web, "holds")), 0);
	assert_int_equal(json_integer_value(json_object_get(web, "clones")), 0);
	assert_int_equal(json_integer_value(json_object_get(json_object_get(web, "exceptions"), "error")), 1);
	json_decref(status);
}

static void the_end_of_shadow_mode_by_reload_is_reported(void **state)
{
	reload("\"risks\": \"none\", \"mode\": \"shadow\"");
	scene_connect(&s);
	scene_text(&s, 1, "EVIL");
	reload("\"risks\": \"none\", \"mode\": \"shadow\"");
	scene_answer(&s, false);
	assert_null(scene_record(&s, "event"));
	reload(ENFORCE);
	const char *text = json_string_value(json_object_get(scene_record(&s, "event"), "text"));
	assert_non_null(strstr(text, ": 1 holds (1 frames)"));
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, begin, end)
	const struct CMUnitTest tests[] = {
	    T(holds_and_connections_go_on),
	    T(old_rules_stay_while_a_hold_needs_them_and_no_longer),
	    T(new_settings_hold_for_old_connections),
	    T(a_service_that_is_gone_keeps_its_holds_to_their_end),
	    T(others_of_a_service_that_is_gone_go_on_beside_its_holds),
	    T(a_wrong_book_changes_nothing),
	    T(counts_go_on),
	    T(the_end_of_shadow_mode_by_reload_is_reported),
	};
	if (scene_start_eal())
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
