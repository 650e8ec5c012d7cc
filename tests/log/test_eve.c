/* Records become EVE lines: the text of each, its keys against our own list, and hostile values kept in their place. With
 * the argument --print: all kinds of lines on standard output, for the check against the full schema. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "log/eve.h"
#include "log/record.h"
#include "tests/log/conversation.h"

/* Every key that a line of ours may have, and the kind of its value: s text, i number, b truth, l list, m map. Paths end
 * below alert.context, which is free. Suricata's schema allows all of these and refuses unknown ones. */
static const char *const keys[] = {
    "timestamp s",
    "host s",
    "event_type s",
    "flow_id i",
    "src_ip s",
    "src_port i",
    "dest_ip s",
    "dest_port i",
    "proto s",
    "ip_v i",
    "community_id s",
    "app_proto s",
    "payload_printable s",
    "tx_id i",
    "alert m",
    "alert.action s",
    "alert.gid i",
    "alert.signature_id i",
    "alert.rev i",
    "alert.signature s",
    "alert.category s",
    "alert.severity i",
    "alert.context m",
    "verdict m",
    "verdict.action s",
    "verdict.reject l",
    "verdict.reject_target s",
    "flow m",
    "flow.pkts_toserver i",
    "flow.bytes_toserver i",
    "flow.pkts_toclient i",
    "flow.bytes_toclient i",
    "flow.start s",
    "flow.end s",
    "flow.age i",
    "flow.state s",
    "flow.reason s",
    "flow.action s",
    "flow.alerted b",
    "http m",
    "http.http_method s",
    "http.url s",
    "http.hostname s",
    "http.http_user_agent s",
    "http.protocol s",
    "http.http_content_type s",
    "http.http_refer s",
    "drop m",
    "drop.len i",
    "drop.reason s",
    "drop.tcpseq i",
    "fileinfo m",
    "fileinfo.filename s",
    "fileinfo.gaps b",
    "fileinfo.state s",
    "fileinfo.stored b",
    "fileinfo.size i",
    "fileinfo.sha256 s",
    "fileinfo.tx_id i",
    "engine m",
    "engine.module s",
    "engine.message s",
    "engine.error s",
};

static char kind_of(const json_t *value)
{
	return json_is_string(value)    ? 's'
	       : json_is_integer(value) ? 'i'
	       : json_is_boolean(value) ? 'b'
	       : json_is_array(value)   ? 'l'
	       : json_is_object(value)  ? 'm'
					: '?';
}

static void assert_keys(const json_t *map, const char *prefix)
{
	const char *key;
	json_t *value;
	json_object_foreach((json_t *)map, key, value)
	{
		char entry[256];
		size_t i = 0;
		snprintf(entry, sizeof(entry), "%s%s %c", prefix, key, kind_of(value));
		while (i < sizeof(keys) / sizeof(*keys) && strcmp(keys[i], entry))
			i++;
		if (i == sizeof(keys) / sizeof(*keys))
			fail_msg("a line has \"%s\", which is not in our list", entry);
		if (json_is_object(value) && strcmp(key, "context")) {
			snprintf(entry, sizeof(entry), "%s%s.", prefix, key);
			assert_keys(value, entry);
		}
	}
}

static json_t *lines_of(json_t *message, const struct ft_eve_file *file)
{
	json_t *record;
	struct ft_error err = {0};
	if (ft_record_check(message, &record, &err))
		fail_msg("%s", err.text);
	json_decref(message);
	json_t *lines = ft_eve_hold("edge1", record, file);
	json_decref(record);
	assert_non_null(lines);
	for (size_t i = 0; i < json_array_size(lines); i++)
		assert_keys(json_array_get(lines, i), "");
	return lines;
}

static const struct ft_eve_file pcap = {
    .name = "hold-17.pcap",
    .sha256 = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    .size = 215};

#define FLOW                                                                                                 \
	"\"flow_id\":2409169476963534,\"src_ip\":\"10.0.2.9\",\"src_port\":51234,\"dest_ip\":\"10.0.2.15\"," \
	"\"dest_port\":80,\"proto\":\"TCP\",\"ip_v\":4,\"community_id\":\"1:t6nz4WCXeVdNQVyd/NemAYoDhyY=\"," \
	"\"app_proto\":\"http\","
#define BEGIN(type)                                                                                          \
	"{\"timestamp\":\"2026-09-21T14:13:20.093000+0000\",\"host\":\"edge1\",\"event_type\":\"" type       \
	"\"," FLOW
#define HTTP                                                                                                 \
	"\"http\":{\"http_method\":\"GET\",\"url\":\"/cgi-bin/"                                              \
	"lookup?host=a;id\",\"hostname\":\"web.example\","                                                   \
	"\"http_user_agent\":\"curl/7.88.1\"}"
#define COUNTS "\"pkts_toserver\":4,\"bytes_toserver\":512,\"start\":\"2026-09-21T14:13:19.000000+0000\""

static void assert_line(const json_t *lines, size_t at, const char *expected)
{
	json_t *line = json_deep_copy(json_array_get(lines, at));
	/* The whole record is in there; it has tests of its own. */
	json_object_del(json_object_get(json_object_get(line, "alert"), "context"), "foretaste");
	char *text = json_dumps(line, JSON_COMPACT);
	assert_string_equal(text, expected);
	free(text);
	json_decref(line);
}

static void a_dropped_hold_word_by_word(void **state)
{
	json_t *lines = lines_of(conversation_hold(17, "malicious"), &pcap);
	assert_int_equal(json_array_size(lines), 5);
	assert_line(
	    lines, 0,
	    BEGIN(
		"alert") "\"alert\":{\"action\":\"blocked\",\"gid\":1000,\"signature_id\":2000001,\"rev\":1,"
			 "\"signature\":\"the server started a program that it never starts\","
			 "\"category\":\"Input tried on a clone: malicious\",\"severity\":1,\"context\":{}},"
			 "\"verdict\":{\"action\":\"drop\",\"reject\":[\"tcp-reset\"],\"reject_target\":"
			 "\"both\"},"
			 "\"flow\":{" COUNTS "}," HTTP ","
			 "\"payload_printable\":\"GET /cgi-bin/lookup?host=a;id HTTP/1.1\"}");
	assert_line(lines, 1,
		    BEGIN("drop") "\"drop\":{\"len\":141,\"reason\":\"drop.verdict\",\"tcpseq\":1000},"
				  "\"verdict\":{\"action\":\"drop\",\"reject\":[\"tcp-reset\"],\"reject_"
				  "target\":\"both\"}}");
	assert_line(lines, 2, BEGIN("http") "\"tx_id\":0," HTTP "}");
	assert_line(
	    lines, 3,
	    BEGIN(
		"fileinfo") "\"fileinfo\":{\"filename\":\"hold-17.pcap\",\"gaps\":false,\"state\":\"CLOSED\","
			    "\"stored\":true,\"size\":215,\"sha256\":"
			    "\"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\",\"tx_id\":"
			    "0}}");
	assert_line(
	    lines, 4,
	    BEGIN(
		"flow") "\"flow\":{" COUNTS ",\"end\":\"2026-09-21T14:13:20.093000+0000\",\"age\":1,"
			"\"state\":\"closed\",\"reason\":\"forced\",\"action\":\"drop\",\"alerted\":true}}");
	/* All of the record travels with the alert. */
	json_t *ours = json_object_get(
	    json_object_get(json_object_get(json_array_get(lines, 0), "alert"), "context"), "foretaste");
	json_t *record = conversation_hold(17, "malicious");
	json_object_del(record, "op");
	json_object_del(json_object_get(record, "trigger"), "risk"); /* null says nothing */
	assert_true(json_equal(ours, record));
	json_decref(record);
	json_decref(lines);
}

static void each_verdict_and_disposition_has_its_alert(void **state)
{
	static const struct {
		const char *verdict, *disposition, *action;
		int severity, lines;
	} kinds[] = {
	    {"clean", "released", "allowed", 4, 3},        {"malicious", "dropped", "blocked", 1, 4},
	    {"malicious", "observed", "allowed", 1, 3},    {"suspicious", "reset", "blocked", 2, 4},
	    {"inconclusive", "released", "allowed", 3, 3}, {"inconclusive", "dropped", "blocked", 3, 4},
	};
	for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++) {
		json_t *message = conversation_hold(1, kinds[i].verdict);
		json_object_set_new(message, "disposition", json_string(kinds[i].disposition));
		json_object_set_new(message, "severity", json_integer(kinds[i].severity));
		json_t *lines = lines_of(message, NULL);
		assert_int_equal(json_array_size(lines), kinds[i].lines);
		const json_t *alert = json_object_get(json_array_get(lines, 0), "alert");
		assert_string_equal(json_string_value(json_object_get(alert, "action")), kinds[i].action);
		assert_int_equal(json_integer_value(json_object_get(alert, "severity")), kinds[i].severity);
		json_decref(lines);
	}
}

static void flows_are_told_apart(void **state)
{
	json_int_t ids[3];
	for (int i = 0; i < 3; i++) {
		json_t *message = conversation_hold((uint64_t)i, "clean");
		if (i == 2) /* the same ports, a later connection */
			json_object_set_new(json_object_get(message, "flow"), "start_ns",
					    json_integer(1789999999500000000));
		json_t *lines = lines_of(message, NULL);
		ids[i] = json_integer_value(json_object_get(json_array_get(lines, 0), "flow_id"));
		assert_true(ids[i] > 0 && ids[i] < (json_int_t)1 << 53);
		json_decref(lines);
	}
	assert_int_equal(ids[0], ids[1]);
	assert_int_not_equal(ids[0], ids[2]);
}

static void records_that_lie_are_refused(void **state)
{
	static const struct {
		const char *path; /* up to two keys */
		const char *value, *text;
	} lies[] = {
	    {"hold", "-1", "hold.hold"},
	    {"hold", "null", "hold.hold is missing"},
	    {"guest", "5", "hold.guest"},
	    {"mode", "\"shadowy\"", "hold.mode"},
	    {"flow", "[]", "hold.flow is no map"},
	    {"flow client", "\"10.0.2.999\"", "hold.flow.client"},
	    {"flow client", "\"10.0.2.9\\u001b[2J\"", "hold.flow.client"},
	    {"flow server_port", "65536", "hold.flow.server_port"},
	    {"flow proto", "\"icmp\"", "hold.flow.proto"},
	    {"input sha256", "\"abc\"", "hold.input.sha256"},
	    {"input frames", "1.5", "hold.input.frames"},
	    {"trials", "[{\"role\": \"live\", \"end\": \"x\"}]", "hold.trials.role"},
	    {"trials", "[1]", "hold.trials is no map"},
	    {"group", "{\"size\": 129, \"runs\": 1}", "hold.group.size"},
	    {"group", "{\"size\": 9}", "hold.group.runs is missing"},
	    {"evidence", "[{}]", "hold.evidence"},
	    {"evidence", "{}", "hold.evidence"},
	    {"verdict", "\"fine\"", "hold.verdict"},
	    {"severity", "0", "hold.severity"},
	    {"severity", "5", "hold.severity"},
	    {"severity", "4", "does not go with"},
	    {"verdict", "\"clean\"", "does not go with"},
	    {"disposition", "\"deleted\"", "hold.disposition"},
	};
	for (size_t i = 0; i < sizeof(lies) / sizeof(*lies); i++) {
		json_t *message = conversation_hold(17, "malicious"), *at = message, *record;
		char path[64];
		snprintf(path, sizeof(path), "%s", lies[i].path);
		char *space = strchr(path, ' ');
		if (space) {
			*space = 0;
			at = json_object_get(message, path);
		}
		json_object_set_new(at, space ? space + 1 : path,
				    json_loads(lies[i].value, JSON_DECODE_ANY, NULL));
		struct ft_error err = {0};
		if (ft_record_check(message, &record, &err) != -EINVAL || !strstr(err.text, lies[i].text))
			fail_msg("%s = %s gave: %s", lies[i].path, lies[i].value, err.text);
		assert_null(record);
		json_decref(message);
	}
}

static void long_and_unknown_things_are_cut(void **state)
{
	json_t *message = conversation_hold(17, "malicious"), *record;
	char *url = malloc(20001);
	for (int i = 0; i < 20000; i += 2)
		memcpy(url + i, "\xc3\xa9", 2);
	url[20000] = 0;
	json_object_set_new(json_object_get(json_object_get(message, "input"), "http"), "url",
			    json_string(url));
	json_object_set_new(json_object_get(json_object_get(message, "input"), "http"), "method",
			    json_string("aé"));
	json_object_set_new(message, "surprise", json_string("x"));
	json_object_set_new(json_array_get(json_object_get(message, "evidence"), 0), "Bad Key",
			    json_string("x"));
	json_object_set_new(json_array_get(json_object_get(message, "evidence"), 0), "nested", json_array());
	assert_int_equal(ft_record_check(message, &record, NULL), 0);
	const char *cut = json_string_value(
	    json_object_get(json_object_get(json_object_get(record, "input"), "http"), "url"));
	assert_int_equal(strlen(cut), 8192);
	assert_null(json_object_get(record, "surprise"));
	const json_t *entry = json_array_get(json_object_get(record, "evidence"), 0);
	assert_null(json_object_get(entry, "Bad Key"));
	assert_null(json_object_get(entry, "nested"));
	assert_non_null(json_object_get(entry, "path"));
	json_decref(record);
	json_decref(message);
	json_t *odd = json_string(url + 0), *text = ft_record_text(odd, 3);
	assert_string_equal(json_string_value(text), "\xc3\xa9"); /* never half a character */
	json_decref(text);
	json_decref(odd);
	free(url);
}

static json_t *finding(void)
{
	return json_pack("{s:s, s:s, s:s, s:i, s:i, s:i}", "guest", "web", "rule", "outgoing-burst", "text",
			 "the guest talks to many", "sid", 3000001, "rev", 1, "severity", 2);
}

static void findings_and_engine_lines_keep_to_the_list(void **state)
{
	json_t *event = finding();
	json_t *line = ft_eve_correlation("edge1", 1790000000000000000, event);
	assert_keys(line, "");
	const json_t *alert = json_object_get(line, "alert");
	assert_int_equal(json_integer_value(json_object_get(alert, "signature_id")), 3000001);
	json_decref(line);
	json_decref(event);
	event = json_object(); /* says nothing at all */
	line = ft_eve_correlation("edge1", 0, event);
	assert_keys(line, "");
	json_decref(line);
	json_decref(event);
	line = ft_eve_engine("edge1", 1, "feed", "text", 1);
	assert_keys(line, "");
	assert_string_equal(json_string_value(json_object_get(line, "timestamp")),
			    "1970-01-01T00:00:00.000000+0000");
	json_decref(line);
}

static void print(json_t *line)
{
	json_dumpf(line, stdout, JSON_COMPACT | JSON_ENSURE_ASCII);
	putchar('\n');
}

static int print_all(void)
{
	static const char *const verdicts[] = {"clean", "malicious", "suspicious", "inconclusive"};
	static const char *const dispositions[] = {"released", "dropped", "reset", "observed"};
	for (int v = 0; v < 4; v++) {
		for (int d = 0; d < 8; d++) {
			json_t *message = conversation_hold(1, verdicts[v]), *record;
			json_object_set_new(message, "disposition", json_string(dispositions[d % 4]));
			if (d >= 4) {
				json_t *flow = json_object_get(message, "flow");
				json_object_set_new(flow, "proto", json_string("udp"));
				json_object_set_new(flow, "client", json_string("2001:db8::1"));
				json_object_set_new(flow, "server", json_string("2001:db8::2"));
				json_object_set_new(flow, "packets_toclient", json_integer(1));
				json_object_set_new(flow, "bytes_toclient", json_integer(60));
				json_object_del(flow, "start_ns");
				json_object_del(json_object_get(message, "input"), "http");
				json_object_del(message, "rule_sid");
			}
			if (ft_record_check(message, &record, NULL))
				return 1;
			json_t *lines = ft_eve_hold("edge1", record, d % 2 ? &pcap : NULL);
			for (size_t i = 0; i < json_array_size(lines); i++)
				print(json_array_get(lines, i));
			json_decref(lines);
			json_decref(record);
			json_decref(message);
		}
	}
	json_t *event = finding();
	json_t *more[] = {ft_eve_correlation("edge1", 1790000000000000000, event),
			  ft_eve_engine("edge1", 1790000000000000000, "start", "the gateway runs", 0),
			  ft_eve_engine("edge1", 1790000000000000000, "guest-down", "the guest is gone", 1)};
	for (int i = 0; i < 3; i++) {
		print(more[i]);
		json_decref(more[i]);
	}
	json_decref(event);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc > 1 && !strcmp(argv[1], "--print"))
		return print_all();
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_dropped_hold_word_by_word),
	    cmocka_unit_test(each_verdict_and_disposition_has_its_alert),
	    cmocka_unit_test(flows_are_told_apart),
	    cmocka_unit_test(records_that_lie_are_refused),
	    cmocka_unit_test(long_and_unknown_things_are_cut),
	    cmocka_unit_test(findings_and_engine_lines_keep_to_the_list),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
