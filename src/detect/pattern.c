#include "detect/pattern.h"

#include <errno.h>
#include <hs/hs.h>
#include <stdlib.h>
#include <string.h>

static int read_flags(const json_t *json, unsigned *flags, struct ft_door *door, const struct ft_place *place)
{
	*flags = 0;
	const json_t *value = json_object_get(json, "flags");
	if (!value)
		return 0;
	struct ft_place here = {place, "flags", 0};
	if (!json_is_string(value))
		return ft_door_refuse(door, &here, "\"flags\" must be a text with any of i, s, m");
	for (const char *c = json_string_value(value); *c; c++) {
		unsigned flag = *c == 'i'   ? HS_FLAG_CASELESS
				: *c == 's' ? HS_FLAG_DOTALL
				: *c == 'm' ? HS_FLAG_MULTILINE
					    : 0;
		if (!flag)
			return ft_door_refuse(door, &here, "there is no flag \"%c\": expected any of i, s, m",
					      *c);
		*flags |= flag;
	}
	return 0;
}

static int read_scope(const json_t *json, bool *stream, struct ft_door *door, const struct ft_place *place)
{
	const json_t *value = json_object_get(json, "where");
	struct ft_place here = {place, "where", 0};
	*stream = !value || (json_is_string(value) && !strcmp(json_string_value(value), "stream"));
	if (*stream || (json_is_string(value) && !strcmp(json_string_value(value), "packet")))
		return 0;
	return ft_door_refuse(door, &here, "\"where\" must be stream or packet");
}

static int check_expression(const struct ft_pattern *p, struct ft_door *door, const struct ft_place *place)
{
	struct ft_place here = {place, "pattern", 0};
	hs_database_t *database = NULL;
	hs_compile_error_t *why = NULL;
	hs_error_t status = hs_compile(p->pattern, p->flags, p->stream ? HS_MODE_STREAM : HS_MODE_BLOCK, NULL,
				       &database, &why);
	if (status == HS_SUCCESS) {
		hs_free_database(database);
		return 0;
	}
	ft_door_refuse(door, &here, "this pattern does not compile: %s",
		       why ? why->message : "out of memory");
	hs_free_compile_error(why);
	return -EINVAL;
}

static int read_pattern(struct ft_pattern *p, const json_t *json, struct ft_door *door,
			const struct ft_place *place)
{
	static const char *const keys[] = {"sid",     "rev",   "name",  "text", "severity",
					   "pattern", "flags", "where", NULL};
	int64_t sid = 0, rev = 1, severity = 3;
	const char *name, *text, *pattern;
	if (ft_door_keys(door, place, json, keys) ||
	    ft_door_integer(door, place, json, "sid", true, 1, UINT32_MAX, &sid) ||
	    ft_door_integer(door, place, json, "rev", false, 1, UINT32_MAX, &rev) ||
	    ft_door_string(door, place, json, "name", 64, &name) ||
	    ft_door_string(door, place, json, "text", 256, &text) ||
	    ft_door_integer(door, place, json, "severity", false, 1, 3, &severity) ||
	    ft_door_string(door, place, json, "pattern", 4096, &pattern) ||
	    read_flags(json, &p->flags, door, place) || read_scope(json, &p->stream, door, place))
		return -EINVAL;
	p->sid = (uint32_t)sid;
	p->rev = (uint32_t)rev;
	p->severity = (unsigned)severity;
	p->name = strdup(name);
	p->text = strdup(text);
	p->pattern = strdup(pattern);
	if (!p->name || !p->text || !p->pattern)
		return ft_door_refuse(door, place, "no memory for the rule");
	return check_expression(p, door, place);
}

int ft_patterns_load(const json_t *json, struct ft_patterns **out, char *where, struct ft_error *err)
{
	*out = NULL;
	struct ft_error local = {0};
	struct ft_door door = {where, err ? err : &local};
	struct ft_place root = {0};
	if (!json_is_array(json) || json_array_size(json) > FT_PATTERNS_MAX)
		return ft_door_refuse(&door, &root, "expected a list of at most %u patterns",
				      FT_PATTERNS_MAX);
	struct ft_patterns *patterns = calloc(1, sizeof(*patterns));
	size_t count = json_array_size(json);
	if (patterns)
		patterns->patterns = calloc(count ? count : 1, sizeof(*patterns->patterns));
	if (!patterns || !patterns->patterns) {
		free(patterns);
		return ft_door_refuse(&door, &root, "no memory for the patterns");
	}
	for (size_t i = 0; i < count; i++) {
		struct ft_place here = {&root, NULL, i}, at = {&here, "sid", 0};
		struct ft_pattern *p = &patterns->patterns[patterns->count++];
		int status = read_pattern(p, json_array_get(json, i), &door, &here);
		for (size_t k = 0; k < i && !status; k++)
			if (patterns->patterns[k].sid == p->sid)
				status = ft_door_refuse(&door, &at, "sid %u is already taken by \"%s\"",
							p->sid, patterns->patterns[k].name);
		if (status) {
			ft_patterns_free(patterns);
			return status;
		}
	}
	*out = patterns;
	return 0;
}

void ft_patterns_free(struct ft_patterns *patterns)
{
	if (!patterns)
		return;
	for (size_t i = 0; i < patterns->count; i++) {
		free(patterns->patterns[i].name);
		free(patterns->patterns[i].text);
		free(patterns->patterns[i].pattern);
	}
	free(patterns->patterns);
	free(patterns);
}
