#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "tests/detect/scene.h"

struct scene_event *scene(struct scene_event *e, enum ft_event_type type, enum ft_event_role role,
			  uint64_t ms, const char *process, const char *string0, const char *string1,
			  const uint64_t fields[6])
{
	struct ft_event event = {
	    .type = (uint16_t)type, .role = (uint8_t)role, .vtime_ns = ms * 1000000, .pid = 100};
	event.trial = role == FT_ROLE_LIVE ? 0 : SCENE_HOLD;
	snprintf(event.process, sizeof(event.process), "%s", process ? process : "");
	if (fields)
		memcpy(event.a, fields, sizeof(event.a));
	size_t n = ft_event_build(e->record, &event, string0, string1);
	assert_int_equal(ft_event_check(e->record, n, &e->event, e->strings), 0);
	return e;
}
