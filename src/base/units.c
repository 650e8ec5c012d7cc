#include "base/units.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

struct unit {
	const char *name;
	uint64_t factor;
	bool output; /* used when formatting; largest first */
};

static const struct unit sizes[] = {
    {"TiB", 1ull << 40, true}, {"GiB", 1ull << 30, true},
    {"MiB", 1ull << 20, true}, {"KiB", 1ull << 10, true},
    {"GB", 1000000000, false}, {"MB", 1000000, false},
    {"kB", 1000, false},       {"B", 1, true},
};

static const struct unit durations[] = {
    {"h", 3600000000000ull, false},
    {"min", 60000000000ull, false},
    {"s", 1000000000, true},
    {"ms", 1000000, true},
    {"us", 1000, true},
    {"ns", 1, true},
};

#define COUNT(a) (sizeof(a) / sizeof(*(a)))

/* The number in billionths would lose large values: whole and fraction are kept apart. The fraction has at
 * most nine digits, and what it stands for has to be a whole number of the smallest unit. */
static int parse(const char *text, const struct unit *units, size_t count, const char *what,
		 const char *example, uint64_t *value, struct ft_error *err)
{
	const char *p = text;
	uint64_t whole = 0, fraction = 0, scale = 1;
	while (isspace((unsigned char)*p))
		p++;
	if (!isdigit((unsigned char)*p))
		return ft_error_set(err, -EINVAL,
				    "\"%.40s\" is not a %s, expected a number and a unit such as \"%s\"",
				    text, what, example);
	for (; isdigit((unsigned char)*p); p++)
		if (__builtin_mul_overflow(whole, 10u, &whole) ||
		    __builtin_add_overflow(whole, (uint64_t)(*p - '0'), &whole))
			return ft_error_set(err, -ERANGE, "\"%.40s\" is too large for a %s", text, what);
	if (*p == '.')
		for (p++; isdigit((unsigned char)*p); p++) {
			if (scale >= 1000000000)
				return ft_error_set(err, -EINVAL,
						    "\"%.40s\" has too many digits after the point", text);
			fraction = fraction * 10 + (uint64_t)(*p - '0');
			scale *= 10;
		}
	while (isspace((unsigned char)*p))
		p++;
	const struct unit *unit = NULL;
	size_t length = strcspn(p, " \t\r\n");
	for (size_t i = 0; i < count && !unit; i++)
		if (strlen(units[i].name) == length && !strncmp(units[i].name, p, length))
			unit = &units[i];
	if (!*p && whole == 0 && fraction == 0) {
		*value = 0;
		return 0;
	}
	if (!unit || p[length + strspn(p + length, " \t\r\n")]) {
		char list[80] = "";
		for (size_t i = 0; i < count; i++)
			snprintf(list + strlen(list), sizeof(list) - strlen(list), "%s%s", i ? ", " : "",
				 units[i].name);
		return ft_error_set(err, -EINVAL,
				    "\"%.40s\" has %s, expected a %s such as \"%s\" (units: %s)", text,
				    *p ? "an unknown unit" : "no unit", what, example, list);
	}
	uint64_t result, part;
	if (__builtin_mul_overflow(whole, unit->factor, &result) ||
	    __builtin_mul_overflow(fraction, unit->factor, &part) ||
	    __builtin_add_overflow(result, part / scale, &result) || result > INT64_MAX)
		return ft_error_set(err, -ERANGE, "\"%.40s\" is too large for a %s", text, what);
	if (part % scale)
		return ft_error_set(err, -EINVAL, "\"%.40s\" is not a whole number of %s", text,
				    units[count - 1].name);
	*value = result;
	return 0;
}

int ft_units_size(const char *text, uint64_t *bytes, struct ft_error *err)
{
	return parse(text, sizes, COUNT(sizes), "size", "256 MiB", bytes, err);
}

int ft_units_duration(const char *text, uint64_t *ns, struct ft_error *err)
{
	return parse(text, durations, COUNT(durations), "duration", "500 ms", ns, err);
}

static const char *format(uint64_t value, const struct unit *units, size_t count, char buffer[FT_UNITS_TEXT])
{
	for (size_t i = 0; i < count; i++)
		if (units[i].output && (value % units[i].factor == 0 || i == count - 1) &&
		    (value >= units[i].factor || i == count - 1)) {
			snprintf(buffer, FT_UNITS_TEXT, "%" PRIu64 " %s", value / units[i].factor,
				 units[i].name);
			break;
		}
	return buffer;
}

const char *ft_units_format_size(uint64_t bytes, char buffer[FT_UNITS_TEXT])
{
	return format(bytes, sizes, COUNT(sizes), buffer);
}

const char *ft_units_format_duration(uint64_t ns, char buffer[FT_UNITS_TEXT])
{
	return format(ns, durations, COUNT(durations), buffer);
}

const char *ft_units_round_duration(uint64_t ns, char buffer[FT_UNITS_TEXT])
{
	const struct unit *unit = &durations[COUNT(durations) - 1];
	for (size_t i = COUNT(durations); i-- > 0;)
		if (durations[i].output && ns >= durations[i].factor)
			unit = &durations[i];
	double value = (double)ns / (double)unit->factor;
	int digits = unit->factor == 1 || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
	snprintf(buffer, FT_UNITS_TEXT, "%.*f %s", digits, value, unit->name);
	return buffer;
}
