/* Files of an ext4 file system as a view of a disk has it, through libext2fs, its journal replayed in memory: what a mount at that moment
 * would have shown. The file system is the guest's, and so hostile: only in a process that is confined (main.c). */
#ifndef FT_DISK_EXT4_H
#define FT_DISK_EXT4_H

#include "disk/history.h"

struct ft_ext4;

struct ft_ext4_file {
	uint32_t inode, generation;
	uint64_t size, mtime_s;
	uint32_t mode, uid;
};

/* The view is borrowed and must not move meanwhile. NULL: err. */
struct ft_ext4 *ft_ext4_open(struct ft_view *view, struct ft_error *err);
void ft_ext4_close(struct ft_ext4 *fs);

/* -ENOENT: there is no such file. */
int ft_ext4_find(struct ft_ext4 *fs, const char *path, struct ft_ext4_file *file, struct ft_error *err);

/* Its bytes from the beginning, in pieces, at most `most` of them. take returns 0 or an error that ends it. */
int ft_ext4_read(struct ft_ext4 *fs, const struct ft_ext4_file *file, uint64_t most, int (*take)(void *context, const void *bytes, size_t length),
		 void *context, struct ft_error *err);

#endif
