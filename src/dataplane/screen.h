/* The pattern rules of one service, compiled with Hyperscan, and the state of one flow in them.
 *
 * Patterns of the kind `stream` see a TCP flow's bytes in order across packets, those of the kind `packet` each payload
 * alone. Datagrams are each looked at alone by both. */
#ifndef FT_DATAPLANE_SCREEN_H
#define FT_DATAPLANE_SCREEN_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "detect/pattern.h"

struct ft_screen;
struct hs_stream;

/* Of patterns (borrowed until ft_screen_free) those whose sid is in sids. *screen is NULL when that are none. */
int ft_screen_new(const struct ft_patterns *patterns, const uint32_t *sids, size_t count,
		  struct ft_screen **screen, struct ft_error *err);
void ft_screen_free(struct ft_screen *screen);

/* Which matches count: false for a pattern that is to be overlooked this time. NULL: all do. */
struct ft_screen_filter {
	bool (*counts)(void *context, const struct ft_pattern *pattern);
	void *context;
};

/* Looks at the next bytes of a stream. *stream is NULL before the first and is freed with ft_screen_end. *match is the
 * most severe pattern that matched and counts, or NULL. 0, -ENOMEM (the bytes were not looked at). */
int ft_screen_bytes(struct ft_screen *screen, struct hs_stream **stream, const void *data, size_t length,
		    const struct ft_screen_filter *filter, const struct ft_pattern **match);
int ft_screen_datagram(struct ft_screen *screen, const void *data, size_t length,
		       const struct ft_screen_filter *filter, const struct ft_pattern **match);
void ft_screen_end(struct ft_screen *screen, struct hs_stream **stream);

#endif
