#include "detect/rules.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "detect/pattern.h"

/* The keys that say how a rule combines events, in the order of enum ft_rule_kind. */
static const char *const kinds[] = {"any", "threshold", "sequence", "set", "absence"};
#define KINDS (sizeof(kinds) / sizeof(*kinds))

/* Parts from one match or a list of them. */
static int read_parts(struct ft_rule *rule, const json_t *json, unsigned least, struct ft_door *door,
		      const struct ft_place *place)
{
	if (!json_is_array(json)) {
		if (least > 1)
			return ft_door_refuse(door, place, "expected a list of at least %u events", least);
		return ft_match_load(json, &rule->parts[rule->count++], door, place);
	}
	size_t count = json_array_size(json);
	if (count < least || rule->count + count > FT_RULES_PARTS)
		return ft_door_refuse(door, place, "expected a list of %u to %u events", least,
				      FT_RULES_PARTS);
	for (size_t i = 0; i < count; i++) {
		struct ft_place here = {place, NULL, i};
		if (ft_match_load(json_array_get(json, i), &rule->parts[rule->count++], door, &here))
			return -EINVAL;
	}
	return 0;
}

static int read_part_key(struct ft_rule *rule, const json_t *json, const char *key, unsigned least,
			 struct ft_door *door, const struct ft_place *place)
{
	const json_t *value = json_object_get(json, key);
	struct ft_place here = {place, key, 0};
	return value ? read_parts(rule, value, least, door, &here)
		     : ft_door_refuse(door, place, "\"%s\" is missing", key);
}

/* `field` or `same`: every part must have it. */
static int read_field(struct ft_rule *rule, const json_t *json, const char *key, bool required,
		      struct ft_door *door, const struct ft_place *place)
{
	const char *name;
	if (!json_object_get(json, key) && !required)
		return 0;
	if (ft_door_string(door, place, json, key, 32, &name))
		return -EINVAL;
	struct ft_place here = {place, key, 0};
	for (unsigned i = 0; i < rule->count; i++) {
		unsigned type = ft_match_event(rule->parts[i]);
		rule->fields[i] = ft_match_field(type, name);
		if (rule->fields[i] < 0)
			return ft_door_refuse(door, &here, "event \"%s\" has no field \"%s\"",
					      ft_event_name(type), name);
	}
	return 0;
}

static int read_kind(struct ft_rule *rule, const json_t *json, enum ft_rules_use use, struct ft_door *door,
		     const struct ft_place *place)
{
	/* A live guest runs on and on: there, only a window makes a count mean something. */
	bool bounded = use == FT_RULES_CORRELATION;
	int64_t least = 1;
	static const char *const threshold[] = {"of", "count", "within", NULL};
	static const char *const sequence[] = {"steps", "within", "same", NULL};
	static const char *const set[] = {"of", "field", "distinct", "within", NULL};
	static const char *const absence[] = {"during", "of", "for", NULL};
	switch (rule->kind) {
	case FT_RULE_ANY:
		return read_parts(rule, json, 1, door, place);
	case FT_RULE_THRESHOLD:
		if (ft_door_keys(door, place, json, threshold) ||
		    read_part_key(rule, json, "of", 1, door, place) ||
		    ft_door_integer(door, place, json, "count", true, 1, FT_RULES_COUNT, &least))
			return -EINVAL;
		break;
	case FT_RULE_SEQUENCE:
		if (ft_door_keys(door, place, json, sequence) ||
		    read_part_key(rule, json, "steps", 2, door, place) ||
		    read_field(rule, json, "same", false, door, place))
			return -EINVAL;
		break;
	case FT_RULE_SET:
		if (ft_door_keys(door, place, json, set) || read_part_key(rule, json, "of", 1, door, place) ||
		    read_field(rule, json, "field", true, door, place) ||
		    ft_door_integer(door, place, json, "distinct", true, 1, FT_RULES_COUNT, &least))
			return -EINVAL;
		break;
	case FT_RULE_ABSENCE: {
		struct ft_place during = {place, "during", 0};
		if (ft_door_keys(door, place, json, absence))
			return -EINVAL;
		if (json_is_array(json_object_get(json, "during")))
			return ft_door_refuse(door, &during, "expected one event, not a list");
		if (read_part_key(rule, json, "during", 1, door, place) ||
		    read_part_key(rule, json, "of", 1, door, place))
			return -EINVAL;
		return ft_door_duration(door, place, json, "for", true, &rule->window_ns);
	}
	}
	rule->least = (uint32_t)least;
	return ft_door_duration(door, place, json, "within", bounded, &rule->window_ns);
}

/* The name is part of feeds and file names: lower case letters, digits and dashes. */
static int read_name(const json_t *json, char **name, struct ft_door *door, const struct ft_place *place)
{
	const char *text;
	if (ft_door_string(door, place, json, "name", 64, &text))
		return -EINVAL;
	struct ft_place here = {place, "name", 0};
	if (strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789-") != strlen(text))
		return ft_door_refuse(door, &here, "a name has lower case letters, digits and dashes only");
	*name = strdup(text);
	return *name ? 0 : ft_door_refuse(door, &here, "no memory for the rule");
}

static int read_rule(struct ft_rule *rule, const json_t *json, enum ft_rules_use use, struct ft_door *door,
		     const struct ft_place *place)
{
	static const char *const verdict_keys[] = {"sid",      "rev",     "name",    "text",
						   "severity", "verdict", "any",     "threshold",
						   "sequence", "set",     "absence", NULL};
	static const char *const correlation_keys[] = {
	    "sid", "rev", "name", "text", "severity", "any", "threshold", "sequence", "set", "absence", NULL};
	int64_t sid = 0, rev = 1, severity = 0;
	const char *text;
	if (ft_door_keys(door, place, json, use == FT_RULES_VERDICT ? verdict_keys : correlation_keys) ||
	    ft_door_integer(door, place, json, "sid", true, 1, UINT32_MAX, &sid) ||
	    ft_door_integer(door, place, json, "rev", false, 1, UINT32_MAX, &rev) ||
	    read_name(json, &rule->name, door, place) ||
	    ft_door_string(door, place, json, "text", 256, &text) ||
	    ft_door_integer(door, place, json, "severity", true, 1, 3, &severity))
		return -EINVAL;
	rule->sid = (uint32_t)sid;
	rule->rev = (uint32_t)rev;
	rule->severity = (unsigned)severity;
	rule->text = strdup(text);
	if (!rule->text)
		return ft_door_refuse(door, place, "no memory for the rule");
	rule->verdict = FT_VERDICT_SUSPICIOUS;
	if (use == FT_RULES_VERDICT) {
		const char *name;
		struct ft_place here = {place, "verdict", 0};
		if (ft_door_string(door, place, json, "verdict", 32, &name))
			return -EINVAL;
		int verdict = ft_verdict_by_name(name);
		if (verdict <= FT_VERDICT_CLEAN)
			return ft_door_refuse(door, &here, "expected malicious, suspicious or inconclusive");
		rule->verdict = (enum ft_verdict)verdict;
	}
	const json_t *body = NULL;
	for (unsigned i = 0; i < KINDS; i++) {
		const json_t *value = json_object_get(json, kinds[i]);
		if (value && body)
			return ft_door_refuse(door, place, "both \"%s\" and \"%s\": a rule has one of them",
					      kinds[rule->kind], kinds[i]);
		if (value) {
			body = value;
			rule->kind = (enum ft_rule_kind)i;
		}
	}
	if (!body)
		return ft_door_refuse(door, place,
				      "a rule needs one of any, threshold, sequence, set, absence");
	struct ft_place here = {place, kinds[rule->kind], 0};
	return read_kind(rule, body, use, door, &here);
}

static int read_rules(struct ft_rules *rules, const json_t *json, enum ft_rules_use use, struct ft_door *door,
		      const struct ft_place *place)
{
	if (!json_is_array(json) || json_array_size(json) > FT_RULES_MAX)
		return ft_door_refuse(door, place, "expected a list of at most %u rules", FT_RULES_MAX);
	size_t count = json_array_size(json);
	rules->rules = calloc(count ? count : 1, sizeof(*rules->rules));
	if (!rules->rules)
		return ft_door_refuse(door, place, "no memory for the rules");
	for (size_t i = 0; i < count; i++) {
		struct ft_place here = {place, NULL, i};
		struct ft_rule *rule = &rules->rules[rules->count++];
		for (unsigned k = 0; k < FT_RULES_PARTS; k++)
			rule->fields[k] = -1;
		if (read_rule(rule, json_array_get(json, i), use, door, &here))
			return -EINVAL;
		for (size_t k = 0; k < i; k++) {
			struct ft_place at = {&here, "sid", 0};
			if (rules->rules[k].sid == rule->sid)
				return ft_door_refuse(door, &at, "sid %u is already taken by \"%s\"",
						      rule->sid, rules->rules[k].name);
		}
	}
	return 0;
}

void ft_rules_free(struct ft_rules *rules)
{
	if (!rules)
		return;
	for (size_t i = 0; i < rules->count; i++) {
		struct ft_rule *rule = &rules->rules[i];
		for (unsigned k = 0; k < rule->count; k++)
			ft_match_free(rule->parts[k]);
		free(rule->name);
		free(rule->text);
	}
	free(rules->rules);
	free(rules);
}

static int load(const json_t *json, enum ft_rules_use use, struct ft_rules **out, struct ft_door *door,
		const struct ft_place *place)
{
	*out = NULL;
	struct ft_rules *rules = calloc(1, sizeof(*rules));
	if (!rules)
		return ft_door_refuse(door, place, "no memory for the rules");
	if (read_rules(rules, json, use, door, place)) {
		ft_rules_free(rules);
		return -EINVAL;
	}
	*out = rules;
	return 0;
}

int ft_rules_load(const json_t *json, enum ft_rules_use use, struct ft_rules **rules, char *where,
		  struct ft_error *err)
{
	struct ft_error local = {0};
	struct ft_door door = {where, err ? err : &local};
	struct ft_place root = {0};
	return load(json, use, rules, &door, &root);
}

int ft_rules_check(const json_t *json, enum ft_rules_use use, char *where, struct ft_error *err)
{
	struct ft_rules *rules;
	int status = ft_rules_load(json, use, &rules, where, err);
	ft_rules_free(rules);
	return status;
}

/* Prefixes where (relative to one list of the file) with the list's key. */
static void prefix_where(char *where, const char *key)
{
	char inner[FT_DOOR_WHERE];
	if (!where)
		return;
	memcpy(inner, where, sizeof(inner));
	inner[sizeof(inner) - 1] = 0;
	size_t n = strlen(key) + 1, rest = strnlen(inner, FT_DOOR_WHERE - 1 - n);
	where[0] = '/';
	memcpy(where + 1, key, n - 1);
	memcpy(where + n, inner, rest);
	where[n + rest] = 0;
}

static const char *const lists[] = {"patterns", "verdicts", "correlations", NULL};

/* Is sid taken by a rule before [list][index] of file (or anywhere in it when list is NULL)? */
static const char *sid_owner(const json_t *file, json_int_t sid, const char *list, size_t index)
{
	for (unsigned l = 0; lists[l]; l++) {
		const json_t *rules = json_object_get(file, lists[l]);
		bool last = list && !strcmp(lists[l], list);
		for (size_t i = 0; i < json_array_size(rules) && !(last && i == index); i++) {
			const json_t *rule = json_array_get(rules, i);
			if (json_integer_value(json_object_get(rule, "sid")) == sid)
				return json_string_value(json_object_get(rule, "name"));
		}
		if (last)
			break;
	}
	return NULL;
}

static int check_sids(const json_t *file, const json_t *against, struct ft_door *door)
{
	struct ft_place root = {0};
	for (unsigned l = 0; lists[l]; l++) {
		const json_t *rules = json_object_get(file, lists[l]);
		struct ft_place list = {&root, lists[l], 0};
		for (size_t i = 0; i < json_array_size(rules); i++) {
			struct ft_place rule = {&list, NULL, i}, here = {&rule, "sid", 0};
			json_int_t sid = json_integer_value(json_object_get(json_array_get(rules, i), "sid"));
			const char *owner =
			    against ? sid_owner(against, sid, NULL, 0) : sid_owner(file, sid, lists[l], i);
			if (owner)
				return ft_door_refuse(
				    door, &here, "sid %" JSON_INTEGER_FORMAT " is already taken by \"%s\"",
				    sid, owner);
		}
	}
	return 0;
}

int ft_rules_check_file(const json_t *file, char *where, struct ft_error *err)
{
	struct ft_error local = {0};
	struct ft_door door = {where, err ? err : &local};
	struct ft_place root = {0};
	if (ft_door_keys(&door, &root, file, lists))
		return -EINVAL;
	for (unsigned l = 0; lists[l]; l++) {
		const json_t *list = json_object_get(file, lists[l]);
		if (!list)
			continue;
		int status;
		if (l == 0) {
			struct ft_patterns *patterns;
			status = ft_patterns_load(list, &patterns, where, door.err);
			ft_patterns_free(patterns);
		} else {
			status = ft_rules_check(list, l == 1 ? FT_RULES_VERDICT : FT_RULES_CORRELATION, where,
						door.err);
		}
		if (status) {
			prefix_where(where, lists[l]);
			return status;
		}
	}
	return check_sids(file, NULL, &door);
}

int ft_rules_merge(json_t *merged, const json_t *file, char *where, struct ft_error *err)
{
	struct ft_error local = {0};
	struct ft_door door = {where, err ? err : &local};
	if (check_sids(file, merged, &door))
		return -EINVAL;
	for (unsigned l = 0; lists[l]; l++) {
		json_t *all = json_object_get(merged, lists[l]), *more = json_object_get(file, lists[l]);
		if (more && (!all || json_array_extend(all, more)))
			return ft_error_set(err, -ENOMEM, "no memory for the rules");
	}
	return 0;
}
