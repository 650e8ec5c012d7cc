/* Where a vmm leaves its records until they are in a segment: a ring of bytes in a file that both sides map. The one that runs
 * the guest only copies, and makes no system call. The pages are the kernel's: when the vmm is killed at any moment,
 * or all of the gateway is, everything that the machine was given is still there.
 *
 * Where journals are encrypted the bytes of a position are XORed with ChaCha20's of that position: no position is written twice, and the
 * key is this ring's alone. It hides; what was changed is found by the chunks, and of what is in none by the ledger.
 *
 * Position: bytes since the ring was made. The writer moves head past whole records only. Who reads a ring checks it: the
 * other side may be in the hands of its guest. */
#ifndef FT_JOURNAL_RING_H
#define FT_JOURNAL_RING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "snapshot/file.h"

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
	uint64_t encrypted; /* 0, 1 */
	uint8_t salt[32], key_id[16]; /* as in a snapshot's header */
};

struct ft_journal_ring_stream;

struct ft_journal_ring {
	struct ft_journal_ring_page *page;
	uint8_t *bytes;
	uint64_t head; /* our own, when we write */
	struct ft_journal_ring_stream *stream; /* NULL: not encrypted, or no key */
};

/* Makes the file as long as it has to be, with all its blocks there: writing to it later cannot fail for want of room. seal: NULL: it
 * is not encrypted. */
int ft_journal_ring_make(int fd, const struct ft_snapshot_seal *seal, struct ft_error *err);
/* Maps it; fd is borrowed. writable false: to look at only. -EBADMSG: it is no ring. One that is encrypted is of use when it has its key. */
int ft_journal_ring_open(struct ft_journal_ring *ring, int fd, bool writable, struct ft_error *err);
/* -EKEYREJECTED: it is another one's. In memory that no fork has once ft_journal_ring_private was called. */
int ft_journal_ring_unseal(struct ft_journal_ring *ring, const struct ft_snapshot_seal *seal, struct ft_error *err);
/* Forks from here on have neither the ring nor its key. */
void ft_journal_ring_private(struct ft_journal_ring *ring);
void ft_journal_ring_close(struct ft_journal_ring *ring);

uint64_t ft_journal_ring_room(const struct ft_journal_ring *ring);
/* Two pieces as one record, seen by the reader as a whole or not at all. False: there is no room. */
bool ft_journal_ring_put(struct ft_journal_ring *ring, const void *a, size_t a_length, const void *b, size_t b_length);
void ft_journal_ring_progress(struct ft_journal_ring *ring, uint64_t icount);

/* What is there from `from` on, at most `most` bytes. -EBADMSG: head and from cannot be; -EACCES: it is encrypted and has no key. */
long ft_journal_ring_peek(const struct ft_journal_ring *ring, uint64_t from, uint8_t *to, size_t most);
void ft_journal_ring_release(struct ft_journal_ring *ring, uint64_t tail);

#endif
