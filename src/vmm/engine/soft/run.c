/* The run loop, and what translated code calls. Runs between translated instructions. */
#include "vmm/engine/mxcsr.h"
#include "vmm/engine/soft/run.h"
#include "vmm/engine/soft/system.h"

#define PAGE_MASK ((uint64_t)FT_PAGE_SIZE - 1)

/* Instructions until the loop looks at `stop` again: well below a millisecond. */
#define SLICE 200000u

#define DR6_BS 0x4000u

typedef void (*enter_function)(struct soft_cpu *cpu, const void *code);

/* Instructions that may still run behind the current block. */
static uint64_t rest(const struct soft_cpu *cpu)
{
	return -cpu->count - 1;
}

/* ---- Where are we ---------------------------------------------------------------------------------------------- */

static void place(struct soft_cpu *cpu, const struct soft_block *block, unsigned index)
{
	const struct soft_place *places = soft_block_places(cpu->blocks, block);
	cpu->rip = block->rip + (uint64_t)(int64_t)places[index].guest;
	cpu->icount = cpu->limit - rest(cpu) - (block->count - index);
}

bool soft_locate(struct soft_cpu *cpu, const void *at)
{
	struct soft_blocks *b = cpu->blocks;
	const struct soft_block *block = soft_block_at(b, at);
	if (!block || (const uint8_t *)at < b->code + block->entry)
		return false;
	const struct soft_place *places = soft_block_places(b, block);
	uint32_t offset = (uint32_t)((const uint8_t *)at - (b->code + block->entry));
	unsigned i = block->count;
	while (i && places[i - 1].host > offset)
		i--;
	if (!i)
		return false;
	place(cpu, block, i - 1);
	return true;
}

static uint64_t leave(struct soft_cpu *cpu, enum soft_leave reason)
{
	cpu->reason = reason;
	return 1;
}

static uint64_t leave_at(struct soft_cpu *cpu, enum soft_leave reason, uint32_t info, const void *from)
{
	place(cpu, soft_block_at(cpu->blocks, from), info >> SOFT_INFO_INSN_SHIFT);
	return leave(cpu, reason);
}

/* ---- Memory ----------------------------------------------------------------------------------------------------- */

/* An access that cannot be made: what the instruction changes all the same. cpu->fault is pending. */
static enum soft_leave faulted(struct soft_cpu *cpu, uint32_t info)
{
	/* An MMX store has set TOP to 0, with the tags as they were: so Intel's processors, not AMD's (seen by the
	 * differential test; the SDM does not say). */
	if ((info & SOFT_INFO_MMX) && cpu->intel)
		soft_fpu_clear_top();
	return SOFT_LEAVE_FAULT;
}

/* MXCSR.MM: SSE operands need no alignment, and are checked as others are (APM Vol. 1 4.2.2). The guest's MXCSR is in the register. */
static bool misaligned_mode(void)
{
	uint32_t mxcsr;
	__asm__ volatile("stmxcsr %0" : "=m"(mxcsr));
	return mxcsr & FT_MXCSR_MM;
}

/* What comes before paging: alignment where the instruction asks for it; non-canonical addresses are the segment's
 * fault. */
static bool canonical(struct soft_cpu *cpu, uint64_t va, uint32_t size, uint32_t info)
{
	if ((info & SOFT_INFO_ALIGNED) && (va & 15) && ((info & SOFT_INFO_MOVES_ALIGNED) || !misaligned_mode())) {
		soft_raise(cpu, SOFT_GP, true, 0, 0);
		return false;
	}
	if (soft_canonical(va) && soft_canonical(va + size - 1))
		return soft_aligned(cpu, va, size);
	soft_raise(cpu, info & SOFT_INFO_STACK ? SOFT_SS : SOFT_GP, true, 0, 0);
	return false;
}

/* A read that crosses into another page of RAM: through the bounce buffer. */
static uint64_t cross(struct soft_cpu *cpu, uint32_t info, uint64_t va, const void *from)
{
	uint32_t size = info & SOFT_INFO_SIZE;
	bool mmio, user = cpu->cpl == 3;
	uint64_t gpa;
	const uint64_t parts[2] = {va, (va | PAGE_MASK) + 1};
	for (unsigned i = 0; i < 2; i++)
		if (!soft_translate(cpu, parts[i], SOFT_READ, user, &mmio, &gpa))
			return leave_at(cpu, mmio ? SOFT_LEAVE_SLOW : SOFT_LEAVE_FAULT, info, from);
	uint8_t *to = cpu->bounce + (va & 63);
	if (!soft_load(cpu, va, to, size, user))
		return leave_at(cpu, SOFT_LEAVE_FAULT, info, from);
	if (cpu->m->leave)
		return leave_at(cpu, SOFT_LEAVE_NEXT, info, from);
	if (cpu->blocks->invalidated)
		return leave_at(cpu, SOFT_LEAVE_SLOW, info, from);
	cpu->delta = (uint64_t)(uintptr_t)to - va;
	return 0;
}

/* An access whose RAM could not be fetched (m->leave: ft_memory_fetch) is not made: the machine is over before the instruction. */
uint64_t soft_on_memory(struct soft_cpu *cpu, uint32_t info, uint64_t va, const void *from)
{
	uint32_t size = info & SOFT_INFO_SIZE;
	bool mmio = false, write = (info & SOFT_INFO_WRITE) != 0;
	uint64_t gpa;
	cpu->address = va;
	cpu->blocks->invalidated = false;
	if (!canonical(cpu, va, size, info))
		return leave_at(cpu, faulted(cpu, info), info, from);
	if ((va & PAGE_MASK) + size > FT_PAGE_SIZE) {
		if (write)
			return leave_at(cpu, SOFT_LEAVE_SLOW, info, from);
		return cross(cpu, info, va, from);
	}
	uint8_t *host = soft_translate(cpu, va, write ? SOFT_WRITE : SOFT_READ, cpu->cpl == 3, &mmio, &gpa);
	if (cpu->m->leave)
		return leave_at(cpu, SOFT_LEAVE_NEXT, info, from);
	if (!host)
		return leave_at(cpu, mmio ? SOFT_LEAVE_SLOW : faulted(cpu, info), info, from);
	/* Code is written in a block of its own; and accessed bits of page tables may lie in code, even in this block. */
	if ((write && (cpu->m->ram.page_flags[gpa >> 12] & FT_PAGE_CODE)) || cpu->blocks->invalidated)
		return leave_at(cpu, SOFT_LEAVE_SLOW, info, from);
	cpu->delta = (uint64_t)(uintptr_t)host - va;
	return 0;
}

/* Both pages of a write are found good before anything happens. */
static bool may_write(struct soft_cpu *cpu, uint64_t va, uint32_t size)
{
	bool mmio, user = cpu->cpl == 3;
	uint64_t gpa, last = va + size - 1;
	if (!soft_translate(cpu, va, SOFT_WRITE, user, &mmio, &gpa) && !mmio)
		return false;
	if (!((va ^ last) & ~PAGE_MASK))
		return true;
	return soft_translate(cpu, last & ~PAGE_MASK, SOFT_WRITE, user, &mmio, &gpa) || mmio;
}

uint64_t soft_on_slow(struct soft_cpu *cpu, uint32_t info, uint64_t va, const void *from)
{
	uint32_t size = info & SOFT_INFO_SIZE;
	uint8_t *to = cpu->bounce + (va & 63);
	place(cpu, soft_block_at(cpu->blocks, from), info >> SOFT_INFO_INSN_SHIFT);
	cpu->address = va;
	cpu->delta = (uint64_t)(uintptr_t)to - va;
	if (!canonical(cpu, va, size, info))
		return leave(cpu, faulted(cpu, info));
	if ((info & SOFT_INFO_WRITE) && !may_write(cpu, va, size))
		return leave(cpu, faulted(cpu, info));
	if ((info & SOFT_INFO_READ) && !soft_load(cpu, va, to, size, cpu->cpl == 3))
		return leave(cpu, SOFT_LEAVE_FAULT);
	if (cpu->m->leave)
		return leave(cpu, SOFT_LEAVE_NEXT);
	soft_watch(cpu, va, size, info & SOFT_INFO_WRITE ? SOFT_BREAK_WRITE : SOFT_BREAK_ACCESS);
	return 0;
}

uint64_t soft_on_commit(struct soft_cpu *cpu, uint32_t info, uint64_t va, const void *from)
{
	uint64_t to = cpu->address;
	if (!soft_store(cpu, to, cpu->bounce + (to & 63), info & SOFT_INFO_SIZE, cpu->cpl == 3))
		return leave(cpu, SOFT_LEAVE_FAULT); /* not reached: soft_on_slow has checked */
	return 0;
}

/* ---- Instructions in C ----------------------------------------------------------------------------------------- */

/* SDM Vol. 2A, WAIT; Vol. 3A 2.5 and tables 2-2, 13-1. 0: nothing is raised. */
static uint8_t fpu_exception(const struct soft_cpu *cpu, uint8_t kind)
{
	bool ts = cpu->cr0 & CR0_TS, em = cpu->cr0 & CR0_EM;
	switch (kind) {
	case SOFT_RAISE_WAIT:
		return ts && (cpu->cr0 & CR0_MP) ? SOFT_NM : 0;
	case SOFT_RAISE_X87:
		return ts || em ? SOFT_NM : 0;
	case SOFT_RAISE_SSE:
		em |= !(cpu->cr4 & CR4_OSFXSR);
		/* fall through */
	case SOFT_RAISE_MMX:
		return em ? SOFT_UD : ts ? SOFT_NM : 0;
	default:
		return kind;
	}
}

/* Something that the rest of the block must not miss. A deadline that came nearer moves the limit, if it can. */
static bool must_leave(struct soft_cpu *cpu, const struct soft_record *r)
{
	const struct ft_machine *m = cpu->m;
	struct soft_blocks *b = cpu->blocks;
	if (b->invalidated || m->leave || m->nmi || (cpu->flags & SOFT_FLAG_TF) ||
	    (m->interrupt && (cpu->flags & SOFT_FLAG_IF)) || soft_watched(cpu))
		return true;
	if (soft_block_mode(cpu) != b->mode[cpu->cpl == 3] || !cpu->code64)
		return true;
	if (m->deadline < cpu->limit) {
		uint64_t nearer = cpu->limit - m->deadline;
		if (nearer > rest(cpu))
			return true;
		cpu->limit -= nearer;
		cpu->count += nearer;
	}
	return false;
}

uint64_t soft_on_operation(struct soft_cpu *cpu, uint32_t record, uint64_t unused, const void *from)
{
	struct soft_blocks *b = cpu->blocks;
	const struct soft_record *r =
	    record >= SOFT_RECORD_ONCE ? &b->once_record[record - SOFT_RECORD_ONCE] : &b->record[record];
	cpu->rip = r->rip;
	cpu->icount = cpu->limit - rest(cpu) - r->left;
	uint8_t user = cpu->cpl;
	b->invalidated = false;
	uint8_t length = r->insn.length, vector = r->insn.op == SOFT_OP_COUNT ? fpu_exception(cpu, r->raise) : 0;
	if (r->insn.op == SOFT_OP_COUNT && !vector) {
		cpu->fpu_allowed = true;
		return leave(cpu, SOFT_LEAVE_SLOW);
	}
	enum soft_result result = vector ? soft_raise(cpu, vector, vector == SOFT_GP, 0, 0) : soft_execute(cpu, &r->insn);
	switch (result) {
	case SOFT_NEXT:
	case SOFT_SYNC:
		cpu->rip += length;
		cpu->icount++;
		return must_leave(cpu, r) || user != cpu->cpl ? leave(cpu, SOFT_LEAVE_NEXT) : 0;
	case SOFT_JUMP:
		cpu->icount++;
		return leave(cpu, SOFT_LEAVE_NEXT);
	case SOFT_AGAIN:
		/* Each piece counts: a guest must not stop the clock, or its budgets, with one long instruction. */
		cpu->icount++;
		return leave(cpu, SOFT_LEAVE_NEXT);
	case SOFT_FAULT:
		return leave(cpu, SOFT_LEAVE_FAULT);
	case SOFT_HALT:
		cpu->rip += length;
		cpu->icount++;
		return leave(cpu, SOFT_LEAVE_HALT);
	}
	return leave(cpu, SOFT_LEAVE_NEXT);
}

/* ---- The loop ---------------------------------------------------------------------------------------------------- */

static uint64_t earliest(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static void set_count(struct soft_cpu *cpu, uint64_t left)
{
	cpu->count = -left - 1;
}

static bool deliverable(const struct soft_cpu *cpu)
{
	return cpu->m->interrupt && (cpu->flags & SOFT_FLAG_IF);
}

static bool shadowed(const struct soft_cpu *cpu)
{
	return cpu->shadow_icount == cpu->icount;
}

/* The caches of direct jumps hold one mode per privilege. */
static uint8_t current_mode(struct soft_cpu *cpu)
{
	struct soft_blocks *b = cpu->blocks;
	uint8_t mode = soft_block_mode(cpu);
	if (b->mode[mode & SOFT_MODE_USER] != mode) {
		b->mode[mode & SOFT_MODE_USER] = mode;
		soft_jumps_flush(cpu);
	}
	return mode;
}

/* A jump, call or return to a non-canonical address faults where it is, with RSP as it was. SDM Vol. 2, CALL, JMP, RET: 64-bit mode exceptions. */
static void refuse_target(struct soft_cpu *cpu)
{
	struct soft_blocks *b = cpu->blocks;
	uint8_t bytes[18] = {0};
	unsigned n = 0;
	uint32_t site = (uint32_t)cpu->spill[0];
	if (!site || !soft_locate(cpu, b->code + site))
		return; /* ran into it: the fetch will fault */
	soft_raise(cpu, SOFT_GP, true, 0, 0);
	while (n < 15 && soft_peek_code(cpu, cpu->rip + n, &bytes[n]))
		n++;
	for (unsigned i = 0; i < n; i++) {
		if (bytes[i] == 0xc3) {
			cpu->gpr[FT_RSP] -= 8;
			return;
		}
		if (bytes[i] == 0xc2) {
			cpu->gpr[FT_RSP] -= 8u + (bytes[i + 1] | (unsigned)bytes[i + 2] << 8);
			return;
		}
		if (bytes[i] == 0xff)
			return;
	}
}

/* Runs translated code from cpu->rip for at most limit - icount instructions, until there is something to look at.
 * false: the engine cannot go on. */
static bool run_translated(struct soft_cpu *cpu)
{
	struct soft_blocks *b = cpu->blocks;
	enter_function enter = (enter_function)(uintptr_t)(b->code + b->thunk[SOFT_THUNK_ENTER]);
	uint8_t mode = current_mode(cpu);
	bool always = cpu->always_slow || soft_watched(cpu), slow = always, error = false, jumped = false;
	uint32_t link = SOFT_NONE, replaced = SOFT_NONE;
	uint64_t left = cpu->limit - cpu->icount;
	while (left) {
		uint64_t flushes = b->flushes;
		uint8_t now = cpu->fpu_allowed ? mode & (uint8_t)~SOFT_MODE_NO_FPU : mode;
		cpu->fpu_allowed = false;
		const struct soft_block *block =
		    soft_block_find(cpu, cpu->rip, (uint8_t)(now | (slow ? SOFT_MODE_SLOW : 0)), &error);
		if (!block || cpu->m->leave)
			break;
		if (!slow && link != SOFT_NONE && b->flushes == flushes)
			soft_block_link(cpu, link, block);
		if (!slow && replaced != SOFT_NONE && b->flushes == flushes)
			soft_block_redirect(cpu, &b->block[replaced], block);
		if (!slow && jumped)
			soft_block_cache_jump(cpu, block);
		link = replaced = SOFT_NONE;
		jumped = false;
		if (block->count > left)
			block = soft_block_once(cpu, cpu->rip, mode, (uint32_t)left, &error);
		if (!block)
			break;
		bool single = (block->mode & (SOFT_MODE_SLOW | SOFT_MODE_ONCE)) != 0;
		slow = always;
		set_count(cpu, left);
		enter(cpu, b->code + block->entry);
		b->left[cpu->reason & 7]++;
		switch ((enum soft_leave)cpu->reason) {
		case SOFT_LEAVE_EXPIRED: {
			const struct soft_block *expired = &b->block[(uint32_t)cpu->argument];
			if (expired->dropped)
				replaced = (uint32_t)cpu->argument;
			else
				cpu->count -= expired->count;
			cpu->rip = expired->rip;
			break;
		}
		case SOFT_LEAVE_LINK:
			link = (uint32_t)cpu->argument;
			cpu->rip = b->link[link].target;
			break;
		case SOFT_LEAVE_JUMP:
			cpu->rip = cpu->argument;
			if (!soft_canonical(cpu->rip)) {
				refuse_target(cpu);
				if (cpu->fault.pending)
					return true;
			}
			jumped = !single;
			break;
		case SOFT_LEAVE_SLOW:
			left = cpu->limit - cpu->icount;
			slow = true;
			continue;
		case SOFT_LEAVE_ERROR:
			return false;
		case SOFT_LEAVE_NEXT:
		case SOFT_LEAVE_FAULT:
		case SOFT_LEAVE_HALT:
			return true;
		}
		left = rest(cpu);
		cpu->icount = cpu->limit - left;
		if (single)
			break; /* it may have called devices */
	}
	return !error;
}

static bool run_some(struct soft_cpu *cpu)
{
	if (cpu->code64)
		return run_translated(cpu);
	if (soft_interpret(cpu) != SOFT_FAULT)
		cpu->icount++;
	return true;
}

/* At least one instruction of a handler runs before the next interrupt: a line that stays up, an interrupt controller
 * that acknowledges by itself and a trap gate would be delivered for ever, and nothing would count it. */
static bool interrupt(struct soft_cpu *cpu, uint8_t vector)
{
	cpu->shadow_icount = cpu->icount;
	return soft_interrupt(cpu, vector);
}

/* Interrupts that are due at this boundary. false: triple fault. */
static bool deliver(struct soft_cpu *cpu)
{
	if (cpu->m->nmi && !cpu->nmi_masked && !shadowed(cpu)) {
		cpu->m->nmi = false;
		cpu->halted = false;
		return interrupt(cpu, SOFT_NMI);
	}
	if (deliverable(cpu) && !shadowed(cpu)) {
		int vector = soft_irq_acknowledge(cpu);
		cpu->halted = false;
		return vector < 0 || interrupt(cpu, (uint8_t)vector);
	}
	return true;
}

static bool anything_due(const struct soft_cpu *cpu)
{
	return (deliverable(cpu) || (cpu->m->nmi && !cpu->nmi_masked)) && !shadowed(cpu);
}

/* A fault counts as an instruction, in the place of the one that it kept from running: a handler that faults itself, again
 * and again, must neither escape the count nor `stop`. A trap follows an instruction that was counted. false: triple
 * fault. */
static bool deliver_fault(struct soft_cpu *cpu, uint64_t until)
{
	bool trap = cpu->fault.vector == SOFT_DB;
	if (!trap && cpu->icount >= until)
		return true;
	if (!soft_deliver(cpu))
		return false;
	cpu->icount += !trap;
	return true;
}

enum ft_exit soft_run(struct soft_cpu *cpu, uint64_t until)
{
	struct ft_machine *m = cpu->m;
	for (;;) {
		if (m->leave)
			return FT_EXIT_STOPPED;
		if (cpu->fault.pending && !deliver_fault(cpu, until))
			return FT_EXIT_SHUTDOWN;
		if (cpu->stop) {
			cpu->stop = 0;
			return FT_EXIT_STOPPED;
		}
		if (cpu->icount >= until || cpu->icount >= m->deadline)
			return FT_EXIT_COUNT;
		if (anything_due(cpu)) {
			if (!deliver(cpu))
				return FT_EXIT_SHUTDOWN;
			continue;
		}
		if (cpu->halted)
			return FT_EXIT_HALT;
		bool step = (cpu->flags & SOFT_FLAG_TF) != 0, resumed = (cpu->flags & FLAG_RF) != 0;
		cpu->hits = 0;
		if (!resumed)
			soft_watch(cpu, cpu->rip, 1, SOFT_BREAK_EXECUTE);
		if (cpu->hits) {
			soft_raise(cpu, SOFT_DB, false, 0, cpu->hits);
			continue;
		}
		cpu->limit = earliest(earliest(until, m->deadline), cpu->icount + SLICE);
		if (step || deliverable(cpu) || m->nmi || soft_has_breakpoints(cpu))
			cpu->limit = cpu->icount + 1;
		uint64_t before = cpu->icount;
		cpu->entered = false;
		if (!run_some(cpu))
			return FT_EXIT_ERROR;
		if (cpu->entered)
			step = (cpu->flags & SOFT_FLAG_TF) != 0;
		if (cpu->icount == before || cpu->fault.pending)
			continue;
		if (resumed)
			cpu->flags &= ~(uint64_t)FLAG_RF;
		step &= cpu->quiet_icount != cpu->icount;
		if (step || cpu->hits)
			soft_raise(cpu, SOFT_DB, false, 0, (step ? DR6_BS : 0) | cpu->hits);
	}
}
