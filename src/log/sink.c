#include "log/sink.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/units.h"
#include "log/eve.h"

#define JSON_FLAGS (JSON_COMPACT | JSON_ENSURE_ASCII)

void ft_sink_open(struct ft_sink *sink, const struct ft_sink_config *config)
{
	*sink = (struct ft_sink){.config = *config, .fd = -1};
	sink->last = &sink->first;
	snprintf(sink->trouble, sizeof(sink->trouble), "there has been no connection yet");
}

void ft_sink_close(struct ft_sink *sink)
{
	while (sink->first) {
		struct ft_sink_line *line = sink->first;
		sink->first = line->next;
		free(line);
	}
	if (sink->fd >= 0)
		close(sink->fd);
	ft_sink_open(sink, &sink->config);
}

/* ---- The queue --------------------------------------------------------------------------------------------- */

/* The line as this sink gets it, or NULL without memory. */
static struct ft_sink_line *frame(struct ft_sink *sink, const json_t *json)
{
	struct ft_sink_line *line;
	if (sink->config.datagrams) {
		bool shortened = false;
		size_t length = 0;
		char *text =
		    ft_syslog_message(&sink->config.syslog, sink->config.sensor, json, &length, &shortened);
		line = text ? malloc(sizeof(*line) + length) : NULL;
		if (line) {
			line->length = length;
			memcpy(line->text, text, length);
			sink->shortened += shortened;
		}
		free(text);
		return line;
	}
	size_t length = json_dumpb(json, NULL, 0, JSON_FLAGS);
	line = length ? malloc(sizeof(*line) + length + 1) : NULL;
	if (line) {
		line->length = length + 1;
		json_dumpb(json, line->text, length, JSON_FLAGS);
		line->text[length] = '\n';
	}
	return line;
}

/* false: no room. */
static bool append(struct ft_sink *sink, const json_t *json)
{
	struct ft_sink_line *line = frame(sink, json);
	if (!line || sink->waiting_bytes + line->length > sink->config.buffer) {
		free(line);
		return false;
	}
	line->next = NULL;
	*sink->last = line;
	sink->last = &line->next;
	if (!sink->waits)
		sink->waits = line;
	sink->waiting++;
	sink->waiting_bytes += line->length;
	return true;
}

/* The oldest line that was handed over has been read. */
static void forget(struct ft_sink *sink)
{
	struct ft_sink_line *line = sink->first;
	sink->first = line->next;
	if (!sink->first)
		sink->last = &sink->first;
	sink->unread--;
	sink->unread_bytes -= line->length;
	free(line);
}

static bool was_reset(const struct ft_sink *sink)
{
	struct pollfd look = {.fd = sink->fd};
	return poll(&look, 1, 0) > 0 && look.revents & POLLERR;
}

/* Forgets what the reader has read for certain. The kernel says how much memory the unread part of what we sent takes;
 * that is never less than its bytes, so a line with at least that many bytes behind it is not among it. A reader that
 * goes away takes its unread part along: the kernel first marks our end as reset and then frees that part, so it is
 * asked in the other order. */
static void settle(struct ft_sink *sink)
{
	int memory = 0;
	if (!sink->config.datagrams &&
	    (ioctl(sink->fd, TIOCOUTQ, &memory) || memory < 0 || (sink->unread && was_reset(sink))))
		return;
	while (sink->unread && sink->unread_bytes - sink->first->length + sink->begun >= (size_t)memory)
		forget(sink);
}

/* ---- The connection ---------------------------------------------------------------------------------------- */

/* The connection is of no use any more. What may not have been read waits again, and a begun line begins anew. */
static void hang_up(struct ft_sink *sink, bool reset, const char *why)
{
	if (!reset)
		settle(sink);
	sink->waits = sink->first;
	sink->waiting += sink->unread;
	sink->waiting_bytes += sink->unread_bytes;
	sink->written -= sink->unread;
	sink->again += sink->unread;
	sink->unread = 0;
	sink->unread_bytes = sink->begun = 0;
	sink->full = false;
	close(sink->fd);
	sink->fd = -1;
	snprintf(sink->trouble, sizeof(sink->trouble), "%s", why);
}

static void broken(struct ft_sink *sink, int error)
{
	/* A reader that closes with lines unread gives us a reset, which poll reports even where a write saw EPIPE. */
	bool reset = error == ECONNRESET || was_reset(sink);
	bool closed = error == EPIPE || error == ECONNREFUSED;
	hang_up(sink, reset,
		reset    ? "the reader went away with lines unread"
		: closed ? "the reader has closed the connection"
			 : strerror(error));
}

void ft_sink_connect(struct ft_sink *sink, int fd)
{
	if (sink->fd >= 0)
		hang_up(sink, false, "replaced");
	sink->fd = fd;
	sink->full = false;
	sink->trouble[0] = 0;
	ft_sink_pump(sink);
}

void ft_sink_refuse(struct ft_sink *sink, const char *why)
{
	if (sink->fd < 0)
		snprintf(sink->trouble, sizeof(sink->trouble), "%s", why);
}

short ft_sink_events(const struct ft_sink *sink)
{
	return sink->full ? POLLOUT : 0;
}

void ft_sink_ready(struct ft_sink *sink, short events)
{
	if (sink->fd < 0 || !events)
		return;
	if (events & (POLLERR | POLLHUP | POLLNVAL)) {
		broken(sink, events & POLLERR ? ECONNRESET : EPIPE);
		return;
	}
	sink->full = false;
	ft_sink_pump(sink);
}

/* ---- Handing over ------------------------------------------------------------------------------------------- */

/* Sends what is left of the first line that waits: 0 when it is away as a whole, or errno. */
static int send_line(struct ft_sink *sink)
{
	struct ft_sink_line *line = sink->waits;
	/* sendmsg and not send: one system call less for the filter to allow. */
	struct iovec part = {.iov_base = line->text + sink->begun, .iov_len = line->length - sink->begun};
	struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1};
	ssize_t n;
	do
		n = sendmsg(sink->fd, &header, MSG_NOSIGNAL | MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return errno;
	sink->begun += (size_t)n;
	if (sink->begun < line->length)
		return EAGAIN;
	sink->begun = 0;
	sink->waits = line->next;
	sink->waiting--;
	sink->waiting_bytes -= line->length;
	sink->unread++;
	sink->unread_bytes += line->length;
	sink->written++;
	if (sink->config.datagrams)
		settle(sink);
	return 0;
}

static json_t *engine_line(const struct ft_sink *sink, const char *text)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	return ft_eve_engine(sink->config.sensor, (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec,
			     "feed", text, 1);
}

/* A datagram that is more than the socket takes; the supervisor gives it room for the longest limit, so this is for
 * machines where it cannot. The line's place is taken by one that says so. */
static void lose_first(struct ft_sink *sink)
{
	struct ft_sink_line *line = sink->waits;
	char text[128];
	snprintf(text, sizeof(text),
		 "a line of %zu bytes is missing here: the syslog socket takes no such datagram",
		 line->length);
	json_t *json = engine_line(sink, text);
	struct ft_sink_line *instead = frame(sink, json);
	json_decref(json);
	if (!instead || instead->length >= line->length) {
		free(instead);
		hang_up(sink, false, strerror(EMSGSIZE));
		return;
	}
	instead->next = line->next;
	sink->waits = sink->first =
	    instead; /* nothing is kept before it: datagrams are forgotten when sent */
	if (!instead->next)
		sink->last = &instead->next;
	sink->waiting_bytes -= line->length - instead->length;
	sink->lost++;
	free(line);
}

static void tell_loss(struct ft_sink *sink)
{
	char text[192], size[FT_UNITS_TEXT];
	snprintf(text, sizeof(text),
		 "%" PRIu64
		 " lines are missing here: feed.%s did not take them and its buffer of %s was full; "
		 "the feed file has them",
		 sink->lost_untold, sink->config.name, ft_units_format_size(sink->config.buffer, size));
	json_t *line = engine_line(sink, text);
	if (line && append(sink, line))
		sink->lost_untold = 0;
	json_decref(line);
}

void ft_sink_pump(struct ft_sink *sink)
{
	if (sink->fd >= 0)
		settle(sink);
	while (sink->fd >= 0 && !sink->full) {
		if (sink->waiting_bytes <= sink->config.buffer / 2) {
			sink->losing = false;
			if (sink->lost_untold)
				tell_loss(sink);
		}
		if (!sink->waits)
			return;
		int error = send_line(sink);
		if (error == EAGAIN)
			sink->full = true;
		else if (error == EMSGSIZE && sink->config.datagrams)
			lose_first(sink);
		else if (error)
			broken(sink, error);
	}
}

void ft_sink_write(struct ft_sink *sink, const json_t *line)
{
	/* Once a line is lost, later ones are too until there is room for many: a gap has one place. */
	if (sink->losing || !append(sink, line)) {
		sink->losing = true;
		sink->lost++;
		sink->lost_untold++;
		return;
	}
	ft_sink_pump(sink);
}

json_t *ft_sink_status(const struct ft_sink *sink)
{
	json_t *status = json_pack("{s:s, s:b, s:I, s:I, s:I}", "path", sink->config.path, "connected",
				   sink->fd >= 0, "lines", (json_int_t)sink->written, "waiting",
				   (json_int_t)sink->waiting, "lost", (json_int_t)sink->lost);
	if (sink->config.datagrams)
		json_object_set_new(status, "shortened", json_integer((json_int_t)sink->shortened));
	else
		json_object_set_new(status, "again", json_integer((json_int_t)sink->again));
	if (sink->trouble[0])
		json_object_set_new(status, "trouble", json_string(sink->trouble));
	return status;
}
