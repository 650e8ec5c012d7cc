/* Shadow mode: what a service would have done in enforce mode, and what that would have cost and saved.
 *
 * In both modes that hold nothing back every frame goes on at once, and a clone is forked before it does, so that it is
 * tried as the guest took it. `observe` does that for each frame that something points at, and nothing else. `shadow` also
 * follows what enforce would have made of it:
 *
 *  - everything that a connection sends after its first trigger is tried, as it would have been, each frame by itself (in
 *    enforce, frames of one gather time are one hold, so shadow counts more holds and fewer frames in each);
 *  - limits and exception policies are asked, and decide what would have happened;
 *  - the delay is that of the hold: its gather time, the end of the would-be hold before it on its connection, and the
 *    time of its trial. Waiting for a clone is not in it: a frame that goes on cannot wait, so one for which no clone is free
 *    at once is `untried`, and counts for nothing else;
 *  - of a connection that would have been dropped, what comes later counts as dropped with it, and is not tried.
 *
 * What it cannot know: a client that is held up sends differently, and one whose connection is reset may come again. */
#ifndef FT_DATAPLANE_SHADOW_H
#define FT_DATAPLANE_SHADOW_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/reason.h"

#define FT_SHADOW_RULES  64u /* triggers told one by one; the rest together */
#define FT_SHADOW_DELAYS (64u * 8u)

struct ft_shadow_rule {
	uint32_t sid; /* 0: reason alone */
	enum ft_reason reason;
	char name[64];
	uint64_t holds, dropped;
};

struct ft_shadow {
	uint64_t since, since_wall; /* monotonic, wall; 0: never in shadow mode */
	uint64_t until, until_wall; /* 0: still */
	uint64_t frames;            /* that would have been held */
	uint64_t bytes;
	uint64_t holds, untried;
	uint64_t outcomes[FT_REASON_COUNT]; /* would-be holds, by what they would have come to */
	uint64_t behind;                    /* frames of connections that would have been dropped before */
	uint64_t delays[FT_SHADOW_DELAYS];  /* would-be delays by their length, an eighth of an octave each */
	uint64_t longest;
	uint64_t clone_ns;
	struct ft_shadow_rule rules[FT_SHADOW_RULES];
	unsigned rule_count;
	uint64_t other_holds, other_dropped;
};

struct ft_hold;
struct ft_trigger;

void ft_shadow_begin(struct ft_shadow *shadow, uint64_t now, uint64_t wall);
void ft_shadow_end(struct ft_shadow *shadow, uint64_t now, uint64_t wall);

/* A would-be hold is decided: by what, and how long it would have been kept back. */
void ft_shadow_decided(struct ft_shadow *shadow, const struct ft_hold *hold, enum ft_reason would,
		       uint64_t delay_ns);

/* The delay that `part` of a thousand would-be holds stayed below, rounded up by at most an eighth; 0 when there are none. */
uint64_t ft_shadow_delay(const struct ft_shadow *shadow, unsigned part);

/* The savings report; a new reference. */
json_t *ft_shadow_report(const struct ft_shadow *shadow, const char *service, uint64_t now, uint64_t wall);

/* The same in one sentence. */
void ft_shadow_sentence(const struct ft_shadow *shadow, const char *service, uint64_t now, char *text,
			size_t size);

#endif
