/* The engine as the machine holds it, and the run loop. */
#ifndef FT_VMM_ENGINE_SOFT_RUN_H
#define FT_VMM_ENGINE_SOFT_RUN_H

#include "vmm/engine/soft/block.h"

/* What is written while code runs, in one huge page: after a fork it is copied at once (soft_hot_move), for each of its small pages
 * would cost a fault, and many of them. Translated code finds all of it by its distance from struct soft_cpu. */
struct soft_hot {
	struct soft_cpu cpu;
	struct soft_blocks blocks;
	struct soft_tlb tlb[2]; /* [user] */
	struct soft_jump kernel[SOFT_JUMP_SETS][2] __attribute__((aligned(64)));
	struct soft_jump user[SOFT_JUMP_SETS_USER][2];
};

struct ft_engine {
	struct soft_cpu *cpu;       /* these two: */
	struct soft_blocks *blocks; /* in *hot */
	struct soft_hot *hot;
	struct soft_hot *next; /* room for it after the next fork, which does not have it; NULL: none yet */
	struct soft_hot *last; /* where it was before a fork: shared with that; NULL: nowhere */
};

/* hot.c. NULL: no memory. Guard pages around it. */
struct soft_hot *soft_hot_map(void);
void soft_hot_unmap(struct soft_hot *hot);
/* Cpu and blocks are there from here on. */
void soft_hot_settle(struct ft_engine *engine, struct soft_hot *hot);
/* Behind a fork: the other process, or this one's parent, has what was there until now; from here on it is this process's alone. Where
 * there is no memory for that it stays, shared page by page. */
void soft_hot_move(struct ft_engine *engine);
/* Room for the next move, and none for what is there no more. */
void soft_hot_rest(struct ft_engine *engine);

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
