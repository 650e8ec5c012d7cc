#include "detect/door.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/units.h"

/* Writes the pointer of place to buffer from the root down; what does not fit is cut. */
static size_t write_place(const struct ft_place *place, char *buffer, size_t size)
{
	if (!place || !place->up)
		return 0;
	size_t at = write_place(place->up, buffer, size);
	char step[FT_DOOR_WHERE];
	if (place->key) {
		/* RFC 6901 section 3: "~" and "/" inside a key are escaped. */
		size_t n = 0;
		for (const char *c = place->key; *c && n + 3 < sizeof(step); c++) {
			if (*c == '~' || *c == '/') {
				step[n++] = '~';
				step[n++] = *c == '~' ? '0' : '1';
			} else {
				step[n++] = *c;
			}
		}
		step[n] = 0;
	} else {
		snprintf(step, sizeof(step), "%zu", place->index);
	}
	int n = snprintf(buffer + at, size - at, "/%s", step);
	size_t end = at + (n > 0 ? (size_t)n : 0);
	return end < size ? end : size - 1;
}

int ft_door_refuse(struct ft_door *door, const struct ft_place *place, const char *format, ...)
{
	if (!door->err || !door->err->code) {
		char text[sizeof(door->err->text)];
		va_list args;
		va_start(args, format);
		vsnprintf(text, sizeof(text), format, args);
		va_end(args);
		if (door->where) {
			door->where[0] = 0;
			write_place(place, door->where, FT_DOOR_WHERE);
		}
		ft_error_set(door->err, -EINVAL, "%s", text);
	}
	return -EINVAL;
}

/* Levenshtein distance, cut off: words longer than the row count as far away. */
static size_t distance(const char *a, const char *b)
{
	enum { LONGEST = 32 };
	size_t la = strlen(a), lb = strlen(b);
	if (la > LONGEST || lb > LONGEST)
		return LONGEST;
	size_t row[LONGEST + 1];
	for (size_t j = 0; j <= lb; j++)
		row[j] = j;
	for (size_t i = 1; i <= la; i++) {
		size_t diagonal = row[0];
		row[0] = i;
		for (size_t j = 1; j <= lb; j++) {
			size_t change = diagonal + (a[i - 1] != b[j - 1]);
			diagonal = row[j];
			size_t best = change < row[j] + 1 ? change : row[j] + 1;
			row[j] = best < row[j - 1] + 1 ? best : row[j - 1] + 1;
		}
	}
	return row[lb];
}

const char *ft_door_nearest(const char *written, const char *const *known)
{
	const char *nearest = NULL;
	size_t best = strlen(written) / 3 + 2;
	for (; *known; known++) {
		size_t d = distance(written, *known);
		if (d < best) {
			best = d;
			nearest = *known;
		}
	}
	return nearest;
}

int ft_door_keys(struct ft_door *door, const struct ft_place *place, const json_t *object,
		 const char *const *known)
{
	if (!json_is_object(object))
		return ft_door_refuse(door, place, "expected a map here");
	const char *key;
	json_t *value;
	json_object_foreach((json_t *)object, key, value)
	{
		const char *const *k = known;
		while (*k && strcmp(*k, key))
			k++;
		if (*k)
			continue;
		struct ft_place here = {place, key, 0};
		const char *nearest = ft_door_nearest(key, known);
		return ft_door_refuse(door, &here, "unknown key \"%.64s\"%s%s%s", key,
				      nearest ? ", did you mean \"" : "", nearest ? nearest : "",
				      nearest ? "\"?" : "");
	}
	return 0;
}

int ft_door_string(struct ft_door *door, const struct ft_place *place, const json_t *object, const char *key,
		   size_t most, const char **text)
{
	const json_t *value = json_object_get(object, key);
	if (!value)
		return ft_door_refuse(door, place, "\"%s\" is missing", key);
	struct ft_place here = {place, key, 0};
	if (!json_is_string(value))
		return ft_door_refuse(door, &here, "\"%s\" must be a text", key);
	size_t n = json_string_length(value);
	if (n == 0 || n > most)
		return ft_door_refuse(door, &here, "\"%s\" must have 1 to %zu bytes, it has %zu", key, most,
				      n);
	if (strlen(json_string_value(value)) != n)
		return ft_door_refuse(door, &here, "\"%s\" contains a NUL byte", key);
	*text = json_string_value(value);
	return 0;
}

int ft_door_integer(struct ft_door *door, const struct ft_place *place, const json_t *object, const char *key,
		    bool required, int64_t least, int64_t most, int64_t *value)
{
	const json_t *json = json_object_get(object, key);
	if (!json)
		return required ? ft_door_refuse(door, place, "\"%s\" is missing", key) : 0;
	struct ft_place here = {place, key, 0};
	if (!json_is_integer(json) || json_integer_value(json) < least || json_integer_value(json) > most)
		return ft_door_refuse(door, &here,
				      "\"%s\" must be a whole number from %" PRId64 " to %" PRId64, key,
				      least, most);
	*value = json_integer_value(json);
	return 0;
}

int ft_door_duration(struct ft_door *door, const struct ft_place *place, const json_t *object,
		     const char *key, bool required, uint64_t *ns)
{
	const json_t *json = json_object_get(object, key);
	if (!json)
		return required ? ft_door_refuse(door, place, "\"%s\" is missing", key) : 0;
	struct ft_place here = {place, key, 0};
	struct ft_error err = {0};
	if (!json_is_string(json))
		return ft_door_refuse(door, &here, "\"%s\" must be a duration with its unit, like 10 s", key);
	if (ft_units_duration(json_string_value(json), ns, &err))
		return ft_door_refuse(door, &here, "\"%s\": %s", key, err.text);
	if (*ns == 0)
		return ft_door_refuse(door, &here, "\"%s\" must be more than 0", key);
	return 0;
}
