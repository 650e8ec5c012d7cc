/* Hostile code in ring 3 of a stock kernel (hostile/hostile.c as its init): every privileged instruction, undefined
 * opcodes, foreign addresses, random bytes. The guest must see what a processor would show, and nothing else may happen:
 * the engine goes on, and the output verifier approves of all code that was made. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "guest_run.h"

static char image[512];
static const char *program;

static unsigned faults[32];

static void saw_fault(void *context, unsigned vector, uint32_t error, uint64_t address, uint64_t rip)
{
	faults[vector & 31]++;
}

static void hostile_code_stays_in_its_ring(void **state)
{
	char kernel[600];
	struct ft_error err = {0};
	struct guest_result result = {0};
	size_t length = 0;
	void *initrd = guest_initrd(program, &length, &err);
	if (!initrd)
		fail_msg("%s", err.text);
	snprintf(kernel, sizeof(kernel), "%s/vmlinuz", image);
	struct guest_setup setup = {.kernel = kernel,
				    .initrd = initrd,
				    .initrd_length = length,
				    .cmdline = "console=ttyS0 quiet print-fatal-signals=0",
				    .memory = 128ull << 20,
				    .instructions = 40000000000ull,
				    .options = {.verify = true},
				    .hooks = {.mask = FT_HOOK_FAULT, .fault = saw_fault}};
	if (guest_run(&setup, &result, &err))
		fail_msg("%s", err.text);
	free(initrd);
	print_message("%s", result.console);
	if (result.stop != FT_STOP_RESET || result.reset != FT_RESET_POWEROFF)
		fail_msg("the guest did not switch itself off (stop %d, reset %d): %s", result.stop,
			 result.reset, err.text);
	unsigned checks = 0, wrong = 1;
	char *last = strstr(result.console, " checks, ");
	while (last && last > result.console && last[-1] != ' ')
		last--;
	assert_non_null(last);
	assert_int_equal(sscanf(last, "%u checks, %u wrong", &checks, &wrong), 2);
	assert_true(checks > 10000);
	assert_int_equal(wrong, 0);
	/* What the guest tells is also what an observer saw, where there is anything to see. */
	assert_true(guest_engine()->hosted || (faults[6] > 80 && faults[13] > 5000 && faults[14] > 10000 && faults[16] > 0 &&
		    faults[19] > 0));
	free(result.console);
}

int main(int argc, char **argv)
{
	program = argc > 1 ? argv[1] : "";
	if (!guest_image("test", image, sizeof(image)) && !guest_image("web", image, sizeof(image))) {
		printf("SKIP: no guest image; deploy/guest/build makes it\n");
		return 77;
	}
	const struct CMUnitTest tests[] = {cmocka_unit_test(hostile_code_stays_in_its_ring)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
