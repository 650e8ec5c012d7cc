#include "vmm/dev/virtio_net.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { RECEIVE, TRANSMIT };

#define NET_F_MTU    (1ull << 3)
#define NET_F_MAC    (1ull << 5)
#define NET_F_STATUS (1ull << 16)
#define LINK_UP      1
#define CONFIG_MTU   10 /* section 5.1.4 */

/* struct virtio_net_hdr with num_buffers, section 5.1.6. */
#define HEADER  12u
#define BUFFERS 10u /* where num_buffers is */

static void pop_waiting(struct ft_virtio_net *net)
{
	struct ft_net_frame *frame = &net->waiting[net->s.first];
	memset(frame->bytes, 0, frame->length);
	frame->length = 0;
	net->s.count--;
	/* A queue that was emptied begins at the front again: only as many slots become memory as were ever in use at once. */
	net->s.first = net->s.count ? (net->s.first + 1) % FT_NET_WAITING : 0;
}

/* Puts one frame into the chain taken last. false: the buffer is too small for it. */
static bool fill_chain(struct ft_virtio_net *net, const struct ft_net_frame *frame)
{
	struct ft_virtio *v = &net->v;
	uint8_t header[HEADER] = {0};
	header[BUFFERS] = 1;
	return v->chain.write_length >= HEADER + frame->length &&
	       ft_chain_write(&v->chain, &v->m->ram, 0, header, HEADER) &&
	       ft_chain_write(&v->chain, &v->m->ram, HEADER, frame->bytes, frame->length);
}

static void deliver(struct ft_virtio_net *net)
{
	struct ft_virtio *v = &net->v;
	bool any = false;
	while (net->s.count && ft_virtio_take(v, RECEIVE) > 0) {
		const struct ft_net_frame *frame = &net->waiting[net->s.first];
		bool fits = fill_chain(net, frame);
		if (!fits)
			v->m->frames_dropped++;
		else if (v->m->hooks.mask & FT_HOOK_NET_RX)
			v->m->hooks.net_rx(v->m->hooks.context, frame->bytes, frame->length);
		ft_virtio_give(v, RECEIVE, v->chain.head, fits ? HEADER + frame->length : 0);
		pop_waiting(net);
		any = true;
	}
	if (any || !net->s.count)
		ft_virtio_finish(v, RECEIVE);
}

static void transmit(struct ft_virtio_net *net)
{
	struct ft_virtio *v = &net->v;
	while (ft_virtio_take(v, TRANSMIT) > 0) {
		uint8_t frame[FT_NET_FRAME_MAX];
		uint64_t length = v->chain.read_length - HEADER;
		uint16_t head = v->chain.head; /* a backend that answers at once has a frame received meanwhile */
		/* Chains that hold no frame of ours are given back unused. */
		if (v->chain.read_length >= HEADER + FT_NET_FRAME_MIN && length <= FT_NET_FRAME_MAX &&
		    ft_chain_read(&v->chain, &v->m->ram, HEADER, frame, length)) {
			if (v->m->hooks.mask & FT_HOOK_NET_TX)
				v->m->hooks.net_tx(v->m->hooks.context, frame, length);
			if (v->m->backend.net_tx)
				v->m->backend.net_tx(v->m->backend.context, frame, length);
		}
		ft_virtio_give(v, TRANSMIT, head, 0);
	}
	ft_virtio_finish(v, TRANSMIT);
}

static void notify(struct ft_virtio *v, unsigned queue)
{
	struct ft_virtio_net *net = (struct ft_virtio_net *)v;
	if (queue == RECEIVE)
		deliver(net);
	else
		transmit(net);
}

static void reset(struct ft_virtio *v)
{
	struct ft_virtio_net *net = (struct ft_virtio_net *)v;
	while (net->s.count) {
		pop_waiting(net);
		v->m->frames_dropped++;
	}
}

int ft_virtio_net_receive(struct ft_virtio_net *net, const uint8_t *frame, size_t length)
{
	int error = 0;
	if (!ft_virtio_ready(&net->v, RECEIVE))
		error = -ENETDOWN;
	else if (net->s.count == FT_NET_WAITING)
		error = -ENOBUFS;
	if (error) {
		net->v.m->frames_dropped++;
		return error;
	}
	struct ft_net_frame *slot = &net->waiting[(net->s.first + net->s.count) % FT_NET_WAITING];
	slot->length = (uint16_t)length;
	memcpy(slot->bytes, frame, length);
	net->s.count++;
	deliver(net);
	return 0;
}

static const struct ft_virtio_kind kind = {.id = 1,
					   .class = 0x020000,
					   .name = "virtio-net",
					   .features = NET_F_MAC | NET_F_STATUS,
					   .queues = 2,
					   .notify = notify,
					   .reset = reset};

static const struct ft_virtio_kind kind_mtu = {.id = 1,
					       .class = 0x020000,
					       .name = "virtio-net",
					       .features = NET_F_MAC | NET_F_STATUS | NET_F_MTU,
					       .queues = 2,
					       .notify = notify,
					       .reset = reset};

int ft_virtio_net_create(struct ft_virtio_net *net, struct ft_machine *m, const uint8_t mac[6], uint16_t mtu,
			 struct ft_error *err)
{
	net->waiting = calloc(FT_NET_WAITING, sizeof(*net->waiting));
	if (!net->waiting)
		return ft_error_set(err, -ENOMEM, "no memory for the network card's queue");
	memcpy(net->v.config, mac, 6);
	net->v.config[6] = LINK_UP;
	memcpy(net->v.config + CONFIG_MTU, &mtu, 2);
	return ft_virtio_create(&net->v, m, mtu ? &kind_mtu : &kind, err);
}

void ft_virtio_net_destroy(struct ft_virtio_net *net)
{
	free(net->waiting);
	net->waiting = NULL;
}
