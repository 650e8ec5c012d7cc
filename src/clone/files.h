/* What a trial opened and what it made new: by which names its processes know their open files, and which names in the file
 * system hold something else than they did at the fork. As far as system calls tell: symbolic links that were there before
 * are not followed, descriptors that came by a socket, dup() or fcntl() have no name.
 *
 * Bounded: the oldest descriptor makes room; when there are too many new names, ft_files_wrote says so, once, and whoever
 * judges must know that something was missed. */
#ifndef FT_CLONE_FILES_H
#define FT_CLONE_FILES_H

#include <stdbool.h>
#include <stdint.h>

#define FT_FILES_OPEN 256u
#define FT_FILES_NEW  2048u
#define FT_FILES_PATH 256u

struct ft_files {
	struct {
		uint64_t cr3, fd, used; /* cr3 0: free */
		char path[FT_FILES_PATH];
	} open[FT_FILES_OPEN];
	uint64_t clock;
	/* Hashes of normalised paths (0: not absolute) and of last components. */
	struct {
		uint64_t path, last;
	} new[FT_FILES_NEW];
	uint32_t new_count;
	bool overflow;
};

void ft_files_opened(struct ft_files *files, uint64_t cr3, uint64_t fd, const char *path);
void ft_files_closed(struct ft_files *files, uint64_t cr3, uint64_t fd);
/* dup2: to is from now. */
void ft_files_copied(struct ft_files *files, uint64_t cr3, uint64_t from, uint64_t to);
/* child has what parent has. */
void ft_files_forked(struct ft_files *files, uint64_t parent, uint64_t child);
/* The path that fd was opened by, or NULL. Valid until the next call. */
const char *ft_files_name(struct ft_files *files, uint64_t cr3, uint64_t fd);

/* path was opened for writing, made, or is the new name of something. False: no room, for the first time. */
bool ft_files_wrote(struct ft_files *files, const char *path);
/* Is path, or a directory above it, such a name? Where one of the two is not absolute, last components decide. */
bool ft_files_new(const struct ft_files *files, const char *path);

#endif
