#include "base/histogram.h"

#include <errno.h>

#define US 1000ull
#define MS 1000000ull

const uint64_t ft_histogram_bounds[FT_HISTOGRAM_KINDS][FT_HISTOGRAM_BUCKETS] = {
    [FT_HISTOGRAM_HOLD] = {10 * MS, 50 * MS, 100 * MS, 250 * MS, 500 * MS, 1000 * MS, 2500 * MS, 5000 * MS, 10000 * MS,
			   30000 * MS},
    [FT_HISTOGRAM_PAUSE] = {250 * US, 500 * US, 1 * MS, 2 * MS, 4 * MS, 8 * MS, 16 * MS, 32 * MS, 64 * MS, 250 * MS},
};

void ft_histogram_note(struct ft_histogram *histogram, enum ft_histogram_kind kind, uint64_t ns)
{
	unsigned i = 0;
	while (i < FT_HISTOGRAM_BUCKETS && ns > ft_histogram_bounds[kind][i])
		i++;
	histogram->counts[i]++;
	histogram->sum_ns += ns;
}

json_t *ft_histogram_json(const struct ft_histogram *histogram)
{
	json_t *counts = json_array();
	for (unsigned i = 0; i <= FT_HISTOGRAM_BUCKETS; i++)
		json_array_append_new(counts, json_integer((json_int_t)histogram->counts[i]));
	return json_pack("{s:o, s:I}", "counts", counts, "sum_ns", (json_int_t)histogram->sum_ns);
}

int ft_histogram_read(const json_t *json, struct ft_histogram *histogram)
{
	const json_t *counts = json_object_get(json, "counts"), *sum = json_object_get(json, "sum_ns");
	if (json_array_size(counts) != FT_HISTOGRAM_BUCKETS + 1 || json_integer_value(sum) < 0)
		return -EPROTO;
	for (unsigned i = 0; i <= FT_HISTOGRAM_BUCKETS; i++) {
		json_int_t count = json_integer_value(json_array_get(counts, i));
		if (count < 0)
			return -EPROTO;
		histogram->counts[i] = (uint64_t)count;
	}
	histogram->sum_ns = (uint64_t)json_integer_value(sum);
	return 0;
}
