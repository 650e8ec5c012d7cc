/* The init of a guest that means harm: ring-3 code that tries every privileged instruction, undefined opcodes, foreign
 * addresses and random bytes, and checks that each ends as on a processor. Prints one line for everything that does not,
 * and at the end "hostile: N checks, M wrong". Run as process 1 by tests/vmm/test_hostile.c (statically linked, no disk). */
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/reboot.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <termios.h>
#include <linux/seccomp.h>
#include <ucontext.h>
#include <unistd.h>

/* ---- Running bytes ---- */

/* Loads all general registers but RSP from `initial`, calls *target and comes back through leave_code, which a signal
 * handler may jump to as well. */
uint64_t initial[16], saved_sp;
void *target;
void enter_code(void);
void leave_code(void) __attribute__((noreturn));
__asm__("enter_code:\n"
	"	push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15\n"
	"	mov %rsp, saved_sp(%rip)\n"
	"	mov initial+0(%rip), %rax; mov initial+8(%rip), %rcx; mov initial+16(%rip), %rdx\n"
	"	mov initial+24(%rip), %rbx; mov initial+40(%rip), %rbp; mov initial+48(%rip), %rsi\n"
	"	mov initial+56(%rip), %rdi; mov initial+64(%rip), %r8; mov initial+72(%rip), %r9\n"
	"	mov initial+80(%rip), %r10; mov initial+88(%rip), %r11; mov initial+96(%rip), %r12\n"
	"	mov initial+104(%rip), %r13; mov initial+112(%rip), %r14; mov initial+120(%rip), %r15\n"
	"	call *target(%rip)\n"
	"leave_code:\n"
	"	mov saved_sp(%rip), %rsp\n"
	"	movq $0, saved_sp(%rip)\n"
	"	cld\n"
	"	pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp\n"
	"	ret\n");

static struct outcome {
	int signal, code, trap;
	uint64_t error, address, rip;
	greg_t registers[NGREG];
} last;

static unsigned steps; /* single-step traps taken */
static int stepping;
static unsigned checks, wrong;

static void handler(int signal, siginfo_t *info, void *context)
{
	const greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
	if (signal == SIGTRAP && stepping) {
		steps++;
		return;
	}
	if (!saved_sp) {
		if (signal == SIGALRM)
			return;
		static const char text[] = "hostile: a fault in the harness\n";
		write(1, text, sizeof(text) - 1);
		_exit(99);
	}
	last.signal = signal;
	last.code = info->si_code;
	last.address = (uint64_t)info->si_addr;
	last.trap = (int)registers[REG_TRAPNO];
	last.error = (uint64_t)registers[REG_ERR];
	last.rip = (uint64_t)registers[REG_RIP];
	memcpy(last.registers, registers, sizeof(last.registers));
	leave_code();
}

static uint8_t *page;    /* code: read, write, execute; the page behind it is not mapped */
static uint8_t *scratch; /* data */

static void catch_signals(void)
{
	static const int signals[] = {SIGSEGV, SIGILL, SIGBUS, SIGFPE, SIGTRAP, SIGALRM};
	stack_t stack = {.ss_sp =
			     mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
			 .ss_size = 65536};
	sigaltstack(&stack, NULL);
	for (unsigned i = 0; i < sizeof(signals) / sizeof(signals[0]); i++) {
		struct sigaction action = {.sa_sigaction = handler,
					   .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
		sigaction(signals[i], &action, NULL);
	}
}

static void prepare_registers(void)
{
	for (unsigned i = 0; i < 16; i++)
		initial[i] = 0x1111111111111111ull * i;
	initial[0] = initial[1] = initial[2] = 0;
	initial[6] = initial[7] = (uint64_t)scratch;
}

static void run_at(void *code)
{
	memset(&last, 0, sizeof(last));
	target = code;
	enter_code();
	__asm__ volatile("fninit");
}

static void run_bytes(const void *bytes, size_t length)
{
	memcpy(page, bytes, length);
	page[length] = 0xc3;
	run_at(page);
}

static void report(const char *what, const char *detail)
{
	wrong++;
	printf("hostile: wrong: %s: %s (signal %d code %d trap %d error %#lx address %#lx rip %#lx)\n", what,
	       detail, last.signal, last.code, last.trap, (unsigned long)last.error,
	       (unsigned long)last.address, (unsigned long)last.rip);
}

static void expect(int good, const char *what, const char *detail)
{
	checks++;
	if (!good)
		report(what, detail);
}

/* ---- One instruction, one outcome ---- */

/* REFUSED: #GP where the host is an AMD, else #UD. It follows the host, not the model: no control register turns them off (soft/hidden.c). */
enum { UD = 6, GP = 13, SS = 12, PF = 14, BP = 3, DB = 1, OF = 4, DE = 0, NONE = -1, REFUSED = -2 };

struct instruction {
	const char *name;
	const char *bytes;
	size_t length;
	int trap;
	uint64_t error;
	int prefix; /* bytes of preparation before the instruction that faults */
};
#define I(name, bytes, trap)                                                                                 \
	{                                                                                                    \
		name, bytes, sizeof(bytes) - 1, trap, 0, 0                                                   \
	}
#define E(name, bytes, trap, error)                                                                          \
	{                                                                                                    \
		name, bytes, sizeof(bytes) - 1, trap, error, 0                                               \
	}
#define P(name, bytes, prefix, trap, error)                                                                  \
	{                                                                                                    \
		name, bytes, sizeof(bytes) - 1, trap, error, prefix                                          \
	}

static const struct instruction instructions[] = {
    /* Privileged. */
    I("hlt", "\xf4", GP),
    I("cli", "\xfa", GP),
    I("sti", "\xfb", GP),
    I("in al,imm", "\xe4\x60", GP),
    I("in eax,imm", "\xe5\x60", GP),
    I("in al,dx", "\xec", GP),
    I("in ax,dx", "\x66\xed", GP),
    I("in eax,dx", "\xed", GP),
    I("out imm,al", "\xe6\x80", GP),
    I("out imm,eax", "\xe7\x80", GP),
    I("out dx,al", "\xee", GP),
    I("out dx,eax", "\xef", GP),
    I("insb", "\x6c", GP),
    I("insd", "\x6d", GP),
    I("outsb", "\x6e", GP),
    I("outsd", "\x6f", GP),
    I("lgdt", "\x0f\x01\x17", GP),
    I("lidt", "\x0f\x01\x1f", GP),
    I("lldt ax", "\x0f\x00\xd0", GP),
    I("ltr ax", "\x0f\x00\xd8", GP),
    I("lldt mem", "\x0f\x00\x17", GP),
    I("ltr mem", "\x0f\x00\x1f", GP),
    I("lmsw ax", "\x0f\x01\xf0", GP),
    I("clts", "\x0f\x06", GP),
    I("invd", "\x0f\x08", GP),
    I("wbinvd", "\x0f\x09", GP),
    I("wbnoinvd", "\xf3\x0f\x09", GP),
    I("invlpg", "\x0f\x01\x3f", GP),
    I("mov rax,cr0", "\x0f\x20\xc0", GP),
    I("mov rax,cr2", "\x0f\x20\xd0", GP),
    I("mov rax,cr3", "\x0f\x20\xd8", GP),
    I("mov rax,cr4", "\x0f\x20\xe0", GP),
    I("mov rax,cr8", "\x44\x0f\x20\xc0", GP),
    I("mov cr0,rax", "\x0f\x22\xc0", GP),
    I("mov cr3,rax", "\x0f\x22\xd8", GP),
    I("mov cr4,rax", "\x0f\x22\xe0", GP),
    I("mov cr8,rax", "\x44\x0f\x22\xc0", GP),
    I("mov rax,dr0", "\x0f\x21\xc0", GP),
    I("mov rax,dr7", "\x0f\x21\xf8", GP),
    I("mov dr0,rax", "\x0f\x23\xc0", GP),
    I("mov dr7,rax", "\x0f\x23\xf8", GP),
    I("rdmsr", "\x0f\x32", GP),
    I("wrmsr", "\x0f\x30", GP),
    I("rdpmc", "\x0f\x33", GP),
    I("swapgs", "\x0f\x01\xf8", GP),
    I("sysretq", "\x48\x0f\x07", GP),
    I("sysretl", "\x0f\x07", GP),
    /* Interrupt gates that are not for ring 3. */
    E("int 0", "\xcd\x00", GP, 0 * 8 + 2),
    E("int 2", "\xcd\x02", GP, 2 * 8 + 2),
    E("int 8", "\xcd\x08", GP, 8 * 8 + 2),
    E("int 14", "\xcd\x0e", GP, 14 * 8 + 2),
    E("int 0x20", "\xcd\x20", GP, 0x20 * 8 + 2),
    E("int 0xff", "\xcd\xff", GP, 0xff * 8 + 2),
    I("int3", "\xcc", BP),
    I("int 3", "\xcd\x03", BP),
    I("int 4", "\xcd\x04", OF),
    I("int1", "\xf1", DB),
    /* Segments. */
    P("mov ds, kernel data", "\xb8\x18\x00\x00\x00\x8e\xd8", 5, GP, 0x18),
    P("mov ss, kernel data", "\xb8\x18\x00\x00\x00\x8e\xd0", 5, GP, 0x18),
    P("mov ss, null", "\x31\xc0\x8e\xd0", 2, GP, 0),
    P("mov fs, kernel data", "\xb8\x18\x00\x00\x00\x8e\xe0", 5, GP, 0x18),
    P("mov es, TSS", "\xb8\x40\x00\x00\x00\x8e\xc0", 5, GP, 0x40),
    P("mov gs, far outside", "\xb8\xf8\xff\x00\x00\x8e\xe8", 5, GP, 0xfff8),
    P("pop fs, kernel data", "\x6a\x18\x0f\xa1", 2, GP, 0x18),
    I("mov cs", "\x8e\xc8", UD),
    I("mov sreg6", "\x8e\xf0", UD),
    I("mov from sreg7", "\x8c\xf8", UD),
    E("jmp far to the kernel", "\xff\x2f", GP, 0x10),
    E("jmp far64 to the kernel", "\x48\xff\x2f", GP, 0x10),
    E("call far to the kernel", "\xff\x1f", GP, 0x10),
    E("jmp far to 32-bit code", "\xff\x6f\x20", GP, 0x20),
    P("lret to the kernel", "\x6a\x10\x6a\x00\x48\xcb", 4, GP, 0x10),
    P("iretq to the kernel", "\x6a\x2b\x6a\x00\x6a\x02\x6a\x10\x6a\x00\x48\xcf", 10, GP, 0x10),
    P("iretq to 32-bit code", "\x6a\x2b\x6a\x00\x6a\x02\x6a\x23\x6a\x00\x48\xcf", 10, GP, 0x20),
    P("iretq with a kernel stack segment", "\x6a\x18\x6a\x00\x6a\x02\x6a\x33\x6a\x00\x48\xcf", 10, GP, 0x18),
    /* Addresses that cannot be. */
    P("load not canonical", "\x48\xb8\x00\x00\x00\x00\x00\x80\x00\x00\x48\x8b\x00", 10, GP, 0),
    P("store not canonical", "\x48\xb8\x00\x00\x00\x00\x00\x00\x01\x00\x48\x89\x00", 10, GP, 0),
    P("load across the canonical end", "\x48\xb8\xfc\xff\xff\xff\xff\x7f\x00\x00\x48\x8b\x00", 10, GP, 0),
    P("jmp not canonical", "\x48\xb8\x00\x00\x00\x00\x00\x80\x00\x00\xff\xe0", 10, GP, 0),
    P("push not canonical", "\x48\xbc\x00\x00\x00\x00\x00\x00\x01\x00\x50", 10, SS, 0),
    P("rbp not canonical", "\x48\xbd\x00\x00\x00\x00\x00\x00\x01\x00\x48\x8b\x45\x00", 10, SS, 0),
    P("ret not canonical", "\x48\xb8\x00\x00\x00\x00\x00\x80\x00\x00\x50\xc3", 11, GP, 0),
    /* Alignment and reserved bits. */
    I("movaps misaligned", "\x0f\x28\x47\x01", GP),
    I("movntdq misaligned", "\x66\x0f\xe7\x47\x01", GP),
    I("cmpxchg16b misaligned", "\x48\x0f\xc7\x4f\x08", GP),
    I("fxsave misaligned", "\x0f\xae\x47\x01", GP),
    I("fxrstor misaligned", "\x0f\xae\x4f\x01", GP),
    I("ldmxcsr reserved", "\x0f\xae\x57\x10", GP),
    I("sixteen bytes", "\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x90", GP),
    P("division by zero", "\xf7\xf1", 0, DE, 0),
    P("quotient too large", "\xba\xff\xff\xff\xff\xb9\x02\x00\x00\x00\xf7\xf1", 10, DE, 0),
    /* Undefined, or of processors that this one is not. */
    I("ud2", "\x0f\x0b", UD),
    I("ud1", "\x0f\xb9\xc0", UD),
    I("ud0", "\x0f\xff\xc0", UD),
    I("push es", "\x06", UD),
    I("pop es", "\x07", UD),
    I("push cs", "\x0e", UD),
    I("push ss", "\x16", UD),
    I("push ds", "\x1e", UD),
    I("daa", "\x27", UD),
    I("das", "\x2f", UD),
    I("aaa", "\x37", UD),
    I("aas", "\x3f", UD),
    I("pusha", "\x60", UD),
    I("popa", "\x61", UD),
    I("82", "\x82\xc0\x00", UD),
    I("call far direct", "\x9a\x00\x00\x00\x00\x10\x00", UD),
    I("jmp far direct", "\xea\x00\x00\x00\x00\x10\x00", UD),
    I("into", "\xce", UD),
    I("aam", "\xd4\x0a", UD),
    I("aad", "\xd5\x0a", UD),
    I("salc", "\xd6", UD),
    I("evex", "\x62\xf1\x7c\x48\x28\xc0", UD),
    I("vzeroupper", "\xc5\xf8\x77", UD),
    I("vmovaps", "\xc5\xf8\x28\xc1", UD),
    I("vbroadcastss", "\xc4\xe2\x79\x18\x07", UD),
    I("vzeroall", "\xc5\xfc\x77", UD),
    I("xop", "\x8f\xe9\x78\x81\xc0", UD),
    I("xgetbv", "\x0f\x01\xd0", UD),
    I("xsetbv", "\x0f\x01\xd1", UD),
    I("xsave", "\x0f\xae\x27", UD),
    I("xrstor", "\x0f\xae\x2f", UD),
    I("xsaveopt", "\x0f\xae\x37", UD),
    I("xsavec", "\x0f\xc7\x27", UD),
    I("rdfsbase", "\xf3\x0f\xae\xc0", UD),
    I("rdgsbase", "\xf3\x48\x0f\xae\xc8", UD),
    I("wrfsbase", "\xf3\x48\x0f\xae\xd0", UD),
    I("wrgsbase", "\xf3\x48\x0f\xae\xd8", UD),
    I("vmlaunch", "\x0f\x01\xc2", UD),
    I("vmresume", "\x0f\x01\xc3", UD),
    I("vmxoff", "\x0f\x01\xc4", UD),
    I("vmrun", "\x0f\x01\xd8", REFUSED),
    I("vmload", "\x0f\x01\xda", REFUSED),
    I("vmsave", "\x0f\x01\xdb", REFUSED),
    I("stgi", "\x0f\x01\xdc", REFUSED),
    I("clgi", "\x0f\x01\xdd", REFUSED),
    I("skinit", "\x0f\x01\xde", REFUSED),
    I("invlpga", "\x0f\x01\xdf", REFUSED),
    I("vmread", "\x0f\x78\xc0", UD),
    I("vmwrite", "\x0f\x79\xc0", UD),
    I("vmptrld", "\x0f\xc7\x37", UD),
    I("vmxon", "\xf3\x0f\xc7\x37", UD),
    I("monitor", "\x0f\x01\xc8", UD),
    I("mwait", "\x0f\x01\xc9", UD),
    I("monitorx", "\x0f\x01\xfa", UD),
    I("mwaitx", "\x0f\x01\xfb", UD),
    I("stac", "\x0f\x01\xcb", UD),
    I("clac", "\x0f\x01\xca", UD),
    I("encls", "\x0f\x01\xcf", UD),
    I("enclu", "\x0f\x01\xd7", UD),
    I("xtest", "\x0f\x01\xd6", UD),
    I("xend", "\x0f\x01\xd5", UD),
    I("rdpkru", "\x0f\x01\xee", UD),
    I("wrpkru", "\x0f\x01\xef", UD),
    I("serialize", "\x0f\x01\xe8", UD),
    I("getsec", "\x0f\x37", UD),
    I("sysenter", "\x0f\x34", UD),
    I("sysexit", "\x0f\x35", GP),
    I("rsm", "\x0f\xaa", UD),
    I("invpcid", "\x66\x0f\x38\x82\x07", UD),
    I("invept", "\x66\x0f\x38\x80\x07", UD),
    I("invvpid", "\x66\x0f\x38\x81\x07", UD),
    I("rdpid", "\xf3\x0f\xc7\xf8", UD),
    I("xbegin", "\xc7\xf8\x00\x00\x00\x00", UD),
    I("xabort", "\xc6\xf8\x00", UD),
    I("mov tr", "\x0f\x24\xc0", UD),
    I("0f04", "\x0f\x04", UD),
    I("0f0a", "\x0f\x0a", UD),
    I("0f0c", "\x0f\x0c", UD),
    I("0f25", "\x0f\x25\xc0", UD),
    I("0f36", "\x0f\x36", UD),
    I("0f39", "\x0f\x39", UD),
    I("0f7a", "\x0f\x7a\xc0", UD),
    I("0fa6", "\x0f\xa6\xc0", UD),
    I("mov cr1", "\x0f\x20\xc8", UD),
    I("group5 /7", "\xff\xf8", UD),
    I("group4 /2", "\xfe\xd0", UD),
    I("lea register", "\x8d\xc0", UD),
    I("lgdt register", "\x0f\x01\xd2", UD),
    I("lock nop", "\xf0\x90", UD),
    I("lock mov", "\xf0\x89\x07", UD),
    I("lock add register", "\xf0\x01\xc0", UD),
    I("lock cmp", "\xf0\x39\x07", UD),
    I("lock bt", "\xf0\x0f\xa3\x07", UD),
    I("lock jmp", "\xf0\xeb\x00", UD),
    /* And what ring 3 may do. */
    I("nop", "\x90", NONE),
    I("long nop", "\x66\x0f\x1f\x84\x00\x00\x00\x00\x00", NONE),
    I("endbr64", "\xf3\x0f\x1e\xfa", NONE),
    I("pause", "\xf3\x90", NONE),
    I("cpuid", "\x0f\xa2", NONE),
    I("rdtsc", "\x0f\x31", NONE),
    I("rdtscp", "\x0f\x01\xf9", NONE),
    I("popcnt", "\xf3\x0f\xb8\xc1", NONE),
    I("crc32", "\xf2\x48\x0f\x38\xf1\xc1", NONE),
    I("mfence", "\x0f\xae\xf0", NONE),
    I("clflush", "\x0f\xae\x3f", NONE),
    I("prefetch", "\x0f\x18\x0f", NONE),
    I("prefetch nowhere", "\x0f\x18\x08", NONE),
    I("cmpxchg16b", "\xf0\x48\x0f\xc7\x4f\x40", NONE),
    I("lar", "\x0f\x02\xc1", NONE),
    I("lsl", "\x0f\x03\xc1", NONE),
    I("verr", "\x0f\x00\xe1", NONE),
    I("mov ds, null", "\x31\xc0\x8e\xd8", NONE),
    I("std, cld", "\xfd\xfc", NONE),
    I("cli is one thing, clc another", "\xf8\xf9\xf5", NONE),
    I("lea nowhere", "\x48\x8d\x00", NONE),
    I("smsw (emulated under UMIP)", "\x0f\x01\xe1", NONE),
};

static int signal_of(int trap)
{
	switch (trap) {
	case UD:
		return SIGILL;
	case GP:
	case PF:
	case OF:
		return SIGSEGV;
	case SS:
		return SIGBUS;
	case BP:
	case DB:
		return SIGTRAP;
	case DE:
		return SIGFPE;
	default:
		return 0;
	}
}

/* Between the kernel's register numbers and the encoding's. */
static const int number_of[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, -1,      REG_RBP, REG_RSI, REG_RDI,
				  REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

static void registers_kept(const char *what)
{
	for (unsigned i = 0; i < 16; i++)
		if (number_of[i] >= 0 && (uint64_t)last.registers[number_of[i]] != initial[i]) {
			expect(0, what, "a register has changed");
			return;
		}
}

static void every_instruction(void)
{
	for (unsigned i = 0; i < sizeof(instructions) / sizeof(instructions[0]); i++) {
		const struct instruction *in = &instructions[i];
		prepare_registers();
		memset(scratch, 0, 4096);
		memcpy(scratch, "\x00\x10\x00\x00\x10\x00\x00\x00\x10\x00",
		       10);                                            /* far pointers to the kernel */
		scratch[0x12] = 1;                                     /* MXCSR bit 16 */
		memcpy(scratch + 0x20, "\x00\x10\x00\x00\x23\x00", 6); /* and to 32-bit code */
		run_bytes(in->bytes, in->length);
		int trap = in->trap != REFUSED ? in->trap : last.trap == GP ? GP : UD;
		expect(last.signal == signal_of(trap), in->name, "another signal");
		if (trap == NONE || last.signal != signal_of(trap))
			continue;
		expect(last.trap == trap, in->name, "another exception");
		if (trap == GP || trap == SS)
			expect(last.error == in->error, in->name, "another error code");
		uint64_t rip = (uint64_t)page + (uint64_t)in->prefix;
		if (trap == BP || trap == DB || trap == OF)
			rip += in->length;
		/* A jump to nowhere faults at its target on some processors. */
		if (!strstr(in->name, "jmp not") && !strstr(in->name, "ret not"))
			expect(last.rip == rip, in->name, "not at the instruction");
		if (!in->prefix)
			registers_kept(in->name);
	}
}

/* ---- Memory ---- */

static uint64_t seed = 88172645463325252ull;

static uint64_t draw(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

static void one_probe(uint64_t address, unsigned kind)
{
	static const char *const code[] = {"\x48\x8b\x00", "\x48\x89\x00", "\xff\xe0", "\xf0\x48\x01\x08"};
	static const size_t length[] = {3, 3, 2, 4};
	int canonical = (int64_t)(address << 16) >> 16 == (int64_t)address;
	prepare_registers();
	initial[0] = address;
	run_bytes(code[kind], length[kind]);
	expect(last.signal == SIGSEGV, "probe", "an address that is not ours answered");
	expect(last.trap == (canonical ? PF : GP), "probe", "another exception");
	if (canonical && last.trap == PF && !(address >> 63)) {
		uint64_t access = kind == 2 ? 0x14 : kind == 0 ? 4 : 6;
		expect(last.address >= address && last.address < address + 8, "probe", "another address");
		expect((last.error & 0x1e) == access, "probe", "another error code");
	}
}

/* Nothing of the guest's process is mapped between 1 TiB and 0x7e0000000000. The host's is, very likely. */
static void foreign_addresses(void)
{
	for (unsigned i = 0; i < 20000; i++) {
		uint64_t address = draw();
		switch (i % 4) {
		case 0:
			address = 0x10000000000ull + address % (0x7e0000000000ull - 0x10000000000ull);
			break;
		case 1:
			address |= 0xffff800000000000ull;
			break;
		case 2:
			address = 0x550000000000ull + (address & 0xffffffffffull);
			break;
		default:
			address |= 1ull << 62; /* never canonical: bit 63 may differ */
			address &= ~(1ull << 63);
		}
		if (address >> 47 == 0 && address >= (uint64_t)page - (1ull << 32) &&
		    address < (uint64_t)page + (1ull << 32))
			continue;
		one_probe(address, (unsigned)(draw() & 3));
	}
}

static void protections(void)
{
	prepare_registers();
	uint8_t *data = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	data[4096] = 0xc3;
	run_at(data + 4096);
	expect(last.trap == PF && last.error == 0x15 && last.rip == (uint64_t)data + 4096, "no-execute",
	       "it ran");
	mprotect(data + 4096, 4096, PROT_READ);
	initial[0] = (uint64_t)data + 4096;
	run_bytes("\x48\x89\x00", 3);
	expect(last.trap == PF && last.error == 7, "read-only", "written");
	/* Across into the read-only page: nothing of it may have happened. */
	data[4095] = 0x5a;
	initial[0] = (uint64_t)data + 4095;
	initial[1] = 0xffffffffffffffff;
	run_bytes("\x48\x89\x08", 3);
	expect(last.trap == PF && last.address == (uint64_t)data + 4096 && data[4095] == 0x5a, "store across",
	       "half done");
	run_bytes("\x48\x01\x08", 3);
	expect(last.trap == PF && data[4095] == 0x5a, "add across", "half done");
	/* PUSH on a page that is not writable leaves RSP. */
	run_bytes("\x48\x8d\xa0\x08\x00\x00\x00\x51", 8);
	expect(last.trap == PF && (uint64_t)last.registers[REG_RSP] == (uint64_t)data + 4095 + 8, "push",
	       "RSP moved");
	munmap(data + 4096, 4096);
	initial[0] = (uint64_t)data + 4096;
	run_bytes("\x48\x8b\x00", 3);
	expect(last.trap == PF && last.error == 4, "unmapped", "read");
	/* REP MOVSB into the hole: registers say how far it came. */
	initial[7] = (uint64_t)data + 4096 - 100;
	initial[6] = (uint64_t)data;
	initial[1] = 200;
	run_bytes("\xf3\xa4", 2);
	expect(last.trap == PF && last.registers[REG_RCX] == 100 &&
		   (uint64_t)last.registers[REG_RDI] == (uint64_t)data + 4096,
	       "rep movsb", "registers");
	/* An instruction whose second half is on a page that is not there. */
	uint8_t *end = page + 4096;
	memcpy(end - 3, "\x48\xb8\x01", 3);
	run_at(end - 3);
	expect(last.trap == PF && last.address == (uint64_t)end && last.rip == (uint64_t)end - 3 &&
		   last.error == 0x14,
	       "code across", "another fault");
	munmap(data, 3 * 4096);
}

/* ---- Flags, single steps, code that changes, FPU images ---- */

static void flags(void)
{
	uint64_t now;
	__asm__ volatile("pushfq; pop %0" : "=r"(now));
	expect((now & 0x200) && !(now & 0x3000), "flags", "IF clear or IOPL set");
	__asm__ volatile("pushfq; andq $~0x200,(%%rsp); orq $0x3000,(%%rsp); popfq; pushfq; pop %0"
			 : "=r"(now)
			 :
			 : "cc");
	expect((now & 0x200) && !(now & 0x3000), "popf", "changed IF or IOPL");
	steps = 0;
	stepping = 1;
	__asm__ volatile(
	    "pushfq; orq $0x100,(%%rsp); popfq; nop; nop; nop; pushfq; andq $~0x100,(%%rsp); popfq"
	    :
	    :
	    : "cc", "memory");
	stepping = 0;
	/* After each of the three NOPs, PUSHF, AND and POPF. */
	expect(steps == 6, "single step", "another number of traps");
	if (steps != 6)
		printf("hostile: %u steps\n", steps);
}

static void changing_code(void)
{
	unsigned good = 0;
	prepare_registers();
	uint64_t results[1];
	initial[7] = (uint64_t)results;
	for (unsigned i = 0; i < 2000; i++) {
		/* mov eax, i; mov [rdi], rax */
		uint8_t code[] = {0xb8, (uint8_t)i, (uint8_t)(i >> 8), 0, 0, 0x48, 0x89, 0x07};
		run_bytes(code, sizeof(code));
		good += results[0] == i;
	}
	expect(good == 2000, "changed code", "the old code ran");
	/* The next instruction but one is changed by the one before it, in the same run of code:
	 * mov byte [rip+1], 7; mov al, 0 (patched); mov [rdi], rax */
	good = 0;
	for (unsigned i = 1; i < 200; i++) {
		uint8_t code[] = {0xc6, 0x05, 1, 0, 0, 0, (uint8_t)i, 0xb0, 0, 0x48, 0x89, 0x07};
		run_bytes(code, sizeof(code));
		good += (results[0] & 0xff) == i;
	}
	expect(good == 199, "code that changes itself", "the old code ran");
	/* rep stosb over the code behind it. */
	uint8_t code[] = {0x48, 0x8d, 0x3d, 6,   0, 0, 0, 0xb9, 4, 0, 0, 0, /* lea rdi,[rip+6]; mov ecx,4 */
			  0xf3, 0xaa,                                       /* rep stosb with 0x90 */
			  0x0f, 0x0b, 0x0f, 0x0b};                          /* ud2; ud2 */
	code[3] = 7;
	initial[0] = 0x90;
	run_bytes(code, sizeof(code));
	expect(last.signal == 0, "code under rep stos", "the old code ran");
}

static void fpu_images(void)
{
	static uint8_t image[512] __attribute__((aligned(16)));
	static const double zero;
	uint64_t sum = 0;
	__asm__ volatile("fninit; fld1; fdivl %1; fxsave64 %0" : "=m"(image) : "m"(zero));
	for (unsigned i = 6; i < 24; i++)
		sum += image[i];
	expect(sum == 0, "fxsave", "instruction or data pointers");
	sum = 0;
	__asm__ volatile("fninit; fld1; fdivl %1; fnstenv %0" : "=m"(image) : "m"(zero));
	for (unsigned i = 12; i < 28; i++)
		sum += image[i];
	expect(sum == 0, "fnstenv", "instruction or data pointers");
	sum = 0;
	__asm__ volatile("fninit; fld1; fdivl %1; fnsave %0" : "=m"(image) : "m"(zero));
	for (unsigned i = 12; i < 28; i++)
		sum += image[i];
	expect(sum == 0, "fnsave", "instruction or data pointers");
	/* Unmasked exceptions. */
	prepare_registers();
	const uint16_t control = 0x37b;
	memcpy(scratch, &control, 2);
	memset(scratch + 8, 0, 8);
	run_bytes("\xdb\xe3\xd9\x2f\xd9\xe8\xdc\x77\x08\x9b",
		  10); /* fninit; fldcw [rdi]; fld1; fdiv [rdi+8]; fwait */
	expect(last.signal == SIGFPE && last.trap == 16 && last.rip == (uint64_t)page + 9, "x87 exception",
	       "not raised");
	const uint32_t mxcsr = 0x1d80;
	memcpy(scratch, &mxcsr, 4);
	memcpy(scratch + 16, "\0\0\x80\x3f", 4);
	run_bytes("\x0f\xae\x17\xf3\x0f\x10\x47\x10\xf3\x0f\x5e\x47\x08",
		  13); /* ldmxcsr; movss; divss by 0 */
	expect(last.signal == SIGFPE && last.trap == 19 && last.rip == (uint64_t)page + 8, "SSE exception",
	       "not raised");
	const uint32_t usual = 0x1f80;
	__asm__ volatile("ldmxcsr %0; fninit" : : "m"(usual));
}

/* ---- Random bytes ---- */

static void fuzz_child(unsigned number)
{
	static const uint8_t likely[] = {0x0f, 0x66, 0xf2, 0xf3, 0x48, 0x41, 0x4c, 0xc5, 0xc4, 0x62,
					 0xd9, 0xdd, 0xf0, 0xff, 0x8e, 0xcf, 0xcb, 0x64, 0x65, 0x67,
					 0xae, 0xc7, 0x01, 0x00, 0x9d, 0xc8, 0xcd, 0xcc};
	seed = 0x9e3779b97f4a7c15ull * (number + 1);
	struct itimerval every = {.it_interval = {.tv_usec = 100}, .it_value = {.tv_usec = 100}};
	setitimer(ITIMER_REAL, &every, NULL);
	/* Only read, write, exit and sigreturn from here on: what random bytes may call. */
	close(0);
	close(1);
	close(2);
	prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT);
	for (unsigned round = 0; round < 500; round++) {
		prepare_registers();
		for (unsigned i = 0; i < 16; i++)
			if (draw() & 1)
				initial[i] = draw() & 1 ? (uint64_t)scratch + (draw() & 0xff8) : draw();
		for (unsigned i = 0; i < 64; i++)
			page[i] = draw() % 3 ? (uint8_t)draw() : likely[draw() % sizeof(likely)];
		page[64] = 0xc3;
		run_at(page);
	}
	for (;;)
		__asm__ volatile("syscall" : : "a"(60), "D"(0) : "rcx", "r11", "memory");
}

static void random_bytes(unsigned children)
{
	unsigned ended = 0, died = 0, stuck = 0;
	for (unsigned n = 0; n < children; n++) {
		pid_t pid = fork();
		int status = 0;
		if (pid == 0)
			fuzz_child(n);
		unsigned waited = 0;
		while (waitpid(pid, &status, WNOHANG) == 0 && waited++ < 120)
			usleep(1000);
		if (waited >= 120) {
			stuck++;
			kill(pid, SIGKILL);
			waitpid(pid, &status, 0);
		} else if (WIFEXITED(status)) {
			ended++;
		} else {
			died++;
		}
	}
	checks++;
	printf("hostile: random bytes: %u processes came through, %u died, %u were stopped\n", ended, died,
	       stuck);
}

int main(int argc, char **argv)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	page = mmap(NULL, 2 * 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	munmap(page + 4096, 4096);
	scratch = mmap(NULL, 2 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	catch_signals();
	every_instruction();
	foreign_addresses();
	protections();
	flags();
	changing_code();
	fpu_images();
	random_bytes(argc > 1 ? (unsigned)atoi(argv[1]) : 20);
	printf("hostile: %u checks, %u wrong\n", checks, wrong);
	if (getpid() == 1) {
		tcdrain(1);
		reboot(RB_POWER_OFF);
	}
	return wrong != 0;
}
