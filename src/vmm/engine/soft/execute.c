/* From a decoded instruction to the function that carries it out, and what those share: operands and addresses. */
#include "vmm/engine/soft/system.h"

unsigned soft_opcode(const struct soft_insn *insn)
{
	unsigned i = 0;
	for (; i < sizeof(insn->bytes) - 1; i++) {
		uint8_t byte = insn->bytes[i];
		bool prefix = byte == 0x66 || byte == 0x67 || byte == 0xf0 || byte == 0xf2 || byte == 0xf3 ||
			      byte == 0x2e || byte == 0x36 || byte == 0x3e || byte == 0x26 || byte == 0x64 ||
			      byte == 0x65;
		if (!prefix && (byte & 0xf0) != 0x40)
			break;
	}
	if (insn->bytes[i] == 0x0f && i + 1 < sizeof(insn->bytes))
		return 0x0f00u | insn->bytes[i + 1];
	return insn->bytes[i];
}

uint64_t soft_address(struct soft_cpu *cpu, const struct soft_insn *insn)
{
	uint64_t va = (uint64_t)insn->displacement;
	if (insn->base < 16)
		va += cpu->gpr[insn->base];
	else if (insn->base == 16)
		va += cpu->rip + insn->length;
	if (insn->index < 16)
		va += cpu->gpr[insn->index] * insn->scale;
	if (insn->address_size == 4)
		va = (uint32_t)va;
	if (insn->segment >= FT_FS)
		va += cpu->segment[insn->segment].base;
	return va;
}

static bool reachable(struct soft_cpu *cpu, uint64_t va, uint32_t size, bool stack)
{
	if (soft_canonical(va) && soft_canonical(va + size - 1))
		return soft_aligned(cpu, va, size);
	soft_raise(cpu, stack ? SOFT_SS : SOFT_GP, true, 0, 0);
	return false;
}

bool soft_aligned(struct soft_cpu *cpu, uint64_t va, uint32_t size)
{
	/* x87's ten bytes as eight; images of the FPU and of tables have their own rules. SDM table 6-7. */
	uint32_t mask = size == 10 ? 7 : size <= 16 && !(size & (size - 1)) ? size - 1 : 0;
	if (!(va & mask) || !soft_checks_alignment(cpu))
		return true;
	soft_raise(cpu, SOFT_AC, true, 0, 0);
	return false;
}

void soft_watch(struct soft_cpu *cpu, uint64_t va, uint32_t size, enum soft_breakpoint kind)
{
	static const uint8_t lengths[] = {1, 2, 8, 4};
	if (!soft_has_breakpoints(cpu))
		return;
	for (unsigned i = 0; i < 4; i++) {
		unsigned control = (unsigned)(cpu->dr[7] >> (16 + 4 * i)) & 15, length = lengths[control >> 2];
		uint64_t first = cpu->dr[i] & ~(uint64_t)(length - 1);
		bool wanted = (control & 3) == (unsigned)kind || ((control & 3) == SOFT_BREAK_ACCESS && kind == SOFT_BREAK_WRITE);
		if ((cpu->dr[7] >> (2 * i) & 3) && wanted && first < va + size && va < first + length)
			cpu->hits |= (uint8_t)(1u << i);
	}
}

bool soft_stack_load(struct soft_cpu *cpu, uint64_t va, void *to, uint32_t size)
{
	soft_watch(cpu, va, size, SOFT_BREAK_ACCESS);
	return reachable(cpu, va, size, true) && soft_load(cpu, va, to, size, soft_user(cpu));
}

bool soft_stack_store(struct soft_cpu *cpu, uint64_t va, const void *from, uint32_t size)
{
	soft_watch(cpu, va, size, SOFT_BREAK_WRITE);
	return reachable(cpu, va, size, true) && soft_store(cpu, va, from, size, soft_user(cpu));
}

bool soft_operand_load(struct soft_cpu *cpu, const struct soft_insn *insn, uint64_t va, void *to,
		       uint32_t size)
{
	soft_watch(cpu, va, size, SOFT_BREAK_ACCESS);
	return reachable(cpu, va, size, insn->segment == FT_SS) &&
	       soft_load(cpu, va, to, size, soft_user(cpu));
}

bool soft_operand_store(struct soft_cpu *cpu, const struct soft_insn *insn, uint64_t va, const void *from,
			uint32_t size)
{
	soft_watch(cpu, va, size, SOFT_BREAK_WRITE);
	return reachable(cpu, va, size, insn->segment == FT_SS) &&
	       soft_store(cpu, va, from, size, soft_user(cpu));
}

bool soft_operand_word(struct soft_cpu *cpu, const struct soft_insn *insn, uint16_t *value)
{
	if (insn->memory)
		return soft_operand_load(cpu, insn, soft_address(cpu, insn), value, 2);
	*value = (uint16_t)cpu->gpr[insn->modrm_rm];
	return true;
}

static enum soft_result cmpxchg16b(struct soft_cpu *cpu, const struct soft_insn *insn)
{
	uint64_t old[2], va = soft_address(cpu, insn);
	if (!insn->memory)
		return soft_ud(cpu);
	if (va & 15)
		return soft_gp(cpu, 0);
	if (!reachable(cpu, va, 16, insn->segment == FT_SS))
		return SOFT_FAULT;
	if (!soft_load_for_write(cpu, va, old, 16, soft_user(cpu)))
		return SOFT_FAULT;
	if (old[0] == cpu->gpr[FT_RAX] && old[1] == cpu->gpr[FT_RDX]) {
		uint64_t new[2] = {cpu->gpr[FT_RBX], cpu->gpr[FT_RCX]};
		if (!soft_store(cpu, va, new, 16, soft_user(cpu)))
			return SOFT_FAULT;
		cpu->flags |= FLAG_ZF;
	} else {
		cpu->gpr[FT_RAX] = old[0];
		cpu->gpr[FT_RDX] = old[1];
		cpu->flags &= ~(uint64_t)FLAG_ZF;
	}
	return SOFT_NEXT;
}

/* What it pushes before a fault stays in memory, as on a processor; RSP and RBP change only at the end. */
static enum soft_result enter(struct soft_cpu *cpu, const struct soft_insn *insn)
{
	unsigned size = insn->operand_size, level = (unsigned)insn->immediate2 & 31;
	uint64_t rsp = cpu->gpr[FT_RSP] - size, rbp = cpu->gpr[FT_RBP], frame = rsp;
	if (!soft_stack_store(cpu, rsp, &rbp, size))
		return SOFT_FAULT;
	for (unsigned i = 1; i < level; i++) {
		uint64_t link;
		rbp -= size;
		rsp -= size;
		if (!soft_stack_load(cpu, rbp, &link, size) || !soft_stack_store(cpu, rsp, &link, size))
			return SOFT_FAULT;
	}
	if (level) {
		rsp -= size;
		if (!soft_stack_store(cpu, rsp, &frame, size))
			return SOFT_FAULT;
	}
	/* SDM Vol. 2A, ENTER: faults when a push with the final RSP would. */
	uint64_t last = rsp - (uint16_t)insn->immediate, gpa;
	bool mmio;
	if (!reachable(cpu, last, 1, true) ||
	    (!soft_translate(cpu, last, SOFT_WRITE, soft_user(cpu), &mmio, &gpa) && !mmio))
		return SOFT_FAULT;
	soft_set_gpr(cpu, FT_RBP, size, frame);
	cpu->gpr[FT_RSP] = last;
	return SOFT_NEXT;
}

static enum soft_result undefined(struct soft_cpu *cpu, const struct soft_insn *insn)
{
	return soft_ud(cpu);
}

typedef enum soft_result (*carry_out)(struct soft_cpu *cpu, const struct soft_insn *insn);

/* What is not named here is control.c's. */
static const carry_out table[SOFT_OP_COUNT] = {
    [SOFT_OP_IN] = soft_io_execute,
    [SOFT_OP_OUT] = soft_io_execute,
    [SOFT_OP_INS] = soft_string_execute,
    [SOFT_OP_OUTS] = soft_string_execute,
    [SOFT_OP_MOVS] = soft_string_execute,
    [SOFT_OP_STOS] = soft_string_execute,
    [SOFT_OP_LODS] = soft_string_execute,
    [SOFT_OP_SCAS] = soft_string_execute,
    [SOFT_OP_CMPS] = soft_string_execute,
    [SOFT_OP_IRET] = soft_far_execute,
    [SOFT_OP_FAR_CALL] = soft_far_execute,
    [SOFT_OP_FAR_JMP] = soft_far_execute,
    [SOFT_OP_FAR_RET] = soft_far_execute,
    [SOFT_OP_MOV_TO_SEG] = soft_segment_execute,
    [SOFT_OP_MOV_FROM_SEG] = soft_segment_execute,
    [SOFT_OP_PUSH_SEG] = soft_segment_execute,
    [SOFT_OP_POP_SEG] = soft_segment_execute,
    [SOFT_OP_LOAD_FAR] = soft_segment_execute,
    [SOFT_OP_LLDT] = soft_segment_execute,
    [SOFT_OP_LTR] = soft_segment_execute,
    [SOFT_OP_SLDT] = soft_segment_execute,
    [SOFT_OP_STR] = soft_segment_execute,
    [SOFT_OP_LAR] = soft_segment_execute,
    [SOFT_OP_LSL] = soft_segment_execute,
    [SOFT_OP_VERR] = soft_segment_execute,
    [SOFT_OP_VERW] = soft_segment_execute,
    [SOFT_OP_FXSAVE] = soft_fpu_execute,
    [SOFT_OP_FXRSTOR] = soft_fpu_execute,
    [SOFT_OP_FNSAVE] = soft_fpu_execute,
    [SOFT_OP_FRSTOR] = soft_fpu_execute,
    [SOFT_OP_FNSTENV] = soft_fpu_execute,
    [SOFT_OP_FLDENV] = soft_fpu_execute,
    [SOFT_OP_LDMXCSR] = soft_fpu_execute,
    [SOFT_OP_CMPXCHG16B] = cmpxchg16b,
    [SOFT_OP_ENTER] = enter,
    [SOFT_OP_ANDN] = soft_bits_execute,
    [SOFT_OP_BEXTR] = soft_bits_execute,
    [SOFT_OP_BLSI] = soft_bits_execute,
    [SOFT_OP_BLSMSK] = soft_bits_execute,
    [SOFT_OP_BLSR] = soft_bits_execute,
    [SOFT_OP_BZHI] = soft_bits_execute,
    [SOFT_OP_MULX] = soft_bits_execute,
    [SOFT_OP_PDEP] = soft_bits_execute,
    [SOFT_OP_PEXT] = soft_bits_execute,
    [SOFT_OP_RORX] = soft_bits_execute,
    [SOFT_OP_SARX] = soft_bits_execute,
    [SOFT_OP_SHLX] = soft_bits_execute,
    [SOFT_OP_SHRX] = soft_bits_execute,
    [SOFT_OP_VMCALL] = soft_hidden_execute,
    [SOFT_OP_VMMCALL] = soft_hidden_execute,
    [SOFT_OP_RDRAND] = soft_hidden_execute,
    [SOFT_OP_RDSEED] = soft_hidden_execute,
    [SOFT_OP_STAC] = soft_hidden_execute,
    [SOFT_OP_CLAC] = soft_hidden_execute,
    [SOFT_OP_CLFLUSH] = soft_hidden_execute,
    [SOFT_OP_CLFLUSHOPT] = soft_hidden_execute,
    [SOFT_OP_CLWB] = soft_hidden_execute,
    [SOFT_OP_SVM] = soft_hidden_execute,
    [SOFT_OP_SKINIT] = soft_hidden_execute,
    [SOFT_OP_UD] = undefined,
};

enum soft_result soft_execute(struct soft_cpu *cpu, const struct soft_insn *insn)
{
	if (insn->op >= SOFT_OP_COUNT || (insn->lock && insn->op != SOFT_OP_CMPXCHG16B))
		return soft_ud(cpu);
	carry_out carry = table[insn->op];
	return carry ? carry(cpu, insn) : soft_control_execute(cpu, insn);
}
