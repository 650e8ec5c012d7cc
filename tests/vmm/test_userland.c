/* Large programs in a stock Debian guest print exactly what they print natively: perl, python3, gcc, openssl, xz and
 * friends (deploy/guest/suite). And a 32-bit program does not run. Skips when the image has not been built. */
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

/* Runs /usr/lib/foretaste/run/NAME and returns what it printed, cut out of the console. */
static char *run_one(const char *name, const char *how, struct guest_result *result)
{
	char kernel[600], initrd_path[600], disk[600], cmdline[256], from[64], to[64];
	struct ft_error err = {0};
	snprintf(kernel, sizeof(kernel), "%s/vmlinuz", image);
	snprintf(initrd_path, sizeof(initrd_path), "%s/initrd.img", image);
	snprintf(disk, sizeof(disk), "%s/root.ext4", image);
	snprintf(cmdline, sizeof(cmdline), "console=ttyS0 root=/dev/vda rw %s foretaste.run=%s", how, name);
	size_t initrd_length = 0;
	void *initrd = guest_file(initrd_path, &initrd_length, &err);
	if (!initrd)
		fail_msg("%s", err.text);
	struct guest_setup setup = {.kernel = kernel,
				    .initrd = initrd,
				    .initrd_length = initrd_length,
				    .disk = disk,
				    .cmdline = cmdline,
				    .memory = 512ull << 20,
				    .instructions = 200000000000ull,
				    .options = {.verify = true}};
	if (guest_run(&setup, result, &err))
		fail_msg("%s", err.text);
	free(initrd);
	if (result->stop != FT_STOP_RESET || result->reset != FT_RESET_POWEROFF)
		fail_msg(
		    "the guest did not switch itself off (stop %d, reset %d after %llu instructions): %s\n%s",
		    result->stop, result->reset, (unsigned long long)result->icount, err.text,
		    result->console + (result->length > 3000 ? result->length - 3000 : 0));
	snprintf(from, sizeof(from), "foretaste-guest: run %s\n", name);
	snprintf(to, sizeof(to), "foretaste-guest: done %s ", name);
	char *start = strstr(result->console, from);
	char *end = start ? strstr(start, to) : NULL;
	if (!end)
		fail_msg("no output of %s:\n%s", name, result->console);
	*end = 0;
	return start + strlen(from);
}

static void output_equals_native(void **state)
{
	char path[600];
	struct ft_error err = {0};
	size_t length = 0;
	struct guest_result result = {0};
	snprintf(path, sizeof(path), "%s/userland-suite.expected", image);
	char *expected = guest_file(path, &length, &err);
	if (!expected)
		fail_msg("%s", err.text);
	assert_true(length > 1000);
	char *got = run_one("userland-suite", "quiet", &result);
	print_message("%llu million instructions, %.1f s of virtual time\n",
		      (unsigned long long)result.icount / 1000000, (double)result.vtime_ns / 1e9);
	assert_string_equal(got, expected);
	free(result.console);
	free(expected);
}

static void a_32bit_program_does_not_run(void **state)
{
	struct guest_result result = {0};
	char *got = run_one("ia32", "", &result);
	assert_null(strstr(got, "32-bit\n"));
	/* It was there and was started: SIGSEGV ended it, on its first way to user mode. (run_one ended the string here.) */
	int status = -1;
	assert_int_equal(sscanf(got + strlen(got) + 1, "oretaste-guest: done ia32 %d", &status), 1);
	assert_int_equal(status, 139);
	free(result.console);
}

/* Everything that the kernel says from its first line to the last: no access that it did not expect to fail, no warning,
 * no lockup, and a processor that it need not defend against. */
static void the_kernel_has_nothing_to_complain_about(void **state)
{
	static const char *const complaints[] = {
	    "unchecked MSR", "Call Trace",   "WARNING",      "BUG:",     "Oops",
	    "lockup",        "rcu_sched",    "rcu: INFO",    "unstable", "Vulnerable",
	    "Mitigation",    "firmware bug", "trap invalid", "segfault", "Spectre"};
	struct guest_result result = {0};
	run_one("ia32", "", &result);
	assert_non_null(strstr(result.console, "Foretaste software CPU"));
	for (unsigned i = 0; i < sizeof(complaints) / sizeof(complaints[0]); i++) {
		char *at = strcasestr(result.console, complaints[i]);
		if (at)
			fail_msg("%.200s", at);
	}
	free(result.console);
}

int main(void)
{
	if (!guest_image("test", image, sizeof(image))) {
		printf("SKIP: no guest image; deploy/guest/build test makes it\n");
		return 77;
	}
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(output_equals_native),
	    cmocka_unit_test(a_32bit_program_does_not_run),
	    cmocka_unit_test(the_kernel_has_nothing_to_complain_about),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
