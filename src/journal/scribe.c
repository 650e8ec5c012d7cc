#include "journal/scribe.h"

#include <errno.h>
#include <poll.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/channel.h"

#define EVERY_MS  1000
#define MANY	  (FT_SEGMENT_CHUNK / 2)
#define DRAIN_MAX 64 /* chunks at the end: more than a ring holds */

struct scribe {
	struct ft_scribe *s;
	struct ft_segment_writer writer;
	struct ft_record_state state;
	uint64_t tail;
	uint8_t *window, *control, *payload;
	uint32_t control_length, payload_length;
	bool failing; /* the last chunk could not be written */
};

static uint64_t monotonic_ms(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000u + (uint64_t)t.tv_nsec / 1000000u;
}

static void say(const struct scribe *c, json_t *message)
{
	/* Never waited for. A hash that is lost is in the next one, which is chained to it. */
	if (message && c->s->channel >= 0)
		ft_channel_send(c->s->channel, message, NULL, 0);
	json_decref(message);
}

static void tell_chunk(const struct scribe *c, const struct ft_segment_chunk *chunk)
{
	char hex[2 * FT_SEGMENT_HASH + 1];
	if (c->s->told)
		c->s->told(c->s->context, chunk);
	sodium_bin2hex(hex, sizeof(hex), chunk->hash, sizeof(chunk->hash));
	say(c, json_pack("{s:s, s:I, s:I, s:I, s:s, s:I, s:I}", "op", "journal", "run", (json_int_t)c->s->header.run, "segment",
			 (json_int_t)c->s->header.number, "chunk", (json_int_t)chunk->sequence, "hash", hex, "instructions",
			 (json_int_t)chunk->icount, "bytes", (json_int_t)c->writer.bytes));
}

/* The descriptor that came with the checkpoint's order. */
static int take_segment(const struct scribe *c, struct ft_error *err)
{
	char byte, room[CMSG_SPACE(sizeof(int))];
	struct iovec part = {.iov_base = &byte, .iov_len = 1};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof(room)};
	ssize_t n;
	do
		n = recvmsg(c->s->orders, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	struct cmsghdr *header = n > 0 ? CMSG_FIRSTHDR(&message) : NULL;
	if (!header || header->cmsg_type != SCM_RIGHTS || header->cmsg_len != CMSG_LEN(sizeof(int)))
		return ft_error_set(err, -EBADMSG, "a checkpoint came without a file for its segment");
	int fd;
	memcpy(&fd, CMSG_DATA(header), sizeof(fd));
	return fd;
}

/* Fills control and payload with the next records. Returns how far in the window they reach; 0: there is nothing; *icount: of
 * the last one; *segment: the first one is a checkpoint. */
static long gather(struct scribe *c, struct ft_record_state *state, uint64_t *icount, bool *segment, uint64_t *number,
		   struct ft_error *err)
{
	long n = ft_journal_ring_peek(c->s->ring, c->tail, c->window, FT_SEGMENT_CHUNK);
	if (n < 0)
		return ft_error_set(err, (int)n, "the ring's positions cannot be");
	struct ft_record_cursor cursor = {c->window, c->window + n};
	struct ft_record r;
	c->control_length = c->payload_length = 0;
	*segment = false;
	while (cursor.at < cursor.end) {
		const uint8_t *start = cursor.at;
		bool checkpoint = (*start & 15) == FT_RECORD_CHECKPOINT;
		if (checkpoint && start != c->window)
			break;
		if (checkpoint)
			*state = (struct ft_record_state){0};
		int error = ft_record_decode(state, &cursor, &cursor, &r, err);
		if (error == -EAGAIN)
			break;
		if (error)
			return error;
		const uint8_t *end = ft_record_has_payload(&r) ? r.data : cursor.at;
		memcpy(c->control + c->control_length, start, (size_t)(end - start));
		c->control_length += (uint32_t)(end - start);
		memcpy(c->payload + c->payload_length, end, (size_t)(cursor.at - end));
		c->payload_length += (uint32_t)(cursor.at - end);
		*icount = r.icount;
		if (checkpoint) {
			*segment = true;
			*number = r.value;
		}
	}
	return cursor.at - c->window;
}

/* One chunk, if there is anything. 0; -EAGAIN: it could not be written; -EBADMSG and the like: the ring is of no use. */
static int write_chunk(struct scribe *c, bool *any, struct ft_error *err)
{
	struct ft_record_state state = c->state;
	struct ft_segment_chunk chunk;
	uint64_t icount = 0, number = 0;
	bool segment = false;
	long n = gather(c, &state, &icount, &segment, &number, err);
	*any = n > 0;
	if (n <= 0)
		return (int)n;
	if (segment && (!c->writer.bytes || c->s->header.number != number)) {
		int fd = number && number <= UINT32_MAX ? take_segment(c, err) : ft_error_set(err, -EBADMSG, "a checkpoint without a number");
		if (fd < 0)
			return fd;
		c->s->header.number = (uint32_t)number;
		int error = ft_segment_begin(&c->writer, fd, &c->s->header, err);
		if (error)
			return error;
	}
	if (c->writer.fd < 0)
		return ft_error_set(err, -EBADMSG, "the journal does not begin with a checkpoint");
	if (ft_segment_put(&c->writer, c->control, c->control_length, c->payload, c->payload_length, icount, c->tail + (uint64_t)n, &chunk,
			   err)) {
		if (!c->failing)
			say(c, json_pack("{s:s, s:s}", "op", "journal", "error", err->text));
		c->failing = true;
		return -EAGAIN;
	}
	c->failing = false;
	c->state = state;
	c->tail += (uint64_t)n;
	ft_journal_ring_release(c->s->ring, c->tail);
	tell_chunk(c, &chunk);
	return 0;
}

static bool ended(int orders)
{
	char byte;
	ssize_t n = recv(orders, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
	return n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR);
}

static int run(struct scribe *c, struct ft_error *err)
{
	uint64_t due = 0;
	for (;;) {
		struct pollfd fds[2] = {{.fd = c->s->wake, .events = POLLIN}, {.fd = c->s->orders, .events = 0}};
		uint64_t now = monotonic_ms(), value;
		if (now < due)
			poll(fds, 2, (int)(due - now));
		if (fds[0].revents && read(c->s->wake, &value, sizeof(value)) < 0 && errno != EAGAIN)
			return ft_error_set(err, -errno, "the scribe's eventfd is broken");
		bool last = fds[1].revents & (POLLHUP | POLLERR) || ended(c->s->orders), any = true;
		/* Few records wait for their second; many go at once. */
		for (unsigned i = 0; any && i < DRAIN_MAX; i++) {
			int error = write_chunk(c, &any, err);
			if (error && error != -EAGAIN)
				return error;
			if (error || (!last && c->control_length + c->payload_length < MANY))
				break;
		}
		if (last)
			return 0;
		due = monotonic_ms() + EVERY_MS;
	}
}

int ft_scribe_run(struct ft_scribe *scribe, struct ft_error *err)
{
	struct scribe c = {.s = scribe, .tail = scribe->ring->page->tail};
	c.window = malloc(FT_SEGMENT_CHUNK);
	c.control = malloc(FT_SEGMENT_CHUNK);
	c.payload = malloc(FT_SEGMENT_CHUNK);
	int error = ft_segment_writer_open(&c.writer, err);
	if (!error && (!c.window || !c.control || !c.payload))
		error = ft_error_set(err, -ENOMEM, "no memory to write a journal");
	if (!error)
		error = run(&c, err);
	if (error)
		say(&c, json_pack("{s:s, s:s}", "op", "journal", "error", err->text));
	ft_segment_writer_close(&c.writer);
	free(c.window);
	free(c.control);
	free(c.payload);
	return error;
}
