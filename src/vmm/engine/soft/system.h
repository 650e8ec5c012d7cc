/* What the files that carry out system instructions in C share among themselves: names of bits, small
 * inlines, and the doors between them. cpu.h is what the translator's side sees. Everything here runs with
 * the guest's FPU state in the host's registers (see meson.build). */
#ifndef FT_VMM_ENGINE_SOFT_SYSTEM_H
#define FT_VMM_ENGINE_SOFT_SYSTEM_H

#include "vmm/engine/soft/cpu.h"

#define CR0_PE 0x1u
#define CR0_MP 0x2u
#define CR0_EM 0x4u
#define CR0_TS 0x8u
#define CR0_ET 0x10u
#define CR0_NE 0x20u
#define CR0_WP 0x10000u
#define CR0_AM 0x40000u
#define CR0_NW 0x20000000u
#define CR0_CD 0x40000000u
#define CR0_PG 0x80000000u

#define CR4_TSD        0x4u
#define CR4_DE         0x8u
#define CR4_PSE        0x10u
#define CR4_PAE        0x20u
#define CR4_MCE        0x40u
#define CR4_PGE        0x80u
#define CR4_PCE        0x100u
#define CR4_OSFXSR     0x200u
#define CR4_OSXMMEXCPT 0x400u
#define CR4_UMIP       0x800u
#define CR4_FSGSBASE   0x10000u
#define CR4_SMEP       0x100000u

#define CR4_KNOWN                                                                                            \
	(CR4_TSD | CR4_DE | CR4_PSE | CR4_PAE | CR4_MCE | CR4_PGE | CR4_PCE | CR4_OSFXSR | CR4_OSXMMEXCPT |  \
	 CR4_UMIP | CR4_SMEP)

#define EFER_SCE 0x1u
#define EFER_LME 0x100u
#define EFER_LMA 0x400u
#define EFER_NXE 0x800u

#define FLAG_CF   0x1u
#define FLAG_ONE  0x2u
#define FLAG_PF   0x4u
#define FLAG_AF   0x10u
#define FLAG_ZF   0x40u
#define FLAG_SF   0x80u
#define FLAG_OF   0x800u
#define FLAG_IOPL 0x3000u
#define FLAG_NT   0x4000u
#define FLAG_RF   0x10000u
#define FLAG_VM   0x20000u
#define FLAG_AC   0x40000u
#define FLAG_ID   0x200000u

/* struct ft_segment.attributes */
#define SEG_ACCESSED        0x1u
#define SEG_WRITABLE        0x2u /* data */
#define SEG_READABLE        0x2u /* code */
#define SEG_CONFORMING      0x4u
#define SEG_EXPAND          0x4u
#define SEG_CODE            0x8u
#define SEG_NOT_SYSTEM      0x10u
#define SEG_PRESENT         0x80u
#define SEG_LONG            0x2000u
#define SEG_BIG             0x4000u
#define SEG_GRANULAR        0x8000u
#define SEG_DPL(attributes) (((attributes) >> 5) & 3u)

#define SOFT_PHYSICAL_BITS 40u /* what CPUID 0x80000008 says; page-table bits above are reserved */

static inline bool soft_canonical(uint64_t va)
{
	return (uint64_t)((int64_t)(va << 16) >> 16) == va;
}

static inline void soft_copy(void *to, const void *from, uint64_t n)
{
	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
}

static inline void soft_zero(void *to, uint64_t n)
{
	__asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(0) : "memory");
}

static inline bool soft_user(const struct soft_cpu *cpu)
{
	return cpu->cpl == 3;
}

static inline unsigned soft_iopl(const struct soft_cpu *cpu)
{
	return (unsigned)(cpu->flags >> 12) & 3u;
}

static inline enum soft_result soft_gp(struct soft_cpu *cpu, uint32_t error)
{
	return soft_raise(cpu, SOFT_GP, true, error, 0);
}

static inline enum soft_result soft_ud(struct soft_cpu *cpu)
{
	return soft_raise(cpu, SOFT_UD, false, 0, 0);
}

/* SDM Vol. 3A 6.15, interrupt 17: ring 3 with CR0.AM and EFLAGS.AC. */
static inline bool soft_checks_alignment(const struct soft_cpu *cpu)
{
	return (cpu->flags & FLAG_AC) && (cpu->cr0 & CR0_AM) && cpu->cpl == 3;
}

static inline bool soft_has_breakpoints(const struct soft_cpu *cpu)
{
	return cpu->dr[7] & 0xff;
}

/* What translated code does not look at: while it is on, instructions run one by one in slow mode. */
static inline bool soft_watched(const struct soft_cpu *cpu)
{
	return soft_checks_alignment(cpu) || soft_has_breakpoints(cpu);
}

/* Writes a register the way a destination of `size` bytes is written in 64-bit mode. */
static inline void soft_set_gpr(struct soft_cpu *cpu, unsigned n, unsigned size, uint64_t value)
{
	switch (size) {
	case 1:
		cpu->gpr[n] = (cpu->gpr[n] & ~0xffull) | (value & 0xff);
		break;
	case 2:
		cpu->gpr[n] = (cpu->gpr[n] & ~0xffffull) | (value & 0xffff);
		break;
	case 4:
		cpu->gpr[n] = (uint32_t)value;
		break;
	default:
		cpu->gpr[n] = value;
	}
}

static inline uint64_t soft_low(uint64_t value, unsigned size)
{
	return size == 8 ? value : value & ((1ull << (size * 8)) - 1);
}

/* Opcode of an instruction whose variants share one soft_op: behind legacy prefixes and REX, and behind 0F
 * when it is there (0x0fNN then). */
unsigned soft_opcode(const struct soft_insn *insn);

/* The stack and memory operands with the fault that belongs to the segment: #SS where SS is used, #GP
 * otherwise. */
bool soft_stack_load(struct soft_cpu *cpu, uint64_t va, void *to, uint32_t size);
bool soft_stack_store(struct soft_cpu *cpu, uint64_t va, const void *from, uint32_t size);
bool soft_operand_load(struct soft_cpu *cpu, const struct soft_insn *insn, uint64_t va, void *to,
		       uint32_t size);
bool soft_operand_store(struct soft_cpu *cpu, const struct soft_insn *insn, uint64_t va, const void *from,
			uint32_t size);
/* 16-bit register or memory source (selectors, LMSW). */
bool soft_operand_word(struct soft_cpu *cpu, const struct soft_insn *insn, uint16_t *value);
/* soft_load with the right to write: what read-modify-write instructions need. */
bool soft_load_for_write(struct soft_cpu *cpu, uint64_t va, void *to, uint32_t size, bool user);

/* An access that is about to be made: breakpoints on it come behind its instruction. Vol. 3B 18.2. */
enum soft_breakpoint { SOFT_BREAK_EXECUTE = 0, SOFT_BREAK_WRITE = 1, SOFT_BREAK_ACCESS = 3 };
void soft_watch(struct soft_cpu *cpu, uint64_t va, uint32_t size, enum soft_breakpoint kind);
/* An access of `size` bytes, whose alignment is its size. false: #AC is raised. */
bool soft_aligned(struct soft_cpu *cpu, uint64_t va, uint32_t size);

/* n elements of `size` bytes from va up or (back) down, all in one page: host address of the element at va, or NULL with
 * *bus when a device is there, or NULL with a fault raised. Writes are announced to translated code. */
void *soft_span(struct soft_cpu *cpu, uint64_t va, uint64_t n, uint32_t size, bool back,
		enum soft_access access, bool user, bool *bus);

/* ---- exception.c
 * -------------------------------------------------------------------------------------------- */

/* Goes through the IDT for INT n, INT3, INT1: rip is behind the instruction then. */
enum soft_result soft_software_interrupt(struct soft_cpu *cpu, uint8_t vector, uint64_t next_rip,
					 bool privileged);

/* A stack pointer of the TSS; offset as in SDM figure 7-11. ext: the EXT bit of errors. false: a fault is raised. */
bool soft_stack_from_tss(struct soft_cpu *cpu, unsigned offset, uint32_t ext, uint64_t *rsp);
/* frame[0] is the lowest, at rsp. All or nothing. */
bool soft_push_frame(struct soft_cpu *cpu, uint64_t rsp, const uint64_t *frame, uint32_t size, bool user);

/* ---- segment.c
 * ---------------------------------------------------------------------------------------------- */

enum soft_descriptor_result { SOFT_DESCRIPTOR_OK, SOFT_DESCRIPTOR_OUTSIDE, SOFT_DESCRIPTOR_FAULT };

/* Reads the 8 bytes of a descriptor; FAULT: cpu->fault is raised (page fault on the table). */
enum soft_descriptor_result soft_descriptor(struct soft_cpu *cpu, uint16_t selector, uint64_t *raw);
struct ft_segment soft_segment_make(uint16_t selector, uint64_t raw);
/* Sets the accessed bit in the table. */
bool soft_descriptor_accessed(struct soft_cpu *cpu, uint16_t selector, uint64_t *raw);
void soft_set_cs(struct soft_cpu *cpu, const struct ft_segment *cs, uint8_t cpl);
struct ft_segment soft_flat_code(uint16_t selector, unsigned dpl);
struct ft_segment soft_flat_data(uint16_t selector, unsigned dpl);

enum soft_result soft_load_segment(struct soft_cpu *cpu, unsigned segment, uint16_t selector);
enum soft_result soft_segment_execute(struct soft_cpu *cpu, const struct soft_insn *insn);
enum soft_result soft_far_execute(struct soft_cpu *cpu, const struct soft_insn *insn);

/* Far transfer to `selector`:`rip` without a change of privilege, from 64-bit or 32-bit code. */
enum soft_result soft_far_jump(struct soft_cpu *cpu, uint16_t selector, uint64_t rip);
/* Far return, everything popped already: `rsp` is behind rip and CS. */
enum soft_result soft_far_return(struct soft_cpu *cpu, uint16_t selector, uint64_t rip, uint64_t rsp,
				 uint16_t release, unsigned size);

/* ---- control.c, msr.c, ../model.c, string.c, fpu.c, hidden.c
 * ---------------------------------------------------------------- */

enum soft_result soft_control_execute(struct soft_cpu *cpu, const struct soft_insn *insn);
enum soft_result soft_io_execute(struct soft_cpu *cpu, const struct soft_insn *insn);
enum soft_result soft_string_execute(struct soft_cpu *cpu, const struct soft_insn *insn);
enum soft_result soft_fpu_execute(struct soft_cpu *cpu, const struct soft_insn *insn);
enum soft_result soft_bits_execute(struct soft_cpu *cpu, const struct soft_insn *insn);
enum soft_result soft_hidden_execute(struct soft_cpu *cpu, const struct soft_insn *insn);

/* x87 TOP = 0, tags and registers as they are. The guest's x87 state is in the host's registers. */
void soft_fpu_clear_top(void);

enum soft_result soft_set_cr0(struct soft_cpu *cpu, uint64_t value);
enum soft_result soft_rdmsr(struct soft_cpu *cpu);
enum soft_result soft_wrmsr(struct soft_cpu *cpu);
void soft_cpuid(struct soft_cpu *cpu);

/* CPL <= IOPL or the TSS bitmap permits [port, port + size). false: #GP raised. */
bool soft_io_permitted(struct soft_cpu *cpu, uint16_t port, unsigned size);

#define SOFT_MISC_ENABLE_WRITABLE 0x1u /* fast strings */
#define SOFT_PAT_RESET         0x0007040600070406ull

#endif
