#include "vmm/dev/virtio_rng.h"

#include <string.h>

void ft_virtio_rng_feed(struct ft_virtio_rng *rng, const uint8_t *bytes, size_t length)
{
	struct ft_virtio *v = &rng->v;
	while (length && rng->s.count) {
		uint16_t head = rng->s.head[rng->s.first];
		rng->s.head[rng->s.first] = 0;
		rng->s.first = (rng->s.first + 1) % FT_VIRTQUEUE_MAX;
		rng->s.count--;
		if (ft_virtio_chain(v, 0, head))
			return;
		uint64_t n = v->chain.write_length;
		if (n > FT_RNG_REQUEST_MAX)
			n = FT_RNG_REQUEST_MAX;
		if (n > length)
			n = length;
		if (n && !ft_chain_write(&v->chain, &v->m->ram, 0, bytes, n)) {
			ft_virtio_break(v);
			return;
		}
		ft_virtio_give(v, 0, head, (uint32_t)n);
		bytes += n;
		length -= n;
	}
	ft_virtio_finish(v, 0);
}

static void notify(struct ft_virtio *v, unsigned queue)
{
	struct ft_virtio_rng *rng = (struct ft_virtio_rng *)v;
	size_t wanted = 0;
	uint16_t head;
	while (ft_virtio_take_head(v, queue, &head) > 0) {
		if (rng->s.count == FT_VIRTQUEUE_MAX || ft_virtio_chain(v, queue, head)) {
			ft_virtio_break(v);
			return;
		}
		wanted +=
		    v->chain.write_length < FT_RNG_REQUEST_MAX ? v->chain.write_length : FT_RNG_REQUEST_MAX;
		rng->s.head[(rng->s.first + rng->s.count) % FT_VIRTQUEUE_MAX] = head;
		rng->s.count++;
	}
	ft_virtio_finish(v, queue);
	if (wanted && v->m->backend.entropy)
		v->m->backend.entropy(v->m->backend.context, wanted);
}

void ft_virtio_rng_ask(struct ft_virtio_rng *rng)
{
	struct ft_machine *m = rng->v.m;
	if (rng->s.count && m->backend.entropy)
		m->backend.entropy(m->backend.context, (size_t)rng->s.count * FT_RNG_REQUEST_MAX);
}

static void reset(struct ft_virtio *v)
{
	struct ft_virtio_rng *rng = (struct ft_virtio_rng *)v;
	memset(&rng->s, 0, sizeof(rng->s));
}

static const struct ft_virtio_kind kind = {
    .id = 4, .class = 0x00ff00, .name = "virtio-rng", .queues = 1, .notify = notify, .reset = reset};

int ft_virtio_rng_create(struct ft_virtio_rng *rng, struct ft_machine *m, struct ft_error *err)
{
	return ft_virtio_create(&rng->v, m, &kind, err);
}
