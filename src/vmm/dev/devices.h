/* All devices of the PC, in the order in which they are built: the order of timer ranks and bus regions, so part of what
 * makes two machines equal. Each keeps what the guest can see or change in its `s`, plain bytes without pointers or
 * padding: the machine's hash is taken over those. */
#ifndef FT_VMM_DEV_DEVICES_H
#define FT_VMM_DEV_DEVICES_H

#include <xxhash.h>

#include "vmm/dev/i8042.h"
#include "vmm/dev/ioapic.h"
#include "vmm/dev/lapic.h"
#include "vmm/dev/pci.h"
#include "vmm/dev/pic.h"
#include "vmm/dev/pit.h"
#include "vmm/dev/power.h"
#include "vmm/dev/processor.h"
#include "vmm/dev/rtc.h"
#include "vmm/dev/uart.h"
#include "vmm/dev/virtio_blk.h"
#include "vmm/dev/virtio_net.h"
#include "vmm/dev/virtio_rng.h"

struct ft_devices {
	struct ft_lapic lapic; /* of the first processor */
	struct ft_processor *others; /* number 1 and up: vcpus - 1 of them; NULL: there are none */
	struct ft_ioapic ioapic;
	struct ft_pic pic;
	struct ft_pit pit;
	struct ft_rtc rtc;
	struct ft_uart uart;
	struct ft_i8042 i8042;
	struct ft_power power;
	struct ft_pci pci;
	struct ft_virtio_net net;
	struct ft_virtio_rng rng;
	bool has_disk;
	struct ft_virtio_blk blk;
};

int ft_devices_create(struct ft_machine *m, const struct ft_machine_config *config, struct ft_error *err);
void ft_devices_destroy(struct ft_machine *m);
void ft_devices_hash(const struct ft_machine *m, bool written, XXH3_state_t *hash);
/* One of them alone, FT_COMPONENT_LAPIC to FT_COMPONENT_TIMERS; the disk's contents are no part of its device here. */
void ft_devices_hash_one(const struct ft_machine *m, enum ft_component component, XXH3_state_t *hash);

#endif
