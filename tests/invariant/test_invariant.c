/* Test guests (guest/): one a side of the processor and of the PC. On engine soft each has to find nothing wrong and to print the
 * same under every setting; with --engines it has to print the same on kvm.
 *
 *   test_invariant [--engines [--qemu]] GUEST...
 *
 * --qemu: the processor that KVM has here is emulated by QEMU. */
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

/* Line by line; how many differ. */
static unsigned compare(const char *a, const char *b, const char *name_a, const char *name_b)
{
	unsigned differing = 0;
	while (*a || *b) {
		size_t n = strcspn(a, "\n"), k = strcspn(b, "\n");
		if (n != k || memcmp(a, b, n)) {
			if (differing++ < DIFFERENCES_SHOWN)
				printf("%-6s %.*s\n%-6s %.*s\n", name_a, (int)n, a, name_b, (int)k, b);
		}
		a += n + (a[n] != 0);
		b += k + (b[k] != 0);
	}
	return differing;
}

/* 0, or what the guest itself found wrong. */
static unsigned judge(const char *text)
{
	unsigned checks = 0, wrong = 0;
	const char *end = strstr(text, "\nend: ");
	if (!end || sscanf(end, "\nend: %u checks, %u wrong", &checks, &wrong) != 2)
	{
		show_end(text);
		fail_msg("it did not come to its end");
	}
	for (const char *at = text; (at = strstr(at, "WRONG\n")); at++) {
		const char *line = at;
		while (line > text && line[-1] != '\n')
			line--;
		printf("%.*s\n", (int)(at + 5 - line), line);
	}
	return wrong;
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
	unsigned wrong = judge(usual);
	for (unsigned i = 1; i < sizeof(ways) / sizeof(*ways); i++) {
		char *other = run(guest, &ft_engine_soft, &ways[i].options, &is);
		wrong += compare(usual, other, ways[0].name, ways[i].name);
		free(other);
	}
	free(usual);
	assert_int_equal(wrong, 0);
}

static void is_the_same_on_both_engines(void **state)
{
	const char *guest = *state;
	struct ft_engine_options none = {0};
	struct processor is = {0};
	char *kvm = run(guest, &ft_engine_kvm, &none, &is), *soft = run(guest, &ft_engine_soft, &none, &is);
	unsigned wrong = judge(soft), differing = compare(soft, kvm, "soft", "kvm");
	printf("%u lines differ\n", differing);
	wrong += judge(kvm);
	free(kvm);
	/* As a clone does. */
	skips_idle = true;
	kvm = run(guest, &ft_engine_kvm, &none, &is);
	skips_idle = false;
	unsigned skipping = compare(soft, kvm, "soft", "skips");
	printf("%u lines differ where idle time is skipped\n", skipping);
	wrong += skipping + judge(kvm);
	free(soft);
	free(kvm);
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
