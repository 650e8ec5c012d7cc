/* cuts OVERLAY BASE IMAGE FIRST STEP COMMAND: a guest's disk as it is when the power goes after each record of its overlay, or after
 * each STEP-th, from record FIRST on (negative: counted from the end). IMAGE becomes the disk at that record, and `COMMAND IMAGE` is
 * run on it; the command leaves IMAGE as it was. Prints how many cuts there were; exit status 1 at the first for which the command
 * fails. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "disk/history.h"

#define CHUNK (1u << 20)

static int copy_base(int base, int image)
{
	static uint8_t bytes[CHUNK], zeros[CHUNK];
	struct stat s;
	if (fstat(base, &s) || ftruncate(image, s.st_size))
		return -1;
	for (off_t at = 0; at < s.st_size; at += CHUNK) {
		ssize_t n = pread(base, bytes, CHUNK, at);
		if (n <= 0 || (memcmp(bytes, zeros, (size_t)n) && pwrite(image, bytes, (size_t)n, at) != n))
			return -1;
	}
	return 0;
}

/* The blocks of one version, from the view, which has gone forward to it. */
static int apply(struct ft_view *view, const struct ft_version *v, int image)
{
	uint8_t block[4096];
	for (uint64_t b = v->block; b < v->block + v->count; b++)
		if (ft_view_read(view, b * 4096, block, sizeof(block)) || pwrite(image, block, sizeof(block), (off_t)(b * 4096)) != 4096)
			return -1;
	return 0;
}

int main(int argc, char **argv)
{
	struct ft_error err = {0};
	struct ft_history h;
	struct ft_view view;
	char command[1024];
	if (argc != 7) {
		fprintf(stderr, "usage: cuts OVERLAY BASE IMAGE FIRST STEP COMMAND\n");
		return 64;
	}
	int overlay = open(argv[1], O_RDONLY), base = open(argv[2], O_RDONLY), image = open(argv[3], O_RDWR | O_CREAT | O_TRUNC, 0600);
	if (overlay < 0 || base < 0 || image < 0 || ft_history_open(&h, overlay, base, &err) || ft_view_open(&view, &h, &err) ||
	    copy_base(base, image)) {
		fprintf(stderr, "cuts: %s\n", err.text[0] ? err.text : strerror(errno));
		return 1;
	}
	int64_t first = atoll(argv[4]);
	uint64_t step = strtoull(argv[5], NULL, 10) + !atoi(argv[5]);
	uint64_t from = first >= 0 ? (uint64_t)first : (uint64_t)-first < h.count ? h.count - (uint64_t)-first : 0, cuts = 0;
	snprintf(command, sizeof(command), "%s '%s'", argv[6], argv[3]);
	for (uint64_t i = 0; i < h.count; i++) {
		ft_view_forward(&view, h.versions[i].wall_ns);
		if (ft_disk_record_has_blocks(h.versions[i].type) && apply(&view, &h.versions[i], image)) {
			fprintf(stderr, "cuts: record %llu: %s\n", (unsigned long long)i, strerror(errno));
			return 1;
		}
		if (i < from || (i - from) % step || !ft_disk_record_has_blocks(h.versions[i].type))
			continue;
		if (system(command)) {
			fprintf(stderr, "cuts: after record %llu of %llu the disk is not what it should be\n", (unsigned long long)i,
				(unsigned long long)h.count);
			return 1;
		}
		cuts++;
	}
	printf("%llu cuts of %llu records\n", (unsigned long long)cuts, (unsigned long long)h.count);
	ft_view_close(&view);
	ft_history_close(&h);
	return 0;
}
