/* The entries of a segment's file: each two bytes of length, big-endian, and that many bytes, as in the entry bundles of
 * c2sp.org/tlog-tiles laid end to end. */
#ifndef FT_LEDGER_SEGMENT_H
#define FT_LEDGER_SEGMENT_H

#include <stddef.h>
#include <stdint.h>

/* One entry; `number` counts from 0 in the file. The bytes are valid during the call. Not 0: the walk ends with that. */
typedef int ft_segment_entry(void *context, uint64_t number, const uint8_t *entry, size_t length);

/* Walks through `count` entries from the beginning. *bytes: how long they are in the file. -EBADMSG: there are not so many. */
int ft_segment_walk(int fd, uint64_t count, ft_segment_entry *entry, void *context, uint64_t *bytes);

#endif
