#include "detect/match.h"

#include <errno.h>
#include <fnmatch.h>
#include <inttypes.h>
#include <regex.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/* Field indices: 0..5 are a[], 8 and 9 the strings (base/event.h), the rest is what every event has. */
enum { STRING0 = 8, PROCESS = 16, PID, CR3 };

#define CONDITIONS 16u  /* of one where or unless */
#define UNLESSES   8u   /* alternatives of unless */
#define TESTS      256u /* alternatives of one condition */
#define TEXT       1024u

enum test_kind { EQUAL, RANGE, MASK, TEXT_EQUAL, PREFIX, SUFFIX, GLOB, REGEX, PROFILE };

struct test {
	enum test_kind kind;
	uint64_t low, high; /* EQUAL, MASK: low */
	char *text;
	size_t length;
	regex_t *regex;
	enum ft_profile_list list;
};

struct condition {
	int field;
	bool is_signed, negated;
	struct test *tests; /* any of them */
	size_t count;
};

struct group {
	struct condition conditions[CONDITIONS]; /* all of them */
	size_t count;
};

struct ft_match {
	unsigned type;
	int role; /* -1: any */
	struct group where;
	struct group unless[UNLESSES];
	size_t unless_count;
};

int ft_match_field(unsigned type, const char *name)
{
	if (!strcmp(name, "process"))
		return PROCESS;
	if (!strcmp(name, "pid"))
		return PID;
	if (!strcmp(name, "cr3"))
		return CR3;
	return ft_event_field(type, name);
}

static bool is_text(int field)
{
	return field == PROCESS || field == STRING0 || field == STRING0 + 1;
}

static const char *field_text(const struct ft_event *event, const char *const *strings, int field)
{
	return field == PROCESS ? event->process : strings[field - STRING0];
}

static uint64_t field_number(const struct ft_event *event, int field)
{
	if (field == PID)
		return (uint64_t)event->pid;
	return field == CR3 ? event->cr3 : event->a[field];
}

uint64_t ft_match_value(const struct ft_event *event, const char *const *strings, int field)
{
	if (!is_text(field))
		return field_number(event, field);
	const char *text = field_text(event, strings, field);
	return XXH3_64bits(text, strlen(text));
}

static bool test_number(const struct test *test, uint64_t value, bool is_signed)
{
	switch (test->kind) {
	case EQUAL:
		return value == test->low;
	case MASK:
		return (value & test->low) != 0;
	case RANGE:
		if (is_signed)
			return (int64_t)value >= (int64_t)test->low && (int64_t)value <= (int64_t)test->high;
		return value >= test->low && value <= test->high;
	default:
		return false;
	}
}

static bool test_text(const struct test *test, const char *text, const struct ft_profile *profile)
{
	size_t n;
	switch (test->kind) {
	case TEXT_EQUAL:
		return !strcmp(text, test->text);
	case PREFIX:
		return !strncmp(text, test->text, test->length);
	case SUFFIX:
		n = strlen(text);
		return n >= test->length && !strcmp(text + n - test->length, test->text);
	case GLOB:
		return !fnmatch(test->text, text, 0);
	case REGEX:
		return !regexec(test->regex, text, 0, NULL, 0);
	case PROFILE:
		return ft_profile_has(profile, test->list, text);
	default:
		return false;
	}
}

static bool condition_holds(const struct condition *c, const struct ft_event *event,
			    const char *const *strings, const struct ft_profile *profile)
{
	bool any = false;
	for (size_t i = 0; i < c->count && !any; i++)
		any = is_text(c->field)
			  ? test_text(&c->tests[i], field_text(event, strings, c->field), profile)
			  : test_number(&c->tests[i], field_number(event, c->field), c->is_signed);
	return any != c->negated;
}

static bool group_holds(const struct group *group, const struct ft_event *event, const char *const *strings,
			const struct ft_profile *profile)
{
	for (size_t i = 0; i < group->count; i++)
		if (!condition_holds(&group->conditions[i], event, strings, profile))
			return false;
	return true;
}

bool ft_match_test(const struct ft_match *match, const struct ft_event *event, const char *const *strings,
		   const struct ft_profile *profile)
{
	if (event->type != match->type || (match->role >= 0 && event->role != match->role) ||
	    !group_holds(&match->where, event, strings, profile))
		return false;
	for (size_t i = 0; i < match->unless_count; i++)
		if (group_holds(&match->unless[i], event, strings, profile))
			return false;
	return true;
}

unsigned ft_match_event(const struct ft_match *match)
{
	return match->type;
}

/* Reading. */

/* Numbers that people know by name: the end of a trial, a signal. */
static bool number_by_name(unsigned type, int field, const char *name, uint64_t *value)
{
	if (type == FT_EVENT_TRIAL_END && field == 0) {
		for (unsigned i = 0; i < FT_TRIAL_END_COUNT; i++)
			if (!strcmp(ft_trial_end_label(i), name)) {
				*value = i;
				return true;
			}
		return false;
	}
	if (type != FT_EVENT_SIGNAL || field != 0 || strncmp(name, "SIG", 3))
		return false;
	for (int i = 1; i < NSIG; i++) {
		const char *known = sigabbrev_np(i);
		if (known && !strcmp(known, name + 3)) {
			*value = (uint64_t)i;
			return true;
		}
	}
	return false;
}

struct reader {
	struct ft_door *door;
	unsigned type;
	struct condition *condition;
	size_t room;
};

/* The next free test of the condition, or NULL with the error said. */
static struct test *new_test(struct reader *r, const struct ft_place *place)
{
	struct condition *c = r->condition;
	if (c->count == TESTS) {
		ft_door_refuse(r->door, place, "more than %u alternatives", TESTS);
		return NULL;
	}
	if (c->count == r->room) {
		size_t room = r->room ? 2 * r->room : 4;
		struct test *more = realloc(c->tests, room * sizeof(*more));
		if (!more) {
			ft_door_refuse(r->door, place, "no memory for the rule");
			return NULL;
		}
		c->tests = more;
		r->room = room;
	}
	struct test *test = &c->tests[c->count++];
	*test = (struct test){0};
	return test;
}

static int read_number(struct reader *r, const json_t *json, const struct ft_place *place, uint64_t *value)
{
	if (json_is_string(json)) {
		if (number_by_name(r->type, r->condition->field, json_string_value(json), value))
			return 0;
		return ft_door_refuse(r->door, place,
				      "\"%.64s\" is no value of this field, which is a number",
				      json_string_value(json));
	}
	if (!json_is_integer(json))
		return ft_door_refuse(r->door, place, "expected a whole number");
	if (json_integer_value(json) < 0 && !r->condition->is_signed)
		return ft_door_refuse(r->door, place, "this field is never negative");
	*value = (uint64_t)json_integer_value(json);
	return 0;
}

static int read_text(struct reader *r, enum test_kind kind, const json_t *json, const struct ft_place *place)
{
	const char *text = json_string_value(json);
	if (!text || strlen(text) != json_string_length(json) || json_string_length(json) > TEXT)
		return ft_door_refuse(r->door, place, "expected a text of at most %u bytes", TEXT);
	if (!*text && kind != TEXT_EQUAL)
		return ft_door_refuse(r->door, place, "an empty text here would match everything");
	struct test *test = new_test(r, place);
	if (!test)
		return -EINVAL;
	test->kind = kind;
	test->text = strdup(text);
	test->length = strlen(text);
	if (!test->text)
		return ft_door_refuse(r->door, place, "no memory for the rule");
	if (kind != REGEX)
		return 0;
	/* A back-reference makes matching exponential, and the text is the guest's. */
	for (const char *c = text; (c = strchr(c, '\\')) && c[1]; c += 2)
		if (c[1] >= '1' && c[1] <= '9')
			return ft_door_refuse(r->door, place, "back-references are not supported");
	regex_t *regex = calloc(1, sizeof(*regex));
	if (!regex)
		return ft_door_refuse(r->door, place, "no memory for the rule");
	int status = regcomp(regex, text, REG_EXTENDED | REG_NOSUB);
	if (status) {
		char why[128];
		regerror(status, regex, why, sizeof(why));
		free(regex);
		return ft_door_refuse(r->door, place, "this regular expression is wrong: %s", why);
	}
	test->regex = regex;
	return 0;
}

static int read_equal(struct reader *r, const json_t *json, const struct ft_place *place)
{
	if (is_text(r->condition->field))
		return read_text(r, TEXT_EQUAL, json, place);
	uint64_t value;
	if (read_number(r, json, place, &value))
		return -EINVAL;
	struct test *test = new_test(r, place);
	if (!test)
		return -EINVAL;
	test->kind = EQUAL;
	test->low = value;
	return 0;
}

static int read_range(struct reader *r, const json_t *json, const struct ft_place *place)
{
	static const char *const keys[] = {"min", "max", NULL};
	if (ft_door_keys(r->door, place, json, keys))
		return -EINVAL;
	uint64_t low = r->condition->is_signed ? (uint64_t)INT64_MIN : 0;
	uint64_t high = r->condition->is_signed ? INT64_MAX : UINT64_MAX;
	const json_t *min = json_object_get(json, "min"), *max = json_object_get(json, "max");
	struct ft_place at_min = {place, "min", 0}, at_max = {place, "max", 0};
	if ((min && read_number(r, min, &at_min, &low)) || (max && read_number(r, max, &at_max, &high)))
		return -EINVAL;
	if (r->condition->is_signed ? (int64_t)low > (int64_t)high : low > high)
		return ft_door_refuse(r->door, place, "min is greater than max");
	struct test *test = new_test(r, place);
	if (!test)
		return -EINVAL;
	*test = (struct test){.kind = RANGE, .low = low, .high = high};
	return 0;
}

static int read_profile(struct reader *r, const json_t *json, const struct ft_place *place)
{
	const char *name = json_string_value(json);
	for (unsigned list = 0; name && list < FT_PROFILE_LISTS; list++) {
		if (strcmp(name, ft_profile_list_name(list)))
			continue;
		struct test *test = new_test(r, place);
		if (!test)
			return -EINVAL;
		*test = (struct test){.kind = PROFILE, .list = (enum ft_profile_list)list};
		return 0;
	}
	return ft_door_refuse(r->door, place, "expected may_exec, may_connect, may_write, may_jit or may_uring");
}

static int read_value(struct reader *r, const json_t *json, const struct ft_place *place, bool may_negate);

/* {operator: value}. */
static int read_operator(struct reader *r, const json_t *json, const struct ft_place *place, bool may_negate)
{
	static const char *const text_keys[] = {"prefix", "suffix", "glob", "regex", "in", "not", NULL};
	static const char *const number_keys[] = {"min", "max", "mask", "not", NULL};
	static const enum test_kind kinds[] = {PREFIX, SUFFIX, GLOB, REGEX};
	bool text = is_text(r->condition->field);
	if (ft_door_keys(r->door, place, json, text ? text_keys : number_keys))
		return -EINVAL;
	if (json_object_get(json, "min") || json_object_get(json, "max"))
		return read_range(r, json, place);
	if (json_object_size(json) != 1)
		return ft_door_refuse(r->door, place, "expected exactly one comparison");
	const char *key = json_object_iter_key(json_object_iter((json_t *)json));
	const json_t *value = json_object_get(json, key);
	struct ft_place here = {place, key, 0};
	if (!strcmp(key, "not")) {
		if (!may_negate)
			return ft_door_refuse(r->door, &here, "\"not\" may stand only at the outside");
		r->condition->negated = true;
		return read_value(r, value, &here, false);
	}
	if (!strcmp(key, "in"))
		return read_profile(r, value, &here);
	if (!strcmp(key, "mask")) {
		uint64_t mask;
		if (read_number(r, value, &here, &mask))
			return -EINVAL;
		struct test *test = new_test(r, &here);
		if (!test)
			return -EINVAL;
		*test = (struct test){.kind = MASK, .low = mask};
		return 0;
	}
	unsigned kind = 0;
	while (strcmp(text_keys[kind], key))
		kind++;
	if (!json_is_array(value))
		return read_text(r, kinds[kind], value, &here);
	if (!json_array_size(value))
		return ft_door_refuse(r->door, &here, "this list is empty");
	for (size_t i = 0; i < json_array_size(value); i++) {
		struct ft_place at = {&here, NULL, i};
		if (read_text(r, kinds[kind], json_array_get(value, i), &at))
			return -EINVAL;
	}
	return 0;
}

static int read_value(struct reader *r, const json_t *json, const struct ft_place *place, bool may_negate)
{
	if (json_is_object(json))
		return read_operator(r, json, place, may_negate);
	if (!json_is_array(json))
		return read_equal(r, json, place);
	if (!json_array_size(json))
		return ft_door_refuse(r->door, place, "this list is empty");
	for (size_t i = 0; i < json_array_size(json); i++) {
		struct ft_place here = {place, NULL, i};
		const json_t *one = json_array_get(json, i);
		if (json_is_object(one) ? read_operator(r, one, &here, false) : read_equal(r, one, &here))
			return -EINVAL;
	}
	return 0;
}

static int read_group(struct group *group, unsigned type, const json_t *json, struct ft_door *door,
		      const struct ft_place *place)
{
	if (!json_is_object(json) || !json_object_size(json))
		return ft_door_refuse(door, place, "expected a map of fields and what they must hold");
	const char *key;
	json_t *value;
	json_object_foreach((json_t *)json, key, value)
	{
		struct ft_place here = {place, key, 0};
		int field = ft_match_field(type, key);
		if (field < 0)
			return ft_door_refuse(door, &here, "event \"%s\" has no field \"%.64s\"",
					      ft_event_name(type), key);
		if (group->count == CONDITIONS)
			return ft_door_refuse(door, &here, "more than %u conditions", CONDITIONS);
		struct condition *c = &group->conditions[group->count++];
		c->field = field;
		c->is_signed = field == PID || !strcmp(key, "result");
		struct reader r = {.door = door, .type = type, .condition = c};
		if (read_value(&r, value, &here, true))
			return -EINVAL;
	}
	return 0;
}

static int read_match(struct ft_match *match, const json_t *json, struct ft_door *door,
		      const struct ft_place *place)
{
	static const char *const keys[] = {"event", "role", "where", "unless", NULL};
	const char *name;
	if (ft_door_keys(door, place, json, keys) || ft_door_string(door, place, json, "event", 64, &name))
		return -EINVAL;
	int type = ft_event_by_name(name);
	if (type < 0) {
		const char *known[FT_EVENT_TYPES + 1] = {0};
		for (unsigned i = 0; i < FT_EVENT_TYPES; i++)
			known[i] = ft_event_name(i);
		const char *nearest = ft_door_nearest(name, known);
		struct ft_place here = {place, "event", 0};
		return ft_door_refuse(door, &here, "there is no event \"%s\"%s%s%s", name,
				      nearest ? ", did you mean \"" : "", nearest ? nearest : "",
				      nearest ? "\"?" : "");
	}
	match->type = (unsigned)type;
	match->role = -1;
	const json_t *role = json_object_get(json, "role");
	for (unsigned i = 0; role && i < FT_ROLES; i++)
		if (json_is_string(role) && !strcmp(json_string_value(role), ft_event_role_name(i)))
			match->role = (int)i;
	struct ft_place at_role = {place, "role", 0}, at_where = {place, "where", 0},
			at_unless = {place, "unless", 0};
	if (role && match->role < 0)
		return ft_door_refuse(door, &at_role, "expected live, seed, trial or twin");
	const json_t *where = json_object_get(json, "where"), *unless = json_object_get(json, "unless");
	if (where && read_group(&match->where, match->type, where, door, &at_where))
		return -EINVAL;
	if (!unless)
		return 0;
	if (!json_is_array(unless)) {
		match->unless_count = 1;
		return read_group(&match->unless[0], match->type, unless, door, &at_unless);
	}
	if (json_array_size(unless) == 0 || json_array_size(unless) > UNLESSES)
		return ft_door_refuse(door, &at_unless, "expected 1 to %u alternatives", UNLESSES);
	for (size_t i = 0; i < json_array_size(unless); i++) {
		struct ft_place here = {&at_unless, NULL, i};
		match->unless_count++;
		if (read_group(&match->unless[i], match->type, json_array_get(unless, i), door, &here))
			return -EINVAL;
	}
	return 0;
}

int ft_match_load(const json_t *json, struct ft_match **out, struct ft_door *door,
		  const struct ft_place *place)
{
	*out = NULL;
	struct ft_match *match = calloc(1, sizeof(*match));
	if (!match)
		return ft_door_refuse(door, place, "no memory for the rule");
	if (read_match(match, json, door, place)) {
		ft_match_free(match);
		return -EINVAL;
	}
	*out = match;
	return 0;
}

static void free_group(struct group *group)
{
	for (size_t i = 0; i < group->count; i++) {
		struct condition *c = &group->conditions[i];
		for (size_t j = 0; j < c->count; j++) {
			free(c->tests[j].text);
			if (c->tests[j].regex) {
				regfree(c->tests[j].regex);
				free(c->tests[j].regex);
			}
		}
		free(c->tests);
	}
}

void ft_match_free(struct ft_match *match)
{
	if (!match)
		return;
	free_group(&match->where);
	for (size_t i = 0; i < match->unless_count; i++)
		free_group(&match->unless[i]);
	free(match);
}
