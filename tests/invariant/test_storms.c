/* A guest that means harm in ring 0 (guest/storms.c): it ends as a processor would, or comes through, on every engine; another
 * machine in this process is as it was, and nothing of those that have ended is left.
 *
 *   test_storms [--kvm] GUEST [STORM] */
#include <dirent.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "guest_run.h"

#define SEEDS  3u
#define RESETS 10u
#define TEXT   0x3800000u /* guest/guest.h */

static const char *guest, *only;
static const struct ft_engine_ops *engine = &ft_engine_soft;

enum end { TRIPLE_FAULT, REBOOT, POWER_OFF, GOES_ON, THROUGH, ANY };

/* of_device: its tables are a device's. Where a processor finds no handler and ends, KVM takes what reads them for an access that it has to
 * emulate. It gives the guest up (KVM_EXIT_INTERNAL_ERROR), or, with page tables on AMD's processors, puts a page fault in the place of the one
 * whose delivery was the access, for ever (seen in its trace, Linux 6.1). Whoever runs the guest can stop it. */
static const struct {
	const char *name;
	enum end end;
	bool of_device;
} storms[] = {
    {"no_table", TRIPLE_FAULT},	 {"table_nowhere", TRIPLE_FAULT, true}, {"pages_of_nothing", TRIPLE_FAULT},
    {"pages_nowhere", TRIPLE_FAULT, true}, {"pages_of_the_apic", TRIPLE_FAULT, true}, {"pages_of_themselves", TRIPLE_FAULT},
    {"no_stack", TRIPLE_FAULT},	 {"no_segments", TRIPLE_FAULT},	  {"fault_in_fault", TRIPLE_FAULT},
    {"by_keyboard", REBOOT},	 {"by_reset_register", REBOOT},	  {"never", GOES_ON},
    {"round_and_round", GOES_ON}, {"ports", THROUGH},		  {"configuration", THROUGH},
    {"interrupts", THROUGH},	 {"pages", THROUGH},		  {"descriptors", THROUGH},
    {"registers", THROUGH},	 {"devices", ANY},
};

/* False: the engine gave up. */
static bool try(const char *name, unsigned seed, uint64_t budget, struct guest_result *result, struct ft_error *err)
{
	char line[64];
	/* QEMU, which the outer machine is, ends a guest that sets a reserved bit of CR3 (SVM_EXIT_ERR), where a processor has #GP. */
	snprintf(line, sizeof(line), "%s %u%s", name, seed, engine == &ft_engine_kvm ? " " : "");
	struct guest_setup setup = {.kernel = guest,
				    .cmdline = line,
				    .memory = FT_RAM_MIN,
				    .instructions = budget,
				    .engine = engine,
				    .text_at = TEXT,
				    .options = {.verify = true}};
	memset(result, 0, sizeof(*result));
	if (guest_run(&setup, result, err))
		fail_msg("%s: %s", name, err->text);
	return result->stop != FT_STOP_ERROR;
}

static void run(const char *name, unsigned seed, uint64_t budget, struct guest_result *result)
{
	struct ft_error err = {0};
	if (!try(name, seed, budget, result, &err))
		fail_msg("%s, seed %u: the engine gave up: %s", name, seed, err.text);
}

static void has_no_end(const char *name)
{
	struct guest_result r;
	struct ft_error err = {0};
	if (try(name, 1, 2000000000, &r, &err))
		assert_int_equal(r.stop, FT_STOP_COUNT);
	else
		assert_non_null(strstr(err.text, "cannot go on with the guest"));
	free(r.console);
}

static void ends_as_a_processor_would(void **state)
{
	for (unsigned i = 0; i < sizeof(storms) / sizeof(*storms); i++) {
		enum end end = storms[i].end;
		if (only && strcmp(only, storms[i].name))
			continue;
		if (engine == &ft_engine_kvm && storms[i].of_device) {
			has_no_end(storms[i].name);
			continue;
		}
		for (unsigned seed = 1; seed <= (end >= THROUGH ? SEEDS : 1); seed++) {
			struct guest_result r;
			run(storms[i].name, seed, end == GOES_ON ? 400000000ull : 1000000000000ull, &r);
			print_message("%s %u: stop %d, reset %d\n", storms[i].name, seed, r.stop, r.reset);
			bool through = strstr(r.console, "through\n") && !strstr(r.console, "few\n");
			if (end == GOES_ON)
				assert_true(r.stop == FT_STOP_COUNT || r.stop == FT_STOP_IDLE);
			else
				assert_int_equal(r.stop, FT_STOP_RESET);
			if (end == TRIPLE_FAULT)
				assert_int_equal(r.reset, FT_RESET_TRIPLE_FAULT);
			if (end == REBOOT)
				assert_int_equal(r.reset, FT_RESET_REBOOT);
			if (end == THROUGH && (r.reset != FT_RESET_POWEROFF || !through))
				fail_msg("%s, seed %u, did not come through:\n%s", storms[i].name, seed, r.console);
			free(r.console);
		}
	}
}

static unsigned descriptors(void)
{
	unsigned n = 0;
	DIR *all = opendir("/proc/self/fd");
	assert_non_null(all);
	while (readdir(all))
		n++;
	closedir(all);
	return n;
}

static void a_loop_of_resets_leaves_nothing(void **state)
{
	struct guest_result r;
	/* On kvm instructions are time: 250 ms would be less than a boot takes where the processor is emulated. */
	uint64_t most = engine == &ft_engine_kvm ? 1000000000000ull : 1000000000ull;
	run("by_reset_register", 1, most, &r);
	free(r.console);
	unsigned before = descriptors();
	for (unsigned i = 0; i < RESETS; i++) {
		run(i % 2 ? "by_reset_register" : "no_table", 1, most, &r);
		assert_int_equal(r.stop, FT_STOP_RESET);
		free(r.console);
	}
	assert_int_equal(descriptors(), before);
}

static uint64_t hash;
static struct ft_machine *bystander;

static int make_bystander(void **state)
{
	struct ft_error err = {0};
	struct ft_machine_config config = {.memory = FT_RAM_MIN, .disk_fd = -1, .engine = &ft_engine_soft};
	bystander = ft_machine_create(&config, &err);
	if (!bystander)
		return -1;
	hash = ft_machine_hash(bystander);
	return 0;
}

static void another_machine_is_as_it_was(void **state)
{
	assert_true(ft_machine_hash(bystander) == hash);
	ft_machine_destroy(bystander);
}

int main(int argc, char **argv)
{
	if (argc > 1 && !strcmp(argv[1], "--kvm")) {
		engine = &ft_engine_kvm;
		argv++;
		argc--;
	}
	if (argc < 2)
		return 64;
	guest = argv[1];
	only = argv[2];
	const struct CMUnitTest tests[] = {cmocka_unit_test(ends_as_a_processor_would), cmocka_unit_test(a_loop_of_resets_leaves_nothing),
					   cmocka_unit_test(another_machine_is_as_it_was)};
	return cmocka_run_group_tests(tests, make_bystander, NULL);
}
