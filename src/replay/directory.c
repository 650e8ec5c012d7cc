#include "replay/directory.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "snapshot/file.h"

/* Is name exactly what format makes of two numbers? */
static bool is(const char *name, const char *format, unsigned *run, unsigned *number)
{
	char made[64];
	if (sscanf(name, "%u-%u", run, number) != 2)
		return false;
	snprintf(made, sizeof(made), format, *run, *number);
	return !strcmp(made, name);
}

static int ascending(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
	return x < y ? -1 : x > y;
}

/* The segments of the run from the checkpoint's on. Numbers may be missing, of checkpoints that came to nothing; what a segment goes
 * on from is checked when it is read. */
static unsigned list_segments(const struct ft_replay_directory *d, DIR *list, uint32_t first, uint32_t numbers[FT_JOURNAL_SEGMENTS])
{
	unsigned count = 0, run, number;
	rewinddir(list);
	for (struct dirent *e; count < FT_JOURNAL_SEGMENTS && (e = readdir(list));)
		if (is(e->d_name, FT_JOURNAL_SEGMENT, &run, &number) && run == d->run && number >= first)
			numbers[count++] = number;
	qsort(numbers, count, sizeof(*numbers), ascending);
	return count;
}

static int open_file(const struct ft_replay_directory *d, const char *name)
{
	return openat(d->fd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
}

static void open_segments(struct ft_replay_directory *d, const uint32_t *numbers, unsigned count, struct ft_journal_files *files)
{
	char name[64];
	for (unsigned i = 0; i < count && files->count < FT_JOURNAL_SEGMENTS; i++) {
		snprintf(name, sizeof(name), FT_JOURNAL_SEGMENT, d->run, numbers[i]);
		int fd = open_file(d, name);
		/* Made, and nothing came into it: what there is of it is in the ring. */
		if (fd >= 0 && lseek(fd, 0, SEEK_END) < (off_t)sizeof(struct ft_segment_header) && numbers[i] != d->checkpoint) {
			close(fd);
		} else if (fd >= 0) {
			files->segments[files->count++] = fd;
			d->last = numbers[i];
		}
	}
}

/* The guest goes on while its journal is read: segments that it has begun since. */
static void open_more(void *context, struct ft_journal_files *files)
{
	struct ft_replay_directory *d = context;
	uint32_t numbers[FT_JOURNAL_SEGMENTS];
	DIR *list = fdopendir(dup(d->fd));
	if (!list)
		return;
	open_segments(d, numbers, list_segments(d, list, d->last + 1, numbers), files);
	closedir(list);
}

/* Is this one better than what has been chosen so far? The newest that begins early enough. */
static bool consider(struct ft_replay_directory *d, const char *name, unsigned run, unsigned number,
		     const struct ft_replay_place *place)
{
	struct ft_snapshot_header header;
	if ((place->run && run != place->run) || (place->checkpoint && number != place->checkpoint) || run < d->run ||
	    (run == d->run && number < d->checkpoint))
		return false;
	/* One whose segment has nothing in it yet: the one before goes as far. */
	char segment[64];
	struct stat st;
	snprintf(segment, sizeof(segment), FT_JOURNAL_SEGMENT, run, number);
	if (fstatat(d->fd, segment, &st, AT_SYMLINK_NOFOLLOW) || st.st_size < (off_t)sizeof(struct ft_segment_header))
		return false;
	int fd = open_file(d, name);
	bool good = fd >= 0 && !ft_snapshot_peek(fd, &header, NULL) && header.icount <= place->icount &&
		    header.created_ns <= place->wall_ns;
	if (fd >= 0)
		close(fd);
	if (!good)
		return false;
	d->run = run;
	d->checkpoint = number;
	d->icount = header.icount;
	return true;
}

int ft_replay_directory_open(struct ft_replay_directory *d, const char *path, const struct ft_replay_place *place, int *checkpoint,
			     struct ft_journal_files *files, struct ft_error *err)
{
	char name[64];
	unsigned run, number;
	*d = (struct ft_replay_directory){.fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
	*files = (struct ft_journal_files){.ring = -1};
	*checkpoint = -1;
	DIR *list = d->fd < 0 ? NULL : fdopendir(dup(d->fd));
	if (!list) {
		int error = -errno;
		ft_replay_directory_close(d, -1, files);
		return ft_error_set(err, error, "%s cannot be read: %s", path, strerror(-error));
	}
	bool any = false;
	for (struct dirent *e; (e = readdir(list));)
		if (is(e->d_name, FT_JOURNAL_CHECKPOINT, &run, &number))
			any |= consider(d, e->d_name, run, number, place);
	uint32_t numbers[FT_JOURNAL_SEGMENTS];
	unsigned count = any ? list_segments(d, list, d->checkpoint, numbers) : 0;
	closedir(list);
	if (!any) {
		ft_replay_directory_close(d, -1, files);
		return ft_error_set(err, -ENOENT, "%s has no checkpoint that this could be replayed from", path);
	}
	snprintf(name, sizeof(name), FT_JOURNAL_CHECKPOINT, d->run, d->checkpoint);
	*checkpoint = open_file(d, name);
	open_segments(d, numbers, count, files);
	files->more = open_more;
	files->context = d;
	snprintf(name, sizeof(name), FT_JOURNAL_RING, d->run);
	/* The ring goes on where the last segment ends. */
	if (count < FT_JOURNAL_SEGMENTS)
		files->ring = open_file(d, name);
	if (*checkpoint >= 0 && files->count && numbers[0] == d->checkpoint)
		return 0;
	ft_replay_directory_close(d, *checkpoint, files);
	*checkpoint = -1;
	return ft_error_set(err, -ENOENT, "%s: there is no journal from checkpoint %u of run %u on", path, d->checkpoint, d->run);
}

void ft_replay_directory_close(struct ft_replay_directory *d, int checkpoint, struct ft_journal_files *files)
{
	for (unsigned i = 0; i < files->count; i++)
		close(files->segments[i]);
	if (files->ring >= 0)
		close(files->ring);
	if (checkpoint >= 0)
		close(checkpoint);
	if (d->fd >= 0)
		close(d->fd);
	files->count = 0;
	files->ring = d->fd = -1;
}
