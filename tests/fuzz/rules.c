/* Rule files as somebody else wrote them: JSON (as YAML becomes) read as verdict rules, correlation rules, patterns, a whole
 * file and a profile. What is wrong gets a sentence and a place that exists; what is right is run over events. */
#include "input.h"

#include "detect/eval.h"
#include "detect/pattern.h"
#include "detect/profile.h"
#include "detect/rules.h"

static struct ft_profile *normal;

/* The place of an error is a pointer into what was read: from a place that is there one may step to a key that is not. */
static void check_refusal(const struct ft_error *err, const char *where)
{
	MUST(err->text[0] && err->code < 0);
	MUST(strlen(where) < FT_DOOR_WHERE);
	MUST(!where[0] || where[0] == '/');
}

static void found(void *context, const struct ft_rule *rule, const struct ft_event *event,
		  const char *const *strings, uint64_t since)
{
	const struct ft_rules *rules = context;
	MUST(rule >= rules->rules && rule < rules->rules + rules->count && since <= event->vtime_ns);
}

static void play(const struct ft_rules *rules)
{
	static const char *const texts[] = {"/bin/sh",
					    "/etc/passwd",
					    "10.0.0.1:80",
					    "unix:@x",
					    "[::1]:25",
					    "",
					    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa/../b"};
	struct ft_eval *eval = ft_eval_new(rules, normal);
	MUST(eval);
	for (unsigned round = 0; round < 4; round++)
		for (unsigned type = 0; type < FT_EVENT_TYPES; type++) {
			struct ft_event made = {.type = (uint16_t)type,
						.role = FT_ROLE_TRIAL,
						.vtime_ns = (round * 100ull + type) * 100000000,
						.pid = round & 1 ? -1 : 100,
						.a = {round, type, 3, round ? 0 : UINT64_MAX, 2, 1},
						.process = "nginx"},
					event;
			uint8_t record[FT_EVENT_MAX];
			const char *strings[FT_EVENT_STRINGS];
			size_t n = ft_event_build(record, &made, texts[(round + type) % 7],
						  texts[(2 * round + type) % 7]);
			MUST(!ft_event_check(record, n, &event, strings));
			MUST(!ft_eval_event(eval, &event, strings, found, (void *)(uintptr_t)rules));
			ft_eval_relevance(rules, normal, &event, strings);
		}
	ft_eval_free(eval);
}

static void check_rules(const struct ft_rules *rules)
{
	MUST(rules->count <= FT_RULES_MAX);
	for (size_t i = 0; i < rules->count; i++) {
		const struct ft_rule *r = &rules->rules[i];
		MUST(r->sid && r->severity >= 1 && r->severity <= 3 && r->name[0] && r->text[0]);
		MUST(r->count >= 1 && r->count <= FT_RULES_PARTS);
		for (unsigned n = 0; n < r->count; n++)
			MUST(r->parts[n]);
	}
}

static void read_as(const json_t *json, enum ft_rules_use use)
{
	struct ft_rules *rules = NULL;
	struct ft_error err = {0};
	char where[FT_DOOR_WHERE] = "";
	int error = ft_rules_load(json, use, &rules, where, &err),
	    checked = ft_rules_check(json, use, NULL, NULL);
	MUST(!error == !checked && !error == (rules != NULL));
	if (error) {
		check_refusal(&err, where);
		return;
	}
	check_rules(rules);
	play(rules);
	ft_rules_free(rules);
}

static void read_patterns(const json_t *json)
{
	struct ft_patterns *patterns = NULL;
	struct ft_error err = {0};
	char where[FT_DOOR_WHERE] = "";
	if (ft_patterns_load(json, &patterns, where, &err))
		check_refusal(&err, where);
	else
		MUST(patterns->count <= FT_PATTERNS_MAX);
	ft_patterns_free(patterns);
}

static void read_file(const json_t *json)
{
	struct ft_error err = {0};
	char where[FT_DOOR_WHERE] = "";
	if (ft_rules_check_file(json, where, &err)) {
		check_refusal(&err, where);
		return;
	}
	json_t *merged = json_pack("{s:[], s:[], s:[]}", "patterns", "verdicts", "correlations");
	MUST(!ft_rules_merge(merged, json, where, &err));
	size_t count = 0;
	const char *key;
	json_t *list;
	json_object_foreach(merged, key, list) count += json_array_size(list);
	/* A second time every sid is taken. */
	MUST(!count || ft_rules_merge(merged, json, where, &err));
	json_decref(merged);
}

static void read_profile(const json_t *json)
{
	struct ft_profile *profile = NULL;
	struct ft_error err = {0};
	char where[FT_DOOR_WHERE] = "";
	if (ft_profile_load(json, &profile, where, &err)) {
		check_refusal(&err, where);
		return;
	}
	static const char *const texts[] = {
	    "/a/b/c", "10.1.2.3:80", "[2001:db8::7]:443", "unix:/run/x", "a..b", "/a/../b", ""};
	for (unsigned list = 0; list < FT_PROFILE_LISTS; list++) {
		for (unsigned i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
			bool has = ft_profile_has(profile, list, texts[i]);
			if (list != FT_PROFILE_MAY_CONNECT && strstr(texts[i], "/.."))
				MUST(!has);
		}
		/* Longer than what is kept of a path or an address. */
		char text[1200];
		for (size_t n = sizeof(text) - 1; n > 100; n -= n > 1030 ? 60 : n > 1020 || n < 136 ? 1 : 100) {
			memset(text, '1', n);
			text[n] = 0;
			ft_profile_has(profile, list, text);
			for (size_t i = 0; i < n; i += 7)
				text[i] = '/';
			ft_profile_has(profile, list, text);
		}
	}
	ft_profile_free(profile);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	struct ft_error err = {0};
	json_t *json = json_loads("{\"may_exec\": [\"/bin/*\"], \"may_connect\": [\"10.0.0.0/8\"]}", 0, NULL);
	MUST(!ft_profile_load(json, &normal, NULL, &err));
	json_decref(json);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	json_t *json = json_loadb((const char *)data, size, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
	if (!json)
		return 0;
	json_t *lists[] = {json_object_get(json, "verdicts"), json_object_get(json, "correlations"),
			   json_object_get(json, "patterns"), json_object_get(json, "normal")};
	read_as(lists[0] ? lists[0] : json, FT_RULES_VERDICT);
	read_as(lists[1] ? lists[1] : json, FT_RULES_CORRELATION);
	read_patterns(lists[2] ? lists[2] : json);
	read_profile(lists[3] ? lists[3] : json);
	if (json_object_get(json, "normal"))
		json_object_del(json, "normal");
	read_file(json);
	json_decref(json);
	return 0;
}
