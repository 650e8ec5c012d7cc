#include "clone/witness.h"

#include <string.h>

#include "vmm/dev/devices.h"
#include "vmm/engine/walk.h"

#define LOOKS 3u
#define SEGMENT_DPL(segment) ((segment).attributes >> 5 & 3)

static size_t peek(void *context, uint64_t cr3, uint64_t va, void *to, size_t length)
{
	struct ft_machine *m = context;
	return m->engine_ops->peek_in(m->engine, cr3, va, to, length);
}

static bool isolated(void *context, uint64_t cr3)
{
	const struct ft_machine *m = context;
	return ft_walk_isolated(&m->ram, cr3);
}

/* Of this processor, with all of the kernel in it. */
static uint64_t kernel_space(const struct ft_machine *m, const struct ft_cpu_state *state)
{
	return ft_walk_isolated(&m->ram, state->cr3) ? state->cr3 & ~FT_WALK_PAIR : state->cr3;
}

static void now(void *context, uint64_t *icount, uint64_t *vtime_ns)
{
	const struct ft_machine *m = context;
	*icount = m->icount;
	*vtime_ns = ft_machine_vtime(m);
}

static void on_syscall(void *context, uint64_t nr, const uint64_t args[6], uint64_t rip, uint64_t rsp)
{
	ft_observe_syscall(&((struct ft_witness *)context)->observer, nr, args, rip, rsp);
}

static void on_sysret(void *context, uint64_t rax, uint64_t rip, uint64_t rsp)
{
	ft_observe_sysret(&((struct ft_witness *)context)->observer, rax, rip, rsp);
}

static void on_cr3(void *context, uint64_t old, uint64_t new)
{
	ft_observe_cr3(&((struct ft_witness *)context)->observer, old, new);
}

static void on_fault(void *context, unsigned vector, uint32_t error, uint64_t address, uint64_t rip)
{
	ft_observe_fault(&((struct ft_witness *)context)->observer, vector, error, address, rip);
}

static void on_exec_page(void *context, uint64_t rip, uint64_t gpa, uint8_t page_flags, uint64_t pte_flags)
{
	ft_observe_exec_page(&((struct ft_witness *)context)->observer, rip, gpa, page_flags, pte_flags);
}

static void on_net_tx(void *context, const void *frame, size_t length)
{
	struct ft_witness *w = context;
	if (w->observer.clone)
		ft_observe_net_tx(&w->observer, frame, length);
	else
		ft_pulse_frame(&w->pulse, frame, length, false);
}

static void on_net_rx(void *context, const void *frame, size_t length)
{
	struct ft_witness *w = context;
	if (!w->observer.clone)
		ft_pulse_frame(&w->pulse, frame, length, true);
}

static void on_disk(void *context, bool write, uint64_t sector, uint32_t sectors)
{
	ft_observe_disk(&((struct ft_witness *)context)->observer, write, sector, sectors);
}

static void on_console(void *context, const char *bytes, size_t length)
{
	ft_observe_console(&((struct ft_witness *)context)->observer, bytes, length);
}

static void on_key(void *context, uint8_t scancode)
{
	struct ft_witness *w = context;
	if (!w->observer.clone)
		ft_pulse_key(&w->pulse, scancode);
}

#define LIVE                                                                                                 \
	(FT_HOOK_SYSCALL | FT_HOOK_SYSRET | FT_HOOK_CR3 | FT_HOOK_NET_TX | FT_HOOK_NET_RX |                  \
	 FT_HOOK_CONSOLE | FT_HOOK_KEY)
#define CLONE (LIVE | FT_HOOK_FAULT | FT_HOOK_EXEC_PAGE | FT_HOOK_DISK)

void ft_witness_live(struct ft_witness *witness, struct ft_machine *m, struct ft_report *report,
		     uint64_t wall_ns)
{
	struct ft_observe_source source = {.context = m, .peek = peek, .now = now, .isolated = isolated};
	struct ft_cpu_state state;
	m->engine_ops->get(m->engine, &state);
	witness->m = m;
	ft_observe_begin(&witness->observer, &source, report, state.cr3);
	ft_pulse_begin(&witness->pulse, &witness->observer, wall_ns);
	m->hooks = (struct ft_hooks){
	    .mask = LIVE,
	    .context = witness,
	    .syscall = on_syscall,
	    .sysret = on_sysret,
	    .cr3 = on_cr3,
	    .fault = on_fault,
	    .exec_page = on_exec_page,
	    .net_tx = on_net_tx,
	    .net_rx = on_net_rx,
	    .disk = on_disk,
	    .console = on_console,
	    .key = on_key,
	};
	m->engine_ops->observe(m->engine);
}

void ft_witness_look(struct ft_witness *witness)
{
	struct ft_cpu_state state;
	struct ft_machine *m = witness->m;
	if (!m->engine_ops->hosted || witness->observer.user_seen)
		return;
	m->engine_ops->get(m->engine, &state);
	bool seen = SEGMENT_DPL(state.segment[FT_SS]) == 3; /* which is the CPL */
	for (unsigned i = 0; i + 1 < m->vcpus; i++)
		seen |= SEGMENT_DPL(m->devices->others[i].cpu.segment[FT_SS]) == 3;
	witness->observer.user_seen = seen;
}

void ft_witness_learn(struct ft_witness *witness)
{
	struct ft_cpu_state state;
	struct ft_machine *m = witness->m;
	if (!m->engine_ops->hosted || witness->tasks.found || witness->looked == LOOKS)
		return;
	witness->looked++;
	m->engine_ops->get(m->engine, &state);
	ft_tasks_find(&witness->tasks, &m->ram, kernel_space(m, &state), state.lstar);
}

void ft_witness_meet(struct ft_witness *witness)
{
	struct ft_cpu_state state;
	struct ft_machine *m = witness->m;
	if (!witness->tasks.found)
		return;
	m->engine_ops->get(m->engine, &state);
	ft_tasks_read(&witness->tasks, &m->ram, kernel_space(m, &state), &witness->observer.processes);
}

void ft_witness_clone(struct ft_witness *witness, struct ft_report *report)
{
	struct ft_cpu_state state;
	witness->m->engine_ops->get(witness->m->engine, &state);
	ft_observe_become_clone(&witness->observer, report);
	/* Known already, unless it was a hosted engine's. */
	ft_observe_at(&witness->observer, state.cr3);
	witness->m->engine_ops->part(witness->m->engine);
	witness->m->hooks.mask = CLONE;
	ft_memory_mark(&witness->m->ram);
	witness->m->engine_ops->observe(witness->m->engine);
}
