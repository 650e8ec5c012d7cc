/* The self-tests of the services (dataplane/canary.h) as the supervisor knows them: what the dataplane said of each, by our own
 * clock, and what follows from it for readiness, the feed and the watchdog. A dataplane that says nothing any more is what is
 * looked for as well.
 *
 * A test is recent for twice as long as the time from one to the next and what a slow one may take.
 *
 * Ready is who passed and is recent. The watchdog is stricter with its reasons, for it ends every guest: it bites only where a
 * test had passed since the service was there, is not recent any more, and failed meanwhile, or where the dataplane tells
 * nothing of it any more. A service that nobody listens for, a guest that is down or silent, or clones that others have all
 * taken are no reason to end the gateway: a flood of suspicious input could bring that about. A guest that is silent is a
 * reason to start that guest anew. */
#ifndef FT_GATEWAY_CANARIES_H
#define FT_GATEWAY_CANARIES_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/canary.h"
#include "gateway/config.h"

struct ft_canary_state {
	char *service, *guest; /* its own: a reload replaces the configuration's */
	enum ft_canary_result result; /* FT_CANARY_RESULT_COUNT: none yet */
	char why[300];
	uint64_t since;   /* since when one could have passed */
	uint64_t last_ok; /* 0: never since then */
	uint64_t heard;   /* when anything was said of it last */
	uint64_t took_ns; /* the last that passed */
	uint64_t counts[FT_CANARY_RESULT_COUNT];
	bool failing; /* as was told */
	bool udp;     /* its guest answers before the service is there (dataplane/canary.h) */
};

struct ft_canaries {
	struct ft_canary_state *list;
	size_t count;
	uint64_t every_ns, recent_ns;
};

int ft_canaries_open(struct ft_canaries *canaries, const struct ft_config *config, uint64_t now);
void ft_canaries_close(struct ft_canaries *canaries);

/* The services of a new configuration; what is known of those that stay is kept. 0 or -ENOMEM, and nothing has changed. */
int ft_canaries_renew(struct ft_canaries *canaries, const struct ft_config *config, uint64_t now);

/* A `canary` message (borrowed, unchecked). false: it makes no sense. */
bool ft_canaries_note(struct ft_canaries *canaries, const json_t *message, uint64_t now);

/* There is another dataplane: what the old one said is history. */
void ft_canaries_forget(struct ft_canaries *canaries, uint64_t now);

/* Tells what has changed since the last call, one sentence each. Returns when to call again if nothing is said meanwhile. */
uint64_t ft_canaries_serve(struct ft_canaries *canaries, uint64_t now,
			   void (*tell)(void *context, const char *guest, bool failing, const char *text), void *context);

/* May the watchdog be told that all is well? */
bool ft_canaries_live(const struct ft_canaries *canaries, uint64_t now);

/* Has a guest that had passed answered nothing for so long that it hangs? One that passes for another of its services does not. */
bool ft_canaries_hung(const struct ft_canaries *canaries, const char *guest, uint64_t now);

/* {"every_s", "recent_s", "services": {NAME: {guest, ok, result, why, age_s, took_s, results}}}; NULL when there is no
 * self-test. A new reference. */
json_t *ft_canaries_json(const struct ft_canaries *canaries, uint64_t now);

#endif
