/* String instructions against a model that works element by element, over pages that lie scattered in RAM; restart after
 * faults; ports; FPU images; the 32-bit interpreter on a boot trampoline. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "soft_stand.h"

#define FIRST 0x10000ull /* 8 pages of playground */
#define PAGES 8u

static struct soft_cpu *cpu(void)
{
	return &stand->cpu;
}

static unsigned seed = 1;

static uint64_t draw(uint64_t below)
{
	return ((uint64_t)rand_r(&seed) << 31 | (uint64_t)rand_r(&seed)) % below;
}

/* ---- The model: one element at a time, memory as the guest sees it ---- */

static uint8_t view[PAGES * 4096];

struct registers {
	uint64_t rax, rcx, rsi, rdi, flags;
};

static uint64_t element(uint64_t va, unsigned size)
{
	uint64_t value = 0;
	memcpy(&value, view + (va - FIRST), size);
	return value;
}

static uint64_t subtract_flags(uint64_t a, uint64_t b, unsigned size)
{
	uint64_t mask = size == 8 ? UINT64_MAX : (1ull << size * 8) - 1, top = 1ull << (size * 8 - 1);
	a &= mask;
	b &= mask;
	uint64_t r = (a - b) & mask;
	return (a < b ? FLAG_CF : 0) | (r ? 0 : FLAG_ZF) | (r & top ? FLAG_SF : 0) |
	       ((a ^ b) & (a ^ r) & top ? FLAG_OF : 0) | ((a ^ b ^ r) & FLAG_AF) |
	       (__builtin_parity(r & 0xff) ? 0 : FLAG_PF);
}

static void model(enum soft_op op, unsigned size, unsigned repeat, struct registers *r)
{
	uint64_t step = r->flags & SOFT_FLAG_DF ? -(uint64_t)size : size;
	while (!repeat || r->rcx) {
		bool compares = false;
		switch (op) {
		case SOFT_OP_MOVS: {
			uint64_t value = element(r->rsi, size);
			memcpy(view + (r->rdi - FIRST), &value, size);
			break;
		}
		case SOFT_OP_STOS:
			memcpy(view + (r->rdi - FIRST), &r->rax, size);
			break;
		case SOFT_OP_LODS: {
			uint64_t value = element(r->rsi, size);
			r->rax = size == 8   ? value
				 : size == 4 ? value
					     : (r->rax & ~((1ull << size * 8) - 1)) | value;
			break;
		}
		default:
			compares = true;
			r->flags = (r->flags & ~(uint64_t)SOFT_FLAGS_ARITH) |
				   subtract_flags(op == SOFT_OP_CMPS ? element(r->rsi, size) : r->rax,
						  element(r->rdi, size), size);
		}
		if (op != SOFT_OP_STOS && op != SOFT_OP_SCAS)
			r->rsi += step;
		if (op != SOFT_OP_LODS)
			r->rdi += step;
		if (!repeat)
			return;
		r->rcx--;
		if (compares && !(r->flags & FLAG_ZF) == (repeat == 0xf3))
			return;
	}
}

/* ---- */

static void scatter(void)
{
	for (unsigned i = 0; i < PAGES; i++)
		*stand_entry(FIRST + i * 4096) = 0x40000 + ((uint64_t)(i * 5 + 3) % PAGES) * 0x3000 + 7;
}

static void guest_view(uint8_t *to)
{
	for (unsigned i = 0; i < PAGES; i++)
		memcpy(to + i * 4096, stand_ram(*stand_entry(FIRST + i * 4096) & 0xfffff000), 4096);
}

static void fill_guest(void)
{
	for (unsigned i = 0; i < PAGES; i++) {
		uint8_t *page = stand_ram(*stand_entry(FIRST + i * 4096) & 0xfffff000);
		/* Long equal runs, so that comparisons go on for a while. */
		for (unsigned at = 0; at < 4096; at++)
			page[at] = draw(1500) ? 0x20 : (uint8_t)draw(256);
	}
}

static void follow_the_model(bool forked)
{
	static const enum soft_op ops[] = {SOFT_OP_MOVS, SOFT_OP_STOS, SOFT_OP_LODS, SOFT_OP_SCAS,
					   SOFT_OP_CMPS};
	static uint8_t after[PAGES * 4096];
	stand_ring3();
	scatter();
	unsigned again = 0;
	for (unsigned round = 0; round < 4000; round++) {
		enum soft_op op = ops[draw(5)];
		unsigned size = 1u << draw(4), repeat = draw(4) ? (draw(2) ? 0xf3 : 0xf2) : 0;
		bool compares = op == SOFT_OP_SCAS || op == SOFT_OP_CMPS, back = draw(3) == 0;
		if (repeat && !compares)
			repeat = 0xf3;
		if (round % 50 == 0)
			fill_guest();
		if (forked && round % 5 == 0)
			stand_part();
		guest_view(view);
		uint64_t room = 3 * 4096, count = repeat ? draw(room / size) : 1;
		uint64_t source = FIRST + draw(PAGES * 4096 - room - 8),
			 target = FIRST + draw(PAGES * 4096 - room - 8);
		if (draw(3) == 0) /* overlapping closely */
			target = source + draw(24);
		if (back) {
			source += room - size;
			target += room - size;
			if (target > FIRST + PAGES * 4096 - 8)
				target = source;
		}
		if (target + (back ? 8 : room) > FIRST + PAGES * 4096)
			target = source;
		struct registers r = {.rax = 0x2020202020202020,
				      .rcx = count,
				      .rsi = source,
				      .rdi = target,
				      .flags = FLAG_ONE | SOFT_FLAG_IF | FLAG_CF | (back ? SOFT_FLAG_DF : 0)};
		cpu()->gpr[FT_RAX] = r.rax;
		cpu()->gpr[FT_RCX] = r.rcx;
		cpu()->gpr[FT_RSI] = r.rsi;
		cpu()->gpr[FT_RDI] = r.rdi;
		cpu()->flags = r.flags;
		struct soft_insn insn = stand_insn(op, size);
		insn.repeat = (uint8_t)repeat;
		enum soft_result result;
		while ((result = stand_run(insn)) == SOFT_AGAIN)
			again++;
		assert_int_equal(result, SOFT_NEXT);
		model(op, size, repeat, &r);
		guest_view(after);
		assert_memory_equal(after, view, sizeof(view));
		assert_int_equal(cpu()->gpr[FT_RAX], r.rax);
		assert_int_equal(cpu()->gpr[FT_RCX], r.rcx);
		assert_int_equal(cpu()->gpr[FT_RSI], r.rsi);
		assert_int_equal(cpu()->gpr[FT_RDI], r.rdi);
		assert_int_equal(cpu()->flags, r.flags);
	}
	assert_true(again > 500);
}

static void string_instructions_follow_the_model(void **state)
{
	follow_the_model(false);
}

static void so_they_do_where_pages_move(void **state)
{
	follow_the_model(true);
}

static void a_fault_in_the_middle_shows_how_far_it_came(void **state)
{
	struct soft_insn insn = stand_insn(SOFT_OP_MOVS, 8);
	insn.repeat = 0xf3;
	stand_ring3();
	*stand_entry(0x12000) = 0;
	cpu()->gpr[FT_RCX] = 1024;
	cpu()->gpr[FT_RSI] = 0x20000;
	cpu()->gpr[FT_RDI] = 0x11f00 + 4; /* the last element of the page crosses */
	memset(stand_ram(0x20000), 0x77, 8192);
	assert_int_equal(stand_run(insn), SOFT_AGAIN);
	assert_int_equal(stand_run(insn), SOFT_FAULT);
	stand_expect_page_fault(6, 0x12000);
	assert_int_equal(cpu()->gpr[FT_RCX], 1024 - 31);
	assert_int_equal(cpu()->gpr[FT_RDI], 0x11ffc);
	assert_int_equal(*(uint8_t *)stand_ram(0x11ffb), 0x77);
	assert_int_equal(*(uint8_t *)stand_ram(0x11ffc), 0);
	*stand_entry(0x12000) = 0x12000 | 7;
	enum soft_result result;
	while ((result = stand_run(insn)) == SOFT_AGAIN)
		;
	assert_int_equal(result, SOFT_NEXT);
	assert_int_equal(*(uint8_t *)stand_ram(0x11f04 + 8191), 0x77);
	assert_int_equal(*(uint8_t *)stand_ram(0x11f04 + 8192), 0);
}

static void address_size_and_segment(void **state)
{
	struct soft_insn insn = stand_insn(SOFT_OP_MOVS, 4);
	insn.address_size = 4;
	insn.repeat = 0xf3;
	insn.segment = FT_GS;
	cpu()->segment[FT_GS].base = KERNEL;
	cpu()->gpr[FT_RCX] = 0xdead00000002;
	cpu()->gpr[FT_RSI] = 0xdead00020000;
	cpu()->gpr[FT_RDI] = 0xdead00011000;
	memset(stand_ram(0x20000), 0x66, 8);
	assert_int_equal(stand_run(insn), SOFT_NEXT);
	assert_int_equal(*(uint32_t *)stand_ram(0x11004), 0x66666666);
	assert_int_equal(cpu()->gpr[FT_RCX], 0);
	assert_int_equal(cpu()->gpr[FT_RSI], 0x20008);
	assert_int_equal(cpu()->gpr[FT_RDI], 0x11008);
	/* Nothing to do: not even a fault. */
	cpu()->gpr[FT_RDI] = 1ull << 62;
	insn.address_size = 8;
	assert_int_equal(stand_run(insn), SOFT_NEXT);
}

static void writes_are_told_to_translated_code(void **state)
{
	struct soft_insn insn = stand_insn(SOFT_OP_STOS, 8);
	insn.repeat = 0xf3;
	stand->machine.ram.page_flags[0x11] = FT_PAGE_CODE;
	cpu()->gpr[FT_RCX] = 16;
	cpu()->gpr[FT_RDI] = 0x11010;
	assert_int_equal(stand_run(insn), SOFT_NEXT);
	assert_int_equal(stand->code_gpa, 0x11010);
	assert_int_equal(stand->code_size, 128);
	cpu()->flags |= SOFT_FLAG_DF;
	cpu()->gpr[FT_RCX] = 16;
	cpu()->gpr[FT_RDI] = 0x11200;
	assert_int_equal(stand_run(insn), SOFT_NEXT);
	assert_int_equal(stand->code_gpa, 0x11200 - 15 * 8);
	assert_int_equal(stand->code_size, 128);
}

static void ports_in_strings(void **state)
{
	struct soft_insn insn = stand_insn(SOFT_OP_INS, 2);
	insn.repeat = 0xf3;
	stand->bus_answer = 0xbeef;
	cpu()->gpr[FT_RDX] = 0x1f0;
	cpu()->gpr[FT_RCX] = 3;
	cpu()->gpr[FT_RDI] = 0x11000;
	assert_int_equal(stand_run(insn), SOFT_AGAIN);
	assert_int_equal(stand_run(insn), SOFT_AGAIN);
	assert_int_equal(stand_run(insn), SOFT_SYNC);
	assert_int_equal(stand->bus_reads, 3);
	assert_int_equal(*(uint16_t *)stand_ram(0x11004), 0xbeef);
	/* The port is not read when there is no place for the answer. */
	*stand_entry(0x13000) = 0x13000 | 5;
	cpu()->gpr[FT_RCX] = 1;
	cpu()->gpr[FT_RDI] = 0x13000;
	assert_int_equal(stand_run(insn), SOFT_FAULT);
	assert_int_equal(stand->bus_reads, 3);
	insn.op = SOFT_OP_OUTS;
	cpu()->gpr[FT_RSI] = 0x11000;
	assert_int_equal(stand_run(insn), SOFT_SYNC);
	assert_int_equal(stand->bus_value, 0xbeef);
}

/* ---- FPU images ---- */

struct image {
	uint8_t byte[512] __attribute__((aligned(16)));
};

static enum soft_result fpu(enum soft_op op, unsigned size, uint64_t va)
{
	struct soft_insn insn = stand_insn(op, size);
	insn.memory = true;
	insn.displacement = (int64_t)va;
	return stand_run(insn);
}

static void images_hold_no_host_pointers(void **state)
{
	struct image before, after;
	const double half = 0.5, zero = 0;
	memset(stand_ram(0x11000), 0xcc, 512);
	__asm__ volatile("fxsave64 %0" : "=m"(before));
	/* A masked division by zero leaves the address of its operand in the host's FDP. */
	__asm__ volatile("fldl %0; fdivl %1" : : "m"(half), "m"(zero));
	assert_int_equal(fpu(SOFT_OP_FXSAVE, 8, 0x11000), SOFT_NEXT);
	memcpy(&after, stand_ram(0x11000), 512);
	for (unsigned i = 6; i < 24; i++)
		assert_int_equal(after.byte[i], 0);
	/* Some processors store the pointers only while an exception waits. */
	const uint16_t unmasked = 0x37b, usual = 0x37f;
	struct image waiting;
	__asm__ volatile("fnclex; fldcw %0; fldl %1; fdivl %2" : : "m"(unmasked), "m"(half), "m"(zero));
	assert_int_equal(fpu(SOFT_OP_FXSAVE, 8, 0x14000), SOFT_NEXT);
	__asm__ volatile("fnclex; fldcw %0; fstp %%st(0)" : : "m"(usual));
	memcpy(&waiting, stand_ram(0x14000), 512);
	assert_int_equal(waiting.byte[2] & 0x84, 0x84);
	for (unsigned i = 6; i < 24; i++)
		assert_int_equal(waiting.byte[i], 0);
	assert_int_equal(after.byte[28] | after.byte[29] << 8 | after.byte[30] << 16, 0xffff);
	assert_int_equal(after.byte[416], 0xcc); /* not the processor's */
	assert_int_equal(after.byte[2] & 4, 4);  /* ZE */
	assert_int_equal(fpu(SOFT_OP_FNSTENV, 4, 0x12000), SOFT_NEXT);
	for (unsigned i = 12; i < 28; i++)
		assert_int_equal(*(uint8_t *)stand_ram(0x12000 + i), 0);
	assert_int_equal(fpu(SOFT_OP_FNSAVE, 4, 0x13000), SOFT_NEXT);
	for (unsigned i = 12; i < 28; i++)
		assert_int_equal(*(uint8_t *)stand_ram(0x13000 + i), 0);
	/* The register itself came along: infinity. */
	assert_int_equal(*(uint16_t *)stand_ram(0x13000 + 28 + 8), 0x7fff);
	assert_int_equal(fpu(SOFT_OP_FXRSTOR, 8, 0x11000), SOFT_NEXT);
	assert_int_equal(fpu(SOFT_OP_FRSTOR, 4, 0x13000), SOFT_NEXT);
	__asm__ volatile("fxsave64 %0; fxrstor64 %1" : "=m"(after) : "m"(before));
	assert_int_equal(*(uint16_t *)(void *)(after.byte + 40), 0x7fff);
}

static void image_loads_are_checked(void **state)
{
	struct image before, after;
	__asm__ volatile("fxsave64 %0" : "=m"(before));
	assert_int_equal(fpu(SOFT_OP_FXSAVE, 8, 0x11008), SOFT_FAULT);
	stand_expect_fault(SOFT_GP, 0);
	memcpy(stand_ram(0x11000), &before, 512);
	*(uint32_t *)stand_ram(0x11000 + 24) = 0x20000;
	assert_int_equal(fpu(SOFT_OP_FXRSTOR, 8, 0x11000), SOFT_FAULT);
	stand_expect_fault(SOFT_GP, 0);
	cpu()->cr0 |= CR0_TS;
	assert_int_equal(fpu(SOFT_OP_FXSAVE, 8, 0x11000), SOFT_FAULT);
	stand_expect_fault(SOFT_NM, -1);
	cpu()->cr0 &= ~(uint64_t)CR0_TS;
	/* A page that cannot be written: FNSAVE must not have reset anything. */
	*stand_entry(0x13000) = 0x13000 | 5;
	__asm__ volatile("fld1");
	stand_ring3();
	assert_int_equal(fpu(SOFT_OP_FNSAVE, 4, 0x13000), SOFT_FAULT);
	stand_expect_page_fault(7, 0x13000);
	__asm__ volatile("fxsave64 %0; fxrstor64 %1" : "=m"(after) : "m"(before));
	assert_int_equal(*(uint16_t *)(void *)(after.byte + 40), 0x3fff);
}

static void a_waiting_exception_is_the_guests(void **state)
{
	struct image before;
	__asm__ volatile("fxsave64 %0" : "=m"(before));
	memcpy(stand_ram(0x11000), &before, 512);
	*(uint8_t *)stand_ram(0x11000) = 0x7b;    /* FCW: division by zero unmasked */
	*(uint16_t *)stand_ram(0x11002) = 0x8084; /* FSW: it waits */
	assert_int_equal(fpu(SOFT_OP_FXRSTOR, 8, 0x11000), SOFT_NEXT);
	assert_int_equal(fpu(SOFT_OP_FLDENV, 4, 0x12000), SOFT_FAULT);
	stand_expect_fault(SOFT_MF, -1);
	/* Bus accesses park the state, waiting exception and all. */
	assert_int_equal(fpu(SOFT_OP_FXSAVE, 8, 0x11000), SOFT_NEXT);
	soft_bus_read(cpu(), FT_SPACE_IO, 1, 1);
	assert_int_equal(fpu(SOFT_OP_FXSAVE, 8, 0x12000), SOFT_NEXT);
	__asm__ volatile("fninit; fxrstor64 %0" : : "m"(before));
	/* The x87 part: this test's own code has used XMM since. */
	assert_memory_equal(stand_ram(0x11000), stand_ram(0x12000), 160);
}

static void cmpxchg16b_and_enter(void **state)
{
	struct soft_insn insn = stand_insn(SOFT_OP_CMPXCHG16B, 8);
	uint64_t *words = stand_ram(0x11000);
	insn.memory = true;
	insn.lock = 1;
	insn.displacement = 0x11000;
	words[0] = 1;
	words[1] = 2;
	cpu()->gpr[FT_RBX] = 3;
	cpu()->gpr[FT_RCX] = 4;
	assert_int_equal(stand_run(insn), SOFT_NEXT);
	assert_false(cpu()->flags & FLAG_ZF);
	assert_int_equal(cpu()->gpr[FT_RDX], 2);
	assert_int_equal(stand_run(insn), SOFT_NEXT);
	assert_true(cpu()->flags & FLAG_ZF);
	assert_int_equal(words[1], 4);
	insn.displacement = 0x11008;
	assert_int_equal(stand_run(insn), SOFT_FAULT);
	stand_expect_fault(SOFT_GP, 0);
	*stand_entry(0x11000) = 0x11000 | 5; /* even without a match it wants to write */
	soft_tlb_flush_page(cpu(), 0x11000);
	stand_ring3();
	insn.displacement = 0x11000;
	assert_int_equal(stand_run(insn), SOFT_FAULT);
	stand_expect_page_fault(7, 0x11000);

	insn = stand_insn(SOFT_OP_ENTER, 8);
	insn.immediate = 0x20;
	insn.immediate2 = 3;
	cpu()->gpr[FT_RSP] = 0x8000;
	cpu()->gpr[FT_RBP] = 0x9000;
	*(uint64_t *)stand_ram(0x8ff8) = 0xa;
	*(uint64_t *)stand_ram(0x8ff0) = 0xb;
	assert_int_equal(stand_run(insn), SOFT_NEXT);
	const uint64_t expected[] = {0x7ff8, 0xb, 0xa, 0x9000};
	assert_memory_equal(stand_ram(0x7fe0), expected, sizeof(expected));
	assert_int_equal(cpu()->gpr[FT_RBP], 0x7ff8);
	assert_int_equal(cpu()->gpr[FT_RSP], 0x7fe0 - 0x20);
}

/* ---- 32-bit code: what a boot trampoline does, and faults in it ---- */

__asm__(".pushsection .rodata\n"
	".code32\n"
	".global trampoline_start, trampoline_end\n"
	"trampoline_start:\n"
	"	movl $0x48, %eax\n" /* SEL_DATA32_0 */
	"	movl %eax, %ds\n"
	"	movl %eax, %ss\n"
	"	leal 0x1000(%ecx), %esp\n"
	"	movl %cr0, %eax\n"
	"	btrl $31, %eax\n"
	"	movl %eax, %cr0\n"
	"	testl %edx, %edx\n"
	"	jz 1f\n"
	"	ud2\n"
	"1:	movl %cr4, %eax\n"
	"	testl $0x1000, %eax\n"
	"	jz 3f\n"
	"	ud2\n"
	"3:	pushl %ecx\n"
	"	pushl %edx\n"
	"	movl $0xc0000080, %ecx\n"
	"	rdmsr\n"
	"	btsl $8, %eax\n"
	"	jc 1f\n"
	"	wrmsr\n"
	"1:	popl %edx\n"
	"	popl %ecx\n"
	"	movl $0x20, %eax\n"
	"	testl %edx, %edx\n"
	"	jz 1f\n"
	"	orl $0x1000, %eax\n"
	"1:	movl %eax, %cr4\n"
	"	leal 0x800(%ecx), %eax\n"
	"	pushl $0x08\n"
	"	pushl %eax\n"
	"	movl %cr0, %eax\n"
	"	btsl $31, %eax\n"
	"	movl %eax, %cr0\n"
	"	lret\n"
	"trampoline_end:\n"
	".code64\n"
	".popsection\n");
extern const uint8_t trampoline_start[], trampoline_end[];

static unsigned interpret_until_64(void)
{
	unsigned steps = 0;
	while (!cpu()->code64) {
		enum soft_result result = soft_interpret(cpu());
		assert_int_equal(result, SOFT_JUMP);
		assert_true(++steps < 100);
		cpu()->icount++;
	}
	return steps;
}

static void a_boot_trampoline(void **state)
{
	memcpy(stand_ram(0x14000), trampoline_start, (size_t)(trampoline_end - trampoline_start));
	cpu()->gpr[FT_RCX] = 0x14000;
	cpu()->gpr[FT_RDX] = 0;
	assert_int_equal(soft_far_jump(cpu(), SEL_CODE32_0, 0x14000), SOFT_JUMP);
	cpu()->gdt.base = STAND_GDT; /* reachable without paging, too */
	uint64_t *pd = stand_ram(STAND_PD);
	pd[1] = 0x200000 | 0x83;
	assert_int_equal(interpret_until_64(), 31);
	assert_int_equal(cpu()->rip, 0x14800);
	assert_int_equal(cpu()->gpr[FT_RSP], 0x15000);
	assert_int_equal(cpu()->cr4, CR4_PAE);
	assert_true(cpu()->efer & EFER_LMA);
	assert_int_equal(cpu()->segment[FT_SS].selector, SEL_DATA32_0);
}

static void code32(const void *bytes, size_t size)
{
	memcpy(stand_ram(0x14000), bytes, size);
	stand_ring0();
	assert_int_equal(soft_far_jump(cpu(), SEL_CODE32_0, 0x14000), SOFT_JUMP);
	cpu()->segment[FT_DS] = cpu()->segment[FT_SS] = soft_flat_data(SEL_DATA32_0, 0);
	cpu()->gpr[FT_RSP] = 0x8000;
}

static void faults_in_32bit_code(void **state)
{
	code32("\xa1\x00\x00\x00\x00", 5); /* mov eax, moffs: not in the subset */
	assert_int_equal(soft_interpret(cpu()), SOFT_FAULT);
	stand_expect_fault(SOFT_UD, -1);
	code32("\x8b\x83\x00\x00\x01\x00", 6); /* mov eax, [ebx+0x10000] */
	cpu()->gpr[FT_RBX] = 0x5000;
	cpu()->segment[FT_DS].limit = 0x15002;
	assert_int_equal(soft_interpret(cpu()), SOFT_FAULT);
	stand_expect_fault(SOFT_GP, 0);
	cpu()->segment[FT_DS].limit = 0x15003;
	assert_int_equal(soft_interpret(cpu()), SOFT_JUMP);
	cpu()->segment[FT_DS].attributes = 0; /* null */
	cpu()->rip = 0x14000;
	assert_int_equal(soft_interpret(cpu()), SOFT_FAULT);
	stand_expect_fault(SOFT_GP, 0);
	code32("\xe8\x00\x00\x00\x10", 5); /* call beyond the limit: the stack pointer stays */
	cpu()->segment[FT_CS].limit = 0xfffff;
	assert_int_equal(soft_interpret(cpu()), SOFT_FAULT);
	stand_expect_fault(SOFT_GP, 0);
	assert_int_equal(cpu()->gpr[FT_RSP], 0x8000);
	assert_int_equal(cpu()->rip, 0x14000);
	code32("\x50", 1); /* push on a page that is not there */
	*stand_entry(0x7000) = 0;
	soft_tlb_flush(cpu(), false);
	assert_int_equal(soft_interpret(cpu()), SOFT_FAULT);
	stand_expect_page_fault(2, 0x7ffc);
	assert_int_equal(cpu()->gpr[FT_RSP], 0x8000);
	/* An instruction at the end of a page does not need the next; one across does. */
	code32("", 1);
	*stand_entry(0x15000) = 0;
	memcpy(stand_ram(0x14fff), "\x90", 1);
	cpu()->rip = 0x14fff;
	assert_int_equal(soft_interpret(cpu()), SOFT_JUMP);
	assert_int_equal(cpu()->rip, 0x15000);
	memcpy(stand_ram(0x14ffe), "\xb8\x01", 2);
	cpu()->rip = 0x14ffe;
	assert_int_equal(soft_interpret(cpu()), SOFT_FAULT);
	stand_expect_page_fault(16, 0x15000);
}

static void arithmetic_of_32bit_code(void **state)
{
	/* xor eax,eax; sub al,1; adc bl,0; movzx ecx,al; shl ecx,4; neg ecx; setc dl; push -5; pop esi; jns over an
	 * ud2; hlt */
	static const uint8_t bytes[] =
	    "\x31\xc0\x2c\x01\x80\xd3\x00\x0f\xb6\xc8\xc1\xe1\x04\xf7\xd9\x0f\x92\xc2\x6a\xfb"
	    "\x5e\x83\xfe\xfb\x79\x02\x0f\x0b\xf4";
	code32(bytes, sizeof(bytes));
	cpu()->gpr[FT_RBX] = 0x7f;
	enum soft_result result;
	unsigned steps = 0;
	while ((result = soft_interpret(cpu())) == SOFT_JUMP)
		assert_true(++steps < 20);
	assert_int_equal(result, SOFT_HALT);
	assert_true(cpu()->halted);
	assert_int_equal(cpu()->rip, 0x14000 + sizeof(bytes) - 1);
	assert_int_equal(cpu()->gpr[FT_RAX], 0xff);
	assert_int_equal(cpu()->gpr[FT_RBX], 0x80);
	assert_int_equal(cpu()->gpr[FT_RCX], 0xfffff010);
	assert_int_equal(cpu()->gpr[FT_RDX] & 0xff, 1);
	assert_int_equal(cpu()->gpr[FT_RSI], 0xfffffffb);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, stand_make, stand_drop)
	const struct CMUnitTest tests[] = {
	    TEST(string_instructions_follow_the_model),
	    TEST(so_they_do_where_pages_move),
	    TEST(a_fault_in_the_middle_shows_how_far_it_came),
	    TEST(address_size_and_segment),
	    TEST(writes_are_told_to_translated_code),
	    TEST(ports_in_strings),
	    TEST(images_hold_no_host_pointers),
	    TEST(image_loads_are_checked),
	    TEST(a_waiting_exception_is_the_guests),
	    TEST(cmpxchg16b_and_enter),
	    TEST(a_boot_trampoline),
	    TEST(faults_in_32bit_code),
	    TEST(arithmetic_of_32bit_code),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
