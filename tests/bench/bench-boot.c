/* bench-boot [--runs N]: from the engine's start to the guest's first userspace line on our machine (live clock, then
 * free clock) against Debian's QEMU TCG with the same kernel, initramfs, command line, memory, disk and CPU features.
 * QEMU's clock starts when its guest reaches the kernel's entry point: a breakpoint there through QEMU's debugger
 * socket, so that its firmware costs it nothing. The runs take turns; the medians' ratio is soft / qemu. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "images.h"
#include "samples.h"
#include "vmm/machine.h"

#define FIRST_LINE "foretaste-guest: userland up"
#define RUNS_MAX   20
#define PATIENCE_S 120

/* The CPU model of src/vmm/engine/model.c in QEMU's words. */
#define QEMU_CPU "qemu64,-svm,+ssse3,+sse4.1,+sse4.2,+popcnt,+cx16,+pdpe1gb,+erms,+rdtscp,-xsave,-rdrand"

struct setup {
	char kernel[600], initrd[600], disk[600];
	const char *cmdline;
};

static double now(void)
{
	return (double)samples_now_ns() / 1e9;
}

/* Finds FIRST_LINE in a stream that arrives in pieces. */
struct watch {
	char tail[256];
	size_t length;
	bool seen;
};

static void watch_feed(struct watch *w, const char *bytes, size_t n)
{
	for (size_t i = 0; i < n && !w->seen; i++) {
		if (w->length == sizeof(w->tail) - 1 || bytes[i] == '\n')
			w->length = 0;
		w->tail[w->length++] = bytes[i];
		w->tail[w->length] = 0;
		w->seen = w->length >= sizeof(FIRST_LINE) - 1 && strstr(w->tail, FIRST_LINE);
	}
}

static void console(void *context, const char *bytes, size_t length)
{
	watch_feed(context, bytes, length);
}

static void drop_frame(void *context, const void *frame, size_t length)
{
}

static void *map_file(const char *path, size_t *length)
{
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	void *at = fd < 0 || fstat(fd, &st) ? MAP_FAILED : mmap(NULL, *length = (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (fd >= 0)
		close(fd);
	return at == MAP_FAILED ? NULL : at;
}

static struct ft_machine *running; /* for entropy: backends know their context, the machine is the same */

static void entropy(void *context, size_t wanted)
{
	static const uint8_t bytes[64] = {1, 2, 3};
	ft_machine_input(running, FT_INPUT_ENTROPY, 0, bytes, wanted < sizeof(bytes) ? wanted : sizeof(bytes));
}

static void sleep_to(const struct ft_machine *m, uint64_t wake_ns)
{
	uint64_t wall = samples_now_ns(), due = m->clock.wall_base_ns + wake_ns;
	if (due > wall) {
		uint64_t ns = due - wall < 1000000000u ? due - wall : 1000000000u;
		nanosleep(&(struct timespec){.tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u)}, NULL);
	}
}

/* One boot; seconds, or a negative number. In a child, so that nothing is warm from the last one. */
static double boot_here(const struct setup *s, enum ft_clock_mode clock)
{
	struct ft_machine_config config = {.memory = 256ull << 20,
					   .clock = clock,
					   .epoch_ns = (uint64_t)time(NULL) * 1000000000u,
					   .mac = {0x52, 0x54, 0, 0, 2, 15},
					   .engine = &ft_engine_soft,
					   .cmdline = s->cmdline};
	config.kernel = map_file(s->kernel, &config.kernel_length);
	config.initrd = map_file(s->initrd, &config.initrd_length);
	config.disk_fd = open(s->disk, O_RDONLY | O_CLOEXEC);
	struct ft_error err = {0};
	double start = now();
	struct ft_machine *m = ft_machine_create(&config, &err);
	struct watch watch = {0};
	if (!m || ft_machine_boot(m, &config, &err)) {
		fprintf(stderr, "soft: %s\n", err.text);
		return -1;
	}
	running = m;
	m->backend = (struct ft_backend){.context = &watch, .net_tx = drop_frame, .console = console, .entropy = entropy};
	while (!watch.seen && now() - start < PATIENCE_S) {
		uint64_t wake = 0;
		if (clock == FT_CLOCK_LIVE)
			ft_machine_sync(m, samples_now_ns());
		struct ft_run_limits limits = {.icount = m->icount + 500000, .vtime_ns = UINT64_MAX};
		enum ft_stop stop = ft_machine_run(m, &limits, &wake);
		if (stop == FT_STOP_IDLE && clock == FT_CLOCK_LIVE)
			sleep_to(m, wake);
		else if (stop == FT_STOP_RESET || stop == FT_STOP_ERROR || stop == FT_STOP_IDLE) {
			fprintf(stderr, "soft: stopped (%d) at instruction %llu: %s\n", stop, (unsigned long long)m->icount,
				m->error.text);
			return -1;
		}
	}
	return watch.seen ? now() - start : -1;
}

static double boot_soft(const struct setup *s, enum ft_clock_mode clock)
{
	int result[2];
	if (pipe(result))
		return -1;
	pid_t child = fork();
	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		double seconds = boot_here(s, clock);
		ssize_t n = write(result[1], &seconds, sizeof(seconds));
		_exit(n != sizeof(seconds));
	}
	close(result[1]);
	double seconds = -1;
	if (child < 0 || read(result[0], &seconds, sizeof(seconds)) != sizeof(seconds))
		seconds = -1;
	close(result[0]);
	if (child > 0)
		waitpid(child, NULL, 0);
	return seconds;
}

/* ---- QEMU, held at the kernel's entry by its debugger stub ------------------------------------------------------- */

static bool gdb_send(int fd, const char *body)
{
	char packet[128];
	unsigned sum = 0;
	for (const char *p = body; *p; p++)
		sum += (unsigned char)*p;
	int n = snprintf(packet, sizeof(packet), "$%s#%02x", body, sum & 0xff);
	return write(fd, packet, (size_t)n) == n;
}

/* Next packet's first letter after '$' (acknowledged), 0 at the end or after PATIENCE_S. */
static char gdb_receive(int fd)
{
	char c, kind = 0;
	bool inside = false;
	int after = -1;
	for (;;) {
		struct pollfd p = {.fd = fd, .events = POLLIN};
		if (poll(&p, 1, PATIENCE_S * 1000) != 1 || read(fd, &c, 1) != 1)
			return 0;
		if (c == '$') {
			inside = true;
			kind = 0;
		} else if (inside && c == '#') {
			after = 2;
			inside = false;
		} else if (after > 0 && --after == 0) {
			return write(fd, "+", 1) == 1 ? kind : 0;
		} else if (inside && !kind) {
			kind = c;
		}
	}
}

static bool gdb_ask(int fd, const char *body, char expected)
{
	return gdb_send(fd, body) && gdb_receive(fd) == expected;
}

static int connect_to(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	for (int tries = 0; tries < 200; tries++) {
		int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (fd >= 0 && !connect(fd, (struct sockaddr *)&address, sizeof(address)))
			return fd;
		if (fd >= 0)
			close(fd);
		nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
	}
	return -1;
}

static void qemu_arguments(const struct setup *s, const char *socket, char drive[700], char chardev[700],
			   const char *argv[40])
{
	snprintf(drive, 700, "file=%s,if=none,id=root,format=raw,snapshot=on", s->disk);
	snprintf(chardev, 700, "socket,id=gdb,path=%s,server=on,wait=off", socket);
	const char *list[] = {"qemu-system-x86_64", "-accel", "tcg", "-M", "pc", "-nodefaults", "-display", "none",
			      "-cpu", QEMU_CPU, "-m", "256", "-serial", "stdio", "-kernel", s->kernel, "-initrd", s->initrd,
			      "-append", s->cmdline, "-drive", drive, "-device", "virtio-blk-pci,drive=root,disable-legacy=on",
			      "-device", "virtio-rng-pci,disable-legacy=on", "-no-reboot", "-S", "-chardev", chardev, "-gdb",
			      "chardev:gdb", NULL};
	memcpy(argv, list, sizeof(list));
}

static double boot_qemu(const struct setup *s)
{
	char directory[] = "/tmp/bench-boot.XXXXXX", socket_path[64], drive[700], chardev[700];
	if (!mkdtemp(directory))
		return -1;
	snprintf(socket_path, sizeof(socket_path), "%s/gdb", directory);
	const char *argv[40];
	qemu_arguments(s, socket_path, drive, chardev, argv);
	int out[2];
	if (pipe2(out, O_CLOEXEC))
		return -1;
	pid_t child = fork();
	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		int null = open("/dev/null", O_RDONLY);
		dup2(null, 0);
		dup2(out[1], 1);
		execvp(argv[0], (char *const *)argv);
		_exit(127);
	}
	close(out[1]);
	double seconds = -1, start = 0;
	int gdb = child > 0 ? connect_to(socket_path) : -1;
	/* 0x100000: where the boot protocol puts the protected-mode kernel. */
	if (gdb >= 0 && gdb_ask(gdb, "?", 'T') && gdb_ask(gdb, "Z1,100000,1", 'O') && gdb_ask(gdb, "c", 'T') &&
	    gdb_ask(gdb, "z1,100000,1", 'O')) {
		start = now();
		struct watch watch = {0};
		if (gdb_send(gdb, "c"))
			while (!watch.seen && now() - start < PATIENCE_S) {
				char bytes[4096];
				struct pollfd p = {.fd = out[0], .events = POLLIN};
				ssize_t n = poll(&p, 1, 1000) == 1 ? read(out[0], bytes, sizeof(bytes)) : 0;
				if (n < 0 || (n == 0 && p.revents))
					break;
				watch_feed(&watch, bytes, (size_t)n);
			}
		if (watch.seen)
			seconds = now() - start;
	}
	if (gdb >= 0)
		close(gdb);
	close(out[0]);
	if (child > 0) {
		kill(child, SIGKILL);
		waitpid(child, NULL, 0);
	}
	unlink(socket_path);
	rmdir(directory);
	return seconds;
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

int main(int argc, char **argv)
{
	unsigned runs = argc > 2 && !strcmp(argv[1], "--runs") ? (unsigned)atoi(argv[2]) : 5;
	if (runs == 0 || runs > RUNS_MAX)
		runs = 5;
	char directory[512];
	struct ft_error err = {0};
	struct setup s;
	if (images_prepare("web", directory, sizeof(directory), &err)) {
		fprintf(stderr, "%s\n", err.text);
		printf("{\"soft_s\":null,\"soft_free_s\":null,\"qemu_s\":null,\"ratio\":null,\"skipped\":\"no guest image\"}\n");
		return 1;
	}
	snprintf(s.kernel, sizeof(s.kernel), "%s/vmlinuz", directory);
	snprintf(s.initrd, sizeof(s.initrd), "%s/initrd.img", directory);
	snprintf(s.disk, sizeof(s.disk), "%s/root.ext4", directory);
	s.cmdline = images_cmdline(directory);
	printf("soft: kernel %s, initrd %s, disk %s, 256 MiB, command line: %s\n", s.kernel, s.initrd, s.disk, s.cmdline);
	const char *qemu[40];
	char drive[700], chardev[700];
	qemu_arguments(&s, "SOCKET", drive, chardev, qemu);
	printf("qemu:");
	for (unsigned i = 0; qemu[i]; i++)
		printf(strchr(qemu[i], ' ') ? " '%s'" : " %s", qemu[i]);
	printf("\n");
	double soft[RUNS_MAX], free_clock[RUNS_MAX], other[RUNS_MAX];
	unsigned n = 0;
	for (unsigned i = 0; i < runs; i++) {
		double a = boot_soft(&s, FT_CLOCK_LIVE), b = boot_soft(&s, FT_CLOCK_FREE), c = boot_qemu(&s);
		printf("run %u: soft %.3f s, soft free clock %.3f s, qemu %.3f s\n", i + 1, a, b, c);
		fflush(stdout);
		if (a < 0 || b < 0 || c < 0)
			continue;
		soft[n] = a;
		free_clock[n] = b;
		other[n++] = c;
	}
	if (!n) {
		printf("{\"soft_s\":null,\"soft_free_s\":null,\"qemu_s\":null,\"ratio\":null,\"skipped\":\"no run finished\"}\n");
		return 1;
	}
	double a = median(soft, n), b = median(free_clock, n), c = median(other, n);
	printf("{\"soft_s\":%.3f,\"soft_free_s\":%.3f,\"qemu_s\":%.3f,\"ratio\":%.3f}\n", a, b, c, a / c);
	return 0;
}
