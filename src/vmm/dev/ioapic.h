/* I/O APIC (Intel 82093AA data sheet, version 0x11): 24 inputs, GSI 0..23, registers at 0xfec00000. */
#ifndef FT_VMM_DEV_IOAPIC_H
#define FT_VMM_DEV_IOAPIC_H

#include "vmm/machine.h"

#define FT_IOAPIC_BASE 0xfec00000u
#define FT_IOAPIC_PINS 24u

struct ft_ioapic_state {
	uint64_t entry[FT_IOAPIC_PINS];
	uint32_t lines;
	uint8_t select, id;
	uint8_t reserved[2];
};

struct ft_ioapic {
	struct ft_machine *m;
	struct ft_region region;
	struct ft_ioapic_state s;
};

int ft_ioapic_create(struct ft_ioapic *ioapic, struct ft_machine *m, struct ft_error *err);
void ft_ioapic_set(struct ft_ioapic *ioapic, unsigned pin, bool level);
void ft_ioapic_end(struct ft_ioapic *ioapic, uint8_t vector); /* EOI message of the local APIC */

#endif
