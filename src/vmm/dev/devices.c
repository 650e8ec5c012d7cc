#include "vmm/dev/devices.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>

static int create_others(struct ft_machine *m, struct ft_error *err)
{
	if (m->vcpus == 1)
		return 0;
	struct ft_processor *others = m->devices->others = calloc(m->vcpus - 1, sizeof(*others));
	if (!others)
		return ft_error_set(err, -ENOMEM, "no memory for the processors");
	for (unsigned i = 1; i < m->vcpus; i++)
		ft_processor_reset(&others[i - 1], m, i);
	return 0;
}

int ft_devices_create(struct ft_machine *m, const struct ft_machine_config *config, struct ft_error *err)
{
	struct ft_devices *d = m->devices = calloc(1, sizeof(*d));
	if (!d)
		return ft_error_set(err, -ENOMEM, "no memory for the devices");
	d->blk.disk.fd = d->blk.disk.read_fd = -1;
	int error;
	if ((error = create_others(m, err)) || (error = ft_lapic_create(&d->lapic, m, err)) || (error = ft_ioapic_create(&d->ioapic, m, err)) ||
	    (error = ft_pic_create(&d->pic, m, err)) || (error = ft_pit_create(&d->pit, m, err)) ||
	    (error = ft_rtc_create(&d->rtc, m, err)) || (error = ft_uart_create(&d->uart, m, err)) ||
	    (error = ft_i8042_create(&d->i8042, m, err)) || (error = ft_power_create(&d->power, m, err)) ||
	    (error = ft_pci_create(&d->pci, m, err)) ||
	    (error = ft_virtio_net_create(&d->net, m, config->mac, config->mtu, err)) ||
	    (error = ft_virtio_rng_create(&d->rng, m, err)))
		return error;
	if (config->disk_fd < 0)
		return 0;
	d->has_disk = true;
	return ft_virtio_blk_create(&d->blk, m, config->disk_fd, err);
}

void ft_devices_destroy(struct ft_machine *m)
{
	if (!m->devices)
		return;
	ft_virtio_net_destroy(&m->devices->net);
	if (m->devices->has_disk)
		ft_virtio_blk_destroy(&m->devices->blk);
	free(m->devices->others);
	free(m->devices);
	m->devices = NULL;
}

static void hash_virtio(const struct ft_virtio *v, XXH3_state_t *hash)
{
	XXH3_128bits_update(hash, &v->function.s, sizeof(v->function.s));
	XXH3_128bits_update(hash, &v->s, sizeof(v->s));
}

/* The frames that wait, in order. Free slots are left alone: to read them is a page fault each 4 KiB, of 4.6 MB, in each clone. */
static void hash_waiting(const struct ft_virtio_net *net, XXH3_state_t *hash)
{
	for (uint32_t i = 0; i < net->s.count; i++) {
		const struct ft_net_frame *frame = &net->waiting[(net->s.first + i) % FT_NET_WAITING];
		XXH3_128bits_update(hash, frame, offsetof(struct ft_net_frame, bytes) + frame->length);
	}
}

#define HASH(state) XXH3_128bits_update(hash, &(state), sizeof(state))

void ft_devices_hash_one(const struct ft_machine *m, enum ft_component component, XXH3_state_t *hash)
{
	const struct ft_devices *d = m->devices;
	switch (component) {
	case FT_COMPONENT_LAPIC:
		HASH(d->lapic.s);
		for (unsigned i = 0; i + 1 < m->vcpus; i++)
			HASH(d->others[i].lapic.s);
		break;
	case FT_COMPONENT_IOAPIC:
		HASH(d->ioapic.s);
		break;
	case FT_COMPONENT_PIC:
		HASH(d->pic.s);
		break;
	case FT_COMPONENT_PIT:
		HASH(d->pit.s);
		break;
	case FT_COMPONENT_RTC:
		HASH(d->rtc.s);
		break;
	case FT_COMPONENT_UART:
		HASH(d->uart.s);
		break;
	case FT_COMPONENT_I8042:
		HASH(d->i8042.s);
		break;
	case FT_COMPONENT_POWER:
		HASH(d->power.s);
		break;
	case FT_COMPONENT_PCI:
		HASH(d->pci.s);
		break;
	case FT_COMPONENT_NET:
		hash_virtio(&d->net.v, hash);
		HASH(d->net.s);
		hash_waiting(&d->net, hash);
		break;
	case FT_COMPONENT_RNG:
		hash_virtio(&d->rng.v, hash);
		HASH(d->rng.s);
		break;
	case FT_COMPONENT_BLK:
		if (d->has_disk) {
			hash_virtio(&d->blk.v, hash);
			HASH(d->blk.s);
		}
		break;
	case FT_COMPONENT_TIMERS:
		/* Armed timers in firing order; ranks are the same in machines built alike. */
		for (const struct ft_timer *timer = m->timers; timer; timer = timer->next) {
			HASH(timer->deadline_ns);
			HASH(timer->rank);
		}
		break;
	default:
		break;
	}
}

void ft_devices_hash(const struct ft_machine *m, bool written, XXH3_state_t *hash)
{
	struct ft_devices *d = m->devices;
	for (unsigned i = FT_COMPONENT_LAPIC; i <= FT_COMPONENT_TIMERS; i++)
		ft_devices_hash_one(m, i, hash);
	if (!d->has_disk)
		return;
	/* A disk that cannot be read equals no other. */
	int error = written ? ft_disk_hash_written(&d->blk.disk, &m->ram, hash) : ft_disk_hash(&d->blk.disk, hash);
	if (error)
		HASH(error);
}
