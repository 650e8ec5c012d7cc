/* Local APIC of a vCPU (SDM Vol. 3A chapter 11, xAPIC mode) with its timer (one-shot, periodic, TSC deadline), and
 * the MSRs that belong to the platform rather than to an engine. */
#ifndef FT_VMM_DEV_LAPIC_H
#define FT_VMM_DEV_LAPIC_H

#include "vmm/machine.h"

#define FT_LAPIC_BASE 0xfee00000u

/* Version 0x14, six LVT entries; no directed EOI. */
#define FT_LAPIC_VERSION (0x14u | (FT_LVTS - 1) << 16)

enum ft_lapic_lvt {
	FT_LVT_TIMER,
	FT_LVT_THERMAL,
	FT_LVT_PERFORMANCE,
	FT_LVT_LINT0,
	FT_LVT_LINT1,
	FT_LVT_ERROR,
	FT_LVTS
};

struct ft_lapic_state {
	uint64_t base; /* IA32_APIC_BASE */
	uint32_t requests[8], in_service[8], trigger[8];
	uint32_t lvt[FT_LVTS];
	uint32_t id, tpr, ldr, dfr, spurious, error, error_pending;
	uint32_t command_low, command_high;
	uint32_t initial_count, divide;
	uint64_t timer_start_ns; /* when the count was initial_count */
	uint64_t tsc_deadline;
};

struct ft_lapic {
	struct ft_machine *m;
	struct ft_region region;
	struct ft_timer timer;
	struct ft_lapic_state s;
};

int ft_lapic_create(struct ft_lapic *lapic, struct ft_machine *m, struct ft_error *err);

/* An interrupt message (from the I/O APIC, an MSI or an IPI) for the APIC it names, be it this one, the first processor's, or one of the
 * others'. mode: SDM 11.6.1.
 * false: it was not accepted. */
bool ft_lapic_message(struct ft_lapic *lapic, uint8_t destination, bool logical, uint8_t vector,
		      unsigned mode, bool level);

/* That of processor number 1 and up, as after a reset. */
void ft_lapic_reset(struct ft_lapic *lapic, struct ft_machine *m, unsigned number);

int ft_lapic_pending(const struct ft_lapic *lapic);       /* vector above the processor priority, -1: none */
void ft_lapic_accept(struct ft_lapic *lapic, int vector); /* the CPU takes it: request becomes service */
bool ft_lapic_takes_pic(const struct ft_lapic *lapic);    /* the PIC's INTR reaches the CPU */

uint32_t ft_lapic_current_count(const struct ft_lapic_state *s, uint64_t vtime_ns); /* register 0x390 */
uint64_t ft_lapic_count_ends(const struct ft_lapic *lapic); /* virtual time at which that is zero; UINT64_MAX: it does not count */
void ft_lapic_restored(struct ft_lapic *lapic); /* its state was replaced: registers appear or go */

#endif
