/* Instructions that CPUID does not announce and that work all the same where the processor has them, because no control register
 * turns them off and KVM cannot intercept them: BMI1 and BMI2, STAC and CLAC, CLFLUSHOPT and CLWB, AMD's RDRAND, KVM's own calls,
 * and how ring 3 is refused AMD's virtualization. So is MXCSR.MM, of which LDMXCSR, FXSAVE and FXRSTOR (fpu.c) and what checks
 * alignment (run.c) know. A guest that tries them on KVM must see the same here. Their results, flags that are not defined
 * included, are the processor's own. SDM Vol. 2, APM Vol. 3. */
#include "vmm/engine/soft/system.h"

/* Runs the text with the guest's arithmetic flags and takes them back. The stack is ours to push to: no red zone. */
#define WITH_FLAGS(text, ...)                                                                                         \
	__asm__ volatile("push %[flags]\n popfq\n " text "\n pushfq\n pop %[flags]" : [flags] "+r"(flags), __VA_ARGS__ : "cc", "memory")
#define TWO(mnemonic)                                                                                                 \
	do {                                                                                                          \
		if (wide)                                                                                             \
			WITH_FLAGS(mnemonic " %[a], %[b], %[to]", [to] "=&r"(to) : [a] "r"(a), [b] "r"(b));          \
		else                                                                                                  \
			WITH_FLAGS(mnemonic " %k[a], %k[b], %k[to]", [to] "=&r"(to) : [a] "r"(a), [b] "r"(b));       \
	} while (0)
#define ONE(mnemonic)                                                                                                 \
	do {                                                                                                          \
		if (wide)                                                                                             \
			WITH_FLAGS(mnemonic " %[a], %[to]", [to] "=&r"(to) : [a] "r"(a));                            \
		else                                                                                                  \
			WITH_FLAGS(mnemonic " %k[a], %k[to]", [to] "=&r"(to) : [a] "r"(a));                          \
	} while (0)

/* Operands as VEX has them: modrm_reg, rm (register or memory), and the third in immediate2. */
enum soft_result soft_bits_execute(struct soft_cpu *cpu, const struct soft_insn *insn)
{
	unsigned size = insn->operand_size == 8 ? 8 : 4, dest = insn->modrm_reg, third = (unsigned)insn->immediate2 & 15;
	bool wide = size == 8;
	uint64_t rm = 0, v = cpu->gpr[third], to = 0, a, b, flags = (cpu->flags & SOFT_FLAGS_ARITH) | FLAG_ONE;
	if (insn->memory) {
		if (!soft_operand_load(cpu, insn, soft_address(cpu, insn), &rm, size))
			return SOFT_FAULT;
	} else {
		rm = cpu->gpr[insn->modrm_rm];
	}
	switch (insn->op) {
	case SOFT_OP_ANDN:
		a = rm, b = v;
		TWO("andn");
		break;
	case SOFT_OP_BEXTR:
		a = v, b = rm;
		TWO("bextr");
		break;
	case SOFT_OP_BZHI:
		a = v, b = rm;
		TWO("bzhi");
		break;
	case SOFT_OP_BLSI:
		a = rm, dest = third;
		ONE("blsi");
		break;
	case SOFT_OP_BLSMSK:
		a = rm, dest = third;
		ONE("blsmsk");
		break;
	case SOFT_OP_BLSR:
		a = rm, dest = third;
		ONE("blsr");
		break;
	case SOFT_OP_PDEP:
		a = rm, b = v;
		TWO("pdep");
		break;
	case SOFT_OP_PEXT:
		a = rm, b = v;
		TWO("pext");
		break;
	case SOFT_OP_SARX:
		to = wide ? (uint64_t)((int64_t)rm >> (v & 63)) : (uint32_t)((int32_t)rm >> (v & 31));
		break;
	case SOFT_OP_SHLX:
		to = wide ? rm << (v & 63) : (uint32_t)rm << (v & 31);
		break;
	case SOFT_OP_SHRX:
		to = wide ? rm >> (v & 63) : (uint32_t)rm >> (v & 31);
		break;
	case SOFT_OP_RORX: {
		unsigned n = (unsigned)insn->immediate & (wide ? 63 : 31);
		uint64_t low = wide ? rm : (uint32_t)rm, width = wide ? 64 : 32;
		to = n ? low >> n | low << (width - n) : low;
		break;
	}
	default: { /* MULX: where both halves go to one register it is the upper one's */
		unsigned __int128 product = wide ? (unsigned __int128)rm * cpu->gpr[FT_RDX] : (uint64_t)(uint32_t)rm * (uint32_t)cpu->gpr[FT_RDX];
		soft_set_gpr(cpu, third, size, (uint64_t)product);
		to = wide ? (uint64_t)(product >> 64) : (uint64_t)product >> 32;
		break;
	}
	}
	soft_set_gpr(cpu, dest, size, to);
	cpu->flags = (cpu->flags & ~(uint64_t)SOFT_FLAGS_ARITH) | (flags & SOFT_FLAGS_ARITH);
	return SOFT_NEXT;
}

/* Where KVM cannot hide them, RDRAND and RDSEED are not announced either, so nobody draws keys from them: what they give is a
 * function of the machine's state, as everything is that does not come in by the one door. */
static enum soft_result random_number(struct soft_cpu *cpu, const struct soft_insn *insn)
{
	if (insn->memory || !(cpu->host & (insn->op == SOFT_OP_RDRAND ? SOFT_HOST_RDRAND : SOFT_HOST_RDSEED)))
		return soft_ud(cpu);
	uint64_t z = soft_tsc(cpu) * 0x9e3779b97f4a7c15ull + cpu->icount;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	soft_set_gpr(cpu, insn->modrm_rm, insn->operand_size, z ^ z >> 31);
	cpu->flags = (cpu->flags & ~(uint64_t)SOFT_FLAGS_ARITH) | FLAG_CF;
	return SOFT_SYNC;
}

static enum soft_result set_ac(struct soft_cpu *cpu, bool set)
{
	if (!(cpu->host & SOFT_HOST_SMAP) || cpu->cpl)
		return soft_ud(cpu);
	cpu->flags = set ? cpu->flags | FLAG_AC : cpu->flags & ~(uint64_t)FLAG_AC;
	return SOFT_NEXT;
}

/* What KVM answers to a call of its paravirtual interface when CPUID announces none: the number is unknown (but 1, which asks for
 * nothing), or not for ring 3. The other vendor's instruction is undefined, which KVM looks into: that of Intel's is privileged to it.
 * Documentation/virt/kvm/x86/hypercalls.rst; arch/x86/kvm/emulate.c. */
static enum soft_result hypercall(struct soft_cpu *cpu, const struct soft_insn *insn)
{
	if ((insn->op == SOFT_OP_VMCALL) != cpu->intel)
		return insn->op == SOFT_OP_VMCALL && cpu->cpl ? soft_gp(cpu, 0) : soft_ud(cpu);
	cpu->gpr[FT_RAX] = (uint64_t)(cpu->cpl ? -1ll : cpu->gpr[FT_RAX] == 1 ? 0 : -1000ll);
	return SOFT_NEXT;
}

/* A guest on AMD's has EFER.SVME set whatever it reads (APM Vol. 2, 15.5.1), so the processor goes on to check the privilege (Vol. 3, VMRUN);
 * ring 0 comes to KVM, which says that it is undefined. SKINIT not each of them has. */
static enum soft_result virtualization(struct soft_cpu *cpu, const struct soft_insn *insn)
{
	bool has = !cpu->intel && (insn->op == SOFT_OP_SVM || (cpu->host & SOFT_HOST_SKINIT));
	return has && cpu->cpl ? soft_gp(cpu, 0) : soft_ud(cpu);
}

/* There is no cache to be seen: but the address is looked at as for a load. */
static enum soft_result flush_line(struct soft_cpu *cpu, const struct soft_insn *insn)
{
	uint64_t va = soft_address(cpu, insn), gpa;
	bool mmio;
	if (!insn->memory || (insn->op == SOFT_OP_CLFLUSHOPT && !(cpu->host & SOFT_HOST_CLFLUSHOPT)) ||
	    (insn->op == SOFT_OP_CLWB && !(cpu->host & SOFT_HOST_CLWB)))
		return soft_ud(cpu);
	if (!soft_canonical(va))
		return soft_raise(cpu, insn->segment == FT_SS ? SOFT_SS : SOFT_GP, true, 0, 0);
	return soft_translate(cpu, va, SOFT_READ, soft_user(cpu), &mmio, &gpa) || mmio ? SOFT_NEXT : SOFT_FAULT;
}

enum soft_result soft_hidden_execute(struct soft_cpu *cpu, const struct soft_insn *insn)
{
	switch (insn->op) {
	case SOFT_OP_RDRAND:
	case SOFT_OP_RDSEED:
		return random_number(cpu, insn);
	case SOFT_OP_VMCALL:
	case SOFT_OP_VMMCALL:
		return hypercall(cpu, insn);
	case SOFT_OP_STAC:
	case SOFT_OP_CLAC:
		return set_ac(cpu, insn->op == SOFT_OP_STAC);
	case SOFT_OP_SVM:
	case SOFT_OP_SKINIT:
		return virtualization(cpu, insn);
	default:
		return flush_line(cpu, insn);
	}
}
