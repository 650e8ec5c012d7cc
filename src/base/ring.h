/* A single-producer single-consumer ring of variable-length records in shared memory.
 *
 * The two ends live in different processes and do not trust each other. Each end keeps its own index in private
 * memory and only publishes it; of the other end's index it reads the value once, checks that it is possible, and
 * refuses to go on (-EPROTO) when it is not. Records are copied out before they are looked at, so a peer that keeps
 * writing cannot change what was checked.
 *
 * Indices are byte positions that only grow (64 bits never wrap), so an index also names a moment: "everything
 * published before index N".
 *
 * Layout of the shared area: one cache line written by the producer, one by the consumer, then `size` bytes of data,
 * a power of two. A record is an 8-byte header {u32 length, u32 kind}, the payload, and padding to 8 bytes; one that
 * would cross the end is preceded by a padding record. */
#ifndef FT_BASE_RING_H
#define FT_BASE_RING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#define FT_RING_LINE       64u
#define FT_RING_RECORD_MAX 16384u /* payload bytes; above the largest jumbo frame */

struct ft_ring_shared {
	struct {
		uint64_t index; /* producer: next byte to be written */
		uint8_t pad[FT_RING_LINE - 8];
	} producer;
	struct {
		uint64_t index;    /* consumer: next byte to be read */
		uint32_t sleeping; /* consumer asks to be woken by the eventfd */
		uint8_t pad[FT_RING_LINE - 12];
	} consumer;
	uint8_t data[];
};

/* One end. Private to its process; the owner of the mapping frees it, not the ring. */
struct ft_ring {
	struct ft_ring_shared *shared;
	uint64_t size;   /* data bytes, power of two */
	uint64_t index;  /* this end's own position */
	uint64_t other;  /* last checked position of the other end */
	int wake_fd;     /* eventfd of the consumer (producer end), or -1 */
	uint64_t full;   /* producer: records refused for want of room */
};

/* Bytes of shared memory for a ring of `size` data bytes. */
size_t ft_ring_footprint(uint64_t size);

/* Attaches one end to zeroed (or, after the peer restarted, re-zeroed) shared memory. size: a power of two of at
 * least 2 * FT_RING_RECORD_MAX; -EINVAL otherwise. wake_fd is only used by the producer and stays the caller's. */
int ft_ring_attach(struct ft_ring *ring, void *shared, uint64_t size, int wake_fd);

/* Producer. Copies one record in and publishes it. 0, -ENOBUFS (no room; counted), -EMSGSIZE (over
 * FT_RING_RECORD_MAX) or -EPROTO (the peer's index is impossible: the link is dead). Does not wake the peer. */
int ft_ring_put(struct ft_ring *ring, uint32_t kind, const struct iovec *parts, int count);

/* Producer. Wakes the consumer if it said that it sleeps. Call once a burst. */
void ft_ring_kick(struct ft_ring *ring);

/* Producer. Free payload bytes for one record right now; 0 when full or broken. */
size_t ft_ring_room(struct ft_ring *ring);

/* Consumer. Copies the next record to buffer (capacity >= FT_RING_RECORD_MAX) and releases its space.
 * Returns the payload length with *kind set, -EAGAIN when empty, -EPROTO when the peer lied. A zero-length record
 * is legal and returns 0. */
long ft_ring_get(struct ft_ring *ring, uint32_t *kind, void *buffer, size_t capacity);

/* Consumer. Says whether records wait; -EPROTO as above. */
int ft_ring_waiting(struct ft_ring *ring);

/* Consumer. Announces sleep; returns false when a record arrived meanwhile (do not sleep). ft_ring_awake undoes it. */
bool ft_ring_sleep(struct ft_ring *ring);
void ft_ring_awake(struct ft_ring *ring);

#endif
