/* See guest.h. */
#include "guest.h"

#include <stdarg.h>

#define CR0_USUAL  0x80010033ull /* PG WP NE ET MP PE */
#define CR4_USUAL  0xea0ull      /* UMIP OSXMMEXCPT OSFXSR PGE PAE; SMEP is added */
#define CR4_SMEP   0x100000ull
#define EFER_USUAL 0xd01ull /* NXE LMA LME SCE */
#define NO_EXECUTE (1ull << 63)

extern const uint8_t entries[];
extern uint8_t stack_top[];
void gate_entry(void);
void guest_enter(const struct trap *at);
void guest_leave(void) __attribute__((noreturn));
void guest_start(void);
void guest_trap(struct trap *trap);

struct trap start, last;
uint64_t last_cr2, code_base;
handler *handlers[256];
uint64_t gdt[32] __attribute__((aligned(16)));
uint32_t tss[32] __attribute__((aligned(16)));

static uint64_t idt[512] __attribute__((aligned(16)));
static uint64_t pml4[512] __attribute__((aligned(4096)));
static uint64_t directories[512] __attribute__((aligned(4096)));
static uint64_t directory[4][512] __attribute__((aligned(4096)));
static uint64_t window[512] __attribute__((aligned(4096)));
static uint8_t kernel_code[4096] __attribute__((aligned(4096)));
static uint8_t fault_stack[3][8192] __attribute__((aligned(16)));
static uint8_t kernel_stack[8192] __attribute__((aligned(16)));
static bool armed;
bool under_qemu;
static unsigned checks, wrong;

/* ---- Text ---- */

/* Into memory, where the test finds it: the console costs an exit a character. */
static volatile char *text = (volatile char *)TEXT;

static void put(char c)
{
	if (text < (volatile char *)TEXT + TEXT_SIZE - 1)
		*text++ = c;
}

static void put_number(uint64_t value, unsigned base)
{
	char digits[24];
	unsigned n = 0;
	do {
		digits[n++] = "0123456789abcdef"[value % base];
		value /= base;
	} while (value);
	while (n)
		put(digits[--n]);
}

static void say_list(const char *format, va_list list)
{
	for (; *format; format++) {
		if (*format != '%') {
			put(*format);
			continue;
		}
		switch (*++format) {
		case 's':
			for (const char *s = va_arg(list, const char *); *s; s++)
				put(*s);
			break;
		case 'c':
			put((char)va_arg(list, int));
			break;
		case 'x':
			put_number(va_arg(list, uint64_t), 16);
			break;
		case 'u':
			put_number(va_arg(list, uint64_t), 10);
			break;
		default:
			put(*format);
		}
	}
}

void say(const char *format, ...)
{
	va_list list;
	va_start(list, format);
	say_list(format, list);
	va_end(list);
}

/* ---- Memory. The compiler asks for these by their usual names. ---- */

void *memcpy(void *to, const void *from, size_t size);
void *memset(void *to, int with, size_t size);

void *memcpy(void *to, const void *from, size_t size)
{
	void *at = to;
	__asm__ volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(size) : : "memory");
	return to;
}

void *memset(void *to, int with, size_t size)
{
	void *at = to;
	__asm__ volatile("rep stosb" : "+D"(at), "+c"(size) : "a"(with) : "memory");
	return to;
}

void clear(void *to, size_t size)
{
	memset(to, 0, size);
}

void fill(void *to, uint8_t with, size_t size)
{
	memset(to, with, size);
}

void copy(void *to, const void *from, size_t size)
{
	memcpy(to, from, size);
}

bool same(const void *a, const void *b, size_t size)
{
	const uint8_t *x = a, *y = b;
	for (size_t i = 0; i < size; i++)
		if (x[i] != y[i])
			return false;
	return true;
}

uint64_t *page_entry(unsigned page)
{
	return &window[page];
}

void *window_ram(unsigned page)
{
	return (void *)(WINDOW_RAM + page * 4096ull);
}

void flush_page(uint64_t va)
{
	__asm__ volatile("invlpg (%0)" : : "r"(va) : "memory");
}

uint64_t *gate(unsigned vector)
{
	return &idt[vector * 2];
}

static void make_pages(void)
{
	pml4[0] = (uint64_t)directories | 7;
	for (unsigned i = 0; i < 4; i++) {
		directories[i] = (uint64_t)directory[i] | 7;
		for (uint64_t k = 0; k < 512; k++)
			directory[i][k] = ((uint64_t)i << 30 | k << 21) | 0x83;
	}
	directory[WINDOW >> 30][0] = (uint64_t)window | 7;
	for (uint64_t i = 0; i < PAGES; i++) {
		uint64_t bits = 7;
		if (i >= PAGE_DATA)
			bits |= NO_EXECUTE;
		window[i] = (WINDOW_RAM + i * 4096) | bits;
	}
	window[PAGE_READ_ONLY] &= ~2ull;
	window[PAGE_KERNEL] &= ~4ull;
	window[PAGE_KERNEL_READ_ONLY] &= ~6ull;
	window[PAGE_NONE] &= ~1ull;
	window[PAGE_RESERVED] |= 1ull << 51;
	window[PAGE_EXECUTABLE] &= ~(2ull | NO_EXECUTE);
	window[PAGE_ALIAS] = WINDOW_RAM | 7 | NO_EXECUTE;
	window[PAGE_APIC] = APIC | 7 | NO_EXECUTE;
	window[PAGE_NOWHERE] = NOWHERE | 7 | NO_EXECUTE;
	write_cr3((uint64_t)pml4);
}

/* ---- Descriptors ---- */

static void set_wide(unsigned selector, uint64_t base, uint64_t limit, uint64_t type)
{
	gdt[selector / 8] = limit | (base & 0xffffff) << 16 | type << 40 | (base >> 24 & 0xff) << 56;
	gdt[selector / 8 + 1] = base >> 32;
}

static void make_descriptors(void)
{
	gdt[CODE0 / 8] = 0x00af9b000000ffff;
	gdt[DATA0 / 8] = 0x00cf93000000ffff;
	gdt[CODE32 / 8] = 0x00cffb000000ffff;
	gdt[DATA3 / 8] = 0x00cff3000000ffff;
	gdt[CODE3 / 8] = 0x00affb000000ffff;
	gdt[ABSENT / 8] = 0x00cf73000000ffff;
	gdt[READ_ONLY / 8] = 0x00cff1000000ffff;
	gdt[EXECUTE_ONLY / 8] = 0x00aff9000000ffff;
	gdt[CONFORMING / 8] = 0x00af9f000000ffff;
	gdt[ABSENT_CODE / 8] = 0x00af7b000000ffff;
	gdt[EXPAND_DOWN / 8] = 0x004ff7000000ffff;
	set_wide(TASK, (uint64_t)tss, sizeof(tss) - 1, 0x89);
	set_wide(LOCAL, (uint64_t)gdt, 15, 0x82);
	uint64_t to = (uint64_t)gate_entry;
	gdt[GATE / 8] = (to & 0xffff) | (uint64_t)CODE0 << 16 | 0xecull << 40 | (to >> 16 & 0xffff) << 48;
	gdt[GATE / 8 + 1] = to >> 32;
	for (unsigned v = 0; v < 256; v++) {
		uint64_t at = (uint64_t)entries + v * 16, dpl = v == BP || v == OF || v == 0x80 || v == DONE ? 3 : 0;
		uint64_t stack = v == DF ? 2 : v == NMI ? 3 : v < 32 || v == DONE ? 1 : 0;
		gate(v)[0] = (at & 0xffff) | (uint64_t)CODE0 << 16 | stack << 32 | (0x8eull | dpl << 5) << 40 | (at >> 16 & 0xffff) << 48;
		gate(v)[1] = at >> 32;
	}
	*(uint64_t *)(void *)&tss[1] = (uint64_t)kernel_stack + sizeof(kernel_stack);
	for (unsigned i = 0; i < 3; i++)
		*(uint64_t *)(void *)&tss[9 + 2 * i] = (uint64_t)fault_stack[i] + sizeof(fault_stack[i]);
	tss[25] = sizeof(tss) << 16; /* no map of ports */
}

static void load_descriptors(void)
{
	struct {
		uint16_t limit;
		uint64_t base;
	} __attribute__((packed)) g = {GDT_END - 1, (uint64_t)gdt}, i = {sizeof(idt) - 1, (uint64_t)idt};
	gdt[TASK / 8] &= ~(2ull << 40);
	__asm__ volatile("lgdt %0; lidt %1; ltr %w2\n"
			 "push %3; lea 1f(%%rip), %%rax; push %%rax; lretq; 1:\n"
			 "mov %w4, %%ss; mov %w4, %%ds; mov %w4, %%es; mov %w5, %%fs; mov %w5, %%gs; lldt %w5"
			 :
			 : "m"(g), "m"(i), "r"(TASK), "i"(CODE0), "r"(DATA0), "r"(0)
			 : "rax", "memory");
}

/* ---- Cases ---- */

static void reset_start(void)
{
	for (unsigned i = 0; i < 16; i++)
		start.gpr[i] = 0x1111111111111111ull * i;
	start.gpr[RSI] = PAGE(DATA);
	start.gpr[RDI] = PAGE(DATA) + 0x800;
	start.flags = 2;
	start.rsp = PAGE(STACK) + 4096;
}

void restore(void)
{
	write_cr0(CR0_USUAL);
	write_cr4(CR4_USUAL | CR4_SMEP);
	if (read_cr(8))
		write_cr8(0);
	if (read_msr(0xc0000080) != EFER_USUAL)
		write_msr(0xc0000080, EFER_USUAL);
	uint32_t mxcsr = 0x1f80;
	__asm__ volatile("fninit; ldmxcsr %0; mov %1, %%dr7; mov %2, %%dr6"
			 :
			 : "m"(mxcsr), "r"(0x400ull), "r"(0xffff0ff0ull));
	load_descriptors();
	reset_start();
}

void guest_trap(struct trap *trap)
{
	if (trap->vector < 256 && handlers[trap->vector]) {
		handlers[trap->vector](trap);
		return;
	}
	last = *trap;
	last_cr2 = read_cr(2);
	if (!armed) {
		say("the guest itself faults: vector %u error %x at %x, address %x\n", last.vector, last.error, last.rip, last_cr2);
		out16(0x604, 1u << 13 | 5u << 10);
	}
	armed = false;
	guest_leave();
}

void run_at(unsigned ring, struct code code, uint64_t at)
{
	code_base = at;
	start.rip = at;
	start.cs = ring ? CODE3 | 3 : CODE0;
	start.ss = ring ? DATA3 | 3 : DATA0;
	last_cr2 = 0;
	__asm__ volatile("mov %0, %%cr2" : : "r"(0ull));
	armed = true;
	guest_enter(&start);
	armed = false;
}

void run(unsigned ring, struct code code)
{
	uint8_t *at = ring ? (uint8_t *)PAGE(CODE) : kernel_code;
	copy(at, code.at, code.size);
	run_at(ring, code, (uint64_t)at);
}

static void tell_all(const char *name)
{
	static const struct {
		const char *name;
		unsigned gpr;
	} shown[] = {{"ax", RAX}, {"cx", RCX}, {"dx", RDX}, {"bx", RBX}, {"si", RSI}, {"di", RDI}, {"8", R8}, {"15", R15}};
	say("%s:", name);
	if (last.vector != DONE)
		say(" vector %u error %x", last.vector, last.error);
	if (last.vector == PF)
		say(" address %x", last_cr2);
	/* The code's own place is no result: how far it came is. */
	/* Nor is RF, which a fault saves as set (SDM Vol. 3B 18.3.1.1) but QEMU's processors do not. */
	say(" +%x cs %x ss %x flags %x sp %x", last.rip - code_base, last.cs, last.ss, last.flags & ~0x10000ull,
	    last.rsp - (PAGE(STACK) + 4096));
	for (unsigned i = 0; i < sizeof(shown) / sizeof(*shown); i++)
		say(" %s %x", shown[i].name, last.gpr[shown[i].gpr]);
}

void observe(const char *name, unsigned ring, struct code code)
{
	run(ring, code);
	tell_all(name);
	say("\n");
	restore();
}

static void judge(bool good)
{
	checks++;
	wrong += !good;
	say(good ? "\n" : " WRONG\n");
}

void expect(const char *name, unsigned ring, struct code code, unsigned vector, int64_t error, uint64_t address)
{
	run(ring, code);
	tell_all(name);
	bool good = last.vector == vector && last.error == (error < 0 ? 0 : (uint64_t)error);
	judge(good && (vector != PF || last_cr2 == address));
	restore();
}

void expect_value(const char *name, uint64_t value, uint64_t right)
{
	say("%s: %x", name, value);
	if (value != right)
		say(", not %x", right);
	judge(value == right);
}

void tell(const char *name, uint64_t value)
{
	say("%s: %x\n", name, value);
}

void check(const char *name, bool good)
{
	say("%s: %s", name, good ? "so" : "not so");
	judge(good);
}

uint64_t tsc_hz(void)
{
	uint32_t r[4];
	cpuid(0x15, 0, r);
	return r[0] ? (uint64_t)r[2] * r[1] / r[0] : 0;
}

void guest_start(void)
{
	write_msr(0xc0000080, read_msr(0xc0000080) | 0x801);
	write_cr4(CR4_USUAL);
	make_pages();
	make_descriptors();
	load_descriptors();
	restore();
	/* Where what runs us is itself emulated, the command line says so. */
	under_qemu = *(const char *)0x20000 == '+';
	cases();
	say("end: %u checks, %u wrong\n", (uint64_t)checks, (uint64_t)wrong);
	for (;;)
		out16(0x604, 1u << 13 | 5u << 10);
}
