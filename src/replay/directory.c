#include "replay/directory.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "snapshot/file.h"

/* Is name exactly what format makes of two numbers? */
static bool is_checkpoint(const char *name, unsigned *run, unsigned *number)
{
	char made[64];
	if (sscanf(name, FT_JOURNAL_CHECKPOINT, run, number) != 2)
		return false;
	snprintf(made, sizeof(made), FT_JOURNAL_CHECKPOINT, *run, *number);
	return !strcmp(made, name);
}

static int open_file(const struct ft_replay_directory *d, const char *name)
{
	return openat(d->fd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
}

/* Is this one better than what has been chosen so far? The newest that begins early enough. */
static bool consider(struct ft_replay_directory *d, const char *name, unsigned run, unsigned number,
		     const struct ft_replay_place *place)
{
	struct ft_snapshot_header header;
	if ((place->run && run != place->run) || (place->checkpoint && number != place->checkpoint) || run < d->run ||
	    (run == d->run && number < d->checkpoint))
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
		if (is_checkpoint(e->d_name, &run, &number))
			any |= consider(d, e->d_name, run, number, place);
	closedir(list);
	if (!any) {
		ft_replay_directory_close(d, -1, files);
		return ft_error_set(err, -ENOENT, "%s has no checkpoint that this could be replayed from", path);
	}
	snprintf(name, sizeof(name), FT_JOURNAL_CHECKPOINT, d->run, d->checkpoint);
	*checkpoint = open_file(d, name);
	for (number = d->checkpoint; files->count < FT_JOURNAL_SEGMENTS; number++) {
		snprintf(name, sizeof(name), FT_JOURNAL_SEGMENT, d->run, number);
		int fd = open_file(d, name);
		if (fd < 0)
			break;
		/* Made, and nothing came into it yet: what there is of it is in the ring. */
		if (lseek(fd, 0, SEEK_END) < (off_t)sizeof(struct ft_segment_header) && files->count) {
			close(fd);
			break;
		}
		files->segments[files->count++] = fd;
	}
	snprintf(name, sizeof(name), FT_JOURNAL_RING, d->run);
	if (files->count < FT_JOURNAL_SEGMENTS)
		files->ring = open_file(d, name);
	if (*checkpoint >= 0 && files->count)
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
