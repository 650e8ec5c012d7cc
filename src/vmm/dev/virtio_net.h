/* The guest's network card (virtio 1.2 section 5.1): one receive and one transmit queue, no offloads, so that every frame
 * is complete. Frames for which the guest has no buffer yet wait here, in order, as part of the machine's state. */
#ifndef FT_VMM_DEV_VIRTIO_NET_H
#define FT_VMM_DEV_VIRTIO_NET_H

#include "vmm/dev/virtio.h"

#define FT_NET_FRAME_MIN 14u
#define FT_NET_MTU_MAX   9000u
#define FT_NET_FRAME_MAX (FT_NET_MTU_MAX + 22u) /* an Ethernet header with two VLAN tags */
#define FT_NET_WAITING   512u

struct ft_net_frame {
	uint16_t length;
	uint8_t bytes[FT_NET_FRAME_MAX];
};

struct ft_net_state {
	uint32_t first, count; /* of the frames that wait */
};

struct ft_virtio_net {
	struct ft_virtio v;
	struct ft_net_frame *waiting; /* FT_NET_WAITING of them; free slots are zero, and no memory as long as they were never used */
	struct ft_net_state s;
};

/* mtu: what the driver is told (VIRTIO_NET_F_MTU), so that it posts buffers for that much; 0: nothing, and a driver takes
 * 1500 bytes of IP. */
int ft_virtio_net_create(struct ft_virtio_net *net, struct ft_machine *m, const uint8_t mac[6], uint16_t mtu,
			 struct ft_error *err);
void ft_virtio_net_destroy(struct ft_virtio_net *net);

/* A received frame. 0, -ENETDOWN (no driver) or -ENOBUFS (too many wait). */
int ft_virtio_net_receive(struct ft_virtio_net *net, const uint8_t *frame, size_t length);

#endif
