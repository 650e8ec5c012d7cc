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
#define QUIET_MS  10000 /* when all there is is the clock: each chunk is an entry of the ledger */
#define MANY	  (FT_SEGMENT_CHUNK / 2)
#define DRAIN_MAX 64 /* chunks at the end: more than a ring holds */

struct scribe {
	struct ft_scribe *s;
	struct ft_segment_writer writer;
	struct ft_record_state state;
	uint64_t tail;
	uint8_t *window, *control, *payload;
	uint32_t control_length, payload_length;
	struct ft_scribe_order order; /* of that segment; its key is wiped when it has begun */
	bool begun;   /* the segment of header.number has its header */
	bool failing; /* what was to be written last could not be */
	bool last;    /* what there is is written now */
	uint64_t written_ms; /* when the last chunk was */
	struct ft_segment_chunk untold; /* of header.number */
	bool has_untold;
	uint64_t told_ms;
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

static void tell(struct scribe *c)
{
	const struct ft_segment_chunk *chunk = &c->untold;
	char hex[2 * FT_SEGMENT_HASH + 1];
	if (!c->has_untold)
		return;
	c->has_untold = false;
	c->told_ms = monotonic_ms();
	sodium_bin2hex(hex, sizeof(hex), chunk->hash, sizeof(chunk->hash));
	say(c, json_pack("{s:s, s:I, s:I, s:I, s:s, s:I, s:I}", "op", "journal", "run", (json_int_t)c->s->header.run, "segment",
			 (json_int_t)c->s->header.number, "chunk", (json_int_t)chunk->sequence, "hash", hex, "instructions",
			 (json_int_t)chunk->icount, "bytes", (json_int_t)c->writer.bytes));
}

/* Where replies wait for each chunk there are hundreds a second: one hash a second stands for all before it. */
static void note_chunk(struct scribe *c, const struct ft_segment_chunk *chunk)
{
	if (c->s->told)
		c->s->told(c->s->context, chunk);
	c->untold = *chunk;
	c->has_untold = true;
	if (c->s->done < 0 || c->last || monotonic_ms() - c->told_ms >= EVERY_MS)
		tell(c);
}

/* Does somebody wait for what is in the ring? */
static bool is_wanted(const struct scribe *c)
{
	return c->s->done >= 0 && __atomic_load_n(&c->s->ring->page->wanted, __ATOMIC_ACQUIRE) > c->tail;
}

static void wake_waiting(const struct scribe *c)
{
	uint64_t one = 1;
	if (c->s->done >= 0 && write(c->s->done, &one, sizeof(one)) < 0 && errno != EAGAIN)
		return; /* it looks by itself now and then */
}

static int failed(struct scribe *c, const struct ft_error *err)
{
	if (!c->failing)
		say(c, json_pack("{s:s, s:s}", "op", "journal", "error", err->text));
	c->failing = true;
	__atomic_store_n(&c->s->ring->page->failing, 1, __ATOMIC_RELEASE);
	wake_waiting(c);
	return -EAGAIN;
}

static int take_order(const struct scribe *c, struct ft_scribe_order *order, struct ft_error *err)
{
	char room[CMSG_SPACE(sizeof(int))];
	struct iovec part = {.iov_base = order, .iov_len = sizeof(*order)};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof(room)};
	ssize_t n;
	do
		n = recvmsg(c->s->orders, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	struct cmsghdr *header = n > 0 ? CMSG_FIRSTHDR(&message) : NULL;
	if (n != sizeof(*order) || !header || header->cmsg_type != SCM_RIGHTS || header->cmsg_len != CMSG_LEN(sizeof(int)))
		return ft_error_set(err, -EBADMSG, "a checkpoint came without a file for its segment");
	int fd;
	memcpy(&fd, CMSG_DATA(header), sizeof(fd));
	return fd;
}

/* The descriptor of the checkpoint's segment. Those before it belong to checkpoints that never came into the ring. */
static int take_segment(struct scribe *c, uint64_t number, struct ft_error *err)
{
	if (number <= c->s->header.number || number > UINT32_MAX)
		return ft_error_set(err, -EBADMSG, "checkpoint %llu came after %u", (unsigned long long)number, c->s->header.number);
	for (;;) {
		int fd = take_order(c, &c->order, err);
		if (fd < 0 || c->order.number == number)
			return fd;
		close(fd);
	}
}

/* The first record in the ring is a checkpoint. */
static int begin_segment(struct scribe *c, uint64_t number, struct ft_error *err)
{
	int fd = -1;
	/* The same one again is one that could not be written. */
	if (number != c->s->header.number || c->writer.sequence) {
		fd = take_segment(c, number, err);
		if (fd < 0)
			return fd;
		tell(c);
		c->s->header.number = (uint32_t)number;
		c->begun = false;
	}
	int error = c->begun ? 0 : ft_segment_begin(&c->writer, fd, &c->s->header, c->order.sealed ? &c->order.seal : NULL, err);
	c->begun = !error;
	if (error)
		return failed(c, err);
	sodium_memzero(&c->order.seal, sizeof(c->order.seal));
	return 0;
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
	if (!segment && !c->last && !c->payload_length && c->control_length < MANY && monotonic_ms() - c->written_ms < QUIET_MS && !is_wanted(c)) {
		*any = false;
		return 0;
	}
	int error = segment ? begin_segment(c, number, err) : 0;
	if (error)
		return error;
	if (c->writer.fd < 0)
		return ft_error_set(err, -EBADMSG, "the journal does not begin with a checkpoint");
	if (ft_segment_put(&c->writer, c->control, c->control_length, c->payload, c->payload_length, icount, c->tail + (uint64_t)n, &chunk,
			   err))
		return failed(c, err);
	c->failing = false;
	__atomic_store_n(&c->s->ring->page->failing, 0, __ATOMIC_RELEASE);
	c->written_ms = monotonic_ms();
	c->state = state;
	bool waited = is_wanted(c);
	c->tail += (uint64_t)n;
	ft_journal_ring_release(c->s->ring, c->tail);
	if (waited)
		wake_waiting(c);
	note_chunk(c, &chunk);
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
		/* A disk that takes nothing is asked again once a second, however many wait. */
		if (c->failing)
			fds[0].fd = -1;
		if (now < due && (c->failing || !is_wanted(c)))
			poll(fds, 2, (int)(due - now));
		if (fds[0].revents && read(c->s->wake, &value, sizeof(value)) < 0 && errno != EAGAIN)
			return ft_error_set(err, -errno, "the scribe's eventfd is broken");
		bool last = fds[1].revents & (POLLHUP | POLLERR) || ended(c->s->orders), any = true;
		c->last = last;
		if (c->has_untold && monotonic_ms() - c->told_ms >= EVERY_MS)
			tell(c);
		/* Few records wait for their second; many go at once. */
		for (unsigned i = 0; any && i < DRAIN_MAX; i++) {
			int error = write_chunk(c, &any, err);
			if (error && error != -EAGAIN)
				return error;
			if (error || (!last && !is_wanted(c) && c->control_length + c->payload_length < MANY))
				break;
		}
		if (last) {
			tell(c);
			return 0;
		}
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
