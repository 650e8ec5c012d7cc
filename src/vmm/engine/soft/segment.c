/* Descriptor tables and what loads from them: SDM Vol. 3A chapters 3 and 5, Vol. 2 for each instruction. */
#include "vmm/engine/soft/system.h"

#define TYPE_LDT      2u
#define TYPE_TSS      9u
#define TYPE_TSS_BUSY 11u
#define TYPE_GATE     12u

enum soft_descriptor_result soft_descriptor(struct soft_cpu *cpu, uint16_t selector, uint64_t *raw)
{
	uint64_t base = cpu->gdt.base;
	uint32_t limit = cpu->gdt.limit, offset = selector & 0xfff8u;
	if (selector & 4) {
		if (!(cpu->ldt.attributes & SEG_PRESENT))
			return SOFT_DESCRIPTOR_OUTSIDE;
		base = cpu->ldt.base;
		limit = cpu->ldt.limit;
	}
	if (offset + 7 > limit)
		return SOFT_DESCRIPTOR_OUTSIDE;
	return soft_load(cpu, base + offset, raw, 8, false) ? SOFT_DESCRIPTOR_OK : SOFT_DESCRIPTOR_FAULT;
}

/* Second half of a 16-byte system descriptor; its type bits must be zero (SDM 3.5). */
static enum soft_descriptor_result descriptor_high(struct soft_cpu *cpu, uint16_t selector, uint64_t *raw)
{
	if (selector >= 0xfff8)
		return SOFT_DESCRIPTOR_OUTSIDE;
	enum soft_descriptor_result result = soft_descriptor(cpu, (uint16_t)(selector + 8), raw);
	return result == SOFT_DESCRIPTOR_OK && *raw >> 40 & 0x1f ? SOFT_DESCRIPTOR_OUTSIDE : result;
}

struct ft_segment soft_segment_make(uint16_t selector, uint64_t raw)
{
	uint32_t limit = (uint32_t)(raw & 0xffff) | (uint32_t)(raw >> 32 & 0xf0000);
	uint16_t attributes = (uint16_t)(raw >> 40 & 0xf0ff);
	if (attributes & SEG_GRANULAR)
		limit = limit << 12 | 0xfff;
	return (struct ft_segment){.base = (raw >> 16 & 0xffffff) | (raw >> 56) << 24,
				   .limit = limit,
				   .selector = selector,
				   .attributes = attributes};
}

static bool set_type_bit(struct soft_cpu *cpu, uint16_t selector, uint64_t *raw, uint64_t bit)
{
	if (*raw & bit)
		return true;
	uint64_t base = selector & 4 ? cpu->ldt.base : cpu->gdt.base;
	uint8_t type = (uint8_t)((*raw | bit) >> 40);
	if (!soft_store(cpu, base + (selector & 0xfff8u) + 5, &type, 1, false))
		return false;
	*raw |= bit;
	return true;
}

bool soft_descriptor_accessed(struct soft_cpu *cpu, uint16_t selector, uint64_t *raw)
{
	return set_type_bit(cpu, selector, raw, 1ull << 40);
}

void soft_set_cs(struct soft_cpu *cpu, const struct ft_segment *cs, uint8_t cpl)
{
	cpu->segment[FT_CS] = *cs;
	cpu->segment[FT_CS].selector = (uint16_t)((cs->selector & 0xfffc) | cpl);
	cpu->cpl = cpl;
	cpu->code64 = (cpu->efer & EFER_LMA) && (cs->attributes & SEG_LONG);
}

struct ft_segment soft_flat_code(uint16_t selector, unsigned dpl)
{
	return (struct ft_segment){.limit = UINT32_MAX,
				   .selector = selector,
				   .attributes =
				       (uint16_t)(SEG_GRANULAR | SEG_LONG | SEG_PRESENT | dpl << 5 |
						  SEG_NOT_SYSTEM | SEG_CODE | SEG_READABLE | SEG_ACCESSED)};
}

struct ft_segment soft_flat_data(uint16_t selector, unsigned dpl)
{
	return (struct ft_segment){.limit = UINT32_MAX,
				   .selector = selector,
				   .attributes = (uint16_t)(SEG_GRANULAR | SEG_BIG | SEG_PRESENT | dpl << 5 |
							    SEG_NOT_SYSTEM | SEG_WRITABLE | SEG_ACCESSED)};
}

static struct ft_segment null_segment(uint16_t selector)
{
	return (struct ft_segment){.selector = selector};
}

/* Reads a descriptor or raises `vector`(selector). */
static bool fetch(struct soft_cpu *cpu, uint16_t selector, uint8_t vector, uint64_t *raw)
{
	switch (soft_descriptor(cpu, selector, raw)) {
	case SOFT_DESCRIPTOR_OK:
		return true;
	case SOFT_DESCRIPTOR_OUTSIDE:
		soft_raise(cpu, vector, true, selector & 0xfffcu, 0);
		break;
	case SOFT_DESCRIPTOR_FAULT:
		break;
	}
	return false;
}

static bool refuse(struct soft_cpu *cpu, uint8_t vector, uint16_t selector)
{
	soft_raise(cpu, vector, true, selector & 0xfffcu, 0);
	return false;
}

/* A stack segment for code at `cpl`; null is for 64-bit code below ring 3 only. */
static bool stack_segment(struct soft_cpu *cpu, uint16_t selector, unsigned cpl, bool code64,
			  struct ft_segment *ss)
{
	if (!(selector & 0xfffc)) {
		if (!code64 || cpl == 3 || (selector & 3) != cpl)
			return refuse(cpu, SOFT_GP, 0);
		*ss = soft_flat_data(selector, cpl);
		return true;
	}
	uint64_t raw;
	if (!fetch(cpu, selector, SOFT_GP, &raw))
		return false;
	*ss = soft_segment_make(selector, raw);
	unsigned attributes = ss->attributes;
	if ((selector & 3) != cpl || SEG_DPL(attributes) != cpl || !(attributes & SEG_NOT_SYSTEM) ||
	    (attributes & (SEG_CODE | SEG_WRITABLE)) != SEG_WRITABLE)
		return refuse(cpu, SOFT_GP, selector);
	if (!(attributes & SEG_PRESENT))
		return refuse(cpu, SOFT_SS, selector);
	if (!soft_descriptor_accessed(cpu, selector, &raw))
		return false;
	*ss = soft_segment_make(selector, raw);
	return true;
}

enum soft_result soft_load_segment(struct soft_cpu *cpu, unsigned segment, uint16_t selector)
{
	struct ft_segment loaded;
	if (segment == FT_SS) {
		if (!stack_segment(cpu, selector, cpu->cpl, cpu->code64, &loaded))
			return SOFT_FAULT;
		cpu->segment[FT_SS] = loaded;
		return SOFT_NEXT;
	}
	if (!(selector & 0xfffc)) {
		cpu->segment[segment] = null_segment(selector);
		return SOFT_NEXT;
	}
	uint64_t raw;
	if (!fetch(cpu, selector, SOFT_GP, &raw))
		return SOFT_FAULT;
	loaded = soft_segment_make(selector, raw);
	unsigned attributes = loaded.attributes, dpl = SEG_DPL(attributes);
	bool code = attributes & SEG_CODE;
	bool conforming = code && (attributes & SEG_CONFORMING);
	if (!(attributes & SEG_NOT_SYSTEM) || (code && !(attributes & SEG_READABLE)) ||
	    (!conforming && ((selector & 3u) > dpl || cpu->cpl > dpl)))
		return soft_gp(cpu, selector & 0xfffcu);
	if (!(attributes & SEG_PRESENT))
		return soft_raise(cpu, SOFT_NP, true, selector & 0xfffcu, 0);
	if (!soft_descriptor_accessed(cpu, selector, &raw))
		return SOFT_FAULT;
	cpu->segment[segment] = soft_segment_make(selector, raw);
	return SOFT_NEXT;
}

/* ---- Far transfers ---- */

/* Checks a code segment as a far return's target (RPL is the new privilege). */
static bool return_segment(struct soft_cpu *cpu, uint16_t selector, uint64_t rip, struct ft_segment *cs)
{
	uint64_t raw;
	unsigned rpl = selector & 3;
	if (!(selector & 0xfffc))
		return refuse(cpu, SOFT_GP, 0);
	if (!fetch(cpu, selector, SOFT_GP, &raw))
		return false;
	*cs = soft_segment_make(selector, raw);
	unsigned attributes = cs->attributes, dpl = SEG_DPL(attributes);
	bool conforming = attributes & SEG_CONFORMING;
	if (!(attributes & SEG_NOT_SYSTEM) || !(attributes & SEG_CODE) || rpl < cpu->cpl ||
	    (conforming ? dpl > rpl : dpl != rpl))
		return refuse(cpu, SOFT_GP, selector);
	bool lma = cpu->efer & EFER_LMA, code64 = lma && (attributes & SEG_LONG);
	/* 32-bit processes do not run here: their first return to user mode fails, which Linux answers with SIGSEGV. */
	if ((code64 && (attributes & SEG_BIG)) || (lma && !code64 && rpl == 3))
		return refuse(cpu, SOFT_GP, selector);
	if (!(attributes & SEG_PRESENT))
		return refuse(cpu, SOFT_NP, selector);
	if (code64 ? !soft_canonical(rip) : rip > cs->limit)
		return refuse(cpu, SOFT_GP, 0);
	return soft_descriptor_accessed(cpu, selector, &raw);
}

/* Data segments that the new privilege may not use become null (SDM 5.8.6). */
static void drop_segments(struct soft_cpu *cpu, unsigned cpl)
{
	static const uint8_t data[] = {FT_ES, FT_DS, FT_FS, FT_GS};
	for (unsigned i = 0; i < sizeof(data); i++) {
		struct ft_segment *segment = &cpu->segment[data[i]];
		unsigned attributes = segment->attributes;
		bool conforming = (attributes & (SEG_CODE | SEG_CONFORMING)) == (SEG_CODE | SEG_CONFORMING);
		if ((attributes & SEG_PRESENT) && !conforming && SEG_DPL(attributes) < cpl)
			*segment = null_segment(0);
	}
}

enum soft_result soft_far_jump(struct soft_cpu *cpu, uint16_t selector, uint64_t rip)
{
	uint64_t raw;
	if (!(selector & 0xfffc))
		return soft_gp(cpu, 0);
	if (!fetch(cpu, selector, SOFT_GP, &raw))
		return SOFT_FAULT;
	struct ft_segment cs = soft_segment_make(selector, raw);
	unsigned attributes = cs.attributes, dpl = SEG_DPL(attributes);
	/* Call gates: through_gate. There are no task switches in long mode. */
	if (!(attributes & SEG_NOT_SYSTEM) || !(attributes & SEG_CODE))
		return soft_gp(cpu, selector & 0xfffcu);
	if (attributes & SEG_CONFORMING ? dpl > cpu->cpl : ((selector & 3u) > cpu->cpl || dpl != cpu->cpl))
		return soft_gp(cpu, selector & 0xfffcu);
	bool lma = cpu->efer & EFER_LMA, code64 = lma && (attributes & SEG_LONG);
	if ((code64 && (attributes & SEG_BIG)) || (lma && !code64 && cpu->cpl == 3))
		return soft_gp(cpu, selector & 0xfffcu);
	if (!(attributes & SEG_PRESENT))
		return soft_raise(cpu, SOFT_NP, true, selector & 0xfffcu, 0);
	if (code64 ? !soft_canonical(rip) : rip > cs.limit)
		return soft_gp(cpu, 0);
	if (!soft_descriptor_accessed(cpu, selector, &raw))
		return SOFT_FAULT;
	cs = soft_segment_make(selector, raw);
	soft_set_cs(cpu, &cs, cpu->cpl);
	cpu->rip = rip;
	return SOFT_JUMP;
}

enum soft_result soft_far_return(struct soft_cpu *cpu, uint16_t selector, uint64_t rip, uint64_t rsp,
				 uint16_t release, unsigned size)
{
	struct ft_segment cs, ss;
	if (!return_segment(cpu, selector, rip, &cs))
		return SOFT_FAULT;
	uint8_t cpl = selector & 3;
	rsp += release;
	if (cpl > cpu->cpl) {
		uint64_t outer[2] = {0, 0};
		if (!soft_stack_load(cpu, rsp, &outer[0], size) ||
		    !soft_stack_load(cpu, rsp + size, &outer[1], size))
			return SOFT_FAULT;
		if (!stack_segment(cpu, (uint16_t)outer[1], cpl, cs.attributes & SEG_LONG, &ss))
			return SOFT_FAULT;
		cpu->segment[FT_SS] = ss;
		rsp = outer[0] + release;
		drop_segments(cpu, cpl);
	}
	soft_set_cs(cpu, &cs, cpl);
	cpu->gpr[FT_RSP] = rsp;
	cpu->rip = rip;
	return SOFT_JUMP;
}

/* IRET in 64-bit mode pops all five whatever the privilege. */
static enum soft_result iret(struct soft_cpu *cpu, unsigned size)
{
	struct ft_segment cs, ss;
	uint64_t frame[5] = {0, 0, 0, 0, 0};
	if (cpu->flags & FLAG_NT)
		return soft_gp(cpu, 0);
	for (unsigned i = 0; i < 5; i++)
		if (!soft_stack_load(cpu, cpu->gpr[FT_RSP] + i * size, &frame[i], size))
			return SOFT_FAULT;
	uint16_t selector = (uint16_t)frame[1];
	uint8_t cpl = selector & 3, old = cpu->cpl;
	if (!return_segment(cpu, selector, frame[0], &cs) ||
	    !stack_segment(cpu, (uint16_t)frame[4], cpl, cs.attributes & SEG_LONG, &ss))
		return SOFT_FAULT;

	uint64_t may = SOFT_FLAGS_ARITH | SOFT_FLAG_TF | SOFT_FLAG_DF | FLAG_NT;
	if (size > 2)
		may |= FLAG_AC | FLAG_ID;
	if (old <= soft_iopl(cpu))
		may |= SOFT_FLAG_IF;
	if (old == 0)
		may |= FLAG_IOPL;
	/* RF is of use to instruction breakpoints alone; run.c clears it behind the next instruction. */
	if (soft_has_breakpoints(cpu) && size > 2)
		may |= FLAG_RF;
	cpu->flags = (cpu->flags & ~(may | FLAG_RF)) | (frame[2] & may) | FLAG_ONE;
	cpu->segment[FT_SS] = ss;
	cpu->gpr[FT_RSP] = frame[3];
	if (cpl > old)
		drop_segments(cpu, cpl);
	soft_set_cs(cpu, &cs, cpl);
	cpu->rip = frame[0];
	cpu->nmi_masked = false;
	if (cpl == 3 && old != 3 && (cpu->m->hooks.mask & FT_HOOK_SYSRET))
		soft_hook_sysret(cpu);
	return SOFT_JUMP;
}

/* ---- Call gates of long mode: SDM Vol. 2A CALL and JMP, Vol. 3A 5.8.3 ---- */

struct passage {
	struct ft_segment cs;
	uint64_t rip;
	uint8_t cpl;
};

/* The gate itself. */
static bool gate_allows(struct soft_cpu *cpu, uint16_t selector, uint64_t raw, uint16_t *code, uint64_t *rip)
{
	unsigned attributes = (unsigned)(raw >> 40), dpl = SEG_DPL(attributes);
	uint64_t high;
	if (dpl < cpu->cpl || dpl < (selector & 3u))
		return refuse(cpu, SOFT_GP, selector);
	if (!(attributes & SEG_PRESENT))
		return refuse(cpu, SOFT_NP, selector);
	switch (descriptor_high(cpu, selector, &high)) {
	case SOFT_DESCRIPTOR_OK:
		break;
	case SOFT_DESCRIPTOR_OUTSIDE:
		return refuse(cpu, SOFT_GP, selector);
	case SOFT_DESCRIPTOR_FAULT:
		return false;
	}
	*code = (uint16_t)(raw >> 16);
	*rip = (raw & 0xffff) | (raw >> 32 & 0xffff0000u) | high << 32;
	return true;
}

/* Where it leads: 64-bit code, more privileged only by CALL. */
static bool gate_leads(struct soft_cpu *cpu, uint16_t selector, bool call, struct passage *to)
{
	uint64_t raw;
	if (!(selector & 0xfffc))
		return refuse(cpu, SOFT_GP, 0);
	if (!fetch(cpu, selector, SOFT_GP, &raw))
		return false;
	to->cs = soft_segment_make(selector, raw);
	unsigned attributes = to->cs.attributes, dpl = SEG_DPL(attributes);
	bool conforming = attributes & SEG_CONFORMING;
	if (!(attributes & SEG_NOT_SYSTEM) || !(attributes & SEG_CODE) || dpl > cpu->cpl || (!call && !conforming && dpl != cpu->cpl) ||
	    (attributes & (SEG_LONG | SEG_BIG)) != SEG_LONG)
		return refuse(cpu, SOFT_GP, selector);
	if (!(attributes & SEG_PRESENT))
		return refuse(cpu, SOFT_NP, selector);
	if (!soft_canonical(to->rip))
		return refuse(cpu, SOFT_GP, 0);
	to->cpl = conforming ? cpu->cpl : (uint8_t)dpl;
	return soft_descriptor_accessed(cpu, selector, &raw);
}

/* SOFT_NEXT: it is no gate. next: where CALL returns to. */
static enum soft_result through_gate(struct soft_cpu *cpu, uint16_t selector, bool call, uint64_t next)
{
	struct passage to;
	uint64_t raw, rsp = cpu->gpr[FT_RSP];
	uint16_t code;
	if (!(cpu->efer & EFER_LMA) || !(selector & 0xfffc))
		return SOFT_NEXT;
	if (!fetch(cpu, selector, SOFT_GP, &raw))
		return SOFT_FAULT;
	if ((raw >> 40 & 0x1f) != TYPE_GATE)
		return SOFT_NEXT;
	if (!gate_allows(cpu, selector, raw, &code, &to.rip) || !gate_leads(cpu, code, call, &to))
		return SOFT_FAULT;
	bool inward = to.cpl < cpu->cpl;
	if (call) {
		const uint64_t frame[4] = {next, cpu->segment[FT_CS].selector, rsp, cpu->segment[FT_SS].selector};
		uint32_t size = inward ? 32 : 16;
		if (inward && !soft_stack_from_tss(cpu, 4 + to.cpl * 8u, 0, &rsp))
			return SOFT_FAULT;
		rsp -= size;
		if (!soft_canonical(rsp) || !soft_canonical(rsp + size - 1))
			return soft_raise(cpu, SOFT_SS, true, 0, 0);
		if (!soft_push_frame(cpu, rsp, frame, size, to.cpl == 3))
			return SOFT_FAULT;
	}
	if (inward) {
		cpu->segment[FT_SS] = soft_flat_data(to.cpl, to.cpl);
		cpu->segment[FT_SS].selector = to.cpl; /* a null one */
	}
	soft_set_cs(cpu, &to.cs, to.cpl);
	cpu->gpr[FT_RSP] = rsp;
	cpu->rip = to.rip;
	return SOFT_JUMP;
}

static enum soft_result far_indirect(struct soft_cpu *cpu, const struct soft_insn *insn)
{
	unsigned size = insn->operand_size;
	uint64_t offset = 0, va = soft_address(cpu, insn);
	uint16_t selector;
	if (!insn->memory)
		return soft_ud(cpu);
	if (!soft_operand_load(cpu, insn, va, &offset, size) ||
	    !soft_operand_load(cpu, insn, va + size, &selector, 2))
		return SOFT_FAULT;
	enum soft_result gate = through_gate(cpu, selector, insn->op == SOFT_OP_FAR_CALL, cpu->rip + insn->length);
	if (gate != SOFT_NEXT)
		return gate;
	if (insn->op == SOFT_OP_FAR_JMP)
		return soft_far_jump(cpu, selector, offset);

	/* The return address is written before anything changes, which needs the jump's checks first. */
	struct ft_segment old = cpu->segment[FT_CS];
	uint8_t cpl = cpu->cpl;
	uint64_t rip = cpu->rip, rsp = cpu->gpr[FT_RSP];
	enum soft_result result = soft_far_jump(cpu, selector, offset);
	if (result != SOFT_JUMP)
		return result;
	uint64_t back = rip + insn->length, code = old.selector;
	uint8_t frame[16];
	soft_copy(frame, &back, size);
	soft_copy(frame + size, &code, size);
	if (!soft_stack_store(cpu, rsp - 2 * size, frame, 2 * size)) {
		soft_set_cs(cpu, &old, cpl);
		cpu->rip = rip;
		return SOFT_FAULT;
	}
	cpu->gpr[FT_RSP] = rsp - 2 * size;
	return SOFT_JUMP;
}

static enum soft_result far_return(struct soft_cpu *cpu, const struct soft_insn *insn)
{
	uint64_t rip = 0, selector = 0, rsp = cpu->gpr[FT_RSP];
	unsigned size = insn->operand_size;
	if (!soft_stack_load(cpu, rsp, &rip, size) || !soft_stack_load(cpu, rsp + size, &selector, size))
		return SOFT_FAULT;
	uint16_t release = soft_opcode(insn) == 0xca ? (uint16_t)insn->immediate : 0;
	return soft_far_return(cpu, (uint16_t)selector, rip, rsp + 2 * size, release, size);
}

enum soft_result soft_far_execute(struct soft_cpu *cpu, const struct soft_insn *insn)
{
	switch (insn->op) {
	case SOFT_OP_IRET:
		return iret(cpu, insn->operand_size);
	case SOFT_OP_FAR_RET:
		return far_return(cpu, insn);
	default:
		return far_indirect(cpu, insn);
	}
}

/* ---- LAR, LSL, VERR, VERW ---- */

/* The descriptor if this privilege may see it, else false with no fault; *faulted on a page fault. */
static bool visible(struct soft_cpu *cpu, uint16_t selector, uint64_t *raw, bool *faulted)
{
	*faulted = false;
	if (!(selector & 0xfffc))
		return false;
	enum soft_descriptor_result result = soft_descriptor(cpu, selector, raw);
	*faulted = result == SOFT_DESCRIPTOR_FAULT;
	if (result != SOFT_DESCRIPTOR_OK)
		return false;
	unsigned attributes = (unsigned)(*raw >> 40), dpl = SEG_DPL(attributes);
	unsigned conforming = SEG_NOT_SYSTEM | SEG_CODE | SEG_CONFORMING;
	return (attributes & conforming) == conforming || (cpu->cpl <= dpl && (selector & 3u) <= dpl);
}

static enum soft_result inspect(struct soft_cpu *cpu, const struct soft_insn *insn)
{
	uint16_t selector;
	uint64_t raw = 0;
	bool faulted;
	if (!soft_operand_word(cpu, insn, &selector))
		return SOFT_FAULT;
	bool good = visible(cpu, selector, &raw, &faulted);
	if (faulted)
		return SOFT_FAULT;
	struct ft_segment segment = soft_segment_make(selector, raw);
	unsigned attributes = segment.attributes, type = attributes & 0xf;
	bool system = !(attributes & SEG_NOT_SYSTEM), code = attributes & SEG_CODE;
	uint64_t value = 0;
	switch (insn->op) {
	case SOFT_OP_LAR:
		/* Types that exist in 64-bit mode: LDT, TSS, call gate. */
		good = good && (!system || type == TYPE_LDT || type == TYPE_TSS || type == TYPE_TSS_BUSY ||
				type == TYPE_GATE);
		value = raw >> 32 & 0x00ffff00u;
		if (insn->operand_size == 2)
			value &= 0xff00;
		break;
	case SOFT_OP_LSL:
		good = good && (!system || type == TYPE_LDT || type == TYPE_TSS || type == TYPE_TSS_BUSY);
		value = segment.limit;
		break;
	case SOFT_OP_VERR:
		good = good && !system && (!code || (attributes & SEG_READABLE));
		break;
	default:
		good = good && !system && !code && (attributes & SEG_WRITABLE);
	}
	cpu->flags = (cpu->flags & ~(uint64_t)FLAG_ZF) | (good ? FLAG_ZF : 0);
	if (good && (insn->op == SOFT_OP_LAR || insn->op == SOFT_OP_LSL))
		soft_set_gpr(cpu, insn->modrm_reg, insn->operand_size, value);
	return SOFT_NEXT;
}

/* ---- LLDT, LTR, SLDT, STR ---- */

static enum soft_result load_system(struct soft_cpu *cpu, const struct soft_insn *insn)
{
	uint16_t selector;
	uint64_t raw, high;
	bool ldt = insn->op == SOFT_OP_LLDT;
	if (cpu->cpl)
		return soft_gp(cpu, 0);
	if (!soft_operand_word(cpu, insn, &selector))
		return SOFT_FAULT;
	if (!(selector & 0xfffc)) {
		if (!ldt)
			return soft_gp(cpu, 0);
		cpu->ldt = null_segment(selector);
		return SOFT_NEXT;
	}
	if (selector & 4)
		return soft_gp(cpu, selector & 0xfffcu);
	if (!fetch(cpu, selector, SOFT_GP, &raw))
		return SOFT_FAULT;
	struct ft_segment segment = soft_segment_make(selector, raw);
	if ((segment.attributes & 0x1f) != (ldt ? TYPE_LDT : TYPE_TSS))
		return soft_gp(cpu, selector & 0xfffcu);
	if (!(segment.attributes & SEG_PRESENT))
		return soft_raise(cpu, SOFT_NP, true, selector & 0xfffcu, 0);
	switch (descriptor_high(cpu, selector, &high)) {
	case SOFT_DESCRIPTOR_OK:
		break;
	case SOFT_DESCRIPTOR_OUTSIDE:
		return soft_gp(cpu, selector & 0xfffcu);
	case SOFT_DESCRIPTOR_FAULT:
		return SOFT_FAULT;
	}
	segment.base |= high << 32;
	if (!soft_canonical(segment.base))
		return soft_gp(cpu, selector & 0xfffcu);
	if (!ldt) {
		if (!set_type_bit(cpu, selector, &raw, 1ull << 41))
			return SOFT_FAULT;
		segment.attributes |= 2;
	}
	*(ldt ? &cpu->ldt : &cpu->tr) = segment;
	return SOFT_NEXT;
}

/* SLDT, STR, MOV from Sreg: a register gets the zero-extended selector, memory 16 bits. */
static enum soft_result store_selector(struct soft_cpu *cpu, const struct soft_insn *insn, uint16_t selector)
{
	if (insn->memory)
		return soft_operand_store(cpu, insn, soft_address(cpu, insn), &selector, 2) ? SOFT_NEXT
											    : SOFT_FAULT;
	soft_set_gpr(cpu, insn->modrm_rm, insn->operand_size, selector);
	return SOFT_NEXT;
}

/* ---- Segment registers ---- */

/* The segment that 0F A0/A1/A8/A9 (PUSH, POP) and 0F B2/B4/B5 (LSS, LFS, LGS) name. */
static unsigned named_segment(const struct soft_insn *insn)
{
	switch (soft_opcode(insn)) {
	case 0x0fb2:
		return FT_SS;
	case 0x0fa0:
	case 0x0fa1:
	case 0x0fb4:
		return FT_FS;
	default:
		return FT_GS;
	}
}

static enum soft_result mov_to_segment(struct soft_cpu *cpu, const struct soft_insn *insn)
{
	unsigned segment = insn->modrm_reg & 7;
	uint16_t selector;
	if (segment == FT_CS || segment >= FT_SEGMENTS)
		return soft_ud(cpu);
	if (!soft_operand_word(cpu, insn, &selector))
		return SOFT_FAULT;
	enum soft_result result = soft_load_segment(cpu, segment, selector);
	if (result == SOFT_NEXT && segment == FT_SS)
		cpu->shadow_icount = cpu->quiet_icount = cpu->icount + 1;
	return result;
}

static enum soft_result push_segment(struct soft_cpu *cpu, const struct soft_insn *insn)
{
	uint64_t selector = cpu->segment[named_segment(insn)].selector,
		 rsp = cpu->gpr[FT_RSP] - insn->operand_size;
	if (!soft_stack_store(cpu, rsp, &selector, insn->operand_size))
		return SOFT_FAULT;
	cpu->gpr[FT_RSP] = rsp;
	return SOFT_NEXT;
}

static enum soft_result pop_segment(struct soft_cpu *cpu, const struct soft_insn *insn)
{
	uint16_t selector;
	if (!soft_stack_load(cpu, cpu->gpr[FT_RSP], &selector, 2))
		return SOFT_FAULT;
	enum soft_result result = soft_load_segment(cpu, named_segment(insn), selector);
	if (result == SOFT_NEXT)
		cpu->gpr[FT_RSP] += insn->operand_size;
	return result;
}

static enum soft_result load_far(struct soft_cpu *cpu, const struct soft_insn *insn)
{
	unsigned size = insn->operand_size;
	uint64_t offset = 0, va = soft_address(cpu, insn);
	uint16_t selector;
	if (!insn->memory)
		return soft_ud(cpu);
	if (!soft_operand_load(cpu, insn, va, &offset, size) ||
	    !soft_operand_load(cpu, insn, va + size, &selector, 2))
		return SOFT_FAULT;
	enum soft_result result = soft_load_segment(cpu, named_segment(insn), selector);
	if (result == SOFT_NEXT)
		soft_set_gpr(cpu, insn->modrm_reg, size, offset);
	return result;
}

enum soft_result soft_segment_execute(struct soft_cpu *cpu, const struct soft_insn *insn)
{
	switch (insn->op) {
	case SOFT_OP_MOV_TO_SEG:
		return mov_to_segment(cpu, insn);
	case SOFT_OP_MOV_FROM_SEG:
		if ((insn->modrm_reg & 7) >= FT_SEGMENTS)
			return soft_ud(cpu);
		return store_selector(cpu, insn, cpu->segment[insn->modrm_reg & 7].selector);
	case SOFT_OP_PUSH_SEG:
		return push_segment(cpu, insn);
	case SOFT_OP_POP_SEG:
		return pop_segment(cpu, insn);
	case SOFT_OP_LOAD_FAR:
		return load_far(cpu, insn);
	case SOFT_OP_LLDT:
	case SOFT_OP_LTR:
		return load_system(cpu, insn);
	case SOFT_OP_SLDT:
	case SOFT_OP_STR:
		if (cpu->cpl && (cpu->cr4 & CR4_UMIP))
			return soft_gp(cpu, 0);
		return store_selector(cpu, insn,
				      insn->op == SOFT_OP_SLDT ? cpu->ldt.selector : cpu->tr.selector);
	default:
		return inspect(cpu, insn);
	}
}
