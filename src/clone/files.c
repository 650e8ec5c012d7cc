#include "clone/files.h"

#include <stdio.h>
#include <string.h>

/* ---- Descriptors -------------------------------------------------------------------------------------------- */

static int find(const struct ft_files *files, uint64_t cr3, uint64_t fd)
{
	for (unsigned i = 0; i < FT_FILES_OPEN; i++)
		if (files->open[i].cr3 == cr3 && files->open[i].fd == (uint32_t)fd)
			return (int)i;
	return -1;
}

void ft_files_opened(struct ft_files *files, uint64_t cr3, uint64_t fd, const char *path)
{
	int at = find(files, cr3, fd);
	for (unsigned i = 0; i < FT_FILES_OPEN && at < 0; i++)
		if (!files->open[i].cr3)
			at = (int)i;
	for (unsigned i = 0, oldest = 0; at < 0; i++) {
		if (i == FT_FILES_OPEN)
			at = (int)oldest;
		else if (files->open[i].used < files->open[oldest].used)
			oldest = i;
	}
	files->open[at].cr3 = cr3;
	files->open[at].fd = (uint32_t)fd;
	files->open[at].used = ++files->clock;
	if (files->open[at].path != path)
		snprintf(files->open[at].path, FT_FILES_PATH, "%s", path);
}

void ft_files_closed(struct ft_files *files, uint64_t cr3, uint64_t fd)
{
	int at = find(files, cr3, fd);
	if (at >= 0)
		files->open[at].cr3 = 0;
}

void ft_files_copied(struct ft_files *files, uint64_t cr3, uint64_t from, uint64_t to)
{
	int at = find(files, cr3, from);
	if ((uint32_t)from == (uint32_t)to)
		return;
	if (at < 0) {
		ft_files_closed(files, cr3, to);
		return;
	}
	char path[FT_FILES_PATH];
	memcpy(path, files->open[at].path, sizeof(path));
	ft_files_opened(files, cr3, to, path);
}

void ft_files_forked(struct ft_files *files, uint64_t parent, uint64_t child)
{
	/* The address space may have been somebody else's. */
	for (unsigned i = 0; i < FT_FILES_OPEN; i++)
		if (files->open[i].cr3 == child)
			files->open[i].cr3 = 0;
	uint64_t before = files->clock;
	for (unsigned i = 0; i < FT_FILES_OPEN; i++)
		if (files->open[i].cr3 == parent && files->open[i].used <= before) {
			char path[FT_FILES_PATH];
			memcpy(path, files->open[i].path, sizeof(path));
			ft_files_opened(files, child, files->open[i].fd, path);
		}
}

const char *ft_files_name(struct ft_files *files, uint64_t cr3, uint64_t fd)
{
	int at = find(files, cr3, fd);
	if (at < 0)
		return NULL;
	files->open[at].used = ++files->clock;
	return files->open[at].path;
}

/* ---- Names -------------------------------------------------------------------------------------------------- */

/* FNV-1a. Equal hashes of different names make something look new that is not; nothing looks old by them. */
static uint64_t hash(const char *bytes, size_t length)
{
	uint64_t h = 0xcbf29ce484222325u;
	for (size_t i = 0; i < length; i++)
		h = (h ^ (uint8_t)bytes[i]) * 0x100000001b3u;
	return h ? h : 1;
}

#define DEPTH 128u

/* Hashes of path and of each directory above it, by the components that are left when "." and ".." are carried out;
 * the last one is the path's. 0: not absolute, or too deep to say. */
static unsigned hashes(const char *path, uint64_t to[DEPTH])
{
	const char *part[DEPTH];
	size_t length[DEPTH];
	unsigned n = 0;
	if (path[0] != '/')
		return 0;
	while (*path) {
		path += strspn(path, "/");
		size_t l = strcspn(path, "/");
		if (l == 2 && path[0] == '.' && path[1] == '.') {
			n -= n > 0;
		} else if (l && !(l == 1 && path[0] == '.')) {
			if (n == DEPTH)
				return 0;
			part[n] = path;
			length[n++] = l;
		}
		path += l;
	}
	uint64_t above = 0;
	for (unsigned i = 0; i < n; i++)
		above = to[i] = (above * 31) ^ hash(part[i], length[i]);
	return n;
}

static uint64_t last_component(const char *path)
{
	size_t end = strlen(path);
	while (end && path[end - 1] == '/')
		end--;
	size_t begin = end;
	while (begin && path[begin - 1] != '/')
		begin--;
	return hash(path + begin, end - begin);
}

bool ft_files_wrote(struct ft_files *files, const char *path)
{
	uint64_t each[DEPTH], last = last_component(path);
	unsigned n = hashes(path, each);
	uint64_t whole = n ? each[n - 1] : 0;
	for (uint32_t i = 0; i < files->new_count; i++)
		if (files->new[i].path == whole && files->new[i].last == last)
			return true;
	if (files->new_count < FT_FILES_NEW) {
		files->new[files->new_count].path = whole;
		files->new[files->new_count++].last = last;
		return true;
	}
	bool first = !files->overflow;
	files->overflow = true;
	return !first;
}

bool ft_files_new(const struct ft_files *files, const char *path)
{
	uint64_t each[DEPTH], last = last_component(path);
	unsigned n = hashes(path, each);
	for (uint32_t i = 0; i < files->new_count; i++) {
		uint64_t whole = files->new[i].path;
		if ((!n || !whole) && files->new[i].last == last)
			return true;
		for (unsigned k = 0; whole && k < n; k++)
			if (each[k] == whole)
				return true;
	}
	return false;
}
