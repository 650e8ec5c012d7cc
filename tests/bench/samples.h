/* Times that a benchmark has measured. */
#ifndef FT_BENCH_SAMPLES_H
#define FT_BENCH_SAMPLES_H

#include <stddef.h>
#include <stdint.h>

uint64_t samples_now_ns(void); /* monotonic */

void samples_sort(uint64_t *samples, size_t count);

/* The sample that so many percent of them are not above; 0 when there is none. The samples stay as they are. */
uint64_t samples_percentile(const uint64_t *samples, size_t count, unsigned percent);

#endif
