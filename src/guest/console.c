#include "guest/console.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

void ft_console_open(struct ft_console *console, int fd)
{
	console->fd = fd;
	console->written = console->lost = 0;
	console->filled = 0;
	off_t end = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);
	if (end > 0)
		console->written = (uint64_t)end;
}

void ft_console_flush(struct ft_console *console)
{
	size_t done = 0;
	if (console->written + console->filled > FT_CONSOLE_BOUND && !ftruncate(console->fd, 0))
		console->written = 0;
	while (console->fd >= 0 && done < console->filled) {
		ssize_t n = write(console->fd, console->buffer + done, console->filled - done);
		if (n < 0 && errno == EINTR)
			continue;
		/* A full disk costs the log, not the guest. */
		if (n <= 0)
			break;
		done += (size_t)n;
	}
	console->written += done;
	console->lost += console->filled - done;
	console->filled = 0;
}

void ft_console_reopen(struct ft_console *console, int fd)
{
	ft_console_flush(console);
	if (console->fd >= 0)
		close(console->fd);
	console->fd = fd;
	off_t end = lseek(fd, 0, SEEK_END);
	console->written = end > 0 ? (uint64_t)end : 0;
}

void ft_console_put(struct ft_console *console, const char *bytes, size_t length)
{
	while (length) {
		size_t n = sizeof(console->buffer) - console->filled;
		if (n > length)
			n = length;
		memcpy(console->buffer + console->filled, bytes, n);
		console->filled += n;
		bytes += n;
		length -= n;
		if (console->filled == sizeof(console->buffer))
			ft_console_flush(console);
	}
}
