/* Test guests (guest/): one a side of the processor and of the PC. On engine soft each has to find nothing wrong and to print the
 * same under every setting; with --engines it has to print the same on kvm.
 *
 *   test_invariant [--engines [--qemu]] GUEST...
 *
 * --qemu: the processor that KVM has here is emulated by QEMU. What that does otherwise than a processor is listed, line by line
 * (departures): every other line has to be equal. Without --qemu that is every line but what KVM itself does otherwise. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "guest_run.h"

#define DIFFERENCES_SHOWN 200u
#define END_SHOWN         1500u
#define TEXT              0x3800000u /* guest/guest.h */

static bool under_qemu;

/* cmocka's messages are short. */
static void show_end(const char *text)
{
	size_t length = strlen(text);
	printf("%s\n", text + (length > END_SHOWN ? length - END_SHOWN : 0));
}

/* What a processor is: in, unless 0, and out. */
struct processor {
	uint64_t tsc_khz;
	struct ft_model model;
};

static bool skips_idle;

static char *run(const char *guest, const struct ft_engine_ops *engine, const struct ft_engine_options *options, struct processor *is)
{
	struct ft_error err = {0};
	struct guest_result result = {0};
	struct guest_setup setup = {.kernel = guest,
				    .cmdline = under_qemu ? "+" : "",
				    .memory = FT_RAM_MIN,
				    .instructions = 2000000000000ull,
				    .engine = engine,
				    .text_at = TEXT,
				    .skips_idle = skips_idle,
				    .tsc_khz = is->tsc_khz,
				    .model = is->tsc_khz ? &is->model : NULL,
				    .options = *options};
	if (guest_run(&setup, &result, &err))
		fail_msg("%s: %s", guest, err.text);
	if (result.stop != FT_STOP_RESET || result.reset != FT_RESET_POWEROFF)
	{
		show_end(result.console);
		fail_msg("%s did not switch itself off (stop %d, reset %d): %s", guest, result.stop, result.reset, err.text);
	}
	*is = (struct processor){result.tsc_khz, result.model};
	return result.console;
}

/* ---- Lines that may not be asked for ---- */

enum whose { QEMU, KVM };

/* Where what runs the guest on engine kvm is wrong, by the manuals, or does what they leave open in another way: by name, everything before
 * the line's values. QEMU: its emulated processor, which is there with --qemu alone: such a line has to be another than soft's, or wrong, so
 * that the list stays as short as that processor allows. KVM: Linux's, on every processor; one that is mended is only told.
 * native: engine soft has it from that processor, too, so both are wrong. */
#define NO_XM   "raises no #XM (SDM Vol. 1 11.5)"
#define EMMS    "EMMS does not look at CR0 (SDM Vol. 3A table 13-1)"
#define EARLY   "the intercept comes before the privilege (APM Vol. 2 15.9: behind it)"
#define LATE    "faults behind the transfer, not at it (SDM Vol. 2, APM Vol. 3: the #GP is the instruction's)"
#define NO_SS   "#GP, not #SS (SDM Vol. 3A 6.15, interrupt 12)"
#define NO_P    "an error code without P (SDM Vol. 3A 4.7)"
#define NO_EXT  "an error code without EXT (SDM Vol. 3A 6.13)"
#define LAR     "without the limit's bits, which the manuals leave open (SDM Vol. 2A LAR)"
#define OSXSAVE "looks at CR4.OSXSAVE behind the intercept (SDM Vol. 2D XSETBV: #UD first)"
#define NOTHING "0f c7 with memory does nothing (SDM Vol. 2: #UD without CR4.OSXSAVE or VMX)"
#define MM      "LDMXCSR takes the bit, and nothing comes of it (APM Vol. 1 4.2.2)"
#define NO_AC   "does not check alignment (SDM Vol. 3A 6.15, interrupt 17)"
static const struct departure {
	enum whose whose;
	bool native;
	const char *guest, *line, *why;
} departures[] = {
    {QEMU, true, "faults", "SSE exception", NO_XM},
    {QEMU, true, "faults", "SSE exception without OSXMMEXCPT", NO_XM},
    {QEMU, false, "faults", "MMX with TS", EMMS},
    {QEMU, false, "faults", "MMX with EM", EMMS},
    {QEMU, false, "faults", "fxrstor with EM", "#NM, not #UD (SDM Vol. 2A FXRSTOR)"},
    {QEMU, false, "faults", "ldmxcsr of reserved bits", "takes them (SDM Vol. 2A LDMXCSR)"},
    {QEMU, false, "faults", "invd", EARLY},
    {QEMU, false, "faults", "wbinvd", EARLY},
    {QEMU, false, "faults", "cr0: above 32 bits", "drops them (SDM Vol. 3A 2.5)"},
    {QEMU, false, "faults", "cr8: too large", "takes it (SDM Vol. 2B MOV to control registers)"},
    {QEMU, false, "faults", "mov to cs", "loads it (SDM Vol. 2B MOV: #UD)"},
    {QEMU, false, "faults", "iret to nowhere", LATE},
    {QEMU, false, "faults", "jump not canonical", LATE},
    {QEMU, false, "faults", "ret not canonical", LATE},
    {QEMU, false, "faults", "load across the canonical end", "looks at the first page before the second's address (SDM Vol. 1 3.3.7.1)"},
    {QEMU, false, "faults", "push not canonical", NO_SS},
    {QEMU, false, "faults", "rbp not canonical", NO_SS},
    {QEMU, false, "faults", "reserved bit, read", NO_P},
    {QEMU, false, "faults", "reserved bit, write by the kernel", NO_P},
    {QEMU, false, "faults", "undefined through an absent gate", NO_EXT},
    {QEMU, false, "faults", "undefined through a gate to data", NO_EXT},
    {QEMU, false, "faults", "undefined through a gate of another type", NO_EXT},
    {QEMU, false, "windows", "sti, mov ss", "of several in a row only the first holds interrupts off, which the manuals allow (SDM Vol. 2B MOV)"},
    {QEMU, false, "windows", "steps over a string", "a step more, behind the last round (SDM Vol. 3B 18.3.1.4)"},
    {KVM, false, "windows", "steps over a store where there is no memory", "no step behind a store that user space carries out (arch/x86/kvm/x86.c)"},
    {QEMU, false, "sensitive", "ring 0 limits of lar", LAR},
    {QEMU, false, "sensitive", "ring 3 limits of lar", LAR},
    {QEMU, false, "sensitive", "ring 0: mov $0x23, %ebx; lar %ebx, %eax; lsl %ebx, %ecx", LAR},
    {QEMU, false, "sensitive", "ring 0: movw $0x2b, (%rsi); lar (%rsi), %eax; lsl (%rsi), %ecx; verr (%rsi)", LAR},
    {QEMU, false, "sensitive", "ring 3: mov $0x23, %ebx; lar %ebx, %eax; lsl %ebx, %ecx", LAR},
    {QEMU, false, "sensitive", "ring 3: movw $0x2b, (%rsi); lar (%rsi), %eax; lsl (%rsi), %ecx; verr (%rsi)", LAR},
    {QEMU, false, "sensitive", "ring 0: xor %ecx, %ecx; xsetbv", OSXSAVE},
    {QEMU, false, "sensitive", "ring 0: xsavec (%rsi)", NOTHING},
    {QEMU, false, "sensitive", "ring 0: xsaves (%rsi)", NOTHING},
    {QEMU, false, "sensitive", "ring 0: vmptrld (%rsi)", NOTHING},
    {QEMU, false, "sensitive", "ring 3: xor %ecx, %ecx; xsetbv", OSXSAVE},
    {QEMU, false, "sensitive", "ring 3: xsavec (%rsi)", NOTHING},
    {QEMU, false, "sensitive", "ring 3: xsaves (%rsi)", NOTHING},
    {QEMU, false, "sensitive", "ring 3: vmptrld (%rsi)", NOTHING},
    {QEMU, false, "sensitive", "ring 3: wbnoinvd", EARLY},
    {QEMU, false, "sensitive", "a misaligned operand with MM", MM},
    {QEMU, false, "sensitive", "a misaligned move of aligned data with MM", MM},
    {QEMU, false, "sensitive", "misaligned operand with MM and AC", MM},
    {QEMU, false, "sensitive", "misaligned load", NO_AC},
    {QEMU, false, "sensitive", "misaligned store", NO_AC},
    {QEMU, false, "sensitive", "misaligned stack", NO_AC},
    {QEMU, false, "sensitive", "AC set by popf", NO_AC},
};
#define DEPARTURES (sizeof(departures) / sizeof(*departures))

static bool begins(const char *line, const char *name)
{
	size_t n = strlen(name);
	return !strncmp(line, name, n) && line[n] == ':';
}

static const struct departure *departure_of(const char *guest, const char *line)
{
	for (unsigned i = 0; i < DEPARTURES; i++)
		if ((under_qemu || departures[i].whose == KVM) && !strcmp(departures[i].guest, guest) && begins(line, departures[i].line))
			return &departures[i];
	return NULL;
}

static size_t line_length(const char *at)
{
	return strcspn(at, "\n");
}

static const char *next_line(const char *at)
{
	at += line_length(at);
	return at + (*at != 0);
}

static bool is_wrong(const char *line)
{
	size_t n = line_length(line);
	return n >= 6 && !memcmp(line + n - 6, " WRONG", 6);
}

/* How many were wrong may differ by lines that are listed: they are counted one by one. */
static size_t compared_length(const char *line)
{
	return strncmp(line, "end: ", 5) ? line_length(line) : strcspn(line, ",");
}

static bool equal_lines(const char *a, const char *b)
{
	size_t n = compared_length(a);
	return n == compared_length(b) && !memcmp(a, b, n);
}

/* Line by line; how many differ, those of the list aside. */
static unsigned compare(const char *guest, const char *a, const char *b, const char *name_a, const char *name_b)
{
	unsigned differing = 0;
	for (; *a || *b; a = next_line(a), b = next_line(b)) {
		if (equal_lines(a, b) || (guest && departure_of(guest, a) && departure_of(guest, a) == departure_of(guest, b)))
			continue;
		if (differing++ < DIFFERENCES_SHOWN)
			printf("%-6s %.*s\n%-6s %.*s\n", name_a, (int)line_length(a), a, name_b, (int)line_length(b), b);
	}
	return differing;
}

/* 0, or how many lines the guest itself found wrong, those of the list aside: all of them on engine kvm, the native ones on soft. */
static unsigned judge(const char *guest, const char *text, bool on_kvm)
{
	unsigned checks = 0, wrong = 0, seen = 0, listed = 0;
	const char *end = strstr(text, "\nend: ");
	if (!end || sscanf(end, "\nend: %u checks, %u wrong", &checks, &wrong) != 2) {
		show_end(text);
		fail_msg("it did not come to its end");
	}
	for (const char *line = text; *line; line = next_line(line)) {
		if (!is_wrong(line))
			continue;
		const struct departure *departure = guest ? departure_of(guest, line) : NULL;
		seen++;
		if (departure && (on_kvm || departure->native))
			listed++;
		else
			printf("%.*s\n", (int)line_length(line), line);
	}
	if (seen != wrong)
		fail_msg("%u lines are wrong, the guest counts %u", seen, wrong);
	return wrong - listed;
}

/* Each line of the list is there, and the list is needed for it. */
static unsigned needless(const char *guest, const char *soft, const char *kvm)
{
	unsigned count = 0;
	for (unsigned i = 0; i < DEPARTURES; i++) {
		const struct departure *d = &departures[i];
		bool there = false, needed = false;
		if (strcmp(d->guest, guest) || (d->whose == QEMU && !under_qemu))
			continue;
		for (const char *a = soft, *b = kvm; *a && *b; a = next_line(a), b = next_line(b)) {
			if (!begins(a, d->line))
				continue;
			there = true;
			needed |= !equal_lines(a, b) || is_wrong(b);
		}
		if (there && needed)
			continue;
		printf("%s: %s (%s)\n", d->line, there ? "as it should be, but listed" : "listed, but no line of this guest", d->why);
		count += !there || d->whose == QEMU;
	}
	return count;
}

static void finds_nothing_wrong(void **state)
{
	static const struct {
		const char *name;
		struct ft_engine_options options;
	} ways[] = {
	    {"usual", {.verify = true}},
	    {"single", {.block_limit = 1, .verify = true}},
	    {"small", {.cache_bytes = 1 << 20, .block_limit = 5, .tlb_bits = 4, .verify = true}},
	    {"slow", {.always_slow = true, .verify = true}},
	};
	const char *guest = *state;
	struct processor is = {0};
	char *usual = run(guest, &ft_engine_soft, &ways[0].options, &is);
	unsigned wrong = judge(NULL, usual, false);
	for (unsigned i = 1; i < sizeof(ways) / sizeof(*ways); i++) {
		char *other = run(guest, &ft_engine_soft, &ways[i].options, &is);
		wrong += compare(NULL, usual, other, ways[0].name, ways[i].name);
		free(other);
	}
	free(usual);
	assert_int_equal(wrong, 0);
}

/* "faults" of the program that meson has made. */
static const char *name_of(const char *guest)
{
	const char *name = strrchr(guest, '_');
	return name ? name + 1 : guest;
}

static void is_the_same_on_both_engines(void **state)
{
	const char *guest = *state, *name = name_of(guest);
	struct ft_engine_options none = {0};
	struct processor is = {0};
	char *kvm = run(guest, &ft_engine_kvm, &none, &is), *soft = run(guest, &ft_engine_soft, &none, &is);
	unsigned wrong = judge(name, soft, false), differing = compare(name, soft, kvm, "soft", "kvm");
	printf("%u lines differ\n", differing);
	wrong += judge(name, kvm, true) + needless(name, soft, kvm);
	/* As a clone does: every line, those of the list, too. */
	skips_idle = true;
	char *skipping = run(guest, &ft_engine_kvm, &none, &is);
	skips_idle = false;
	unsigned skipped = compare(NULL, kvm, skipping, "kvm", "skips");
	printf("%u lines differ where idle time is skipped\n", skipped);
	wrong += skipped + judge(name, skipping, true);
	free(soft);
	free(kvm);
	free(skipping);
	assert_int_equal(wrong + differing, 0);
}

int main(int argc, char **argv)
{
	struct CMUnitTest tests[16];
	int count = 0, first = argc > 1 && !strcmp(argv[1], "--engines") ? 2 : 1;
	if (first < argc && !strcmp(argv[first], "--qemu")) {
		under_qemu = true;
		first++;
	}
	bool engines = first > 1;
	for (int i = first; i < argc && count < 16; i++) {
		const char *name = strrchr(argv[i], '/');
		tests[count++] = (struct CMUnitTest){.name = name ? name + 1 : argv[i],
						     .test_func = engines ? is_the_same_on_both_engines : finds_nothing_wrong,
						     .initial_state = argv[i]};
	}
	return _cmocka_run_group_tests("invariant", tests, (size_t)count, NULL, NULL);
}
