#include "samples.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

uint64_t samples_now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return (x > y) - (x < y);
}

void samples_sort(uint64_t *samples, size_t count)
{
	qsort(samples, count, sizeof(*samples), compare);
}

uint64_t samples_percentile(const uint64_t *samples, size_t count, unsigned percent)
{
	size_t at = count * percent / 100;
	uint64_t *sorted = count ? malloc(count * sizeof(*sorted)) : NULL;
	if (!sorted)
		return 0;
	memcpy(sorted, samples, count * sizeof(*sorted));
	samples_sort(sorted, count);
	uint64_t value = sorted[at < count ? at : count - 1];
	free(sorted);
	return value;
}
