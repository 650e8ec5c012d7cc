/* Puts an observer (and, on the live guest, its pulse) on a machine's hooks. */
#ifndef FT_CLONE_WITNESS_H
#define FT_CLONE_WITNESS_H

#include "clone/observe.h"
#include "clone/pulse.h"
#include "clone/tasks.h"
#include "vmm/machine.h"

struct ft_witness {
	struct ft_machine *m;
	struct ft_observer observer;
	struct ft_pulse pulse;
	/* Where the engine tells nothing of its CPU: */
	struct ft_tasks tasks;
	unsigned looked; /* for them */
};

/* The live guest: m has been created and not run yet. report and witness stay where they are while m lives. */
void ft_witness_live(struct ft_witness *witness, struct ft_machine *m, struct ft_report *report,
		     uint64_t wall_ns);

/* Where the engine tells nothing of its CPU: is user code there yet? Looks at it, between two runs. */
void ft_witness_look(struct ft_witness *witness);

/* Then: where does the kernel of the guest, which is up, keep its processes? The first time that takes tens of milliseconds. */
void ft_witness_learn(struct ft_witness *witness);

/* In a fork: the processes that there are, if nobody has told of them. */
void ft_witness_meet(struct ft_witness *witness);

/* The same machine in a forked clone: everything is told from here on, to report. */
void ft_witness_clone(struct ft_witness *witness, struct ft_report *report);

#endif
