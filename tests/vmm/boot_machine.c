/* Boots a kernel and shows its console: for people at work on the machine. Not a test.
 *
 *   boot_machine --kernel K [--initrd I] [--disk D] [--cmdline S] [--memory MiB] [--clock live|free]
 *                [--until INSTRUCTIONS] [--vtime SECONDS] [--stop-at TEXT] [--verify] [--kvm]
 *
 * The console is on standard output, standard input is typed into it. At the end: why it stopped, instructions, virtual
 * time, millions of instructions a second, state hash. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "vmm/machine.h"

#define SLICE_INSTRUCTIONS 1000000u /* between two looks at the clock and the keyboard */

struct runner {
	struct ft_machine *m;
	const char *stop_at;
	size_t matched;
	bool done;
};

static uint64_t now_ns(void)
{
	struct timespec at;
	clock_gettime(CLOCK_MONOTONIC, &at);
	return (uint64_t)at.tv_sec * 1000000000u + (uint64_t)at.tv_nsec;
}

static void console(void *context, const char *bytes, size_t length)
{
	struct runner *r = context;
	fwrite(bytes, 1, length, stdout);
	for (size_t i = 0; i < length; i++) {
		if (bytes[i] == '\n')
			fflush(stdout);
		if (!r->stop_at)
			continue;
		r->matched = bytes[i] == r->stop_at[r->matched] ? r->matched + 1 : bytes[i] == r->stop_at[0];
		if (!r->stop_at[r->matched]) {
			r->stop_at = NULL;
			r->done = true;
			ft_machine_kick(r->m);
		}
	}
}

static void entropy(void *context, size_t wanted)
{
	struct runner *r = context;
	uint8_t bytes[256] = {0};
	if (wanted > sizeof(bytes))
		wanted = sizeof(bytes);
	/* With the free clock runs are to be equal: a fixed seed. */
	if (r->m->clock.mode == FT_CLOCK_LIVE && getrandom(bytes, wanted, 0) < 0)
		return;
	ft_machine_input(r->m, FT_INPUT_ENTROPY, 0, bytes, wanted);
}

static const void *map_file(const char *path, size_t *length)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	if (fd < 0 || fstat(fd, &st) || !st.st_size) {
		fprintf(stderr, "boot_machine: %s: %s\n", path, strerror(errno));
		exit(66);
	}
	*length = (size_t)st.st_size;
	const void *at = mmap(NULL, *length, PROT_READ, MAP_PRIVATE, fd, 0);
	close(fd);
	return at == MAP_FAILED ? NULL : at;
}

static void take_keys(struct runner *r, int timeout_ms)
{
	static bool closed;
	struct pollfd fd = {.fd = closed ? -1 : 0, .events = POLLIN};
	if (poll(&fd, 1, timeout_ms) <= 0)
		return;
	uint8_t bytes[64];
	ssize_t n = read(0, bytes, sizeof(bytes));
	if (n > 0)
		ft_machine_input(r->m, FT_INPUT_CONSOLE, 0, bytes, (size_t)n);
	else
		closed = true;
}

static enum ft_stop run_live(struct runner *r, uint64_t until, uint64_t vtime_ns)
{
	struct ft_machine *m = r->m;
	for (;;) {
		uint64_t wake = UINT64_MAX, now = now_ns();
		ft_machine_sync(m, now);
		uint64_t slice = m->icount + SLICE_INSTRUCTIONS;
		struct ft_run_limits limits = {.icount = slice < until ? slice : until, .vtime_ns = vtime_ns};
		enum ft_stop stop = ft_machine_run(m, &limits, &wake);
		int64_t wait_ns = 0;
		if (stop == FT_STOP_IDLE) {
			uint64_t at = ft_machine_wall(m, wake);
			now = now_ns();
			wait_ns = at > now ? (int64_t)(at - now < 1000000000u ? at - now : 1000000000u) : 0;
		} else if (stop != FT_STOP_COUNT) {
			return stop;
		}
		if (r->done || m->icount >= until || ft_machine_vtime(m) >= vtime_ns)
			return stop;
		take_keys(r, (int)((wait_ns + 999999) / 1000000));
	}
}

static const char *stop_name(enum ft_stop stop, const struct ft_machine *m)
{
	static const char *const names[] = {"count", "vtime", "idle", "kicked", "reset", "error"};
	static const char *const resets[] = {"none", "reboot", "power off", "triple fault"};
	return stop == FT_STOP_RESET ? resets[m->reset] : names[stop];
}

int main(int argc, char **argv)
{
	struct runner r = {0};
	struct ft_error err = {0};
	struct timespec wall;
	struct ft_machine_config config = {.memory = 256ull << 20,
					   .clock = FT_CLOCK_FREE,
					   .mac = {0x52, 0x54, 0, 0x12, 0x34, 0x56},
					   .disk_fd = -1,
					   .engine = &ft_engine_soft,
					   .cmdline = "console=ttyS0"};
	uint64_t until = UINT64_MAX, vtime_ns = UINT64_MAX;
	static const struct option options[] = {
	    {"kernel", 1, 0, 'k'}, {"initrd", 1, 0, 'i'}, {"disk", 1, 0, 'd'},    {"cmdline", 1, 0, 'c'},
	    {"memory", 1, 0, 'm'}, {"clock", 1, 0, 'l'},  {"until", 1, 0, 'u'},   {"vtime", 1, 0, 't'},
	    {"verify", 0, 0, 'v'}, {"kvm", 0, 0, 'e'},    {"stop-at", 1, 0, 's'}, {"vcpus", 1, 0, 'p'},  {0}};
	for (int o; (o = getopt_long(argc, argv, "", options, NULL)) != -1;) {
		switch (o) {
		case 'k':
			config.kernel = map_file(optarg, &config.kernel_length);
			break;
		case 'i':
			config.initrd = map_file(optarg, &config.initrd_length);
			break;
		case 'd':
			config.disk_fd = open(optarg, O_RDONLY | O_CLOEXEC);
			break;
		case 'c':
			config.cmdline = optarg;
			break;
		case 'm':
			config.memory = strtoull(optarg, NULL, 0) << 20;
			break;
		case 'l':
			config.clock = strcmp(optarg, "live") ? FT_CLOCK_FREE : FT_CLOCK_LIVE;
			break;
		case 'u':
			until = strtoull(optarg, NULL, 0);
			break;
		case 't':
			vtime_ns = strtoull(optarg, NULL, 0) * 1000000000u;
			break;
		case 'p':
			config.vcpus = (unsigned)strtoul(optarg, NULL, 0);
			break;
		case 's':
			r.stop_at = optarg;
			break;
		case 'v':
			config.engine_options.verify = true;
			break;
		case 'e':
			config.engine = &ft_engine_kvm;
			config.engine_options.host_tsc = true;
			config.clock = FT_CLOCK_LIVE;
			break;
		default:
			return 64;
		}
	}
	config.epoch_ns = 1767225600ull * 1000000000u;
	if (config.clock == FT_CLOCK_LIVE) {
		clock_gettime(CLOCK_REALTIME, &wall);
		config.epoch_ns = (uint64_t)wall.tv_sec * 1000000000u + (uint64_t)wall.tv_nsec;
		config.epoch_monotonic_ns = now_ns();
	}
	r.m = ft_machine_create(&config, &err);
	if (!r.m || ft_machine_boot(r.m, &config, &err)) {
		fprintf(stderr, "boot_machine: %s\n", err.text);
		return 70;
	}
	r.m->backend.context = &r;
	r.m->backend.console = console;
	r.m->backend.entropy = entropy;
	uint64_t start = now_ns();
	enum ft_stop stop;
	if (config.clock == FT_CLOCK_LIVE) {
		stop = run_live(&r, until, vtime_ns);
	} else {
		struct ft_run_limits limits = {.icount = until, .vtime_ns = vtime_ns};
		stop = ft_machine_run(r.m, &limits, NULL);
	}
	double seconds = (double)(now_ns() - start) / 1e9;
	fflush(stdout);
	fprintf(stderr,
		"\nboot_machine: %s after %llu instructions, %.3f s virtual, %.3f s wall, %.0f MIPS%s%s\n",
		stop_name(stop, r.m), (unsigned long long)r.m->icount, (double)ft_machine_vtime(r.m) / 1e9,
		seconds, (double)r.m->icount / seconds / 1e6, r.m->error.code ? ": " : "", r.m->error.text);
	fprintf(stderr, "boot_machine: hash %016llx\n", (unsigned long long)ft_machine_hash(r.m));
	ft_machine_destroy(r.m);
	return stop == FT_STOP_ERROR;
}
