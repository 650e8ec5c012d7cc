/* Gives the live guest its huge pages back. While clones live, each page that the guest writes is copied alone and its
 * 2 MiB page falls apart; the next fork then copies 512 entries where there was one (measured: 3-6 ms against
 * 0.3-0.5 ms for 64-256 MB). When the clones are gone and the guest is idle, MADV_COLLAPSE puts them together again, a
 * bounded piece at a time. A kernel without it (before 6.1) leaves this to khugepaged. */
#ifndef FT_CLONE_MEND_H
#define FT_CLONE_MEND_H

#include "vmm/memory.h"

struct ft_mend {
	bool impossible;
	uint64_t
	    next; /* offset of the first huge page that has to be looked at; memory size: all are whole */
};

/* Clones were there: everything has to be looked at again. */
void ft_mend_again(struct ft_mend *mend);
bool ft_mend_needed(const struct ft_mend *mend, const struct ft_memory *memory);

/* One step: at most `pages` huge pages. */
void ft_mend_step(struct ft_mend *mend, const struct ft_memory *memory, unsigned pages);

#endif
