/* A kernel that means harm. What it does, the command line says: NAME SEED. It ends by itself, in the way that the name says, or
 * with the power off. See test_storms.c. A word behind SEED: reserved bits of CR3 are let alone. */
#include "guest.h"

#define COMMAND_LINE 0x20000ull
#define SERVED       2000u
#define ROOM         16u /* pages of a stack */

static uint64_t seed;
static bool spares_cr3;

static uint64_t draw(void)
{
	uint64_t z = seed += 0x9e3779b97f4a7c15ull;
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

/* ---- Ends ---- */

static void load_table(const char *which, uint64_t base, uint16_t limit)
{
	struct {
		uint16_t limit;
		uint64_t base;
	} __attribute__((packed)) table = {limit, base};
	if (*which == 'i')
		__asm__ volatile("lidt %0" : : "m"(table));
	else
		__asm__ volatile("lgdt %0" : : "m"(table));
}

static void no_table(void)
{
	load_table("idt", 0, 0);
	__asm__ volatile("ud2");
}

static void table_nowhere(void)
{
	load_table("idt", NOWHERE, 4095);
	__asm__ volatile("int3");
}

static void pages_of_nothing(void)
{
	clear((void *)0x3000000, 4096);
	write_cr3(0x3000000);
}

static void pages_nowhere(void)
{
	write_cr3(NOWHERE);
}

static void pages_of_the_apic(void)
{
	write_cr3(APIC);
}

/* Every entry leads to the table itself: the fourth level's entry maps the table as a page, wherever one looks. */
static void pages_of_themselves(void)
{
	uint64_t *table = (uint64_t *)0x3000000;
	for (unsigned i = 0; i < 512; i++)
		table[i] = 0x3000000 | 7;
	write_cr3(0x3000000);
}

static void no_stack(void)
{
	gate(UD)[0] &= ~(7ull << 32);
	gate(DF)[0] &= ~(7ull << 32);
	gate(PF)[0] &= ~(7ull << 32);
	__asm__ volatile("mov %0, %%rsp; ud2" : : "r"(PAGE(NONE)));
}

static void no_segments(void)
{
	load_table("gdt", 0, 0);
	__asm__ volatile("int3");
}

static void by_keyboard(void)
{
	out8(0x64, 0xfe);
}

static void by_reset_register(void)
{
	out8(0xcf9, 6);
}

static void never(void)
{
	__asm__ volatile("cli; 1: hlt; jmp 1b");
}

static void round_and_round(void)
{
	__asm__ volatile("cli; 1: jmp 1b");
}

/* A handler that faults in the same way, on a stack with room for a while, and behind it nothing. */
static void fault_in_fault(void)
{
	gate(UD)[0] &= ~(7ull << 32);
	gate(DF)[0] &= ~(7ull << 32);
	gate(PF)[0] &= ~(7ull << 32);
	uint64_t at = 0x2000000;
	copy((void *)at, "\x0f\x0b", 2);
	gate(UD)[0] = (gate(UD)[0] & ~0xffff00000000ffffull) | (at & 0xffff) | (at >> 16 & 0xffff) << 48;
	gate(UD)[1] = 0;
	for (unsigned i = 0; i <= ROOM; i++) {
		*page_entry(PAGES + i) = i ? (at + i * 4096) | 3 : 0;
		flush_page(WINDOW + (PAGES + i) * 4096);
	}
	__asm__ volatile("mov %0, %%rsp; ud2" : : "r"(WINDOW + (PAGES + ROOM + 1) * 4096));
}

/* ---- Storms ---- */

static bool harmless(uint64_t port)
{
	/* What ends the machine is tried elsewhere; the console is for the outcome. */
	return port != 0x64 && port != 0x92 && port != 0xcf9 && (port < 0x600 || port > 0x60f) && (port < 0x3f8 || port > 0x3ff) &&
	       (port < 0xcf5 || port > 0xcff) && (port < 0x61 || port > 0x64);
}

static void ports(void)
{
	for (unsigned i = 0; i < 12000; i++) {
		uint16_t port = (uint16_t)(draw() & 1 ? draw() : draw() & 0xff);
		uint32_t value = (uint32_t)draw();
		if (!harmless(port) || !harmless(port + 3u))
			continue;
		switch (draw() % 6) {
		case 0:
			out8(port, (uint8_t)value);
			break;
		case 1:
			out16(port, (uint16_t)value);
			break;
		case 2:
			out32(port, value);
			break;
		case 3:
			in8(port);
			break;
		case 4:
			in16(port);
			break;
		default:
			in32(port);
		}
	}
}

static void configuration(void)
{
	for (unsigned i = 0; i < 12000; i++) {
		uint32_t address = (uint32_t)draw();
		if (draw() % 8)
			address = 0x80000000 | (address & 0xffff);
		out32(0xcf8, address);
		uint16_t port = (uint16_t)(0xcfc + draw() % 4);
		switch (draw() % 4) {
		case 0:
			out8(port, (uint8_t)draw());
			break;
		case 1:
			out16((uint16_t)(port & ~1), (uint16_t)draw());
			break;
		case 2:
			out32(0xcfc, (uint32_t)draw());
			break;
		default:
			in32(0xcfc);
		}
	}
}

static void devices(void)
{
	/* Switched on and moved about, then written to wherever they may be. */
	for (unsigned i = 0; i < 15000; i++) {
		if (i % 64 == 0) {
			out32(0xcf8, 0x80000000 | (uint32_t)(draw() % 8) << 11 | 4);
			out16(0xcfc, (uint16_t)draw());
			out32(0xcf8, 0x80000000 | (uint32_t)(draw() % 8) << 11 | (uint32_t)(0x10 + draw() % 6 * 4));
			out32(0xcfc, 0xc0000000 | (uint32_t)draw());
		}
		static const uint64_t bases[] = {APIC, IO_APIC, 0xc0000000, 0xe0000000, 0xfebf0000, NOWHERE};
		uint64_t at = bases[draw() % 6] + (draw() & (draw() & 1 ? 0x3fff : 0xff0)), value = draw();
		/* The APIC's own commands may stop this processor for good. */
		if (at >= APIC + 0x2f0 && at < APIC + 0x310)
			continue;
		switch (draw() % 8) {
		case 0:
			*(volatile uint8_t *)at = (uint8_t)value;
			break;
		case 1:
			*(volatile uint16_t *)at = (uint16_t)value;
			break;
		case 2:
		case 3:
			*(volatile uint32_t *)at = (uint32_t)value;
			break;
		case 4:
			*(volatile uint64_t *)at = value;
			break;
		case 5:
			__asm__ volatile("lock xadd %0, (%1)" : "+r"(value) : "r"(at) : "memory");
			break;
		case 6: {
			uint64_t count = 9;
			__asm__ volatile("rep stosb" : "+D"(at), "+c"(count) : "a"(value) : "memory");
			break;
		}
		default:
			value = *(volatile uint32_t *)at;
		}
	}
}

static volatile unsigned served;

/* Where an interrupt takes longer than it is to the next one nothing else ever happens: some are enough. */
static void quiet(void)
{
	apic_write(0x320, 0x10000);
	apic_write(0x350, 0x10000);
	out8(0x21, 0xff);
	store32(IO_APIC, 0x14);
	store32(IO_APIC + 0x10, 0x10060);
}

static void serve(struct trap *trap)
{
	if (++served == SERVED)
		quiet();
	apic_write(0xb0, 0);
	out8(0x20, 0x20);
	out8(0xa0, 0x20);
}

static void interrupts(void)
{
	for (unsigned v = 32; v < 256; v++)
		if (v != DONE)
			handlers[v] = serve;
	for (unsigned i = 0; i < 4000; i++) {
		static uint8_t number;
		number = (uint8_t)draw();
		*((uint8_t *)window_ram(PAGE_CODE) + 512) = 0xcd;
		*((uint8_t *)window_ram(PAGE_CODE) + 513) = number;
		copy((uint8_t *)window_ram(PAGE_CODE) + 514, "\xcd\x81", 2);
		run_at(3, CODE(""), PAGE(CODE) + 512);
	}
	/* Every source at its fastest. */
	apic_write(0xf0, 0x1ff);
	apic_write(0x3e0, 0xb);
	apic_write(0x320, 0x20040);
	apic_write(0x380, 1);
	apic_write(0x350, 0x700);
	out8(0x20, 0x11);
	out8(0x21, 0x50);
	out8(0x21, 4);
	out8(0x21, 1);
	out8(0x21, 0);
	out8(0x43, 0x34);
	out8(0x40, 1);
	out8(0x40, 0);
	store32(IO_APIC, 0x14);
	store32(IO_APIC + 0x10, 0x60);
	out8(0x70, 0xa);
	out8(0x71, 0x23);
	out8(0x70, 0xb);
	out8(0x71, 0x72);
	for (unsigned i = 0; i < 1000; i++) {
		apic_write(0x300, (uint32_t)(0x44000 | (32 + draw() % 90)));
		__asm__ volatile("sti; nop; nop; cli" : : : "memory");
	}
	/* Time passes, and a processor that does nothing else may do nothing for long. */
	for (uint64_t until = tsc() + tsc_hz() / 4; served < SERVED && tsc() < until;)
		__asm__ volatile("sti; nop; cli" : : : "memory");
	quiet();
	say("served %s\n", served > 100 ? "many" : "few");
}

static void pages(void)
{
	/* Each of the window's entries is at random, with a leaning to what nearly is one. */
	unsigned counts[32] = {0};
	for (unsigned i = 0; i < 3000; i++) {
		uint64_t entry = draw(), at = WINDOW + (PAGES + draw() % 64) * 4096 + (draw() & 0xfff), *to = page_entry((unsigned)((at - WINDOW) >> 12));
		switch (draw() % 5) {
		case 0:
			entry = (draw() & 0xfffff000) | (entry & 0xfff) | 1;
			break;
		case 1:
			/* Not the page that this runs in, nor its tables: of what is written there nothing would be left to end. */
			entry = 0x2000000 + (draw() & 0x1fff000) + (entry & 0xfff);
			break;
		case 2:
			entry &= 0x80000000ffffffff;
			break;
		case 3:
			entry = APIC | (entry & 0xfff);
			break;
		}
		if ((entry & 0xffffffff000ull) < 0x2000000)
			entry &= ~2ull;
		*to = entry;
		flush_page(at);
		start.gpr[RSI] = at;
		switch (draw() % 4) {
		case 0:
			run(3, CODE("mov (%rsi), %rax"));
			break;
		case 1:
			run(3, CODE("mov %rax, (%rsi)"));
			break;
		case 2:
			run(0, CODE("lock incl (%rsi)"));
			break;
		default:
			run(3, CODE("jmp *%rsi"));
		}
		counts[last.vector & 31]++;
	}
	say("page faults: %s\n", counts[PF] > 500 ? "many" : "few");
}

static void descriptors(void)
{
	for (unsigned i = 0; i < 6000; i++) {
		for (unsigned k = GDT_END / 8; k < 32; k++)
			gdt[k] = draw();
		start.gpr[RAX] = GDT_END + (draw() & 0x6f);
		load_table("gdt", (uint64_t)gdt, 255);
		switch (draw() % 6) {
		case 0:
			run(3, CODE("mov %eax, %ds"));
			break;
		case 1:
			run(0, CODE("mov %eax, %fs"));
			break;
		case 2:
			run(0, CODE("lldt %ax"));
			break;
		case 3:
			run(3, CODE("mov %eax, 4(%rsi); ljmp *(%rsi)"));
			break;
		case 4:
			run(3, CODE("push %rax; push %rax; lretq"));
			break;
		default:
			run(0, CODE("lar %ax, %ecx; lsl %ax, %ecx; verr %ax; verw %ax"));
		}
	}
}

static void registers(void)
{
	/* Nonsense into control registers and MSRs, one bit away from what is there. */
	static const uint32_t msrs[] = {0x1b, 0x3a, 0x1a0, 0x277, 0x6e0, 0xc0000080, 0xc0000081, 0xc0000082, 0xc0000084, 0xc0000100, 0xc0000101, 0xc0000102, 0x3b};
	for (unsigned i = 0; i < 3000; i++) {
		uint64_t saved0 = read_cr(0), saved4 = read_cr(4), efer = read_msr(0xc0000080);
		start.gpr[RCX] = draw() & 1 ? msrs[draw() % 13] : draw() & 0xc0001fff;
		start.gpr[RDX] = draw() & 63;
		switch (draw() % 4) {
		case 0:
			run(0, CODE("mov %cr0, %rax; btc %rdx, %rax; mov %rax, %cr0"));
			break;
		case 1:
			run(0, CODE("mov %cr4, %rax; btc %rdx, %rax; mov %rax, %cr4"));
			break;
		case 2:
			run(0, CODE("mov %edx, %ebx; rdmsr; shl $32, %rdx; or %rdx, %rax; btc %rbx, %rax; mov %rax, %rdx; shr $32, %rdx; wrmsr"));
			break;
		default:
			start.gpr[RDX] &= spares_cr3 ? 7 : 63;
			run(0, CODE("mov %cr3, %rbx; mov %rbx, %rax; btc %rdx, %rax; cmp $11, %rdx; jbe 1f; cmp $52, %rdx; jb 2f; 1: mov %rax, %cr3; 2: mov %rbx, %cr3"));
		}
		write_cr0(saved0);
		write_cr4(saved4);
		write_msr(0xc0000080, efer);
		write_msr(0x1b, 0xfee00900);
	}
}

static const struct {
	const char *name;
	void (*run)(void);
} all[] = {
    {"no_table", no_table},	    {"table_nowhere", table_nowhere}, {"pages_of_nothing", pages_of_nothing},
    {"pages_nowhere", pages_nowhere}, {"pages_of_the_apic", pages_of_the_apic}, {"pages_of_themselves", pages_of_themselves},
    {"no_stack", no_stack},	    {"no_segments", no_segments},     {"by_keyboard", by_keyboard},
    {"by_reset_register", by_reset_register}, {"never", never},	      {"round_and_round", round_and_round},
    {"fault_in_fault", fault_in_fault}, {"ports", ports},	      {"configuration", configuration},
    {"devices", devices},	    {"interrupts", interrupts},	      {"pages", pages},
    {"descriptors", descriptors},   {"registers", registers},
};

void cases(void)
{
	const char *line = (const char *)COMMAND_LINE;
	for (unsigned i = 0; i < sizeof(all) / sizeof(*all); i++) {
		unsigned n = 0;
		while (all[i].name[n] && all[i].name[n] == line[n])
			n++;
		if (all[i].name[n] || line[n] != ' ')
			continue;
		const char *at = line + n + 1;
		for (; *at >= '0' && *at <= '9'; at++)
			seed = seed * 10 + (uint64_t)(*at - '0');
		spares_cr3 = *at == ' ';
		all[i].run();
		say("through\n");
		return;
	}
	say("no such storm\n");
}
