#include "guest_run.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define CONSOLE_MAX (4u << 20)
#define SLICE       2000000000ull
#define SLEEP_NS    100000000u
#define TEXT_MOST   (2u << 20)

struct console {
	struct ft_machine *m;
	char *text;
	size_t length;
	uint64_t random;
};

static void keep(void *context, const char *bytes, size_t length)
{
	struct console *console = context;
	for (size_t i = 0; i < length && console->length < CONSOLE_MAX - 1; i++)
		if (bytes[i] != '\r')
			console->text[console->length++] = bytes[i];
}

static void entropy(void *context, size_t wanted)
{
	struct console *console = context;
	uint8_t bytes[256];
	size_t n = wanted < sizeof(bytes) ? wanted : sizeof(bytes);
	for (size_t i = 0; i < n; i++) {
		console->random = console->random * 6364136223846793005u + 1442695040888963407u;
		bytes[i] = (uint8_t)(console->random >> 56);
	}
	ft_machine_input(console->m, FT_INPUT_ENTROPY, 0, bytes, n);
}

static uint64_t now_ns(void)
{
	struct timespec at;
	clock_gettime(CLOCK_MONOTONIC, &at);
	return (uint64_t)at.tv_sec * 1000000000u + (uint64_t)at.tv_nsec;
}

/* An idle guest on the host's time: until its next timer. */
static void sleep_to(const struct ft_machine *m, uint64_t wake_ns)
{
	uint64_t now = now_ns(), due = ft_machine_wall(m, wake_ns), ns = due > now ? due - now : 0;
	if (ns > SLEEP_NS)
		ns = SLEEP_NS;
	nanosleep(&(struct timespec){.tv_nsec = (long)ns}, NULL);
}

static void run(struct ft_machine *m, uint64_t budget, struct guest_result *result)
{
	bool live = m->clock.mode == FT_CLOCK_LIVE;
	/* Slices so that a run that takes minutes shows signs of life. */
	do {
		uint64_t left = budget - m->icount, wake = 0;
		if (live)
			ft_machine_sync(m, now_ns());
		struct ft_run_limits limits = {.icount = m->icount + (left < SLICE ? left : SLICE),
					       .vtime_ns = UINT64_MAX};
		result->stop = ft_machine_run(m, &limits, &wake);
		if (live && result->stop == FT_STOP_IDLE)
			sleep_to(m, wake);
		else
			fprintf(stderr, ".");
	} while ((result->stop == FT_STOP_COUNT || (live && result->stop == FT_STOP_IDLE)) && m->icount < budget);
	fprintf(stderr, "\n");
	result->reset = (enum ft_reset)m->reset;
	result->icount = m->icount;
	result->vtime_ns = ft_machine_vtime(m);
	result->tsc_khz = m->clock.tsc_khz;
	result->model = m->model;
}

const struct ft_engine_ops *guest_engine(void)
{
	const char *engine = getenv("FORETASTE_ENGINE");
	return engine && !strcmp(engine, "kvm") ? &ft_engine_kvm : &ft_engine_soft;
}

int guest_run(const struct guest_setup *setup, struct guest_result *result, struct ft_error *err)
{
	struct ft_machine_config config = {.memory = setup->memory,
					   .clock = FT_CLOCK_FREE,
					   .epoch_ns = 1767225600ull * 1000000000u,
					   .mac = {0x52, 0x54, 0, 0x12, 0x34, 0x56},
					   .disk_fd = -1,
					   .tsc_khz = setup->tsc_khz,
					   .model = setup->model,
					   .engine = setup->engine ? setup->engine : guest_engine(),
					   .engine_options = setup->options,
					   .initrd = setup->initrd,
					   .initrd_length = setup->initrd_length,
					   .cmdline = setup->cmdline};
	if (config.engine->hosted) {
		config.clock = setup->skips_idle ? FT_CLOCK_FREE : FT_CLOCK_LIVE;
		config.epoch_monotonic_ns = now_ns();
		config.engine_options.host_tsc = true;
	}
	struct console console = {.text = calloc(CONSOLE_MAX, 1), .random = 1};
	int error = console.text ? 0 : ft_error_set(err, -ENOMEM, "no memory for the console");
	void *kernel = error ? NULL : guest_file(setup->kernel, &config.kernel_length, err);
	config.kernel = kernel;
	if (!error && !kernel)
		error = -EIO;
	if (!error && setup->disk && (config.disk_fd = open(setup->disk, O_RDONLY | O_CLOEXEC)) < 0)
		error = ft_error_set(err, -errno, "%s: %s", setup->disk, strerror(errno));
	struct ft_machine *m = error ? NULL : ft_machine_create(&config, err);
	if (!error && !m)
		error = -EINVAL;
	if (!error)
		error = ft_machine_boot(m, &config, err);
	if (!error) {
		console.m = m;
		m->backend = (struct ft_backend){.context = &console, .console = keep, .entropy = entropy};
		m->hooks = setup->hooks;
		run(m, setup->instructions, result);
		if (setup->text_at) {
			ft_memory_read(&m->ram, ft_gpa_make(setup->text_at), console.text, TEXT_MOST);
			console.length = strlen(console.text);
		}
		result->console = console.text;
		result->length = console.length;
		if (result->stop == FT_STOP_ERROR)
			*err = m->error;
		console.text = NULL;
	}
	ft_machine_destroy(m);
	if (config.disk_fd >= 0)
		close(config.disk_fd);
	free(kernel);
	free(console.text);
	return error;
}

void *guest_file(const char *path, size_t *length, struct ft_error *err)
{
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	char *bytes = NULL;
	size_t got = 0;
	if (fd >= 0 && !fstat(fd, &st) && (bytes = malloc((size_t)st.st_size + 1))) {
		ssize_t n;
		while (got < (size_t)st.st_size && (n = read(fd, bytes + got, (size_t)st.st_size - got)) > 0)
			got += (size_t)n;
		bytes[got] = 0;
		*length = got;
	} else {
		ft_error_set(err, -errno, "%s: %s", path, strerror(errno));
	}
	if (fd >= 0)
		close(fd);
	return bytes;
}

const char *guest_image(const char *name, char *path, size_t size)
{
	const char *cache = getenv("FORETASTE_CACHE");
	snprintf(path, size, "%s/guest/%s/vmlinuz", cache ? cache : "/var/cache/foretaste", name);
	if (access(path, R_OK))
		return NULL;
	*strrchr(path, '/') = 0;
	return path;
}

/* A cpio archive ("newc") that holds one file. */
static size_t add_entry(char *to, const char *name, unsigned mode, const void *data, size_t size)
{
	size_t at =
	    (size_t)sprintf(to, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x", 0u, mode, 0u,
			    0u, 1u, 0u, (unsigned)size, 0u, 0u, 0u, 0u, (unsigned)strlen(name) + 1, 0u);
	memcpy(to + at, name, strlen(name) + 1);
	at = (at + strlen(name) + 1 + 3) & ~(size_t)3;
	if (size)
		memcpy(to + at, data, size);
	return (at + size + 3) & ~(size_t)3;
}

void *guest_initrd(const char *init, size_t *length, struct ft_error *err)
{
	size_t size = 0;
	void *binary = guest_file(init, &size, err);
	char *archive = binary ? calloc(1, size + 1024) : NULL;
	if (archive) {
		size_t at = add_entry(archive, "init", 0100755, binary, size);
		*length = at + add_entry(archive + at, "TRAILER!!!", 0, NULL, 0);
	}
	free(binary);
	return archive;
}
