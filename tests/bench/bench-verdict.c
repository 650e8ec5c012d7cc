/* bench-verdict [--trials N] [--settle SECONDS]: what a verdict costs beside the work that it judges. A guest of 256 MiB serves HTTP behind
 * the product's own vmm process; requests for a static file and for a CGI program are tried in turn, each on a clone of
 * its own and on a connection of its own, with the product's default budgets.
 *
 * handling: from the order until the clone has taken all bytes of the request and rests. trial: from the order until the
 * trial's end, so the horizon (two minutes of virtual time, idle skipped) as well. Both include fork and hygiene. After
 * its trial the request is released to the live guest, which answers and closes, so that connections of the benchmark do
 * not pile up in the guest. What the live guest takes for the same request is on stderr: the floor that no trial can be
 * below; and the best of each, which other work on the machine disturbs least. Medians. */
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../guest/peer.h"
#include "images.h"
#include "settled.h"
#include "samples.h"

#define RAM_MIB 256u
#define MOST    200

/* What the supervisor's configuration says when it says nothing (dataplane/service.c). */
#define HORIZON_NS   120000000000ull
#define INSTRUCTIONS 20000000000ull

struct kind {
	const char *name, *path;
	uint64_t handling[MOST], trial[MOST], horizon[MOST], instructions[MOST], live[MOST], first[MOST];
	int count;
};

static double median(const uint64_t *samples, int count)
{
	return (double)samples_percentile(samples, (size_t)count, 50);
}

static double least(const uint64_t *samples, int count)
{
	uint64_t best = count ? samples[0] : 0;
	for (int i = 1; i < count; i++)
		best = samples[i] < best ? samples[i] : best;
	return (double)best;
}

static bool is_over(const struct peer *p)
{
	return p->finished || p->reset;
}

/* The whole of one verdict: false when the trial did not end as an innocent one does. */
static bool measure(struct stand *s, struct kind *kind, uint16_t port, uint64_t hold)
{
	char request[256];
	struct peer p;
	struct stand_trial trial = {0};
	struct stand_frame frame;
	int length = snprintf(request, sizeof(request),
			      "GET %s HTTP/1.1\r\nHost: guest\r\nConnection: close\r\n\r\n", kind->path);
	uint64_t began = samples_now_ns();
	if (!peer_get(s, (uint16_t)(port + 1), kind->path))
		return false;
	kind->live[kind->count] = samples_now_ns() - began;
	peer_open(&p, s, port);
	bool good = peer_connect(&p);
	if (good) {
		struct ft_trial_begin begin = stand_budgets(hold);
		begin.horizon_ns = HORIZON_NS;
		begin.handling_instructions = begin.horizon_instructions = INSTRUCTIONS;
		struct ft_trial_flow flow = peer_flow(&p, p.sequence, (uint32_t)length, 1);
		peer_segment(&p, request, (size_t)length, &frame);
		began = samples_now_ns();
		stand_ask(s, &begin, &flow, 1, &frame);
		stand_collect(s, hold, &trial, false, peer_meanwhile, &p);
		good = trial.ready && trial.handled && trial.end &&
		       trial.end->event.a[0] == FT_TRIAL_END_HORIZON &&
		       trial.handled->event.a[0] == (uint64_t)length;
		if (good) {
			int at = kind->count++;
			kind->handling[at] = trial.handled->arrived_ns - began;
			kind->trial[at] = trial.end->arrived_ns - began;
			kind->horizon[at] = trial.end->arrived_ns - trial.handled->arrived_ns;
			kind->instructions[at] = trial.end->event.icount - trial.handled->event.icount;
			kind->first[at] = trial.end->event.a[5];
		} else {
			fprintf(stderr, "%s: the trial did not end well\n", kind->name);
			stand_print(&trial);
		}
		if (!trial.gone)
			stand_finish(s, hold, &trial);
		stand_trial_free(&trial);
		peer_put(&p, &frame);
		good = good && peer_run(&p, STAND_PATIENCE_MS, is_over);
	}
	peer_close(&p);
	return good;
}

static double ratio(const struct kind *kind)
{
	double handling = median(kind->handling, kind->count);
	return handling > 0 ? median(kind->trial, kind->count) / handling : 0;
}

static void print(const struct kind *kind)
{
	printf("\"%s\":{\"handling_ms\":%.2f,\"trial_ms\":%.2f,\"horizon_ms\":%.2f,\"horizon_instructions\":%"
	       ".0f},",
	       kind->name, median(kind->handling, kind->count) / 1e6, median(kind->trial, kind->count) / 1e6,
	       median(kind->horizon, kind->count) / 1e6, median(kind->instructions, kind->count));
}

int main(int argc, char **argv)
{
	int count = argc > 2 && !strcmp(argv[1], "--trials") ? atoi(argv[2]) : 30;
	int settle = settled_option(argc, argv, argc > 2 && !strcmp(argv[1], "--trials") ? 3 : 1);
	static struct kind kinds[] = {{.name = "static", .path = "/"},
				      {.name = "cgi", .path = "/cgi-bin/health"}};
	char directory[600];
	struct ft_error err = {0};
	struct stand s;
	struct peer idle;
	if (count < 1 || count > MOST || settle < 0) {
		fprintf(stderr, "usage: bench-verdict [--trials N] [--settle SECONDS]   (1 to %d)\n", MOST);
		return 64;
	}
	signal(SIGPIPE, SIG_IGN);
	bool up = !images_prepare("web", directory, sizeof(directory), &err);
	if (!up)
		fprintf(stderr, "bench-verdict: %s\n", err.text);
	up = up && !stand_spawn(&s, FORETASTE_VMM, NULL);
	if (up && !stand_configure(&s, directory, images_cmdline(directory), RAM_MIB, 2)) {
		stand_link(&s);
		up = settled(&s, &idle, 40000, settle);
		for (int i = 0; up && i < 2 * count; i++)
			up = measure(&s, &kinds[i & 1], (uint16_t)(41000 + 2 * i), (uint64_t)i + 1);
		stand_end(&s);
	}
	for (int i = 0; i < 2; i++)
		fprintf(stderr,
			"%s: %d trials; the live guest answers in %.2f ms; first instruction of a clone "
			"after %.2f "
			"ms; best handling %.2f ms, best horizon %.2f ms\n",
			kinds[i].name, kinds[i].count, median(kinds[i].live, kinds[i].count) / 1e6,
			median(kinds[i].first, kinds[i].count) / 1e6,
			least(kinds[i].handling, kinds[i].count) / 1e6,
			least(kinds[i].horizon, kinds[i].count) / 1e6);
	double a = ratio(&kinds[0]), b = ratio(&kinds[1]);
	printf("{");
	print(&kinds[0]);
	print(&kinds[1]);
	printf("\"worst_ratio\":%.2f}\n", a > b ? a : b);
	return kinds[0].count == count && kinds[1].count == count ? 0 : 1;
}
