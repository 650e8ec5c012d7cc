/* record-cost DIR DISK EVERY: what recording costs. The newest journal in DIR is replayed twice at a time, by turns of fifty million
 * instructions: once alone, once with the product's recorder on the machine, which puts what it is given into a ring and hashes
 * the state every EVERY instructions. Both run the same instructions, so that turn by turn the processor time of this thread
 * can be compared, whatever else the host does. Prints a JSON object: the median over the turns. For bench-replay. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <sodium.h>

#include "guest/recorder.h"
#include "replay/directory.h"
#include "replay/replay.h"

#define TURN  50000000u
#define TURNS 4096u

struct side {
	struct ft_journal journal;
	struct ft_replay replay;
	struct ft_recorder recorder;
};

static void before(void *context)
{
	ft_recorder_before(&((struct side *)context)->recorder);
}

static void after(void *context, enum ft_stop stop, uint64_t wake)
{
	struct ft_recorder *r = &((struct side *)context)->recorder;
	ft_recorder_after(r, stop, wake);
	/* The scribe's part, which is another process'. */
	ft_journal_ring_release(&r->ring, r->ring.head);
}

static int open_side(struct side *s, const char *directory, const char *image, struct ft_error *err)
{
	struct ft_replay_directory d;
	struct ft_replay_place place = {.icount = UINT64_MAX, .wall_ns = UINT64_MAX};
	struct ft_journal_files files;
	struct ft_machine_config config = {.engine = &ft_engine_soft};
	int checkpoint, disk = open(image, O_RDONLY | O_CLOEXEC);
	int error = ft_replay_directory_open(&d, directory, &place, &checkpoint, &files, err);
	if (error)
		return error;
	error = ft_journal_open(&s->journal, &files, err);
	if (!error)
		error = ft_replay_create(&s->replay, &config, &s->journal, disk, err);
	if (!error)
		error = ft_replay_restore(&s->replay, checkpoint, err);
	s->replay.trusting = true;
	s->replay.context = s;
	ft_replay_directory_close(&d, checkpoint, &files);
	close(disk);
	return error;
}

static int record(struct side *s, uint64_t every, struct ft_error *err)
{
	int pair[2], fd = memfd_create("ring", MFD_CLOEXEC), error = ft_journal_ring_make(fd, NULL, err);
	if (!error)
		error = ft_journal_ring_open(&s->recorder.ring, fd, true, err);
	if (!error && socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair))
		error = ft_error_set(err, -errno, "no sockets");
	if (error)
		return error;
	s->recorder.orders = pair[0];
	s->recorder.wake = eventfd(0, EFD_NONBLOCK);
	s->recorder.check_every = every;
	s->replay.before = before;
	s->replay.after = after;
	return ft_recorder_checkpoint(&s->recorder, s->replay.m, 1, open("/dev/null", O_WRONLY), NULL, err);
}

static double cpu_s(void)
{
	struct timespec t;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int ascending(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return x < y ? -1 : x > y;
}

int main(int argc, char **argv)
{
	static struct side sides[2];
	static double ratios[TURNS];
	struct ft_error err = {0};
	double sums[2] = {0, 0};
	unsigned turns = 0;
	if (argc != 4 || sodium_init() < 0)
		return 64;
	if (open_side(&sides[0], argv[1], argv[2], &err) || open_side(&sides[1], argv[1], argv[2], &err) ||
	    record(&sides[1], strtoull(argv[3], NULL, 10), &err)) {
		fprintf(stderr, "record-cost: %s\n", err.text);
		return 1;
	}
	enum ft_replay_end end = FT_REPLAY_LIMIT;
	for (uint64_t to = sides[0].replay.m->icount + TURN; end == FT_REPLAY_LIMIT && turns < TURNS; to += TURN) {
		double took[2];
		for (unsigned i = 0; i < 2; i++) {
			/* By turns, who goes first: caches and neighbours favour neither. */
			unsigned side = (i + turns) % 2;
			double began = cpu_s();
			end = ft_replay_run(&sides[side].replay, &(struct ft_replay_limits){.icount = to, .vtime_ns = UINT64_MAX}, &err);
			took[side] = cpu_s() - began;
			sums[side] += took[side];
		}
		ratios[turns++] = took[1] / took[0] - 1;
	}
	qsort(ratios, turns, sizeof(*ratios), ascending);
	bool same = sides[0].replay.m->icount == sides[1].replay.m->icount && ft_machine_hash(sides[0].replay.m) == ft_machine_hash(sides[1].replay.m);
	printf("{\"turns\":%u,\"records\":%llu,\"record_cost\":%.4f,\"of_all\":%.4f,\"same\":%s}\n", turns,
	       (unsigned long long)sides[1].recorder.records, turns ? ratios[turns / 2] : 0, sums[1] / sums[0] - 1, same ? "true" : "false");
	if (err.code)
		fprintf(stderr, "record-cost: %s\n", err.text);
	return end == FT_REPLAY_OVER && same && !err.code ? 0 : 1;
}
