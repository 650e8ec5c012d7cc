#include "clone/mend.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#define HUGE_PAGE (2ull << 20)

/* Does this kernel know MADV_COLLAPSE? EINVAL alone does not say: it also stands for memory that nobody has touched. */
static bool possible(void)
{
	uint8_t *area = mmap(NULL, 2 * HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (area == MAP_FAILED)
		return false;
	uint8_t *page = (uint8_t *)(((uintptr_t)area + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1));
	*page = 1;
	bool known = !madvise(page, HUGE_PAGE, MADV_COLLAPSE) || errno != EINVAL;
	munmap(area, 2 * HUGE_PAGE);
	return known;
}

static void add(struct ft_mend *mend, uint64_t from, uint64_t to)
{
	from = (from + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1);
	to &= ~(HUGE_PAGE - 1);
	if (from < to && mend->count < FT_MEND_REGIONS)
		mend->regions[mend->count++] = (struct ft_mend_region){from, to - from};
}

void ft_mend_open(struct ft_mend *mend)
{
	char line[512];
	unsigned long from = 0, to = 0;
	*mend = (struct ft_mend){0};
	FILE *maps = possible() ? fopen("/proc/self/smaps", "re") : NULL;
	while (maps && fgets(line, sizeof(line), maps)) {
		unsigned long a, b;
		if (sscanf(line, "%lx-%lx ", &a, &b) == 2) {
			from = a;
			to = b;
		} else if (!strncmp(line, "VmFlags:", 8) && strstr(line, " hg") && strstr(line, " wr")) {
			add(mend, from, to);
		}
	}
	if (maps)
		fclose(maps);
	mend->region = mend->count;
}

void ft_mend_again(struct ft_mend *mend)
{
	mend->region = 0;
	mend->offset = 0;
}

bool ft_mend_needed(const struct ft_mend *mend)
{
	return mend->region < mend->count;
}

static uint64_t monotonic_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void ft_mend_step(struct ft_mend *mend, uint64_t budget_ns)
{
	uint64_t end = monotonic_ns() + budget_ns;
	while (ft_mend_needed(mend) && monotonic_ns() < end) {
		const struct ft_mend_region *region = &mend->regions[mend->region];
		/* One huge page a call: a call for many gives up at the first that it cannot do. Whole ones cost 0.1 us,
		 * broken ones 0.3 ms. Failures are not ours to repair: memory never touched, no huge page free now, a page
		 * in use. The end of the next clone tries again. */
		madvise((void *)(uintptr_t)(region->base + mend->offset), HUGE_PAGE, MADV_COLLAPSE);
		mend->offset += HUGE_PAGE;
		if (mend->offset == region->length) {
			mend->region++;
			mend->offset = 0;
		}
	}
}
