/* A split virtqueue as the device sees it (virtio 1.2 section 2.7). The driver is hostile: every index, length, flag and
 * address is checked where it is read, a chain has at most as many descriptors as the queue, and indirect tables are
 * not offered, so using one is a violation. After -EPROTO the device asks to be reset and leaves the queue alone. */
#ifndef FT_VMM_DEV_VIRTQUEUE_H
#define FT_VMM_DEV_VIRTQUEUE_H

#include "vmm/memory.h"

#define FT_VIRTQUEUE_MAX 256u

struct ft_virtqueue {
	uint64_t descriptors, available, used;
	uint16_t size, next_available, next_used,
	    signalled; /* signalled: next_used at the last look at interrupts */
	uint16_t vector;
	uint8_t enabled, event_index;
	uint8_t reserved[4];
};

struct ft_segment_of_chain {
	ft_gpa at;
	uint32_t length;
};

struct ft_chain {
	uint16_t head;
	unsigned count,
	    readable; /* segments; the first `readable` are the driver's data, the others for the device's */
	uint64_t read_length, write_length;
	struct ft_segment_of_chain segment[FT_VIRTQUEUE_MAX];
};

/* The rings lie in RAM and are aligned; to be asked when the driver enables the queue. */
bool ft_virtqueue_valid(const struct ft_virtqueue *q, const struct ft_memory *memory);

/* Takes the next available chain's head: 1, 0 when there is none, -EPROTO. */
int ft_virtqueue_take(struct ft_virtqueue *q, const struct ft_memory *memory, uint16_t *head);

/* Walks a chain: 0 or -EPROTO. */
int ft_virtqueue_chain(const struct ft_virtqueue *q, const struct ft_memory *memory, uint16_t head,
		       struct ft_chain *chain);

/* Gives a chain back with `written` bytes. 0 or -EPROTO. */
int ft_virtqueue_give(struct ft_virtqueue *q, struct ft_memory *memory, uint16_t head, uint32_t written);

/* After a round of work: tells the driver from where on it should notify (event index), and says whether it wants an
 * interrupt for what was given back since the last call. 1, 0 or -EPROTO. */
int ft_virtqueue_finish(struct ft_virtqueue *q, struct ft_memory *memory);

/* Copies from the driver's or to the device's part, at an offset into it; false when it is shorter. */
bool ft_chain_read(const struct ft_chain *chain, const struct ft_memory *memory, uint64_t offset, void *to,
		   uint64_t length);
bool ft_chain_write(const struct ft_chain *chain, struct ft_memory *memory, uint64_t offset, const void *from,
		    uint64_t length);

#endif
