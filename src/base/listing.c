#include "base/listing.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int by_age(const void *a, const void *b)
{
	const struct ft_listing_file *x = a, *y = b;
	if (x->changed.tv_sec != y->changed.tv_sec)
		return x->changed.tv_sec < y->changed.tv_sec ? -1 : 1;
	if (x->changed.tv_nsec != y->changed.tv_nsec)
		return x->changed.tv_nsec < y->changed.tv_nsec ? -1 : 1;
	return strcmp(x->name, y->name);
}

size_t ft_listing(int directory, bool (*of_kind)(const char *name), struct ft_listing_file **files)
{
	size_t count = 0, room = 0;
	/* A description of its own: another's place in the directory does not move. */
	int fd = openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *all = fd < 0 ? NULL : fdopendir(fd);
	*files = NULL;
	if (!all && fd >= 0)
		close(fd);
	for (struct dirent *e; all && (e = readdir(all));) {
		struct stat st;
		if (!of_kind(e->d_name) || fstatat(directory, e->d_name, &st, AT_SYMLINK_NOFOLLOW) || !S_ISREG(st.st_mode))
			continue;
		if (count == room) {
			room = room ? 2 * room : 64;
			struct ft_listing_file *more = realloc(*files, room * sizeof(*more));
			if (!more)
				break;
			*files = more;
		}
		struct ft_listing_file *f = &(*files)[count++];
		snprintf(f->name, sizeof(f->name), "%s", e->d_name);
		f->bytes = (uint64_t)st.st_size;
		f->changed = st.st_mtim;
	}
	if (all)
		closedir(all);
	if (count)
		qsort(*files, count, sizeof(**files), by_age);
	return count;
}
