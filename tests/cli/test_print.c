/* What people read: the story of a hold, the verdict table. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include <sysexits.h>
#include <unistd.h>

#include "cli/feed.h"
#include "cli/print.h"

/* As in src/log/hold.md, with what an attacker would put where he can: escape sequences. */
static const char record[] =
    "{\"op\": \"hold\", \"hold\": 17, \"guest\": \"web\", \"service\": \"http\", \"mode\": \"enforce\","
    "\"started_ns\": 1790000000000000000, \"ended_ns\": 1790000000093000000,"
    "\"flow\": {\"proto\": \"tcp\", \"client\": \"10.0.2.9\", \"client_port\": 51234, \"server\": "
    "\"10.0.2.15\","
    "\"server_port\": 80},"
    "\"input\": {\"frames\": 1, \"bytes\": 141, \"sha256\": \"abcd\","
    "\"http\": {\"method\": \"GET\", \"url\": \"/cgi-bin/ping?host=1;id\\u001b[2J\"}},"
    "\"trigger\": {\"reason\": \"hold.rule\", \"sid\": 1000003, \"rule\": \"shell metacharacters\", "
    "\"risk\": null},"
    "\"trials\": [{\"role\": \"trial\", \"end\": \"horizon\", \"handled\": true, \"taken_bytes\": 141,"
    "\"held_bytes\": 141, \"instructions\": 123456, \"virtual_ns\": 120000000000, \"wall_ns\": 90000000,"
    "\"pause_ns\": 400000, \"pages_written\": 812}],"
    "\"evidence\": [{\"t_ns\": 1200000, \"event\": \"exec\", \"pid\": 512, \"process\": \"ping\\u0007.cgi\","
    "\"path\": \"/bin/sh\", \"says\": \"ping\\u0007.cgi started /bin/sh\", \"twin\": false},"
    "{\"t_ns\": 1300000, \"event\": \"exec\", \"process\": \"cron\", \"path\": \"/bin/true\", \"twin\": true,"
    "\"count\": 3}],"
    "\"evidence_dropped\": 0, \"verdict\": \"malicious\", \"rule\": \"service-exec\","
    "\"rule_text\": \"the service started a program that is not in may_exec\", \"severity\": 1,"
    "\"disposition\": \"dropped\", \"disposition_reason\": \"drop.verdict\", \"frames_done\": 1}";

static json_t *load(const char *text)
{
	json_error_t error;
	json_t *json = json_loads(text, 0, &error);
	assert_non_null(json);
	return json;
}

/* Prints to a text; the caller frees it. */
static char *printed(void (*print)(FILE *, const json_t *), const json_t *json)
{
	char *text = NULL;
	size_t size;
	FILE *file = open_memstream(&text, &size);
	print(file, json);
	fclose(file);
	for (const char *p = text; *p; p++)
		assert_true((unsigned char)*p >= 0x20 || *p == '\n');
	return text;
}

static void has(const char *text, const char *what)
{
	if (!strstr(text, what))
		fail_msg("\"%s\" is not in:\n%s", what, text);
}

static void a_story_answers_every_question(void **state)
{
	json_t *json = load(record);
	char *text = printed(ft_print_story, json);
	has(text, "Hold 17: malicious, dropped");
	has(text,
	    "10.0.2.9:51234 sent 141 bytes in 1 frame over tcp to service http of guest web (10.0.2.15:80)");
	has(text, "GET /cgi-bin/ping?host=1;id\\x1b[2J");
	has(text, "WHY IT WAS HELD\n    a pattern rule matched (hold.rule)\n    rule 1000003: shell "
		  "metacharacters");
	has(text, "took 141 of 141 held bytes and came to rest; the live guest paused 400 us");
	has(text, "1.20 ms  ping\\x07.cgi started /bin/sh  [process 512]\n");
	has(text, "path /bin/true  (3 times)  [the twin did this too: it does not count]");
	has(text,
	    "malicious: service-exec, severity 1\n    the service started a program that is not in may_exec");
	has(text, "dropped after 93.0 ms: a clone that took these frames was compromised (drop.verdict)");
	/* In order: who, why, what, which rule, what was done. */
	assert_true(strstr(text, "WHY IT") < strstr(text, "WHAT THE CLONE") &&
		    strstr(text, "WHAT THE CLONE") < strstr(text, "WHICH RULE") &&
		    strstr(text, "WHICH RULE") < strstr(text, "WHAT WAS DONE"));
	free(text);
	json_decref(json);
}

/* Records come from a process that may be broken: anything missing or of another kind is left out. */
static void incomplete_records_are_shown_as_far_as_they_go(void **state)
{
	static const char *const broken[] = {
	    "{}", "[]", "{\"flow\": 5, \"trials\": {}, \"evidence\": [1, \"x\", {}, null]}",
	    "{\"trials\": [{}, []], \"trigger\": [], \"input\": \"x\", \"hold\": {}}",
	    "{\"started_ns\": -5, \"ended_ns\": 9223372036854775807, \"severity\": \"x\"}"};
	for (size_t i = 0; i < sizeof(broken) / sizeof(*broken); i++) {
		json_t *json = load(broken[i]);
		free(printed(ft_print_story, json));
		free(printed(ft_print_row, json));
		free(printed(ft_print_status, json));
		free(printed(ft_print_holds, json));
		free(printed(ft_print_verdicts, json));
		json_decref(json);
	}
}

static void a_row_fits_records_and_summaries(void **state)
{
	json_t *json = load(record);
	char *row = printed(ft_print_row, json);
	has(row,
	    "  malicious     dropped    http        10.0.2.9:51234          93.0 ms  shell metacharacters\n");
	has(row, "-> the service started a program that is not in may_exec\n");
	json_t *flow = json_object_get(json, "flow");
	json_object_update(json, flow);
	json_object_del(json, "flow");
	char *summary = printed(ft_print_row, json);
	assert_string_equal(row, summary);
	free(row);
	free(summary);
	json_decref(json);
}

static void open_holds_are_a_table(void **state)
{
	json_t *json = load(record), *list = json_array();
	json_object_set_new(json, "state", json_string("trial"));
	json_array_append_new(list, json);
	char *text = printed(ft_print_holds, list);
	has(text, "   17  ");
	has(text,
	    "  http        10.0.2.9:51234              141       1  trial         shell metacharacters\n");
	free(text);
	json_array_append_new(list, json_pack("{s:i}", "more", 34));
	text = printed(ft_print_holds, list);
	has(text, "\nand 34 more\n");
	free(text);
	json_decref(list);
	list = json_array();
	text = printed(ft_print_holds, list);
	assert_string_equal(text, "nothing is held\n");
	free(text);
	json_decref(list);
}

static const char feed_status[] =
    "{\"feed\": \"/var/lib/foretaste/feed.json\", \"processes\": {\"ledger\": {\"restarts\": 0, \"status\": "
    "{\"feed\": "
    "{\"lines\": 12, \"waiting\": 0, \"lost\": 0, \"sinks\": {"
    "\"socket\": {\"path\": \"/run/x.sock\", \"connected\": false, \"lines\": 7, \"waiting\": 5, \"lost\": "
    "3, \"again\": 2, "
    "\"trouble\": \"No such\\u001b file\"}, "
    "\"syslog\": {\"path\": \"/dev/log\", \"connected\": true, \"lines\": 12, \"waiting\": 0, \"lost\": 0, "
    "\"shortened\": 1}}}}}}}";

static void sinks_are_in_the_status(void **state)
{
	json_t *status = load(feed_status);
	char *text = printed(ft_print_status, status);
	has(text, "feed: /var/lib/foretaste/feed.json: 12 lines, 0 wait, 0 lost\n");
	has(text, "feed.socket: /run/x.sock: not connected (No such\\x1b file): 7 lines, 5 wait, 3 lost, 2 "
		  "sent again\n");
	has(text, "feed.syslog: /dev/log: connected: 12 lines, 0 wait, 0 lost, 1 shortened\n");
	free(text);
	json_decref(status);
}

/* A feed with one alert of ours, one of somebody else's, a gateway event and lines that are none. */
static char *feed_text(unsigned last, bool json_lines, int *code)
{
	char path[] = "/tmp/foretaste-feed-XXXXXX";
	int fd = mkstemp(path);
	FILE *feed = fdopen(fd, "w");
	fprintf(feed,
		"{\"event_type\":\"engine\",\"timestamp\":\"2026-11-22T22:50:00.123456+0000\",\"engine\":"
		"{\"message\":\"the gateway has started\\u001b\"}}\n");
	fprintf(feed, "not "
		      "json\n\n{\"event_type\":\"flow\"}\n{\"event_type\":\"alert\",\"alert\":{\"signature\":"
		      "\"x\"}}\n");
	fprintf(feed, "{\"event_type\":\"alert\",\"alert\":{\"context\":{\"foretaste\":%s}}}\n", record);
	fprintf(
	    feed,
	    "{\"event_type\":\"alert\",\"timestamp\":\"x\",\"alert\":{\"signature\":\"a burst\",\"context\":"
	    "{\"foretaste\":{\"guest\":\"web\"}}}}\n{\"event_type\":\"engine\",\"half a li");
	fclose(feed);
	char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);
	*code = ft_feed_print(out, path, last, json_lines, false, NULL);
	fclose(out);
	unlink(path);
	return text;
}

static void the_feed_is_a_table(void **state)
{
	int code;
	char *text = feed_text(50, false, &code);
	assert_int_equal(code, 0);
	has(text, "the gateway has started\\x1b\n");
	has(text, "   17  malicious     dropped ");
	has(text, "guest web: a burst\n");
	assert_null(strstr(text, "half a li"));
	unsigned lines = 0;
	for (const char *p = text; *p; p++)
		lines += *p == '\n';
	assert_int_equal(lines, 5); /* head, event, verdict and why, correlation */
	free(text);

	text = feed_text(1, false, &code);
	assert_null(strstr(text, "malicious"));
	has(text, "guest web: a burst\n");
	free(text);

	text = feed_text(50, true, &code);
	has(text, "\"event_type\":\"flow\"");
	assert_null(strstr(text, "TIME"));
	free(text);
	assert_int_equal(ft_feed_print(stdout, "/nonexistent/feed.json", 1, false, false, NULL), EX_NOINPUT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_story_answers_every_question),
	    cmocka_unit_test(incomplete_records_are_shown_as_far_as_they_go),
	    cmocka_unit_test(a_row_fits_records_and_summaries),
	    cmocka_unit_test(open_holds_are_a_table),
	    cmocka_unit_test(sinks_are_in_the_status),
	    cmocka_unit_test(the_feed_is_a_table),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
