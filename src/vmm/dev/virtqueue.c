#include "vmm/dev/virtqueue.h"

#include <errno.h>

enum { DESCRIPTOR_NEXT = 1, DESCRIPTOR_WRITE = 2, DESCRIPTOR_INDIRECT = 4 };
enum { NO_INTERRUPT = 1 };

struct descriptor {
	uint64_t address;
	uint32_t length;
	uint16_t flags, next;
};

_Static_assert(sizeof(struct descriptor) == 16, "as in virtio 1.2 section 2.7.5");

/* Ring layouts: flags, index, entries, then the other side's event index. */
#define RING_INDEX   2u
#define RING_ENTRIES 4u

bool ft_virtqueue_valid(const struct ft_virtqueue *q, const struct ft_memory *memory)
{
	uint64_t size = q->size;
	return size && size <= FT_VIRTQUEUE_MAX && !(size & (size - 1)) && !(q->descriptors & 15) &&
	       !(q->available & 1) && !(q->used & 3) &&
	       ft_memory_has(memory, ft_gpa_make(q->descriptors), 16 * size) &&
	       ft_memory_has(memory, ft_gpa_make(q->available), 6 + 2 * size) &&
	       ft_memory_has(memory, ft_gpa_make(q->used), 6 + 8 * size);
}

static int read16(const struct ft_memory *memory, uint64_t at, uint16_t *value)
{
	return ft_memory_read(memory, ft_gpa_make(at), value, sizeof(*value)) ? 0 : -EPROTO;
}

int ft_virtqueue_take(struct ft_virtqueue *q, const struct ft_memory *memory, uint16_t *head)
{
	uint16_t index;
	if (read16(memory, q->available + RING_INDEX, &index))
		return -EPROTO;
	uint16_t waiting = (uint16_t)(index - q->next_available);
	if (!waiting)
		return 0;
	if (waiting > q->size)
		return -EPROTO; /* an index that jumps: more than the ring can hold */
	unsigned slot = q->next_available & (q->size - 1u);
	if (read16(memory, q->available + RING_ENTRIES + 2 * slot, head) || *head >= q->size)
		return -EPROTO;
	q->next_available++;
	return 1;
}

int ft_virtqueue_chain(const struct ft_virtqueue *q, const struct ft_memory *memory, uint16_t head,
		       struct ft_chain *chain)
{
	chain->head = head;
	chain->count = chain->readable = 0;
	chain->read_length = chain->write_length = 0;
	for (uint16_t at = head;;) {
		struct descriptor d;
		if (at >= q->size || chain->count == q->size ||
		    !ft_memory_read(memory, ft_gpa_make(q->descriptors + 16ull * at), &d, sizeof(d)))
			return -EPROTO; /* out of the table, or a loop */
		bool write = d.flags & DESCRIPTOR_WRITE;
		if ((d.flags & DESCRIPTOR_INDIRECT) || (!write && chain->write_length) ||
		    !ft_memory_has(memory, ft_gpa_make(d.address), d.length))
			return -EPROTO;
		/* Member by member: a sanitizer does not see a whole struct put one place behind the end. */
		chain->segment[chain->count].at = ft_gpa_make(d.address);
		chain->segment[chain->count].length = d.length;
		chain->count++;
		if (write) {
			chain->write_length += d.length;
		} else {
			chain->read_length += d.length;
			chain->readable++;
		}
		if (!(d.flags & DESCRIPTOR_NEXT))
			return 0;
		at = d.next;
	}
}

int ft_virtqueue_give(struct ft_virtqueue *q, struct ft_memory *memory, uint16_t head, uint32_t written)
{
	uint32_t entry[2] = {head, written};
	unsigned slot = q->next_used & (q->size - 1u);
	uint16_t index = (uint16_t)(q->next_used + 1);
	if (!ft_memory_write(memory, ft_gpa_make(q->used + RING_ENTRIES + 8 * slot), entry, sizeof(entry)) ||
	    !ft_memory_write(memory, ft_gpa_make(q->used + RING_INDEX), &index, sizeof(index)))
		return -EPROTO;
	q->next_used = index;
	return 0;
}

int ft_virtqueue_finish(struct ft_virtqueue *q, struct ft_memory *memory)
{
	uint16_t old = q->signalled, now = q->next_used, value;
	q->signalled = now;
	if (!q->event_index) {
		if (read16(memory, q->available, &value))
			return -EPROTO;
		return now != old && !(value & NO_INTERRUPT);
	}
	if (!ft_memory_write(memory, ft_gpa_make(q->used + RING_ENTRIES + 8ull * q->size), &q->next_available,
			     sizeof(q->next_available)) ||
	    read16(memory, q->available + RING_ENTRIES + 2ull * q->size, &value))
		return -EPROTO;
	/* The driver wants to hear when the index passes `value` (virtio 1.2 section 2.7.10). */
	return (uint16_t)(now - value - 1) < (uint16_t)(now - old);
}

bool ft_chain_read(const struct ft_chain *chain, const struct ft_memory *memory, uint64_t offset, void *to,
		   uint64_t length)
{
	if (length > chain->read_length || offset > chain->read_length - length)
		return false;
	uint8_t *at = to;
	for (unsigned i = 0; length; i++) {
		const struct ft_segment_of_chain *s = &chain->segment[i];
		if (offset >= s->length) {
			offset -= s->length;
			continue;
		}
		uint64_t n = s->length - offset < length ? s->length - offset : length;
		if (!ft_memory_read(memory, ft_gpa_add(s->at, offset), at, n))
			return false;
		at += n;
		length -= n;
		offset = 0;
	}
	return true;
}

bool ft_chain_write(const struct ft_chain *chain, struct ft_memory *memory, uint64_t offset, const void *from,
		    uint64_t length)
{
	if (length > chain->write_length || offset > chain->write_length - length)
		return false;
	const uint8_t *at = from;
	for (unsigned i = chain->readable; length; i++) {
		const struct ft_segment_of_chain *s = &chain->segment[i];
		if (offset >= s->length) {
			offset -= s->length;
			continue;
		}
		uint64_t n = s->length - offset < length ? s->length - offset : length;
		if (!ft_memory_write(memory, ft_gpa_add(s->at, offset), at, n))
			return false;
		at += n;
		length -= n;
		offset = 0;
	}
	return true;
}
