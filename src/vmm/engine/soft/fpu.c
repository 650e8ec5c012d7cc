/* Instructions that store or load the whole x87 and SSE state: SDM Vol. 1 chapters 8 and 10.5. The guest's state is in
 * the host's registers here. Images that the processor writes may hold addresses of host code and data (last
 * instruction and operand pointers); the guest sees zeros there, and what it loads there is dropped. */
#include "vmm/engine/soft/system.h"

#define FXSAVE_SIZE    512u
#define FXSAVE_WRITTEN 416u /* header, ST0-7, XMM0-15; what follows is left as it was */
#define FXSAVE_MXCSR   24u
#define STATUS_ES      0x80u
#define STATUS_TOP_HIGH 0x38u /* TOP in the upper byte of the status word */

struct fxsave {
	uint8_t byte[FXSAVE_SIZE] __attribute__((aligned(16)));
};

/* FSAVE image, 32-bit format; the environment is its first 28 bytes. 16-bit: 94 and 14. */
struct fsave {
	uint8_t byte[108] __attribute__((aligned(16)));
};

static uint32_t word_at(const uint8_t *at)
{
	return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

/* FOP, FIP, FDP of an FXSAVE image. */
static void drop_pointers(struct fxsave *image)
{
	soft_zero(image->byte + 6, 18);
}

/* Behind the tag word: pointers, selectors, opcode. */
static void drop_environment_pointers(uint8_t *image, unsigned operand_size)
{
	if (operand_size == 2)
		soft_zero(image + 6, 8);
	else
		soft_zero(image + 12, 16);
}

static enum soft_result fxsave(struct soft_cpu *cpu, const struct soft_insn *insn, uint64_t va)
{
	struct fxsave image;
	const uint32_t mask = cpu->mxcsr_bits;
	/* What a processor leaves as it was (AMD's the pointers, and nobody says that of what is reserved it writes all) is not ours to show. */
	soft_zero(image.byte, FXSAVE_WRITTEN);
	__asm__ volatile("fxsave64 %0" : "+m"(image));
	drop_pointers(&image);
	soft_copy(image.byte + FXSAVE_MXCSR + 4, &mask, 4);
	return soft_operand_store(cpu, insn, va, image.byte, FXSAVE_WRITTEN) ? SOFT_NEXT : SOFT_FAULT;
}

static enum soft_result fxrstor(struct soft_cpu *cpu, const struct soft_insn *insn, uint64_t va)
{
	struct fxsave image;
	if (!soft_operand_load(cpu, insn, va, image.byte, FXSAVE_SIZE))
		return SOFT_FAULT;
	if (word_at(image.byte + FXSAVE_MXCSR) & ~cpu->mxcsr_bits)
		return soft_gp(cpu, 0);
	drop_pointers(&image);
	__asm__ volatile("fxrstor64 %0" : : "m"(image));
	return SOFT_NEXT;
}

/* Bits that the image's mask does not have are reserved. */
static enum soft_result ldmxcsr(struct soft_cpu *cpu, const struct soft_insn *insn, uint64_t va)
{
	uint32_t value;
	if (!soft_operand_load(cpu, insn, va, &value, sizeof(value)))
		return SOFT_FAULT;
	if (value & ~cpu->mxcsr_bits)
		return soft_gp(cpu, 0);
	__asm__ volatile("ldmxcsr %0" : : "m"(value));
	return SOFT_NEXT;
}

/* The host's instruction would raise what waits here, in our code. */
static bool exception_waits(void)
{
	uint16_t status;
	__asm__ volatile("fnstsw %0" : "=a"(status));
	return status & STATUS_ES;
}

static enum soft_result fnsave(struct soft_cpu *cpu, const struct soft_insn *insn, uint64_t va)
{
	struct fsave image, copy;
	bool small = insn->operand_size == 2;
	if (small)
		__asm__ volatile("data16 fnsave %0" : "=m"(image));
	else
		__asm__ volatile("fnsave %0" : "=m"(image));
	soft_copy(&copy, &image, sizeof(copy));
	drop_environment_pointers(copy.byte, small ? 2 : 4);
	if (soft_operand_store(cpu, insn, va, copy.byte, small ? 94 : 108))
		return SOFT_NEXT;
	/* FNSAVE has reset the FPU; nothing may have changed. */
	if (small)
		__asm__ volatile("data16 frstor %0" : : "m"(image));
	else
		__asm__ volatile("frstor %0" : : "m"(image));
	return SOFT_FAULT;
}

static enum soft_result fnstenv(struct soft_cpu *cpu, const struct soft_insn *insn, uint64_t va)
{
	struct fsave image, copy;
	bool small = insn->operand_size == 2;
	if (small)
		__asm__ volatile("data16 fnstenv %0" : "=m"(image));
	else
		__asm__ volatile("fnstenv %0" : "=m"(image));
	soft_copy(&copy, &image, sizeof(copy));
	drop_environment_pointers(copy.byte, small ? 2 : 4);
	if (soft_operand_store(cpu, insn, va, copy.byte, small ? 14 : 28))
		return SOFT_NEXT;
	/* FNSTENV has masked all exceptions. */
	if (small)
		__asm__ volatile("data16 fldenv %0" : : "m"(image));
	else
		__asm__ volatile("fldenv %0" : : "m"(image));
	return SOFT_FAULT;
}

static enum soft_result frstor(struct soft_cpu *cpu, const struct soft_insn *insn, uint64_t va)
{
	struct fsave image;
	bool small = insn->operand_size == 2, all = insn->op == SOFT_OP_FRSTOR;
	if (exception_waits())
		return soft_raise(cpu, SOFT_MF, false, 0, 0);
	if (!soft_operand_load(cpu, insn, va, image.byte, all ? (small ? 94 : 108) : (small ? 14 : 28)))
		return SOFT_FAULT;
	drop_environment_pointers(image.byte, small ? 2 : 4);
	if (all && small)
		__asm__ volatile("data16 frstor %0" : : "m"(image));
	else if (all)
		__asm__ volatile("frstor %0" : : "m"(image));
	else if (small)
		__asm__ volatile("data16 fldenv %0" : : "m"(image));
	else
		__asm__ volatile("fldenv %0" : : "m"(image));
	return SOFT_NEXT;
}

enum soft_result soft_fpu_execute(struct soft_cpu *cpu, const struct soft_insn *insn)
{
	bool fx = insn->op == SOFT_OP_FXSAVE || insn->op == SOFT_OP_FXRSTOR, sse = insn->op == SOFT_OP_LDMXCSR;
	if (!insn->memory || insn->lock || ((fx || sse) && (cpu->cr0 & CR0_EM)) || (sse && !(cpu->cr4 & CR4_OSFXSR)))
		return soft_ud(cpu);
	if (cpu->cr0 & (CR0_EM | CR0_TS))
		return soft_raise(cpu, SOFT_NM, false, 0, 0);
	uint64_t va = soft_address(cpu, insn);
	if (fx && (va & 15))
		return soft_gp(cpu, 0);
	switch (insn->op) {
	case SOFT_OP_FXSAVE:
		return fxsave(cpu, insn, va);
	case SOFT_OP_FXRSTOR:
		return fxrstor(cpu, insn, va);
	case SOFT_OP_LDMXCSR:
		return ldmxcsr(cpu, insn, va);
	case SOFT_OP_FNSAVE:
		return fnsave(cpu, insn, va);
	case SOFT_OP_FNSTENV:
		return fnstenv(cpu, insn, va);
	default:
		return frstor(cpu, insn, va);
	}
}

void soft_fpu_clear_top(void)
{
	struct fsave image;
	/* FNSTENV masks all exceptions in the control word, FLDENV brings it back. */
	__asm__ volatile("fnstenv %0" : "=m"(image));
	image.byte[5] &= (uint8_t)~STATUS_TOP_HIGH;
	__asm__ volatile("fldenv %0" : : "m"(image));
}
