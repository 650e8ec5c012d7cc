/* Interrupts and exceptions through a 64-bit IDT: SDM Vol. 3A 6.12-6.15. Nothing of the CPU changes unless the whole
 * delivery succeeds. */
#include "vmm/engine/soft/system.h"

#define GATE_INTERRUPT 0xeu
#define GATE_TRAP      0xfu

struct event {
	uint64_t rip; /* to return to */
	uint32_t error;
	uint8_t vector;
	bool has_error;
	bool fault;     /* the saved flags have RF set */
	bool check_dpl; /* INT n and INT3 */
	bool external;  /* EXT bit of errors on the way */
};

enum soft_result soft_raise(struct soft_cpu *cpu, uint8_t vector, bool has_error, uint32_t error,
			    uint64_t address)
{
	cpu->fault.pending = true;
	cpu->fault.vector = vector;
	cpu->fault.has_error = has_error;
	cpu->fault.error = error;
	cpu->fault.address = address;
	return SOFT_FAULT;
}

static bool refuse(struct soft_cpu *cpu, uint8_t vector, uint32_t error)
{
	soft_raise(cpu, vector, true, error, 0);
	return false;
}

bool soft_stack_from_tss(struct soft_cpu *cpu, unsigned offset, uint32_t ext, uint64_t *rsp)
{
	if (!(cpu->tr.attributes & SEG_PRESENT) || offset + 7 > cpu->tr.limit)
		return refuse(cpu, SOFT_TS, (cpu->tr.selector & 0xfffcu) | ext);
	if (!soft_load(cpu, cpu->tr.base + offset, rsp, 8, false))
		return false;
	return soft_canonical(*rsp) || refuse(cpu, SOFT_SS, ext);
}

/* The gate's code segment; false: fault raised. */
static bool handler_segment(struct soft_cpu *cpu, uint16_t selector, uint32_t ext, struct ft_segment *cs)
{
	uint64_t raw;
	if (!(selector & 0xfffc))
		return refuse(cpu, SOFT_GP, ext);
	switch (soft_descriptor(cpu, selector, &raw)) {
	case SOFT_DESCRIPTOR_FAULT:
		return false;
	case SOFT_DESCRIPTOR_OUTSIDE:
		return refuse(cpu, SOFT_GP, (selector & 0xfffcu) | ext);
	case SOFT_DESCRIPTOR_OK:
		break;
	}
	*cs = soft_segment_make(selector, raw);
	unsigned attributes = cs->attributes;
	if (!(attributes & SEG_NOT_SYSTEM) || !(attributes & SEG_CODE) || SEG_DPL(attributes) > cpu->cpl ||
	    (attributes & (SEG_LONG | SEG_BIG)) != SEG_LONG)
		return refuse(cpu, SOFT_GP, (selector & 0xfffcu) | ext);
	if (!(attributes & SEG_PRESENT))
		return refuse(cpu, SOFT_NP, (selector & 0xfffcu) | ext);
	return soft_descriptor_accessed(cpu, selector, &raw);
}

bool soft_push_frame(struct soft_cpu *cpu, uint64_t rsp, const uint64_t *frame, uint32_t size, bool user)
{
	if (soft_store(cpu, rsp, frame, size, user))
		return true;
	/* A processor pushes one by one: the address of the first that fails is told. */
	for (uint32_t left = size; left && soft_store(cpu, rsp + left - 8, frame + left / 8 - 1, 8, user);)
		left -= 8;
	return false;
}

static bool enter(struct soft_cpu *cpu, const struct event *event)
{
	uint32_t ext = event->external, idt_error = event->vector * 8u + 2 + ext;
	uint64_t gate[2];
	if (event->vector * 16u + 15 > cpu->idt.limit)
		return refuse(cpu, SOFT_GP, idt_error);
	if (!soft_load(cpu, cpu->idt.base + event->vector * 16u, gate, 16, false))
		return false;
	unsigned type = (unsigned)(gate[0] >> 40) & 0x1f;
	if (type != GATE_INTERRUPT && type != GATE_TRAP)
		return refuse(cpu, SOFT_GP, idt_error);
	if (event->check_dpl && ((gate[0] >> 45) & 3) < cpu->cpl)
		return refuse(cpu, SOFT_GP, idt_error);
	if (!(gate[0] >> 47 & 1))
		return refuse(cpu, SOFT_NP, idt_error);

	struct ft_segment cs;
	if (!handler_segment(cpu, (uint16_t)(gate[0] >> 16), ext, &cs))
		return false;
	uint8_t cpl = cs.attributes & SEG_CONFORMING ? cpu->cpl : (uint8_t)SEG_DPL(cs.attributes);
	unsigned ist = (unsigned)(gate[0] >> 32) & 7;
	uint64_t rsp = cpu->gpr[FT_RSP];
	if (ist) {
		if (!soft_stack_from_tss(cpu, 36 + (ist - 1) * 8, ext, &rsp))
			return false;
	} else if (cpl < cpu->cpl) {
		if (!soft_stack_from_tss(cpu, 4 + cpl * 8u, ext, &rsp))
			return false;
	}
	uint64_t rip = (gate[0] & 0xffff) | (gate[0] >> 32 & 0xffff0000u) | gate[1] << 32;
	if (!soft_canonical(rip))
		return refuse(cpu, SOFT_GP, ext);

	uint64_t frame[6] = {event->error,
			     event->rip,
			     cpu->segment[FT_CS].selector,
			     (cpu->flags & ~(uint64_t)FLAG_RF) | FLAG_ONE | (event->fault ? FLAG_RF : 0),
			     cpu->gpr[FT_RSP],
			     cpu->segment[FT_SS].selector};
	uint64_t *first = event->has_error ? frame : frame + 1;
	uint32_t size = event->has_error ? 48 : 40;
	rsp = (rsp & ~15ull) - size;
	if (!soft_canonical(rsp) || !soft_canonical(rsp + size - 1))
		return refuse(cpu, SOFT_SS, ext);
	if (!soft_push_frame(cpu, rsp, first, size, cpl == 3))
		return false;

	if (cpl != cpu->cpl) {
		cpu->segment[FT_SS] = soft_flat_data(cpl, cpl);
		/* A null selector; SDM 6.14.2. */
		cpu->segment[FT_SS].selector = cpl;
	}
	soft_set_cs(cpu, &cs, cpl);
	cpu->gpr[FT_RSP] = rsp;
	cpu->rip = rip;
	cpu->flags &= ~(uint64_t)(SOFT_FLAG_TF | FLAG_VM | FLAG_RF | FLAG_NT);
	if (type == GATE_INTERRUPT)
		cpu->flags &= ~(uint64_t)SOFT_FLAG_IF;
	return true;
}

/* SDM table 6-4. */
static bool contributory(uint8_t vector)
{
	return vector == SOFT_DE || (vector >= SOFT_TS && vector <= SOFT_GP);
}

static bool doubles(uint8_t first, uint8_t second)
{
	if (first == SOFT_PF)
		return second == SOFT_PF || contributory(second);
	return contributory(first) && contributory(second);
}

static bool is_fault(uint8_t vector)
{
	/* #DB saves no RF, whether it is a trap or an instruction breakpoint's. */
	return vector != SOFT_DB && vector != SOFT_NMI && vector != SOFT_BP && vector != SOFT_OF &&
	       vector != SOFT_DF;
}

static void note(struct soft_cpu *cpu)
{
	if (cpu->fault.vector == SOFT_PF)
		cpu->cr2 = cpu->fault.address;
	else if (cpu->fault.vector == SOFT_DB)
		cpu->dr[6] |= cpu->fault.address;
}

/* Delivers `event`, and what goes wrong on the way, until something is delivered. */
static bool deliver(struct soft_cpu *cpu, struct event event)
{
	uint64_t rip = event.rip;
	if (!(cpu->efer & EFER_LMA))
		return false; /* no IDT of another kind is supported: nothing but a reset is left */
	while (!enter(cpu, &event)) {
		uint8_t first = event.vector, second = cpu->fault.vector;
		cpu->fault.pending = false;
		note(cpu);
		if (first == SOFT_DF && (second == SOFT_PF || contributory(second)))
			return false;
		event = (struct event){.rip = rip,
				       .vector = second,
				       .error = cpu->fault.error,
				       .has_error = cpu->fault.has_error,
				       .fault = is_fault(second),
				       .external = true};
		if (first < 32 && doubles(first, second))
			event = (struct event){
			    .rip = rip, .vector = SOFT_DF, .has_error = true, .external = true};
	}
	cpu->fault.pending = false;
	return true;
}

bool soft_deliver(struct soft_cpu *cpu)
{
	struct event event = {.rip = cpu->rip,
			      .vector = cpu->fault.vector,
			      .error = cpu->fault.error,
			      .has_error = cpu->fault.has_error,
			      .fault = is_fault(cpu->fault.vector),
			      .external = true};
	cpu->fault.pending = false;
	note(cpu);
	if (soft_user(cpu) && (cpu->m->hooks.mask & FT_HOOK_FAULT))
		soft_hook_fault(cpu, event.vector, event.error, cpu->fault.address);
	return deliver(cpu, event);
}

bool soft_interrupt(struct soft_cpu *cpu, uint8_t vector)
{
	cpu->halted = false;
	if (vector == SOFT_NMI)
		cpu->nmi_masked = true;
	/* Vectors below 32 that a device sends are external interrupts all the same: they never double (first >= 32
	 * stands for that), so deliver by hand what fails the first time. */
	struct event event = {.rip = cpu->rip, .vector = vector, .external = true};
	if (!(cpu->efer & EFER_LMA))
		return false;
	if (enter(cpu, &event))
		return true;
	return soft_deliver(cpu);
}

enum soft_result soft_software_interrupt(struct soft_cpu *cpu, uint8_t vector, uint64_t next_rip,
					 bool privileged)
{
	struct event event = {
	    .rip = next_rip, .vector = vector, .check_dpl = !privileged, .external = privileged};
	if (!(cpu->efer & EFER_LMA))
		return soft_ud(cpu);
	if (vector < 32 && soft_user(cpu) && (cpu->m->hooks.mask & FT_HOOK_FAULT))
		soft_hook_fault(cpu, vector, 0, 0);
	if (!enter(cpu, &event))
		return SOFT_FAULT;
	cpu->entered = true;
	return SOFT_JUMP;
}
