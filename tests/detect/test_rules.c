/* Rules: every operator and every way of combining events, and what is said about rules that are wrong. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "detect/eval.h"
#include "detect/pattern.h"
#include "tests/detect/scene.h"

/* One rule around a body such as "any: {...}" in JSON. */
static json_t *list_with(const char *body)
{
	char text[4096];
	json_error_t error;
	snprintf(text, sizeof(text),
		 "[{\"sid\": 1, \"name\": \"r\", \"text\": \"t\", \"severity\": 1, \"verdict\": "
		 "\"malicious\", %s}]",
		 body);
	json_t *list = json_loads(text, 0, &error);
	if (!list)
		fail_msg("%s: %s", error.text, text);
	return list;
}

static struct ft_rules *rules_with(const char *body)
{
	struct ft_rules *rules;
	struct ft_error err = {0};
	char where[FT_DOOR_WHERE] = "";
	json_t *list = list_with(body);
	if (ft_rules_load(list, FT_RULES_VERDICT, &rules, where, &err))
		fail_msg("%s: %s", where, err.text);
	json_decref(list);
	return rules;
}

static void count(void *context, const struct ft_rule *rule, const struct ft_event *event,
		  const char *const *strings, uint64_t since_ns)
{
	++*(unsigned *)context;
}

/* Does an exec event with these properties fire a rule with that condition? */
static bool fires(const char *match, const char *process, const char *path, int64_t result,
		  const struct ft_profile *profile)
{
	char body[2048];
	struct scene_event e;
	unsigned found = 0;
	snprintf(body, sizeof(body), "\"any\": {\"event\": \"exec\", %s}", match);
	struct ft_rules *rules = rules_with(body);
	struct ft_eval *eval = ft_eval_new(rules, profile);
	scene(&e, FT_EVENT_EXEC, FT_ROLE_TRIAL, 1, process, path, "sh -c id", FIELDS((uint64_t)result));
	assert_int_equal(ft_eval_event(eval, &e.event, e.strings, count, &found), 0);
	assert_int_equal(ft_eval_relevance(rules, profile, &e.event, e.strings),
			 found ? FT_RELEVANCE_DECIDES : FT_RELEVANCE_NONE);
	ft_eval_free(eval);
	ft_rules_free(rules);
	return found;
}

#define WHERE(text) "\"where\": {" text "}"

static void texts_compare_as_they_say(void **state)
{
	const char *sh = "/bin/sh";
	assert_true(fires(WHERE("\"path\": \"/bin/sh\""), "a", sh, 0, NULL));
	assert_false(fires(WHERE("\"path\": \"/bin/s\""), "a", sh, 0, NULL));
	assert_true(fires(WHERE("\"path\": [\"/x\", \"/bin/sh\"]"), "a", sh, 0, NULL));
	assert_true(fires(WHERE("\"path\": {\"prefix\": \"/bin/\"}"), "a", sh, 0, NULL));
	assert_false(fires(WHERE("\"path\": {\"prefix\": \"bin/\"}"), "a", sh, 0, NULL));
	assert_true(fires(WHERE("\"path\": {\"suffix\": [\"/zsh\", \"/sh\"]}"), "a", sh, 0, NULL));
	assert_false(fires(WHERE("\"path\": {\"suffix\": \"x/bin/sh\"}"), "a", sh, 0, NULL));
	assert_true(fires(WHERE("\"path\": {\"glob\": \"/*/?h\"}"), "a", sh, 0, NULL));
	assert_true(fires(WHERE("\"path\": {\"glob\": \"/*h\"}"), "a", sh, 0, NULL));
	assert_false(fires(WHERE("\"path\": {\"glob\": \"*/h\"}"), "a", sh, 0, NULL));
	assert_true(fires(WHERE("\"argv\": {\"regex\": \"^sh +-c\"}"), "a", sh, 0, NULL));
	assert_false(fires(WHERE("\"argv\": {\"regex\": \"^-c\"}"), "a", sh, 0, NULL));
	assert_true(fires(WHERE("\"path\": {\"not\": {\"prefix\": \"/usr\"}}"), "a", sh, 0, NULL));
	assert_false(fires(WHERE("\"path\": {\"not\": [\"/bin/sh\", \"/bin/id\"]}"), "a", sh, 0, NULL));
	assert_true(fires(WHERE("\"process\": \"nginx\""), "nginx", sh, 0, NULL));
	assert_false(fires(WHERE("\"process\": \"nginx\", \"path\": \"/x\""), "nginx", sh, 0, NULL));
}

static void numbers_compare_as_they_say(void **state)
{
	assert_true(fires(WHERE("\"result\": 0"), "a", "/x", 0, NULL));
	assert_false(fires(WHERE("\"result\": 0"), "a", "/x", -2, NULL));
	assert_true(fires(WHERE("\"result\": [-13, -2]"), "a", "/x", -2, NULL));
	assert_true(fires(WHERE("\"result\": {\"max\": -1}"), "a", "/x", -2, NULL));
	assert_false(fires(WHERE("\"result\": {\"min\": 0}"), "a", "/x", -2, NULL));
	assert_true(fires(WHERE("\"pid\": {\"min\": 100, \"max\": 100}"), "a", "/x", 0, NULL));
	assert_false(fires(WHERE("\"pid\": {\"min\": 101}"), "a", "/x", 0, NULL));
	assert_true(fires(WHERE("\"pid\": {\"mask\": 4}"), "a", "/x", 0, NULL));
	assert_false(fires(WHERE("\"pid\": {\"mask\": 3}"), "a", "/x", 0, NULL));
	assert_true(fires(WHERE("\"pid\": {\"not\": 3}"), "a", "/x", 0, NULL));
}

static void roles_and_exceptions_count(void **state)
{
	assert_true(fires("\"role\": \"trial\"", "a", "/x", 0, NULL));
	assert_false(fires("\"role\": \"live\"", "a", "/x", 0, NULL));
	assert_false(fires("\"unless\": {\"path\": \"/x\", \"process\": \"a\"}", "a", "/x", 0, NULL));
	assert_true(fires("\"unless\": {\"path\": \"/x\", \"process\": \"b\"}", "a", "/x", 0, NULL));
	assert_false(fires("\"unless\": [{\"path\": \"/y\"}, {\"process\": \"a\"}]", "a", "/x", 0, NULL));
}

static struct ft_profile *profile_of(const char *text)
{
	struct ft_profile *profile;
	struct ft_error err = {0};
	char where[FT_DOOR_WHERE];
	json_t *json = json_loads(text, 0, NULL);
	assert_non_null(json);
	if (ft_profile_load(json, &profile, where, &err))
		fail_msg("%s: %s", where, err.text);
	json_decref(json);
	return profile;
}

static void the_profile_says_what_is_normal(void **state)
{
	struct ft_profile *p = profile_of(
	    "{\"may_exec\": [\"/usr/bin/getent\", \"/usr/lib/cgi-bin/*\", \"/opt/*/bin/**\"],"
	    " \"may_connect\": [\"10.0.2.3:53\", \"192.0.2.0/25:443\", \"*:123\", \"[2001:db8::/32]:80\","
	    " \"unix:/run/*.sock\", \"198.51.100.7\"], \"other\": 1}");
	const char *unless = "\"unless\": {\"path\": {\"in\": \"may_exec\"}}";
	assert_false(fires(unless, "a", "/usr/bin/getent", 0, p));
	assert_true(fires(unless, "a", "/usr/bin/getent", 0, NULL));
	assert_true(fires(unless, "a", "/usr/bin/id", 0, p));
	assert_false(fires(unless, "a", "/usr/lib/cgi-bin/ping", 0, p));
	/* A star stays in its directory; two go below; ".." and relative paths mean nothing certain. */
	assert_true(fires(unless, "a", "/usr/lib/cgi-bin/a/b", 0, p));
	assert_false(fires(unless, "a", "/opt/x/bin/a/b", 0, p));
	assert_true(fires(unless, "a", "/opt/x/bin", 0, p));
	assert_true(fires(unless, "a", "/opt/x/bin/", 0, p));
	assert_true(fires(unless, "a", "/opt/x/y/bin/a", 0, p));
	assert_true(fires(unless, "a", "/usr/lib/cgi-bin/../../../bin/sh", 0, p));
	assert_true(fires(unless, "a", "/opt/x/bin/../../../bin/sh", 0, p));
	assert_false(fires(unless, "a", "//usr/./bin//getent", 0, p));
	assert_true(fires(unless, "a", "usr/bin/getent", 0, p));
	assert_true(fires(unless, "a", "", 0, p));

	static const struct {
		const char *text;
		bool normal;
	} peers[] = {
	    {"10.0.2.3:53", true},        {"10.0.2.3:54", false},        {"10.0.2.4:53", false},
	    {"192.0.2.127:443", true},    {"192.0.2.128:443", false},    {"203.0.113.1:123", true},
	    {"[2001:db8::1]:80", true},   {"[2001:db9::1]:80", false},   {"[2001:db8::1]:123", true},
	    {"unix:/run/app.sock", true}, {"unix:/tmp/app.sock", false}, {"unix:/run/a/b.sock", false},
	    {"198.51.100.7:9", true},     {"nonsense", false},           {"", false},
	    {"10.0.2.3", false},
	};
	for (size_t i = 0; i < sizeof(peers) / sizeof(*peers); i++)
		if (ft_profile_has(p, FT_PROFILE_MAY_CONNECT, peers[i].text) != peers[i].normal)
			fail_msg("may_connect and %s", peers[i].text);
	ft_profile_free(p);
}

static void profiles_that_are_wrong_name_the_place(void **state)
{
	static const struct {
		const char *json, *where, *text;
	} wrong[] = {
	    {"{\"may_exec\": 1}", "/may_exec", "list"},
	    {"{\"may_exec\": [\"/a\", \"b\"]}", "/may_exec/1", "no absolute path"},
	    {"{\"may_connect\": [\"10.0.0.1:0\"]}", "/may_connect/0", "no place to connect to"},
	    {"{\"may_connect\": [\"10.0.0.1/33\"]}", "/may_connect/0", "no place to connect to"},
	    {"{\"may_connect\": [\"[::1\"]}", "/may_connect/0", "no place to connect to"},
	    {"{\"may_connect\": [\"example.org:80\"]}", "/may_connect/0", "no place to connect to"},
	    {"{\"may_write\": [\"\"]}", "/may_write/0", "1 to"},
	    {"{\"may_jit\": [\"node\", \"/usr/bin/node\"]}", "/may_jit/1", "no name of a process"},
	    {"{\"may_uring\": [\"sixteen-letters-\"]}", "/may_uring/0", "no name of a process"},
	};
	for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
		struct ft_profile *profile;
		struct ft_error err = {0};
		char where[FT_DOOR_WHERE] = "";
		json_t *json = json_loads(wrong[i].json, 0, NULL);
		assert_int_equal(ft_profile_load(json, &profile, where, &err), -EINVAL);
		assert_string_equal(where, wrong[i].where);
		assert_non_null(strstr(err.text, wrong[i].text));
		json_decref(json);
	}
}

/* Feeds events to one rule; tells at which of them (from 1) it fired first, 0: never. */
struct step {
	uint64_t ms;
	enum ft_event_type type;
	const char *path;
	uint64_t field; /* a[2], which is daddr for net.tx, or a[0] for cpu */
};

static unsigned first_firing(const char *body, const struct step *steps, size_t n)
{
	struct ft_rules *rules = rules_with(body);
	struct ft_eval *eval = ft_eval_new(rules, NULL);
	unsigned at = 0, found = 0;
	for (size_t i = 0; i < n && !at; i++) {
		struct scene_event e;
		uint64_t first = steps[i].type == FT_EVENT_CPU ? steps[i].field : 0;
		scene(&e, steps[i].type, FT_ROLE_TRIAL, steps[i].ms, "p", steps[i].path, NULL,
		      FIELDS(first, 0, steps[i].field));
		assert_int_equal(ft_eval_event(eval, &e.event, e.strings, count, &found), 0);
		at = found ? (unsigned)i + 1 : 0;
	}
	ft_eval_free(eval);
	ft_rules_free(rules);
	return at;
}

#define FIRST(body, ...)                                                                                     \
	first_firing(body, (const struct step[]){__VA_ARGS__},                                               \
		     sizeof((const struct step[]){__VA_ARGS__}) / sizeof(struct step))

static void thresholds_count_in_event_time(void **state)
{
	const char *three =
	    "\"threshold\": {\"of\": {\"event\": \"exec\"}, \"count\": 3, \"within\": \"1 s\"}";
	assert_int_equal(FIRST(three, {0, FT_EVENT_EXEC, "", 0}, {500, FT_EVENT_EXEC, "", 0},
			       {1000, FT_EVENT_EXEC, "", 0}),
			 3);
	assert_int_equal(FIRST(three, {0, FT_EVENT_EXEC, "", 0}, {500, FT_EVENT_EXEC, "", 0},
			       {1001, FT_EVENT_EXEC, "", 0}),
			 0);
	assert_int_equal(FIRST(three, {0, FT_EVENT_EXEC, "", 0}, {500, FT_EVENT_EXEC, "", 0},
			       {1001, FT_EVENT_EXEC, "", 0}, {1002, FT_EVENT_EXEC, "", 0}),
			 4);
	assert_int_equal(
	    FIRST(three, {0, FT_EVENT_EXEC, "", 0}, {1, FT_EVENT_KEY, "", 0}, {2, FT_EVENT_EXEC, "", 0}), 0);
	/* A producer whose clock goes back gains nothing. */
	assert_int_equal(
	    FIRST(three, {5000, FT_EVENT_EXEC, "", 0}, {0, FT_EVENT_EXEC, "", 0}, {1, FT_EVENT_EXEC, "", 0}),
	    3);
	const char *ever = "\"threshold\": {\"of\": {\"event\": \"exec\"}, \"count\": 2}";
	assert_int_equal(FIRST(ever, {0, FT_EVENT_EXEC, "", 0}, {9000000, FT_EVENT_EXEC, "", 0}), 2);
}

static void sequences_need_their_order_and_the_same_value(void **state)
{
	const char *body = "\"sequence\": {\"same\": \"path\", \"within\": \"1 s\", \"steps\": [{\"event\": "
			   "\"file.write\"}, "
			   "{\"event\": \"file.mode\"}, {\"event\": \"exec\"}]}";
	assert_int_equal(FIRST(body, {0, FT_EVENT_FILE_WRITE, "/a", 0}, {1, FT_EVENT_FILE_MODE, "/a", 0},
			       {2, FT_EVENT_EXEC, "/a", 0}),
			 3);
	assert_int_equal(FIRST(body, {0, FT_EVENT_FILE_WRITE, "/a", 0}, {1, FT_EVENT_FILE_MODE, "/b", 0},
			       {2, FT_EVENT_EXEC, "/a", 0}),
			 0);
	assert_int_equal(FIRST(body, {0, FT_EVENT_FILE_MODE, "/a", 0}, {1, FT_EVENT_FILE_WRITE, "/a", 0},
			       {2, FT_EVENT_EXEC, "/a", 0}),
			 0);
	assert_int_equal(FIRST(body, {0, FT_EVENT_FILE_WRITE, "/a", 0}, {600, FT_EVENT_FILE_MODE, "/a", 0},
			       {1100, FT_EVENT_EXEC, "/a", 0}),
			 0);
	/* Two under way at once, the second one completes. */
	assert_int_equal(FIRST(body, {0, FT_EVENT_FILE_WRITE, "/a", 0}, {1, FT_EVENT_FILE_WRITE, "/b", 0},
			       {2, FT_EVENT_FILE_MODE, "/b", 0}, {3, FT_EVENT_FILE_MODE, "/a", 0},
			       {4, FT_EVENT_EXEC, "/b", 0}),
			 5);
	/* Begun again within the window: the later beginning counts. */
	assert_int_equal(FIRST(body, {0, FT_EVENT_FILE_WRITE, "/a", 0}, {900, FT_EVENT_FILE_WRITE, "/a", 0},
			       {1500, FT_EVENT_FILE_MODE, "/a", 0}, {1600, FT_EVENT_EXEC, "/a", 0}),
			 4);
}

static void sets_count_different_values(void **state)
{
	const char *body =
	    "\"set\": {\"of\": {\"event\": \"net.tx\"}, \"field\": \"daddr\", \"distinct\": 3, "
	    "\"within\": \"1 s\"}";
	assert_int_equal(FIRST(body, {0, FT_EVENT_NET_TX, "", 1}, {1, FT_EVENT_NET_TX, "", 2},
			       {2, FT_EVENT_NET_TX, "", 2}, {3, FT_EVENT_NET_TX, "", 1},
			       {4, FT_EVENT_NET_TX, "", 3}),
			 5);
	assert_int_equal(FIRST(body, {0, FT_EVENT_NET_TX, "", 1}, {600, FT_EVENT_NET_TX, "", 2},
			       {1200, FT_EVENT_NET_TX, "", 3}),
			 0);
	/* Seen again is seen now. */
	assert_int_equal(FIRST(body, {0, FT_EVENT_NET_TX, "", 1}, {600, FT_EVENT_NET_TX, "", 2},
			       {700, FT_EVENT_NET_TX, "", 1}, {1200, FT_EVENT_NET_TX, "", 3}),
			 4);
}

static void absence_needs_the_whole_stretch(void **state)
{
	const char *body =
	    "\"absence\": {\"during\": {\"event\": \"cpu\", \"where\": {\"busy_permille\": {\"min\": 900}}}, "
	    "\"of\": [{\"event\": \"net.rx\"}, {\"event\": \"key\"}], \"for\": \"2 s\"}";
	assert_int_equal(FIRST(body, {0, FT_EVENT_CPU, "", 950}, {1000, FT_EVENT_CPU, "", 990},
			       {2000, FT_EVENT_CPU, "", 900}),
			 3);
	assert_int_equal(FIRST(body, {0, FT_EVENT_CPU, "", 950}, {1000, FT_EVENT_CPU, "", 100},
			       {2000, FT_EVENT_CPU, "", 990}, {3000, FT_EVENT_CPU, "", 990}),
			 0);
	assert_int_equal(FIRST(body, {0, FT_EVENT_CPU, "", 950}, {1500, FT_EVENT_NET_RX, "", 0},
			       {2000, FT_EVENT_CPU, "", 990}, {3999, FT_EVENT_CPU, "", 990}),
			 0);
	assert_int_equal(FIRST(body, {0, FT_EVENT_CPU, "", 950}, {1500, FT_EVENT_KEY, "", 0},
			       {2000, FT_EVENT_CPU, "", 990}, {4000, FT_EVENT_CPU, "", 990}),
			 4);
}

static void rules_that_are_wrong_name_the_place(void **state)
{
	static const struct {
		const char *body, *where, *text;
	} wrong[] = {
	    {"\"sid\": 0, \"any\": {\"event\": \"exec\"}", "/0/sid", "from 1 to"},
	    {"\"sid\": \"x\", \"any\": {\"event\": \"exec\"}", "/0/sid", "whole number"},
	    {"\"severity\": 4, \"any\": {\"event\": \"exec\"}", "/0/severity", "from 1 to 3"},
	    {"\"name\": \"Big Name\", \"any\": {\"event\": \"exec\"}", "/0/name", "lower case"},
	    {"\"verdict\": \"clean\", \"any\": {\"event\": \"exec\"}", "/0/verdict", "malicious, suspicious"},
	    {"\"anny\": {\"event\": \"exec\"}", "/0/anny", "did you mean \"any\"?"},
	    {"\"rev\": 2", "/0", "one of any, threshold"},
	    {"\"any\": {\"event\": \"exec\"}, \"set\": {}", "/0", "both \"any\" and \"set\""},
	    {"\"any\": []", "/0/any", "1 to 32"},
	    {"\"any\": 5", "/0/any", "expected a map"},
	    {"\"any\": {\"event\": \"exce\"}", "/0/any/event", "did you mean \"exec\"?"},
	    {"\"any\": {}", "/0/any", "\"event\" is missing"},
	    {"\"any\": {\"event\": \"exec\", \"role\": \"guest\"}", "/0/any/role", "live, seed"},
	    {"\"any\": [{\"event\": \"exec\", \"where\": {\"paht\": \"/x\"}}]", "/0/any/0/where/paht",
	     "has no field"},
	    {"\"any\": {\"event\": \"exec\", \"where\": {}}", "/0/any/where", "expected a map of fields"},
	    {"\"any\": {\"event\": \"exec\", \"where\": {\"path\": 5}}", "/0/any/where/path",
	     "expected a text"},
	    {"\"any\": {\"event\": \"exec\", \"where\": {\"path\": []}}", "/0/any/where/path", "empty"},
	    {"\"any\": {\"event\": \"exec\", \"where\": {\"path\": {\"glob\": \"\"}}}",
	     "/0/any/where/path/glob", "match everything"},
	    {"\"any\": {\"event\": \"exec\", \"where\": {\"path\": {\"regex\": \"(\"}}}",
	     "/0/any/where/path/regex", "regular expression is wrong"},
	    {"\"any\": {\"event\": \"exec\", \"where\": {\"path\": {\"regex\": \"(a)\\\\1\"}}}",
	     "/0/any/where/path/regex", "back-references"},
	    {"\"any\": {\"event\": \"exec\", \"where\": {\"path\": {\"min\": 5}}}", "/0/any/where/path/min",
	     "unknown key"},
	    {"\"any\": {\"event\": \"exec\", \"where\": {\"path\": {\"prefix\": \"a\", \"suffix\": \"b\"}}}",
	     "/0/any/where/path", "exactly one"},
	    {"\"any\": {\"event\": \"exec\", \"where\": {\"path\": {\"not\": {\"not\": \"a\"}}}}",
	     "/0/any/where/path/not/not", "outside"},
	    {"\"any\": {\"event\": \"exec\", \"unless\": {\"path\": {\"in\": \"may_eat\"}}}",
	     "/0/any/unless/path/in", "may_exec, may_connect, may_write, may_jit or may_uring"},
	    {"\"any\": {\"event\": \"exec\", \"where\": {\"result\": \"ok\"}}", "/0/any/where/result",
	     "is a number"},
	    {"\"any\": {\"event\": \"signal\", \"where\": {\"signal\": \"SIGFOO\"}}", "/0/any/where/signal",
	     "no value of this field"},
	    {"\"any\": {\"event\": \"signal\", \"where\": {\"signal\": -1}}", "/0/any/where/signal",
	     "never negative"},
	    {"\"any\": {\"event\": \"signal\", \"where\": {\"signal\": {\"min\": 9, \"max\": 8}}}",
	     "/0/any/where/signal", "greater than max"},
	    {"\"threshold\": {\"of\": {\"event\": \"exec\"}}", "/0/threshold", "\"count\" is missing"},
	    {"\"threshold\": {\"of\": {\"event\": \"exec\"}, \"count\": 5000}", "/0/threshold/count",
	     "from 1 to 4096"},
	    {"\"threshold\": {\"of\": {\"event\": \"exec\"}, \"count\": 2, \"within\": 5}",
	     "/0/threshold/within", "duration"},
	    {"\"threshold\": {\"of\": {\"event\": \"exec\"}, \"count\": 2, \"within\": \"5\"}",
	     "/0/threshold/within", "within"},
	    {"\"sequence\": {\"steps\": [{\"event\": \"exec\"}]}", "/0/sequence/steps", "2 to 32"},
	    {"\"sequence\": {\"same\": \"path\", \"steps\": [{\"event\": \"exec\"}, {\"event\": \"key\"}]}",
	     "/0/sequence/same", "event \"key\" has no field \"path\""},
	    {"\"set\": {\"of\": {\"event\": \"net.tx\"}, \"field\": \"dadr\", \"distinct\": 2}",
	     "/0/set/field", "no field \"dadr\""},
	    {"\"absence\": {\"during\": {\"event\": \"cpu\"}, \"of\": {\"event\": \"key\"}}", "/0/absence",
	     "\"for\" is missing"},
	    {"\"absence\": {\"during\": [], \"of\": {\"event\": \"key\"}, \"for\": \"1 s\"}",
	     "/0/absence/during", "not a list"},
	};
	for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
		struct ft_error err = {0};
		char where[FT_DOOR_WHERE] = "";
		/* Later keys win, so that a body may spoil what the frame around it says. */
		json_t *list = list_with(wrong[i].body);
		int status = ft_rules_check(list, FT_RULES_VERDICT, where, &err);
		if (status != -EINVAL || strcmp(where, wrong[i].where) || !strstr(err.text, wrong[i].text))
			fail_msg("%s\ngave %d at %s: %s", wrong[i].body, status, where, err.text);
		json_decref(list);
	}
}

static void correlation_needs_windows_and_gives_no_verdict(void **state)
{
	struct ft_error err = {0};
	char where[FT_DOOR_WHERE] = "";
	json_t *list = list_with("\"any\": {\"event\": \"exec\"}");
	assert_int_equal(ft_rules_check(list, FT_RULES_CORRELATION, where, &err), -EINVAL);
	assert_string_equal(where, "/0/verdict");
	json_object_del(json_array_get(list, 0), "verdict");
	assert_int_equal(ft_rules_check(list, FT_RULES_CORRELATION, where, NULL), 0);
	json_decref(list);
	list = list_with("\"threshold\": {\"of\": {\"event\": \"exec\"}, \"count\": 2}");
	json_object_del(json_array_get(list, 0), "verdict");
	err = (struct ft_error){0};
	assert_int_equal(ft_rules_check(list, FT_RULES_CORRELATION, where, &err), -EINVAL);
	assert_string_equal(where, "/0/threshold");
	json_decref(list);
}

static int check_file(const char *text, char where[FT_DOOR_WHERE], struct ft_error *err)
{
	json_t *file = json_loads(text, 0, NULL);
	assert_non_null(file);
	*err = (struct ft_error){0};
	where[0] = 0;
	int status = ft_rules_check_file(file, where, err);
	json_decref(file);
	return status;
}

#define PATTERN(sid, more) "{\"sid\": " sid ", \"name\": \"p\", \"text\": \"t\", " more "}"
#define EVENT_RULE(sid)                                                                                      \
	"{\"sid\": " sid                                                                                     \
	", \"name\": \"r\", \"text\": \"t\", \"severity\": 1, \"verdict\": \"malicious\", \"any\": "         \
	"{\"event\": \"exec\"}}"

static void files_have_lists_and_each_sid_once(void **state)
{
	struct ft_error err;
	char where[FT_DOOR_WHERE];
	assert_int_equal(check_file("{}", where, &err), 0);
	assert_int_equal(check_file("{\"rules\": []}", where, &err), -EINVAL);
	assert_string_equal(where, "/rules");
	assert_int_equal(check_file("[]", where, &err), -EINVAL);
	assert_int_equal(check_file("{\"verdicts\": {}}", where, &err), -EINVAL);
	assert_string_equal(where, "/verdicts");
	assert_int_equal(
	    check_file("{\"verdicts\": [" EVENT_RULE("5") ", " EVENT_RULE("5") "]}", where, &err), -EINVAL);
	assert_string_equal(where, "/verdicts/1/sid");
	assert_int_equal(check_file("{\"patterns\": [" PATTERN(
					"5", "\"pattern\": \"a\"") "], \"verdicts\": [" EVENT_RULE("5") "]}",
				    where, &err),
			 -EINVAL);
	assert_string_equal(where, "/verdicts/0/sid");
	assert_non_null(strstr(err.text, "already taken by \"p\""));

	json_t *merged = json_pack("{s:[], s:[], s:[]}", "patterns", "verdicts", "correlations");
	json_t *file = json_loads("{\"verdicts\": [" EVENT_RULE("5") "]}", 0, NULL);
	assert_int_equal(ft_rules_merge(merged, file, where, &err), 0);
	err = (struct ft_error){0};
	assert_int_equal(ft_rules_merge(merged, file, where, &err), -EINVAL);
	assert_int_equal(json_array_size(json_object_get(merged, "verdicts")), 1);
	json_decref(file);
	json_decref(merged);
}

static void patterns_are_asked_whether_they_compile(void **state)
{
	struct ft_error err;
	char where[FT_DOOR_WHERE];
	assert_int_equal(
	    check_file("{\"patterns\": [" PATTERN("5", "\"pattern\": \"a(b\"") "]}", where, &err), -EINVAL);
	assert_string_equal(where, "/patterns/0/pattern");
	assert_int_equal(
	    check_file("{\"patterns\": [" PATTERN("5", "\"pattern\": \"a\", \"flags\": \"ix\"") "]}", where,
		       &err),
	    -EINVAL);
	assert_string_equal(where, "/patterns/0/flags");
	assert_int_equal(
	    check_file("{\"patterns\": [" PATTERN("5", "\"pattern\": \"a\", \"where\": \"uri\"") "]}", where,
		       &err),
	    -EINVAL);
	assert_string_equal(where, "/patterns/0/where");
	assert_int_equal(check_file("{\"patterns\": [" PATTERN("5", "\"flags\": \"i\"") "]}", where, &err),
			 -EINVAL);
	assert_string_equal(where, "/patterns/0");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(texts_compare_as_they_say),
	    cmocka_unit_test(numbers_compare_as_they_say),
	    cmocka_unit_test(roles_and_exceptions_count),
	    cmocka_unit_test(the_profile_says_what_is_normal),
	    cmocka_unit_test(profiles_that_are_wrong_name_the_place),
	    cmocka_unit_test(thresholds_count_in_event_time),
	    cmocka_unit_test(sequences_need_their_order_and_the_same_value),
	    cmocka_unit_test(sets_count_different_values),
	    cmocka_unit_test(absence_needs_the_whole_stretch),
	    cmocka_unit_test(rules_that_are_wrong_name_the_place),
	    cmocka_unit_test(correlation_needs_windows_and_gives_no_verdict),
	    cmocka_unit_test(files_have_lists_and_each_sid_once),
	    cmocka_unit_test(patterns_are_asked_whether_they_compile),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
