/* One guest from power on to power off; what it wrote to its console is the outcome. For tests whose other half runs inside
 * the guest. The clock is free where the engine counts instructions, else the host's. */
#ifndef FT_TESTS_VMM_GUEST_RUN_H
#define FT_TESTS_VMM_GUEST_RUN_H

#include "base/error.h"
#include "vmm/machine.h"

struct guest_setup {
	const char *kernel;
	const void *initrd; /* contents */
	size_t initrd_length;
	const char *disk; /* base image, or NULL */
	const char *cmdline;
	uint64_t memory;
	uint64_t instructions; /* budget; where they are not counted, four of them are a nanosecond */
	const struct ft_engine_ops *engine; /* NULL: as guest_engine says */
	uint64_t tsc_khz;                   /* 0: the default, or the host's */
	const struct ft_model *model;       /* NULL: the same */
	bool skips_idle;                    /* idle time is skipped on every engine; else where instructions are time */
	uint64_t text_at;                   /* not 0: the outcome is the text that lies there in the end, not the console */
	struct ft_engine_options options;
	struct ft_hooks hooks;
};

struct guest_result {
	enum ft_stop stop;
	enum ft_reset reset;
	uint64_t icount, vtime_ns, tsc_khz;
	struct ft_model model;
	char *console; /* NUL-terminated, without carriage returns; the caller frees it */
	size_t length;
};

/* soft, or as FORETASTE_ENGINE says. */
const struct ft_engine_ops *guest_engine(void);

/* 0, or -errno when the guest could not be started. */
int guest_run(const struct guest_setup *setup, struct guest_result *result, struct ft_error *err);

/* Reads a whole file; NULL: cause in err. The caller frees it. */
void *guest_file(const char *path, size_t *length, struct ft_error *err);

/* An initramfs that holds the program at `init` as its init and nothing else. The caller frees it. */
void *guest_initrd(const char *init, size_t *length, struct ft_error *err);

/* The directory of a guest image that deploy/guest/build made, or NULL. */
const char *guest_image(const char *name, char *path, size_t size);

#endif
