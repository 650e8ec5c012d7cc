/* Times counted in buckets, for the two distributions that are metrics. The processes that measure keep counts alone; where
 * the buckets end is in this one table, which the text for Prometheus is made from, too (metrics/exposition.c). */
#ifndef FT_BASE_HISTOGRAM_H
#define FT_BASE_HISTOGRAM_H

#include <jansson.h>
#include <stdint.h>

#define FT_HISTOGRAM_BUCKETS 10u

enum ft_histogram_kind {
	/* From a hold's first packet to the decision: 10 ms to 30 s. A trial of a page takes some 0.3 s on a small
	 * machine; clone.wall is 10 s and hold_time 40 s unless configured. */
	FT_HISTOGRAM_HOLD,
	/* For how long the live guest stood still for a fork: 0.25 ms to 250 ms. 64 to 256 MB in huge pages take 0.3 to
	 * 0.5 ms, in small ones ten times as long; 250 ms is a host that swaps. */
	FT_HISTOGRAM_PAUSE,
	FT_HISTOGRAM_KINDS
};

struct ft_histogram {
	uint64_t counts[FT_HISTOGRAM_BUCKETS + 1]; /* not cumulative; the last one: above all bounds */
	uint64_t sum_ns;
};

/* Inclusive upper ends of the buckets in nanoseconds, ascending. */
extern const uint64_t ft_histogram_bounds[FT_HISTOGRAM_KINDS][FT_HISTOGRAM_BUCKETS];

void ft_histogram_note(struct ft_histogram *histogram, enum ft_histogram_kind kind, uint64_t ns);

/* {"counts": [...], "sum_ns": N}; a new reference. */
json_t *ft_histogram_json(const struct ft_histogram *histogram);

/* Reads what ft_histogram_json made. 0, or -EPROTO: it is none (a number below 0, another count of buckets). */
int ft_histogram_read(const json_t *json, struct ft_histogram *histogram);

#endif
