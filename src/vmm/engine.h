/* An engine executes guest instructions for one vCPU of a machine. It knows machine.h and no device; devices know no
 * engine. All calls from the one thread that runs the machine, except `stop`. */
#ifndef FT_VMM_ENGINE_H
#define FT_VMM_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "vmm/state.h"

struct ft_machine;
struct ft_engine;

enum ft_exit {
	FT_EXIT_COUNT,    /* icount == until */
	FT_EXIT_HALT,     /* HLT with no deliverable interrupt; rip is behind the HLT */
	FT_EXIT_STOPPED,  /* stop() was called, or the machine asked (m->leave) */
	FT_EXIT_SHUTDOWN, /* triple fault */
	FT_EXIT_ERROR     /* the engine cannot go on; m->error says why */
};

/* Settings that must not change what the guest sees; the invariance test varies them. 0: default. */
struct ft_engine_options {
	uint32_t block_limit;  /* most guest instructions in a block */
	uint32_t tlb_bits;     /* log2 of TLB entries */
	uint64_t cache_bytes;  /* code cache */
	bool always_slow;      /* every memory access through the slow path */
	bool verify;           /* run the output verifier on all emitted code; failure: FT_EXIT_ERROR */
};

struct ft_engine_ops {
	const char *name;
	struct ft_engine *(*create)(struct ft_machine *m, const struct ft_engine_options *options, struct ft_error *err);
	void (*destroy)(struct ft_engine *engine);

	/* Runs until m->icount == until (exactly), or an exit above. Delivers interrupts that the machine reports
	 * (ft_machine_interrupt) at instruction boundaries. m->icount is exact on return and whenever machine code is
	 * called. */
	enum ft_exit (*run)(struct ft_engine *engine, uint64_t until);

	/* Async-signal-safe and callable from another thread: run() returns FT_EXIT_STOPPED soon (at a place that does
	 * not depend on it for correctness: the machine state is a normal one). */
	void (*stop)(struct ft_engine *engine);

	void (*get)(struct ft_engine *engine, struct ft_cpu_state *state);
	int (*set)(struct ft_engine *engine, const struct ft_cpu_state *state, struct ft_error *err);

	/* Reads guest virtual memory through the current address space with user rights (no A/D bits set, no faults
	 * raised): bytes read before the first failure. For observers. */
	size_t (*peek)(struct ft_engine *engine, uint64_t va, void *to, size_t length);

	/* Like peek for a given CR3. */
	size_t (*peek_in)(struct ft_engine *engine, uint64_t cr3, uint64_t va, void *to, size_t length);

	/* Makes the engine tell again what it had granted or told before: drops write grants, and user code is looked
	 * at again before it runs (hook exec_page). After a fork, and when hooks change. */
	void (*observe)(struct ft_engine *engine);

	/* Everything that is the engine's and not the guest's is dropped (translations, TLB): must change nothing. */
	void (*flush)(struct ft_engine *engine);
};

extern const struct ft_engine_ops ft_engine_soft;

#endif
