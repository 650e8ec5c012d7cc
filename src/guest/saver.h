/* Saves the live guest to a snapshot's file. At a stop point the vmm forks; the fork, which never runs guest code, writes what it
 * has got, at leisure, and the guest goes on: it stood still no longer than for a clone. One save at a time. */
#ifndef FT_GUEST_SAVER_H
#define FT_GUEST_SAVER_H

#include "base/confine.h"
#include "clone/observe.h"
#include "snapshot/machine.h"

/* What a save came to. */
struct ft_saver_end {
	int error; /* -errno; text says why */
	struct ft_snapshot_told told;
	uint64_t took_ns, pause_ns;
	char text[512];
};

struct ft_saver {
	struct ft_confine_filter filter;
	const struct ft_observer *observer; /* of the machine that is saved, borrowed; NULL: there is none. What it knows is saved, too */
	pid_t pid; /* 0: nothing is being saved */
	uint64_t number; /* of its fork: clone/slots.h */
	int result; /* readable when it is over; -1 */
	uint64_t began_ns, pause_ns;
};

/* Before confinement. */
int ft_saver_open(struct ft_saver *saver, const struct ft_observer *observer, struct ft_error *err);
/* Kills what is under way. */
void ft_saver_close(struct ft_saver *saver);

/* Begins; file is taken over. disk, overlay: what the machine reads its disk from, -1: none. number: the fork's. -EBUSY: a save is under
 * way. */
int ft_saver_begin(struct ft_saver *saver, struct ft_machine *m, const struct ft_snapshot_about *about, int file, int disk, int overlay,
		   uint64_t number, const struct ft_snapshot_seal *seal, struct ft_error *err);

/* True when a save is over: fills end. */
bool ft_saver_work(struct ft_saver *saver, struct ft_saver_end *end);

#endif
