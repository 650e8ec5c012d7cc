/* Loading a kernel, whatever the image says, and the ACPI tables. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "pc.h"
#include "vmm/boot.h"

#define SETUP_SECTORS 3u
#define SETUP         ((SETUP_SECTORS + 1) * 512u)
#define CODE          0x3000u
#define LOAD          0x1000000u

static uint8_t *make_image(void)
{
	uint8_t *image = calloc(1, SETUP + CODE);
	uint32_t load = LOAD, init = 0x200000, cmdline = 2047, initrd_max = 0x7fffffff;
	image[0x1f1] = SETUP_SECTORS;
	memcpy(image + 0x1fe, "\x55\xaa", 2);
	image[0x201] = 0x6a; /* header up to 0x26c */
	memcpy(image + 0x202, "HdrS\x0f\x02", 6);
	image[0x211] = 1;
	image[0x234] = 1;
	image[0x236] = 1;
	memcpy(image + 0x22c, &initrd_max, 4);
	memcpy(image + 0x238, &cmdline, 4);
	memcpy(image + 0x258, &load, 4);
	memcpy(image + 0x260, &init, 4);
	for (unsigned i = 0; i < CODE; i++)
		image[SETUP + i] = (uint8_t)(i * 7);
	return image;
}

static int boot(struct pc *pc, const void *kernel, size_t length, const void *initrd, size_t initrd_length,
		const char *cmdline, struct ft_error *err)
{
	struct ft_machine_config config = {.kernel = kernel,
					   .kernel_length = length,
					   .initrd = initrd,
					   .initrd_length = initrd_length,
					   .cmdline = cmdline};
	*err = (struct ft_error){0};
	return ft_machine_boot(pc->m, &config, err);
}

static uint64_t peek(struct pc *pc, uint64_t at, unsigned size)
{
	uint64_t value = 0;
	assert_true(ft_memory_read(&pc->m->ram, ft_gpa_make(at), &value, size));
	return value;
}

static void puts_everything_in_its_place(void **state)
{
	struct pc pc;
	struct ft_error err;
	pc_open(&pc, -1);
	uint8_t *image = make_image(), initrd[5000];
	memset(initrd, 0x5a, sizeof(initrd));
	assert_int_equal(boot(&pc, image, SETUP + CODE, initrd, sizeof(initrd), "console=ttyS0", &err), 0);
	assert_memory_equal(ft_memory_span(&pc.m->ram, ft_gpa_make(LOAD), &(uint64_t){CODE}), image + SETUP, CODE);
	assert_int_equal(peek(&pc, FT_BOOT_PARAMS + 0x202, 4), 0x53726448);
	assert_string_equal(ft_memory_span(&pc.m->ram, ft_gpa_make(peek(&pc, FT_BOOT_PARAMS + 0x228, 4)), &(uint64_t){64}),
			    "console=ttyS0");
	uint64_t at = peek(&pc, FT_BOOT_PARAMS + 0x218, 4);
	assert_int_equal(peek(&pc, FT_BOOT_PARAMS + 0x21c, 4), sizeof(initrd));
	assert_int_equal(at % 4096, 0);
	assert_true(at >= LOAD + 0x200000 && at + sizeof(initrd) <= FT_RAM_MIN);
	assert_memory_equal(ft_memory_span(&pc.m->ram, ft_gpa_make(at), &(uint64_t){sizeof(initrd)}), initrd,
			    sizeof(initrd));
	/* The memory map covers RAM and nothing of it twice. */
	uint64_t usable = 0, last = 0;
	for (unsigned i = 0; i < peek(&pc, FT_BOOT_PARAMS + 0x1e8, 1); i++) {
		uint64_t entry = FT_BOOT_PARAMS + 0x2d0 + 20 * i, start = peek(&pc, entry, 8),
			 length = peek(&pc, entry + 8, 8);
		assert_true(start >= last && start + length <= FT_RAM_MIN);
		last = start + length;
		if (peek(&pc, entry + 16, 4) == 1)
			usable += length;
	}
	assert_int_equal(usable, FT_RAM_MIN - 0x100000 + FT_BOOT_LOW_END);
	free(image);
	pc_close(&pc);
}

/* Kernels on an AMD cannot find it out: behind what the user says, before what is init's, and not against the user's word. */
static void tells_the_frequency(void **state)
{
	static const char *const cases[][2] = {
	    {"quiet", "quiet tsc_early_khz=2600000"},
	    {"", " tsc_early_khz=2600000"},
	    {"quiet -- single", "quiet tsc_early_khz=2600000 -- single"},
	    {"a --b --", "a --b tsc_early_khz=2600000 --"},
	    {"tsc_early_khz=1", "tsc_early_khz=1"},
	};
	struct pc pc;
	struct ft_error err;
	pc_open(&pc, -1);
	pc.m->clock.tsc_khz = 2600000;
	pc.m->model = (struct ft_model){.vendor = FT_MODEL_AMD, .signature = 0x00800f12};
	uint8_t *image = make_image();
	for (unsigned i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		assert_int_equal(boot(&pc, image, SETUP + CODE, NULL, 0, cases[i][0], &err), 0);
		assert_string_equal(ft_memory_span(&pc.m->ram, ft_gpa_make(peek(&pc, FT_BOOT_PARAMS + 0x228, 4)), &(uint64_t){64}), cases[i][1]);
	}
	free(image);
	pc_close(&pc);
}

static void refuses_images_that_do_not_add_up(void **state)
{
	struct pc pc;
	struct ft_error err;
	pc_open(&pc, -1);
	uint8_t *good = make_image(), *image = malloc(SETUP + CODE);
	static const struct {
		unsigned at, size;
		uint64_t value;
	} cases[] = {
	    {0x1fe, 2, 0},                  /* no boot flag */
	    {0x202, 1, 'X'},                /* no header */
	    {0x206, 2, 0x020b},             /* too old */
	    {0x236, 2, 0},                  /* no 64-bit entry */
	    {0x201, 1, 0x10},               /* header too short */
	    {0x1f1, 1, 255},                /* setup longer than the file */
	    {0x1f1, 1, 27},                 /* nothing behind the setup's end but less than an entry */
	    {0x258, 8, 0},                  /* over our own tables */
	    {0x258, 8, FT_RAM_MIN},         /* behind RAM */
	    {0x258, 8, FT_RAM_MIN - 0x100}, /* across its end */
	    {0x258, 8, UINT64_MAX - 0xfff}, /* wraps */
	    {0x260, 4, UINT32_MAX},         /* needs more than there is */
	    {0x22c, 4, 0x1000000},          /* initrd only where the kernel is */
	    {0x22c, 4, 0},
	    {0x238, 4, 3}, /* command line too long */
	};
	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		memcpy(image, good, SETUP + CODE);
		memcpy(image + cases[i].at, &cases[i].value, cases[i].size);
		if (!boot(&pc, image, SETUP + CODE, good, 4096, "quiet", &err))
			fail_msg("case %u was accepted", i);
		assert_true(err.text[0]);
	}
	/* Room for decompression is needed though nothing is loaded there. */
	memcpy(image, good, SETUP + CODE);
	memset(image + 0x260, 0xff, 4);
	assert_int_not_equal(boot(&pc, image, SETUP + CODE, NULL, 0, "quiet", &err), 0);
	/* A header that claims to be longer than what boot_params has for one. */
	memcpy(image, good, SETUP + CODE);
	image[0x201] = 0xff;
	memset(image + 0x290, 0xee, 0x80);
	assert_int_equal(boot(&pc, image, SETUP + CODE, NULL, 0, "quiet", &err), 0);
	for (uint64_t at = 0x290; at < 0x2d0; at++)
		assert_int_equal(peek(&pc, FT_BOOT_PARAMS + at, 1), 0);
	/* Cut at every length: never read behind its end (the allocation is exact for the sanitizer). */
	for (size_t length = 0; length < SETUP + 0x201; length += length < 0x300 ? 1 : 37) {
		uint8_t *cut = malloc(length ? length : 1);
		memcpy(cut, good, length);
		assert_int_not_equal(boot(&pc, cut, length, NULL, 0, "", &err), 0);
		free(cut);
	}
	/* Random damage to the header is refused or loaded inside of RAM: it never crashes. */
	uint64_t seed = 88172645463325252ull;
	for (unsigned i = 0; i < 2000; i++) {
		memcpy(image, good, SETUP + CODE);
		for (unsigned n = 0; n < 4; n++) {
			seed = seed * 6364136223846793005ull + 1442695040888963407ull;
			image[0x1f1 + (seed >> 33) % 0x80] = (uint8_t)(seed >> 56);
		}
		boot(&pc, image, SETUP + CODE, good, 4096, "quiet", &err);
	}
	assert_int_not_equal(boot(&pc, good, SETUP + CODE, good, FT_RAM_MIN, "", &err), 0);
	free(image);
	free(good);
	pc_close(&pc);
}

static uint8_t sum(struct pc *pc, uint64_t at, uint64_t length)
{
	uint8_t total = 0;
	for (uint64_t i = 0; i < length; i++)
		total = (uint8_t)(total + peek(pc, at + i, 1));
	return total;
}

static void acpi_tables_are_linked_and_sum_to_zero(void **state)
{
	struct pc pc;
	struct ft_error err;
	pc_open(&pc, -1);
	uint8_t *image = make_image();
	assert_int_equal(boot(&pc, image, SETUP + CODE, NULL, 0, "", &err), 0);
	uint64_t rsdp = peek(&pc, FT_BOOT_PARAMS + 0x70, 8);
	assert_memory_equal(ft_memory_span(&pc.m->ram, ft_gpa_make(rsdp), &(uint64_t){8}), "RSD PTR ", 8);
	assert_int_equal(sum(&pc, rsdp, 20), 0);
	assert_int_equal(sum(&pc, rsdp, 36), 0);
	uint64_t xsdt = peek(&pc, rsdp + 24, 8), dsdt = 0;
	assert_int_equal(sum(&pc, xsdt, peek(&pc, xsdt + 4, 4)), 0);
	unsigned tables = (unsigned)(peek(&pc, xsdt + 4, 4) - 36) / 8;
	assert_int_equal(tables, 2);
	for (unsigned i = 0; i < tables; i++) {
		uint64_t table = peek(&pc, xsdt + 36 + 8 * i, 8);
		assert_int_equal(sum(&pc, table, peek(&pc, table + 4, 4)), 0);
		if (!memcmp(ft_memory_span(&pc.m->ram, ft_gpa_make(table), &(uint64_t){4}), "FACP", 4))
			dsdt = peek(&pc, table + 140, 8);
	}
	assert_true(dsdt);
	uint64_t length = peek(&pc, dsdt + 4, 4);
	assert_int_equal(sum(&pc, dsdt, length), 0);
	/* The outermost scope's PkgLength and the _S5_ package behind it end where the table ends. */
	uint64_t at = dsdt + 36;
	assert_int_equal(peek(&pc, at, 1), 0x10);
	uint64_t scope = (peek(&pc, at + 1, 1) & 15) | peek(&pc, at + 2, 1) << 4 | peek(&pc, at + 3, 1) << 12;
	at += 1 + scope;
	assert_memory_equal(ft_memory_span(&pc.m->ram, ft_gpa_make(at), &(uint64_t){6}), "\x08_S5_\x12", 6);
	uint64_t package =
	    (peek(&pc, at + 6, 1) & 15) | peek(&pc, at + 7, 1) << 4 | peek(&pc, at + 8, 1) << 12;
	assert_int_equal(at + 6 + package, dsdt + length);
	free(image);
	pc_close(&pc);
}

/* The MADT has a local APIC for each processor, and of one processor what it always had. */
static void each_processor_is_told(void **state)
{
	for (unsigned vcpus = 1; vcpus <= FT_VCPUS_MOST; vcpus += 5) {
		struct ft_error err = {0};
		struct pc pc = {0};
		struct ft_machine_config config = {.memory = FT_RAM_MIN, .vcpus = vcpus, .clock = FT_CLOCK_FREE, .disk_fd = -1};
		pc.m = ft_machine_create(&config, &err);
		assert_non_null(pc.m);
		uint8_t *image = make_image();
		assert_int_equal(boot(&pc, image, SETUP + CODE, NULL, 0, "", &err), 0);
		uint64_t xsdt = peek(&pc, peek(&pc, FT_BOOT_PARAMS + 0x70, 8) + 24, 8), madt = peek(&pc, xsdt + 44, 8);
		assert_memory_equal(ft_memory_span(&pc.m->ram, ft_gpa_make(madt), &(uint64_t){4}), "APIC", 4);
		uint64_t length = peek(&pc, madt + 4, 4), at = madt + 44;
		unsigned found = 0;
		assert_int_equal(sum(&pc, madt, length), 0);
		assert_int_equal(length, 44 + 8 * vcpus + 12 + 20 + 6);
		for (; at < madt + length; at += peek(&pc, at + 1, 1)) {
			assert_true(peek(&pc, at + 1, 1) >= 6);
			if (peek(&pc, at, 1))
				continue;
			assert_int_equal(peek(&pc, at + 2, 1), found);
			assert_int_equal(peek(&pc, at + 3, 1), found);
			assert_int_equal(peek(&pc, at + 4, 4), 1);
			found++;
		}
		assert_int_equal(at, madt + length);
		assert_int_equal(found, vcpus);
		free(image);
		pc_close(&pc);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(puts_everything_in_its_place),
	    cmocka_unit_test(tells_the_frequency), cmocka_unit_test(refuses_images_that_do_not_add_up),
	    cmocka_unit_test(acpi_tables_are_linked_and_sum_to_zero),
	    cmocka_unit_test(each_processor_is_told),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
