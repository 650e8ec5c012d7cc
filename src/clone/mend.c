#include "clone/mend.h"

#include <errno.h>
#include <sys/mman.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#define HUGE_PAGE (2ull << 20)

void ft_mend_again(struct ft_mend *mend)
{
	mend->next = 0;
}

bool ft_mend_needed(const struct ft_mend *mend, const struct ft_memory *memory)
{
	return !mend->impossible && mend->next < memory->size / HUGE_PAGE * HUGE_PAGE;
}

void ft_mend_step(struct ft_mend *mend, const struct ft_memory *memory, unsigned pages)
{
	if (!ft_mend_needed(mend, memory))
		return;
	uint64_t end = memory->size / HUGE_PAGE * HUGE_PAGE, length = pages * HUGE_PAGE;
	if (length > end - mend->next)
		length = end - mend->next;
	/* EAGAIN, ENOMEM: no huge page free now; EBUSY: in use. The next clone's end tries again. */
	if (madvise(memory->base + mend->next, length, MADV_COLLAPSE) && errno == EINVAL && mend->next == 0)
		mend->impossible = true;
	mend->next += length;
}
