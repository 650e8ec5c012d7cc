/* A guest of several processors that do what the test tells them in its memory (mailbox.h). The first character of the command line:
 * how many are started at once; the second: how many there are. */
#include "../invariant/guest/guest.h"
#include "mailbox.h"

#define TRAMPOLINE  0x8000u /* one page below 1 MiB; the start-up vector is 8 */
#define COMMAND_LINE 0x20000u
#define STACK       8192u
#define VECTOR_IPI  0x40u
#define VECTOR_TIMER 0x41u
#define WAKE_MS     20u

static volatile struct mailbox *const box = (volatile struct mailbox *)MAILBOX;

/* Where a processor begins: real mode, CS at the page's beginning. From there into 64-bit mode at once (SDM Vol. 3A 10.8.5: the order of
 * CR4.PAE, CR3, EFER.LME, CR0.PG), by what the first one has put at the page's end. Its APIC ID says which stack is its own. */
__asm__(".pushsection .text\n"
	".code16\n"
	".globl trampoline, trampoline_end\n"
	"trampoline:\n"
	"	cli\n"
	"	xor %ax, %ax\n"
	"	mov %ax, %ds\n"
	"	lgdtl 0x8fe0\n"
	"	mov 0x8ff4, %eax\n"
	"	mov %eax, %cr4\n"
	"	mov 0x8ff0, %eax\n"
	"	mov %eax, %cr3\n"
	"	mov $0xc0000080, %ecx\n"
	"	mov $0x901, %eax\n"
	"	xor %edx, %edx\n"
	"	wrmsr\n"
	"	mov $0x80010033, %eax\n"
	"	mov %eax, %cr0\n"
	"	ljmpl $8, $entry_other\n"
	"trampoline_end:\n"
	".code64\n"
	"entry_other:\n"
	"	mov $0x10, %eax\n"
	"	mov %eax, %ss\n"
	"	mov %eax, %ds\n"
	"	mov %eax, %es\n"
	"	mov $0xfee00020, %eax\n"
	"	mov (%rax), %edi\n"
	"	shr $24, %edi\n"
	"	lea 1(%rdi), %eax\n"
	"	shl $13, %eax\n"
	"	lea stacks(%rip), %rsp\n"
	"	add %rax, %rsp\n"
	"	call other\n"
	"1:	hlt\n"
	"	jmp 1b\n"
	".popsection\n");
extern const uint8_t trampoline[], trampoline_end[];
extern uint8_t stacks[MAILBOX_CPUS][STACK];
uint8_t stacks[MAILBOX_CPUS][STACK] __attribute__((aligned(16)));
void other(uint32_t id);

static unsigned own_id(void)
{
	return apic_read(0x20) >> 24;
}

/* Two bytes of nothing, and back. */
__asm__(".pushsection .text\n.balign 16\n.globl spot\nspot: .byte 0x66, 0x90\nret\n.popsection\n");
extern uint8_t spot[];
#define BREAKPOINT 0xcc

/* SDM Vol. 3A 9.1.3. What is not there any more is run again. */
static void met(struct trap *trap)
{
	box->traps++;
	trap->rip = trap->rip - 1 + (*(volatile uint8_t *)(trap->rip - 1) == BREAKPOINT ? 2 : 0);
}

static void tell_all(void)
{
	uint64_t before[MAILBOX_CPUS];
	for (unsigned i = 1; i < box->started; i++)
		before[i] = box->interrupts[i];
	apic_write(0x300, 0xc4000 | VECTOR_IPI);
	for (unsigned i = 1; i < box->started; i++)
		while (box->interrupts[i] == before[i] && box->command == MAILBOX_PATCH)
			__asm__ volatile("pause");
}

static void patch(unsigned id)
{
	static const uint8_t steps[] = {BREAKPOINT, 0x66};
	if (id)
		__asm__ volatile("call spot" : : : "memory");
	for (unsigned i = 0; !id && i < sizeof(steps); i++) {
		*(volatile uint8_t *)spot = steps[i];
		tell_all();
	}
	box->count[id]++;
}

static void interrupted(struct trap *trap)
{
	if (trap->vector == VECTOR_IPI)
		box->interrupts[own_id()]++;
	else
		box->wakes++;
	apic_write(0xb0, 0);
}

static void look_at_clock(void)
{
	uint32_t taken = 1;
	while (__atomic_exchange_n(&box->lock, taken, __ATOMIC_ACQUIRE))
		__asm__ volatile("pause");
	uint64_t now = tsc();
	if (now < box->last_tsc)
		box->backwards++;
	box->last_tsc = now;
	__atomic_store_n(&box->lock, 0, __ATOMIC_RELEASE);
}

static void look_at_oneself(unsigned id)
{
	uint32_t r[4];
	cpuid(1, 0, r);
	bool good = r[1] >> 24 == id && (r[1] >> 16 & 0xff) >= box->all && r[3] >> 28 & 1;
	cpuid(0xb, 0, r);
	good &= r[3] == id;
	cpuid(0xb, 1, r);
	good &= r[3] == id && r[1] == box->all;
	good &= own_id() == id;
	box->wrong += !good;
}

/* ---- The host's own processor, where the guest has it ---- */

#define CR4_OSXSAVE (1ull << 18)
#define XCR0_AVX    7u
#define MISC_FEATURES_ENABLES 0x140u /* bit 0: CPUID faults outside of ring 0. SDM Vol. 4 */

static uint8_t patterns[MAILBOX_CPUS][512] __attribute__((aligned(32)));

#define ALL_YMM(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)

static void become_wide(unsigned id)
{
	uint32_t r[4];
	cpuid(1, 0, r);
	if (!(r[2] >> 28 & 1))
		return;
	/* What such a guest must not be told of: VMX, x2APIC; SVM. */
	box->wrong += r[2] >> 5 & 1 || r[2] >> 21 & 1;
	cpuid(0x80000001, 0, r);
	box->wrong += r[2] >> 2 & 1;
	for (unsigned i = 0; i < sizeof(patterns[id]); i++)
		patterns[id][i] = (uint8_t)(i * 7 + id * 31 + 1);
	write_cr4(read_cr(4) | CR4_OSXSAVE);
	__asm__ volatile("xsetbv" : : "c"(0), "a"(XCR0_AVX), "d"(0));
#define X(n) "vmovdqa " #n "*32(%0), %%ymm" #n "\n"
	__asm__ volatile(ALL_YMM(X) : : "r"(patterns[id]) : "memory");
#undef X
	write_msr(MISC_FEATURES_ENABLES, 1);
	box->wide[id] = 1;
}

static void look_at_registers(unsigned id)
{
	uint8_t is[512] __attribute__((aligned(32)));
	uint32_t low, high;
	if (!box->wide[id])
		return;
#define X(n) "vmovdqu %%ymm" #n ", " #n "*32(%0)\n"
	__asm__ volatile(ALL_YMM(X) : : "r"(is) : "memory");
#undef X
	__asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
	box->lost += !same(is, patterns[id], sizeof(is)) || low != XCR0_AVX || high || read_msr(MISC_FEATURES_ENABLES) != 1;
}

/* A few microseconds with all of them in use, so that where this one is stopped it is mostly in here. RBP and RSP: the compiler's. */
static void look_at_general(unsigned id)
{
	uint64_t seed = 0x5eed0000ull + ((uint64_t)id << 32), off = 0;
#define GENERAL(X) X(1, rbx) X(2, rdx) X(3, rsi) X(4, rdi) X(5, r8) X(6, r9) X(7, r10) X(8, r11) X(9, r12) X(10, r13) X(11, r14) X(12, r15)
#define FILL(n, r) "lea " #n "(%%rax), %%" #r "\n"
#define LOOK(n, r) "sub %%rax, %%" #r "\nsub $" #n ", %%" #r "\nor %%" #r ", %%rcx\n"
	__asm__ volatile(GENERAL(FILL) "mov $4000, %%ecx\n"
				       "1: dec %%rcx\n"
				       "jnz 1b\n" GENERAL(LOOK)
			 : "+c"(off), "+a"(seed)
			 :
			 : "rbx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "cc");
	box->lost += off || seed != 0x5eed0000ull + ((uint64_t)id << 32);
}

static void work(unsigned id)
{
	look_at_registers(id);
	look_at_general(id);
	uint64_t count = ++box->count[id];
	look_at_clock();
	if (count % 64 == id) {
		out8(0x70, 0x30);
		in8(0x71);
	}
	if (count % 256 == 0)
		apic_write(0x300, 0xc4000 | VECTOR_IPI); /* to all but itself */
}

static void rest(unsigned id)
{
	if (!id)
		write_msr(0x6e0, tsc() + tsc_hz() / 1000 * WAKE_MS);
	__asm__ volatile("sti; hlt; cli" : : : "memory");
}

static void wait_us(uint64_t us)
{
	uint64_t end = tsc() + tsc_hz() / 1000000 * us;
	while (tsc() < end)
		__asm__ volatile("pause");
}

/* SDM Vol. 3A 9.4.4.1 */
static void start_one(unsigned id)
{
	apic_write(0x310, id << 24);
	apic_write(0x300, 0x4500);
	wait_us(1000);
	for (unsigned tries = 0; tries < 2 && !box->alive[id]; tries++) {
		apic_write(0x310, id << 24);
		apic_write(0x300, 0x4600 | TRAMPOLINE >> 12);
		wait_us(500);
	}
}

static void start_up_to(unsigned number)
{
	while (box->started < number)
		start_one(box->started++);
}

static void fall(void)
{
	static const struct {
		uint16_t limit;
		uint64_t base;
	} __attribute__((packed)) none = {0, 0};
	__asm__ volatile("lidt %0; ud2" : : "m"(none));
}

static void obey(unsigned id)
{
	box->alive[id] = 1;
	for (;;) {
		switch (box->command) {
		case MAILBOX_WORK:
			work(id);
			break;
		case MAILBOX_REST:
			rest(id);
			break;
		case MAILBOX_WATCH:
			if (id)
				work(id);
			else
				rest(id);
			break;
		case MAILBOX_PATCH:
			patch(id);
			break;
		case MAILBOX_START:
			if (!id) {
				start_up_to(box->all);
				box->command = MAILBOX_WORK;
			}
			break;
		case MAILBOX_RESET:
			if (id == box->started - 1)
				out8(0xcf9, 6);
			break;
		case MAILBOX_FAULT:
			if (id == box->started - 1)
				fall();
			break;
		}
		__asm__ volatile("sti; nop; nop; cli" : : : "memory");
	}
}

void other(uint32_t id)
{
	struct {
		uint16_t limit;
		uint64_t base;
	} __attribute__((packed)) idt = {4095, (uint64_t)gate(0)};
	__asm__ volatile("lidt %0" : : "m"(idt));
	apic_write(0xf0, 0x1ff);
	look_at_oneself(id);
	become_wide(id);
	obey(id);
}

void cases(void)
{
	struct {
		uint16_t limit;
		uint64_t base;
	} __attribute__((packed)) *table = (void *)(TRAMPOLINE + 0xfe0ul);
	const char *line = (const char *)COMMAND_LINE;
	handlers[VECTOR_IPI] = handlers[VECTOR_TIMER] = interrupted;
	handlers[BP] = met;
	gate(BP)[0] &= ~(7ull << 32); /* on the stack of who meets it */
	copy((void *)(uint64_t)TRAMPOLINE, trampoline, (size_t)(trampoline_end - trampoline));
	table->limit = GDT_END - 1;
	table->base = (uint64_t)gdt;
	*(volatile uint32_t *)(TRAMPOLINE + 0xff0ul) = (uint32_t)read_cr(3);
	*(volatile uint32_t *)(TRAMPOLINE + 0xff4ul) = (uint32_t)read_cr(4);
	apic_write(0xf0, 0x1ff);
	apic_write(0x320, 2u << 17 | VECTOR_TIMER); /* deadline mode */
	box->all = (uint32_t)(line[1] - '0');
	box->started = 1;
	look_at_oneself(0);
	become_wide(0);
	start_up_to((unsigned)(line[0] - '0'));
	obey(0);
}
