/* The text for Prometheus and what health says, from states that the supervisor could give. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/histogram.h"
#include "base/reason.h"
#include "metrics/exposition.h"
#include "metrics/health.h"

static json_t *load(const char *text)
{
	json_error_t error;
	json_t *json = json_loads(text, 0, &error);
	if (!json)
		fail_msg("%s at %d", error.text, error.position);
	return json;
}

static char *expose(const char *state)
{
	json_t *json = load(state);
	char *text = NULL;
	size_t size;
	FILE *file = open_memstream(&text, &size);
	ft_exposition_print(file, json);
	fclose(file);
	json_decref(json);
	return text;
}

static void has(const char *text, const char *line)
{
	if (!strstr(text, line))
		fail_msg("\"%s\" is not in:\n%s", line, text);
}

static void every_reason_has_a_sample_for_each_guest_and_for_none(void **state)
{
	char *text = expose("{\"processes\": {\"dataplane\": {\"status\": {\"counters\": {"
			    "\"reasons\": {\"pass.ack\": 10, \"drop.not-ours\": 2}, \"guests\": {"
			    "\"web\": {\"reasons\": {\"pass.ack\": 7}}, \"mail\": {\"reasons\": {\"pass.ack\": 3}}}}}}}}");
	for (int i = 0; i < FT_REASON_COUNT; i++) {
		const char *guests[] = {"web", "mail", ""};
		for (int k = 0; k < 3; k++) {
			char line[160];
			snprintf(line, sizeof(line), "foretaste_packets_total{guest=\"%s\",reason=\"%s\"} ", guests[k],
				 ft_reason_label((enum ft_reason)i));
			has(text, line);
		}
	}
	has(text, "foretaste_packets_total{guest=\"web\",reason=\"pass.ack\"} 7\n");
	has(text, "foretaste_packets_total{guest=\"\",reason=\"pass.ack\"} 0\n");
	has(text, "foretaste_packets_total{guest=\"\",reason=\"drop.not-ours\"} 2\n");
	free(text);
}

static void labels_are_escaped_and_what_is_no_number_is_left_out(void **state)
{
	char *text = expose("{\"processes\": {\"dataplane\": {\"restarts\": 1, \"state\": \"ready\", \"status\": "
			    "{\"records_lost\": \"many\", \"guests\": {\"a\\\"b\\\\c\\nd\": {\"flows\": 5, \"clones\": [1]}}}}}}");
	has(text, "foretaste_flows{guest=\"a\\\"b\\\\c\\\\x0ad\"} 5\n");
	has(text, "foretaste_process_up{process=\"dataplane\"} 1\n");
	assert_null(strstr(text, "\nforetaste_clones{"));
	assert_null(strstr(text, "\nforetaste_records_lost_total "));
	free(text);
}

/* Gaps and failures are the supervisor's, which outlives a guest's process; the rest is that process'. */
static void journals_and_disks_of_guests(void **state)
{
	char *text = expose("{\"guests\": {\"web\": {\"state\": \"up\", \"journal\": {\"run\": 2, \"gaps\": 3, \"failures\": 4, \"checkpoints\": 5, "
			    "\"bytes\": 6000, \"failing\": false}}, \"db\": {\"state\": \"down\", \"journal\": {\"gaps\": 1, \"failing\": true}}, "
			    "\"mail\": {\"state\": \"up\"}}, \"processes\": {\"vmm web\": {\"status\": {\"journal\": {\"gaps\": 0, \"recording\": true, "
			    "\"failing\": true, \"waiting_bytes\": 77, \"stood_still_s\": 1.5}, \"overlay\": {\"bytes\": 4096, \"records\": 9, "
			    "\"failing\": false, \"history_since_ns\": 2500000000}}}, \"vmm mail\": {\"status\": {\"instructions\": 1}}}}");
	has(text, "foretaste_journal_gaps_total{guest=\"web\"} 3\n");
	has(text, "foretaste_journal_failures_total{guest=\"web\"} 4\n");
	has(text, "foretaste_journal_recording{guest=\"web\"} 1\n");
	has(text, "foretaste_journal_failing{guest=\"web\"} 1\n");
	has(text, "foretaste_journal_waiting_bytes{guest=\"web\"} 77\n");
	has(text, "foretaste_journal_stood_still_seconds_total{guest=\"web\"} 1.5\n");
	has(text, "foretaste_journal_gaps_total{guest=\"db\"} 1\n");
	has(text, "foretaste_journal_recording{guest=\"db\"} 0\n");
	has(text, "foretaste_journal_failing{guest=\"db\"} 1\n");
	assert_null(strstr(text, "foretaste_journal_gaps_total{guest=\"mail\"}"));
	has(text, "foretaste_disk_overlay_bytes{guest=\"web\"} 4096\n");
	has(text, "foretaste_disk_overlay_records_total{guest=\"web\"} 9\n");
	has(text, "foretaste_disk_history_start_timestamp_seconds{guest=\"web\"} 2.5\n");
	assert_null(strstr(text, "foretaste_disk_overlay_bytes{guest=\"mail\"}"));
	free(text);
}

/* What was kept is the guest's, what there is has one directory and one quota. */
static void seeds_that_are_kept(void **state)
{
	char *text = expose("{\"guests\": {\"web\": {\"seeds\": {\"kept\": 3, \"skipped\": 40, \"failed\": 1}}, \"mail\": {\"seeds\": {\"kept\": 0, "
			    "\"skipped\": 0, \"failed\": 2}}}, \"seeds\": {\"kept\": 3, \"skipped\": 40, \"failed\": 3, \"removed\": 2, \"files\": 7, "
			    "\"bytes\": 900000000, \"quota\": 1073741824}}");
	has(text, "# TYPE foretaste_seeds_failed_total counter\n");
	has(text, "foretaste_seeds_kept_total{guest=\"web\"} 3\nforetaste_seeds_kept_total{guest=\"mail\"} 0\n");
	has(text, "foretaste_seeds_skipped_total{guest=\"web\"} 40\n");
	has(text, "foretaste_seeds_failed_total{guest=\"web\"} 1\nforetaste_seeds_failed_total{guest=\"mail\"} 2\n");
	has(text, "# TYPE foretaste_kept_seeds gauge\nforetaste_kept_seeds 7\n");
	has(text, "\nforetaste_kept_seeds_bytes 900000000\n");
	has(text, "\nforetaste_kept_seeds_quota_bytes 1073741824\n");
	has(text, "# TYPE foretaste_kept_seeds_removed_total counter\nforetaste_kept_seeds_removed_total 2\n");
	free(text);
	/* A supervisor that does not say. */
	text = expose("{\"guests\": {\"web\": {}}}");
	assert_null(strstr(text, "\nforetaste_kept_seeds "));
	assert_null(strstr(text, "foretaste_seeds_kept_total{"));
	free(text);
}

static void services_have_their_guest_and_what_they_count(void **state)
{
	char *text = expose(
	    "{\"processes\": {\"dataplane\": {\"status\": {\"services\": {\"http\": {\"guest\": \"web\", \"mode\": \"enforce\", "
	    "\"holds\": 4, \"limits\": {\"held\": 5}, \"exceptions\": {\"timeout\": 6}, \"verdicts\": {\"clean\": 2}, "
	    "\"dispositions\": {\"released\": 3}}}}}}}");
	has(text, "foretaste_service_mode{service=\"http\",guest=\"web\",mode=\"enforce\"} 1\n");
	has(text, "foretaste_service_holds{service=\"http\",guest=\"web\"} 4\n");
	has(text, "foretaste_service_limits_total{service=\"http\",guest=\"web\",limit=\"held\"} 5\n");
	has(text, "foretaste_service_exceptions_total{service=\"http\",guest=\"web\",exception=\"timeout\"} 6\n");
	has(text, "foretaste_service_verdicts_total{service=\"http\",guest=\"web\",verdict=\"clean\"} 2\n");
	has(text, "foretaste_service_holds_total{service=\"http\",guest=\"web\",disposition=\"released\"} 3\n");
	free(text);
}

static void the_feed_and_its_sinks_are_rows_of_one_table(void **state)
{
	char *text = expose("{\"processes\": {\"ledger\": {\"status\": {\"feed\": {\"lines\": 12, \"waiting\": 0, \"lost\": 0, "
			    "\"sinks\": {\"socket\": {\"connected\": false, \"lines\": 7, \"lost\": 3, \"again\": 2}}}}}}}");
	has(text, "foretaste_feed_lines_total{sink=\"file\"} 12\nforetaste_feed_lines_total{sink=\"socket\"} 7\n");
	has(text, "foretaste_feed_lost_total{sink=\"socket\"} 3\n");
	has(text, "foretaste_feed_connected{sink=\"socket\"} 0\n");
	assert_null(strstr(text, "connected{sink=\"file\"}"));
	free(text);
}

static void histograms_are_cumulative_and_end_at_infinity(void **state)
{
	struct ft_histogram h = {{0}};
	ft_histogram_note(&h, FT_HISTOGRAM_PAUSE, 250000); /* inclusive */
	ft_histogram_note(&h, FT_HISTOGRAM_PAUSE, 250001);
	ft_histogram_note(&h, FT_HISTOGRAM_PAUSE, 10000000000ull);
	json_t *vmm = json_pack("{s:{s:{}}, s:{s:{s:{s:o}}}}", "guests", "web", "processes", "vmm web", "status", "pauses",
				ft_histogram_json(&h));
	char *state_text = json_dumps(vmm, 0), *text = expose(state_text);
	has(text, "# TYPE foretaste_clone_pause_seconds histogram\n");
	has(text, "foretaste_clone_pause_seconds_bucket{guest=\"web\",le=\"0.00025\"} 1\n");
	has(text, "foretaste_clone_pause_seconds_bucket{guest=\"web\",le=\"0.0005\"} 2\n");
	has(text, "foretaste_clone_pause_seconds_bucket{guest=\"web\",le=\"0.25\"} 2\n");
	has(text, "foretaste_clone_pause_seconds_bucket{guest=\"web\",le=\"+Inf\"} 3\n");
	has(text, "foretaste_clone_pause_seconds_count{guest=\"web\"} 3\n");
	has(text, "foretaste_clone_pause_seconds_sum{guest=\"web\"} 10.000500001\n");
	free(text);
	/* From a process that lies. */
	json_t *counts = json_object_get(
	    json_object_get(
		json_object_get(json_object_get(json_object_get(vmm, "processes"), "vmm web"), "status"), "pauses"),
	    "counts");
	json_array_set_new(counts, 3, json_integer(-1));
	free(state_text);
	state_text = json_dumps(vmm, 0);
	text = expose(state_text);
	assert_null(strstr(text, "pause_seconds_bucket"));
	free(text);
	free(state_text);
	json_decref(vmm);
}

static void bounds_ascend(void **state)
{
	for (int kind = 0; kind < FT_HISTOGRAM_KINDS; kind++)
		for (unsigned i = 1; i < FT_HISTOGRAM_BUCKETS; i++)
			assert_true(ft_histogram_bounds[kind][i - 1] < ft_histogram_bounds[kind][i]);
}

/* ---- health -------------------------------------------------------------------------------------------------------- */

static const char good[] =
    "{\"state\": \"running\", \"guests\": {\"web\": {\"state\": \"up\"}}, \"processes\": {\"ledger\": {\"state\": \"ready\"}, "
    "\"vmm web\": {\"state\": \"ready\"}}, \"canary\": {\"services\": {\"http\": {\"ok\": true}}}}";

struct judged {
	bool live, ready;
	char text[512]; /* what readiness says */
};

static struct judged judge(json_t *state)
{
	struct judged judged;
	bool live;
	json_decref(ft_health_json(ft_health_live, state, &live));
	json_t *body = ft_health_json(ft_health_ready, state, &judged.ready);
	judged.live = live;
	char *text = json_dumps(body, 0);
	snprintf(judged.text, sizeof(judged.text), "%s", text);
	free(text);
	json_decref(body);
	json_decref(state);
	return judged;
}

static json_t *changed(const char *a, const char *b, const char *key, json_t *value)
{
	json_t *state = load(good), *at = json_object_get(state, a);
	at = b ? json_object_get(at, b) : at;
	json_object_set_new(at ? at : state, key, value);
	return state;
}

static void health_names_what_is_wrong(void **state)
{
	struct judged judged = judge(load(good));
	assert_true(judged.live && judged.ready);
	assert_string_equal(judged.text, "{\"status\": \"ok\"}");

	judged = judge(NULL);
	assert_true(!judged.live && !judged.ready);
	has(judged.text, "the supervisor does not answer");

	judged = judge(changed("processes", "ledger", "state", json_string("down")));
	assert_true(!judged.live && !judged.ready);
	has(judged.text, "the ledger process is down");

	judged = judge(changed("processes", "ledger", "error", json_string("the ledger process does not answer")));
	assert_true(!judged.live && !judged.ready);
	has(judged.text, "the ledger process does not answer");

	judged = judge(changed("guests", "web", "state", json_string("booting")));
	assert_true(judged.live && !judged.ready);
	has(judged.text, "guest web is booting");

	json_t *canary = changed("canary", "services", "http", load("{\"ok\": false, \"why\": \"it was not held\"}"));
	judged = judge(canary);
	assert_true(judged.live && !judged.ready);
	has(judged.text, "self-test of service http: it was not held");

	judged = judge(changed("none", NULL, "state", json_string("stopping")));
	assert_true(!judged.live);

	/* A guest that an operator stopped is no failure of a process, and no readiness. */
	json_t *stopped = changed("guests", "web", "state", json_string("stopped"));
	json_object_set_new(json_object_get(json_object_get(stopped, "processes"), "vmm web"), "state", json_string("down"));
	judged = judge(stopped);
	assert_true(judged.live && !judged.ready);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(every_reason_has_a_sample_for_each_guest_and_for_none),
	    cmocka_unit_test(labels_are_escaped_and_what_is_no_number_is_left_out),
	    cmocka_unit_test(journals_and_disks_of_guests),
	    cmocka_unit_test(seeds_that_are_kept),
	    cmocka_unit_test(services_have_their_guest_and_what_they_count),
	    cmocka_unit_test(the_feed_and_its_sinks_are_rows_of_one_table),
	    cmocka_unit_test(histograms_are_cumulative_and_end_at_infinity),
	    cmocka_unit_test(bounds_ascend),
	    cmocka_unit_test(health_names_what_is_wrong),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
