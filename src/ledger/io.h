/* What the ledger's writer asks of the file system, as a table: the product's is the system calls, a test's fails, tears
 * writes and cuts the power at any of them. Each returns 0 or more, or -errno; interrupted calls are repeated inside. */
#ifndef FT_LEDGER_IO_H
#define FT_LEDGER_IO_H

#include <stddef.h>
#include <sys/types.h>

struct ft_io {
	void *context;
	int (*open)(void *context, int directory, const char *name, int flags, mode_t mode);
	ssize_t (*pwrite)(void *context, int fd, const void *bytes, size_t length, off_t offset);
	int (*truncate)(void *context, int fd, off_t length);
	int (*sync)(void *context, int fd); /* fdatasync: data, and the length that it needs to be read */
	int (*rename)(void *context, int directory, const char *from, const char *to);
	int (*unlink)(void *context, int directory, const char *name);
	int (*mkdir)(void *context, int directory, const char *name, mode_t mode);
	int (*sync_directory)(void *context, int fd); /* fsync: names */
};

extern const struct ft_io ft_io_system;

/* Writes all of it: a short write is continued, one that goes nowhere is -ENOSPC. */
int ft_io_write(const struct ft_io *io, int fd, const void *bytes, size_t length, off_t offset);

/* Reads up to length bytes; how many there were, or -errno. Reading is the same for everybody. */
ssize_t ft_io_read(int fd, void *bytes, size_t length, off_t offset);

/* The whole of a file of at most `most` bytes, allocated; NULL with *error (-ENOENT, -EFBIG, ...). */
void *ft_io_read_file(int directory, const char *name, size_t most, size_t *length, int *error);

/* Puts a file in place of another, or as a new one, so that after a crash it is the old or the new as a whole; `directory`
 * is the one that it is in. */
int ft_io_replace(const struct ft_io *io, int directory, const char *name, const void *bytes, size_t length, mode_t mode);

#endif
