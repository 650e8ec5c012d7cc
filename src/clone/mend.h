/* Gives the live guest its huge pages back. While clones live, each page that the guest writes is copied alone and its
 * 2 MiB page falls apart; the next fork then copies 512 entries where there was one (measured: 3-6 ms against
 * 0.3-0.5 ms for 64-256 MB). A moment after each fork, and when the clones are gone, MADV_COLLAPSE puts them together again whenever the
 * guest is idle, a bounded piece at a time: guest memory, and the engine's code cache and tables alike. Where clones never
 * end before others begin, that leaves 6,700 small pages where there were 16,900 (256 MiB). A kernel without it (before 6.1)
 * leaves this to khugepaged. */
#ifndef FT_CLONE_MEND_H
#define FT_CLONE_MEND_H

#include <stdbool.h>
#include <stdint.h>

#define FT_MEND_REGIONS 16u

struct ft_mend {
	unsigned count; /* 0: nothing can be mended */
	struct ft_mend_region {
		uint64_t base, length; /* whole huge pages */
	} regions[FT_MEND_REGIONS];
	unsigned region; /* where to go on; count: all was looked at */
	uint64_t offset;
};

/* Finds everything of this process that asked for huge pages (MADV_HUGEPAGE), after the machine was made. Reads
 * /proc/self/smaps: before confinement. */
void ft_mend_open(struct ft_mend *mend);

/* Clones were there: everything has to be looked at again. */
void ft_mend_again(struct ft_mend *mend);
bool ft_mend_needed(const struct ft_mend *mend);

/* Goes on for about budget_ns. */
void ft_mend_step(struct ft_mend *mend, uint64_t budget_ns);

#endif
