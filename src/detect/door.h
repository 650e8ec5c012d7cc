/* Where rule files come in: walks JSON and, when something is wrong, names the exact place.
 *
 * The place is an RFC 6901 JSON pointer ("/verdicts/3/any/where/path"), relative to the value that was checked: the
 * caller knows which line and column of the YAML that node came from and can print file:line:column before the text.
 * Used inside src/detect only. */
#ifndef FT_DETECT_DOOR_H
#define FT_DETECT_DOOR_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

#define FT_DOOR_WHERE 256 /* bytes of a pointer, NUL included */

struct ft_door {
	char *where; /* FT_DOOR_WHERE bytes or NULL; filled with the first error's place */
	struct ft_error *err;
};

/* One step on the way down; lives on the caller's stack. key NULL: an array index. The root has up == NULL. */
struct ft_place {
	const struct ft_place *up;
	const char *key;
	size_t index;
};

/* Records the error unless there is one already; returns -EINVAL. */
int ft_door_refuse(struct ft_door *door, const struct ft_place *place, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Refuses what is not an object and keys that are not in known (NULL-terminated), with a suggestion. */
int ft_door_keys(struct ft_door *door, const struct ft_place *place, const json_t *object,
		 const char *const *known);

/* Required string of 1..most bytes without NULs. *text stays the JSON's. */
int ft_door_string(struct ft_door *door, const struct ft_place *place, const json_t *object, const char *key,
		   size_t most, const char **text);

/* Integer in least..most. Absent: *value stays as it is when `required` is false. */
int ft_door_integer(struct ft_door *door, const struct ft_place *place, const json_t *object, const char *key,
		    bool required, int64_t least, int64_t most, int64_t *value);

/* Duration with its unit ("10 s"), > 0. Absent: *ns stays as it is when `required` is false. */
int ft_door_duration(struct ft_door *door, const struct ft_place *place, const json_t *object,
		     const char *key, bool required, uint64_t *ns);

/* The known word nearest to what was written, or NULL when none is near. */
const char *ft_door_nearest(const char *written, const char *const *known);

#endif
