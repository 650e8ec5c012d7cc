/* Segment loads, control registers, MSRs, flags, system calls, ports, CPUID. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "soft_stand.h"

static struct soft_cpu *cpu(void)
{
	return &stand->cpu;
}

static void put(uint64_t gpa, const void *from, size_t size)
{
	memcpy(stand_ram(gpa), from, size);
}

/* ---- Segments ---- */

static enum soft_result load_segment(unsigned segment, uint16_t selector)
{
	struct soft_insn insn = stand_insn(SOFT_OP_MOV_TO_SEG, 2);
	insn.modrm_reg = (uint8_t)segment;
	insn.modrm_rm = FT_RAX;
	cpu()->gpr[FT_RAX] = 0xffff0000 | selector;
	return stand_run(insn);
}

static void segment_loads(void **state)
{
	const struct {
		unsigned cpl, segment;
		uint16_t selector;
		unsigned vector; /* 0: loads */
		long error;
	} cases[] = {
	    {0, FT_DS, SEL_DATA0, 0, 0},
	    {0, FT_DS, SEL_DATA3 | 3, 0, 0},
	    {0, FT_ES, SEL_READ_ONLY, 0, 0},
	    {0, FT_FS, SEL_CODE0, 0, 0}, /* readable code */
	    {0, FT_FS, SEL_EXECUTE_ONLY, SOFT_GP, SEL_EXECUTE_ONLY},
	    {0, FT_GS, SEL_NOT_PRESENT, SOFT_NP, SEL_NOT_PRESENT},
	    {0, FT_GS, SEL_TSS, SOFT_GP, SEL_TSS},
	    {0, FT_DS, SEL_DATA0 | 3, SOFT_GP, SEL_DATA0},
	    {0, FT_DS, SEL_END, SOFT_GP, SEL_END},
	    {0, FT_DS, 3, 0, 0},
	    {3, FT_DS, SEL_DATA0, SOFT_GP, SEL_DATA0},
	    {3, FT_DS, SEL_DATA3, 0, 0},
	    {3, FT_DS, SEL_CONFORMING | 3, 0, 0},
	    {3, FT_DS, 0, 0, 0},
	    {0, FT_SS, SEL_DATA0, 0, 0},
	    {0, FT_SS, 0, 0, 0},
	    {0, FT_SS, 3, SOFT_GP, 0},
	    {0, FT_SS, SEL_READ_ONLY, SOFT_GP, SEL_READ_ONLY},
	    {0, FT_SS, SEL_NOT_PRESENT, SOFT_SS, SEL_NOT_PRESENT},
	    {0, FT_SS, SEL_DATA3, SOFT_GP, SEL_DATA3},
	    {3, FT_SS, 3, SOFT_GP, 0},
	    {3, FT_SS, SEL_DATA3 | 3, 0, 0},
	    {0, FT_CS, SEL_CODE0, SOFT_UD, -1},
	    {0, 6, SEL_CODE0, SOFT_UD, -1},
	};
	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		cases[i].cpl ? stand_ring3() : stand_ring0();
		cpu()->shadow_icount = UINT64_MAX;
		if (!cases[i].vector) {
			assert_int_equal(load_segment(cases[i].segment, cases[i].selector), SOFT_NEXT);
			assert_int_equal(cpu()->segment[cases[i].segment].selector, cases[i].selector);
			assert_int_equal(cpu()->shadow_icount, cases[i].segment == FT_SS ? 1001 : UINT64_MAX);
		} else {
			assert_int_equal(load_segment(cases[i].segment, cases[i].selector), SOFT_FAULT);
			stand_expect_fault(cases[i].vector, cases[i].error);
		}
	}
	assert_int_equal(*(uint64_t *)stand_ram(STAND_GDT + SEL_DATA32_0) >> 40 & 1, 0);
	stand_ring0();
	assert_int_equal(load_segment(FT_ES, SEL_DATA32_0), SOFT_NEXT);
	assert_int_equal(*(uint64_t *)stand_ram(STAND_GDT + SEL_DATA32_0) >> 40 & 1, 1); /* accessed */
}

static void a_null_fs_loses_its_base(void **state)
{
	cpu()->segment[FT_FS].base = 0x123000;
	assert_int_equal(load_segment(FT_FS, 0), SOFT_NEXT);
	assert_int_equal(cpu()->segment[FT_FS].base, 0);
}

static enum soft_result word_op(enum soft_op op, uint16_t selector)
{
	struct soft_insn insn = stand_insn(op, 4);
	insn.modrm_rm = FT_RCX;
	insn.modrm_reg = FT_RBX;
	cpu()->gpr[FT_RCX] = selector;
	return stand_run(insn);
}

static void ldt_and_task_register(void **state)
{
	assert_int_equal(word_op(SOFT_OP_LLDT, SEL_LDT), SOFT_NEXT);
	assert_int_equal(cpu()->ldt.base, KERNEL + STAND_LDT);
	assert_int_equal(load_segment(FT_DS, 8 | 4 | 3), SOFT_NEXT);
	assert_int_equal(word_op(SOFT_OP_LLDT, SEL_TSS), SOFT_FAULT);
	stand_expect_fault(SOFT_GP, SEL_TSS);
	assert_int_equal(word_op(SOFT_OP_LLDT, 0), SOFT_NEXT);
	assert_int_equal(load_segment(FT_DS, 8 | 4 | 3), SOFT_FAULT);
	stand_expect_fault(SOFT_GP, 12);
	assert_int_equal(word_op(SOFT_OP_LTR, SEL_TSS), SOFT_NEXT);
	assert_int_equal(cpu()->tr.base, KERNEL + STAND_TSS);
	assert_int_equal(cpu()->tr.limit, 0x2067);
	assert_int_equal(word_op(SOFT_OP_LTR, SEL_TSS), SOFT_FAULT); /* busy now */
	stand_expect_fault(SOFT_GP, SEL_TSS);
	stand_ring3();
	assert_int_equal(word_op(SOFT_OP_LTR, SEL_TSS), SOFT_FAULT);
	stand_expect_fault(SOFT_GP, 0);
}

static void descriptors_can_be_inspected(void **state)
{
	assert_int_equal(word_op(SOFT_OP_LAR, SEL_CODE0), SOFT_NEXT);
	assert_int_equal(cpu()->gpr[FT_RBX], 0x00af9b00);
	assert_true(cpu()->flags & FLAG_ZF);
	assert_int_equal(word_op(SOFT_OP_LSL, SEL_DATA0), SOFT_NEXT);
	assert_int_equal(cpu()->gpr[FT_RBX], 0xffffffff);
	word_op(SOFT_OP_LSL, SEL_END);
	assert_false(cpu()->flags & FLAG_ZF);
	word_op(SOFT_OP_VERW, SEL_READ_ONLY);
	assert_false(cpu()->flags & FLAG_ZF);
	word_op(SOFT_OP_VERR, SEL_READ_ONLY);
	assert_true(cpu()->flags & FLAG_ZF);
	stand_ring3();
	word_op(SOFT_OP_VERR, SEL_READ_ONLY);
	assert_false(cpu()->flags & FLAG_ZF);
	word_op(SOFT_OP_VERR, 0);
	assert_false(cpu()->flags & FLAG_ZF);
}

static void fs_and_gs_on_the_stack(void **state)
{
	struct soft_insn insn = stand_insn(SOFT_OP_PUSH_SEG, 8);
	insn.bytes[0] = 0x0f;
	insn.bytes[1] = 0xa8;
	cpu()->segment[FT_GS].selector = SEL_DATA3 | 3;
	assert_int_equal(stand_run(insn), SOFT_NEXT);
	assert_int_equal(cpu()->gpr[FT_RSP], STACK0 - 8);
	insn.op = SOFT_OP_POP_SEG;
	insn.bytes[1] = 0xa1;
	assert_int_equal(stand_run(insn), SOFT_NEXT);
	assert_int_equal(cpu()->segment[FT_FS].selector, SEL_DATA3 | 3);
	assert_int_equal(cpu()->gpr[FT_RSP], STACK0);
	cpu()->gpr[FT_RSP] = 1ull << 62;
	assert_int_equal(stand_run(insn), SOFT_FAULT);
	stand_expect_fault(SOFT_SS, 0);
	/* LFS, with a selector that is refused: the register stays. */
	const struct __attribute__((packed)) {
		uint64_t offset;
		uint16_t selector;
	} far = {0x1234, SEL_NOT_PRESENT};
	put(0x5000, &far, sizeof(far));
	insn = stand_insn(SOFT_OP_LOAD_FAR, 8);
	insn.memory = true;
	insn.displacement = 0x5000;
	insn.bytes[0] = 0x48;
	insn.bytes[1] = 0x0f;
	insn.bytes[2] = 0xb4;
	insn.modrm_reg = FT_RBX;
	cpu()->gpr[FT_RBX] = 7;
	assert_int_equal(stand_run(insn), SOFT_FAULT);
	stand_expect_fault(SOFT_NP, SEL_NOT_PRESENT);
	assert_int_equal(cpu()->gpr[FT_RBX], 7);
}

/* ---- Control registers and MSRs ---- */

static enum soft_result to_cr(unsigned n, uint64_t value)
{
	struct soft_insn insn = stand_insn(SOFT_OP_MOV_TO_CR, 8);
	insn.modrm_reg = (uint8_t)n;
	insn.modrm_rm = FT_RDX;
	cpu()->gpr[FT_RDX] = value;
	return stand_run(insn);
}

static void control_registers_refuse(void **state)
{
	uint64_t cr0 = cpu()->cr0, cr4 = cpu()->cr4;
	const struct {
		unsigned n;
		uint64_t value;
	} cases[] = {
	    {0, cr0 & ~(uint64_t)CR0_PG}, /* not from 64-bit code */
	    {0, cr0 & ~(uint64_t)CR0_PE},
	    {0, cr0 | CR0_NW},
	    {0, cr0 | 1ull << 32},
	    {3, 1ull << 40},
	    {3, 1ull << 63},
	    {4, cr4 & ~(uint64_t)CR4_PAE},
	    {4, cr4 | 1u << 12},
	    {4, cr4 | 1u << 21},
	    {4, cr4 | 1u << 18},
	    {4, cr4 | CR4_FSGSBASE},
	    {8, 16},
	};
	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint64_t rip = cpu()->rip;
		assert_int_equal(to_cr(cases[i].n, cases[i].value), SOFT_FAULT);
		stand_expect_fault(SOFT_GP, 0);
		assert_int_equal(cpu()->rip, rip);
	}
	assert_int_equal(to_cr(1, 0), SOFT_FAULT);
	stand_expect_fault(SOFT_UD, -1);
	stand_ring3();
	assert_int_equal(to_cr(3, 0), SOFT_FAULT);
	stand_expect_fault(SOFT_GP, 0);
	assert_int_equal(cpu()->cr0, cr0);
	assert_int_equal(cpu()->cr4, cr4);
}

static void a_new_space_flushes_and_tells(void **state)
{
	uint8_t byte;
	stand->machine.hooks.mask = FT_HOOK_CR3;
	assert_true(soft_load(cpu(), 0x6000, &byte, 1, true));
	*stand_entry(0x6000) = 0;
	assert_int_equal(to_cr(3, STAND_PML4), SOFT_JUMP);
	assert_int_equal(cpu()->rip, KERNEL + 0x1003);
	assert_false(soft_load(cpu(), 0x6000, &byte, 1, true));
	assert_int_equal(stand->hook_cr3s, 1);
	assert_int_equal(stand->hook_value[1], STAND_PML4);
	assert_true(stand->jump_flushes > 0);
}

static void write_protection_takes_effect_at_once(void **state)
{
	uint8_t byte = 1;
	*stand_entry(0x6000) = 0x6000 | 5;
	assert_int_equal(to_cr(0, cpu()->cr0 & ~(uint64_t)CR0_WP), SOFT_JUMP);
	assert_true(soft_store(cpu(), 0x6000, &byte, 1, false));
	assert_int_equal(to_cr(0, cpu()->cr0 | CR0_WP), SOFT_JUMP);
	assert_false(soft_store(cpu(), 0x6000, &byte, 1, false));
}

static void leaving_and_entering_long_mode(void **state)
{
	assert_int_equal(soft_far_jump(cpu(), SEL_CODE32_0, 0x3000), SOFT_JUMP);
	assert_int_equal(to_cr(0, cpu()->cr0 & ~(uint64_t)CR0_PG), SOFT_JUMP);
	assert_false(cpu()->efer & EFER_LMA);
	assert_int_equal(to_cr(4, 0), SOFT_JUMP);
	assert_int_equal(to_cr(0, cpu()->cr0 | CR0_PG), SOFT_FAULT); /* no PAE */
	stand_expect_fault(SOFT_GP, 0);
	assert_int_equal(to_cr(4, CR4_PAE), SOFT_JUMP);
	assert_int_equal(to_cr(0, cpu()->cr0 | CR0_PG), SOFT_JUMP);
	assert_true(cpu()->efer & EFER_LMA);
	assert_false(cpu()->code64);
}

static enum soft_result msr(enum soft_op op, uint32_t index, uint64_t value)
{
	cpu()->gpr[FT_RCX] = 0xffffffff00000000ull | index;
	if (op == SOFT_OP_WRMSR) {
		cpu()->gpr[FT_RAX] = 0xffffffff00000000ull | (uint32_t)value;
		cpu()->gpr[FT_RDX] = 0xffffffff00000000ull | value >> 32;
	}
	return stand_run(stand_insn(op, 4));
}

static void model_specific_registers(void **state)
{
	static const uint32_t addresses[] = {0xc0000082, 0xc0000083, 0xc0000100, 0xc0000101,
					     0xc0000102, 0x175,      0x176};
	for (unsigned i = 0; i < sizeof(addresses) / sizeof(addresses[0]); i++) {
		assert_int_not_equal(msr(SOFT_OP_WRMSR, addresses[i], 0xffff812345678901), SOFT_FAULT);
		assert_int_not_equal(msr(SOFT_OP_RDMSR, addresses[i], 0), SOFT_FAULT);
		assert_int_equal(cpu()->gpr[FT_RAX], 0x45678901);
		assert_int_equal(cpu()->gpr[FT_RDX], 0xffff8123);
		assert_int_equal(msr(SOFT_OP_WRMSR, addresses[i], 1ull << 47), SOFT_FAULT);
		stand_expect_fault(SOFT_GP, 0);
	}
	static const struct {
		uint32_t index;
		uint64_t value;
	} refused[] = {
	    {0xc0000080, 1u << 14},
	    {0xc0000080, 0x501 & ~0x100}, /* LME while paging */
	    {0xc0000084, 1ull << 32},
	    {0x277, 2},
	    {0x10a, 0},
	    {0x12345, 0},
	    {0x1a0, 1ull << 34},
	    {0xce, 0},
	};
	for (unsigned i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
		assert_int_equal(msr(SOFT_OP_WRMSR, refused[i].index, refused[i].value), SOFT_FAULT);
		stand_expect_fault(SOFT_GP, 0);
	}
	assert_int_equal(msr(SOFT_OP_RDMSR, 0x1b, 0), SOFT_SYNC); /* the platform's */
	assert_int_equal(cpu()->gpr[FT_RAX], 0xfee00900);
	assert_int_equal(msr(SOFT_OP_RDMSR, 0xc0010015, 0), SOFT_FAULT);
	stand_expect_fault(SOFT_GP, 0);
	/* LMA cannot be written; NXE changes what page tables mean. */
	assert_int_equal(msr(SOFT_OP_WRMSR, 0xc0000080, EFER_LME | EFER_SCE), SOFT_JUMP);
	assert_int_equal(cpu()->efer, EFER_LME | EFER_LMA | EFER_SCE);
	stand_ring3();
	assert_int_equal(msr(SOFT_OP_RDMSR, 0xc0000080, 0), SOFT_FAULT);
	stand_expect_fault(SOFT_GP, 0);
}

static void everything_privileged_faults_in_ring3(void **state)
{
	static const enum soft_op ops[] = {
	    SOFT_OP_HLT,         SOFT_OP_CLI,       SOFT_OP_STI,         SOFT_OP_SYSRET, SOFT_OP_LLDT,
	    SOFT_OP_LTR,         SOFT_OP_LMSW,      SOFT_OP_CLTS,        SOFT_OP_RDMSR,  SOFT_OP_WRMSR,
	    SOFT_OP_INVD,        SOFT_OP_WBINVD,    SOFT_OP_SWAPGS,      SOFT_OP_RDPMC,  SOFT_OP_IN,
	    SOFT_OP_MOV_FROM_CR, SOFT_OP_MOV_TO_CR, SOFT_OP_MOV_FROM_DR, SOFT_OP_OUT,    SOFT_OP_INVLPG,
	    SOFT_OP_LGDT,        SOFT_OP_LIDT,      SOFT_OP_MOV_TO_DR,   SOFT_OP_INS,
	};
	for (unsigned i = 0; i < sizeof(ops) / sizeof(ops[0]); i++) {
		stand_ring3();
		struct soft_insn insn = stand_insn(ops[i], 4);
		insn.bytes[0] = ops[i] == SOFT_OP_IN || ops[i] == SOFT_OP_OUT ? 0xec : 0x90;
		insn.memory = ops[i] == SOFT_OP_LGDT || ops[i] == SOFT_OP_LIDT || ops[i] == SOFT_OP_INVLPG;
		struct soft_cpu before = *cpu();
		assert_int_equal(stand_run(insn), SOFT_FAULT);
		stand_expect_fault(SOFT_GP, 0);
		before.fault = cpu()->fault;
		assert_memory_equal(&before, cpu(), sizeof(before));
	}
	/* UMIP hides where the tables are; without it they may be read, as on older processors. */
	struct soft_insn insn = stand_insn(SOFT_OP_SGDT, 8);
	insn.memory = true;
	insn.displacement = 0x5000;
	assert_int_equal(stand_run(insn), SOFT_NEXT);
	cpu()->cr4 |= CR4_UMIP;
	assert_int_equal(stand_run(insn), SOFT_FAULT);
	stand_expect_fault(SOFT_GP, 0);
	cpu()->cr4 |= CR4_TSD;
	assert_int_equal(stand_op(SOFT_OP_RDTSC, 4), SOFT_FAULT);
	stand_expect_fault(SOFT_GP, 0);
	/* And what no mode has. */
	assert_int_equal(stand_op(SOFT_OP_SYSENTER, 4), SOFT_FAULT);
	stand_expect_fault(SOFT_UD, -1);
	assert_int_equal(stand_op(SOFT_OP_RDFSBASE, 8), SOFT_FAULT);
	stand_expect_fault(SOFT_UD, -1);
	insn = stand_insn(SOFT_OP_MOVS, 8);
	insn.lock = 1;
	assert_int_equal(stand_run(insn), SOFT_FAULT);
	stand_expect_fault(SOFT_UD, -1);
}

static void tables_must_be_canonical(void **state)
{
	const struct __attribute__((packed)) {
		uint16_t limit;
		uint64_t base;
	} bad = {0x7f, 1ull << 50};
	struct ft_table gdt = cpu()->gdt;
	struct soft_insn insn = stand_insn(SOFT_OP_LGDT, 8);
	put(0x5000, &bad, sizeof(bad));
	insn.memory = true;
	insn.displacement = 0x5000;
	assert_int_equal(stand_run(insn), SOFT_FAULT);
	stand_expect_fault(SOFT_GP, 0);
	assert_int_equal(cpu()->gdt.base, gdt.base);
	insn.op = SOFT_OP_SGDT;
	assert_int_equal(stand_run(insn), SOFT_NEXT);
	insn.op = SOFT_OP_LIDT;
	assert_int_equal(stand_run(insn), SOFT_NEXT);
	assert_int_equal(cpu()->idt.base, gdt.base);
	assert_int_equal(cpu()->idt.limit, gdt.limit);
}

/* ---- Flags ---- */

static uint64_t popped(uint64_t image, unsigned cpl, unsigned iopl, bool before_if, unsigned size)
{
	cpl ? stand_ring3() : stand_ring0();
	cpu()->gpr[FT_RSP] = 0x8000;
	cpu()->flags = FLAG_ONE | iopl << 12 | (before_if ? SOFT_FLAG_IF : 0);
	put(0x8000, &image, 8);
	assert_int_equal(stand_op(SOFT_OP_POPF, size), SOFT_SYNC);
	assert_int_equal(cpu()->gpr[FT_RSP], 0x8000 + size);
	return cpu()->flags;
}

static void popf_by_privilege(void **state)
{
	uint64_t all = UINT64_MAX,
		 arith = SOFT_FLAGS_ARITH | SOFT_FLAG_TF | SOFT_FLAG_DF | FLAG_NT | FLAG_ONE;
	assert_int_equal(popped(all, 0, 0, false, 8), arith | SOFT_FLAG_IF | FLAG_IOPL | FLAG_AC | FLAG_ID);
	assert_int_equal(popped(all, 0, 0, false, 2), arith | SOFT_FLAG_IF | FLAG_IOPL);
	assert_int_equal(popped(all, 3, 0, false, 8), arith | FLAG_AC | FLAG_ID);
	assert_int_equal(popped(0, 3, 0, true, 8), FLAG_ONE | SOFT_FLAG_IF);
	assert_int_equal(popped(0, 3, 3, true, 8), FLAG_ONE | FLAG_IOPL);
	assert_int_equal(popped(all, 3, 3, false, 8), arith | SOFT_FLAG_IF | FLAG_IOPL | FLAG_AC | FLAG_ID);
	assert_int_equal(popped(0, 0, 3, true, 8), FLAG_ONE);
}

static void pushf_hides_rf_and_vm(void **state)
{
	uint64_t image;
	cpu()->flags |= FLAG_RF | FLAG_VM | FLAG_AC;
	assert_int_equal(stand_op(SOFT_OP_PUSHF, 8), SOFT_NEXT);
	memcpy(&image, stand_ram(STACK0 - KERNEL - 8), 8);
	assert_int_equal(image, FLAG_ONE | SOFT_FLAG_IF | FLAG_AC);
}

static void sti_holds_interrupts_for_one_instruction(void **state)
{
	cpu()->flags &= ~(uint64_t)SOFT_FLAG_IF;
	assert_int_equal(stand_op(SOFT_OP_STI, 8), SOFT_SYNC);
	assert_int_equal(cpu()->shadow_icount, 1001);
	cpu()->icount = 2000;
	assert_int_equal(stand_op(SOFT_OP_STI, 8), SOFT_SYNC); /* was set already: no shadow */
	assert_int_equal(cpu()->shadow_icount, 1001);
	stand_ring3();
	cpu()->flags |= FLAG_IOPL;
	assert_int_equal(stand_op(SOFT_OP_CLI, 8), SOFT_NEXT);
	assert_false(cpu()->flags & SOFT_FLAG_IF);
}

/* ---- System calls ---- */

static void syscall_and_sysret(void **state)
{
	stand_ring3();
	stand->machine.hooks.mask = FT_HOOK_SYSCALL | FT_HOOK_SYSRET;
	cpu()->star = (uint64_t)SEL_CODE32_3 << 48 | 3ull << 48 | (uint64_t)SEL_CODE0 << 32;
	cpu()->lstar = HANDLER(0xff);
	cpu()->fmask = SOFT_FLAG_IF | SOFT_FLAG_TF | FLAG_CF;
	cpu()->gpr[FT_RAX] = 59;
	cpu()->gpr[FT_RDI] = 11;
	cpu()->gpr[FT_R8 + 1] = 16;
	cpu()->flags |= FLAG_CF | FLAG_RF | FLAG_ID;
	struct soft_insn insn = stand_insn(SOFT_OP_SYSCALL, 8);
	insn.length = 2;
	assert_int_equal(stand_run(insn), SOFT_JUMP);
	assert_int_equal(stand->hook_syscalls, 1);
	assert_int_equal(stand->hook_value[0], 59);
	assert_int_equal(stand->hook_value[1], 11);
	assert_int_equal(stand->hook_value[2], 16);
	assert_int_equal(stand->hook_value[3], 0x1000);
	assert_int_equal(cpu()->gpr[FT_RCX], 0x1002);
	assert_int_equal(cpu()->gpr[FT_R8 + 3], FLAG_ONE | SOFT_FLAG_IF | FLAG_CF | FLAG_ID);
	assert_int_equal(cpu()->flags, FLAG_ONE | FLAG_ID);
	assert_int_equal(cpu()->segment[FT_CS].selector, SEL_CODE0);
	assert_int_equal(cpu()->segment[FT_SS].selector, SEL_DATA0);
	assert_int_equal(cpu()->cpl, 0);
	assert_int_equal(cpu()->rip, HANDLER(0xff));

	assert_int_equal(stand_op(SOFT_OP_SYSRET, 4), SOFT_FAULT); /* to 32-bit code */
	stand_expect_fault(SOFT_GP, 0);
	cpu()->gpr[FT_RCX] = 1ull << 47;
	assert_int_equal(stand_op(SOFT_OP_SYSRET, 8), SOFT_FAULT);
	stand_expect_fault(SOFT_GP, 0);
	assert_int_equal(cpu()->cpl, 0);
	cpu()->gpr[FT_RCX] = 0x1002;
	cpu()->gpr[FT_R8 + 3] = UINT64_MAX;
	assert_int_equal(stand_op(SOFT_OP_SYSRET, 8), SOFT_JUMP);
	assert_int_equal(cpu()->flags & (FLAG_RF | FLAG_VM), 0);
	assert_int_equal(cpu()->segment[FT_CS].selector, SEL_CODE3 | 3);
	assert_int_equal(cpu()->segment[FT_SS].selector, SEL_DATA3 | 3);
	assert_int_equal(cpu()->cpl, 3);
	assert_int_equal(stand->hook_sysrets, 1);
	cpu()->efer &= ~(uint64_t)EFER_SCE;
	assert_int_equal(stand_run(insn), SOFT_FAULT);
	stand_expect_fault(SOFT_UD, -1);
}

/* ---- Ports ---- */

static enum soft_result port(enum soft_op op, uint16_t number, unsigned size)
{
	struct soft_insn insn = stand_insn(op, size);
	insn.bytes[0] = 0xec;
	cpu()->gpr[FT_RDX] = 0xabcd0000 | number;
	return stand_run(insn);
}

static void the_io_bitmap_decides_for_ring3(void **state)
{
	uint8_t *map = (uint8_t *)stand_ram(STAND_TSS) + 104;
	stand_ring3();
	assert_int_equal(port(SOFT_OP_IN, 0x3f8, 1), SOFT_FAULT);
	stand_expect_fault(SOFT_GP, 0);
	assert_int_equal(stand->bus_reads, 0);
	map[0x3f8 / 8] = 0xfe;
	stand->bus_answer = 0x5a;
	cpu()->gpr[FT_RAX] = 0x1111111111111111;
	assert_int_equal(port(SOFT_OP_IN, 0x3f8, 1), SOFT_SYNC);
	assert_int_equal(cpu()->gpr[FT_RAX], 0x111111111111115a);
	assert_int_equal(stand->bus_space, FT_SPACE_IO);
	assert_int_equal(stand->bus_address, 0x3f8);
	assert_int_equal(port(SOFT_OP_IN, 0x3f8, 2), SOFT_FAULT); /* its neighbour is closed */
	stand_expect_fault(SOFT_GP, 0);
	map[0x3ff / 8] = 0x7f;
	map[0x400 / 8] = 0;
	assert_int_equal(port(SOFT_OP_OUT, 0x3ff, 4), SOFT_SYNC); /* spans two bytes of the map */
	assert_int_equal(stand->bus_size, 4);
	assert_int_equal(stand->bus_value, 0x1111115a);
	map[0x400 / 8] = 4;
	assert_int_equal(port(SOFT_OP_OUT, 0x3ff, 4), SOFT_FAULT);
	/* The map ends: what is behind it is closed. */
	map[0x2000 - 1] = 0;
	cpu()->tr.limit = 104 + 0x2000 - 1;
	assert_int_equal(port(SOFT_OP_IN, 0xffff, 1), SOFT_FAULT);
	cpu()->tr.limit = 102;
	assert_int_equal(port(SOFT_OP_IN, 0x3f8, 1), SOFT_FAULT);
	cpu()->flags |= FLAG_IOPL;
	assert_int_equal(port(SOFT_OP_IN, 0x80, 4), SOFT_SYNC);
	/* Immediate form. */
	struct soft_insn insn = stand_insn(SOFT_OP_OUT, 1);
	insn.bytes[0] = 0xe6;
	insn.immediate = 0xed;
	assert_int_equal(stand_run(insn), SOFT_SYNC);
	assert_int_equal(stand->bus_address, 0xed);
}

/* ---- CPUID ---- */

static void the_cpu_model(void **state)
{
	cpu()->gpr[FT_RAX] = 1;
	assert_int_equal(stand_op(SOFT_OP_CPUID, 4), SOFT_NEXT);
	uint32_t ecx = (uint32_t)cpu()->gpr[FT_RCX];
	assert_int_equal(ecx & (1u << 26 | 1u << 27 | 1u << 28 | 1u << 30 | 1u << 17 | 1u << 12), 0);
	cpu()->gpr[FT_RAX] = 7;
	cpu()->gpr[FT_RCX] = 0;
	stand_op(SOFT_OP_CPUID, 4);
	uint32_t ebx = (uint32_t)cpu()->gpr[FT_RBX];
	assert_int_equal(ebx & (1u << 3 | 1u << 5 | 1u << 8 | 1u << 16 | 1u << 20),
			 0); /* BMI, AVX2, AVX512F, SMAP */
	/* The clock: crystal * EBX / EAX is the TSC's rate. */
	cpu()->gpr[FT_RAX] = 0x15;
	stand_op(SOFT_OP_CPUID, 4);
	assert_int_equal(cpu()->gpr[FT_RCX] * cpu()->gpr[FT_RBX] / cpu()->gpr[FT_RAX], 1000000000u);
	assert_int_equal(stand_op(SOFT_OP_RDTSCP, 4), SOFT_SYNC);
	assert_int_equal(cpu()->gpr[FT_RAX], 0x55667788);
	assert_int_equal(cpu()->gpr[FT_RDX], 0x11223344);
}

static void swapgs_and_debug_registers(void **state)
{
	cpu()->segment[FT_GS].base = 1;
	cpu()->kernel_gs_base = 2;
	assert_int_equal(stand_op(SOFT_OP_SWAPGS, 8), SOFT_NEXT);
	assert_int_equal(cpu()->segment[FT_GS].base, 2);
	assert_int_equal(cpu()->kernel_gs_base, 1);
	struct soft_insn insn = stand_insn(SOFT_OP_MOV_TO_DR, 8);
	insn.modrm_reg = 7;
	insn.modrm_rm = FT_RBX;
	cpu()->gpr[FT_RBX] = 0xffffffff;
	assert_int_equal(stand_run(insn), SOFT_NEXT);
	assert_int_equal(cpu()->dr[7], 0xffff27ff);
	insn.modrm_reg = 6; /* GD was set */
	assert_int_equal(stand_run(insn), SOFT_FAULT);
	assert_int_equal(cpu()->fault.vector, SOFT_DB);
	assert_int_equal(cpu()->dr[7], 0xffff07ff);
	cpu()->gpr[FT_RBX] = 1ull << 32;
	assert_int_equal(stand_run(insn), SOFT_FAULT);
	stand_expect_fault(SOFT_GP, 0);
	insn.modrm_reg = 4; /* DR6 without CR4.DE */
	cpu()->gpr[FT_RBX] = 0;
	assert_int_equal(stand_run(insn), SOFT_NEXT);
	assert_int_equal(cpu()->dr[6], 0xffff0ff0);
	cpu()->cr4 |= CR4_DE;
	assert_int_equal(stand_run(insn), SOFT_FAULT);
	stand_expect_fault(SOFT_UD, -1);
}

/* ---- Call gates ---- */

#define SEL_GATE    0x80u /* two entries, behind the others */
#define GATE_TARGET (KERNEL + 0x40123456ull)

static void put_gate(uint16_t code, uint64_t rip, unsigned type, unsigned dpl, bool present, uint32_t upper_type)
{
	const uint64_t raw[2] = {(rip & 0xffff) | (uint64_t)code << 16 | (uint64_t)type << 40 | (uint64_t)dpl << 45 | (uint64_t)present << 47 |
				     (rip >> 16 & 0xffff) << 48,
				 rip >> 32 | (uint64_t)upper_type << 40};
	put(STAND_GDT + SEL_GATE, raw, sizeof(raw));
	cpu()->gdt.limit = SEL_GATE + 15;
}

/* Through memory, as LCALL and LJMP of 64-bit code; their offset is not looked at. */
static enum soft_result far_through(enum soft_op op, uint16_t selector)
{
	const struct __attribute__((packed)) {
		uint32_t offset;
		uint16_t selector;
	} far = {0xdeadbeef, selector};
	struct soft_insn insn = stand_insn(op, 4);
	put(0x5000, &far, sizeof(far));
	insn.memory = true;
	insn.displacement = 0x5000;
	insn.length = 3;
	return stand_run(insn);
}

static void a_call_gate_leads_to_ring0_and_back(void **state)
{
	stand_ring3();
	put_gate(SEL_CODE0, GATE_TARGET, 12, 3, true, 0);
	assert_int_equal(far_through(SOFT_OP_FAR_CALL, SEL_GATE | 3), SOFT_JUMP);
	assert_int_equal(cpu()->cpl, 0);
	assert_int_equal(cpu()->rip, GATE_TARGET);
	assert_int_equal(cpu()->segment[FT_CS].selector, SEL_CODE0);
	assert_int_equal(cpu()->segment[FT_SS].selector, 0);
	assert_int_equal(cpu()->gpr[FT_RSP], STACK0 - 32);
	const uint64_t frame[] = {0x1003, SEL_CODE3 | 3, 0x8000, SEL_DATA3 | 3};
	assert_memory_equal(stand_ram(STACK0 - KERNEL - 32), frame, sizeof(frame));
	assert_int_equal(stand_op(SOFT_OP_FAR_RET, 8), SOFT_JUMP);
	assert_int_equal(cpu()->cpl, 3);
	assert_int_equal(cpu()->rip, 0x1003);
	assert_int_equal(cpu()->gpr[FT_RSP], 0x8000);
	assert_int_equal(cpu()->segment[FT_SS].selector, SEL_DATA3 | 3);
}

static void a_call_gate_without_a_change_of_privilege(void **state)
{
	stand_ring0();
	put_gate(SEL_CODE0, GATE_TARGET, 12, 0, true, 0);
	assert_int_equal(far_through(SOFT_OP_FAR_CALL, SEL_GATE), SOFT_JUMP);
	assert_int_equal(cpu()->gpr[FT_RSP], STACK0 - 16);
	assert_int_equal(cpu()->rip, GATE_TARGET);
	const uint64_t frame[] = {KERNEL + 0x1003, SEL_CODE0};
	assert_memory_equal(stand_ram(STACK0 - KERNEL - 16), frame, sizeof(frame));
	stand_ring0();
	assert_int_equal(far_through(SOFT_OP_FAR_JMP, SEL_GATE), SOFT_JUMP);
	assert_int_equal(cpu()->gpr[FT_RSP], STACK0);
	assert_int_equal(cpu()->rip, GATE_TARGET);
	/* Conforming code runs with the caller's privilege. */
	stand_ring3();
	put_gate(SEL_CONFORMING, 0x2000, 12, 3, true, 0);
	assert_int_equal(far_through(SOFT_OP_FAR_JMP, SEL_GATE), SOFT_JUMP);
	assert_int_equal(cpu()->cpl, 3);
	assert_int_equal(cpu()->segment[FT_CS].selector, SEL_CONFORMING | 3);
}

static void call_gates_refuse(void **state)
{
	static const struct {
		unsigned cpl;
		uint16_t selector, code;
		uint64_t rip;
		unsigned type, dpl;
		bool present;
		uint32_t upper_type;
		enum soft_op op;
		unsigned vector;
		long error;
	} cases[] = {
	    {3, SEL_GATE | 3, SEL_CODE0, 0x2000, 12, 0, true, 0, SOFT_OP_FAR_CALL, SOFT_GP, SEL_GATE},
	    {0, SEL_GATE | 3, SEL_CODE0, 0x2000, 12, 2, true, 0, SOFT_OP_FAR_CALL, SOFT_GP, SEL_GATE},
	    {3, SEL_GATE | 3, SEL_CODE0, 0x2000, 12, 3, false, 0, SOFT_OP_FAR_CALL, SOFT_NP, SEL_GATE},
	    {3, SEL_GATE | 3, SEL_CODE0, 0x2000, 12, 3, true, 1, SOFT_OP_FAR_CALL, SOFT_GP, SEL_GATE},
	    {3, SEL_GATE | 3, SEL_CODE0, 0x2000, 4, 3, true, 0, SOFT_OP_FAR_CALL, SOFT_GP, SEL_GATE},
	    {3, SEL_GATE | 3, 3, 0x2000, 12, 3, true, 0, SOFT_OP_FAR_CALL, SOFT_GP, 0},
	    {3, SEL_GATE | 3, SEL_DATA0, 0x2000, 12, 3, true, 0, SOFT_OP_FAR_CALL, SOFT_GP, SEL_DATA0},
	    {3, SEL_GATE | 3, SEL_CODE32_0, 0x2000, 12, 3, true, 0, SOFT_OP_FAR_CALL, SOFT_GP, SEL_CODE32_0},
	    {0, SEL_GATE, SEL_CODE3, 0x2000, 12, 3, true, 0, SOFT_OP_FAR_CALL, SOFT_GP, SEL_CODE3},
	    {3, SEL_GATE | 3, SEL_CODE0, 0x2000, 12, 3, true, 0, SOFT_OP_FAR_JMP, SOFT_GP, SEL_CODE0},
	    {3, SEL_GATE | 3, SEL_CODE0, 1ull << 47, 12, 3, true, 0, SOFT_OP_FAR_CALL, SOFT_GP, 0},
	    {3, SEL_GATE | 11, SEL_CODE0, 0x2000, 12, 3, true, 0, SOFT_OP_FAR_CALL, SOFT_GP, SEL_GATE + 8},
	};
	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		cases[i].cpl ? stand_ring3() : stand_ring0();
		put_gate(cases[i].code, cases[i].rip, cases[i].type, cases[i].dpl, cases[i].present, cases[i].upper_type);
		struct soft_cpu before = *cpu();
		assert_int_equal(far_through(cases[i].op, cases[i].selector), SOFT_FAULT);
		stand_expect_fault(cases[i].vector, cases[i].error);
		before.fault = cpu()->fault;
		assert_memory_equal(before.gpr, cpu()->gpr, sizeof(before.gpr));
		assert_int_equal(before.cpl, cpu()->cpl);
		assert_int_equal(before.rip, cpu()->rip);
	}
	/* The second half must be there, too. */
	stand_ring3();
	put_gate(SEL_CODE0, 0x2000, 12, 3, true, 0);
	cpu()->gdt.limit = SEL_GATE + 7;
	assert_int_equal(far_through(SOFT_OP_FAR_CALL, SEL_GATE | 3), SOFT_FAULT);
	stand_expect_fault(SOFT_GP, SEL_GATE);
	/* And a stack of the TSS that can be pushed to. */
	put_gate(SEL_CODE0, 0x2000, 12, 3, true, 0);
	*stand_entry(STACK0 - 32) = 0;
	assert_int_equal(far_through(SOFT_OP_FAR_CALL, SEL_GATE | 3), SOFT_FAULT);
	stand_expect_page_fault(2, STACK0 - 8);
	assert_int_equal(cpu()->cpl, 3);
	uint64_t bad = 1ull << 62;
	put(STAND_TSS + 4, &bad, 8);
	assert_int_equal(far_through(SOFT_OP_FAR_CALL, SEL_GATE | 3), SOFT_FAULT);
	stand_expect_fault(SOFT_SS, 0);
	cpu()->tr.limit = 10;
	assert_int_equal(far_through(SOFT_OP_FAR_CALL, SEL_GATE | 3), SOFT_FAULT);
	stand_expect_fault(SOFT_TS, SEL_TSS);
}

/* ---- What the vendors do otherwise ---- */

static void sysenter_leads_nowhere(void **state)
{
	cpu()->sysenter_esp = STACK0;
	cpu()->sysenter_eip = KERNEL + 0x2000;
	stand_ring3();
	for (unsigned intel = 0; intel < 2; intel++) {
		cpu()->intel = intel;
		cpu()->sysenter_cs = SEL_CODE0 | 3;
		assert_int_equal(stand_op(SOFT_OP_SYSENTER, 4), SOFT_FAULT);
		stand_expect_fault(SOFT_UD, -1);
		cpu()->sysenter_cs = 3;
		assert_int_equal(stand_op(SOFT_OP_SYSENTER, 4), SOFT_FAULT);
		stand_expect_fault(intel ? SOFT_GP : SOFT_UD, intel ? 0 : -1);
	}
	assert_int_equal(cpu()->cpl, 3);
}

static void sysexit_is_everybodys_on_kvm(void **state)
{
	for (unsigned intel = 0; intel < 2; intel++) {
		stand_ring0();
		cpu()->intel = intel;
		cpu()->sysenter_cs = 0;
		cpu()->gpr[FT_RDX] = 0x2000;
		cpu()->gpr[FT_RCX] = 0x7000;
		assert_int_equal(stand_op(SOFT_OP_SYSEXIT, 8), SOFT_FAULT);
		stand_expect_fault(SOFT_GP, 0);
		cpu()->sysenter_cs = SEL_CODE0;
		assert_int_equal(stand_op(SOFT_OP_SYSEXIT, 4), SOFT_FAULT); /* to 32-bit code */
		stand_expect_fault(SOFT_GP, 0);
		cpu()->gpr[FT_RCX] = 1ull << 47;
		assert_int_equal(stand_op(SOFT_OP_SYSEXIT, 8), SOFT_FAULT);
		stand_expect_fault(SOFT_GP, 0);
		cpu()->gpr[FT_RCX] = 0x7000;
		assert_int_equal(stand_op(SOFT_OP_SYSEXIT, 8), SOFT_JUMP);
		assert_int_equal(cpu()->cpl, 3);
		assert_int_equal(cpu()->rip, 0x2000);
		assert_int_equal(cpu()->gpr[FT_RSP], 0x7000);
		assert_int_equal(cpu()->segment[FT_CS].selector, (SEL_CODE0 + 32) | 3);
		assert_int_equal(cpu()->segment[FT_SS].selector, (SEL_CODE0 + 40) | 3);
		assert_int_equal(stand_op(SOFT_OP_SYSEXIT, 8), SOFT_FAULT);
		stand_expect_fault(SOFT_GP, 0);
	}
}

static void counters_virtualization_and_calls(void **state)
{
	static const struct {
		bool intel;
		uint32_t host;
		unsigned cpl;
		enum soft_op op;
		unsigned vector; /* 0: none */
	} cases[] = {
	    {false, 0, 0, SOFT_OP_SVM, SOFT_UD},
	    {false, 0, 3, SOFT_OP_SVM, SOFT_GP},
	    {true, 0, 3, SOFT_OP_SVM, SOFT_UD},
	    {false, 0, 3, SOFT_OP_SKINIT, SOFT_UD},
	    {false, SOFT_HOST_SKINIT, 3, SOFT_OP_SKINIT, SOFT_GP},
	    {false, SOFT_HOST_SKINIT, 0, SOFT_OP_SKINIT, SOFT_UD},
	    {false, 0, 0, SOFT_OP_VMCALL, SOFT_UD},
	    {false, 0, 3, SOFT_OP_VMCALL, SOFT_GP},
	    {false, 0, 3, SOFT_OP_VMMCALL, 0},
	    {true, 0, 3, SOFT_OP_VMMCALL, SOFT_UD},
	    {true, 0, 3, SOFT_OP_VMCALL, 0},
	};
	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		cases[i].cpl ? stand_ring3() : stand_ring0();
		cpu()->intel = cases[i].intel;
		cpu()->host = cases[i].host;
		assert_int_equal(stand_op(cases[i].op, 4), cases[i].vector ? SOFT_FAULT : SOFT_NEXT);
		if (cases[i].vector)
			stand_expect_fault(cases[i].vector, cases[i].vector == SOFT_GP ? 0 : -1);
	}
	stand_ring0();
	cpu()->intel = false;
	for (uint32_t n = 0; n < 6; n++) {
		cpu()->gpr[FT_RCX] = n | 0xc0000000;
		cpu()->gpr[FT_RAX] = cpu()->gpr[FT_RDX] = UINT64_MAX;
		assert_int_equal(stand_op(SOFT_OP_RDPMC, 4), n < 4 ? SOFT_NEXT : SOFT_FAULT);
		if (n < 4)
			assert_int_equal(cpu()->gpr[FT_RAX] | cpu()->gpr[FT_RDX], 0);
		else
			stand_expect_fault(SOFT_GP, 0);
	}
	cpu()->gpr[FT_RCX] = 0;
	stand_ring3();
	cpu()->cr4 |= CR4_PCE;
	assert_int_equal(stand_op(SOFT_OP_RDPMC, 4), SOFT_NEXT);
	cpu()->intel = true;
	assert_int_equal(stand_op(SOFT_OP_RDPMC, 4), SOFT_FAULT);
	stand_expect_fault(SOFT_GP, 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, stand_make, stand_drop)
	const struct CMUnitTest tests[] = {
	    TEST(segment_loads),
	    TEST(a_null_fs_loses_its_base),
	    TEST(ldt_and_task_register),
	    TEST(descriptors_can_be_inspected),
	    TEST(fs_and_gs_on_the_stack),
	    TEST(control_registers_refuse),
	    TEST(a_new_space_flushes_and_tells),
	    TEST(write_protection_takes_effect_at_once),
	    TEST(leaving_and_entering_long_mode),
	    TEST(model_specific_registers),
	    TEST(everything_privileged_faults_in_ring3),
	    TEST(tables_must_be_canonical),
	    TEST(popf_by_privilege),
	    TEST(pushf_hides_rf_and_vm),
	    TEST(sti_holds_interrupts_for_one_instruction),
	    TEST(syscall_and_sysret),
	    TEST(the_io_bitmap_decides_for_ring3),
	    TEST(the_cpu_model),
	    TEST(swapgs_and_debug_registers),
	    TEST(a_call_gate_leads_to_ring0_and_back),
	    TEST(a_call_gate_without_a_change_of_privilege),
	    TEST(call_gates_refuse),
	    TEST(sysenter_leads_nowhere),
	    TEST(sysexit_is_everybodys_on_kvm),
	    TEST(counters_virtualization_and_calls),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
