/* The guest's disk (virtio 1.2 section 5.2). Each request completes a fixed virtual time after its notification, so that
 * completion is a function of state.
 *
 * A flush takes longer: the host's disk is made to write when it is first looked at, and has until shortly before its completion
 * to be done; if it is not done by then, the machine waits for it, which its guest cannot see. So a flush is no input either. Only that
 * the host's disk fails is one (FT_INPUT_DISK): who runs the machine says so at the first stop after it is known (ft_virtio_blk_failure),
 * which is between that look and the completion. From then on, writes and flushes fail. */
#ifndef FT_VMM_DEV_VIRTIO_BLK_H
#define FT_VMM_DEV_VIRTIO_BLK_H

#include "vmm/dev/disk.h"
#include "vmm/dev/virtio.h"

/* How far a flush is, in `head`. */
#define FT_BLK_BEGUN  (1ull << 16) /* the host's disk writes */
#define FT_BLK_WAITED (1ull << 17) /* and has written */
#define FT_BLK_HEAD   0xffffull

struct ft_blk_request {
	uint64_t due_ns;
	uint64_t head;
};

struct ft_blk_state {
	uint32_t first, count;
	uint64_t failed; /* the host's disk: not part of a saved state, for it is not the next host's */
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

/* Why the host's disk takes no more writes, 0: it does; ask after each stop of the machine. */
int ft_virtio_blk_failure(const struct ft_virtio_blk *blk);

#endif
