/* A kernel of random code. It runs in ring 0 and ring 3 in turn, loads system registers with nonsense, jumps into itself,
 * talks to devices, and returns from each fault to somewhere else. Whatever it does, the engine may only end as a
 * processor would (count, halt, shutdown, reset), and must do exactly the same with every setting: same instruction
 * count, same hash of RAM, CPU and devices. The output verifier looks at all code that is made. */
#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <cmocka.h>

#include "vmm/machine.h"

/* The same kernels in each run, so that what fails has to do with what was changed. For looking further: `--fresh` takes some
 * that no run has had before instead of the later ones, and `--from N` repeats those of the run that printed N. */
#define SEEDS_KEPT  40u
#define SEEDS_FRESH 20u
#define POINTS 4u
#define EVERY  4000u

#define KERNEL    0xffff800000000000ull
#define PML4      0x1000u
#define PDPT_LOW  0x2000u
#define PDPT_HIGH 0x3000u
#define PD        0x4000u
#define GDT       0x10000u
#define IDT       0x11000u
#define TSS       0x12000u
#define COUNTER   0x16000u
#define HANDLERS  0x18000u
#define IST_TOP   0x20000u
#define CODE      0x400000u
#define CODE_SIZE 0x10000u
#define DATA      0x600000u
#define STACK     0x780000u

/* Copied to HANDLERS; entries are made by entry(). Chooses where to go on by a counter in memory. */
__asm__(".pushsection .rodata\n"
	"ring0_common:\n"
	"	push %rax; push %rcx\n"
	"	movabs $0xffff800000016000, %rcx\n"
	"	mov (%rcx), %rax\n"
	"	imul $0x5851f42d, %rax, %rax\n"
	"	add $0x14057b7f, %rax\n"
	"	mov %rax, (%rcx)\n"
	"	shr $20, %rax\n"
	"	mov %rax, %rcx\n"
	"	and $0xffff, %eax\n"
	"	add $0x400000, %eax\n"
	"	mov %rax, 16(%rsp)\n"
	"	movq $0x33, 24(%rsp); movq $0x2b, 48(%rsp)\n"
	"	test $0x100000, %ecx\n"
	"	jnz 1f\n"
	"	movq $0x08, 24(%rsp); movq $0x10, 48(%rsp)\n"
	"1:	andq $0x40ed5, 32(%rsp)\n"
	"	movq $0x780000, 40(%rsp)\n"
	"	pop %rcx; pop %rax\n"
	"	iretq\n"
	"ring0_syscall:\n"
	"	sysretq\n"
	"ring0_end:\n"
	".popsection\n");
extern const uint8_t ring0_common[], ring0_syscall[], ring0_end[];

static uint64_t seed;

static uint64_t draw(void)
{
	uint64_t z = seed += 0x9e3779b97f4a7c15ull;
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

static void write_at(struct ft_machine *m, uint64_t at, const void *from, size_t size)
{
	assert_true(ft_memory_write(&m->ram, ft_gpa_make(at), from, size));
}

static void put(struct ft_machine *m, uint64_t at, uint64_t value)
{
	write_at(m, at, &value, 8);
}

static void entry(struct ft_machine *m, unsigned vector)
{
	bool error = vector == 8 || (vector >= 10 && vector <= 14) || vector == 17;
	uint8_t code[16] = {0x48, 0x8d, 0x64, 0x24, 0x08}; /* lea rsp,[rsp+8] */
	unsigned n = error ? 5 : 0;
	uint64_t at = HANDLERS + 0x1000 + vector * 16;
	int32_t back = (int32_t)(HANDLERS - (at + n + 5));
	code[n] = 0xe9;
	memcpy(code + n + 1, &back, 4);
	write_at(m, at, code, sizeof(code));
	at += KERNEL;
	put(m, IDT + vector * 16,
	    (at & 0xffff) | 0x08ull << 16 | 1ull << 32 | (vector == 3 ? 0xeeull : 0x8eull) << 40 |
		(at >> 16 & 0xffff) << 48);
	put(m, IDT + vector * 16 + 8, at >> 32);
}

/* Pieces that random bytes would rarely make. */
static const struct {
	const char *bytes;
	uint8_t length;
} pieces[] = {
#define X(bytes)                                                                                             \
	{                                                                                                    \
		bytes, sizeof(bytes) - 1                                                                     \
	}
    X("\x0f\x22\xd8"),
    X("\x0f\x20\xd8\x0f\x22\xd8"),                     /* reload CR3 */
    X("\x0f\x20\xe0\x48\x0f\xba\xf8\x07\x0f\x22\xe0"), /* toggle CR4.PGE */
    X("\x0f\x20\xc0\x48\x0f\xba\xf8\x10\x0f\x22\xc0"), /* toggle CR0.WP */
    X("\x0f\x20\xc0\x48\x0f\xba\xf8\x03\x0f\x22\xc0"), /* toggle CR0.TS */
    X("\x0f\x06"),
    X("\x0f\x01\x3f"),
    X("\x0f\x30"),
    X("\x0f\x32"),
    X("\xb9\x80\x00\x00\xc0\x0f\x32"),
    X("\xb9\x01\x01\x00\xc0\x0f\x30"),
    X("\xb9\xe0\x06\x00\x00\x0f\x30"), /* TSC deadline */
    X("\x0f\x01\x17"),
    X("\x0f\x01\x07"),
    X("\x0f\x00\xd8"),
    X("\x8e\xd0"),
    X("\x8e\xd8"),
    X("\x8e\xe0"),
    X("\xb8\x2b\x00\x00\x00\x8e\xe8"),
    X("\x0f\x01\xf8"),
    X("\xfa"),
    X("\xfb"),
    X("\xf4"),
    X("\xec"),
    X("\xee"),
    X("\xe6\x20"),
    X("\xe4\x60"),
    X("\xef"),
    X("\xf3\xa4"),
    X("\xf3\x48\xab"),
    X("\xf3\xa6"),
    X("\xf2\xae"),
    X("\xf3\x6c"),
    X("\xfd"),
    X("\xfc"),
    X("\x9c"),
    X("\x9d"),
    X("\x48\xcf"),
    X("\x48\xcb"),
    X("\xff\x2f"),
    X("\x48\xff\x1f"),
    X("\x0f\x05"),
    X("\x48\x0f\x07"),
    X("\xcc"),
    X("\xcd\x80"),
    X("\xf1"),
    X("\xc8\x10\x00\x02"),
    X("\xf0\x48\x0f\xc7\x0f"),
    X("\x0f\xae\x07"),
    X("\x0f\xae\x0f"),
    X("\xdd\x37"),
    X("\xdd\x27"),
    X("\x0f\x31"),
    X("\x0f\xa2"),
    X("\x0f\x02\xc1"),
    X("\x0f\x03\xc1"),
    X("\x0f\x23\xf8"),
    X("\x0f\x21\xf0"),
    X("\x44\x0f\x22\xc0"),
    X("\x0f\x01\xf0"),
    X("\xbf\x00\x00\xe0\xfe\x8b\x07"), /* LAPIC */
    X("\xbf\x00\x00\x60\x00\x48\x89\x07"),
    X("\x48\x8d\x3d\x10\x00\x00\x00\x88\x07"),     /* writes to the code ahead */
    X("\x48\x8d\x3d\xf0\xff\xff\xff\xc6\x07\x90"), /* and behind */
    X("\xc3"),
    X("\xe8\x10\x00\x00\x00"),
    X("\xeb\x05"),
    X("\x75\xf0"),
    X("\x0f\x84\x20\x00\x00\x00"),
    X("\xff\xe0"),
    X("\xe2\xf5"),
#undef X
};

static void make_code(struct ft_machine *m)
{
	static uint8_t code[CODE_SIZE];
	for (unsigned at = 0; at < CODE_SIZE;) {
		if (draw() % 3 == 0) {
			unsigned i = (unsigned)(draw() % (sizeof(pieces) / sizeof(pieces[0])));
			for (unsigned k = 0; k < pieces[i].length && at < CODE_SIZE; k++)
				code[at++] = (uint8_t)pieces[i].bytes[k];
		} else {
			code[at++] = (uint8_t)draw();
		}
	}
	write_at(m, CODE, code, sizeof(code));
}

static void make_memory(struct ft_machine *m)
{
	put(m, PML4, PDPT_LOW | 7);
	put(m, PML4 + 256 * 8, PDPT_HIGH | 3);
	put(m, PDPT_LOW, PD | 7);
	put(m, PDPT_LOW + 3 * 8, 3ull << 30 | 0x87); /* where the local APIC is */
	/* Not global: entries that outlive the tables they came from would make the TLB's size visible. */
	put(m, PDPT_HIGH, 0x83);
	for (uint64_t i = 1; i < 8; i++)
		put(m, PD + i * 8, i << 21 | 0x87);
	static const uint64_t gdt[] = {0,
				       0x00af9b000000ffff,
				       0x00cf93000000ffff,
				       0,
				       0x00cffb000000ffff,
				       0x00cff3000000ffff,
				       0x00affb000000ffff,
				       0};
	write_at(m, GDT, gdt, sizeof(gdt));
	uint64_t tss = KERNEL + TSS;
	put(m, GDT + 0x40, 0x67 | (tss & 0xffffff) << 16 | 0x8bull << 40 | (tss >> 24 & 0xff) << 56);
	put(m, GDT + 0x48, tss >> 32);
	put(m, TSS + 4, KERNEL + IST_TOP - 0x1000);
	put(m, TSS + 36, KERNEL + IST_TOP);
	write_at(m, HANDLERS, ring0_common, (size_t)(ring0_end - ring0_common));
	for (unsigned v = 0; v < 256; v++)
		entry(m, v);
	put(m, COUNTER, draw());
	make_code(m);
}

static void make_cpu(struct ft_machine *m)
{
	struct ft_cpu_state s = {
	    .rip = CODE + draw() % CODE_SIZE,
	    .rflags = 0x202,
	    .gdt = {KERNEL + GDT, 0x4f},
	    .idt = {KERNEL + IDT, 0xfff},
	    .tr = {.base = KERNEL + TSS, .limit = 0x67, .selector = 0x40, .attributes = 0x8b},
	    .cr0 = 0x80050033,
	    .cr3 = PML4,
	    .cr4 = 0x6a0,
	    .efer = 0xd01,
	    .dr = {[6] = 0xffff0ff0, [7] = 0x400},
	    .pat = 0x0007040600070406,
	    .star = 0x0023000800000000ull,
	    .lstar = KERNEL + HANDLERS + (uint64_t)(ring0_syscall - ring0_common),
	    .fmask = 0x47700,
	    .icount = m->icount};
	for (unsigned i = 0; i < FT_SEGMENTS; i++)
		s.segment[i] =
		    (struct ft_segment){.limit = 0xffffffff, .selector = 0x10, .attributes = 0xc093};
	s.segment[FT_CS] = (struct ft_segment){.limit = 0xffffffff, .selector = 0x08, .attributes = 0xa09b};
	for (unsigned i = 0; i < 16; i++)
		s.gpr[i] = draw() % 4 ? DATA + draw() % 0x100000 : draw() % 2 ? draw() % 5000 : draw();
	s.gpr[FT_RSP] = STACK;
	s.fxsave[0] = 0x7f;
	s.fxsave[1] = 0x03;
	s.fxsave[24] = 0x80;
	s.fxsave[25] = 0x1f;
	struct ft_error err = {0};
	if (m->engine_ops->set(m->engine, &s, &err))
		fail_msg("%s", err.text);
}

struct trace {
	enum ft_stop stop[POINTS];
	uint64_t icount[POINTS], hash[POINTS];
	unsigned points;
};

static void console(void *context, const char *bytes, size_t length)
{
}

static void run(uint64_t number, const struct ft_engine_options *options, struct trace *trace)
{
	struct ft_error err = {0};
	struct ft_machine_config config = {.memory = FT_RAM_MIN,
					   .clock = FT_CLOCK_FREE,
					   .disk_fd = -1,
					   .mac = {0x52, 0x54, 0, 0, 2, 15},
					   .engine = &ft_engine_soft,
					   .engine_options = *options};
	seed = number * 0x2545f4914f6cdd1dull;
	struct ft_machine *m = ft_machine_create(&config, &err);
	if (!m)
		fail_msg("%s", err.text);
	m->backend.console = console;
	make_memory(m);
	make_cpu(m);
	trace->points = 0;
	for (unsigned i = 0; i < POINTS; i++) {
		struct ft_run_limits limits = {.icount = (i + 1) * EVERY, .vtime_ns = 60000000000ull};
		trace->stop[i] = ft_machine_run(m, &limits, NULL);
		if (trace->stop[i] == FT_STOP_ERROR)
			fail_msg("seed %llu: %s", (unsigned long long)number, m->error.text);
		trace->icount[i] = m->icount;
		trace->hash[i] = ft_machine_hash(m);
		trace->points++;
		if (trace->stop[i] != FT_STOP_COUNT)
			break;
	}
	ft_machine_destroy(m);
}

static uint64_t fresh; /* the first seed of this run's own */

static void random_kernels_run_alike_with_every_setting(void **state)
{
	static const struct {
		const char *name;
		struct ft_engine_options options;
	} ways[] = {
	    {"as usual", {.cache_bytes = 4 << 20, .verify = true}},
	    {"one instruction a block", {.cache_bytes = 4 << 20, .block_limit = 1, .verify = true}},
	    {"blocks of 5, small cache", {.cache_bytes = 1 << 20, .block_limit = 5, .verify = true}},
	    {"slow path", {.cache_bytes = 4 << 20, .always_slow = true, .verify = true}},
	};
	uint64_t instructions = 0;
	unsigned far_runs = 0;
	print_message("fresh kernels from seed %llu on; again by --from %llu\n", (unsigned long long)fresh,
		      (unsigned long long)fresh);
	for (unsigned k = 0; k < SEEDS_KEPT + SEEDS_FRESH; k++) {
		uint64_t number = k < SEEDS_KEPT ? k + 1 : fresh + (k - SEEDS_KEPT);
		struct trace first = {0}, other;
		run(number, &ways[0].options, &first);
		instructions += first.icount[first.points - 1];
		far_runs += first.points == POINTS;
		for (unsigned w = 1; w < sizeof(ways) / sizeof(ways[0]); w++) {
			run(number, &ways[w].options, &other);
			for (unsigned i = 0; i < first.points; i++)
				if (other.points <= i || other.stop[i] != first.stop[i] ||
				    other.icount[i] != first.icount[i] || other.hash[i] != first.hash[i])
					fail_msg("seed %llu, %s: differs at point %u: stop %d/%d, "
						 "instruction %llu/%llu",
						 (unsigned long long)number, ways[w].name, i, first.stop[i],
						 other.stop[i], (unsigned long long)first.icount[i],
						 (unsigned long long)other.icount[i]);
		}
	}
	print_message("%u kernels, %llu instructions, %u to the end\n", SEEDS_KEPT + SEEDS_FRESH,
		      (unsigned long long)instructions, far_runs);
	assert_true(instructions > SEEDS_KEPT * 1000);
}

/* Instructions counted when `code` has run under a limit that it must not get past. */
static uint64_t counted(const void *code, size_t size, bool bad_handler)
{
	struct ft_error err = {0};
	struct ft_machine_config config = {.memory = FT_RAM_MIN,
					   .clock = FT_CLOCK_FREE,
					   .disk_fd = -1,
					   .engine = &ft_engine_soft,
					   .engine_options = {.cache_bytes = 1 << 20, .verify = true}};
	struct ft_machine *m = ft_machine_create(&config, &err);
	if (!m)
		fail_msg("%s", err.text);
	make_memory(m);
	make_cpu(m);
	for (unsigned at = 0; at < CODE_SIZE; at++)
		write_at(m, CODE + at, at < size ? (const uint8_t *)code + at : (const uint8_t *)"\x90", 1);
	if (bad_handler) /* its page is not mapped: the fault's handler faults, and the stack is fine */
		put(m, IDT + 14 * 16 + 8, (KERNEL >> 32) + 0x100);
	struct ft_cpu_state s;
	m->engine_ops->get(m->engine, &s);
	s.rip = CODE;
	assert_int_equal(m->engine_ops->set(m->engine, &s, &err), 0);
	struct ft_run_limits limits = {.icount = 5000, .vtime_ns = UINT64_MAX};
	assert_int_equal(ft_machine_run(m, &limits, NULL), FT_STOP_COUNT);
	uint64_t count = m->icount;
	ft_machine_destroy(m);
	return count;
}

/* A machine about to run `code` from CODE in ring 0 with `flags`. */
static struct ft_machine *with_code(const void *code, size_t size, uint64_t flags)
{
	struct ft_error err = {0};
	struct ft_machine_config config = {.memory = FT_RAM_MIN,
					   .clock = FT_CLOCK_FREE,
					   .disk_fd = -1,
					   .engine = &ft_engine_soft,
					   .engine_options = {.cache_bytes = 1 << 20, .verify = true}};
	struct ft_machine *m = ft_machine_create(&config, &err);
	if (!m)
		fail_msg("%s", err.text);
	make_memory(m);
	make_cpu(m);
	write_at(m, CODE, code, size);
	struct ft_cpu_state s;
	m->engine_ops->get(m->engine, &s);
	s.rip = CODE;
	s.rflags = flags | 2;
	s.gpr[FT_RDI] = DATA;
	assert_int_equal(m->engine_ops->set(m->engine, &s, &err), 0);
	return m;
}

static void run_for(struct ft_machine *m, uint64_t instructions)
{
	struct ft_run_limits limits = {.icount = m->icount + instructions, .vtime_ns = UINT64_MAX};
	assert_int_equal(ft_machine_run(m, &limits, NULL), FT_STOP_COUNT);
}

static uint64_t rip_after(const void *code, size_t size, uint64_t flags, uint64_t instructions)
{
	struct ft_machine *m = with_code(code, size, flags);
	struct ft_cpu_state s;
	run_for(m, instructions);
	m->engine_ops->get(m->engine, &s);
	ft_machine_destroy(m);
	return s.rip;
}

/* Whatever C carries out and goes on from: each is followed by a NOP, and the next instruction is that one. */
static void system_instructions_are_left_behind(void **state)
{
	static const struct {
		const char *bytes;
		uint8_t length, before; /* instructions of `bytes` */
		const char *name;
	} each[] = {
	    {"\x0f\x06\x90", 2, 1, "clts"},
	    {"\xfa\x90", 1, 1, "cli"},
	    {"\xfb\x90", 1, 1, "sti"},
	    {"\xfd\x90", 1, 1, "std"},
	    {"\xfc\x90", 1, 1, "cld"},
	    {"\x0f\x20\xc0\x0f\x22\xc0\x90", 6, 2, "mov cr0"},
	    {"\x0f\x20\xd0\x0f\x22\xd0\x90", 6, 2, "mov cr2"},
	    {"\x0f\x20\xd8\x0f\x22\xd8\x90", 6, 2, "mov cr3"},
	    {"\x0f\x20\xe0\x0f\x22\xe0\x90", 6, 2, "mov cr4"},
	    {"\x44\x0f\x20\xc0\x44\x0f\x22\xc0\x90", 8, 2, "mov cr8"},
	    {"\x0f\x21\xf8\x0f\x23\xf8\x90", 6, 2, "mov dr7"},
	    {"\x0f\x01\xe0\x0f\x01\xf0\x90", 6, 2, "smsw, lmsw"},
	    {"\x0f\x01\x3c\x24\x90", 4, 1, "invlpg"},
	    {"\x0f\x08\x90", 2, 1, "invd"},
	    {"\x0f\x09\x90", 2, 1, "wbinvd"},
	    {"\xb9\x80\x00\x00\xc0\x0f\x32\x0f\x30\x90", 9, 3, "rdmsr, wrmsr"},
	    {"\x0f\x01\xf8\x90", 3, 1, "swapgs"},
	    {"\x0f\xa2\x90", 2, 1, "cpuid"},
	    {"\x0f\x31\x90", 2, 1, "rdtsc"},
	    {"\x0f\x01\xf9\x90", 3, 1, "rdtscp"},
	    {"\x9c\x9d\x90", 2, 2, "pushf, popf"},
	    {"\xe4\x61\xe6\x61\x90", 4, 2, "in, out"},
	    {"\x8c\xd8\x8e\xd8\x90", 4, 2, "mov ds"},
	    {"\x8c\xd0\x8e\xd0\x90", 4, 2, "mov ss"},
	    {"\x0f\x01\x04\x24\x0f\x01\x14\x24\x90", 8, 2, "sgdt, lgdt"},
	    {"\x0f\x00\xc0\x0f\x00\xd0\x90", 6, 2, "sldt, lldt"},
	};
	for (unsigned i = 0; i < sizeof(each) / sizeof(each[0]); i++) {
		uint64_t rip = rip_after(each[i].bytes, each[i].length + 1u, 0, each[i].before);
		if (rip != CODE + each[i].length)
			fail_msg("%s: at +0x%llx instead of +0x%x", each[i].name,
				 (unsigned long long)(rip - CODE), each[i].length);
	}
}

/* SDM Vol. 3B 17.3.1.4: INT n clears TF and is not followed by a trap, nor is SYSCALL where FMASK clears it; a kernel
 * would find itself single-stepped on entry. POPF is: TF was set when it began. */
static void single_steps_end_where_a_kernel_is_entered(void **state)
{
	static const uint64_t handlers = KERNEL + HANDLERS + 0x1000, trap_flag = 0x100;
	assert_int_equal(rip_after("\x90", 1, trap_flag, 1), handlers + 1 * 16);
	assert_int_equal(rip_after("\x6a\x02\x9d", 3, trap_flag, 1), handlers + 1 * 16);
	assert_int_equal(rip_after("\x9d", 1, trap_flag, 1), handlers + 1 * 16);
	assert_int_equal(rip_after("\x0f\x05", 2, trap_flag, 1),
			 KERNEL + HANDLERS + (uint64_t)(ring0_syscall - ring0_common));
	assert_int_equal(rip_after("\xcd\x80", 2, trap_flag, 1), handlers + 0x80 * 16);
	assert_int_equal(rip_after("\xcc", 1, trap_flag, 1), handlers + 3 * 16);
}

/* An x87 store that an unmasked exception keeps from storing, over the end of a page: what an earlier access left in the
 * buffer that such accesses go through must not appear in its place. */
static void a_store_that_does_not_happen_changes_nothing(void **state)
{
	static const char code[] = "\xdb\xe3"		     /* fninit */
				   "\xc7\x07\x7e\x03\x00\x00" /* mov dword [rdi], 0x37e: #IA is not masked */
				   "\xd9\x2f"		     /* fldcw [rdi] */
				   "\x8b\x87\xfe\x1f\x00\x00" /* mov eax, [rdi+0x1ffe] */
				   "\xdb\x9f\xfe\x0f\x00\x00" /* fistp dword [rdi+0xffe], of an empty register */
				   "\xd9\x9f\xfe\x0f\x00\x00"; /* (fstp dword, not reached: #MF) */
	struct ft_machine *m = with_code(code, sizeof(code) - 1, 0);
	uint64_t old = 0x1122334455667788, other = 0x99aabbccddeeff00, now;
	put(m, DATA + 0xffc, old);
	put(m, DATA + 0x1ffc, other);
	run_for(m, 5);
	assert_true(ft_memory_read(&m->ram, ft_gpa_make(DATA + 0xffc), &now, 8));
	assert_true(now == old);
	ft_machine_destroy(m);
}

/* What get() says, set() takes: in another machine, whose own state was another one in each of these. */
static void events_move_with_the_state(void **state)
{
	struct ft_machine *from = with_code("\x90", 1, 0), *to = with_code("\x90", 1, 0);
	struct ft_error err = {0};
	struct ft_cpu_state s, moved;
	from->engine_ops->get(from->engine, &s);
	s.cr2 = 0x1234;
	s.misc_enable = FT_MISC_ENABLE_RESET;
	s.exception_pending = s.exception_has_error = 1;
	s.exception_vector = 14;
	s.exception_error = 2;
	s.exception_address = 0xdeadb000;
	assert_int_equal(from->engine_ops->set(from->engine, &s, &err), 0);
	from->nmi = true;
	from->engine_ops->get(from->engine, &s);
	assert_int_equal(to->engine_ops->set(to->engine, &s, &err), 0);
	to->engine_ops->get(to->engine, &moved);
	assert_memory_equal(&moved, &s, sizeof(s));
	assert_true(to->nmi);
	assert_int_equal(moved.misc_enable, FT_MISC_ENABLE_RESET);
	/* The page fault's handler gets its address, and none of the state that it overwrote. */
	to->nmi = false;
	run_for(to, 1);
	to->engine_ops->get(to->engine, &moved);
	assert_true(moved.cr2 == 0xdeadb000);
	assert_false(moved.exception_pending);
	s.misc_enable = 1u << 18;
	assert_int_equal(to->engine_ops->set(to->engine, &s, &err), -EINVAL);
	ft_machine_destroy(from);
	ft_machine_destroy(to);
}

static void nothing_escapes_the_count(void **state)
{
	seed = 1;
	/* mov rcx, 2^31-1; mov esi, CODE; rep lodsb; jmp back: it reads to the end of what is mapped. */
	assert_int_equal(
	    counted("\x48\xc7\xc1\xff\xff\xff\x7f\xbe\x00\x00\x40\x00\xf3\xac\xeb\xf0", 16, false), 5000);
	/* mov rax, [-4096]: a page fault whose handler is not there. */
	assert_int_equal(counted("\x48\x8b\x04\x25\x00\xf0\xff\xff", 8, true), 5000);
	/* The same by a jump into nothing. */
	assert_int_equal(counted("\x48\xc7\xc0\x00\x00\x00\xf0\xff\xe0", 9, true), 5000);
}

int main(int argc, char **argv)
{
	fresh = SEEDS_KEPT + 1;
	/* 48 bits: easily typed, and far from the seeds that are kept. */
	if (argc == 3 && !strcmp(argv[1], "--from"))
		fresh = strtoull(argv[2], NULL, 0);
	else if (argc != 1 && (argc != 2 || strcmp(argv[1], "--fresh") || getrandom(&fresh, 6, 0) != 6))
		return 2;
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(system_instructions_are_left_behind),
	    cmocka_unit_test(single_steps_end_where_a_kernel_is_entered),
	    cmocka_unit_test(a_store_that_does_not_happen_changes_nothing),
	    cmocka_unit_test(events_move_with_the_state),
	    cmocka_unit_test(nothing_escapes_the_count),
	    cmocka_unit_test(random_kernels_run_alike_with_every_setting),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
