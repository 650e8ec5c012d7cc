#include "cli/feed.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#include "base/printable.h"
#include "cli/print.h"

#define LINE_MOST (4u << 20) /* a line above this is passed over */
#define AWAIT_MS  1000       /* a rotated file is a new one that no watch sees: look again this often */

/* What a line is to the table: nothing (Suricata's other event types repeat the alert), or a row. */
static bool is_row(const json_t *line)
{
	const char *type = json_string_value(json_object_get(line, "event_type"));
	return type && (!strcmp(type, "engine") || ft_print_at(line, "alert.context.foretaste"));
}

/* "2026-11-22T22:50:00.123456+0000" -> nanoseconds, so that all rows show the reader's own time zone. */
static json_int_t line_ns(const json_t *line)
{
	const char *text = json_string_value(json_object_get(line, "timestamp"));
	struct tm tm = {0};
	int micro = 0;
	if (!text || sscanf(text, "%4d-%2d-%2dT%2d:%2d:%2d.%6d", &tm.tm_year, &tm.tm_mon, &tm.tm_mday,
			    &tm.tm_hour, &tm.tm_min, &tm.tm_sec, &micro) != 7)
		return 0;
	tm.tm_year -= 1900;
	tm.tm_mon -= 1;
	return (json_int_t)timegm(&tm) * 1000000000 + (json_int_t)micro * 1000;
}

static void print_line(FILE *out, const json_t *line)
{
	const json_t *ours = ft_print_at(line, "alert.context.foretaste");
	char when[40], text[600], guest[48];
	if (json_object_get(ours, "hold")) {
		ft_print_row(out, ours);
		return;
	}
	ft_print_time(line_ns(line), false, when);
	if (ours) {
		ft_print_text(line, "alert.signature", text, sizeof(text));
		fprintf(out, "%-12s  %5s  guest %s: %s\n", when, "!",
			ft_print_text(ours, "guest", guest, sizeof(guest)), text);
	} else {
		ft_print_text(line, "engine.message", text, sizeof(text));
		fprintf(out, "%-12s  %5s  %s\n", when, "-", text);
	}
}

/* A file that grows, line by line. */
struct source {
	const char *path;
	int fd;
	ino_t inode;
	off_t position;
	char *line;
	size_t length, room;
	bool too_long;
	char block[64 << 10];
	size_t block_used, block_length;
};

static int open_source(struct source *source, struct ft_error *err)
{
	struct stat st;
	source->fd = open(source->path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	if (source->fd < 0 || fstat(source->fd, &st))
		return ft_error_set(err, -errno, "cannot open the feed %s: %s", source->path,
				    strerror(errno));
	source->inode = st.st_ino;
	source->position = 0;
	source->length = source->block_used = source->block_length = 0;
	return 0;
}

static bool append(struct source *source, const char *bytes, size_t length)
{
	if (source->length + length > LINE_MOST)
		source->too_long = true;
	if (source->too_long)
		return true;
	if (source->length + length + 1 > source->room) {
		size_t room = 2 * (source->length + length + 1);
		char *line = realloc(source->line, room);
		if (!line)
			return false;
		source->line = line;
		source->room = room;
	}
	memcpy(source->line + source->length, bytes, length);
	source->length += length;
	source->line[source->length] = 0;
	return true;
}

/* The next whole line in source->line; false: none for now. */
static bool next_line(struct source *source)
{
	for (;;) {
		if (source->block_used == source->block_length) {
			ssize_t n = read(source->fd, source->block, sizeof(source->block));
			if (n <= 0)
				return false;
			source->position += n;
			source->block_used = 0;
			source->block_length = (size_t)n;
		}
		char *start = source->block + source->block_used;
		size_t left = source->block_length - source->block_used;
		char *newline = memchr(start, '\n', left);
		size_t length = newline ? (size_t)(newline - start) : left;
		if (!append(source, start, length))
			return false;
		source->block_used += length + (newline != NULL);
		if (newline) {
			bool whole = !source->too_long && source->length > 0;
			source->too_long = false;
			if (whole)
				return true;
			source->length = 0;
		}
	}
}

/* Calls for each row; in JSON mode all lines are rows. */
static json_t *next_row(struct source *source, bool json)
{
	while (next_line(source)) {
		json_t *line = json_loadb(source->line, source->length, 0, NULL);
		source->length = 0;
		if (json_is_object(line) && (json || is_row(line)))
			return line;
		json_decref(line);
	}
	return NULL;
}

static void put(FILE *out, json_t *line, bool json)
{
	if (json) {
		json_dumpf(line, out, JSON_COMPACT);
		fputc('\n', out);
	} else {
		print_line(out, line);
	}
	json_decref(line);
}

/* The end of what is there. */
static int print_last(FILE *out, struct source *source, unsigned last, bool json)
{
	json_t **kept = calloc(last ? last : 1, sizeof(*kept));
	uint64_t count = 0;
	if (!kept)
		return -ENOMEM;
	for (json_t *line; (line = next_row(source, json));) {
		if (!last) {
			json_decref(line);
			continue;
		}
		json_decref(kept[count % last]);
		kept[count++ % last] = line;
	}
	if (!json)
		ft_print_head(out);
	for (uint64_t i = count > last ? count - last : 0; i < count; i++)
		put(out, kept[i % last], json);
	free(kept);
	return fflush(out) ? -errno : 0;
}

/* Whether the name stands for another file now, or the file was cut. */
static bool replaced(const struct source *source)
{
	struct stat st;
	return !stat(source->path, &st) && (st.st_ino != source->inode || st.st_size < source->position);
}

static int follow_source(FILE *out, struct source *source, bool json)
{
	struct pollfd poll_fd = {.fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK), .events = POLLIN};
	char events[4096];
	int error = 0;
	if (poll_fd.fd >= 0)
		inotify_add_watch(poll_fd.fd, source->path, IN_MODIFY);
	while (!error) {
		for (json_t *line; (line = next_row(source, json));)
			put(out, line, json);
		if (fflush(out))
			break; /* nobody reads any more */
		if (replaced(source)) {
			close(source->fd);
			error = open_source(source, NULL);
			if (!error && poll_fd.fd >= 0)
				inotify_add_watch(poll_fd.fd, source->path, IN_MODIFY);
			continue;
		}
		poll(&poll_fd, 1, AWAIT_MS);
		if (poll_fd.fd >= 0 && read(poll_fd.fd, events, sizeof(events)) < 0 && errno != EAGAIN)
			break;
	}
	if (poll_fd.fd >= 0)
		close(poll_fd.fd);
	return error;
}

int ft_feed_print(FILE *out, const char *path, unsigned last, bool json, bool follow, struct ft_error *err)
{
	struct source *source = calloc(1, sizeof(*source));
	if (!source)
		return EX_OSERR;
	source->path = path;
	int error = open_source(source, err), code = error == -EACCES ? EX_NOPERM : error ? EX_NOINPUT : 0;
	if (!error)
		error = print_last(out, source, last, json);
	if (!error && follow)
		error = follow_source(out, source, json);
	if (error && !code) {
		ft_error_set(err, error, "cannot show the feed: %s", strerror(-error));
		code = EX_IOERR;
	}
	if (source->fd >= 0)
		close(source->fd);
	free(source->line);
	free(source);
	return code;
}
