/* bench-clone [--clones N] [--engine soft|kvm] [--clone-engine soft|kvm] [--journal off|on]: how long the live guest stops for a clone, and how soon the clone runs. A guest of 256 MiB
 * serves HTTP behind the product's own vmm process; between clones it answers a request, and each clone tries one. The
 * floor is what a bare fork of a process with as much memory costs on this machine: one after each clone, so that both
 * find the caches as cold and the machine as busy (fork_floor_us); and, for comparison, in a tight loop at the end, with all
 * that the kernel needs in the cache (fork_tight_us).
 *
 * --journal on: by turns with a second guest that is recorded, which has each request and a hash of the machine put into its journal while
 * it stands still; how much longer that is, in pairs (journal_us).
 *
 * --engine kvm: the guest runs on the host's processor; where there is no /dev/kvm, all of it in a machine that QEMU emulates
 * (tests/kvm/run), against a bare fork in there. */
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../guest/peer.h"
#include "images.h"
#include "journal/ring.h"
#include "samples.h"

#define RAM_MIB   256u
#define MOST      1000
#define HUGE_PAGE (2ull << 20)

/* Microseconds. */
static double percentile(const uint64_t *samples, int count, unsigned percent)
{
	return (double)samples_percentile(samples, (size_t)count, percent) / 1000;
}

/* Percent of the anonymous memory at `at` that is in huge pages. */
static unsigned huge_percent(const void *at)
{
	char line[256];
	unsigned long from, to, kib = 0;
	bool here = false;
	FILE *maps = fopen("/proc/self/smaps", "re");
	while (maps && fgets(line, sizeof(line), maps)) {
		if (sscanf(line, "%lx-%lx ", &from, &to) == 2)
			here = from <= (unsigned long)at && (unsigned long)at < to;
		else if (here && sscanf(line, "AnonHugePages: %lu", &kib) == 1)
			break;
	}
	if (maps)
		fclose(maps);
	return (unsigned)(kib * 100 / (RAM_MIB << 10));
}

/* 4 KiB pages of private memory that a fork of the vmm has to copy one by one: what the pause depends on most. */
static uint64_t small_pages(pid_t pid)
{
	char path[64], line[256];
	unsigned long kib, anonymous = 0, huge = 0;
	snprintf(path, sizeof(path), "/proc/%d/smaps_rollup", (int)pid);
	FILE *rollup = fopen(path, "re");
	while (rollup && fgets(line, sizeof(line), rollup)) {
		if (sscanf(line, "Anonymous: %lu", &kib) == 1)
			anonymous = kib;
		else if (sscanf(line, "AnonHugePages: %lu", &kib) == 1)
			huge = kib;
	}
	if (rollup)
		fclose(rollup);
	return (anonymous - huge) / 4;
}

/* ---- The floor ---- */

/* A process of its own, so that nothing of this one is counted, with as much memory: it forks when it is asked to. */
struct bare {
	pid_t pid;
	int ask, answer;
	uint32_t huge; /* percent of its memory in huge pages */
};

static uint64_t fork_once(void)
{
	uint64_t began = samples_now_ns();
	pid_t child = fork();
	if (child == 0)
		_exit(0);
	uint64_t took = samples_now_ns() - began;
	waitpid(child, NULL, 0);
	return child < 0 ? 0 : took;
}

static int bare_run(int ask, int answer)
{
	uint8_t *area = mmap(NULL, (RAM_MIB << 20) + HUGE_PAGE, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (area == MAP_FAILED)
		return 1;
	uint8_t *ram = (uint8_t *)(((uintptr_t)area + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1));
	madvise(ram, RAM_MIB << 20, MADV_HUGEPAGE);
	memset(ram, 1, RAM_MIB << 20);
	uint32_t huge = huge_percent(ram);
	if (write(answer, &huge, sizeof(huge)) != sizeof(huge))
		return 1;
	for (char order; read(ask, &order, 1) == 1;) {
		uint64_t took = fork_once();
		if (write(answer, &took, sizeof(took)) != sizeof(took))
			return 1;
	}
	return 0;
}

static bool bare_open(struct bare *bare)
{
	int ask[2], answer[2];
	if (pipe2(ask, O_CLOEXEC) || pipe2(answer, O_CLOEXEC))
		return false;
	bare->pid = fork();
	if (bare->pid == 0) {
		close(ask[1]);
		close(answer[0]);
		_exit(bare_run(ask[0], answer[1]));
	}
	close(ask[0]);
	close(answer[1]);
	bare->ask = ask[1];
	bare->answer = answer[0];
	return bare->pid > 0 && read(bare->answer, &bare->huge, sizeof(bare->huge)) == sizeof(bare->huge);
}

static uint64_t bare_fork(const struct bare *bare)
{
	uint64_t took = 0;
	if (write(bare->ask, "", 1) != 1 || read(bare->answer, &took, sizeof(took)) != sizeof(took))
		return 0;
	return took;
}

static void bare_close(const struct bare *bare)
{
	close(bare->ask);
	close(bare->answer);
	waitpid(bare->pid, NULL, 0);
}

/* ---- The recorded guest ---- */

struct files {
	int fds[3]; /* ring, segment, checkpoint */
	char directory[32];
};

/* Files that have their names only while they are made. */
static bool make_files(struct files *f)
{
	static const char *const names[] = {"ring", "segment", "checkpoint"};
	snprintf(f->directory, sizeof(f->directory), "/var/tmp/bench-clone-XXXXXX");
	bool good = mkdtemp(f->directory) != NULL;
	for (int i = 0; i < 3; i++) {
		char path[64];
		snprintf(path, sizeof(path), "%s/%s", f->directory, names[i]);
		f->fds[i] = good ? open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | (i == 1 ? O_APPEND : 0), 0600) : -1;
		good = good && f->fds[i] >= 0;
		unlink(path);
	}
	rmdir(f->directory);
	return good && !ft_journal_ring_make(f->fds[0], NULL, NULL);
}

static bool begin_recorded(struct stand *s, const char *vmm, const char *directory)
{
	static struct peer idle;
	struct files files;
	if (!make_files(&files) || stand_spawn(s, vmm, NULL))
		return false;
	s->journal_run = 1;
	memcpy(s->journal, files.fds, sizeof(files.fds));
	if (stand_configure(s, directory, images_cmdline(directory), RAM_MIB, 2))
		return false;
	for (int i = 0; i < 3; i++)
		close(files.fds[i]);
	stand_link(s);
	peer_open(&idle, s, 40000);
	return stand_wait_console(s, "foretaste-guest: services up", peer_meanwhile, &idle);
}

/* One clone of a request on a connection of its own. */
static bool measure_clone(struct stand *s, uint16_t port, uint64_t hold, uint64_t *pause, uint64_t *first)
{
	static const char request[] = "GET /cgi-bin/health HTTP/1.1\r\nHost: guest\r\n\r\n";
	struct peer p;
	struct stand_trial trial = {0};
	struct stand_frame frame;
	peer_open(&p, s, port);
	bool good = peer_connect(&p);
	if (good) {
		struct ft_trial_begin begin = stand_budgets(hold);
		/* On kvm a clone's time is the host's, which is short where its processor is emulated. */
		begin.horizon_ns = s->clone_kvm ? 40000000000 : 1000000000;
		if (s->kvm) {
			begin.handling_instructions = begin.horizon_instructions = 1000000000000;
			begin.wall_ns = 600000000000;
		}
		struct ft_trial_flow flow = peer_flow(&p, p.sequence, sizeof(request) - 1, 1);
		peer_segment(&p, request, sizeof(request) - 1, &frame);
		stand_ask(s, &begin, &flow, 1, &frame);
		stand_collect(s, hold, &trial, false, peer_meanwhile, &p);
		good = trial.ready && trial.end && trial.end->event.a[0] == FT_TRIAL_END_HORIZON &&
		       trial.end->event.a[4];
		if (good) {
			*pause = trial.ready->event.a[0];
			*first = trial.end->event.a[5];
		}
		if (!trial.gone)
			stand_finish(s, hold, &trial);
		stand_trial_free(&trial);
	}
	peer_close(&p);
	return good;
}

static int ascending(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
	return x < y ? -1 : x > y;
}

/* The same in a machine that has a /dev/kvm. Returns when that cannot be started. */
static void run_in_outer(char **argv)
{
	char self[512], *command[16] = {FORETASTE_SOURCE "/tests/kvm/run", "--json", "--with", FORETASTE_VMM, self};
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	if (n < 0)
		return;
	self[n] = 0;
	for (int i = 1; argv[i] && i < 10; i++)
		command[4 + i] = argv[i];
	execv(command[0], command);
}

int main(int argc, char **argv)
{
	int count = 100, done = 0;
	bool kvm = false, clone_kvm = false, journal = false, good = true;
	const char *vmm = getenv("FORETASTE_VMM");
	for (int i = 1; i < argc; i += 2) {
		const char *value = i + 1 < argc ? argv[i + 1] : "";
		if (!strcmp(argv[i], "--clones"))
			count = atoi(value);
		else if (!strcmp(argv[i], "--engine") || !strcmp(argv[i], "--clone-engine"))
			*(argv[i][2] == 'e' ? &kvm : &clone_kvm) = !strcmp(value, "kvm");
		else if (!strcmp(argv[i], "--journal"))
			journal = !strcmp(value, "on");
		else
			good = false;
	}
	static struct stand recorded;
	static uint64_t recorded_pause[MOST], recorded_first[MOST];
	static int64_t longer[MOST];
	static uint64_t pause[MOST], first[MOST], floor_ns[MOST], tight_ns[MOST], small[MOST];
	char directory[600];
	struct bare bare;
	struct ft_error err = {0};
	struct stand s;
	struct peer idle;
	if (!good || count < 1 || count > MOST || (clone_kvm && !kvm)) {
		fprintf(stderr, "usage: bench-clone [--clones N] [--engine soft|kvm] [--clone-engine soft|kvm] [--journal off|on]   (1 to %d)\n", MOST);
		return 64;
	}
	if (kvm && access("/dev/kvm", R_OK | W_OK)) {
		run_in_outer(argv);
		fprintf(stderr, "bench-clone: no /dev/kvm, and tests/kvm/run cannot be started\n");
		return 1;
	}
	signal(SIGPIPE, SIG_IGN);
	if (images_prepare("web", directory, sizeof(directory), &err)) {
		fprintf(stderr, "bench-clone: %s\n", err.text);
		printf("{\"ram_mib\":%u,\"skipped\":\"no guest image\"}\n", RAM_MIB);
		return 1;
	}
	bool floor = bare_open(&bare);
	bool up = floor && !stand_spawn(&s, vmm ? vmm : FORETASTE_VMM, NULL);
	s.kvm = kvm;
	s.clone_kvm = clone_kvm;
	up = up && !stand_configure(&s, directory, images_cmdline(directory), RAM_MIB, 2);
	if (up) {
		stand_link(&s);
		peer_open(&idle, &s, 40000);
		up = stand_wait_console(&s, "foretaste-guest: services up", peer_meanwhile, &idle);
	}
	bool two = up && journal;
	up = up && (!journal || begin_recorded(&recorded, vmm ? vmm : FORETASTE_VMM, directory));
	fprintf(stderr, "guest %s; %d clones\n", up ? "up" : "did not come up", count);
	for (int i = 0; up && i < count; i++) {
		small[done] = small_pages(s.pid) * 1000; /* percentile() divides */
		bool served = peer_get(&s, (uint16_t)(41000 + 2 * i), "/");
		if (!served || !measure_clone(&s, (uint16_t)(41001 + 2 * i), (uint64_t)i + 1, &pause[done],
					      &first[done]))
			break;
		if (journal) {
			if (!peer_get(&recorded, (uint16_t)(41000 + 2 * i), "/") ||
			    !measure_clone(&recorded, (uint16_t)(41001 + 2 * i), (uint64_t)i + 1, &recorded_pause[done], &recorded_first[done]))
				break;
			longer[done] = (int64_t)recorded_pause[done] - (int64_t)pause[done];
		}
		floor_ns[done++] = bare_fork(&bare);
		if (i % 10 == 9)
			fprintf(stderr, "clone %d: pause %.0f us, first instruction after %.0f us\n", i + 1,
				(double)pause[i] / 1000, (double)first[i] / 1000);
	}
	if (two)
		stand_end(&recorded);
	if (up)
		stand_end(&s);
	qsort(longer, (size_t)done, sizeof(*longer), ascending);
	for (int i = 0; i < count; i++)
		tight_ns[i] = bare_fork(&bare);
	bare_close(&bare);
	unsigned huge = bare.huge;
	fprintf(stderr, "floor: %u %% of its memory in huge pages%s\n", huge,
		huge >= 95 ? "" : " (too few: not a fair floor)");
	printf("{\"engine\":\"%s\",\"clone_engine\":\"%s\",\"ram_mib\":%u,\"clones\":%d,\"pause_us\":{\"p50\":%.0f,\"p99\":%.0f,\"first\":%.0f,"
	       "\"last\":%.0f},"
	       "\"journal_us\":%.1f,"
	       "\"first_insn_us\":{\"p50\":%.0f,\"p99\":%.0f},\"small_pages\":{\"p50\":%.0f,\"p99\":%.0f},"
	       "\"fork_floor_us\":{\"p50\":%.0f},\"fork_tight_us\":{\"p50\":%.0f},\"floor_huge_"
	       "percent\":%u}\n",
	       kvm ? "kvm" : "soft", clone_kvm ? "kvm" : "soft", RAM_MIB, done, percentile(pause, done, 50), percentile(pause, done, 99),
	       done ? (double)pause[0] / 1000 : 0, done ? (double)pause[done - 1] / 1000 : 0,
	       journal && done ? (double)longer[done / 2] / 1000 : 0, percentile(first, done, 50), percentile(first, done, 99), percentile(small, done, 50),
	       percentile(small, done, 99), percentile(floor_ns, done, 50), percentile(tight_ns, count, 50),
	       huge);
	return done == count && huge >= 95 ? 0 : 1;
}
