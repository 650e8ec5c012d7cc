/* A seed: the process forked from the live vmm for one request. It never runs guest code. It forks the trial of all flows at
 * once, then one run after the other as it is told (trials of fewer flows, twins), kills what outlives its wall-clock budget,
 * tells the end of what died without telling, and ends when told, when its parent dies, when an order makes no sense, or when
 * nobody has asked it anything for long. */
#ifndef FT_CLONE_SEED_H
#define FT_CLONE_SEED_H

#include <sys/types.h>

#include "clone/hygiene.h"
#include "clone/trial.h"

#define FT_SEED_WALL_MAX_NS 600000000000ull /* most wall-clock time that a request may ask for */
#define FT_SEED_GRACE_NS    2000000000ull /* beyond its budget a trial that does not end by itself is killed */
/* Most runs of one seed. The first and its twin, then among 256 flows 8 halvings, each with a twin: 18. */
#define FT_SEED_RUNS        32u
#define FT_SEED_SENSELESS   4 /* exit status: an order made no sense */
#define FT_SEED_IDLE_NS     60000000000ull /* without orders and without a run */

/* Orders of the vmm, one a datagram. A run that is ordered while one is under way waits for it; a second one makes no sense. */
enum ft_seed_order_kind { FT_SEED_RUN = 1, FT_SEED_FINISH, FT_SEED_KEEP };

struct ft_seed_order {
	uint32_t kind;
	uint32_t flows; /* RUN: as in struct ft_trial_run */
	uint64_t until_vtime_ns;
	/* KEEP, with a descriptor: the seed writes itself to that empty file, says struct ft_seed_kept, and ends. */
	uint64_t created_ns;      /* UNIX time */
	uint32_t sealed, reserved; /* sealed: it is to be encrypted, */
	uint8_t salt[32], key[32]; /* with these */
};

/* What came of KEEP, on the socket that the order came by. */
struct ft_seed_kept {
	int32_t error; /* -errno; text says why */
	uint32_t reserved;
	uint64_t bytes, took_ns;
	uint8_t mac[32]; /* of the snapshot */
	char text[160];
};

struct ft_seed_plan {
	struct ft_witness *witness;
	const struct ft_request *request;
	const struct ft_outside_config *outside;
	const struct ft_hygiene *hygiene;
	int events;  /* both processes' events */
	int control; /* orders */
	int disk;    /* the machine's disk image, -1: none */
	int overlay; /* what its guest has written, for reading, -1: no file */
	int kvm;     /* /dev/kvm, where runs are to be on engine kvm, -1: they are not */
	uint64_t number; /* of the seed */
	/* Writes the machine as it is to the file; NULL: this seed cannot be kept. */
	void (*keep)(void *context, const struct ft_seed_plan *plan, const struct ft_seed_order *order, int file, struct ft_seed_kept *kept);
	void *context;
	pid_t parent;
	uint64_t began_ns; /* host CLOCK_MONOTONIC at which the live guest stopped for this fork */
};

/* Becomes the seed; in the child of fork. Returns the exit status. */
int ft_seed_run(const struct ft_seed_plan *plan);

#endif
