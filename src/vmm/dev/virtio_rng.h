/* The guest's source of randomness (virtio 1.2 section 5.4): requests are passed to the backend, whose answer comes in
 * as an input. */
#ifndef FT_VMM_DEV_VIRTIO_RNG_H
#define FT_VMM_DEV_VIRTIO_RNG_H

#include "vmm/dev/virtio.h"

/* Most bytes of one answer; the driver asks again for more. */
#define FT_RNG_REQUEST_MAX 256u

struct ft_rng_state {
	uint32_t first, count;
	uint16_t head[FT_VIRTQUEUE_MAX]; /* waiting for bytes, oldest first */
};

struct ft_virtio_rng {
	struct ft_virtio v;
	struct ft_rng_state s;
};

int ft_virtio_rng_create(struct ft_virtio_rng *rng, struct ft_machine *m, struct ft_error *err);
/* Asks the backend again for what is waited for: after a restore nobody else will answer. */
void ft_virtio_rng_ask(struct ft_virtio_rng *rng);
/* Bytes for the oldest requests; what nobody waits for is thrown away. */
void ft_virtio_rng_feed(struct ft_virtio_rng *rng, const uint8_t *bytes, size_t length);

#endif
