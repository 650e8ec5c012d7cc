/* Puts an observer (and, on the live guest, its pulse) on a machine's hooks. */
#ifndef FT_CLONE_WITNESS_H
#define FT_CLONE_WITNESS_H

#include "clone/observe.h"
#include "clone/pulse.h"
#include "vmm/machine.h"

struct ft_witness {
	struct ft_machine *m;
	struct ft_observer observer;
	struct ft_pulse pulse;
};

/* The live guest: m has been created and not run yet. report and witness stay where they are while m lives. */
void ft_witness_live(struct ft_witness *witness, struct ft_machine *m, struct ft_report *report,
		     uint64_t wall_ns);

/* The same machine in a forked clone: everything is told from here on, to report. */
void ft_witness_clone(struct ft_witness *witness, struct ft_report *report);

#endif
