#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "soft_stand.h"

struct stand *stand;

/* ---- Doubles of what the CPU calls ---- */

uint64_t ft_bus_read(struct ft_machine *m, enum ft_space space, uint64_t address, unsigned size)
{
	stand->bus_reads++;
	stand->bus_space = space;
	stand->bus_address = address;
	stand->bus_size = size;
	return stand->bus_answer;
}

void ft_bus_write(struct ft_machine *m, enum ft_space space, uint64_t address, unsigned size, uint64_t value)
{
	stand->bus_writes++;
	stand->bus_space = space;
	stand->bus_address = address;
	stand->bus_size = size;
	stand->bus_value = value;
}

int ft_irq_acknowledge(struct ft_machine *m)
{
	return 0x40;
}

void ft_memory_fetch(const struct ft_memory *memory, uint64_t at)
{
}

uint64_t ft_machine_rdtsc(struct ft_machine *m)
{
	return 0x1122334455667788ull;
}

int ft_platform_rdmsr(struct ft_machine *m, uint32_t index, uint64_t *value)
{
	*value = 0xfee00900;
	return index == 0x1b ? 0 : -1;
}

int ft_platform_wrmsr(struct ft_machine *m, uint32_t index, uint64_t value)
{
	return index == 0x1b ? 0 : -1;
}

uint64_t ft_platform_cr8(struct ft_machine *m)
{
	return 5;
}

void ft_platform_set_cr8(struct ft_machine *m, uint64_t value)
{
	stand->bus_value = value;
}

void soft_code_write(struct soft_cpu *cpu, uint64_t gpa, uint32_t size)
{
	stand->code_writes++;
	stand->code_gpa = gpa;
	stand->code_size = size;
}

void soft_jumps_flush(struct soft_cpu *cpu)
{
	stand->jump_flushes++;
}

void soft_jumps_flush_space(struct soft_cpu *cpu)
{
	stand->jump_flushes++;
}

void soft_jumps_flush_page(struct soft_cpu *cpu, uint64_t va)
{
	stand->jump_flushes++;
}

static void saw_syscall(void *context, uint64_t nr, const uint64_t args[6], uint64_t rip, uint64_t rsp)
{
	stand->hook_syscalls++;
	stand->hook_value[0] = nr;
	stand->hook_value[1] = args[0];
	stand->hook_value[2] = args[5];
	stand->hook_value[3] = rip;
}

static void saw_sysret(void *context, uint64_t rax, uint64_t rip, uint64_t rsp)
{
	stand->hook_sysrets++;
	stand->hook_value[0] = rax;
}

static void saw_cr3(void *context, uint64_t old, uint64_t new)
{
	stand->hook_cr3s++;
	stand->hook_value[0] = old;
	stand->hook_value[1] = new;
}

static void saw_fault(void *context, unsigned vector, uint32_t error, uint64_t address, uint64_t rip)
{
	stand->hook_faults++;
	stand->hook_value[0] = vector;
	stand->hook_value[1] = error;
	stand->hook_value[2] = address;
	stand->hook_value[3] = rip;
}

/* ---- The stand ---- */

void *stand_ram(uint64_t gpa)
{
	assert_true(gpa < STAND_RAM);
	return ft_memory_host(&stand->machine.ram, gpa);
}

void stand_part(void)
{
	struct ft_memory *ram = &stand->machine.ram;
	for (uint64_t page = 0; ram->where && page < STAND_RAM >> 12; page++)
		memcpy(ram->base + (page << 12), stand_ram(page << 12), 4096);
	free(ram->where);
	free(ram->own);
	ram->where = calloc(STAND_RAM >> 12, sizeof(*ram->where));
	ram->own = ram->own_next = aligned_alloc(4096, STAND_RAM);
	assert_non_null(ram->where);
	assert_non_null(ram->own);
	ram->parted = true;
	soft_tlb_flush(&stand->cpu, false);
}

static void put(uint64_t gpa, uint64_t value)
{
	memcpy(stand_ram(gpa), &value, 8);
}

uint64_t *stand_entry(uint64_t va)
{
	uint64_t table = va >= KERNEL ? STAND_KPT : STAND_PT;
	return stand_ram(table + (va >> 12 & 511) * 8);
}

void stand_gate(unsigned vector, unsigned type, unsigned dpl, unsigned ist, bool present, uint16_t selector)
{
	uint64_t rip = HANDLER(vector);
	put(STAND_IDT + vector * 16, (rip & 0xffff) | (uint64_t)selector << 16 | (uint64_t)ist << 32 |
					 (uint64_t)type << 40 | (uint64_t)dpl << 45 |
					 (uint64_t)present << 47 | (rip >> 16 & 0xffff) << 48);
	put(STAND_IDT + vector * 16 + 8, rip >> 32);
}

static void make_tables(void)
{
	put(STAND_PML4, STAND_PDPT | 7);
	put(STAND_PML4 + 256 * 8, STAND_KPDPT | 3);
	put(STAND_PDPT, STAND_PD | 7);
	put(STAND_PD, STAND_PT | 7);
	put(STAND_KPDPT, STAND_KPD | 3);
	put(STAND_KPD, STAND_KPT | 3);
	put(STAND_KPD + 8, 0x200000 | 0x83); /* KERNEL + 2 MiB: a large page */
	for (uint64_t i = 0; i < 512; i++) {
		put(STAND_PT + i * 8, i << 12 | 7);
		put(STAND_KPT + i * 8, i << 12 | 3);
	}

	static const uint64_t gdt[] = {
	    0,
	    0x00af9b000000ffff, /* code 0 */
	    0x00cf93000000ffff, /* data 0 */
	    0x00cffb000000ffff, /* code 3, 32-bit */
	    0x00cff3000000ffff, /* data 3 */
	    0x00affb000000ffff, /* code 3 */
	    0,
	    0,
	    0x00cf9b000000ffff, /* code 0, 32-bit */
	    0x00cf92000000ffff, /* data 0, not accessed */
	    0x00cf13000000ffff, /* data 0, not present */
	    0x00cf91000000ffff, /* data 0, read-only */
	    0,
	    0,
	    0x00af9f000000ffff, /* code 0, conforming */
	    0x00af99000000ffff, /* code 0, execute-only */
	};
	memcpy(stand_ram(STAND_GDT), gdt, sizeof(gdt));
	uint64_t tss = KERNEL + STAND_TSS;
	put(STAND_GDT + SEL_TSS, 0x2067 | (tss & 0xffffff) << 16 | 0x89ull << 40 | (tss >> 24 & 0xff) << 56);
	put(STAND_GDT + SEL_TSS + 8, tss >> 32);
	uint64_t ldt = KERNEL + STAND_LDT;
	put(STAND_GDT + SEL_LDT, 0xf | (ldt & 0xffffff) << 16 | 0x82ull << 40 | (ldt >> 24 & 0xff) << 56);
	put(STAND_GDT + SEL_LDT + 8, ldt >> 32);
	put(STAND_LDT + 8, 0x00cff3000000ffff);

	uint8_t *task = stand_ram(STAND_TSS);
	const uint64_t rsp0 = STACK0, ist1 = STACK_IST;
	const uint16_t map = 104;
	memcpy(task + 4, &rsp0, 8);
	memcpy(task + 36, &ist1, 8);
	memcpy(task + 102, &map, 2);
	memset(task + 104, 0xff, 0x2000);
	for (unsigned v = 0; v < 256; v++)
		stand_gate(v, 0xe, v == 3 || v == 0x80 ? 3 : 0, 0, true, SEL_CODE0);
}

void stand_ring0(void)
{
	struct soft_cpu *cpu = &stand->cpu;
	cpu->cpl = 0;
	cpu->segment[FT_CS] = soft_flat_code(SEL_CODE0, 0);
	cpu->segment[FT_SS] = soft_flat_data(SEL_DATA0, 0);
	cpu->rip = KERNEL + 0x1000;
	cpu->gpr[FT_RSP] = STACK0;
	cpu->code64 = true;
}

void stand_ring3(void)
{
	struct soft_cpu *cpu = &stand->cpu;
	cpu->cpl = 3;
	cpu->segment[FT_CS] = soft_flat_code(SEL_CODE3 | 3, 3);
	cpu->segment[FT_SS] = soft_flat_data(SEL_DATA3 | 3, 3);
	cpu->rip = 0x1000;
	cpu->gpr[FT_RSP] = 0x8000;
	cpu->code64 = true;
}

int stand_make(void **state)
{
	stand = aligned_alloc(4096, (sizeof(*stand) + 4095) & ~4095ull);
	assert_non_null(stand);
	memset(stand, 0, sizeof(*stand));
	struct soft_cpu *cpu = &stand->cpu;
	stand->machine.ram.base = aligned_alloc(4096, STAND_RAM);
	stand->machine.ram.size = STAND_RAM;
	stand->machine.ram.page_flags = calloc(STAND_RAM >> 12, 2);
	assert_non_null(stand->machine.ram.base);
	assert_non_null(stand->machine.ram.page_flags);
	stand->machine.ram.page_filled = stand->machine.ram.page_flags + (STAND_RAM >> 12);
	memset(stand->machine.ram.base, 0, STAND_RAM);
	stand->machine.clock.tsc_khz = 1000000;
	stand->machine.hooks = (struct ft_hooks){
	    .syscall = saw_syscall, .sysret = saw_sysret, .cr3 = saw_cr3, .fault = saw_fault};
	make_tables();

	cpu->m = &stand->machine;
	cpu->tlb[0] = &stand->tlb[0];
	cpu->tlb[1] = &stand->tlb[1];
	cpu->tlb_bits = 6;
	cpu->mxcsr_bits = 0xffff;
	cpu->cr0 = CR0_PE | CR0_PG | CR0_WP | CR0_ET | CR0_NE | CR0_MP;
	cpu->cr3 = STAND_PML4;
	cpu->cr4 = CR4_PAE | CR4_PGE | CR4_OSFXSR | CR4_OSXMMEXCPT;
	cpu->efer = EFER_LME | EFER_LMA | EFER_NXE | EFER_SCE;
	cpu->flags = FLAG_ONE | SOFT_FLAG_IF;
	cpu->dr[6] = 0xffff0ff0;
	cpu->dr[7] = 0x400;
	cpu->pat = SOFT_PAT_RESET;
	cpu->misc_enable = FT_MISC_ENABLE_RESET;
	cpu->shadow_icount = UINT64_MAX;
	cpu->icount = 1000;
	uint64_t tables = KERNEL; /* the upper 2 MiB of RAM through the large page */
	cpu->gdt = (struct ft_table){.base = tables + STAND_GDT, .limit = SEL_END - 1};
	cpu->idt = (struct ft_table){.base = tables + STAND_IDT, .limit = 256 * 16 - 1};
	cpu->tr = (struct ft_segment){
	    .base = tables + STAND_TSS, .limit = 0x2067, .selector = SEL_TSS, .attributes = 0x8b};
	soft_tlb_flush(cpu, false);
	stand->jump_flushes = 0;
	stand_ring0();
	return 0;
}

int stand_drop(void **state)
{
	free(stand->machine.ram.base);
	free(stand->machine.ram.where);
	free(stand->machine.ram.own);
	free(stand->machine.ram.page_flags);
	free(stand);
	stand = NULL;
	return 0;
}

struct soft_insn stand_insn(enum soft_op op, unsigned operand_size)
{
	return (struct soft_insn){.op = (uint8_t)op,
				  .length = 3,
				  .operand_size = (uint8_t)operand_size,
				  .address_size = 8,
				  .segment = FT_DS,
				  .base = 17,
				  .index = 16,
				  .scale = 1};
}

enum soft_result stand_run(struct soft_insn insn)
{
	stand->cpu.fault.pending = false;
	return soft_execute(&stand->cpu, &insn);
}

enum soft_result stand_op(enum soft_op op, unsigned operand_size)
{
	return stand_run(stand_insn(op, operand_size));
}

void stand_expect_fault(unsigned vector, long error)
{
	struct soft_cpu *cpu = &stand->cpu;
	assert_true(cpu->fault.pending);
	assert_int_equal(cpu->fault.vector, vector);
	assert_int_equal(cpu->fault.has_error, error >= 0);
	if (error >= 0)
		assert_int_equal(cpu->fault.error, error);
	cpu->fault.pending = false;
}

void stand_expect_page_fault(uint32_t error, uint64_t address)
{
	uint64_t got = stand->cpu.fault.address;
	stand_expect_fault(SOFT_PF, error);
	assert_int_equal(got, address);
}
