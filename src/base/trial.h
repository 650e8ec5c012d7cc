/* What the dataplane asks of a guest's vmm over the link's `cmd` ring: to try input on a clone.
 *
 * One request names one or more held flows: FT_TRIAL_BEGIN; FT_TRIAL_FLOW for each flow, in the order in which their frames
 * would be released; FT_TRIAL_FRAME for each frame, flow by flow in the same order; FT_TRIAL_GO. The vmm takes `rx` up to
 * rx_index, forks one seed, and the seed forks the first run: the trial of all flows together.
 *
 * Later FT_TRIAL_RUN asks the same seed for another run, when the one before has ended: the trial of the first flows alone,
 * or the twin, which gets no frame. The frames of the other flows do not exist for it, and it is the same whatever ran before: a
 * function of the live guest at the fork, the request's seed and budgets, and these flows. Finally FT_TRIAL_FINISH, always,
 * exactly once. A request may be longer than the ring has place for: who writes it goes on when the vmm has taken some.
 *
 * Answers come as events with the request's number in `trial`: SEED_READY, then of each run in turn (role trial or twin)
 * evidence, TRIAL_HANDLED, TRIAL_ANSWERED (not of twins), TRIAL_END, and in the end SEED_GONE. The vmm answers every BEGIN..GO
 * with SEED_GONE at the latest when the seed is gone, whatever happened. SEED_READY comes from the live vmm and may arrive
 * after the first evidence, which comes from the clone; SEED_GONE is always the last.
 *
 * TRIAL_HANDLED says that the guest's kernel took every held byte and came to rest; taken and held bytes are of all flows
 * together, and equal only when they are equal of each. Of a flow behind another that keeps its server busy it does not say
 * that the server looked at it. So TRIAL_ANSWERED says how many leading flows the guest answered: new data, FIN or reset on it
 * (TCP) or a datagram (UDP) after its last held byte was delivered, and within the first 1/FT_TRIAL_ANSWERS of the horizon, so
 * that what the input starts has the rest of it to show itself, and no proxy's time-out passes for an answer. */
#ifndef FT_BASE_TRIAL_H
#define FT_BASE_TRIAL_H

#include <stdint.h>

#include "base/address.h"
#include "base/ethernet.h"

enum ft_trial_kind {
	FT_TRIAL_BEGIN = 16, /* struct ft_trial_begin */
	FT_TRIAL_FLOW,       /* struct ft_trial_flow */
	FT_TRIAL_FRAME,      /* u64 trial, then one Ethernet frame */
	FT_TRIAL_GO,         /* struct ft_trial_go */
	FT_TRIAL_RUN,        /* struct ft_trial_run */
	FT_TRIAL_FINISH,     /* struct ft_trial_go: the seed is no longer needed */
	FT_TRIAL_KEEP        /* struct ft_trial_keep: before FINISH: no journal has this seed, and its verdict is to be made again some time */
};

/* a[0] of SEED_GONE: why. */
enum ft_seed_gone {
	FT_SEED_FINISHED, /* as asked */
	FT_SEED_BUSY,     /* all clone slots are taken */
	FT_SEED_REFUSED,  /* the request contradicts itself */
	FT_SEED_FAILED,   /* the fork failed */
	FT_SEED_DIED,     /* the seed was killed or crashed */
	FT_SEED_STOPPED   /* the vmm stops, or the link was replaced */
};

#define FT_TRIAL_FRAMES  2048u /* most frames of one request */
#define FT_TRIAL_FLOWS   256u  /* most flows of one request */
#define FT_TRIAL_ANSWERS 10u

struct ft_trial_begin {
	uint64_t trial;    /* number of the request; no other of this link has it */
	uint64_t rx_index; /* rx ring position that the live guest has to have taken before the fork */
	uint32_t flows;
	uint32_t frames; /* of all flows */
	uint64_t seed;   /* what the clone's virtio-rng and other entropy start from */
	/* Budgets, of each run. */
	uint64_t handling_instructions;
	uint64_t horizon_ns; /* virtual */
	uint64_t horizon_instructions;
	uint64_t wall_ns;
	uint64_t memory_pages; /* 4 KiB pages first written since the fork */
};

struct ft_trial_flow {
	uint64_t trial;
	uint32_t frames; /* of this flow, at least 1 */
	uint32_t bytes;  /* payload bytes held, for the proof that the guest took them */
	/* Network byte order as on the wire. protocol 6 or 17. client = sender, server = guest; both addresses are of one
	 * family. No two flows of a request are the same. */
	struct ft_address client_ip, server_ip;
	uint16_t client_port, server_port;
	struct ft_tags tags; /* which VLANs it is in */
	uint8_t protocol;
	uint8_t client_mac[6];
	uint8_t reserved;
	/* TCP, host byte order: first held byte, first byte after the held ones, what the client had acknowledged and
	 * its window (already scaled) at the time of the hold. */
	uint32_t first_sequence, next_sequence, client_ack, client_window;
};

struct ft_trial_go {
	uint64_t trial;
};

struct ft_trial_keep {
	uint64_t trial;
	uint64_t hold; /* whose verdict it is, for people */
};

struct ft_trial_run {
	uint64_t trial;
	uint32_t flows; /* get their frames: the first ones of the request; 0: none, the twin */
	uint32_t reserved;
	uint64_t until_vtime_ns; /* twin: absolute virtual time, a little after the trial's end */
};

#endif
