/* A processor besides the first one, which is the engine's own business: what it is while no engine runs it. Only an engine that has
 * several (kvm) has these in a machine; its `get` brings them here, its `set` takes them from here.
 *
 * Firmware and boot loader leave them as a reset does, waiting for the first one to start them: SDM Vol. 3A 9.4. */
#ifndef FT_VMM_DEV_PROCESSOR_H
#define FT_VMM_DEV_PROCESSOR_H

#include "vmm/dev/lapic.h"

enum ft_processor_waits {
	FT_PROCESSOR_RUNS,           /* or is halted, as its cpu says */
	FT_PROCESSOR_WAITS_FOR_INIT, /* it has been reset, and nobody has spoken to it */
	FT_PROCESSOR_WAITS_FOR_START /* INIT has come, the start-up IPI has not */
};

struct ft_processor {
	struct ft_cpu_state cpu;
	struct ft_lapic lapic; /* without registers on the bus and without a timer: an engine's runs */
	uint64_t tsc_adjust;   /* IA32_TSC_ADJUST */
	uint8_t waits;         /* enum ft_processor_waits */
};

/* Number 1 and up, after a reset. SDM Vol. 3A table 10-1; a local APIC as firmware leaves it. */
void ft_processor_reset(struct ft_processor *processor, struct ft_machine *m, unsigned number);

#endif
