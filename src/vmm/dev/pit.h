/* 8254 interval timer (Intel data sheet; ports 0x40..0x43) and port 0x61, through which software gates channel 2 and
 * sees its output. Channel 0 is IRQ 0. Modes 0, 2 and 3 count; 1, 4 and 5 behave like 0. */
#ifndef FT_VMM_DEV_PIT_H
#define FT_VMM_DEV_PIT_H

#include "vmm/machine.h"

struct ft_pit_channel {
	uint64_t start_ns; /* when `count` was loaded */
	uint32_t count;    /* 1..65536 */
	uint16_t latched_count;
	uint8_t latched_status;
	uint8_t mode, access, bcd;   /* access: 1 low, 2 high, 3 both */
	uint8_t gate, count_latched; /* count_latched: bytes still to be read */
	uint8_t status_latched, read_high, write_high, write_low_byte, running;
};

struct ft_pit_state {
	struct ft_pit_channel channel[3];
	uint8_t speaker; /* port 0x61 bits 0 and 1 */
	uint8_t reserved[7];
};

struct ft_pit {
	struct ft_machine *m;
	struct ft_region ports, gate;
	struct ft_timer timer;
	struct ft_pit_state s;
};

int ft_pit_create(struct ft_pit *pit, struct ft_machine *m, struct ft_error *err);

#endif
