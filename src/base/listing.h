/* The regular files of a directory whose names are of a kind, oldest first: for those who keep files up to a size or an age. */
#ifndef FT_BASE_LISTING_H
#define FT_BASE_LISTING_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

struct ft_listing_file {
	char name[NAME_MAX + 1];
	uint64_t bytes;
	struct timespec changed;
};

/* How many; *files: the caller's to free. By the time of their last change, those of one moment by name. directory: a descriptor, which
 * stays as it is. Symbolic links are not followed, nor listed. What cannot be read, or has no room in memory, is left out. */
size_t ft_listing(int directory, bool (*of_kind)(const char *name), struct ft_listing_file **files);

#endif
