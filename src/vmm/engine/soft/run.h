/* The engine as the machine holds it, and the run loop. */
#ifndef FT_VMM_ENGINE_SOFT_RUN_H
#define FT_VMM_ENGINE_SOFT_RUN_H

#include "vmm/engine/soft/block.h"

struct ft_engine {
	struct soft_cpu *cpu;
	struct soft_blocks blocks;
};

/* Runs guest code until icount == until or a reason to return; the guest's FPU state is in the host's registers. */
enum ft_exit soft_run(struct soft_cpu *cpu, uint64_t until);

/* signal.c: this thread's handlers and alternate stack. 0 or -errno. */
int soft_signals_install(void);
/* Between these, faults in the code cache of `cpu` are the guest's. */
int soft_signals_enter(struct soft_cpu *cpu);
void soft_signals_leave(void);

/* Registers and reason for leaving at host address `at` of the block there: sets cpu->rip and cpu->icount. false: not at
 * an instruction. */
bool soft_locate(struct soft_cpu *cpu, const void *at);

#endif
