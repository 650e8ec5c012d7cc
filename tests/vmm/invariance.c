/* The hash of the whole machine at given instruction counts must not depend on block limit, TLB size, the slow path, a
 * tiny code cache, random stops, signal storms, flushes, forks, where copies of written pages lie, or on being moved to another
 * machine as saved state.
 *
 *   invariance IMAGES-DIRECTORY [--points N] [--every INSTRUCTIONS]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "exact.h"

static const struct exact_way ways[] = {
	{.name = "plain", .options = {.verify = true}},
	{.name = "one instruction a block", .options = {.verify = true, .block_limit = 1}, .seed = 2},
	{.name = "4-entry TLB, random stops", .options = {.verify = true, .tlb_bits = 2}, .stop_every = 200000, .seed = 3},
	{.name = "always the slow path", .options = {.verify = true, .always_slow = true}, .seed = 4},
	{.name = "3 MB code cache, signal storm", .options = {.verify = true, .cache_bytes = 3 << 20}, .storm = true, .seed = 5},
	{.name = "forks and flushes", .options = {.verify = true, .block_limit = 7}, .stop_every = 3000000,
	 .fork_every = 30000000, .flush = true, .seed = 6},
	{.name = "pages copied, forks of forks", .options = {.verify = true}, .stop_every = 1000000, .part_every = 25000000,
	 .fork_every = 60000000, .seed = 8},
	{.name = "from machine to machine", .stop_every = 3000000, .move_every = 6000000, .seed = 7},
};
#define WAYS (sizeof(ways) / sizeof(ways[0]))

static long argument(int argc, char **argv, const char *name, long otherwise)
{
	for (int i = 2; i + 1 < argc; i++)
		if (!strcmp(argv[i], name))
			return atol(argv[i + 1]);
	return otherwise;
}

int main(int argc, char **argv)
{
	struct exact_images images;
	if (argc < 2 || !exact_find_images(argv[1], &images)) {
		printf("SKIP: no guest image in %s (deploy/guest/build makes it)\n", argc < 2 ? "(none)" : argv[1]);
		return 77;
	}
	images.cmdline = "console=ttyS0 root=/dev/vda rw";
	unsigned points = (unsigned)argument(argc, argv, "--points", 12);
	uint64_t every = (uint64_t)argument(argc, argv, "--every", 50000000);
	static struct exact_result results[WAYS];
	int failed = 0;
	for (unsigned w = 0; w < WAYS; w++) {
		struct ft_error err = {0};
		unsigned first = 0;
		if (exact_run(&images, &ways[w], every, points, &results[w], &err)) {
			printf("%s: %s\n", ways[w].name, err.text);
			failed++;
			continue;
		}
		unsigned different = exact_compare(&results[0], &results[w], &first);
		printf("%-32s %u points to instruction %llu, %llu moves, %s", ways[w].name, results[w].points,
		       (unsigned long long)results[w].icount[points - 1], (unsigned long long)results[w].moves,
		       different ? "DIFFERENT" : "equal");
		if (different)
			printf(" from point %u on: %016llx instead of %016llx", first,
			       (unsigned long long)results[w].hash[first], (unsigned long long)results[0].hash[first]);
		printf("\n");
		fflush(stdout);
		failed += different != 0 || (ways[w].move_every && !results[w].moves) || (ways[w].part_every && !results[w].copies);
	}
	if (!results[0].console_bytes) {
		printf("the guest never wrote to its console: this run shows nothing\n");
		failed++;
	}
	return failed ? 1 : 0;
}
