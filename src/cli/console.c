#include "cli/console.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/printable.h"

#define LINE     1024u /* a longer line is shown in pieces */
#define AWAIT_MS 1000  /* a log that was replaced is a new file that no watch sees: look again this often */
#define TAIL     (256u << 10)

struct console {
	FILE *out;
	const char *path;
	int fd, watch;
	ino_t inode;
	off_t position;
	char line[LINE];
	size_t length;
};

static void print(struct console *c)
{
	char clean[4 * LINE + 1];
	while (c->length && c->line[c->length - 1] == '\r')
		c->length--;
	fprintf(c->out, "%s\n", ft_printable(clean, sizeof(clean), c->line, c->length));
	c->length = 0;
}

/* Prints what the file has by now, whole lines alone. */
static void drain(struct console *c)
{
	char block[4096];
	for (ssize_t n; (n = read(c->fd, block, sizeof(block))) > 0;) {
		c->position += n;
		for (ssize_t i = 0; i < n; i++) {
			if (block[i] != '\n')
				c->line[c->length++] = block[i];
			if (block[i] == '\n' || c->length == LINE)
				print(c);
		}
	}
}

/* Where the last lines begin. */
static off_t start_of(const struct console *c, off_t size, unsigned last)
{
	char block[4096];
	off_t least = size > (off_t)TAIL ? size - (off_t)TAIL : 0, end = size;
	unsigned newlines = 0;
	while (end > least) {
		off_t from = end - least > (off_t)sizeof(block) ? end - (off_t)sizeof(block) : least;
		ssize_t n = pread(c->fd, block, (size_t)(end - from), from);
		if (n <= 0)
			break;
		for (ssize_t i = n; i-- > 0;)
			if (block[i] == '\n' && from + i + 1 < size && ++newlines == last)
				return from + i + 1;
		end = from;
	}
	return least;
}

static int open_log(struct console *c, unsigned last)
{
	struct stat st;
	c->fd = open(c->path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (c->fd < 0 || fstat(c->fd, &st))
		return -errno;
	c->inode = st.st_ino;
	c->length = 0;
	c->position = last ? start_of(c, st.st_size, last) : 0;
	if (lseek(c->fd, c->position, SEEK_SET) < 0)
		return -errno;
	if (c->watch >= 0)
		inotify_add_watch(c->watch, c->path, IN_MODIFY);
	return 0;
}

/* The log is cut at its bound, and may be moved away. */
static bool replaced(const struct console *c)
{
	struct stat st;
	return !stat(c->path, &st) && (st.st_ino != c->inode || st.st_size < c->position);
}

int ft_console_show(FILE *out, const char *path, unsigned last, struct ft_error *err)
{
	struct console c = {.out = out, .path = path, .watch = inotify_init1(IN_CLOEXEC | IN_NONBLOCK)};
	int error = open_log(&c, last);
	while (!error) {
		char events[4096];
		drain(&c);
		if (fflush(out))
			break; /* nobody reads any more */
		if (replaced(&c)) {
			close(c.fd);
			error = open_log(&c, 0);
			continue;
		}
		struct pollfd polls[2] = {{c.watch, POLLIN, 0}, {fileno(out), 0, 0}};
		poll(polls, 2, AWAIT_MS);
		if (polls[1].revents & (POLLERR | POLLHUP))
			break;
		while (c.watch >= 0 && read(c.watch, events, sizeof(events)) > 0)
			;
	}
	if (c.fd >= 0)
		close(c.fd);
	if (c.watch >= 0)
		close(c.watch);
	if (!error)
		return 0;
	ft_error_set(err, error, "cannot show the console log %s: %s", path, strerror(-error));
	return error == -EACCES ? EX_NOPERM : error == -ENOENT ? EX_NOINPUT : EX_IOERR;
}
