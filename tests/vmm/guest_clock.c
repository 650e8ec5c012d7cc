/* The live clock, as a guest sees it: a stock guest's `date` stays within 50 ms of the host's while it is idle and while
 * it is busy, and its kernel has nothing to complain about (soft lockup, RCU stall, unstable clocksource, ...).
 *
 *   guest_clock [SECONDS]     of each phase; 20 by default, or FORETASTE_CLOCK_SECONDS; 600 is the figure in the README
 *
 * The guest writes its clock to the console once a second. The host's clock is read when the line begins, so a host that
 * is slow to run us makes the guest look late, never early: of each five lines the nearest one counts. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "images.h"
#include "vmm/machine.h"

#define LIMIT_S            0.050
#define GROUP              5u
#define SLICE_INSTRUCTIONS 500000u
#define BOOT_S             300.0 /* to the first line, on a machine that is busy with other things */

struct phase {
	struct ft_machine *m;
	char line[512];
	size_t length;
	double line_began;
	bool up;
	unsigned lines, complaints;
	double nearest, worst; /* of the group; over groups */
};

static double host_clock(clockid_t id)
{
	struct timespec at;
	clock_gettime(id, &at);
	return (double)at.tv_sec + (double)at.tv_nsec / 1e9;
}

static uint64_t monotonic_ns(void)
{
	struct timespec at;
	clock_gettime(CLOCK_MONOTONIC, &at);
	return (uint64_t)at.tv_sec * 1000000000u + (uint64_t)at.tv_nsec;
}

static bool complains(const char *line)
{
	static const char *const complaints[] = {"soft lockup",
						 "stall",
						 "stalls",
						 "Marking TSC unstable",
						 "marked unstable",
						 "timekeeping",
						 "interrupt took",
						 "too much work for",
						 "nobody cared",
						 "NOHZ tick-stop",
						 "hard LOCKUP",
						 "hung_task",
						 "blocked for more",
						 "Kernel panic",
						 "BUG:",
						 "Unstable clock",
						 "not consistent",
						 "calibration failed"};
	for (unsigned i = 0; i < sizeof(complaints) / sizeof(complaints[0]); i++)
		if (strstr(line, complaints[i]))
			return true;
	return false;
}

static void read_clock(struct phase *p, double guest)
{
	double offset = guest - p->line_began;
	if (p->lines % GROUP == 0 || fabs(offset) < fabs(p->nearest))
		p->nearest = offset;
	p->lines++;
	if (p->lines % GROUP == 0 && fabs(p->nearest) > fabs(p->worst))
		p->worst = p->nearest;
}

static void take_line(struct phase *p)
{
	double guest;
	const char *at = strstr(p->line, "foretaste-guest: clock ");
	if (strstr(p->line, "foretaste-guest: services up"))
		p->up = true;
	else if (at && p->up && sscanf(at, "foretaste-guest: clock %lf", &guest) == 1)
		read_clock(p, guest);
	if (complains(p->line)) {
		p->complaints++;
		printf("    guest: %s\n", p->line);
	}
}

static void console(void *context, const char *bytes, size_t length)
{
	struct phase *p = context;
	for (size_t i = 0; i < length; i++) {
		if (!p->length)
			p->line_began = host_clock(CLOCK_REALTIME);
		if (bytes[i] == '\n' || p->length == sizeof(p->line) - 1) {
			p->line[p->length] = 0;
			take_line(p);
			p->length = 0;
		} else if (bytes[i] != '\r') {
			p->line[p->length++] = bytes[i];
		}
	}
}

static void entropy(void *context, size_t wanted)
{
	struct phase *p = context;
	uint8_t bytes[256];
	ssize_t n = getrandom(bytes, wanted < sizeof(bytes) ? wanted : sizeof(bytes), 0);
	if (n > 0)
		ft_machine_input(p->m, FT_INPUT_ENTROPY, 0, bytes, (size_t)n);
}

static const void *map_file(const char *directory, const char *name, size_t *length)
{
	char path[700];
	snprintf(path, sizeof(path), "%s/%s", directory, name);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	if (fd < 0 || fstat(fd, &st))
		return NULL;
	*length = (size_t)st.st_size;
	const void *at = mmap(NULL, *length, PROT_READ, MAP_PRIVATE, fd, 0);
	close(fd);
	return at == MAP_FAILED ? NULL : at;
}

/* Runs until the phase has its lines, or something ends it. */
static int run(struct phase *p, unsigned seconds)
{
	struct ft_machine *m = p->m;
	double began = host_clock(CLOCK_MONOTONIC);
	for (;;) {
		uint64_t wake = UINT64_MAX;
		ft_machine_sync(m, monotonic_ns());
		struct ft_run_limits limits = {.icount = m->icount + SLICE_INSTRUCTIONS,
					       .vtime_ns = UINT64_MAX};
		enum ft_stop stop = ft_machine_run(m, &limits, &wake);
		if (stop == FT_STOP_IDLE) {
			uint64_t at = ft_machine_wall(m, wake), now = monotonic_ns();
			struct timespec pause = {
			    .tv_nsec = at > now ? (long)(at - now < 50000000u ? at - now : 50000000u) : 0};
			nanosleep(&pause, NULL);
		} else if (stop == FT_STOP_RESET || stop == FT_STOP_ERROR) {
			printf("    the guest ended: %s\n", stop == FT_STOP_ERROR ? m->error.text : "reset");
			return -EIO;
		}
		if (p->lines >= seconds)
			return 0;
		if (host_clock(CLOCK_MONOTONIC) - began > BOOT_S + 5.0 * seconds) {
			printf("    only %u lines from the guest\n", p->lines);
			return -ETIME;
		}
	}
}

static int run_phase(const char *directory, const char *name, const char *extra, unsigned seconds)
{
	struct phase phase = {0};
	struct ft_error err = {0};
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	char path[700], cmdline[1200];
	snprintf(path, sizeof(path), "%s/root.ext4", directory);
	snprintf(cmdline, sizeof(cmdline), "%s foretaste.clock=1 %s", images_cmdline(directory), extra);
	struct ft_machine_config config = {.memory = 256ull << 20,
					   .clock = FT_CLOCK_LIVE,
					   .epoch_ns =
					       (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec,
					   .epoch_monotonic_ns = monotonic_ns(),
					   .mac = {0x52, 0x54, 0, 0x12, 0x34, 0x56},
					   .disk_fd = open(path, O_RDONLY | O_CLOEXEC),
					   .engine = &ft_engine_soft,
					   .cmdline = cmdline};
	config.kernel = map_file(directory, "vmlinuz", &config.kernel_length);
	config.initrd = map_file(directory, "initrd.img", &config.initrd_length);
	phase.m = config.kernel && config.initrd ? ft_machine_create(&config, &err) : NULL;
	if (!phase.m || ft_machine_boot(phase.m, &config, &err)) {
		printf("not ok - %s: %s\n", name, err.text[0] ? err.text : "the images cannot be read");
		return 1;
	}
	phase.m->backend = (struct ft_backend){.context = &phase, .console = console, .entropy = entropy};
	int error = run(&phase, seconds);
	bool good = !error && !phase.complaints && fabs(phase.worst) <= LIMIT_S;
	printf("%s - %s: %u s, guest's clock at most %+.1f ms off, %u complaints\n", good ? "ok" : "not ok",
	       name, seconds, phase.worst * 1e3, phase.complaints);
	fflush(stdout);
	ft_machine_destroy(phase.m);
	munmap((void *)config.kernel, config.kernel_length);
	munmap((void *)config.initrd, config.initrd_length);
	close(config.disk_fd);
	return !good;
}

int main(int argc, char **argv)
{
	char directory[512];
	struct ft_error err = {0};
	const char *given = argc > 1 ? argv[1] : getenv("FORETASTE_CLOCK_SECONDS");
	long seconds = given ? strtol(given, NULL, 10) : 20;
	if (seconds < (long)GROUP || seconds > 86400) {
		fprintf(stderr, "guest_clock: seconds from %u to 86400, not \"%s\"\n", GROUP, given);
		return 64;
	}
	if (images_prepare("web", directory, sizeof(directory), &err)) {
		printf("1..0 # SKIP no guest images: %s\n", err.text);
		return 0;
	}
	printf("1..2\n");
	int bad = run_phase(directory, "busy guest", "foretaste.hog=1", (unsigned)seconds);
	bad += run_phase(directory, "idle guest", "", (unsigned)seconds);
	return bad ? 1 : 0;
}
