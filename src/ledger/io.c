#include "ledger/io.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static int system_open(void *context, int directory, const char *name, int flags, mode_t mode)
{
	int fd;
	do
		fd = openat(directory, name, flags | O_CLOEXEC | O_NOFOLLOW, mode);
	while (fd < 0 && errno == EINTR);
	return fd < 0 ? -errno : fd;
}

static ssize_t system_pwrite(void *context, int fd, const void *bytes, size_t length, off_t offset)
{
	ssize_t n;
	do
		n = pwrite(fd, bytes, length, offset);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

static int system_truncate(void *context, int fd, off_t length)
{
	return ftruncate(fd, length) ? -errno : 0;
}

static int system_sync(void *context, int fd)
{
	return fdatasync(fd) ? -errno : 0;
}

static int system_rename(void *context, int directory, const char *from, const char *to)
{
	return renameat(directory, from, directory, to) ? -errno : 0;
}

static int system_unlink(void *context, int directory, const char *name)
{
	return unlinkat(directory, name, 0) ? -errno : 0;
}

static int system_mkdir(void *context, int directory, const char *name, mode_t mode)
{
	return mkdirat(directory, name, mode) ? -errno : 0;
}

static int system_sync_directory(void *context, int fd)
{
	return fsync(fd) ? -errno : 0;
}

const struct ft_io ft_io_system = {
    .open = system_open,
    .pwrite = system_pwrite,
    .truncate = system_truncate,
    .sync = system_sync,
    .rename = system_rename,
    .unlink = system_unlink,
    .mkdir = system_mkdir,
    .sync_directory = system_sync_directory,
};

int ft_io_write(const struct ft_io *io, int fd, const void *bytes, size_t length, off_t offset)
{
	for (size_t done = 0; done < length;) {
		ssize_t n = io->pwrite(io->context, fd, (const char *)bytes + done, length - done, offset + (off_t)done);
		if (n <= 0)
			return n ? (int)n : -ENOSPC;
		done += (size_t)n;
	}
	return 0;
}

ssize_t ft_io_read(int fd, void *bytes, size_t length, off_t offset)
{
	size_t done = 0;
	while (done < length) {
		ssize_t n = pread(fd, (char *)bytes + done, length - done, offset + (off_t)done);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (!n)
			break;
		done += (size_t)n;
	}
	return (ssize_t)done;
}

void *ft_io_read_file(int directory, const char *name, size_t most, size_t *length, int *error)
{
	struct stat st;
	char *bytes = NULL;
	int fd = system_open(NULL, directory, name, O_RDONLY | O_NONBLOCK, 0);
	*error = fd < 0 ? fd : fstat(fd, &st) ? -errno : !S_ISREG(st.st_mode) ? -EINVAL : 0;
	if (!*error && (uint64_t)st.st_size > most)
		*error = -EFBIG;
	if (!*error) {
		bytes = malloc((size_t)st.st_size + 1);
		ssize_t n = bytes ? ft_io_read(fd, bytes, (size_t)st.st_size, 0) : -ENOMEM;
		*error = n < 0 ? (int)n : 0;
		*length = n < 0 ? 0 : (size_t)n;
	}
	if (fd >= 0)
		close(fd);
	if (*error) {
		free(bytes);
		return NULL;
	}
	bytes[*length] = 0;
	return bytes;
}

int ft_io_replace(const struct ft_io *io, int directory, const char *name, const void *bytes, size_t length, mode_t mode)
{
	char fresh[64];
	snprintf(fresh, sizeof(fresh), "%s.new", name);
	int fd = io->open(io->context, directory, fresh, O_WRONLY | O_CREAT | O_TRUNC, mode);
	if (fd < 0)
		return fd;
	int error = ft_io_write(io, fd, bytes, length, 0);
	if (!error)
		error = io->sync(io->context, fd);
	close(fd);
	if (!error)
		error = io->rename(io->context, directory, fresh, name);
	return error ? error : io->sync_directory(io->context, directory);
}
