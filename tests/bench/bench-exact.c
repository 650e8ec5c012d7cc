/* bench-exact [--runs N] [--every INSTRUCTIONS] [--points N]: boot and workload with virtio-blk, virtio-rng and scripted
 * virtio-net input under random stops and forks, moves to another machine by way of the saved state, different block
 * limits and TLB sizes, each in processes of its own; the hash over RAM, CPU and devices must not differ. Last line: JSON. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "exact.h"
#include "images.h"

static long argument(int argc, char **argv, const char *name, long otherwise)
{
	for (int i = 1; i + 1 < argc; i++)
		if (!strcmp(argv[i], name))
			return atol(argv[i + 1]);
	return otherwise;
}

/* Run n's disturbance: everything varies with n, the first run is undisturbed. */
static struct exact_way way_of(unsigned n, char name[64])
{
	static const uint32_t limits[] = {0, 1, 2, 5, 16, 64}, tlbs[] = {0, 2, 5, 8, 11};
	struct exact_way way = {.name = name, .seed = n + 1};
	snprintf(name, 64, "run %u", n);
	if (n == 0)
		return way;
	way.options = (struct ft_engine_options){.block_limit = limits[n % 6],
						 .tlb_bits = tlbs[n % 5],
						 .cache_bytes = n % 3 == 1 ? 3u << 20 : 0,
						 .always_slow = n % 7 == 3};
	way.stop_every = 100000u << (n % 8);
	way.fork_every = n % 2 ? 40000000u : 0;
	way.storm = n % 4 == 2;
	way.flush = n % 5 == 4;
	way.move_every = n % 4 == 3 ? 100000000u : 0;
	return way;
}

int main(int argc, char **argv)
{
	unsigned runs = (unsigned)argument(argc, argv, "--runs", 10);
	unsigned points = (unsigned)argument(argc, argv, "--points", 32);
	uint64_t every = (uint64_t)argument(argc, argv, "--every", 50000000);
	struct exact_images images;
	struct ft_error err = {0};
	char directory[512];
	if (images_prepare("web", directory, sizeof(directory), &err) || !exact_find_images(directory, &images)) {
		fprintf(stderr, "%s\n", err.code ? err.text : "the guest image is incomplete");
		printf("{\"runs\":0,\"instructions\":0,\"divergent\":null,\"skipped\":\"no guest image\"}\n");
		return 1;
	}
	images.cmdline = images_cmdline(directory);
	static struct exact_result first, result;
	uint64_t instructions = 0, divergent = 0;
	unsigned done = 0;
	for (unsigned n = 0; n < runs; n++) {
		char name[64];
		struct exact_way way = way_of(n, name);
		err = (struct ft_error){0};
		int error = exact_run(&images, &way, every, points, n ? &result : &first, &err);
		const struct exact_result *r = n ? &result : &first;
		unsigned at = 0, different = n ? exact_compare(&first, r, &at) : 0;
		printf("run %u: block limit %u, TLB bits %u, cache %llu, slow %d, stops ~%llu, forks ~%llu, storm %d, "
		       "flush %d, moves %llu: %s%s (%llu frames out, %llu console bytes)\n",
		       n, way.options.block_limit, way.options.tlb_bits, (unsigned long long)way.options.cache_bytes,
		       way.options.always_slow, (unsigned long long)way.stop_every, (unsigned long long)way.fork_every,
		       way.storm, way.flush, (unsigned long long)r->moves, error ? "failed: " : different ? "DIVERGENT" : "equal",
		       error ? err.text : "", (unsigned long long)r->frames_out, (unsigned long long)r->console_bytes);
		fflush(stdout);
		divergent += error || different;
		instructions += every * r->points;
		done++;
	}
	if (!first.console_bytes || !first.frames_out) {
		fprintf(stderr, "the guest did not get as far as its console and its network: these runs show nothing\n");
		divergent++;
	}
	printf("{\"runs\":%u,\"instructions\":%llu,\"divergent\":%llu}\n", done, (unsigned long long)instructions,
	       (unsigned long long)divergent);
	return divergent ? 1 : 0;
}
