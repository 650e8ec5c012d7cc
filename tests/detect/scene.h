/* Events as a clone or a guest would send them, for tests of rules: each goes through the record's own door. */
#ifndef FT_TESTS_DETECT_SCENE_H
#define FT_TESTS_DETECT_SCENE_H

#include <stdint.h>

#include "base/event.h"

struct scene_event {
	struct ft_event event;
	const char *strings[FT_EVENT_STRINGS];
	char record[FT_EVENT_MAX];
};

/* An event of hold 7 at that many milliseconds. fields: up to six numbers. */
struct scene_event *scene(struct scene_event *e, enum ft_event_type type, enum ft_event_role role,
			  uint64_t ms, const char *process, const char *string0, const char *string1,
			  const uint64_t fields[6]);

#define SCENE_HOLD  7u
#define FIELDS(...) ((const uint64_t[6]){__VA_ARGS__})

#endif
