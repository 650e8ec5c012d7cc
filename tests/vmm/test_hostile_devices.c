/* Drivers that break every rule, run inside of a stock guest (hostile/drivers.c as its init): the machine goes on, the
 * offender's own devices refuse, and nothing else changes: not the disk's base image, not another machine in this
 * process, not the amount of memory that the machine takes. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>
#include <cmocka.h>

#include "guest_run.h"

#define DISK_BYTES (4u << 20)
#define MEMORY     (128ull << 20)

static char image[512];
static const char *program;

static uint8_t disk_byte(size_t at)
{
	return (uint8_t)(at / 512 * 3 + at % 512);
}

static int make_disk(void)
{
	int fd = memfd_create("disk", MFD_CLOEXEC);
	uint8_t *bytes = malloc(DISK_BYTES);
	for (size_t i = 0; i < DISK_BYTES; i++)
		bytes[i] = disk_byte(i);
	assert_int_equal(write(fd, bytes, DISK_BYTES), DISK_BYTES);
	free(bytes);
	return fd;
}

static struct ft_machine *make_bystander(void)
{
	struct ft_error err = {0};
	struct ft_machine_config config = {.memory = FT_RAM_MIN, .disk_fd = -1, .engine = &ft_engine_soft};
	struct ft_machine *m = ft_machine_create(&config, &err);
	if (!m)
		fail_msg("%s", err.text);
	return m;
}

static uint64_t peak_bytes(void)
{
	struct rusage usage;
	getrusage(RUSAGE_SELF, &usage);
	return (uint64_t)usage.ru_maxrss * 1024;
}

static void hostile_drivers_harm_nobody_else(void **state)
{
	char kernel[600], disk[64];
	struct ft_error err = {0};
	struct guest_result result = {0};
	struct guest_setup setup = {.kernel = kernel,
				    .disk = disk,
				    .cmdline = "console=ttyS0 quiet",
				    .memory = MEMORY,
				    .instructions = 40000000000ull,
				    .options = {.verify = true}};
	int fd = make_disk();
	snprintf(kernel, sizeof(kernel), "%s/vmlinuz", image);
	snprintf(disk, sizeof(disk), "/proc/self/fd/%d", fd);
	void *initrd = guest_initrd(program, &setup.initrd_length, &err);
	if (!initrd)
		fail_msg("%s", err.text);
	setup.initrd = initrd;
	struct ft_machine *bystander = make_bystander();
	uint64_t hash = ft_machine_hash(bystander), before = peak_bytes();

	if (guest_run(&setup, &result, &err))
		fail_msg("%s", err.text);
	print_message("%s", result.console);
	if (result.stop != FT_STOP_RESET || result.reset != FT_RESET_POWEROFF)
		fail_msg("the guest did not switch itself off (stop %d, reset %d): %s", result.stop,
			 result.reset, err.text);
	unsigned offences = 0, refused = 0;
	char word[8] = "";
	const char *last = strstr(result.console, "drivers: ");
	assert_non_null(last);
	assert_int_equal(
	    sscanf(last, "drivers: %u offences, %u refused, disk %7s", &offences, &refused, word), 3);
	assert_true(offences > 9000);
	assert_true(refused > offences / 2);
	assert_string_equal(word, "good");

	assert_true(ft_machine_hash(bystander) == hash);
	/* RAM, kernel and initramfs in memory, code cache and disk overlay: twice the guest's memory is ample; a queue
	 * that grows with every offence is not. */
	assert_true(peak_bytes() - before < 2 * MEMORY + (256ull << 20));
	uint8_t *after = mmap(NULL, DISK_BYTES, PROT_READ, MAP_SHARED, fd, 0);
	for (size_t i = 0; i < DISK_BYTES; i++)
		if (after[i] != disk_byte(i))
			fail_msg("the base image changed at byte %zu", i);
	munmap(after, DISK_BYTES);
	close(fd);
	ft_machine_destroy(bystander);
	free(initrd);
	free(result.console);
}

int main(int argc, char **argv)
{
	program = argc > 1 ? argv[1] : "";
	if (!guest_image("test", image, sizeof(image)) && !guest_image("web", image, sizeof(image))) {
		printf("SKIP: no guest image; deploy/guest/build makes it\n");
		return 77;
	}
	const struct CMUnitTest tests[] = {cmocka_unit_test(hostile_drivers_harm_nobody_else)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
