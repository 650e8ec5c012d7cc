/* When an interrupt comes: behind which instruction, in what order, and what holds it off. Each case counts its steps in R8; a
 * handler writes down where the count was. SDM Vol. 3A 6.8, Vol. 2 STI, MOV, POP, HLT. */
#include "guest.h"

#define ICR "0xfee00300"
/* To ourselves: fixed, by shorthand, and as an NMI. */
#define POST(vector) "mov $" ICR ", %ebx; movl $0x44000 + " #vector ", (%rbx); "
#define POST_NMI     "mov $" ICR ", %ebx; movl $0, 0x10(%rbx); movl $0x4400, (%rbx); "
#define STEP         "inc %r8d; "
#define FLAGS(set)   "pushf; orq $" #set ", (%rsp); popf; "
#define STEPPING_ON  FLAGS(0x100)
#define STEPPING_OFF "pushf; andq $-0x101, (%rsp); popf; "

static struct {
	uint8_t vector;
	uint32_t step;
} events[40];
static unsigned count;
static bool keep; /* no end of interrupt */

static void note(struct trap *trap)
{
	if (count < sizeof(events) / sizeof(*events)) {
		events[count].vector = (uint8_t)trap->vector;
		events[count++].step = (uint32_t)trap->gpr[R8];
	}
}

static void interrupt(struct trap *trap)
{
	note(trap);
	if (!keep)
		apic_write(0xb0, 0);
}

static void step(struct trap *trap)
{
	note(trap);
	uint64_t dr6;
	__asm__ volatile("mov %%dr6, %0; mov %1, %%dr6" : "=&r"(dr6) : "r"(0xffff0ff0ull));
	if (dr6 != 0xffff4ff0)
		say("debug status %x\n", dr6);
}

static unsigned nmi_depth, nmis_most, nmis_to_post;

static void nmi(struct trap *trap)
{
	note(trap);
	if (++nmi_depth > nmis_most)
		nmis_most = nmi_depth;
	if (nmis_to_post) {
		nmis_to_post--;
		apic_write(0x310, 0);
		apic_write(0x300, 0x4400);
	}
	nmi_depth--;
}

static void drain(void)
{
	while (apic_read(0x140) | apic_read(0x130) | apic_read(0x120))
		apic_write(0xb0, 0);
	keep = false;
	if (read_cr(8))
		write_cr8(0);
	apic_write(0x80, 0);
	__asm__ volatile("xor %%r8d, %%r8d; sti; nop; cli" : : : "r8", "memory");
}

/* wanted: "vector:step" and so on, both hexadecimal; NULL: the manuals leave it open. */
static void timed(const char *name, unsigned ring, struct code code, const char *wanted)
{
	char got[400];
	unsigned n = 0;
	count = 0;
	start.gpr[R8] = 0;
	run(ring, code);
	for (unsigned i = 0; i < count; i++) {
		if (i)
			got[n++] = ' ';
		got[n++] = "0123456789abcdef"[events[i].vector >> 4];
		got[n++] = "0123456789abcdef"[events[i].vector & 15];
		got[n++] = ':';
		got[n++] = "0123456789abcdef"[events[i].step & 15];
	}
	got[n] = 0;
	say("%s: [%s] vector %u +%x flags %x, ", name, got, last.vector, last.rip - code_base, last.flags & ~0x10000ull);
	count = 0;
	drain();
	unsigned k = 0;
	while (wanted && got[k] && got[k] == wanted[k])
		k++;
	say("left over %u", (uint64_t)count);
	if (wanted)
		check(", as wanted", got[k] == wanted[k]);
	else
		say("\n");
	restore();
}

static void windows(void)
{
	timed("sti", 0, CODE(POST(0x40) "sti; " STEP STEP), "40:1");
	timed("sti, cli", 0, CODE(POST(0x40) "sti; cli; " STEP), "");
	timed("sti, sti", 0, CODE(POST(0x40) "sti; sti; " STEP), "40:0");
	timed("popf", 0, CODE(POST(0x40) FLAGS(0x200) STEP), "40:0");
	/* Of several that hold interrupts off only the first has to (SDM Vol. 2B MOV, note on SS). */
	timed("sti, mov ss", 0, CODE("mov %ss, %eax; " POST(0x40) "sti; mov %eax, %ss; " STEP STEP), NULL);
	timed("iret", 0,
	      CODE("mov %rsp, %rcx; " POST(0x40) "push $0x10; push %rcx; push $0x202; push $8; lea 1f(%rip), %rax; push %rax; iretq; 1: " STEP),
	      "40:0");
	timed("sti, hlt", 0, CODE(POST(0x40) "sti; hlt; " STEP), "40:0");
	timed("sti behind a string", 0, CODE(POST(0x40) "lea 0(%rsi), %rdi; mov $64, %ecx; sti; rep stosb; " STEP), "40:0");
	timed("two at once", 0, CODE(POST(0x40) POST(0x61) "sti; " STEP STEP), "61:1 40:1");
	timed("twice the same", 0, CODE(POST(0x40) POST(0x40) "sti; " STEP STEP), "40:1");
	timed("port access behind sti", 0, CODE(POST(0x40) "sti; in $0x84, %al; " STEP), "40:0");
	timed("cpuid behind sti", 0, CODE(POST(0x40) "sti; cpuid; " STEP), "40:0");
	timed("rdtsc behind sti", 0, CODE(POST(0x40) "sti; rdtsc; " STEP), "40:0");
	timed("a fault behind sti", 0, CODE(POST(0x40) "sti; ud2"), "");
	timed("int3 behind sti", 0, CODE(POST(0x40) "sti; int3"), "");
	start.flags = FLAG_IF | 2;
	apic_write(0x300, 0x44040);
	timed("into ring 3", 3, CODE(STEP), "40:0");
	start.flags = FLAG_IF | 2;
	timed("in a running ring 0", 0, CODE(POST(0x40) STEP STEP), "40:0");
	start.flags = FLAG_IF | 2;
	timed("mov ss alone", 0, CODE("mov %ss, %eax; mov %eax, %ss; " POST(0x40) STEP), "40:0");
	start.flags = FLAG_IF | FLAG_IOPL | 2;
	timed("cli, sti in ring 3 that may", 3, CODE("cli; " STEP "sti; " STEP), "");
	write_msr(0xc0000081, (uint64_t)(CODE0) << 32 | (uint64_t)(CODE32 | 3) << 48);
	start.gpr[R11] = 0x202;
	timed("sysret", 0,
	      CODE(POST(0x40) "mov $0x40000800, %ecx; movl $0x81cdc3ff, (%rcx); movw $0x81cd, (%rcx); mov $0x202, %r11d; sysretq"), "40:0");
}

static void priorities(void)
{
	/* QEMU 7.2 does not survive a write to CR8 while an interrupt waits for its guest's guest (svm_helper, cpu_interrupt). */
	if (!under_qemu)
		timed("cr8", 0, CODE("mov $5, %eax; mov %rax, %cr8; " POST(0x45) "sti; " STEP STEP "xor %eax, %eax; mov %rax, %cr8; " STEP), "45:2");
	timed("task priority", 0,
	      CODE("mov $0xfee00080, %edx; movl $0x50, (%rdx); " POST(0x45) "sti; " STEP STEP "movl $0x40, (%rdx); " STEP "movl $0x3f, (%rdx); " STEP),
	      "45:3");
	timed("above the task priority", 0, CODE("mov $4, %eax; mov %rax, %cr8; " POST(0x51) "sti; " STEP STEP), "51:1");
	keep = true;
	timed("in service", 0, CODE(POST(0x61) "sti; " STEP STEP POST(0x45) STEP POST(0x6f) STEP POST(0x72) STEP), "61:1 72:4");
	expect_value("processor priority at rest", apic_read(0xa0), 0);
	if (!under_qemu)
		timed("hlt under a priority", 0,
	      CODE("mov $5, %eax; mov %rax, %cr8; " POST(0x45) POST(0x62) "sti; hlt; " STEP "xor %eax, %eax; mov %rax, %cr8; " STEP), "62:0 45:1");
	apic_write(0xf0, 0xff);
	timed("disabled by software", 0, CODE(POST(0x40) "sti; " STEP STEP), "");
	apic_write(0xf0, 0x1ff);
}

static void unmaskable(void)
{
	timed("nmi", 0, CODE(POST_NMI STEP), "02:0");
	start.flags = FLAG_IF | 2;
	timed("nmi and interrupt", 0, CODE("cli; " POST(0x40) POST_NMI STEP "sti; " STEP STEP), "02:0 40:2");
	nmis_to_post = 2;
	timed("nmi in an nmi", 0, CODE(POST_NMI STEP), "02:0 02:0 02:0");
	expect_value("nmis within another", nmis_most, 1);
	timed("nmi ends hlt", 0, CODE(POST_NMI "nop; " STEP), "02:0");
}

static void single_steps(void)
{
	timed("steps", 0, CODE(STEPPING_ON STEP STEP STEPPING_OFF STEP), "01:1 01:2 01:2 01:2 01:2");
	timed("steps in ring 3", 3, CODE(STEPPING_ON STEP STEP STEPPING_OFF STEP), "01:1 01:2 01:2 01:2 01:2");
	timed("steps over mov ss", 0, CODE("mov %ss, %eax; " STEPPING_ON "mov %eax, %ss; " STEP STEP STEPPING_OFF), "01:1 01:2 01:2 01:2 01:2");
	timed("steps over cpuid", 0, CODE(STEPPING_ON "cpuid; " STEP STEPPING_OFF), "01:0 01:1 01:1 01:1 01:1");
	timed("steps over rdtsc", 3, CODE(STEPPING_ON "rdtsc; " STEP STEPPING_OFF), "01:0 01:1 01:1 01:1 01:1");
	timed("steps over a port", 0, CODE(STEPPING_ON "in $0x84, %al; " STEP STEPPING_OFF), "01:0 01:1 01:1 01:1 01:1");
	timed("steps over a load where there is no memory", 3, CODE("mov $0x40011000, %edx; " STEPPING_ON "mov (%rdx), %ecx; " STEP STEPPING_OFF),
	      "01:0 01:1 01:1 01:1 01:1");
	timed("steps over a store where there is no memory", 3, CODE("mov $0x40011000, %edx; " STEPPING_ON "mov %ecx, (%rdx); " STEP STEPPING_OFF),
	      "01:0 01:1 01:1 01:1 01:1");
	timed("steps over rdmsr", 0, CODE("mov $0xc0000080, %ecx; " STEPPING_ON "rdmsr; " STEP STEPPING_OFF), "01:0 01:1 01:1 01:1 01:1");
	timed("steps over mov to cr0", 0, CODE("mov %cr0, %rax; " STEPPING_ON "mov %rax, %cr0; " STEP STEPPING_OFF), "01:0 01:1 01:1 01:1 01:1");
	timed("steps over mov to cr8", 0, CODE("xor %eax, %eax; " STEPPING_ON "mov %rax, %cr8; " STEP STEPPING_OFF), "01:0 01:1 01:1 01:1 01:1");
	timed("steps over a string", 3, CODE("mov $3, %ecx; " STEPPING_ON "rep stosb; " STEP STEPPING_OFF), "01:0 01:0 01:0 01:1 01:1 01:1 01:1");
	timed("steps over a string of nothing", 3, CODE("xor %ecx, %ecx; " STEPPING_ON "rep stosb; " STEP STEPPING_OFF), "01:0 01:1 01:1 01:1 01:1");
	timed("steps over a jump", 3, CODE(STEPPING_ON "jmp 1f; ud2; 1: " STEP STEPPING_OFF), "01:0 01:1 01:1 01:1 01:1");
	timed("steps over sti", 0, CODE(STEPPING_ON "sti; " STEP "cli; " STEPPING_OFF), "01:0 01:1 01:1 01:1 01:1 01:1");
	timed("steps and an interrupt", 0, CODE(POST(0x40) STEPPING_ON "sti; " STEP STEP "cli; " STEPPING_OFF),
	      "01:0 40:0 01:1 01:2 01:2 01:2 01:2 01:2");
	timed("a step into a fault", 3, CODE(STEPPING_ON "ud2"), "");
	timed("a step into int3", 3, CODE(STEPPING_ON "int3"), "");
	timed("a step that turns itself off", 3, CODE(STEPPING_ON STEPPING_OFF STEP), "01:0 01:0 01:0");
}

/* The frame is 16-byte aligned whatever the stack was. SDM Vol. 3A 6.14.2. */
static uint64_t frame_end;

static void frame(struct trap *trap)
{
	frame_end = (uint64_t)(trap + 1);
	apic_write(0xb0, 0);
}

static void alignment(void)
{
	handlers[0x40] = frame;
	start.flags = FLAG_IF | 2;
	apic_write(0x300, 0x44040);
	run(0, CODE("nop"));
	for (uint64_t n = 0; n < 16; n++) {
		start.rsp = PAGE(STACK) + 4096 - n;
		start.flags = FLAG_IF | 2;
		run(0, CODE(POST(0x40) "nop"));
		expect_value("end of the frame", frame_end, (PAGE(STACK) + 4096 - n) & ~15ull);
	}
	handlers[0x40] = interrupt;
}

void cases(void)
{
	static const uint8_t used[] = {0x40, 0x45, 0x51, 0x61, 0x62, 0x6f, 0x72};
	for (unsigned i = 0; i < sizeof(used); i++)
		handlers[used[i]] = interrupt;
	handlers[DB] = step;
	handlers[NMI] = nmi;
	apic_write(0xf0, 0x1ff);
	/* The PIC has no say here. */
	out8(0x21, 0xff);
	out8(0xa1, 0xff);
	windows();
	priorities();
	unmaskable();
	single_steps();
	alignment();
}
