#include "base/ring.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

struct record {
	uint32_t length;
	uint32_t kind;
};

#define KIND_PAD 0xffffffffu /* never handed to a reader: fills the space up to the end of the data */

_Static_assert(sizeof(struct ft_ring_shared) == 2 * FT_RING_LINE, "two cache lines before the data");

static uint64_t padded(uint64_t length)
{
	return (length + sizeof(struct record) + 7) & ~7ull;
}

size_t ft_ring_footprint(uint64_t size)
{
	return sizeof(struct ft_ring_shared) + size;
}

int ft_ring_attach(struct ft_ring *ring, void *shared, uint64_t size, int wake_fd)
{
	if (size < 2 * FT_RING_RECORD_MAX || (size & (size - 1)) || !shared || ((uintptr_t)shared & 7))
		return -EINVAL;
	*ring = (struct ft_ring){.shared = shared, .size = size, .wake_fd = wake_fd};
	return 0;
}

/* Bytes free for the producer, after reading the consumer's index once. */
static int refresh_free(struct ft_ring *ring, uint64_t *room)
{
	uint64_t consumer = __atomic_load_n(&ring->shared->consumer.index, __ATOMIC_ACQUIRE);
	if (consumer < ring->other || consumer > ring->index || (consumer & 7))
		return -EPROTO;
	ring->other = consumer;
	*room = ring->size - (ring->index - consumer);
	return 0;
}

static void write_header(struct ft_ring *ring, uint64_t at, uint32_t length, uint32_t kind)
{
	struct record record = {.length = length, .kind = kind};
	memcpy(ring->shared->data + (at & (ring->size - 1)), &record, sizeof(record));
}

int ft_ring_put(struct ft_ring *ring, uint32_t kind, const struct iovec *parts, int count)
{
	size_t length = 0;
	for (int i = 0; i < count; i++) {
		if (parts[i].iov_len > FT_RING_RECORD_MAX - length)
			return -EMSGSIZE;
		length += parts[i].iov_len;
	}
	if (kind == KIND_PAD)
		return -EINVAL;

	uint64_t to_end = ring->size - (ring->index & (ring->size - 1));
	uint64_t skip = to_end < padded(length) ? to_end : 0;
	uint64_t room = ring->size - (ring->index - ring->other);
	if (room < skip + padded(length)) {
		int error = refresh_free(ring, &room);
		if (error)
			return error;
		if (room < skip + padded(length)) {
			ring->full++;
			return -ENOBUFS;
		}
	}
	if (skip)
		write_header(ring, ring->index, (uint32_t)(skip - sizeof(struct record)), KIND_PAD);
	uint64_t at = ring->index + skip;
	write_header(ring, at, (uint32_t)length, kind);
	uint8_t *to = ring->shared->data + (at & (ring->size - 1)) + sizeof(struct record);
	for (int i = 0; i < count; i++) {
		memcpy(to, parts[i].iov_base, parts[i].iov_len);
		to += parts[i].iov_len;
	}
	ring->index = at + padded(length);
	__atomic_store_n(&ring->shared->producer.index, ring->index, __ATOMIC_RELEASE);
	return 0;
}

void ft_ring_kick(struct ft_ring *ring)
{
	/* Orders our index before the look at `sleeping`; pairs with the fence in ft_ring_sleep. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (ring->wake_fd < 0 || !__atomic_load_n(&ring->shared->consumer.sleeping, __ATOMIC_RELAXED))
		return;
	uint64_t one = 1;
	ssize_t n = write(ring->wake_fd, &one, sizeof(one)); /* EAGAIN: already signalled */
	(void)n;
}

size_t ft_ring_room(struct ft_ring *ring)
{
	uint64_t room;
	if (refresh_free(ring, &room))
		return 0;
	uint64_t to_end = ring->size - (ring->index & (ring->size - 1));
	uint64_t best = room <= to_end ? room : (to_end > room - to_end ? to_end : room - to_end);
	if (best <= sizeof(struct record))
		return 0;
	best -= sizeof(struct record);
	return best < FT_RING_RECORD_MAX ? best : FT_RING_RECORD_MAX;
}

static int refresh_waiting(struct ft_ring *ring)
{
	uint64_t producer = __atomic_load_n(&ring->shared->producer.index, __ATOMIC_ACQUIRE);
	if (producer < ring->other || producer - ring->index > ring->size || (producer & 7))
		return -EPROTO;
	ring->other = producer;
	return producer != ring->index;
}

int ft_ring_waiting(struct ft_ring *ring)
{
	return ring->other != ring->index ? 1 : refresh_waiting(ring);
}

static void consume(struct ft_ring *ring, uint64_t bytes)
{
	ring->index += bytes;
	__atomic_store_n(&ring->shared->consumer.index, ring->index, __ATOMIC_RELEASE);
}

long ft_ring_get(struct ft_ring *ring, uint32_t *kind, void *buffer, size_t capacity)
{
	for (;;) {
		int waiting = ft_ring_waiting(ring);
		if (waiting <= 0)
			return waiting < 0 ? waiting : -EAGAIN;
		uint64_t offset = ring->index & (ring->size - 1);
		struct record record;
		memcpy(&record, ring->shared->data + offset, sizeof(record));
		uint64_t span = padded(record.length);
		if (span > ring->other - ring->index || span > ring->size - offset)
			return -EPROTO;
		if (record.kind == KIND_PAD) {
			if (span != ring->size - offset)
				return -EPROTO;
			consume(ring, span);
			continue;
		}
		if (record.length > FT_RING_RECORD_MAX || record.length > capacity)
			return -EPROTO;
		memcpy(buffer, ring->shared->data + offset + sizeof(record), record.length);
		*kind = record.kind;
		consume(ring, span);
		return (long)record.length;
	}
}

bool ft_ring_sleep(struct ft_ring *ring)
{
	__atomic_store_n(&ring->shared->consumer.sleeping, 1, __ATOMIC_RELAXED);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (ft_ring_waiting(ring) == 0)
		return true;
	ft_ring_awake(ring);
	return false;
}

void ft_ring_awake(struct ft_ring *ring)
{
	__atomic_store_n(&ring->shared->consumer.sleeping, 0, __ATOMIC_RELAXED);
}
