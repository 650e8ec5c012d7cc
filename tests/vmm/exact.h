/* One run of a stock kernel with its devices that must always end the same: the same hash of RAM, CPU and devices at
 * the same instruction counts, whatever the engine's settings, wherever the run is stopped, signalled or forked. Used
 * by the invariance test and by bench-exact. */
#ifndef FT_TEST_EXACT_H
#define FT_TEST_EXACT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "vmm/machine.h"

#define EXACT_POINTS_MAX 64

struct exact_images {
	const char *kernel, *initrd, *disk, *cmdline;
};

/* How one run is disturbed. None of it may show. */
struct exact_way {
	const char *name;
	struct ft_engine_options options;
	uint64_t stop_every; /* run in random steps of about this many instructions; 0: straight from point to point */
	bool storm;          /* a signal every millisecond kicks the machine */
	uint64_t fork_every; /* go on in a forked child after about this many instructions; 0: never */
	uint64_t move_every; /* go on in another machine, by way of its saved state, after about this many instructions; 0: never */
	uint64_t part_every; /* from there on pages are copied when they are first written (ft_memory_part), again and again; 0: never */
	bool flush;          /* drop translations and TLB at each stop */
	uint64_t seed;
};

struct exact_result {
	unsigned points;
	uint64_t icount[EXACT_POINTS_MAX], hash[EXACT_POINTS_MAX];
	uint64_t frames_out, console_bytes; /* what the guest said: that devices really worked */
	uint64_t moves, copies; /* to other machines; of pages, in processes that came to a point */
};

/* Runs `points` stretches of `every` instructions from the kernel's entry, in a process of its own. Deterministic
 * frames and entropy go in on the way. 0, or -errno with the cause. */
int exact_run(const struct exact_images *images, const struct exact_way *way, uint64_t every, unsigned points,
	      struct exact_result *result, struct ft_error *err);

/* Number of points at which b differs from a; *first: index of the first one. */
unsigned exact_compare(const struct exact_result *a, const struct exact_result *b, unsigned *first);

/* Fills images from the directory that deploy/guest/build made (its path in `directory`); false when there is none. */
bool exact_find_images(const char *directory, struct exact_images *images);

#endif
