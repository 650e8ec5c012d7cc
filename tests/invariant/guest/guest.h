/* A test guest: a kernel of a few hundred instructions that tries one side of the processor and of the PC and prints what came
 * of it, a line a case. The same file runs on every engine, and what it prints has to be the same (test_invariant.c); where
 * the manuals leave no choice it knows what is right by itself.
 *
 * Memory: the first 4 GiB one to one for ring 0; the pages of enum page at WINDOW for ring 3, each in a 4 KiB page of its own. */
#ifndef FT_TESTS_INVARIANT_GUEST_H
#define FT_TESTS_INVARIANT_GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum vector { DE, DB, NMI, BP, OF, BR, UD, NM, DF, TS = 10, NP, SS, GP, PF, MF = 16, AC, MC, XM, DONE = 0x81 };
enum gpr { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 };

/* Selectors. */
enum {
	CODE0 = 0x08,
	DATA0 = 0x10,
	CODE32 = 0x18, /* DPL 3 */
	DATA3 = 0x20,
	CODE3 = 0x28,
	TASK = 0x30, /* two entries */
	ABSENT = 0x40,   /* data, DPL 3, not present */
	READ_ONLY = 0x48, /* data, DPL 3 */
	EXECUTE_ONLY = 0x50,
	CONFORMING = 0x58,
	LOCAL = 0x60, /* an LDT; two entries */
	GATE = 0x70,  /* a call gate to ring 0; two entries */
	ABSENT_CODE = 0x80,
	EXPAND_DOWN = 0x88,
	GDT_END = 0x90
};

enum page {
	PAGE_CODE = 0, /* four of them: user, writable, executable */
	PAGE_DATA = 4, /* four of them: user, writable, not executable */
	PAGE_STACK = 8,
	PAGE_READ_ONLY,
	PAGE_KERNEL, /* for ring 0 only */
	PAGE_KERNEL_READ_ONLY,
	PAGE_NONE, /* not present */
	PAGE_RESERVED, /* a bit that must not be set is */
	PAGE_EXECUTABLE, /* user, read-only */
	PAGE_ALIAS, /* the first page of code, writable, not executable */
	PAGE_APIC,
	PAGE_NOWHERE, /* neither RAM nor a device */
	PAGES = 32
};
#define TEXT         0x3800000ull /* what say() has said; zeros behind it */
#define TEXT_SIZE    0x200000u
#define WINDOW       0x40000000ull
#define WINDOW_RAM   0x1000000ull
#define PAGE(name)   (WINDOW + PAGE_##name * 4096ull)
#define NOWHERE      0xd0000000ull
#define APIC         0xfee00000ull
#define IO_APIC      0xfec00000ull

#define FLAG_CF 1ull
#define FLAG_PF 4ull
#define FLAG_AF 0x10ull
#define FLAG_ZF 0x40ull
#define FLAG_SF 0x80ull
#define FLAG_TF 0x100ull
#define FLAG_IF 0x200ull
#define FLAG_DF 0x400ull
#define FLAG_OF 0x800ull
#define FLAG_IOPL 0x3000ull
#define FLAG_NT 0x4000ull
#define FLAG_AC 0x40000ull
#define FLAG_ID 0x200000ull

/* What an entry finds on its stack, and what a case starts with. */
struct trap {
	uint64_t gpr[16]; /* RSP's place is unused */
	uint64_t vector, error, rip, cs, flags, rsp, ss;
};

/* Instructions under test; INT 0x81 behind them ends the case. Position independent. */
struct code {
	const uint8_t *at;
	size_t size;
};
#define CODE(text)                                                                                                    \
	({                                                                                                            \
		struct code code_;                                                                                    \
		/* Without operands, so that the text has single percent signs. */                                    \
		__asm__ volatile(".pushsection .snippets, \"ax\"\n771: " text "\n int $0x81\n772: .popsection");       \
		__asm__ volatile("lea 771b(%%rip), %0; mov $772b - 771b, %1" : "=r"(code_.at), "=r"(code_.size));     \
		code_;                                                                                                \
	})

/* ---- Cases ------------------------------------------------------------------------------------------------------- */

extern struct trap start; /* what the next case starts with; reset after each */
extern struct trap last;  /* how the last one ended */
extern uint64_t last_cr2;
extern uint64_t code_base; /* where the last case's instructions were */

/* Runs the code in ring 0 or 3, to its end or its first exception. It runs at `page` of the window if that is not NULL. */
void run(unsigned ring, struct code code);
void run_at(unsigned ring, struct code code, uint64_t at);

/* What observe and expect do at their end: registers and `start` as they are for every case. */
void restore(void);

/* run, and one line with everything that came of it. */
void observe(const char *name, unsigned ring, struct code code);
/* observe; it has to be this exception. error: -1 none; address: CR2 of a page fault. */
void expect(const char *name, unsigned ring, struct code code, unsigned vector, int64_t error, uint64_t address);
/* run; a line with this result, which has to be this. */
void expect_value(const char *name, uint64_t value, uint64_t right);
/* A line with a value that depends on the processor, but not on the engine. */
void tell(const char *name, uint64_t value);
void check(const char *name, bool good);

/* printf with %s %c %x %u %%, all numbers of 64 bits. */
void say(const char *format, ...);

/* KVM on a processor that QEMU emulates: what QEMU cannot do is left out. */
extern bool under_qemu;

/* ---- The machine ------------------------------------------------------------------------------------------------- */

/* Interrupts: while a handler is set for a vector it is called, and the case goes on. */
typedef void handler(struct trap *trap);
extern handler *handlers[256];

uint64_t *page_entry(unsigned page); /* of the window; flush_page() after a change */
void flush_page(uint64_t va);
uint64_t *gate(unsigned vector); /* two words of the IDT */
extern uint64_t gdt[32];
extern uint32_t tss[];
void *window_ram(unsigned page); /* the same memory, where ring 0 has it */

static inline uint64_t read_cr(unsigned n)
{
	uint64_t value = 0;
	if (n == 0)
		__asm__ volatile("mov %%cr0, %0" : "=r"(value));
	else if (n == 2)
		__asm__ volatile("mov %%cr2, %0" : "=r"(value));
	else if (n == 3)
		__asm__ volatile("mov %%cr3, %0" : "=r"(value));
	else if (n == 4)
		__asm__ volatile("mov %%cr4, %0" : "=r"(value));
	else
		__asm__ volatile("mov %%cr8, %0" : "=r"(value));
	return value;
}

static inline void write_cr0(uint64_t value)
{
	__asm__ volatile("mov %0, %%cr0" : : "r"(value) : "memory");
}

static inline void write_cr3(uint64_t value)
{
	__asm__ volatile("mov %0, %%cr3" : : "r"(value) : "memory");
}

static inline void write_cr4(uint64_t value)
{
	__asm__ volatile("mov %0, %%cr4" : : "r"(value) : "memory");
}

static inline void write_cr8(uint64_t value)
{
	__asm__ volatile("mov %0, %%cr8" : : "r"(value) : "memory");
}

static inline uint64_t read_msr(uint32_t index)
{
	uint32_t low, high;
	__asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(index));
	return low | (uint64_t)high << 32;
}

static inline void write_msr(uint32_t index, uint64_t value)
{
	__asm__ volatile("wrmsr" : : "c"(index), "a"((uint32_t)value), "d"((uint32_t)(value >> 32)) : "memory");
}

static inline void out8(uint16_t port, uint8_t value)
{
	__asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static inline void out16(uint16_t port, uint16_t value)
{
	__asm__ volatile("outw %0, %1" : : "a"(value), "Nd"(port));
}

static inline void out32(uint16_t port, uint32_t value)
{
	__asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port));
}

static inline uint8_t in8(uint16_t port)
{
	uint8_t value;
	__asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static inline uint16_t in16(uint16_t port)
{
	uint16_t value;
	__asm__ volatile("inw %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static inline uint32_t in32(uint16_t port)
{
	uint32_t value;
	__asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static inline uint32_t load32(uint64_t at)
{
	uint32_t value;
	__asm__ volatile("movl (%1), %0" : "=r"(value) : "r"(at) : "memory");
	return value;
}

static inline void store32(uint64_t at, uint32_t value)
{
	__asm__ volatile("movl %0, (%1)" : : "r"(value), "r"(at) : "memory");
}

static inline uint32_t apic_read(unsigned at)
{
	return load32(APIC + at);
}

static inline void apic_write(unsigned at, uint32_t value)
{
	store32(APIC + at, value);
}

static inline uint64_t tsc(void)
{
	uint32_t low, high;
	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
	return low | (uint64_t)high << 32;
}

static inline void cpuid(uint32_t leaf, uint32_t sub, uint32_t r[4])
{
	__asm__ volatile("cpuid" : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3]) : "a"(leaf), "c"(sub));
}

/* Ticks of the TSC in a second, by CPUID's leaf 0x15. */
uint64_t tsc_hz(void);

void clear(void *to, size_t size);
void fill(void *to, uint8_t with, size_t size);
void copy(void *to, const void *from, size_t size);
bool same(const void *a, const void *b, size_t size);

/* The cases: each guest has its own. */
void cases(void);

#endif
