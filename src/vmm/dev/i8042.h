/* Keyboard controller with a keyboard that answers its driver (ports 0x60, 0x64; IRQ 1), and the classic reset line. */
#ifndef FT_VMM_DEV_I8042_H
#define FT_VMM_DEV_I8042_H

#include "vmm/machine.h"

#define FT_I8042_QUEUE 16u

struct ft_i8042_state {
	uint8_t queue[FT_I8042_QUEUE];
	uint8_t count, control, output_port;
	uint8_t expects;  /* controller command that waits for its data byte, 0: none */
	uint8_t keyboard; /* keyboard command that waits for its argument, 0: none */
	uint8_t reserved[3];
};

struct ft_i8042 {
	struct ft_machine *m;
	struct ft_region data, command;
	struct ft_i8042_state s;
};

int ft_i8042_create(struct ft_i8042 *i8042, struct ft_machine *m, struct ft_error *err);

#endif
