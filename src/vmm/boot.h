/* What firmware and boot loader would have done: the kernel in memory, ACPI tables, the CPU at the kernel's entry.
 * ft_machine_boot in machine.h is the entrance; these are its parts. */
#ifndef FT_VMM_BOOT_H
#define FT_VMM_BOOT_H

#include "vmm/machine.h"

/* Where what we put below 1 MiB lies. */
enum {
	FT_BOOT_GDT = 0x1000,
	FT_BOOT_PARAMS = 0x7000,
	FT_BOOT_PAGES = 0x9000, /* six pages: PML4, PDPT, four page directories */
	FT_BOOT_CMDLINE = 0x20000,
	FT_BOOT_LOW_END = 0x9fc00, /* usable memory below this */
	FT_BOOT_ACPI = 0xe0000,
	FT_BOOT_ACPI_END = 0xff000,
	FT_BOOT_GENERATION = 0xff000, /* the generation ID (vmm/dev/generation.h), alone in its page */
	FT_BOOT_HIGH = 0x100000
};

/* Writes RSDP, XSDT, FADT, FACS, MADT and DSDT from FT_BOOT_ACPI on; the RSDP is the first. */
int ft_acpi_write(struct ft_machine *m, struct ft_error *err);

#endif
