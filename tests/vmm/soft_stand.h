/* A software CPU without its translator: RAM, page tables, descriptor tables, and a bus that remembers. Tests of the C
 * half of the engine (tests/vmm/test_soft_*.c) work on it instruction by instruction.
 *
 * Memory: 4 MiB of RAM. Virtual 0..2 MiB is mapped one to one by 4 KiB user pages except where a test changes it (entry()),
 * the same RAM again at KERNEL as supervisor pages. */
#ifndef FT_TESTS_VMM_SOFT_STAND_H
#define FT_TESTS_VMM_SOFT_STAND_H

#include "vmm/engine/soft/system.h"

#define STAND_RAM   (4ull << 20)
#define STAND_PML4  0x300000ull
#define STAND_PDPT  0x301000ull
#define STAND_PD    0x302000ull
#define STAND_PT    0x303000ull
#define STAND_KPDPT 0x304000ull
#define STAND_KPD   0x305000ull
#define STAND_KPT   0x306000ull
#define STAND_GDT   0x308000ull
#define STAND_IDT   0x309000ull
#define STAND_TSS   0x30a000ull
#define STAND_LDT   0x30d000ull
#define STAND_MMIO  0xfee00000ull /* where `map` may lead to find a device */
#define KERNEL      0xffff800000000000ull
#define STACK0      (KERNEL + 0x20000)
#define STACK_IST   (KERNEL + 0x30000)
#define HANDLER(v)  (KERNEL + 0x40000 + (v)*16u)

enum {
	SEL_NULL = 0,
	SEL_CODE0 = 0x08, /* 64-bit, DPL 0 */
	SEL_DATA0 = 0x10,
	SEL_CODE32_3 = 0x18, /* 32-bit, DPL 3; STAR user base - 16 + ... */
	SEL_DATA3 = 0x20,
	SEL_CODE3 = 0x28,
	SEL_TSS = 0x30, /* two entries */
	SEL_CODE32_0 = 0x40,
	SEL_DATA32_0 = 0x48,
	SEL_NOT_PRESENT = 0x50,
	SEL_READ_ONLY = 0x58,
	SEL_LDT = 0x60, /* two entries */
	SEL_CONFORMING = 0x70,
	SEL_EXECUTE_ONLY = 0x78,
	SEL_END = 0x80
};

struct stand {
	struct soft_cpu cpu;
	struct ft_machine machine;
	struct soft_tlb tlb[2];
	/* What the doubles saw. */
	unsigned bus_reads, bus_writes, code_writes, jump_flushes;
	enum ft_space bus_space;
	uint64_t bus_address, bus_value, bus_answer;
	unsigned bus_size;
	uint64_t code_gpa;
	uint32_t code_size;
	unsigned hook_syscalls, hook_sysrets, hook_cr3s, hook_faults;
	uint64_t hook_value[4];
};

/* The stand of the running test; doubles of the machine's functions find it here. */
extern struct stand *stand;

int stand_make(void **state); /* cmocka set-up and tear-down */
int stand_drop(void **state);
/* As a fresh fork (ft_memory_part): the next write to each page moves it, and stand_ram with it. */
void stand_part(void);

/* Ring 3 at rip 0x1000, rsp 0x8000, or ring 0 at KERNEL + 0x1000, rsp STACK0. */
void stand_ring3(void);
void stand_ring0(void);

uint64_t *stand_entry(uint64_t va); /* the 4 KiB page's leaf entry for va in 0..2 MiB or KERNEL.. */
void *stand_ram(uint64_t gpa);
void stand_gate(unsigned vector, unsigned type, unsigned dpl, unsigned ist, bool present, uint16_t selector);

/* Runs one instruction given by op and fields; defaults are filled in as the translator does. */
struct soft_insn stand_insn(enum soft_op op, unsigned operand_size);
enum soft_result stand_run(struct soft_insn insn);
enum soft_result stand_op(enum soft_op op, unsigned operand_size);

/* The fault that waits, and none after. */
void stand_expect_fault(unsigned vector, long error);
void stand_expect_page_fault(uint32_t error, uint64_t address);

#endif
