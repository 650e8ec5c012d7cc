/* The 64-bit boot protocol of Linux (Documentation/arch/x86/boot.rst). The image is foreign: every field of its header
 * is checked against the file and against RAM before anything is written. */
#include "vmm/boot.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Offsets in the setup header, which starts at 0x1f1 of the file and of struct boot_params alike. */
enum {
	HEADER = 0x1f1,
	SETUP_SECTS = 0x1f1,
	BOOT_FLAG = 0x1fe,
	HEADER_LENGTH = 0x201, /* displacement of the jump before "HdrS": the header ends at 0x202 + this */
	MAGIC = 0x202,
	VERSION = 0x206,
	LOADER = 0x210,
	LOAD_FLAGS = 0x211,
	RAMDISK_AT = 0x218,
	RAMDISK_LENGTH = 0x21c,
	CMDLINE_AT = 0x228,
	INITRD_MAX = 0x22c,
	RELOCATABLE = 0x234,
	XLOAD_FLAGS = 0x236,
	CMDLINE_MAX = 0x238,
	PREFERRED = 0x258,
	INIT_SIZE = 0x260,
	HEADER_END = 0x268,  /* what we need ends here */
	HEADER_LIMIT = 0x290 /* boot_params has no room for more */
};

/* Elsewhere in struct boot_params. */
enum { PARAMS_RSDP = 0x70, PARAMS_E820_COUNT = 0x1e8, PARAMS_E820 = 0x2d0 };

enum { SECTOR = 512, PROTOCOL_64BIT = 0x020c, XLOAD_64BIT = 1, LOADED_HIGH = 1, ENTRY_64BIT = 0x200 };
enum { E820_RAM = 1, E820_RESERVED = 2 };

#define PAGE_PRESENT  1ull
#define PAGE_WRITABLE 2ull
#define PAGE_LARGE    0x80ull

struct image {
	const uint8_t *file;
	uint64_t header_end;   /* offset in the file */
	uint64_t code, length; /* the protected-mode part in the file */
	uint64_t load, span;   /* where it goes and how much memory it needs there */
	uint64_t initrd_at;
};

static uint64_t get(const uint8_t *from, unsigned at, unsigned size)
{
	uint64_t value = 0;
	memcpy(&value, from + at, size);
	return value;
}

static int parse(const struct ft_machine_config *config, uint64_t ram, struct image *image,
		 struct ft_error *err)
{
	const uint8_t *k = config->kernel;
	if (!k || config->kernel_length < HEADER_LIMIT || get(k, BOOT_FLAG, 2) != 0xaa55 ||
	    memcmp(k + MAGIC, "HdrS", 4))
		return ft_error_set(err, -EINVAL, "the kernel is no Linux bzImage");
	if (get(k, VERSION, 2) < PROTOCOL_64BIT || !(get(k, XLOAD_FLAGS, 2) & XLOAD_64BIT) ||
	    !(k[LOAD_FLAGS] & LOADED_HIGH))
		return ft_error_set(err, -EINVAL,
				    "the kernel has no 64-bit entry (boot protocol 2.12 or later)");
	uint64_t header_end = MAGIC + k[HEADER_LENGTH], sectors = k[SETUP_SECTS] ? k[SETUP_SECTS] : 4;
	if (header_end < HEADER_END)
		return ft_error_set(err, -EINVAL, "the kernel's setup header is too short");
	image->file = k;
	image->header_end = header_end < HEADER_LIMIT ? header_end : HEADER_LIMIT;
	image->code = (sectors + 1) * SECTOR;
	if (image->code + ENTRY_64BIT >= config->kernel_length)
		return ft_error_set(err, -EINVAL, "the kernel image is cut short");
	image->length = config->kernel_length - image->code;
	image->load = get(k, RELOCATABLE, 1) ? get(k, PREFERRED, 8) : FT_BOOT_HIGH;
	uint64_t init = get(k, INIT_SIZE, 4);
	image->span = init > image->length ? init : image->length;
	if (image->load < FT_BOOT_HIGH || image->load > ram || image->span > ram - image->load)
		return ft_error_set(
		    err, -EINVAL,
		    "the kernel needs %llu MiB from address 0x%llx: more than the guest's %llu MiB",
		    (unsigned long long)(image->span >> 20), (unsigned long long)image->load,
		    (unsigned long long)(ram >> 20));
	return 0;
}

/* As high as the kernel allows, out of the way of its decompression. */
static int place_initrd(const struct ft_machine_config *config, uint64_t ram, struct image *image,
			struct ft_error *err)
{
	uint64_t top = get(image->file, INITRD_MAX, 4) + 1;
	if (top > ram)
		top = ram;
	uint64_t floor = image->load + image->span, need = (config->initrd_length + 4095) & ~4095ull;
	if (config->initrd_length > ram || top < floor || need > top - floor)
		return ft_error_set(err, -EINVAL,
				    "the initramfs (%zu bytes) does not fit behind the kernel in %llu MiB",
				    config->initrd_length, (unsigned long long)(ram >> 20));
	image->initrd_at = (top - need) & ~4095ull;
	return 0;
}

static void add_e820(uint8_t *params, uint64_t at, uint64_t end, uint32_t type)
{
	uint8_t *entry = params + PARAMS_E820 + 20 * params[PARAMS_E820_COUNT]++;
	uint64_t length = end - at;
	memcpy(entry, &at, 8);
	memcpy(entry + 8, &length, 8);
	memcpy(entry + 16, &type, 4);
}

static int write_params(struct ft_machine *m, const struct ft_machine_config *config,
			const struct image *image)
{
	uint8_t params[FT_PAGE_SIZE] = {0};
	memcpy(params + HEADER, image->file + HEADER, image->header_end - HEADER);
	params[LOADER] = 0xff; /* no registered loader */
	uint32_t cmdline = FT_BOOT_CMDLINE, at = (uint32_t)image->initrd_at,
		 length = (uint32_t)config->initrd_length;
	uint64_t rsdp = FT_BOOT_ACPI;
	memcpy(params + CMDLINE_AT, &cmdline, 4);
	memcpy(params + RAMDISK_AT, &at, 4);
	memcpy(params + RAMDISK_LENGTH, &length, 4);
	memcpy(params + PARAMS_RSDP, &rsdp, 8);
	add_e820(params, 0, FT_BOOT_LOW_END, E820_RAM);
	add_e820(params, FT_BOOT_LOW_END, 0xa0000, E820_RESERVED);
	add_e820(params, FT_BOOT_ACPI, FT_BOOT_HIGH, E820_RESERVED);
	add_e820(params, FT_BOOT_HIGH, m->ram.size, E820_RAM);
	return ft_memory_write(&m->ram, ft_gpa_make(FT_BOOT_PARAMS), params, sizeof(params)) ? 0 : -EFAULT;
}

/* The first 4 GiB, one to one, in 2 MiB pages. */
static int write_page_tables(struct ft_machine *m)
{
	uint64_t tables[6 * 512] = {0};
	tables[0] = (FT_BOOT_PAGES + FT_PAGE_SIZE) | PAGE_PRESENT | PAGE_WRITABLE;
	for (uint64_t i = 0; i < 4; i++)
		tables[512 + i] = (FT_BOOT_PAGES + (2 + i) * FT_PAGE_SIZE) | PAGE_PRESENT | PAGE_WRITABLE;
	for (uint64_t i = 0; i < 4 * 512; i++)
		tables[1024 + i] = i << 21 | PAGE_PRESENT | PAGE_WRITABLE | PAGE_LARGE;
	return ft_memory_write(&m->ram, ft_gpa_make(FT_BOOT_PAGES), tables, sizeof(tables)) ? 0 : -EFAULT;
}

static int set_cpu(struct ft_machine *m, uint64_t entry, struct ft_error *err)
{
	/* Selectors as the protocol asks: 0x10 code, 0x18 data. */
	static const uint64_t gdt[] = {0, 0, 0x00af9b000000ffffull, 0x00cf93000000ffffull};
	if (!ft_memory_write(&m->ram, ft_gpa_make(FT_BOOT_GDT), gdt, sizeof(gdt)))
		return ft_error_set(err, -EFAULT, "no room for the descriptor table");
	if (!m->engine)
		return 0;
	struct ft_cpu_state cpu = {.rip = entry, .rflags = 2};
	struct ft_segment data = {.limit = 0xffffffff, .selector = 0x18, .attributes = 0xc093};
	for (unsigned i = 0; i < FT_SEGMENTS; i++)
		cpu.segment[i] = data;
	cpu.segment[FT_CS] = (struct ft_segment){.limit = 0xffffffff, .selector = 0x10, .attributes = 0xa09b};
	cpu.tr = (struct ft_segment){.limit = 0xffff, .attributes = 0x008b};
	cpu.ldt = (struct ft_segment){.limit = 0xffff, .attributes = 0x0082};
	cpu.gdt = (struct ft_table){.base = FT_BOOT_GDT, .limit = sizeof(gdt) - 1};
	cpu.gpr[FT_RSI] = FT_BOOT_PARAMS;
	cpu.cr0 = 0x80010033; /* PG WP NE ET MP PE */
	cpu.cr3 = FT_BOOT_PAGES;
	cpu.cr4 = 0x20;   /* PAE */
	cpu.efer = 0x500; /* LMA LME */
	cpu.dr[6] = 0xffff0ff0;
	cpu.dr[7] = 0x400;
	cpu.pat = 0x0007040600070406ull;
	cpu.misc_enable = FT_MISC_ENABLE_RESET;
	cpu.icount = m->icount;
	cpu.fxsave[0] = 0x7f; /* FCW 0x037f */
	cpu.fxsave[1] = 0x03;
	cpu.fxsave[24] = 0x80; /* MXCSR 0x1f80 */
	cpu.fxsave[25] = 0x1f;
	return m->engine_ops->set(m->engine, &cpu, err);
}

/* Linux has no way to find out the frequency of an AMD's TSC but to measure it, which takes more precise timers than those of a machine whose
 * ports are emulated by another process may be, and where that fails it does without the TSC. What is behind "--" is init's. */
static int tell_frequency(const struct ft_machine *m, const char *cmdline, char **told, struct ft_error *err)
{
	const char *end = cmdline;
	while ((end = strstr(end, " --")) && end[3] && end[3] != ' ')
		end++;
	size_t own = end ? (size_t)(end - cmdline) : strlen(cmdline);
	bool needs = ft_model_amd(&m->model) && !strstr(cmdline, "tsc_early_khz=") && own < 0x10000;
	int n = needs ? asprintf(told, "%.*s tsc_early_khz=%llu%s", (int)own, cmdline, (unsigned long long)m->clock.tsc_khz, cmdline + own)
		      : asprintf(told, "%s", cmdline);
	return n < 0 ? ft_error_set(err, -ENOMEM, "no memory for the kernel command line") : 0;
}

static int load(struct ft_machine *m, const struct ft_machine_config *config, const char *cmdline, struct ft_error *err)
{
	struct image image = {0};
	int error = parse(config, m->ram.size, &image, err);
	if (!error && config->initrd_length)
		error = place_initrd(config, m->ram.size, &image, err);
	if (error)
		return error;
	size_t length = strlen(cmdline);
	if (length > get(image.file, CMDLINE_MAX, 4) || length >= 0x10000)
		return ft_error_set(err, -EINVAL,
				    "the kernel command line has %zu characters; the kernel takes %llu",
				    length, (unsigned long long)get(image.file, CMDLINE_MAX, 4));
	if (!ft_memory_write(&m->ram, ft_gpa_make(image.load), image.file + image.code, image.length) ||
	    (config->initrd_length && !ft_memory_write(&m->ram, ft_gpa_make(image.initrd_at), config->initrd,
						       config->initrd_length)) ||
	    !ft_memory_write(&m->ram, ft_gpa_make(FT_BOOT_CMDLINE), cmdline, length + 1) ||
	    write_params(m, config, &image) || write_page_tables(m))
		return ft_error_set(err, -EFAULT, "the boot image does not fit into guest memory");
	error = ft_acpi_write(m, err);
	return error ? error : set_cpu(m, image.load + ENTRY_64BIT, err);
}

int ft_machine_boot(struct ft_machine *m, const struct ft_machine_config *config, struct ft_error *err)
{
	char *cmdline = NULL;
	int error = tell_frequency(m, config->cmdline ? config->cmdline : "", &cmdline, err);
	if (!error)
		error = load(m, config, cmdline, err);
	free(cmdline);
	return error;
}
