/* Processor shares of guests, bounds (cpu.max) and weights (cpu.weight): cgroup v2, where the gateway may make groups (as a service with Delegate=cpu, or where
 * nobody else is in its group). A guest's vmm is put into a group of its own before it gets its configuration, so that
 * all its clones, which are its children, count to the same share. */
#ifndef FT_GATEWAY_CGROUP_H
#define FT_GATEWAY_CGROUP_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/error.h"

#define FT_CGROUP_WEIGHT 100u /* of who asks for none: the kernel's own default */

struct ft_cgroup {
	int own;    /* the directory of the group that we were started in; -1: not open */
	bool moved; /* we left it for a leaf of our own, as the kernel wants it before it delegates */
};

/* Finds our group and makes it one that may bound the processor time of groups below. Moves the calling process. 0, or
 * -errno with a sentence, and then nothing has changed. */
int ft_cgroup_open(struct ft_cgroup *cgroup, struct ft_error *err);

/* Makes the guest's group what is asked for (percent of one processor, 0: no bound; weight: 1..10000), and puts a process
 * into it. */
int ft_cgroup_put(struct ft_cgroup *cgroup, const char *guest, unsigned percent, unsigned weight, pid_t pid,
		  struct ft_error *err);

/* Removes what was made; the groups have to be empty. */
void ft_cgroup_close(struct ft_cgroup *cgroup);

#endif
