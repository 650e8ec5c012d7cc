/* The guest's disk (virtio 1.2 section 5.2). Each request completes a fixed virtual time after its notification, so that
 * completion is a function of state. */
#ifndef FT_VMM_DEV_VIRTIO_BLK_H
#define FT_VMM_DEV_VIRTIO_BLK_H

#include "vmm/dev/disk.h"
#include "vmm/dev/virtio.h"

struct ft_blk_request {
	uint64_t due_ns;
	uint64_t head;
};

struct ft_blk_state {
	uint32_t first, count;
	struct ft_blk_request request[FT_VIRTQUEUE_MAX]; /* under way, oldest first */
};

struct ft_virtio_blk {
	struct ft_virtio v;
	struct ft_disk disk;
	struct ft_timer timer;
	struct ft_blk_state s;
};

int ft_virtio_blk_create(struct ft_virtio_blk *blk, struct ft_machine *m, int fd, struct ft_error *err);
void ft_virtio_blk_destroy(struct ft_virtio_blk *blk);

#endif
