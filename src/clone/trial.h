/* One run of a clone: a trial, which takes the held frames of the request's first flows, or the twin, which takes none. Runs in
 * a process of its own, forked from the seed, on the machine it inherited. Flows whose frames it does not get do not exist for
 * it: they are like any other connection of the guest.
 *
 * Handling: the frames are delivered and the guest runs until it has taken all held bytes and is idle with no device
 * work pending. Horizon: idle is skipped, timer by timer, for horizon_ns more. The run is a function of the machine's
 * state at the fork, the frames, the configuration and the seed; only the wall-clock budget looks at the host. */
#ifndef FT_CLONE_TRIAL_H
#define FT_CLONE_TRIAL_H

#include "clone/outside.h"
#include "clone/request.h"
#include "clone/witness.h"

/* Guest instructions between two looks at the budgets: 0.1-1 ms. Part of what makes a run repeatable, as the memory
 * budget is looked at in the same moments. */
#define FT_TRIAL_SLICE 400000u
/* The same of a hosted engine, whose instructions are its time: 4 ms. It has to leave the guest to be looked at. */
#define FT_TRIAL_SLICE_HOSTED 16000000u

struct ft_trial_plan {
	const struct ft_request *request;
	const struct ft_outside_config *outside;
	uint32_t flows;          /* trial: how many of the request's flows get their frames; 0: twin */
	uint64_t until_vtime_ns; /* twin: where to stop */
	int events;              /* socket; -1: none */
	uint64_t began_ns;       /* host CLOCK_MONOTONIC at which this clone began to be made */
};

/* What came out; the same as told by TRIAL_ANSWERED and TRIAL_END. */
struct ft_trial_result {
	enum ft_trial_end end;
	bool handled;
	uint64_t state_hash, instructions, pages_written, vtime_ns;
	uint64_t taken_bytes;
	uint32_t frames_taken, answered;
	uint64_t
	    first_insn_ns; /* from began_ns to the first instruction; host time, so not part of what repeats */
};

/* Runs to the end and tells everything. 0, or -ENOMEM before anything ran. */
int ft_trial_run(struct ft_witness *witness, const struct ft_trial_plan *plan,
		 struct ft_trial_result *result);

#endif
