/* ACPI fixed hardware (ACPI 6.4 section 4.8): PM1 event and control registers and the PM timer at 0x600; the reset
 * register at 0xcf9, which lies inside the PCI configuration ports: pci.c passes it on. */
#ifndef FT_VMM_DEV_POWER_H
#define FT_VMM_DEV_POWER_H

#include "vmm/machine.h"

#define FT_POWER_BASE      0x600u
#define FT_POWER_EVENT     (FT_POWER_BASE + 0)
#define FT_POWER_CONTROL   (FT_POWER_BASE + 4)
#define FT_POWER_TIMER     (FT_POWER_BASE + 8)
#define FT_POWER_RESET     0xcf9u
#define FT_POWER_SLEEP_OFF 5u /* SLP_TYP of S5 */
#define FT_POWER_SCI       9u

struct ft_power_state {
	uint16_t enable, control;
	uint8_t reset, reserved[3];
};

struct ft_power {
	struct ft_machine *m;
	struct ft_region registers;
	struct ft_power_state s;
};

int ft_power_create(struct ft_power *power, struct ft_machine *m, struct ft_error *err);
void ft_power_write_reset(struct ft_power *power, uint8_t value);

#endif
