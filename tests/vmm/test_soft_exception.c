/* Interrupts, exceptions and far transfers: what is pushed, where it goes, which error comes instead. */
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

static uint64_t kernel_word(uint64_t va)
{
	uint64_t value;
	memcpy(&value, stand_ram(va - KERNEL), 8);
	return value;
}

static void set_kernel_word(uint64_t va, uint64_t value)
{
	memcpy(stand_ram(va - KERNEL), &value, 8);
}

static void a_fault_from_ring3_changes_stacks(void **state)
{
	stand_ring3();
	cpu()->flags |= SOFT_FLAG_TF | FLAG_NT | FLAG_AC | SOFT_FLAG_DF;
	uint64_t flags = cpu()->flags;
	soft_raise(cpu(), SOFT_PF, true, 6, 0x123456);
	assert_true(soft_deliver(cpu()));
	assert_int_equal(cpu()->cr2, 0x123456);
	assert_int_equal(cpu()->rip, HANDLER(14));
	assert_int_equal(cpu()->cpl, 0);
	assert_int_equal(cpu()->segment[FT_CS].selector, SEL_CODE0);
	assert_int_equal(cpu()->segment[FT_SS].selector, 0);
	assert_int_equal(cpu()->gpr[FT_RSP], STACK0 - 48);
	assert_int_equal(kernel_word(STACK0 - 48), 6);
	assert_int_equal(kernel_word(STACK0 - 40), 0x1000);
	assert_int_equal(kernel_word(STACK0 - 32), SEL_CODE3 | 3);
	assert_int_equal(kernel_word(STACK0 - 24), flags | FLAG_RF);
	assert_int_equal(kernel_word(STACK0 - 16), 0x8000);
	assert_int_equal(kernel_word(STACK0 - 8), SEL_DATA3 | 3);
	assert_int_equal(cpu()->flags & (SOFT_FLAG_TF | FLAG_NT | SOFT_FLAG_IF | FLAG_RF), 0);
	assert_true(cpu()->flags & FLAG_AC);
	assert_false(cpu()->fault.pending);
}

static void an_interrupt_in_ring0_aligns_its_frame(void **state)
{
	cpu()->gpr[FT_RSP] = STACK0 - 0x13;
	assert_true(soft_interrupt(cpu(), 0x40));
	assert_int_equal(cpu()->gpr[FT_RSP], STACK0 - 0x20 - 40);
	assert_int_equal(kernel_word(STACK0 - 0x20 - 40), KERNEL + 0x1000);
	assert_int_equal(kernel_word(STACK0 - 0x20 - 24) & FLAG_RF, 0);
	assert_int_equal(kernel_word(STACK0 - 0x20 - 16), STACK0 - 0x13);
	assert_int_equal(kernel_word(STACK0 - 0x20 - 8), SEL_DATA0);
	assert_int_equal(cpu()->segment[FT_SS].selector, SEL_DATA0);
}

static void ist_and_trap_gates(void **state)
{
	stand_gate(0x41, 0xf, 0, 1, true, SEL_CODE0);
	assert_true(soft_interrupt(cpu(), 0x41));
	assert_int_equal(cpu()->gpr[FT_RSP], STACK_IST - 40);
	assert_true(cpu()->flags & SOFT_FLAG_IF);
}

static void nmi_masks_until_iret(void **state)
{
	assert_true(soft_interrupt(cpu(), SOFT_NMI));
	assert_true(cpu()->nmi_masked);
	assert_int_equal(stand_op(SOFT_OP_IRET, 8), SOFT_JUMP);
	assert_false(cpu()->nmi_masked);
	assert_int_equal(cpu()->rip, KERNEL + 0x1000);
	assert_int_equal(cpu()->gpr[FT_RSP], STACK0);
	assert_true(cpu()->flags & SOFT_FLAG_IF);
}

/* The vector that is delivered when `vector` is raised and the gate of `broken` is not there. */
static unsigned delivered(unsigned vector, bool has_error, unsigned broken)
{
	stand_ring3();
	stand_gate(broken, 0xe, 0, 0, false, SEL_CODE0);
	soft_raise(cpu(), (uint8_t)vector, has_error, 0, 0);
	bool alive = soft_deliver(cpu());
	stand_gate(broken, 0xe, 0, 0, true, SEL_CODE0);
	return alive ? (unsigned)(cpu()->rip - HANDLER(0)) / 16 : 99;
}

static void faults_in_delivery_escalate(void **state)
{
	/* #GP with a broken gate: #NP while #GP is contributory: #DF. */
	assert_int_equal(delivered(SOFT_GP, true, SOFT_GP), SOFT_DF);
	assert_int_equal(kernel_word(cpu()->gpr[FT_RSP]), 0);
	assert_int_equal(kernel_word(cpu()->gpr[FT_RSP] + 8), 0x1000);
	assert_int_equal(delivered(SOFT_PF, true, SOFT_PF), SOFT_DF);
	/* A benign one is replaced by what went wrong, with EXT and IDT set in its error code. */
	assert_int_equal(delivered(SOFT_UD, false, SOFT_UD), SOFT_NP);
	assert_int_equal(kernel_word(cpu()->gpr[FT_RSP]), SOFT_UD * 8 + 3);
	assert_int_equal(delivered(SOFT_DE, false, SOFT_DE), SOFT_DF);
	/* The double fault fails, too. */
	stand_gate(SOFT_DF, 0xe, 0, 0, false, SEL_CODE0);
	assert_int_equal(delivered(SOFT_GP, true, SOFT_GP), 99);
}

static void a_stack_that_faults_is_a_double_fault_on_its_ist(void **state)
{
	stand_gate(SOFT_DF, 0xe, 0, 1, true, SEL_CODE0);
	cpu()->gpr[FT_RSP] = KERNEL + 0x10008;
	*stand_entry(KERNEL + 0xf000) = 0;
	soft_raise(cpu(), SOFT_PF, true, 2, KERNEL + 0xfff0);
	assert_true(soft_deliver(cpu()));
	assert_int_equal(cpu()->rip, HANDLER(SOFT_DF));
	assert_int_equal(cpu()->gpr[FT_RSP], STACK_IST - 48);
	assert_int_equal(kernel_word(STACK_IST - 16), KERNEL + 0x10008);
}

static void a_failed_delivery_changes_nothing(void **state)
{
	stand_ring3();
	*stand_entry(STACK0 - 8) = 0;
	struct soft_cpu before = *cpu();
	struct soft_insn insn = stand_insn(SOFT_OP_INT3, 8);
	assert_int_equal(stand_run(insn), SOFT_FAULT);
	stand_expect_page_fault(2, STACK0 - 8); /* of the first push */
	assert_memory_equal(cpu()->gpr, before.gpr, sizeof(before.gpr));
	assert_int_equal(cpu()->rip, before.rip);
	assert_int_equal(cpu()->flags, before.flags);
	assert_memory_equal(cpu()->segment, before.segment, sizeof(before.segment));
}

static void software_interrupts_need_the_gates_privilege(void **state)
{
	struct soft_insn insn = stand_insn(SOFT_OP_INT, 8);
	stand_ring3();
	insn.length = 2;
	insn.immediate = 0x40;
	assert_int_equal(stand_run(insn), SOFT_FAULT);
	stand_expect_fault(SOFT_GP, 0x40 * 8 + 2);
	insn.immediate = 0x80;
	assert_int_equal(stand_run(insn), SOFT_JUMP);
	assert_int_equal(cpu()->rip, HANDLER(0x80));
	assert_int_equal(kernel_word(STACK0 - 40), 0x1002);
	/* INT3 is checked, INT1 is not. */
	stand_ring3();
	stand_gate(3, 0xe, 0, 0, true, SEL_CODE0);
	assert_int_equal(stand_op(SOFT_OP_INT3, 8), SOFT_FAULT);
	stand_expect_fault(SOFT_GP, 3 * 8 + 2);
	assert_int_equal(stand_op(SOFT_OP_INT1, 8), SOFT_JUMP);
	assert_int_equal(cpu()->rip, HANDLER(1));
}

static void bad_gates(void **state)
{
	struct soft_insn insn = stand_insn(SOFT_OP_INT, 8);
	insn.immediate = 0x90;
	const struct {
		unsigned type;
		uint16_t selector;
		unsigned vector;
		long error;
	} cases[] = {
	    {0xc, SEL_CODE0, SOFT_GP, 0x90 * 8 + 2}, /* not an interrupt gate */
	    {0xe, SEL_NULL, SOFT_GP, 0},
	    {0xe, SEL_DATA0, SOFT_GP, SEL_DATA0},
	    {0xe, SEL_CODE32_0, SOFT_GP, SEL_CODE32_0}, /* must be 64-bit */
	    {0xe, SEL_CODE3, SOFT_GP, SEL_CODE3},       /* less privileged */
	    {0xe, 0x400, SOFT_GP, 0x400},               /* outside of the table */
	    {0xe, 0x0c, SOFT_GP, 0x0c},                 /* LDT without one */
	};
	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		stand_gate(0x90, cases[i].type, 3, 0, true, cases[i].selector);
		assert_int_equal(stand_run(insn), SOFT_FAULT);
		stand_expect_fault(cases[i].vector, cases[i].error);
	}
	cpu()->idt.limit = 0x90 * 16 + 14;
	stand_gate(0x90, 0xe, 3, 0, true, SEL_CODE0);
	assert_int_equal(stand_run(insn), SOFT_FAULT);
	stand_expect_fault(SOFT_GP, 0x90 * 8 + 2);
	/* TSS too small for the IST entry; IST not canonical. */
	stand_gate(0x40, 0xe, 3, 7, true, SEL_CODE0);
	insn.immediate = 0x40;
	cpu()->tr.limit = 0x50;
	assert_int_equal(stand_run(insn), SOFT_FAULT);
	stand_expect_fault(SOFT_TS, SEL_TSS);
	stand_gate(0x40, 0xe, 3, 1, true, SEL_CODE0);
	memcpy(stand_ram(STAND_TSS + 36), &(uint64_t){1ull << 60}, 8);
	assert_int_equal(stand_run(insn), SOFT_FAULT);
	stand_expect_fault(SOFT_SS, 0);
}

static void a_conforming_handler_keeps_the_privilege(void **state)
{
	stand_ring3();
	stand_gate(0x80, 0xe, 3, 0, true, SEL_CONFORMING);
	struct soft_insn insn = stand_insn(SOFT_OP_INT, 8);
	insn.immediate = 0x80;
	for (unsigned page = 0; page < 512; page++)
		*(uint64_t *)stand_ram(STAND_PT + page * 8) |= 7;
	assert_int_equal(stand_run(insn), SOFT_JUMP);
	assert_int_equal(cpu()->cpl, 3);
	assert_int_equal(cpu()->gpr[FT_RSP], 0x8000 - 40);
}

static void hooks_see_ring3_faults_only(void **state)
{
	stand->machine.hooks.mask = FT_HOOK_FAULT;
	soft_raise(cpu(), SOFT_GP, true, 0, 0);
	assert_true(soft_deliver(cpu()));
	assert_int_equal(stand->hook_faults, 0);
	stand_ring3();
	soft_raise(cpu(), SOFT_PF, true, 7, 0x5555);
	assert_true(soft_deliver(cpu()));
	assert_int_equal(stand->hook_faults, 1);
	assert_int_equal(stand->hook_value[0], SOFT_PF);
	assert_int_equal(stand->hook_value[1], 7);
	assert_int_equal(stand->hook_value[2], 0x5555);
	assert_int_equal(stand->hook_value[3], 0x1000);
	assert_int_equal(stand->machine.icount, 1000);
}

/* ---- IRET and far returns ---- */

static void frame(uint64_t rip, uint64_t cs, uint64_t flags, uint64_t rsp, uint64_t ss)
{
	const uint64_t words[] = {rip, cs, flags, rsp, ss};
	for (unsigned i = 0; i < 5; i++)
		set_kernel_word(STACK0 - 40 + i * 8, words[i]);
	cpu()->gpr[FT_RSP] = STACK0 - 40;
}

static void iret_to_ring3(void **state)
{
	stand->machine.hooks.mask = FT_HOOK_SYSRET;
	cpu()->segment[FT_DS] = soft_flat_data(SEL_DATA0, 0);
	cpu()->segment[FT_FS] = soft_flat_data(SEL_DATA3 | 3, 3);
	cpu()->segment[FT_FS].base = 0x7000;
	frame(0x2000, SEL_CODE3 | 3, FLAG_ONE | SOFT_FLAG_IF | FLAG_IOPL | FLAG_CF | FLAG_RF | FLAG_VM,
	      0x9000, SEL_DATA3 | 3);
	assert_int_equal(stand_op(SOFT_OP_IRET, 8), SOFT_JUMP);
	assert_int_equal(cpu()->cpl, 3);
	assert_int_equal(cpu()->rip, 0x2000);
	assert_int_equal(cpu()->gpr[FT_RSP], 0x9000);
	assert_int_equal(cpu()->flags, FLAG_ONE | SOFT_FLAG_IF | FLAG_IOPL | FLAG_CF);
	assert_int_equal(cpu()->segment[FT_DS].selector, 0);
	assert_int_equal(cpu()->segment[FT_DS].attributes, 0);
	assert_int_equal(cpu()->segment[FT_FS].base, 0x7000);
	assert_int_equal(stand->hook_sysrets, 1);
}

static void iret_refuses(void **state)
{
	const struct {
		uint64_t rip, cs, ss;
		unsigned vector;
		long error;
	} cases[] = {
	    {0x2000, SEL_CODE32_3 | 3, SEL_DATA3 | 3, SOFT_GP, SEL_CODE32_3}, /* 32-bit process */
	    {0x2000, 0, SEL_DATA3 | 3, SOFT_GP, 0},
	    {0x2000, SEL_DATA3 | 3, SEL_DATA3 | 3, SOFT_GP, SEL_DATA3},
	    {0x2000, SEL_CODE0 | 3, SEL_DATA3 | 3, SOFT_GP, SEL_CODE0}, /* DPL is not RPL */
	    {1ull << 47, SEL_CODE3 | 3, SEL_DATA3 | 3, SOFT_GP, 0},
	    {0x2000, SEL_CODE3 | 3, SEL_NULL | 3, SOFT_GP, 0},
	    {0x2000, SEL_CODE3 | 3, SEL_DATA0 | 3, SOFT_GP, SEL_DATA0},
	    {0x2000, SEL_CODE3 | 3, SEL_DATA3, SOFT_GP, SEL_DATA3},
	    {0x2000, SEL_CODE0, SEL_READ_ONLY, SOFT_GP, SEL_READ_ONLY},
	    {0x2000, SEL_CODE0, SEL_NOT_PRESENT, SOFT_SS, SEL_NOT_PRESENT},
	    {0x2000, 0x200, SEL_DATA0, SOFT_GP, 0x200},
	};
	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		frame(cases[i].rip, cases[i].cs, FLAG_ONE, 0x9000, cases[i].ss);
		assert_int_equal(stand_op(SOFT_OP_IRET, 8), SOFT_FAULT);
		stand_expect_fault(cases[i].vector, cases[i].error);
		assert_int_equal(cpu()->cpl, 0);
		assert_int_equal(cpu()->gpr[FT_RSP], STACK0 - 40);
		assert_int_equal(cpu()->rip, KERNEL + 0x1000);
	}
	cpu()->flags |= FLAG_NT;
	frame(0x2000, SEL_CODE0, FLAG_ONE, 0x9000, SEL_DATA0);
	assert_int_equal(stand_op(SOFT_OP_IRET, 8), SOFT_FAULT);
	stand_expect_fault(SOFT_GP, 0);
}

static void ring3_cannot_return_upwards(void **state)
{
	const uint64_t words[] = {0x2000, SEL_CODE0, FLAG_ONE | FLAG_IOPL, 0x9000, SEL_DATA0};
	stand_ring3();
	cpu()->gpr[FT_RSP] = 0x8000;
	memcpy(stand_ram(0x8000), words, sizeof(words));
	assert_int_equal(stand_op(SOFT_OP_IRET, 8), SOFT_FAULT);
	stand_expect_fault(SOFT_GP, SEL_CODE0);
	struct soft_insn insn = stand_insn(SOFT_OP_FAR_RET, 8);
	insn.bytes[0] = 0x48;
	insn.bytes[1] = 0xcb;
	assert_int_equal(stand_run(insn), SOFT_FAULT);
	stand_expect_fault(SOFT_GP, SEL_CODE0);
	/* Within ring 3 IRET works, and gives neither IOPL nor IF. */
	const uint64_t fine[] = {0x2000, SEL_CODE3 | 3, FLAG_ONE | FLAG_IOPL | FLAG_CF, 0x9000,
				 SEL_DATA3 | 3};
	memcpy(stand_ram(0x8000), fine, sizeof(fine));
	assert_int_equal(stand_op(SOFT_OP_IRET, 8), SOFT_JUMP);
	assert_int_equal(cpu()->flags, FLAG_ONE | SOFT_FLAG_IF | FLAG_CF);
}

static void far_return_to_the_trampoline_and_back(void **state)
{
	struct soft_insn insn = stand_insn(SOFT_OP_FAR_RET, 8);
	insn.bytes[0] = 0x48;
	insn.bytes[1] = 0xcb;
	set_kernel_word(STACK0 - 16, 0x3000);
	set_kernel_word(STACK0 - 8, SEL_CODE32_0);
	cpu()->gpr[FT_RSP] = STACK0 - 16;
	assert_int_equal(stand_run(insn), SOFT_JUMP);
	assert_false(cpu()->code64);
	assert_int_equal(cpu()->rip, 0x3000);
	assert_int_equal(cpu()->gpr[FT_RSP], STACK0);
	assert_int_equal(soft_far_jump(cpu(), SEL_CODE0, KERNEL + 5), SOFT_JUMP);
	assert_true(cpu()->code64);
	/* CA releases, and a return outwards takes the stack from there. */
	insn.bytes[1] = 0xca;
	insn.immediate = 16;
	const uint64_t words[] = {0x2000, SEL_CODE3 | 3, 0, 0, 0x9000, SEL_DATA3 | 3};
	memcpy(stand_ram(STACK0 - KERNEL - 48), words, sizeof(words));
	cpu()->gpr[FT_RSP] = STACK0 - 48;
	assert_int_equal(stand_run(insn), SOFT_JUMP);
	assert_int_equal(cpu()->cpl, 3);
	assert_int_equal(cpu()->gpr[FT_RSP], 0x9000 + 16);
}

static void far_call_pushes_only_when_all_is_well(void **state)
{
	struct soft_insn insn = stand_insn(SOFT_OP_FAR_CALL, 8);
	insn.memory = true;
	insn.displacement = 0x5000;
	const uint64_t target[] = {0x4000, SEL_CODE0};
	memcpy(stand_ram(0x5000), target, sizeof(target));
	assert_int_equal(stand_run(insn), SOFT_JUMP);
	assert_int_equal(cpu()->rip, 0x4000);
	assert_int_equal(kernel_word(STACK0 - 16), KERNEL + 0x1003);
	assert_int_equal(kernel_word(STACK0 - 8), SEL_CODE0);
	stand_ring0();
	cpu()->gpr[FT_RSP] = KERNEL + 0x10000;
	*stand_entry(KERNEL + 0xf000) = 0;
	assert_int_equal(stand_run(insn), SOFT_FAULT);
	stand_expect_page_fault(2, KERNEL + 0xfff0);
	assert_int_equal(cpu()->rip, KERNEL + 0x1000);
	memcpy(stand_ram(0x5008), &(uint16_t){SEL_TSS}, 2);
	assert_int_equal(stand_run(insn), SOFT_FAULT);
	stand_expect_fault(SOFT_GP, SEL_TSS);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, stand_make, stand_drop)
	const struct CMUnitTest tests[] = {
	    TEST(a_fault_from_ring3_changes_stacks),
	    TEST(an_interrupt_in_ring0_aligns_its_frame),
	    TEST(ist_and_trap_gates),
	    TEST(nmi_masks_until_iret),
	    TEST(faults_in_delivery_escalate),
	    TEST(a_stack_that_faults_is_a_double_fault_on_its_ist),
	    TEST(a_failed_delivery_changes_nothing),
	    TEST(software_interrupts_need_the_gates_privilege),
	    TEST(bad_gates),
	    TEST(a_conforming_handler_keeps_the_privilege),
	    TEST(hooks_see_ring3_faults_only),
	    TEST(iret_to_ring3),
	    TEST(iret_refuses),
	    TEST(ring3_cannot_return_upwards),
	    TEST(far_return_to_the_trampoline_and_back),
	    TEST(far_call_pushes_only_when_all_is_well),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
