/* A virtio 1.x device behind PCI (virtio 1.2 section 4.1, modern only): registers, feature negotiation, queues and
 * interrupts. What a kind of device does is in struct ft_virtio_kind. */
#ifndef FT_VMM_DEV_VIRTIO_H
#define FT_VMM_DEV_VIRTIO_H

#include "vmm/dev/pci.h"
#include "vmm/dev/virtqueue.h"
#include "vmm/machine.h"

#define FT_VIRTIO_QUEUES      2u
#define FT_VIRTIO_CONFIG      64u /* bytes of device configuration */
#define FT_VIRTIO_F_EVENT_IDX (1ull << 29)
#define FT_VIRTIO_F_VERSION_1 (1ull << 32)

struct ft_virtio;

struct ft_virtio_kind {
	uint16_t id; /* virtio 1.2 section 5 */
	uint32_t class;
	const char *name;
	uint64_t features; /* beside VERSION_1 and EVENT_IDX */
	unsigned queues;
	void (*notify)(struct ft_virtio *v,
		       unsigned queue);     /* only while the driver is ready and the queue enabled */
	void (*reset)(struct ft_virtio *v); /* forget all work under way */
};

struct ft_virtio_state {
	uint64_t driver_features;
	uint32_t device_select, driver_select;
	uint16_t queue_select, config_vector;
	uint8_t status, interrupt_status;
	uint8_t reserved[2];
	struct ft_virtqueue queue[FT_VIRTIO_QUEUES];
};

struct ft_virtio {
	struct ft_machine *m;
	const struct ft_virtio_kind *kind;
	struct ft_pci_function function;
	uint8_t config[FT_VIRTIO_CONFIG]; /* read-only to the guest, constant */
	struct ft_chain chain; /* scratch: too large for a stack frame in a device call; not state */
	struct ft_virtio_state s;
};

int ft_virtio_create(struct ft_virtio *v, struct ft_machine *m, const struct ft_virtio_kind *kind,
		     struct ft_error *err);

/* DRIVER_OK, the queue is enabled, and the device may access memory: a driver that takes the bus away gets no byte any more,
 * where a system that it hands over to may have put something else. What is under way waits; the queues are looked at again
 * when the bus is given back. */
bool ft_virtio_ready(const struct ft_virtio *v, unsigned queue);

uint64_t ft_virtio_features(const struct ft_virtio *v); /* what is offered */

/* Whether this device can come to that state; the name of the first field that it cannot, or NULL. */
const char *ft_virtio_possible(const struct ft_virtio *v, const struct ft_virtio_state *s);

/* The driver broke the rules: the device stops and asks to be reset (section 2.1.2). */
void ft_virtio_break(struct ft_virtio *v);

/* Queue access that breaks the device on a violation. Take: 1, 0 or -EPROTO; the chain is in v->chain. */
int ft_virtio_take(struct ft_virtio *v, unsigned queue);
int ft_virtio_take_head(struct ft_virtio *v, unsigned queue, uint16_t *head);
int ft_virtio_chain(struct ft_virtio *v, unsigned queue, uint16_t head);
void ft_virtio_give(struct ft_virtio *v, unsigned queue, uint16_t head, uint32_t written);
void ft_virtio_finish(struct ft_virtio *v, unsigned queue); /* interrupt if wanted */

#endif
