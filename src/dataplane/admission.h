/* Admission: who may have how much of what suspicious input needs (holds, bytes, clones), and whose turn it is.
 *
 * A guest's free clone goes to the service that has waited longest since it was last served, and within it to the client
 * address (of IPv6: to the /64) that has. A service or an address that begins to wait goes behind those that wait already.
 * So before a waiting hold there is at most one trial for each other address that waited when it came, however many holds
 * these have, and an address may have no more than its number of clones at a time, and of holds.
 *
 * With the hold whose turn it is others of its service go onto the same clone (a group test, dataplane/batch.h), each address
 * one in turn, as long as they fit. A group counts as one clone of its service, and as one of each address that is in it. Alone is
 * tried what a self-test sends, what a group test pointed at, and what comes from an address whose input lately was anything but
 * clean: who sends what is bad shall not have others searched with it. A service's groups become smaller when they decide nothing
 * or point at somebody, and larger again when they do not.
 *
 * A group forms of what waits, so not every free clone is taken at once: as many batches as clone.parallel begin, and further ones
 * when these end or are no longer young. What takes long (be it made to) holds nobody up for longer than that. And what could still
 * have company waits until clones have rested for a while since the last batch began, in proportion to what trials take: the first
 * one in a quiet hour begins at once, and when many come, each trial has many.
 *
 * Every limit that is reached is counted by its name. */
#ifndef FT_DATAPLANE_ADMISSION_H
#define FT_DATAPLANE_ADMISSION_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "dataplane/outcome.h"
#include "dataplane/policy.h"

/* X(NAME, "name", "what was reached") */
#define FT_LIMITS(X)                                                                                         \
	X(HOLDS, "holds", "the service has as many holds as it may have (holds)")                            \
	X(HELD, "held", "the service holds as many bytes as it may hold (held)")                             \
	X(GUEST_HELD, "guest_held", "as many bytes are held for the guest as may be")                        \
	X(SOURCE_HOLDS, "source_holds",                                                                      \
	  "the client's address has as many holds as it may have (source_holds)")                            \
	X(TRIALS, "trials_per_flow", "this flow has had as many trials as it may have (trials_per_flow)")    \
	X(INPUT, "input_limit", "this flow has had as many bytes tried as may be tried of it (input_limit)") \
	X(HOLD, "hold_limit", "the hold has as many bytes as one may have (hold_limit)")                     \
	X(TIME, "hold_time", "it was held as long as it may be (hold_time)")                                 \
	X(CLONES, "clones", "no clone was free in time")                                                     \
	X(FEED, "feed_limit", "the feed tells no more of the service's holds this minute (feed_limit)")

enum ft_limit {
#define X(name, label, text) FT_LIMIT_##name,
	FT_LIMITS(X)
#undef X
	    FT_LIMIT_COUNT /* none */
};

const char *ft_limit_name(enum ft_limit limit);
const char *ft_limit_text(enum ft_limit limit);

/* What a service may have; all per service. */
struct ft_quotas {
	uint32_t holds;        /* open at a time */
	uint64_t held;         /* bytes of their frames */
	uint32_t source_holds; /* of one client address, whatever the service */
	uint32_t clones;       /* at a time */
	uint64_t hold_time_ns; /* from the first frame to the decision */
	uint32_t feed_limit;   /* holds a minute */
};

/* What it has, and what became of it. */
struct ft_tally {
	uint32_t open, clones;
	uint32_t group; /* most members of its next batch; 0: as configured */
	uint32_t calm;  /* full batches in a row that were clean */
	uint64_t held;
	uint64_t clone_ns; /* of all its clones so far */
	uint64_t turn;     /* when it was served last, or began to wait */
	uint64_t limits[FT_LIMIT_COUNT];
	uint64_t exceptions[FT_EXCEPTION_COUNT];
	struct ft_outcomes outcomes;
	uint64_t minute; /* the one that told counts, by the monotonic clock */
	uint32_t told, untold;
};

/* A client address that has holds with a guest. */
struct ft_source {
	struct ft_source *next;
	uint8_t guest;
	uint8_t address[16];
	uint32_t open, clones;
	uint64_t turn;
	uint64_t suspect_until;
	unsigned round; /* scratch */
};

/* Addresses whose input was not clean, for longer than they have holds: each has one place, and a later one takes it over. */
#define FT_SUSPECTS 4096u
struct ft_suspect {
	uint64_t until; /* 0: none */
	uint8_t guest;
	uint8_t address[16];
};

struct ft_gate;
struct ft_guest;
struct ft_hold;
struct ft_batch;
struct ft_flow;

/* A hold's place among those of its service and address: before it is counted as open, and at its end. -ENOMEM. */
int ft_admission_enter(struct ft_gate *gate, struct ft_hold *hold);
void ft_admission_close(struct ft_gate *gate, struct ft_hold *hold); /* it holds nothing back any more */

/* The limit that this hold, just entered, is beyond, or FT_LIMIT_COUNT. */
enum ft_limit ft_admission_exceeds(const struct ft_gate *gate, const struct ft_hold *hold);

/* Takes a clone for the batch, and gives it back. */
void ft_admission_start(struct ft_gate *gate, struct ft_batch *batch);
void ft_admission_leave(struct ft_gate *gate, struct ft_batch *batch);

/* The ready holds of this guest whose turn it is to be tried together, in the order of their numbers: at most FT_TRIAL_FLOWS.
 * Returns how many; 0: none waits, or those that do have all that they may have for now. */
unsigned ft_admission_next(struct ft_gate *gate, const struct ft_guest *guest, struct ft_hold **members);

/* The input of this hold's address, tried alone, was not clean. */
void ft_admission_suspect(struct ft_gate *gate, struct ft_hold *hold);

/* A batch, which still has its members, is over. decided: it cleared them all. */
void ft_admission_learn(const struct ft_gate *gate, const struct ft_batch *batch, bool decided);

/* May the hold, which does not wait, have a clone at once? */
bool ft_admission_at_once(const struct ft_gate *gate, const struct ft_hold *hold);

/* May the feed tell one more hold of this service? What nobody objects to is limited; counts those left out. */
bool ft_admission_tells(struct ft_gate *gate, const struct ft_hold *hold, bool objected);
/* Tells how many were left out, when their minute is over. Returns when to call again, UINT64_MAX: not before the next. */
uint64_t ft_admission_tick(struct ft_gate *gate);

#endif
