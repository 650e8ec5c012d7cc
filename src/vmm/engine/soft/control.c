/* Control and debug registers, descriptor-table registers, flags, system calls, HLT: SDM Vol. 2 for each instruction,
 * Vol. 3A 2.5 for the registers. Ports are in here, too (Vol. 1 chapter 19). */
#include "vmm/engine/soft/system.h"

/* What the CPU model has (vmm/engine/model.c). Setting any other bit is #GP. */
#define CR0_KNOWN                                                                                            \
	(CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG)

#define DR6_FIXED   0xffff0ff0u
#define DR6_KNOWN   0x0000e00fu
#define DR6_BD      0x2000u
#define DR7_FIXED   0x400u
#define DR7_UNKNOWN 0xd800u
#define DR7_GD      0x2000u

/* ---- Control registers ---- */

enum soft_result soft_set_cr0(struct soft_cpu *cpu, uint64_t value)
{
	uint64_t old = cpu->cr0;
	if (value >> 32)
		return soft_gp(cpu, 0);
	value = (value & CR0_KNOWN) | CR0_ET;
	if (((value & CR0_PG) && !(value & CR0_PE)) || ((value & CR0_NW) && !(value & CR0_CD)))
		return soft_gp(cpu, 0);
	if ((value & CR0_PG) && !(old & CR0_PG)) {
		/* Paging of other kinds than long mode's is not implemented. */
		if (!(cpu->efer & EFER_LME) || !(cpu->cr4 & CR4_PAE) ||
		    (cpu->segment[FT_CS].attributes & SEG_LONG))
			return soft_gp(cpu, 0);
		cpu->efer |= EFER_LMA;
	}
	if (!(value & CR0_PG) && (old & CR0_PG)) {
		if (cpu->code64)
			return soft_gp(cpu, 0);
		cpu->efer &= ~(uint64_t)EFER_LMA;
	}
	cpu->cr0 = value;
	if ((old ^ value) & (CR0_PG | CR0_WP | CR0_PE))
		soft_tlb_flush(cpu, false);
	return SOFT_JUMP;
}

static enum soft_result set_cr3(struct soft_cpu *cpu, uint64_t value)
{
	uint64_t old = cpu->cr3;
	if (value >> SOFT_PHYSICAL_BITS)
		return soft_gp(cpu, 0);
	cpu->cr3 = value;
	soft_tlb_flush(cpu, cpu->cr4 & CR4_PGE);
	if (cpu->m->hooks.mask & FT_HOOK_CR3)
		soft_hook_cr3(cpu, old, value);
	return SOFT_JUMP;
}

static enum soft_result set_cr4(struct soft_cpu *cpu, uint64_t value)
{
	uint64_t old = cpu->cr4;
	if ((value & ~(uint64_t)CR4_KNOWN) || (!(value & CR4_PAE) && (cpu->efer & EFER_LMA)))
		return soft_gp(cpu, 0);
	cpu->cr4 = value;
	if ((old ^ value) & (CR4_PSE | CR4_PAE | CR4_PGE | CR4_SMEP))
		soft_tlb_flush(cpu, false);
	return SOFT_JUMP;
}

static enum soft_result mov_to_cr(struct soft_cpu *cpu, const struct soft_insn *insn)
{
	uint64_t value = cpu->gpr[insn->modrm_rm];
	if (cpu->cpl)
		return soft_gp(cpu, 0);
	if (!cpu->code64)
		value = (uint32_t)value;
	switch (insn->modrm_reg) {
	case 0:
		return soft_set_cr0(cpu, value);
	case 2:
		cpu->cr2 = value;
		return SOFT_NEXT;
	case 3:
		return set_cr3(cpu, value);
	case 4:
		return set_cr4(cpu, value);
	case 8:
		if (value >> 4)
			return soft_gp(cpu, 0);
		soft_platform_set_cr8(cpu, value);
		return SOFT_SYNC;
	default:
		return soft_ud(cpu);
	}
}

static enum soft_result mov_from_cr(struct soft_cpu *cpu, const struct soft_insn *insn)
{
	uint64_t value;
	if (cpu->cpl)
		return soft_gp(cpu, 0);
	switch (insn->modrm_reg) {
	case 0:
		value = cpu->cr0;
		break;
	case 2:
		value = cpu->cr2;
		break;
	case 3:
		value = cpu->cr3;
		break;
	case 4:
		value = cpu->cr4;
		break;
	case 8:
		value = soft_platform_cr8(cpu);
		break;
	default:
		return soft_ud(cpu);
	}
	soft_set_gpr(cpu, insn->modrm_rm, cpu->code64 ? 8 : 4, value);
	return SOFT_NEXT;
}

static enum soft_result lmsw(struct soft_cpu *cpu, const struct soft_insn *insn)
{
	uint16_t value;
	if (cpu->cpl)
		return soft_gp(cpu, 0);
	if (!soft_operand_word(cpu, insn, &value))
		return SOFT_FAULT;
	/* PE can be set, never cleared. */
	return soft_set_cr0(cpu, (cpu->cr0 & ~(uint64_t)(CR0_MP | CR0_EM | CR0_TS)) | (value & 0xf));
}

static enum soft_result smsw(struct soft_cpu *cpu, const struct soft_insn *insn)
{
	if (cpu->cpl && (cpu->cr4 & CR4_UMIP))
		return soft_gp(cpu, 0);
	if (insn->memory)
		return soft_operand_store(cpu, insn, soft_address(cpu, insn), &cpu->cr0, 2) ? SOFT_NEXT
											    : SOFT_FAULT;
	soft_set_gpr(cpu, insn->modrm_rm, insn->operand_size, cpu->cr0);
	return SOFT_NEXT;
}

/* ---- Debug registers. Breakpoints on ports (CR4.DE) are kept but never hit. ---- */

static bool debug_register(struct soft_cpu *cpu, unsigned *n)
{
	if (*n > 7 || ((*n == 4 || *n == 5) && (cpu->cr4 & CR4_DE))) {
		soft_ud(cpu);
		return false;
	}
	if (cpu->cpl) {
		soft_gp(cpu, 0);
		return false;
	}
	if (cpu->dr[7] & DR7_GD) {
		cpu->dr[7] &= ~(uint64_t)DR7_GD;
		soft_raise(cpu, SOFT_DB, false, 0, DR6_BD);
		return false;
	}
	if (*n == 4 || *n == 5)
		*n += 2;
	return true;
}

static enum soft_result mov_dr(struct soft_cpu *cpu, const struct soft_insn *insn)
{
	unsigned n = insn->modrm_reg;
	if (!debug_register(cpu, &n))
		return SOFT_FAULT;
	if (insn->op == SOFT_OP_MOV_FROM_DR) {
		soft_set_gpr(cpu, insn->modrm_rm, cpu->code64 ? 8 : 4, cpu->dr[n]);
		return SOFT_NEXT;
	}
	uint64_t value = cpu->gpr[insn->modrm_rm];
	if (!cpu->code64)
		value = (uint32_t)value;
	if (n >= 6 && value >> 32)
		return soft_gp(cpu, 0);
	if (n == 6)
		value = (value & DR6_KNOWN) | DR6_FIXED;
	else if (n == 7)
		value = (value & ~(uint64_t)DR7_UNKNOWN) | DR7_FIXED;
	else if (!soft_canonical(value))
		return soft_gp(cpu, 0);
	cpu->dr[n] = value;
	return SOFT_NEXT;
}

/* ---- Descriptor-table registers ---- */

static enum soft_result load_table(struct soft_cpu *cpu, const struct soft_insn *insn)
{
	uint8_t image[10];
	uint64_t base = 0, va;
	if (!insn->memory)
		return soft_ud(cpu);
	if (cpu->cpl)
		return soft_gp(cpu, 0);
	va = soft_address(cpu, insn);
	unsigned base_size = cpu->code64 ? 8 : 4;
	if (!soft_operand_load(cpu, insn, va, image, 2 + base_size))
		return SOFT_FAULT;
	struct ft_table table = {.limit = (uint16_t)(image[0] | image[1] << 8)};
	soft_copy(&base, image + 2, base_size);
	if (!soft_canonical(base))
		return soft_gp(cpu, 0);
	table.base = base;
	*(insn->op == SOFT_OP_LGDT ? &cpu->gdt : &cpu->idt) = table;
	return SOFT_NEXT;
}

static enum soft_result store_table(struct soft_cpu *cpu, const struct soft_insn *insn)
{
	const struct ft_table *table = insn->op == SOFT_OP_SGDT ? &cpu->gdt : &cpu->idt;
	uint8_t image[10];
	if (!insn->memory)
		return soft_ud(cpu);
	if (cpu->cpl && (cpu->cr4 & CR4_UMIP))
		return soft_gp(cpu, 0);
	soft_copy(image, &table->limit, 2);
	soft_copy(image + 2, &table->base, 8);
	return soft_operand_store(cpu, insn, soft_address(cpu, insn), image, 10) ? SOFT_NEXT : SOFT_FAULT;
}

/* ---- Flags ---- */

static enum soft_result interrupt_flag(struct soft_cpu *cpu, bool set)
{
	if (cpu->cpl > soft_iopl(cpu))
		return soft_gp(cpu, 0);
	if (!set) {
		cpu->flags &= ~(uint64_t)SOFT_FLAG_IF;
		return SOFT_NEXT;
	}
	if (!(cpu->flags & SOFT_FLAG_IF))
		cpu->shadow_icount = cpu->icount + 1;
	cpu->flags |= SOFT_FLAG_IF;
	return SOFT_SYNC;
}

static enum soft_result pushf(struct soft_cpu *cpu, const struct soft_insn *insn)
{
	uint64_t image = (cpu->flags & ~(uint64_t)(FLAG_VM | FLAG_RF)) | FLAG_ONE;
	uint64_t rsp = cpu->gpr[FT_RSP] - insn->operand_size;
	if (!soft_stack_store(cpu, rsp, &image, insn->operand_size))
		return SOFT_FAULT;
	cpu->gpr[FT_RSP] = rsp;
	return SOFT_NEXT;
}

static enum soft_result popf(struct soft_cpu *cpu, const struct soft_insn *insn)
{
	uint64_t image = 0, may = SOFT_FLAGS_ARITH | SOFT_FLAG_TF | SOFT_FLAG_DF | FLAG_NT;
	if (!soft_stack_load(cpu, cpu->gpr[FT_RSP], &image, insn->operand_size))
		return SOFT_FAULT;
	if (insn->operand_size > 2)
		may |= FLAG_AC | FLAG_ID;
	if (cpu->cpl <= soft_iopl(cpu))
		may |= SOFT_FLAG_IF;
	if (cpu->cpl == 0)
		may |= FLAG_IOPL;
	cpu->flags = (cpu->flags & ~(may | FLAG_RF)) | (image & may) | FLAG_ONE;
	cpu->gpr[FT_RSP] += insn->operand_size;
	return SOFT_SYNC;
}

/* ---- System calls ---- */

static enum soft_result syscall_enter(struct soft_cpu *cpu, const struct soft_insn *insn)
{
	if (!(cpu->efer & EFER_SCE) || !cpu->code64)
		return soft_ud(cpu);
	if (soft_user(cpu) && (cpu->m->hooks.mask & FT_HOOK_SYSCALL))
		soft_hook_syscall(cpu);
	uint16_t selector = (uint16_t)(cpu->star >> 32) & 0xfffc;
	struct ft_segment cs = soft_flat_code(selector, 0);
	cpu->gpr[FT_RCX] = cpu->rip + insn->length;
	cpu->gpr[FT_R8 + 3] = (cpu->flags & ~(uint64_t)FLAG_RF) | FLAG_ONE;
	cpu->flags = (cpu->flags & ~(cpu->fmask | FLAG_RF)) | FLAG_ONE;
	cpu->segment[FT_SS] = soft_flat_data((uint16_t)(selector + 8), 0);
	soft_set_cs(cpu, &cs, 0);
	cpu->entered = true;
	cpu->rip = cpu->lstar;
	return SOFT_JUMP;
}

static enum soft_result syscall_return(struct soft_cpu *cpu, const struct soft_insn *insn)
{
	if (!(cpu->efer & EFER_SCE) || !cpu->code64)
		return soft_ud(cpu);
	if (cpu->cpl)
		return soft_gp(cpu, 0);
	/* To 32-bit code: refused, as IRET does (segment.c). */
	if (insn->operand_size != 8 || !soft_canonical(cpu->gpr[FT_RCX]))
		return soft_gp(cpu, 0);
	uint16_t base = (uint16_t)(cpu->star >> 48);
	struct ft_segment cs = soft_flat_code((uint16_t)((base + 16) | 3), 3);
	cpu->flags = (cpu->gpr[FT_R8 + 3] & 0x3c7fd7u & ~(uint64_t)FLAG_RF) | FLAG_ONE;
	cpu->segment[FT_SS] = soft_flat_data((uint16_t)((base + 8) | 3), 3);
	soft_set_cs(cpu, &cs, 3);
	cpu->rip = cpu->gpr[FT_RCX];
	if (cpu->m->hooks.mask & FT_HOOK_SYSRET)
		soft_hook_sysret(cpu);
	return SOFT_JUMP;
}

/* No control register turns SYSENTER and SYSEXIT off, and KVM does not intercept them. On AMD's they are undefined in long mode (APM Vol. 3),
 * but KVM, which looks into what is undefined, carries out SYSEXIT (Linux, arch/x86/kvm/emulate.c).
 *
 * Intel's have both. But Linux takes who comes by SYSENTER for a 32-bit process and lets it go by SYSRET to 32-bit code, which is refused
 * here when the stack is the user's already: nobody may get there. */
static enum soft_result sysenter(struct soft_cpu *cpu)
{
	return cpu->intel && !(cpu->sysenter_cs & 0xfffc) ? soft_gp(cpu, 0) : soft_ud(cpu);
}

static enum soft_result sysexit(struct soft_cpu *cpu, const struct soft_insn *insn)
{
	uint64_t rip = cpu->gpr[FT_RDX], rsp = cpu->gpr[FT_RCX];
	if (!cpu->code64)
		return soft_ud(cpu);
	/* To 32-bit code: refused, as IRET does (segment.c). */
	if (cpu->cpl || !(cpu->sysenter_cs & 0xfffc) || insn->operand_size != 8 || !soft_canonical(rip) || !soft_canonical(rsp))
		return soft_gp(cpu, 0);
	uint16_t selector = (uint16_t)((cpu->sysenter_cs + 32) | 3);
	struct ft_segment cs = soft_flat_code(selector, 3);
	cpu->segment[FT_SS] = soft_flat_data((uint16_t)(selector + 8), 3);
	soft_set_cs(cpu, &cs, 3);
	cpu->gpr[FT_RSP] = rsp;
	cpu->rip = rip;
	if (cpu->m->hooks.mask & FT_HOOK_SYSRET)
		soft_hook_sysret(cpu);
	return SOFT_JUMP;
}

/* ---- The rest ---- */

/* AMD's have four counters whatever CPUID says (APM Vol. 3, RDPMC), which never count: what starts them is hidden (kvm/hide.c). KVM, which
 * intercepts it, does not look at the two upper bits. Intel's without leaf 0xa have none. */
static enum soft_result rdpmc(struct soft_cpu *cpu)
{
	if ((cpu->cpl && !(cpu->cr4 & CR4_PCE)) || cpu->intel || ((uint32_t)cpu->gpr[FT_RCX] & 0x3fffffff) >= 4)
		return soft_gp(cpu, 0);
	cpu->gpr[FT_RAX] = 0;
	cpu->gpr[FT_RDX] = 0;
	return SOFT_NEXT;
}

static enum soft_result swapgs(struct soft_cpu *cpu)
{
	if (cpu->cpl)
		return soft_gp(cpu, 0);
	uint64_t base = cpu->segment[FT_GS].base;
	cpu->segment[FT_GS].base = cpu->kernel_gs_base;
	cpu->kernel_gs_base = base;
	return SOFT_NEXT;
}

static enum soft_result segment_base(struct soft_cpu *cpu, const struct soft_insn *insn)
{
	bool fs = insn->op == SOFT_OP_RDFSBASE || insn->op == SOFT_OP_WRFSBASE;
	struct ft_segment *segment = &cpu->segment[fs ? FT_FS : FT_GS];
	unsigned size = insn->operand_size == 8 ? 8 : 4;
	if (!(cpu->cr4 & CR4_FSGSBASE) || !cpu->code64)
		return soft_ud(cpu);
	if (insn->op == SOFT_OP_RDFSBASE || insn->op == SOFT_OP_RDGSBASE) {
		soft_set_gpr(cpu, insn->modrm_rm, size, segment->base);
		return SOFT_NEXT;
	}
	uint64_t base = soft_low(cpu->gpr[insn->modrm_rm], size);
	if (!soft_canonical(base))
		return soft_gp(cpu, 0);
	segment->base = base;
	return SOFT_NEXT;
}

static enum soft_result rdtsc(struct soft_cpu *cpu, const struct soft_insn *insn)
{
	if (cpu->cpl && (cpu->cr4 & CR4_TSD))
		return soft_gp(cpu, 0);
	uint64_t tsc = soft_tsc(cpu);
	cpu->gpr[FT_RAX] = (uint32_t)tsc;
	cpu->gpr[FT_RDX] = tsc >> 32;
	if (insn->op == SOFT_OP_RDTSCP)
		cpu->gpr[FT_RCX] = (uint32_t)cpu->tsc_aux;
	return SOFT_SYNC;
}

static enum soft_result privileged(struct soft_cpu *cpu, const struct soft_insn *insn)
{
	if (cpu->cpl)
		return soft_gp(cpu, 0);
	switch (insn->op) {
	case SOFT_OP_HLT:
		cpu->halted = true;
		return SOFT_HALT;
	case SOFT_OP_CLTS:
		cpu->cr0 &= ~(uint64_t)CR0_TS;
		return SOFT_JUMP; /* FPU instructions are looked at anew */
	case SOFT_OP_INVLPG:
		if (!insn->memory)
			return soft_ud(cpu);
		soft_tlb_flush_page(cpu, soft_address(cpu, insn));
		return SOFT_JUMP;
	case SOFT_OP_RDMSR:
		return soft_rdmsr(cpu);
	case SOFT_OP_WRMSR:
		return soft_wrmsr(cpu);
	default: /* INVD, WBINVD: there is no cache to be seen */
		return SOFT_NEXT;
	}
}

static enum soft_result software_interrupt(struct soft_cpu *cpu, const struct soft_insn *insn)
{
	uint64_t next = cpu->rip + insn->length;
	if (insn->op == SOFT_OP_INT1)
		return soft_software_interrupt(cpu, SOFT_DB, next, true);
	if (insn->op == SOFT_OP_INT3)
		return soft_software_interrupt(cpu, SOFT_BP, next, false);
	return soft_software_interrupt(cpu, (uint8_t)insn->immediate, next, false);
}

static enum soft_result dispatch(struct soft_cpu *cpu, const struct soft_insn *insn)
{
	switch (insn->op) {
	case SOFT_OP_CLI:
	case SOFT_OP_STI:
		return interrupt_flag(cpu, insn->op == SOFT_OP_STI);
	case SOFT_OP_CLD:
		cpu->flags &= ~(uint64_t)SOFT_FLAG_DF;
		return SOFT_NEXT;
	case SOFT_OP_STD:
		cpu->flags |= SOFT_FLAG_DF;
		return SOFT_NEXT;
	case SOFT_OP_PUSHF:
		return pushf(cpu, insn);
	case SOFT_OP_POPF:
		return popf(cpu, insn);
	case SOFT_OP_SYSCALL:
		return syscall_enter(cpu, insn);
	case SOFT_OP_SYSRET:
		return syscall_return(cpu, insn);
	case SOFT_OP_INT:
	case SOFT_OP_INT3:
	case SOFT_OP_INT1:
		return software_interrupt(cpu, insn);
	case SOFT_OP_LGDT:
	case SOFT_OP_LIDT:
		return load_table(cpu, insn);
	case SOFT_OP_SGDT:
	case SOFT_OP_SIDT:
		return store_table(cpu, insn);
	case SOFT_OP_LMSW:
		return lmsw(cpu, insn);
	case SOFT_OP_SMSW:
		return smsw(cpu, insn);
	case SOFT_OP_MOV_FROM_CR:
		return mov_from_cr(cpu, insn);
	case SOFT_OP_MOV_TO_CR:
		return mov_to_cr(cpu, insn);
	case SOFT_OP_MOV_FROM_DR:
	case SOFT_OP_MOV_TO_DR:
		return mov_dr(cpu, insn);
	case SOFT_OP_CPUID:
		soft_cpuid(cpu);
		return SOFT_NEXT;
	case SOFT_OP_RDTSC:
	case SOFT_OP_RDTSCP:
		return rdtsc(cpu, insn);
	case SOFT_OP_SWAPGS:
		return swapgs(cpu);
	case SOFT_OP_RDFSBASE:
	case SOFT_OP_RDGSBASE:
	case SOFT_OP_WRFSBASE:
	case SOFT_OP_WRGSBASE:
		return segment_base(cpu, insn);
	case SOFT_OP_HLT:
	case SOFT_OP_CLTS:
	case SOFT_OP_INVLPG:
	case SOFT_OP_RDMSR:
	case SOFT_OP_WRMSR:
	case SOFT_OP_INVD:
	case SOFT_OP_WBINVD:
		return privileged(cpu, insn);
	case SOFT_OP_RDPMC:
		return rdpmc(cpu);
	case SOFT_OP_SYSENTER:
		return sysenter(cpu);
	case SOFT_OP_SYSEXIT:
		return sysexit(cpu, insn);
	default:
		return soft_ud(cpu);
	}
}

enum soft_result soft_control_execute(struct soft_cpu *cpu, const struct soft_insn *insn)
{
	enum soft_result result = dispatch(cpu, insn);
	/* Register loads above leave rip to the end, where it has to be behind the instruction; far transfers have set
	 * it themselves. */
	bool in_place = insn->op == SOFT_OP_MOV_TO_CR || insn->op == SOFT_OP_LMSW ||
			insn->op == SOFT_OP_CLTS || insn->op == SOFT_OP_INVLPG || insn->op == SOFT_OP_WRMSR;
	if (result == SOFT_JUMP && in_place)
		cpu->rip += insn->length;
	return result;
}

/* ---- Ports ---- */

bool soft_io_permitted(struct soft_cpu *cpu, uint16_t port, unsigned size)
{
	if (cpu->cpl <= soft_iopl(cpu))
		return true;
	uint16_t map, bits;
	uint32_t limit = cpu->tr.limit, at;
	if (!(cpu->tr.attributes & SEG_PRESENT) || limit < 103)
		goto refused;
	if (!soft_load(cpu, cpu->tr.base + 102, &map, 2, false))
		return false;
	at = map + port / 8u;
	/* Two bytes are read always: an access may span them. */
	if (at + 1 > limit)
		goto refused;
	if (!soft_load(cpu, cpu->tr.base + at, &bits, 2, false))
		return false;
	if (!(bits >> (port & 7) & ((1u << size) - 1)))
		return true;
refused:
	soft_gp(cpu, 0);
	return false;
}

enum soft_result soft_io_execute(struct soft_cpu *cpu, const struct soft_insn *insn)
{
	unsigned size = insn->operand_size > 4 ? 4 : insn->operand_size;
	bool fixed = soft_opcode(insn) < 0xe8; /* E4..E7 imm8; EC..EF DX */
	uint16_t port = fixed ? (uint8_t)insn->immediate : (uint16_t)cpu->gpr[FT_RDX];
	if (!soft_io_permitted(cpu, port, size))
		return SOFT_FAULT;
	if (insn->op == SOFT_OP_IN)
		soft_set_gpr(cpu, FT_RAX, size, soft_bus_read(cpu, FT_SPACE_IO, port, size));
	else
		soft_bus_write(cpu, FT_SPACE_IO, port, size, soft_low(cpu->gpr[FT_RAX], size));
	return SOFT_SYNC;
}
