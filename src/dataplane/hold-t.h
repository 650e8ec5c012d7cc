/* A hold: frames of one flow kept back, in order, while a clone tries them. Types alone; what is done with them:
 * hold.h. */
#ifndef FT_DATAPLANE_HOLD_T_H
#define FT_DATAPLANE_HOLD_T_H

#include <stdbool.h>
#include <stdint.h>

#include "base/reason.h"
#include "dataplane/admission.h"
#include "dataplane/decision.h"
#include "dataplane/policy.h"
#include "detect/case.h"
#include "detect/pattern.h"

enum ft_hold_state {
	FT_HOLD_GATHER,  /* more may join */
	FT_HOLD_WAIT,    /* more may join, too; waits for its turn: a free clone, the hold before it */
	FT_HOLD_TRY,     /* a batch tries it; nothing joins */
	FT_HOLD_RELEASE, /* its frames go into the guest's ring as room allows */
	FT_HOLD_OVER     /* decided and done; to be freed at the end of the tick */
};

/* Why something was held. */
struct ft_trigger {
	enum ft_reason reason;
	const struct ft_pattern *pattern; /* hold.rule */
	unsigned risk;                    /* hold.risk: nDPI's number */
	bool suppressed;                  /* there is none, because of a suppression */
};

struct ft_held {
	struct ft_held *next;
	uint64_t wall; /* when it came */
	uint32_t length;
	uint32_t pieces; /* frames that it makes for the guest (dataplane/cut.h) */
	uint32_t fresh; /* offset of the bytes that no frame before it had */
	uint32_t fresh_length;
	uint32_t timestamp; /* TSval, if has_timestamp */
	bool has_timestamp;
	uint8_t data[];
};

struct ft_flow;
struct ft_guest;

struct ft_hold {
	struct ft_hold *previous, *next;
	uint64_t id;
	struct ft_guest *guest;
	struct ft_flow *flow; /* NULL once it is over */
	enum ft_hold_state state;
	struct ft_rulebook *book; /* whose rules judge it */
	const struct ft_profile *profile; /* what is normal for its service, of the same book */
	struct ft_tally *tally;   /* of its service */
	struct ft_source *source; /* of its client */
	enum ft_limit refused;    /* beyond which limit it was opened */
	bool ready;               /* waits for nothing but a clone */
	bool again;               /* a group test pointed at it: its turn is the next one */
	unsigned company;         /* most members of a batch that it may be in */
	unsigned round;           /* scratch of admission: how many of its source go before it */
	bool observed; /* of a service that only observes: its frames went on already */
	struct ft_trigger trigger;
	struct ft_shadow *shadow_of; /* observed, and what would have been done with it is counted here; or NULL */
	bool overlap; /* other bytes under held numbers came */
	struct ft_held *first, *last;
	uint32_t frames, bytes;
	uint32_t pieces; /* frames that they make for the guest */
	uint64_t memory; /* that they take */
	uint32_t first_sequence, next_sequence;
	uint64_t opened, last_at; /* monotonic: first and last frame */
	uint64_t opened_wall;
	/* the trial */
	struct ft_batch *batch; /* FT_HOLD_TRY */
	struct ft_case *trial;  /* what is known of it; while it is tried that is the batch's */
	uint64_t deadline;      /* FT_HOLD_WAIT */
	unsigned group, runs;   /* cleared with so many (itself included), by that many runs; group 0: alone */
	enum ft_exception exception; /* why there is no verdict, where the case does not say it */
	bool bypassed;               /* to be released as soon as the one before it is */
	bool hopeless;               /* another try of the same connection cannot help */
	/* the release */
	struct ft_hold *behind; /* whose frames go into the ring after its own */
	struct ft_decision decision; /* what it waits for first */
	struct ft_held *to_release;
	uint32_t released;
	enum ft_reason outcome;
	enum ft_reason would; /* shadow_of: have been the outcome */
	uint64_t would_delay;
};

/* A client's reset that waits for holds of other connections. */
struct ft_late {
	struct ft_late *next;
	uint8_t *frame;
	uint32_t length;
};

struct ft_holds {
	struct ft_hold *first, *last; /* in the order in which they were opened */
	uint64_t next_id, next_batch;
	uint64_t memory_most; /* of one guest's held frames */
	struct ft_source *sources;
	struct ft_suspect suspects[FT_SUSPECTS];
	uint64_t salt;            /* of their places */
	struct ft_hold **waiting; /* scratch of admission */
	size_t waiting_room;
	uint64_t turn;    /* of admission */
	uint64_t due;     /* nothing to do before this time */
	bool garbage;     /* there are holds or batches that are over */
};

#endif
