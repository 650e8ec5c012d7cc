/* The boot loader on any image: either a sentence says why not and guest memory is untouched, or everything lies where the
 * boot parameters say, inside of RAM and clear of everything else. */
#include "input.h"

#include <sys/prctl.h>

#include "../vmm/pc.h"
#include "vmm/boot.h"

#define SETUP_SECTORS 3u
#define SETUP         ((SETUP_SECTORS + 1) * 512u)

/* A sound image, which the input then changes. */
static void make_image(uint8_t *image, size_t length)
{
	uint32_t load = 0x1000000, init = 0x200000, cmdline = 2047, initrd_max = 0x7fffffff;
	for (size_t i = 0; i < length; i++)
		image[i] = i < SETUP ? 0 : (uint8_t)(i * 7);
	image[0x1f1] = SETUP_SECTORS;
	memcpy(image + 0x1fe, "\x55\xaa", 2);
	image[0x201] = 0x6a;
	memcpy(image + 0x202, "HdrS\x0f\x02", 6);
	image[0x211] = image[0x234] = image[0x236] = 1;
	memcpy(image + 0x22c, &initrd_max, 4);
	memcpy(image + 0x238, &cmdline, 4);
	memcpy(image + 0x258, &load, 4);
	memcpy(image + 0x260, &init, 4);
}

static uint64_t peek(struct pc *pc, uint64_t at, unsigned size)
{
	uint64_t value = 0;
	MUST(ft_memory_read(&pc->m->ram, ft_gpa_make(at), &value, size));
	return value;
}

static void check_placed(struct pc *pc, const struct ft_machine_config *c)
{
	const struct ft_memory *ram = &pc->m->ram;
	const uint8_t *k = c->kernel;
	uint64_t setup = ((k[0x1f1] ? k[0x1f1] : 4u) + 1) * 512u, load = FT_BOOT_HIGH;
	if (k[0x234])
		memcpy(&load, k + 0x258, 8);
	const void *at = ft_memory_span(ram, ft_gpa_make(load), &(uint64_t){c->kernel_length - setup});
	MUST(at && load >= FT_BOOT_HIGH && !memcmp(at, k + setup, c->kernel_length - setup));
	uint64_t initrd = peek(pc, FT_BOOT_PARAMS + 0x218, 4), length = peek(pc, FT_BOOT_PARAMS + 0x21c, 4);
	MUST(length == c->initrd_length);
	if (length) {
		MUST(initrd >= load + peek(pc, FT_BOOT_PARAMS + 0x260, 4) && !(initrd & 4095));
		MUST(initrd + length - 1 <= peek(pc, FT_BOOT_PARAMS + 0x22c, 4));
		const void *there = ft_memory_span(ram, ft_gpa_make(initrd), &(uint64_t){length});
		MUST(there && !memcmp(there, c->initrd, length));
	}
	const char *cmdline = ft_memory_span(ram, ft_gpa_make(peek(pc, FT_BOOT_PARAMS + 0x228, 4)), &(uint64_t){0x10000});
	MUST(cmdline && !strcmp(cmdline, c->cmdline));
	uint64_t end = 0;
	unsigned entries = (unsigned)peek(pc, FT_BOOT_PARAMS + 0x1e8, 1);
	MUST(entries && entries <= 128);
	for (unsigned i = 0; i < entries; i++) {
		uint64_t entry = FT_BOOT_PARAMS + 0x2d0 + 20 * i, from = peek(pc, entry, 8);
		MUST(from >= end);
		end = from + peek(pc, entry + 8, 8);
		MUST(end > from && end <= ram->size);
	}
	MUST(peek(pc, FT_BOOT_ACPI, 8) == 0x2052545020445352); /* "RSD PTR " */
}

static void check_untouched(struct pc *pc)
{
	for (uint64_t page = 0; page < pc->m->ram.size / FT_PAGE_SIZE; page++)
		MUST(!(pc->m->ram.page_flags[page] & FT_PAGE_WRITTEN));
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size};
	uint8_t how = input8(&in);
	size_t length = how & 1 ? in.left : SETUP + input16(&in) % 0x4000,
	       initrd = how & 2 ? input16(&in) : 0;
	uint8_t *image = malloc(length ? length : 1), *ramdisk = malloc(initrd ? initrd : 1);
	char cmdline[300] = "console=ttyS0";
	if (how & 4)
		memset(cmdline, 'x', input8(&in));
	if (how & 1) {
		input_copy(&in, image, length);
	} else {
		make_image(image, length);
		/* Changes of header fields: place, size, value. */
		while (in.left) {
			uint8_t place = input8(&in), n = (uint8_t)(1u << (input8(&in) & 3));
			uint64_t value = input64(&in);
			memcpy(image + 0x1f1 + place % 0x90, &value, n);
		}
		if (how & 8)
			length = input16(&in) % (length + 1);
	}
	memset(ramdisk, 0x5a, initrd);
	struct ft_machine_config config = {.kernel = image,
					   .kernel_length = length,
					   .initrd = ramdisk,
					   .initrd_length = initrd,
					   .cmdline = cmdline};
	struct pc pc;
	struct ft_error err = {0};
	pc_open(&pc, -1);
	ft_memory_mark(&pc.m->ram);
	int error = ft_machine_boot(pc.m, &config, &err);
	if (error) {
		MUST(error < 0 && err.text[0]);
		check_untouched(&pc);
	} else {
		check_placed(&pc, &config);
	}
	pc_close(&pc);
	free(image);
	free(ramdisk);
	return 0;
}
