/* An engine executes guest instructions for the vCPUs of a machine: soft for one, kvm for several. It knows machine.h and no device;
 * devices know no engine. All calls from the one thread that runs the machine, except `stop`. */
#ifndef FT_VMM_ENGINE_H
#define FT_VMM_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "vmm/engine/model.h"
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

/* What an engine remembers of page tables (TLB, code fetches, jump caches) is not in the state. A processor may forget any of
 * it at any time, so none of it shows while the guest follows the rule that SDM Vol. 3A 4.10.4.2 makes for changed entries:
 * flush, then rely on it. Linux breaks that rule in two places, both of them under memory pressure only:
 *  - it ages pages by clearing accessed bits without a flush (ptep_clear_flush_young and the walks of MGLRU on x86): an
 *    access that is still remembered does not set the bit again, one that is not does;
 *  - reclaim gathers flushes: between the clearing of an entry and the flush, a page that was only read may still be read
 *    by what is remembered, or fault.
 * So, once a guest ages or reclaims pages, the bits and then which pages it gives up depend on what is remembered.
 *
 *  Holds all the same: a fork remembers what its parent does. A clone is a function of its seed, and trial and twin, or the
 *  same trial twice, run alike as long as they are stopped at the same instruction counts.
 *  Does not hold, under memory pressure: that runs with other options, with `flush`, or with a state that went through
 *  get and set (which remembers nothing) are the same bit by bit; that equal hashes mean an equal future; and that a live
 *  guest's run is repeated exactly from its inputs: where `stop` hits, the code fetch that goes on there is looked up again,
 *  which sets a cleared bit that running on would have left. A saved state that has to be continued exactly must be saved
 *  by fork, or with a `flush` at the same count in both (ft_machine_forget; restoring does it by itself).
 *
 * What would end this: stores into pages that hold tables, seen as stores into translated code are, that drop what was
 * remembered by the entry; then remembering never differs from walking. The cost is a slow store for each entry that fork,
 * exit and faults write. */

/* Settings that must not change what the guest sees, but for the above; the invariance test varies them. 0: default. */
struct ft_engine_options {
	uint32_t block_limit;  /* most guest instructions in a block */
	uint32_t tlb_bits;     /* log2 of TLB entries */
	uint64_t cache_bytes;  /* code cache */
	bool always_slow;      /* every memory access through the slow path */
	bool host_tsc;         /* kvm: the TSC has the host's frequency instead of the machine's, which needs no scaling */
	bool native;           /* kvm: the guest has the instructions of the host's own processor, and stays on it */
	bool verify;           /* run the output verifier on all emitted code; failure: FT_EXIT_ERROR */
	int kvm;               /* kvm: a descriptor of /dev/kvm, borrowed; 0: it is opened */
};

struct ft_engine_ops {
	const char *name;
	/* The CPU is the host's kernel's: it tells nothing of what it does (enum ft_hook: those of the CPU), what it writes to RAM is not
	 * marked there, RAM has to be here and stay in its place, and a fork of this process cannot go on with it (ft_machine_stand_by). */
	bool hosted;
	struct ft_engine *(*create)(struct ft_machine *m, const struct ft_engine_options *options, struct ft_error *err);
	void (*destroy)(struct ft_engine *engine);

	/* Runs until m->icount == until (exactly), or an exit above. Delivers interrupts that the machine reports
	 * (ft_machine_interrupt) at instruction boundaries. m->icount is exact on return and whenever machine code is
	 * called. */
	enum ft_exit (*run)(struct ft_engine *engine, uint64_t until);

	/* NULL: time passes for its CPU as the machine says. Else it passes as it does for the host, and this moves m->icount
	 * forward to now: ft_machine_sync does no more. */
	void (*advance)(struct ft_engine *engine);

	/* NULL: the machine's own local APIC is the CPU's. Else the engine has one (in a kernel): an interrupt message for it (SDM Vol.
	 * 3A 11.11), *accepted: by it. `get` brings what it holds into the machine's, `run` gives that back if `set` came between; until
	 * that run false is returned, and the machine's is the one that has to take it. */
	bool (*message)(struct ft_engine *engine, uint64_t address, uint32_t data, bool *accepted);

	/* Async-signal-safe and callable from another thread: run() returns FT_EXIT_STOPPED soon (at a place that does
	 * not depend on it for correctness: the machine state is a normal one). */
	void (*stop)(struct ft_engine *engine);

	/* The first vCPU. What the others are lies in the machine (vmm/dev/processor.h): `get` brings it there, `set` takes it from there. */
	void (*get)(struct ft_engine *engine, struct ft_cpu_state *state);
	/* Remembers nothing of page tables afterwards. */
	int (*set)(struct ft_engine *engine, const struct ft_cpu_state *state, struct ft_error *err);

	/* NULL: it needs none. Starts the threads that it runs the machine with; once is enough. */
	int (*get_ready)(struct ft_engine *engine, struct ft_error *err);

	/* NULL: it can be any processor. Else the machine that is about to be restored has this CPU model, and a time stamp counter of this
	 * frequency, which become m->model and m->clock.tsc_khz; or an error, and nothing has changed. Before the first run. */
	int (*become)(struct ft_engine *engine, const struct ft_model *model, uint64_t tsc_khz, struct ft_error *err);

	/* What a guest of this CPU model sees whose TSC has this frequency: CPUID's EAX, EBX, ECX, EDX on this vCPU; MSRs that only tell (0,
	 * or -1: not one of them); bits of CR4 that can be set. */
	void (*cpuid)(struct ft_engine *engine, const struct ft_model *model, unsigned vcpu, uint64_t tsc_khz, uint32_t leaf, uint32_t subleaf,
		      uint32_t registers[4]);
	int (*model_msr)(struct ft_engine *engine, const struct ft_model *model, uint32_t index, uint64_t *value);
	uint64_t cr4_known;

	/* Reads guest virtual memory through an address space with user rights (no A/D bits set, no faults raised): bytes read
	 * before the first failure. For observers. */
	size_t (*peek_in)(struct ft_engine *engine, uint64_t cr3, uint64_t va, void *to, size_t length);

	/* Makes the engine tell again what it had granted or told before: drops write grants, and user code is looked
	 * at again before it runs (hook exec_page). After a fork, and when hooks change. */
	void (*observe)(struct ft_engine *engine);

	/* This process is a fork that does not live for long: what the engine makes from here on is kept apart from what it shares
	 * with its parent, so that it is not copied. Changes nothing but the time that takes. */
	void (*part)(struct ft_engine *engine);

	/* This process is about to fork, and goes on. What has to be written for that is written now, while the memory is not
	 * shared yet, and what a hosted engine's CPU has is brought into it (a failure is in m->error). Changes nothing but time. */
	void (*before_fork)(struct ft_engine *engine);
	/* NULL: `get` and `set` carry all that its CPU has. Else what they do not, in a fork, from the engine of the same kind that it has
	 * inherited (before_fork was called there): between `create` and `set`. */
	int (*inherit)(struct ft_engine *engine, const struct ft_engine *from, struct ft_error *err);
	/* A fork of this process, which itself goes on, shares the guest's memory from here on (until ft_memory_gather);
	 * before_fork was called before it. Changes nothing but the time that writing to memory takes. */
	void (*share)(struct ft_engine *engine);
	/* The guest has nothing to do: what the next fork needs is made ready. Changes nothing but time. */
	void (*rest)(struct ft_engine *engine);

	/* Everything that is the engine's and not the guest's is dropped (translations, TLB): must change nothing but what is
	 * said at the top. */
	void (*flush)(struct ft_engine *engine);
};

extern const struct ft_engine_ops ft_engine_soft;
extern const struct ft_engine_ops ft_engine_kvm;

#endif
