/* bench-snapshot [--restores N]: what saving and restoring cost a guest of 256 MiB, 224 MiB of which are not zero and do not
 * compress. Saved as the product does it, by a fork in the background (guest/saver.h); the floor of its pause is a bare fork of the
 * same process, with the same memory, beside each save. Restored until the first guest instruction has run, RAM following when it
 * is touched; beside each, what a restore that reads all of RAM first would cost at the least: the same bytes from a plain file, in
 * the page cache, into fresh memory (plain_copy_ms). process_ms: the same snapshot by the product's own process, from its start to
 * its `ready`, which is when the guest can go on.
 *
 * The guest is a loop in kernel mode that walks over its RAM: what a snapshot costs depends on memory alone. */
#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../guest/stand.h"
#include "guest/saver.h"
#include "images.h"
#include "samples.h"
#include "vmm/dev/devices.h"

#define RAM    (256ull << 20)
#define RANDOM (224ull << 20)
#define SAVES  7
#define MOST   200

static struct ft_machine *machine(int disk, struct ft_error *err)
{
	struct ft_machine_config config = {
	    .memory = RAM, .clock = FT_CLOCK_FREE, .mac = STAND_MAC, .disk_fd = disk, .engine = &ft_engine_soft};
	return ft_machine_create(&config, err);
}

/* again: mov rax,[rbx]; add rbx,4096; and ebx,0x7ffffff; jmp again: at the end of the random part. */
static struct ft_machine *guest(int disk, struct ft_error *err)
{
	static const uint8_t code[] = {0x48, 0x8b, 0x03, 0x48, 0x81, 0xc3, 0x00, 0x10, 0x00, 0x00, 0x81, 0xe3, 0xff, 0xff, 0xff, 0x07, 0xeb, 0xee};
	static const uint8_t seed[randombytes_SEEDBYTES] = {1};
	struct ft_machine *m = machine(disk, err);
	if (!m)
		return NULL;
	randombytes_buf_deterministic(m->ram.base, RANDOM, seed);
	uint64_t table = RANDOM, entry = (table + 0x1000) | 7;
	ft_memory_write(&m->ram, ft_gpa_make(table), &entry, 8);
	entry = (table + 0x2000) | 7;
	ft_memory_write(&m->ram, ft_gpa_make(table + 0x1000), &entry, 8);
	for (uint64_t i = 0; i < 512; i++) {
		entry = i << 21 | 0x87;
		ft_memory_write(&m->ram, ft_gpa_make(table + 0x2000 + 8 * i), &entry, 8);
	}
	ft_memory_write(&m->ram, ft_gpa_make(table + 0x3000), code, sizeof(code));
	struct ft_cpu_state s = {.rip = table + 0x3000, .rflags = 2, .cr0 = 0x80050033, .cr3 = table, .cr4 = 0x6a0, .efer = 0xd01,
				 .dr = {[6] = 0xffff0ff0, [7] = 0x400}, .pat = 0x0007040600070406};
	for (unsigned i = 0; i < FT_SEGMENTS; i++)
		s.segment[i] = (struct ft_segment){.limit = 0xffffffff, .selector = 0x18, .attributes = 0xc093};
	s.segment[FT_CS] = (struct ft_segment){.limit = 0xffffffff, .selector = 0x10, .attributes = 0xa09b};
	struct ft_run_limits limits = {.icount = 1000000, .vtime_ns = UINT64_MAX};
	if (m->engine_ops->set(m->engine, &s, err) || ft_machine_run(m, &limits, NULL) != FT_STOP_COUNT) {
		ft_machine_destroy(m);
		return NULL;
	}
	return m;
}

static uint64_t bare_fork(void)
{
	uint64_t began = samples_now_ns();
	pid_t child = fork();
	if (child == 0)
		_exit(0);
	uint64_t took = samples_now_ns() - began;
	waitpid(child, NULL, 0);
	return child < 0 ? 0 : took;
}

static int temporary(void)
{
	char path[] = "/tmp/foretaste-bench-XXXXXX";
	int fd = mkostemp(path, O_CLOEXEC);
	if (fd >= 0)
		unlink(path);
	return fd;
}

/* One save: its fork, and a bare one beside. The file, or -1. */
static int save(struct ft_saver *saver, struct ft_machine *m, struct ft_saver_end *end, uint64_t *floor)
{
	static const struct ft_snapshot_about about = {.guest = "test", .created_ns = 1};
	struct ft_error err = {0};
	int file = temporary();
	if (file < 0 || ft_saver_begin(saver, m, &about, dup(file), m->devices->blk.disk.fd, m->devices->blk.disk.read_fd, 0, NULL, &err))
		return -1;
	while (!ft_saver_work(saver, end))
		nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
	*floor = bare_fork();
	if (!end->error)
		return file;
	fprintf(stderr, "bench-snapshot: %s\n", end->text);
	close(file);
	return -1;
}

/* Until the first instruction has run. 0: it did not. */
static uint64_t restore(int file, int disk)
{
	struct ft_snapshot_load load;
	struct ft_error err = {0};
	uint64_t began = samples_now_ns(), took = 0;
	struct ft_machine *m = machine(disk, &err);
	if (m && !ft_snapshot_restore(&load, m, file, NULL, &err)) {
		struct ft_run_limits limits = {.icount = m->icount + 1, .vtime_ns = UINT64_MAX};
		if (ft_machine_run(m, &limits, NULL) == FT_STOP_COUNT)
			took = samples_now_ns() - began;
		ft_snapshot_loaded(&load);
	}
	if (!took)
		fprintf(stderr, "bench-snapshot: %s\n", m && m->error.code ? m->error.text : err.text);
	if (m)
		ft_machine_destroy(m);
	return took;
}

static uint64_t plain_copy(int file)
{
	struct ft_memory ram;
	struct ft_error err = {0};
	uint64_t began = samples_now_ns();
	if (ft_memory_create(&ram, RAM, &err))
		return 0;
	for (uint64_t at = 0; at < RAM;) {
		ssize_t n = pread(file, ram.base + at, RAM - at, (off_t)at);
		if (n <= 0)
			break;
		at += (uint64_t)n;
	}
	uint64_t took = samples_now_ns() - began;
	ft_memory_destroy(&ram);
	return took;
}

static uint64_t process(const char *directory, int file)
{
	struct stand s;
	uint64_t began = samples_now_ns();
	if (stand_spawn(&s, FORETASTE_VMM, NULL) || stand_restore(&s, directory, RAM >> 20, 1, file, false))
		return 0;
	uint64_t took = samples_now_ns() - began;
	stand_end(&s);
	return took;
}

static double ms(uint64_t *samples, int count, unsigned percent)
{
	return (double)samples_percentile(samples, (size_t)count, percent) / 1e6;
}

int main(int argc, char **argv)
{
	int count = argc == 3 && !strcmp(argv[1], "--restores") ? atoi(argv[2]) : 40, saves = 0, done = 0, started = 0;
	static uint64_t pause[SAVES], floor_ns[SAVES], took[SAVES], restored[MOST], copied[MOST], processes[SAVES];
	char directory[600], path[700];
	struct ft_error err = {0};
	struct ft_saver saver;
	struct ft_saver_end end = {0};
	if (count < 1 || count > MOST || (argc != 1 && argc != 3)) {
		fprintf(stderr, "usage: bench-snapshot [--restores N]   (1 to %d)\n", MOST);
		return 64;
	}
	if (sodium_init() < 0 || images_prepare("web", directory, sizeof(directory), &err)) {
		fprintf(stderr, "bench-snapshot: %s\n", err.text);
		printf("{\"ram_mib\":256,\"skipped\":\"no guest image\"}\n");
		return 1;
	}
	snprintf(path, sizeof(path), "%s/root.ext4", directory);
	int disk = open(path, O_RDONLY | O_CLOEXEC), file = -1, plain = temporary();
	struct ft_machine *m = guest(disk, &err);
	if (!m || ft_saver_open(&saver, NULL, &err)) {
		fprintf(stderr, "bench-snapshot: %s\n", err.text);
		return 1;
	}
	for (; saves < SAVES; saves++) {
		int next = save(&saver, m, &end, &floor_ns[saves]);
		if (next < 0)
			break;
		if (file >= 0)
			close(file);
		file = next;
		pause[saves] = end.pause_ns;
		took[saves] = end.took_ns;
	}
	bool written = plain >= 0 && write(plain, m->ram.base, RAM) == (ssize_t)RAM;
	ft_saver_close(&saver);
	ft_machine_destroy(m);
	for (; saves && written && done < count; done++) {
		restored[done] = restore(file, disk);
		copied[done] = plain_copy(plain);
		if (!restored[done] || !copied[done])
			break;
	}
	for (; done == count && started < SAVES; started++)
		if (!(processes[started] = process(directory, file)))
			break;
	printf("{\"ram_mib\":256,\"random_mib\":%llu,\"save_pause_ms\":%.2f,\"fork_floor_ms\":%.2f,\"save_s\":%.2f,\"bytes\":%llu,"
	       "\"restores\":%d,\"restore_ms\":{\"p50\":%.1f,\"p99\":%.1f},\"plain_copy_ms\":%.1f,\"process_ms\":%.1f}\n",
	       RANDOM >> 20, ms(pause, saves, 50), ms(floor_ns, saves, 50), ms(took, saves, 50) / 1000,
	       (unsigned long long)end.told.bytes, done, ms(restored, done, 50), ms(restored, done, 99), ms(copied, done, 50),
	       ms(processes, started, 50));
	return saves == SAVES && done == count && started == SAVES ? 0 : 1;
}
