/* A batch: one request to a guest's vmm, about one hold or several, and the runs of its seed. Types alone; what is done with
 * batches: batch.h. */
#ifndef FT_DATAPLANE_BATCH_T_H
#define FT_DATAPLANE_BATCH_T_H

#include <stdbool.h>
#include <stdint.h>

#include "base/trial.h"
#include "detect/case.h"

enum ft_batch_state {
	FT_BATCH_ASK,    /* the request, or the order for another run, goes to the vmm as its ring has room */
	FT_BATCH_RUN,    /* the trial or its twin runs */
	FT_BATCH_DEPART, /* has no members any more; waits for the vmm to say that the seed is gone */
	FT_BATCH_OVER    /* to be freed at the end of the tick */
};

/* What of the request is said next. */
enum ft_batch_word {
	FT_BATCH_SAY_BEGIN,
	FT_BATCH_SAY_FLOW,
	FT_BATCH_SAY_FRAME,
	FT_BATCH_SAY_GO,
	FT_BATCH_SAY_RUN,
	FT_BATCH_SAY_KEEP,
	FT_BATCH_SAY_FINISH,
	FT_BATCH_SAY_NOTHING
};

struct ft_hold;
struct ft_held;
struct ft_guest;
struct ft_source;
struct ft_shadow;
struct ft_tally;
struct ft_rulebook;

struct ft_batch {
	struct ft_batch *next; /* of its guest */
	uint64_t number;       /* of the request: `trial` in base/trial.h. No other batch of this process has it */
	struct ft_guest *guest;
	struct ft_rulebook *book; /* whose rules judge it */
	struct ft_tally *tally;   /* of its members' service */
	struct ft_shadow *shadow_of;
	enum ft_batch_state state;
	/* In the order of the request, which is that of their release; none in FT_BATCH_DEPART. */
	struct ft_hold *members[FT_TRIAL_FLOWS];
	unsigned count;
	/* of its members, each once: what its clone counts for, as long as the seed may live */
	struct ft_source *sources[FT_TRIAL_FLOWS];
	unsigned source_count;
	uint64_t started;
	uint64_t deadline; /* of the state it is in */
	/* What was said to the vmm so far. */
	enum ft_batch_word word;
	unsigned member;          /* whose flow or frame is next */
	const struct ft_held *at; /* next frame, */
	uint32_t piece;           /* of which so many went */
	bool begun;               /* the vmm knows of it */
	uint64_t keep;            /* hold whose verdict its seed is to be kept for, 0: it is not */
	bool gone;                /* the vmm said that the seed is */
	bool busy;                /* and that there was no room for it */
	/* The run. */
	struct ft_case *trial;
	unsigned flows; /* members whose frames it gets, the first ones */
	bool twin;
	unsigned answered; /* of them, the leading ones that the guest answered */
	unsigned runs;     /* of the seed so far, twins included */
	/* The search, of a batch of several: for the most members, from the first on, that a run has cleared all together; and
	 * of those known not to be, the fewest. */
	unsigned cleared, bad;
	struct ft_case *clean; /* of the run that cleared them */
};

/* What a guest's batches were, counted. */
#define FT_BATCH_SIZES 9u /* 1, 2, 3 to 4, ... 129 to 256 */
struct ft_batch_counts {
	uint64_t sizes[FT_BATCH_SIZES];
	uint64_t runs, searches;
	uint64_t dissolved; /* of several, whose runs decided nothing */
};

#endif
