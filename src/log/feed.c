#include "log/feed.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "log/eve.h"

/* How far back from the end a torn line may begin: longer than any line of ours. */
#define TAIL (512u << 10)

static uint64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_REALTIME, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t ft_feed_size(const struct ft_feed *feed)
{
	struct stat st;
	return feed->regular && !fstat(feed->fd, &st) ? (uint64_t)st.st_size : 0;
}

/* Bytes of a half line at the end. */
static size_t torn_bytes(int fd, uint64_t size)
{
	size_t n = size < TAIL ? (size_t)size : TAIL, torn = 0;
	char *tail = malloc(n ? n : 1);
	if (!tail)
		return 0;
	if (n && pread(fd, tail, n, (off_t)(size - n)) == (ssize_t)n) {
		const char *newline = memrchr(tail, '\n', n);
		torn = newline ? (size_t)(tail + n - newline) - 1 : size <= TAIL ? n : 0;
	}
	free(tail);
	return torn;
}

int ft_feed_open(struct ft_feed *feed, int fd, int reader, uint64_t quota, const char *sensor,
		 struct ft_error *err)
{
	struct stat st;
	int flags = fcntl(fd, F_GETFL);
	*feed = (struct ft_feed){.fd = fd, .quota = quota, .sensor = sensor};
	feed->last = &feed->first;
	if (flags < 0 || fstat(fd, &st))
		return ft_error_set(err, -errno, "the feed's descriptor is not usable: %s", strerror(errno));
	if ((flags & O_ACCMODE) == O_RDONLY || (S_ISREG(st.st_mode) && !(flags & O_APPEND)))
		return ft_error_set(err, -EINVAL, "the feed must be opened for appending");
	feed->regular = S_ISREG(st.st_mode);
	if (!feed->regular) {
		/* A pipe without a reader's attention must not stop us; what it cannot take waits as with a full disk. */
		fcntl(fd, F_SETFL, flags | O_NONBLOCK);
		return 0;
	}
	size_t torn = reader >= 0 ? torn_bytes(reader, (uint64_t)st.st_size) : 0;
	if (torn && !ftruncate(fd, st.st_size - (off_t)torn)) {
		char text[128];
		snprintf(text, sizeof(text), "the feed ended in half a line of %zu bytes, which was cut off",
			 torn);
		json_t *line = ft_eve_engine(sensor, now_ns(), "feed", text, 1);
		ft_feed_write(feed, line);
		json_decref(line);
	}
	return 0;
}

int ft_feed_reopen(struct ft_feed *feed, int fd, struct ft_error *err)
{
	struct stat st;
	if (fstat(fd, &st) || !S_ISREG(st.st_mode)) {
		close(fd);
		return ft_error_set(err, -EINVAL, "the reopened feed is no regular file");
	}
	close(feed->fd);
	feed->fd = fd;
	feed->regular = true;
	feed->begun = 0;
	ft_feed_retry(feed);
	return 0;
}

/* The first line as a whole, or nothing of it: 0 or errno. A pipe may take a part, which cannot be taken back; the rest
 * follows later. */
static int write_first(struct ft_feed *feed)
{
	const struct ft_feed_line *line = feed->first;
	uint64_t before = ft_feed_size(feed);
	if (feed->quota && before + line->length > feed->quota)
		return EDQUOT;
	ssize_t n;
	do
		n = write(feed->fd, line->text + feed->begun, line->length - feed->begun);
	while (n < 0 && errno == EINTR);
	if (n == (ssize_t)(line->length - feed->begun)) {
		feed->begun = 0;
		return 0;
	}
	if (n < 0)
		return errno;
	if (!feed->regular) {
		feed->begun += (size_t)n;
		return EAGAIN;
	}
	/* We are the only writer: what stands behind `before` is our half line. */
	return n > 0 && ftruncate(feed->fd, (off_t)before) ? errno : ENOSPC;
}

static bool append(struct ft_feed *feed, json_t *json)
{
	size_t length = json_dumpb(json, NULL, 0, JSON_COMPACT | JSON_ENSURE_ASCII);
	struct ft_feed_line *line = NULL;
	if (length && feed->waiting_bytes + length + 1 <= FT_FEED_WAITING)
		line = malloc(sizeof(*line) + length + 1);
	if (!line)
		return false;
	line->next = NULL;
	line->length = length + 1;
	json_dumpb(json, line->text, length, JSON_COMPACT | JSON_ENSURE_ASCII);
	line->text[length] = '\n';
	*feed->last = line;
	feed->last = &line->next;
	feed->waiting++;
	feed->waiting_bytes += line->length;
	return true;
}

/* What was lost came after all that waited: its place is here, when nothing waits. */
static void tell_loss(struct ft_feed *feed)
{
	char text[160];
	snprintf(
	    text, sizeof(text),
	    "%" PRIu64
	    " lines are missing here: the feed could not be written and memory for waiting lines was full",
	    feed->lost_untold);
	json_t *line = ft_eve_engine(feed->sensor, now_ns(), "feed", text, 1);
	if (line && append(feed, line))
		feed->lost_untold = 0;
	json_decref(line);
}

bool ft_feed_retry(struct ft_feed *feed)
{
	for (;;) {
		if (!feed->first && feed->lost_untold)
			tell_loss(feed);
		struct ft_feed_line *line = feed->first;
		if (!line)
			break;
		int error = write_first(feed);
		if (error) {
			feed->trouble = error;
			return false;
		}
		feed->first = line->next;
		if (!feed->first)
			feed->last = &feed->first;
		feed->waiting--;
		feed->waiting_bytes -= line->length;
		feed->written++;
		free(line);
	}
	feed->trouble = feed->lost_untold ? ENOMEM : 0;
	return !feed->trouble;
}

void ft_feed_write(struct ft_feed *feed, json_t *json)
{
	/* Once a line is lost, later ones are too until what waits has been written: a gap has one place. */
	if (feed->lost_untold)
		ft_feed_retry(feed);
	if (feed->lost_untold || !append(feed, json)) {
		feed->lost++;
		feed->lost_untold++;
		return;
	}
	ft_feed_retry(feed);
}

const char *ft_feed_trouble(const struct ft_feed *feed, char text[160])
{
	if (!feed->trouble)
		return NULL;
	const char *why = feed->trouble == EDQUOT ? "it has reached feed_quota" : strerror(feed->trouble);
	snprintf(text, 160,
		 "the feed cannot be written: %s; %" PRIu64 " lines wait in memory, %" PRIu64 " are lost",
		 why, feed->waiting, feed->lost);
	return text;
}

void ft_feed_close(struct ft_feed *feed)
{
	while (feed->first) {
		struct ft_feed_line *line = feed->first;
		feed->first = line->next;
		free(line);
	}
	feed->last = &feed->first;
	feed->waiting = 0;
	feed->waiting_bytes = 0;
}
