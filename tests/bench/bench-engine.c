/* bench-engine [--runs N]: six workloads (workloads.c) in a guest on engine soft and on Debian's QEMU TCG, with the same kernel,
 * initramfs, command line, memory and CPU features. Each is timed by the host's clock between two lines on the console, which
 * comes through a pipe from either; booting is not in it. The guests take turns; both of a pair run on one of the host's
 * processors, the next pair on the next one, for processors of a shared host differ by half among each other. A ratio is the
 * median of the pairs' soft / qemu. The bars: the ratios' geometric mean at most 0.7, none above 1.1. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "guest_run.h"
#include "images.h"
#include "samples.h"

#define RUNS_MAX   20u
#define WORKLOADS  6u
#define MEMORY_MIB 256
#define PATIENCE_S 300
#define CMDLINE    "console=ttyS0 quiet"
/* The CPU model of src/vmm/engine/model.c in QEMU's words. */
#define QEMU_CPU "qemu64,-svm,+ssse3,+sse4.1,+sse4.2,+popcnt,+cx16,+pdpe1gb,+erms,+rdtscp,-xsave,-rdrand"

static const char *const names[WORKLOADS] = {"syscalls", "integer", "memory", "fork_exec", "sha256", "mix"};

struct setup {
	char kernel[600], initrd_path[64];
	void *kernel_bytes, *initrd;
	size_t kernel_length, initrd_length;
};

struct outcome {
	double seconds[WORKLOADS];
	char sum[WORKLOADS][20];
	bool over;
};

/* ---- The guests, their console on descriptor 1 ---- */

static void console(void *context, const char *bytes, size_t length)
{
	while (length) {
		ssize_t n = write(1, bytes, length);
		if (n <= 0)
			_exit(1);
		bytes += n;
		length -= (size_t)n;
	}
}

static struct ft_machine *running; /* backends know their context; the machine is the same */

static void entropy(void *context, size_t wanted)
{
	static const uint8_t bytes[64] = {1, 2, 3};
	ft_machine_input(running, FT_INPUT_ENTROPY, 0, bytes, wanted < sizeof(bytes) ? wanted : sizeof(bytes));
}

static void sleep_to(const struct ft_machine *m, uint64_t wake_ns)
{
	uint64_t wall = samples_now_ns(), due = ft_machine_wall(m, wake_ns), ns = due > wall ? due - wall : 0;
	if (ns > 100000000u)
		ns = 100000000u;
	nanosleep(&(struct timespec){.tv_nsec = (long)ns}, NULL);
}

static int soft(const struct setup *s)
{
	struct ft_machine_config config = {.memory = (uint64_t)MEMORY_MIB << 20,
					   .clock = FT_CLOCK_LIVE,
					   .epoch_ns = (uint64_t)time(NULL) * 1000000000u,
					   .mac = {0x52, 0x54, 0, 0, 2, 15},
					   .disk_fd = -1,
					   .engine = &ft_engine_soft,
					   .kernel = s->kernel_bytes,
					   .kernel_length = s->kernel_length,
					   .initrd = s->initrd,
					   .initrd_length = s->initrd_length,
					   .cmdline = CMDLINE};
	struct ft_error err = {0};
	struct ft_machine *m = running = ft_machine_create(&config, &err);
	if (!m || ft_machine_boot(m, &config, &err)) {
		fprintf(stderr, "soft: %s\n", err.text);
		return 1;
	}
	m->backend = (struct ft_backend){.console = console, .entropy = entropy};
	for (;;) {
		uint64_t wake = 0;
		ft_machine_sync(m, samples_now_ns());
		struct ft_run_limits limits = {.icount = m->icount + 500000, .vtime_ns = UINT64_MAX};
		enum ft_stop stop = ft_machine_run(m, &limits, &wake);
		if (stop == FT_STOP_IDLE)
			sleep_to(m, wake);
		else if (stop == FT_STOP_ERROR || stop == FT_STOP_RESET)
			return stop == FT_STOP_ERROR;
	}
}

static int qemu(const struct setup *s)
{
	char memory[16];
	snprintf(memory, sizeof(memory), "%d", MEMORY_MIB);
	int null = open("/dev/null", O_RDONLY);
	dup2(null, 0);
	execlp("qemu-system-x86_64", "qemu-system-x86_64", "-accel", "tcg", "-M", "pc", "-nodefaults", "-display", "none", "-cpu", QEMU_CPU, "-m",
	       memory, "-serial", "stdio", "-kernel", s->kernel, "-initrd", s->initrd_path, "-append", CMDLINE, "-no-reboot", (char *)NULL);
	return 127;
}

/* ---- Timing ---- */

static void take_line(struct outcome *o, char *line, double at, double *begun)
{
	char what[16] = "", name[32] = "", sum[20] = "";
	/* The kernel may have printed to the same line before. */
	char *mark = strstr(line, "mark ");
	if (!mark || sscanf(mark, "mark %15s %31s %19s", what, name, sum) < 1)
		return;
	if (!strcmp(what, "over"))
		o->over = true;
	for (unsigned i = 0; i < WORKLOADS; i++) {
		if (strcmp(name, names[i]))
			continue;
		if (!strcmp(what, "begin"))
			begun[i] = at;
		else if (!strcmp(what, "end") && begun[i] > 0) {
			o->seconds[i] = at - begun[i];
			memcpy(o->sum[i], sum, sizeof(sum));
		}
	}
}

static void watch(int fd, struct outcome *o)
{
	char line[512], bytes[4096];
	size_t length = 0;
	double begun[WORKLOADS] = {0}, end = (double)samples_now_ns() / 1e9 + PATIENCE_S;
	while (!o->over && (double)samples_now_ns() / 1e9 < end) {
		struct pollfd p = {.fd = fd, .events = POLLIN};
		ssize_t n = poll(&p, 1, 1000) == 1 ? read(fd, bytes, sizeof(bytes)) : 0;
		double at = (double)samples_now_ns() / 1e9;
		if (n < 0 || (n == 0 && p.revents))
			break;
		for (ssize_t i = 0; i < n; i++) {
			if (bytes[i] == '\n' || length == sizeof(line) - 1) {
				line[length] = 0;
				length = 0;
				take_line(o, line, at, begun);
			} else {
				line[length++] = bytes[i];
			}
		}
	}
}

static bool run(const struct setup *s, int (*guest)(const struct setup *), struct outcome *o)
{
	int out[2];
	memset(o, 0, sizeof(*o));
	if (pipe2(out, O_CLOEXEC))
		return false;
	pid_t child = fork();
	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		dup2(out[1], 1);
		_exit(guest(s));
	}
	close(out[1]);
	if (child > 0)
		watch(out[0], o);
	close(out[0]);
	if (child > 0) {
		kill(child, SIGKILL);
		waitpid(child, NULL, 0);
	}
	for (unsigned i = 0; i < WORKLOADS; i++)
		if (o->seconds[i] <= 0)
			return false;
	return o->over;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static double median(double *values, unsigned n)
{
	qsort(values, n, sizeof(*values), by_value);
	return n ? (values[(n - 1) / 2] + values[n / 2]) / 2 : 0;
}

static bool prepare(struct setup *s, struct ft_error *err)
{
	char directory[512];
	if (images_prepare("web", directory, sizeof(directory), err))
		return false;
	snprintf(s->kernel, sizeof(s->kernel), "%s/vmlinuz", directory);
	s->kernel_bytes = guest_file(s->kernel, &s->kernel_length, err);
	s->initrd = s->kernel_bytes ? guest_initrd(WORKLOADS_INIT, &s->initrd_length, err) : NULL;
	if (!s->initrd)
		return false;
	strcpy(s->initrd_path, "/tmp/bench-engine.XXXXXX");
	int fd = mkostemp(s->initrd_path, O_CLOEXEC);
	bool good = fd >= 0 && write(fd, s->initrd, s->initrd_length) == (ssize_t)s->initrd_length;
	if (!good)
		ft_error_set(err, -errno, "%s: %s", s->initrd_path, strerror(errno));
	if (fd >= 0)
		close(fd);
	return good;
}

static int report(double (*a)[RUNS_MAX], double (*b)[RUNS_MAX], unsigned n)
{
	double product = 0;
	printf("{\"workloads\":{");
	for (unsigned i = 0; i < WORKLOADS; i++) {
		double ratio[RUNS_MAX];
		for (unsigned k = 0; k < n; k++)
			ratio[k] = a[i][k] / b[i][k];
		double r = median(ratio, n);
		product += log(r);
		printf("%s\"%s\":{\"soft_s\":%.3f,\"qemu_s\":%.3f,\"ratio\":%.3f}", i ? "," : "", names[i], median(a[i], n), median(b[i], n), r);
	}
	printf("},\"geomean_ratio\":%.3f,\"pairs\":%u}\n", exp(product / WORKLOADS), n);
	return 0;
}

/* What is started from here on runs on the pair's processor. */
static void take_processor(unsigned pair)
{
	static cpu_set_t all;
	cpu_set_t one;
	if (!CPU_COUNT(&all) && sched_getaffinity(0, sizeof(all), &all))
		return;
	int cpu = -1;
	for (unsigned skip = pair % (unsigned)CPU_COUNT(&all) + 1; skip; skip--)
		do
			cpu++;
		while (!CPU_ISSET(cpu, &all));
	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	if (sched_setaffinity(0, sizeof(one), &one))
		perror("bench-engine: a processor for the pair");
}

int main(int argc, char **argv)
{
	unsigned runs = argc > 2 && !strcmp(argv[1], "--runs") ? (unsigned)atoi(argv[2]) : 5, n = 0;
	if (runs == 0 || runs > RUNS_MAX)
		runs = 5;
	static double a[WORKLOADS][RUNS_MAX], b[WORKLOADS][RUNS_MAX];
	struct ft_error err = {0};
	struct setup s = {0};
	const char *skipped = NULL;
	if (!prepare(&s, &err)) {
		fprintf(stderr, "%s\n", err.text);
		skipped = "no guest image";
	}
	for (unsigned k = 0; k < runs && !skipped; k++) {
		struct outcome first, second;
		take_processor(k / 2); /* either order on each */
		bool good = k % 2 ? run(&s, qemu, &second) && run(&s, soft, &first) : run(&s, soft, &first) && run(&s, qemu, &second);
		for (unsigned i = 0; i < WORKLOADS; i++) {
			printf("run %u, %s: soft %.3f s, qemu %.3f s\n", k + 1, names[i], first.seconds[i], second.seconds[i]);
			if (good && strcmp(first.sum[i], second.sum[i])) {
				printf("%s: another result: %s and %s\n", names[i], first.sum[i], second.sum[i]);
				good = false;
			}
			a[i][n] = first.seconds[i];
			b[i][n] = second.seconds[i];
		}
		fflush(stdout);
		n += good;
	}
	if (s.initrd_path[0])
		unlink(s.initrd_path);
	if (n)
		return report(a, b, n);
	printf("{\"workloads\":null,\"geomean_ratio\":null,\"skipped\":\"%s\"}\n", skipped ? skipped : "no pair of runs finished");
	return 1;
}
