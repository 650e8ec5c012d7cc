/* Sizes and durations as people write them: "256 MiB", "500 ms", "1.5 s". And back, for people to read.
 *
 * A size is bytes; a duration is nanoseconds. The unit is part of the value: a plain number is refused
 * (unless it is 0), because nobody knows whether 500 means milliseconds or seconds. */
#ifndef FT_BASE_UNITS_H
#define FT_BASE_UNITS_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define FT_UNITS_TEXT 32 /* a formatted value with its NUL */

/* Units: B, KiB, MiB, GiB, TiB, kB, MB, GB. -EINVAL with what was expected, -ERANGE when it does not fit 63
 * bits. */
int ft_units_size(const char *text, uint64_t *bytes, struct ft_error *err);

/* Units: ns, us, ms, s, min, h. */
int ft_units_duration(const char *text, uint64_t *ns, struct ft_error *err);

/* The shortest exact form that ft_units_size reads back: "256 MiB", "1500 B". Returns buffer. */
const char *ft_units_format_size(uint64_t bytes, char buffer[FT_UNITS_TEXT]);

/* The shortest exact form that ft_units_duration reads back: "2 ms", "120 s". */
const char *ft_units_format_duration(uint64_t ns, char buffer[FT_UNITS_TEXT]);

/* For reading, not for reading back: three significant digits, "93.2 ms", "1.25 s". */
const char *ft_units_round_duration(uint64_t ns, char buffer[FT_UNITS_TEXT]);

#endif
