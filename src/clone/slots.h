/* The clone slots of one live machine: takes the trial commands of the link, forks a seed for each request when the
 * guest has got every frame before it, passes later orders on, reaps, and answers every request in the end with
 * SEED_GONE. Belongs to the thread that runs the machine, between two runs of it. */
#ifndef FT_CLONE_SLOTS_H
#define FT_CLONE_SLOTS_H

#include <poll.h>
#include <sys/types.h>

#include "base/histogram.h"
#include "clone/hygiene.h"
#include "clone/request.h"
#include "clone/seed.h"

#define FT_SLOTS_MAX     32u
#define FT_SLOTS_ALL     (FT_SLOTS_MAX + 1) /* and one that is being kept, which counts for no trial */
#define FT_SLOTS_ANSWERS 64u

struct ft_slots_config {
	unsigned max; /* seeds at a time, at most FT_SLOTS_MAX */
	struct ft_outside_config outside;
	struct ft_witness *witness;
	int disk; /* what the machine reads its disk from, base image and overlay (-1: there is none); stay open in clones */
	int overlay;
	int kvm; /* /dev/kvm where clones run on engine kvm, -1: they run on soft */
	/* A seed of this request is about to be forked, the number-th of this vmm: it is noted down where the guest is recorded. The run of
	 * its journal; 0: nobody notes it down. May be NULL. */
	uint32_t (*note)(void *context, const struct ft_request *request, uint64_t number);
	/* The seed with this number is asked to be kept, for that hold. 0: ft_slots_keep or ft_slots_no_keep follows; else it is not. NULL: none is. */
	int (*keep)(void *context, uint64_t number, uint64_t hold);
	/* What came of it; NULL: nothing, it died. */
	void (*kept)(void *context, uint64_t number, const struct ft_seed_kept *kept);
	/* For struct ft_seed_plan. */
	void (*write)(void *context, const struct ft_seed_plan *plan, const struct ft_seed_order *order, int file, struct ft_seed_kept *kept);
	int (*prepare)(
	    void *
		context); /* in the seed, before anything else: lets go of what is the live vmm's; may be NULL */
	void *context;
};

struct ft_slot {
	pid_t pid; /* 0: free */
	int control;
	uint64_t trial;
	uint64_t number; /* as ft_slots_oldest counts */
	uint64_t seed;   /* which one of this vmm, from 1 */
	uint32_t run;    /* of the guest's journal that knows of it; 0: none does */
	bool stopped;    /* told to finish, or killed by us */
	bool answered;   /* the dataplane has been told that it is gone */
};

struct ft_slots {
	struct ft_slots_config config;
	struct ft_hygiene hygiene;
	struct ft_requests requests;
	struct {
		struct ft_request *request;
		uint64_t deadline_ns;
	} ready[FT_REQUESTS];
	struct ft_slot slots[FT_SLOTS_ALL]; /* the last one: of the seed that is being kept */
	int events; /* borrowed; -1: no link */
	/* SEED_READY and SEED_GONE on their way out: the live guest does not wait for a full socket. */
	struct ft_slots_answer {
		struct ft_event event;
		char detail[96];
	} answers[FT_SLOTS_ANSWERS];
	unsigned first_answer, answer_count;
	unsigned running;
	/* Counters for status: forked = finished + died + running. A seed that we end or that is told to end has finished. */
	uint64_t forked, refused, finished, died;
	uint64_t numbered; /* seeds that were to be forked */
	uint64_t last_pause_ns;
	struct ft_histogram pauses;
};

int ft_slots_open(struct ft_slots *slots, const struct ft_slots_config *config, struct ft_error *err);

/* Kills and reaps everything. */
void ft_slots_close(struct ft_slots *slots);

/* A new link (events: its socket, borrowed; -1: none). Everything of the old one is killed, reaped and forgotten. */
void ft_slots_attach(struct ft_slots *slots, int events);

/* Whether one more command may be taken: its answers have room. */
bool ft_slots_room(const struct ft_slots *slots);

/* The file for the seed that is asked to be kept, taken over, and how; or there is none. */
void ft_slots_keep(struct ft_slots *slots, uint64_t number, struct ft_seed_order *order, int file);
void ft_slots_no_keep(struct ft_slots *slots, uint64_t number);

/* One record of the command ring. -EPROTO: it is none; the link is not to be trusted. */
int ft_slots_command(struct ft_slots *slots, uint32_t kind, const void *data, size_t length);

/* Forks what is ready now that the guest has all frames of the ring before rx_index; reaps; sends answers.
 * fork_pending says that a request only waits for frames. */
void ft_slots_work(struct ft_slots *slots, uint64_t rx_index, bool *fork_pending);

/* The lowest ring position that a request waits for; UINT64_MAX when none waits. */
uint64_t ft_slots_fork_at(const struct ft_slots *slots);

/* Forks have rising numbers, twice that of the slots' own and a bit for those of others between them. The oldest seed that lives;
 * UINT64_MAX: none. And the newest number that anybody may have. */
uint64_t ft_slots_oldest(const struct ft_slots *slots);
static inline uint64_t ft_slots_newest(const struct ft_slots *slots)
{
	return 2 * slots->forked + 1;
}

/* Descriptors that become readable when a seed ends; returns how many, at most FT_SLOTS_ALL. */
unsigned ft_slots_poll(const struct ft_slots *slots, struct pollfd *fds);

#endif
