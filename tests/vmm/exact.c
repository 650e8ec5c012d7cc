#include "exact.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vmm/dev/devices.h"
#include "vmm/state/image.h"

struct run {
	struct ft_machine *m;
	const struct exact_way *way;
	struct exact_result *result; /* shared memory: forked children fill it in turn */
	uint64_t random, entropy;
	uint64_t next_frame, next_fork, next_move, next_part;
	struct ft_machine_config config;
};

static uint64_t splitmix(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15ull;
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

static void net_tx(void *context, const void *frame, size_t length)
{
	((struct run *)context)->result->frames_out++;
}

static void console(void *context, const char *bytes, size_t length)
{
	((struct run *)context)->result->console_bytes += length;
}

static void entropy(void *context, size_t wanted)
{
	struct run *r = context;
	uint8_t bytes[64];
	size_t n = wanted < sizeof(bytes) ? wanted : sizeof(bytes);
	for (size_t i = 0; i < n; i++)
		bytes[i] = (uint8_t)splitmix(&r->entropy);
	ft_machine_input(r->m, FT_INPUT_ENTROPY, 0, bytes, n);
}

/* The scripted network: every 20 M instructions an ARP request for the guest, which answers once its NIC is up. */
#define FRAME_EVERY 20000000u

static void send_arp(struct run *r)
{
	static const uint8_t arp[60] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x52, 0x54, 0, 0, 2, 2, 0x08, 0x06, 0, 1,
					0x08, 0,    6,    4,    0,    1,    0x52, 0x54, 0, 0, 2, 2, 10,   0,    2, 2,
					0,    0,    0,    0,    0,    0,    10,   0,    2, 15};
	ft_machine_input(r->m, FT_INPUT_FRAME, 0, arp, sizeof(arp));
}

static struct ft_machine *stormed; /* for the signal handler only */

static void storm(int signal)
{
	if (stormed)
		ft_machine_kick(stormed);
}

static void start_storm(struct ft_machine *m)
{
	stormed = m;
	struct sigaction action = {.sa_handler = storm, .sa_flags = SA_ONSTACK | SA_RESTART};
	sigaction(SIGALRM, &action, NULL);
	struct itimerval every = {.it_interval = {.tv_usec = 1000}, .it_value = {.tv_usec = 1000}};
	setitimer(ITIMER_REAL, &every, NULL);
}

/* Goes on in a child; the parent waits and ends with the child's status. Interval timers do not survive a fork. */
static void hand_over(struct run *r)
{
	pid_t child = fork();
	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		r->m->engine_ops->part(r->m->engine);
		if (r->way->storm)
			start_storm(r->m);
		return;
	}
	int status = 0;
	if (child < 0 || waitpid(child, &status, 0) != child)
		while (child > 0 && waitpid(child, &status, 0) < 0 && errno == EINTR)
			;
	_exit(child > 0 && WIFEXITED(status) ? WEXITSTATUS(status) : 71);
}

/* The rest of a machine: what is not in its state. */
static int copy_contents(struct ft_machine *to, const struct ft_machine *from, struct ft_error *err)
{
	ft_memory_read(&from->ram, ft_gpa_make(0), to->ram.base, from->ram.size);
	const struct ft_disk *disk = &from->devices->blk.disk;
	const uint8_t *bytes;
	for (uint64_t block = 0; from->devices->has_disk && (bytes = ft_disk_next(disk, &block)); block++) {
		uint64_t at = block * FT_DISK_BLOCK, left = disk->size - at;
		int error = ft_disk_write(&to->devices->blk.disk, &to->ram, at, bytes,
					  left < FT_DISK_BLOCK ? left : FT_DISK_BLOCK);
		if (error)
			return ft_error_set(err, error, "the disk cannot be copied: %s", strerror(-error));
	}
	return 0;
}

/* Goes on in a new machine that has got the state of the old one, whose own saved state must then be the same bytes. */
static int move(struct run *r, struct ft_error *err)
{
	uint8_t *saved = NULL, *again = NULL;
	size_t length = 0, length_again = 0;
	int error = ft_state_save(r->m, &saved, &length, err);
	struct ft_machine *m = error ? NULL : ft_machine_create(&r->config, err);
	if (!error && !m)
		error = err->code;
	if (!error)
		error = copy_contents(m, r->m, err);
	if (!error)
		error = ft_state_restore(m, saved, length, err);
	if (!error)
		error = ft_state_save(m, &again, &length_again, err);
	if (!error && (length != length_again || memcmp(saved, again, length)))
		error = ft_error_set(err, -EBADMSG, "at instruction %llu: saved, restored and saved again is not the same",
				     (unsigned long long)r->m->icount);
	if (!error && ft_machine_hash(m) != ft_machine_hash(r->m))
		error = ft_error_set(err, -EBADMSG, "at instruction %llu: the restored machine's hash is another",
				     (unsigned long long)r->m->icount);
	free(saved);
	free(again);
	if (error) {
		ft_machine_destroy(m);
		return error;
	}
	m->backend = r->m->backend;
	ft_machine_destroy(r->m);
	r->m = m;
	r->result->moves++;
	return 0;
}

static uint64_t min64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static int run_to(struct run *r, uint64_t point, struct ft_error *err)
{
	while (r->m->icount < point) {
		uint64_t until = min64(point, r->next_frame);
		if (r->way->stop_every)
			until = min64(until, r->m->icount + 1 + splitmix(&r->random) % (2 * r->way->stop_every));
		struct ft_run_limits limits = {.icount = until, .vtime_ns = UINT64_MAX};
		enum ft_stop stop = ft_machine_run(r->m, &limits, NULL);
		if (stop != FT_STOP_COUNT && stop != FT_STOP_KICKED)
			return ft_error_set(err, -EIO, "the machine stopped (%d) at instruction %llu: %s", stop,
					    (unsigned long long)r->m->icount, r->m->error.text);
		if (r->m->icount == r->next_frame) {
			send_arp(r);
			r->next_frame += FRAME_EVERY;
		}
		if (r->way->flush && stop == FT_STOP_COUNT)
			r->m->engine_ops->flush(r->m->engine);
		if (r->way->fork_every && r->m->icount >= r->next_fork) {
			r->next_fork = r->m->icount + 1 + splitmix(&r->random) % (2 * r->way->fork_every);
			hand_over(r);
		}
		if (r->way->part_every && r->m->icount >= r->next_part) {
			r->next_part = r->m->icount + 1 + splitmix(&r->random) % (2 * r->way->part_every);
			ft_memory_part(&r->m->ram);
		}
		if (r->way->move_every && r->m->icount >= r->next_move) {
			r->next_move = r->m->icount + 1 + splitmix(&r->random) % (2 * r->way->move_every);
			int error = move(r, err);
			if (error)
				return error;
		}
	}
	return 0;
}

static void *map_file(const char *path, size_t *length, struct ft_error *err)
{
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	void *at = MAP_FAILED;
	if (fd >= 0 && !fstat(fd, &st)) {
		*length = (size_t)st.st_size;
		at = mmap(NULL, *length, PROT_READ, MAP_PRIVATE, fd, 0);
	}
	if (at == MAP_FAILED)
		ft_error_set(err, -errno, "%s: %s", path, strerror(errno));
	if (fd >= 0)
		close(fd);
	return at == MAP_FAILED ? NULL : at;
}

static int run_here(const struct exact_images *images, struct run *r, uint64_t every, unsigned points,
		    struct ft_error *err)
{
	struct ft_machine_config config = {.memory = 256ull << 20,
					   .clock = FT_CLOCK_FREE,
					   .epoch_ns = 1700000000000000000ull,
					   .mac = {0x52, 0x54, 0, 0, 2, 15},
					   .disk_fd = -1,
					   .engine = &ft_engine_soft,
					   .engine_options = r->way->options,
					   .cmdline = images->cmdline};
	config.kernel = map_file(images->kernel, &config.kernel_length, err);
	config.initrd = config.kernel ? map_file(images->initrd, &config.initrd_length, err) : NULL;
	if (!config.kernel || !config.initrd)
		return err->code;
	config.disk_fd = open(images->disk, O_RDONLY | O_CLOEXEC);
	if (config.disk_fd < 0)
		return ft_error_set(err, -errno, "%s: %s", images->disk, strerror(errno));
	r->config = config;
	r->m = ft_machine_create(&config, err);
	if (!r->m)
		return err->code;
	r->m->backend = (struct ft_backend){.context = r, .net_tx = net_tx, .console = console, .entropy = entropy};
	int error = ft_machine_boot(r->m, &config, err);
	if (!error && r->way->storm)
		start_storm(r->m);
	r->next_frame = FRAME_EVERY;
	r->next_fork = r->way->fork_every;
	r->next_move = r->way->move_every;
	r->next_part = r->way->part_every;
	for (unsigned i = 0; !error && i < points; i++) {
		error = run_to(r, every * (i + 1), err);
		r->result->icount[i] = r->m->icount;
		r->result->hash[i] = error ? 0 : ft_machine_hash(r->m);
		r->result->points = i + 1;
		r->result->copies += (uint64_t)(r->m->ram.own_next - r->m->ram.own) / FT_PAGE_SIZE;
	}
	return error;
}

struct shared {
	struct exact_result result;
	struct ft_error error;
};

int exact_run(const struct exact_images *images, const struct exact_way *way, uint64_t every, unsigned points,
	      struct exact_result *result, struct ft_error *err)
{
	if (points > EXACT_POINTS_MAX)
		return ft_error_set(err, -EINVAL, "at most %d points", EXACT_POINTS_MAX);
	struct shared *shared =
		mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		return ft_error_set(err, -errno, "no memory for results: %s", strerror(errno));
	pid_t child = fork();
	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		struct run r = {.way = way, .result = &shared->result, .random = way->seed, .entropy = 1};
		_exit(run_here(images, &r, every, points, &shared->error) ? 1 : 0);
	}
	int status = 0, error = 0;
	if (child < 0)
		error = ft_error_set(err, -errno, "fork: %s", strerror(errno));
	else if (waitpid(child, &status, 0) != child || !WIFEXITED(status) || WEXITSTATUS(status))
		error = ft_error_set(err, -EIO, "%s: the run ended with status 0x%x after %u points%s%s", way->name,
				     status, shared->result.points, shared->error.code ? ": " : "", shared->error.text);
	*result = shared->result;
	munmap(shared, sizeof(*shared));
	return error;
}

unsigned exact_compare(const struct exact_result *a, const struct exact_result *b, unsigned *first)
{
	unsigned different = 0, most = a->points > b->points ? a->points : b->points;
	for (unsigned i = 0; i < most; i++) {
		bool same = i < a->points && i < b->points && a->icount[i] == b->icount[i] && a->hash[i] == b->hash[i];
		if (!same && !different++)
			*first = i;
	}
	return different;
}

bool exact_find_images(const char *directory, struct exact_images *images)
{
	static char kernel[512], initrd[512], disk[512];
	snprintf(kernel, sizeof(kernel), "%s/vmlinuz", directory);
	snprintf(initrd, sizeof(initrd), "%s/initrd.img", directory);
	snprintf(disk, sizeof(disk), "%s/root.ext4", directory);
	*images = (struct exact_images){.kernel = kernel, .initrd = initrd, .disk = disk};
	return !access(kernel, R_OK) && !access(initrd, R_OK) && !access(disk, R_OK);
}
