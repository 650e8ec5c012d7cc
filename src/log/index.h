/* The last verdicts, in memory: what `verdicts` and `show` are answered from. Summaries of the last FT_INDEX_HOLDS holds, of fewer where
 * these are long (16 MiB); whole records as long as they fit FT_INDEX_BYTES, then the oldest are only in the feed. The memory is set
 * aside at the start. */
#ifndef FT_LOG_INDEX_H
#define FT_LOG_INDEX_H

#include <jansson.h>
#include <stdint.h>

#define FT_INDEX_HOLDS 10000u
#define FT_INDEX_BYTES (32u << 20)

struct ft_index;

struct ft_index *ft_index_new(void); /* NULL when there is no memory */
void ft_index_free(struct ft_index *index);

/* record (borrowed) has passed ft_record_check. 0 or -ENOMEM. */
int ft_index_add(struct ft_index *index, const json_t *record);

/* The newest `limit` summaries, newest last, as many as fit `bytes` of JSON. New reference. */
json_t *ft_index_list(const struct ft_index *index, uint64_t limit, size_t bytes);

/* The newest whole record of that hold: new reference; NULL: *known says whether there was such a hold. */
json_t *ft_index_show(const struct ft_index *index, uint64_t hold, int *known);

/* How many verdicts of each kind since the start of this process. New reference. */
json_t *ft_index_counts(const struct ft_index *index);

/* Reads the alerts of ours that a feed ends with, at most FT_INDEX_BYTES of it. Lines that are not ours or broken are
 * passed over. Returns how many holds were taken up. */
uint64_t ft_index_read_feed(struct ft_index *index, int fd);

#endif
