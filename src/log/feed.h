/* The feed file: one JSON object a line, each line whole or not there at all.
 *
 * Declared policy when a line cannot be written (disk full, quota, I/O error): nothing that is in the feed is ever
 * overwritten. Lines wait in memory, in order, up to FT_FEED_WAITING bytes, and are tried again; after that new lines
 * are lost and counted. The first line after a loss is an `engine` line that says how many are missing and why. The
 * caller never blocks. A partial write is cut off again, so a reader never sees half a line; a half line that a power cut
 * or a kill left at the end is cut off at start, and that is told in the feed. */
#ifndef FT_LOG_FEED_H
#define FT_LOG_FEED_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

#define FT_FEED_WAITING (8u << 20)

struct ft_feed_line {
	struct ft_feed_line *next;
	size_t length;
	char text[]; /* with its newline, without a NUL */
};

struct ft_feed {
	int fd; /* opened O_APPEND; the caller's until ft_feed_reopen */
	bool regular;
	uint64_t quota; /* bytes; 0: none */
	const char *sensor;
	struct ft_feed_line *first, **last;
	size_t waiting_bytes;
	size_t begun; /* bytes of the first line that a pipe has taken already */
	uint64_t waiting, written, lost, lost_untold;
	int trouble; /* errno of the last failed write, EDQUOT for the quota; 0 while all is well */
};

/* fd: for writing; reader: the same file for reading (to find a half line at the end), or -1. Both stay the caller's;
 * reader is only used here. sensor is borrowed. -EINVAL when fd is no file opened for appending. */
int ft_feed_open(struct ft_feed *feed, int fd, int reader, uint64_t quota, const char *sensor,
		 struct ft_error *err);

/* Goes on in another file, as after a rotation: what waits goes there. Takes fd over and closes the old one; -EINVAL when fd is
 * no file opened for appending: it is closed, and nothing has changed. */
int ft_feed_reopen(struct ft_feed *feed, int fd, struct ft_error *err);

/* Writes line (borrowed) or lets it wait. */
void ft_feed_write(struct ft_feed *feed, json_t *line);

/* Tries what waits. True when nothing waits any more. */
bool ft_feed_retry(struct ft_feed *feed);

/* What is wrong, as a sentence, or NULL. */
const char *ft_feed_trouble(const struct ft_feed *feed, char text[160]);

/* Bytes in the file, 0 when it is none. */
uint64_t ft_feed_size(const struct ft_feed *feed);

/* Forgets what waits; the descriptor stays open. */
void ft_feed_close(struct ft_feed *feed);

#endif
