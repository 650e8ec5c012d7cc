/* Where a vmm leaves its records until they are in a segment: a ring of bytes in a file that both sides map. The one that runs
 * the guest only copies, and makes no system call. The pages are the kernel's: when the vmm is killed at any moment,
 * or all of the gateway is, everything that the machine was given is still there.
 *
 * Position: bytes since the ring was made. The writer moves head past whole records only. Who reads a ring checks it: the
 * other side may be in the hands of its guest. */
#ifndef FT_JOURNAL_RING_H
#define FT_JOURNAL_RING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define FT_JOURNAL_RING_SIZE (16ull << 20) /* bytes of records */
#define FT_JOURNAL_RING_FILE (FT_JOURNAL_RING_SIZE + 4096)

struct ft_journal_ring_page {
	char magic[8]; /* FTJRING1 */
	uint64_t size;
	uint64_t head; /* the writer's, atomic */
	uint64_t tail; /* up to here everything is in segments; the reader's, atomic */
	uint64_t icount; /* the machine has run at least to here; the writer's, atomic */
	uint64_t wanted; /* replies wait until everything before this position is durable; the writer's, atomic */
	uint64_t failing; /* what was to be written last could not be; the reader's, atomic: 0, 1 */
};

struct ft_journal_ring {
	struct ft_journal_ring_page *page;
	uint8_t *bytes;
	uint64_t head; /* our own, when we write */
};

/* Makes the file as long as it has to be, with all its blocks there: writing to it later cannot fail for want of room. */
int ft_journal_ring_make(int fd, struct ft_error *err);
/* Maps it; fd is borrowed. writable false: to look at only. -EBADMSG: it is no ring. */
int ft_journal_ring_open(struct ft_journal_ring *ring, int fd, bool writable, struct ft_error *err);
void ft_journal_ring_close(struct ft_journal_ring *ring);

uint64_t ft_journal_ring_room(const struct ft_journal_ring *ring);
/* Two pieces as one record, seen by the reader as a whole or not at all. False: there is no room. */
bool ft_journal_ring_put(struct ft_journal_ring *ring, const void *a, size_t a_length, const void *b, size_t b_length);
void ft_journal_ring_progress(struct ft_journal_ring *ring, uint64_t icount);

/* What is there from `from` on, at most `most` bytes. -EBADMSG: head and from cannot be. *head may be NULL. */
long ft_journal_ring_peek(const struct ft_journal_ring *ring, uint64_t from, uint8_t *to, size_t most);
void ft_journal_ring_release(struct ft_journal_ring *ring, uint64_t tail);

#endif
