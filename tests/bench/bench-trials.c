/* bench-trials [--rounds N] [--settle SECONDS]: what group testing saves. A guest of 256 MiB serves HTTP behind the product's own vmm process;
 * requests for a static file on connections of their own are tried in groups of 1, 8 and 64, each group on one clone, two seeds
 * at a time, with the product's default budgets. No dataplane: what is measured is the vmm alone, from the order to the trial's
 * end, and the processes that it forks until they are gone.
 *
 * per_s: requests a second. cpu_ms_per_request: CPU time of the vmm with all that it forked. What a group costs is fitted as
 * `trial` + `request` times its size (least squares): what each trial costs, and each request more in it. Sizes take turns, so
 * that other work on the machine disturbs all alike; medians of the rounds. Each group's requests go to the live guest
 * afterwards, which answers and closes, so that connections do not pile up in it. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "../guest/peer.h"
#include "images.h"
#include "settled.h"

#define RAM_MIB   256u
#define MOST      50 /* rounds */
#define LARGEST   64u
#define SEEDS     2u /* at a time */
#define SLOTS     4u /* a seed that is told to finish keeps its slot for a moment */

/* What the supervisor's configuration says when it says nothing (dataplane/service.c). */
#define HORIZON_NS   120000000000ull
#define INSTRUCTIONS 20000000000ull

struct size {
	uint32_t flows;
	unsigned trials; /* a round */
	double per_s[MOST], cpu_ms[MOST], instructions[MOST], pages[MOST]; /* per request; the last two per trial */
};

static struct size sizes[] = {{.flows = 1, .trials = 16}, {.flows = 8, .trials = 10}, {.flows = LARGEST, .trials = 6}};
#define SIZES (sizeof(sizes) / sizeof(*sizes))

static struct peer peers[LARGEST];
static struct ft_trial_flow flows[LARGEST];
static struct stand_frame frames[LARGEST];
static uint64_t next_trial = 1;
static uint16_t next_port = 41000;

static double now_s(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* CPU seconds of a process and of all its descendants that are gone. */
static double cpu_s(pid_t pid)
{
	char path[64], line[1024];
	unsigned long user, system;
	long children_user, children_system;
	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	FILE *stat = fopen(path, "re");
	const char *at = stat && fgets(line, sizeof(line), stat) ? strrchr(line, ')') : NULL;
	if (stat)
		fclose(stat);
	/* Behind the name: state, ten fields, then the times in ticks (proc(5)). */
	if (!at || sscanf(at + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu %ld %ld", &user, &system,
			  &children_user, &children_system) != 4)
		return 0;
	return ((double)(user + system) + (double)(children_user + children_system)) / (double)sysconf(_SC_CLK_TCK);
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return x < y ? -1 : x > y;
}

static double median(const double *samples, int count)
{
	double sorted[MOST];
	memcpy(sorted, samples, (size_t)count * sizeof(*samples));
	qsort(sorted, (size_t)count, sizeof(*sorted), compare);
	return count ? sorted[count / 2] : 0;
}

static void ask(struct stand *s, uint32_t count)
{
	struct ft_trial_begin begin = stand_budgets(next_trial++);
	begin.horizon_ns = HORIZON_NS;
	begin.handling_instructions = begin.horizon_instructions = INSTRUCTIONS;
	stand_ask(s, &begin, flows, count, frames);
}

static bool connect_all(struct stand *s, uint32_t count)
{
	static const char request[] = "GET / HTTP/1.1\r\nHost: guest\r\nConnection: close\r\n\r\n";
	for (uint32_t i = 0; i < count; i++) {
		peer_open(&peers[i], s, next_port++);
		if (!peer_connect(&peers[i]))
			return false;
		flows[i] = peer_flow(&peers[i], peers[i].sequence, sizeof(request) - 1, 1);
		peer_segment(&peers[i], request, sizeof(request) - 1, &frames[i]);
	}
	return true;
}

static bool is_over(const struct peer *p)
{
	return p->finished || p->reset;
}

static bool release_all(uint32_t count)
{
	bool good = true;
	for (uint32_t i = 0; i < count; i++) {
		peer_put(&peers[i], &frames[i]);
		good = good && peer_run(&peers[i], STAND_PATIENCE_MS, is_over);
		peer_close(&peers[i]);
	}
	return good;
}

/* Of a trial's life only; *ended: a trial ended well. False: it is not as it should be. */
static bool take(struct stand *s, const struct size *size, const struct ft_event *event, unsigned *ended, unsigned *gone,
		 struct ft_event *end)
{
	switch (event->type) {
	case FT_EVENT_TRIAL_ANSWERED:
		return event->a[0] == size->flows && event->a[1] == size->flows;
	case FT_EVENT_TRIAL_END: {
		struct ft_trial_go go = {.trial = event->trial};
		struct iovec part = {&go, sizeof(go)};
		++*ended;
		*end = *event;
		if (ft_ring_put(&s->link.cmd, FT_TRIAL_FINISH, &part, 1))
			return false;
		ft_ring_kick(&s->link.cmd);
		return event->a[0] == FT_TRIAL_END_HORIZON && event->a[4];
	}
	case FT_EVENT_SEED_GONE:
		++*gone;
		return event->a[0] == FT_SEED_FINISHED;
	default:
		return event->type != FT_EVENT_LOST;
	}
}

/* One message of the vmm's. */
static bool look(struct stand *s, const struct size *size, unsigned *ended, unsigned *gone, struct ft_event *end)
{
	static uint8_t message[FT_EVENTS_MAX];
	struct ft_event event;
	const char *strings[FT_EVENT_STRINGS];
	struct pollfd fd = {.fd = s->link.events, .events = POLLIN};
	if (poll(&fd, 1, STAND_PATIENCE_MS) <= 0)
		return false;
	ssize_t n = recv(s->link.events, message, sizeof(message), MSG_DONTWAIT);
	if (n <= 0)
		return n < 0 && errno == EAGAIN;
	for (size_t at = 0, length; at < (size_t)n; at += length) {
		length = ft_event_first(message + at, (size_t)n - at);
		if (ft_event_check(message + at, length, &event, strings) || !take(s, size, &event, ended, gone, end))
			return false;
	}
	return true;
}

static bool measure(struct stand *s, struct size *size, int round)
{
	if (!connect_all(s, size->flows))
		return false;
	double began = now_s(), cpu = cpu_s(s->pid);
	unsigned asked = 0, ended = 0, gone = 0;
	struct ft_event end = {0};
	while (gone < size->trials) {
		for (; asked < size->trials && asked - ended < SEEDS; asked++)
			ask(s, size->flows);
		if (!look(s, size, &ended, &gone, &end))
			return false;
	}
	double requests = size->flows * size->trials;
	size->per_s[round] = requests / (now_s() - began);
	size->cpu_ms[round] = (cpu_s(s->pid) - cpu) * 1000 / requests;
	size->instructions[round] = (double)end.a[2];
	size->pages[round] = (double)end.a[3];
	return release_all(size->flows);
}

/* y = a + b x through the medians. */
static void fit(int rounds, double *a, double *b)
{
	double n = SIZES, x = 0, y = 0, xx = 0, xy = 0;
	for (size_t i = 0; i < SIZES; i++) {
		double g = sizes[i].flows, cost = median(sizes[i].cpu_ms, rounds) * g;
		x += g;
		y += cost;
		xx += g * g;
		xy += g * cost;
	}
	*b = (n * xy - x * y) / (n * xx - x * x);
	*a = (y - *b * x) / n;
}

static void print(const char *name, int rounds, size_t field)
{
	printf("\"%s\":{", name);
	for (size_t i = 0; i < SIZES; i++)
		printf("%s\"%u\":%.2f", i ? "," : "", sizes[i].flows,
		       median((const double *)((const char *)&sizes[i] + field), rounds));
	printf("},");
}

int main(int argc, char **argv)
{
	int rounds = argc > 2 && !strcmp(argv[1], "--rounds") ? atoi(argv[2]) : 5, done = 0;
	int settle = settled_option(argc, argv, argc > 2 && !strcmp(argv[1], "--rounds") ? 3 : 1);
	char directory[600];
	struct ft_error err = {0};
	struct stand s;
	struct peer idle;
	if (rounds < 1 || rounds > MOST || settle < 0) {
		fprintf(stderr, "usage: bench-trials [--rounds N] [--settle SECONDS]   (1 to %d)\n", MOST);
		return 64;
	}
	signal(SIGPIPE, SIG_IGN);
	bool up = !images_prepare("web", directory, sizeof(directory), &err);
	if (!up)
		fprintf(stderr, "bench-trials: %s\n", err.text);
	up = up && !stand_spawn(&s, FORETASTE_VMM, NULL);
	if (up && !stand_configure(&s, directory, images_cmdline(directory), RAM_MIB, SLOTS)) {
		stand_link(&s);
		up = settled(&s, &idle, 40000, settle);
		for (; up && done < rounds; done += up)
			for (size_t i = 0; up && i < SIZES; i++)
				up = measure(&s, &sizes[i], done);
		if (!up)
			fprintf(stderr, "bench-trials: a trial did not end well\n");
		stand_end(&s);
	}
	double trial = 0, request = 0;
	fit(done, &trial, &request);
	printf("{");
	print("per_s", done, offsetof(struct size, per_s));
	print("cpu_ms_per_request", done, offsetof(struct size, cpu_ms));
	print("instructions_per_trial", done, offsetof(struct size, instructions));
	print("pages_per_trial", done, offsetof(struct size, pages));
	printf("\"cpu_ms\":{\"trial\":%.2f,\"request\":%.3f},\"rounds\":%d}\n", trial, request, done);
	return done == rounds ? 0 : 1;
}
