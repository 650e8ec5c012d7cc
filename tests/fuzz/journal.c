/* Journals from anywhere: records, segments and rings, as a replay reads them, and rings as the scribe takes them. The input is
 * the bytes of one of these, or records that stand in a segment whose hashes are right.
 *
 * Must hold: what is decoded is possible, and encoded again it is the same bytes; nothing is read beyond what is there; a
 * refusal has a reason; and what the scribe makes of a ring is read again as the same records. */
#include "input.h"

#include <errno.h>
#include <sodium.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "journal/reader.h"
#include "journal/scribe.h"

static struct ft_journal_ring ring;
static int ring_file;

static void begin(void)
{
	struct ft_journal_ring_page page = {.magic = "FTJRING1", .size = FT_JOURNAL_RING_SIZE};
	memcpy(page.magic, "FTJRING1", 8);
	MUST(sodium_init() >= 0);
	ring_file = memfd_create("ring", MFD_CLOEXEC);
	MUST(ring_file >= 0 && !ftruncate(ring_file, FT_JOURNAL_RING_FILE));
	MUST(pwrite(ring_file, &page, sizeof(page), 0) == sizeof(page));
	MUST(!ft_journal_ring_open(&ring, ring_file, true, NULL));
}

static void fill_ring(const uint8_t *bytes, size_t length, uint64_t from)
{
	ring.page->head = ring.page->tail = ring.head = from;
	MUST(ft_journal_ring_put(&ring, bytes, length, NULL, 0));
}

static void expect_possible(const struct ft_record *r, const struct ft_record_state *before)
{
	MUST(r->kind < FT_RECORD_KINDS && r->where < FT_WHERES);
	MUST(r->icount >= before->last && r->icount <= INT64_MAX && r->length <= FT_RECORD_PAYLOAD_MAX);
	MUST(r->kind != FT_INPUT_CLOCK || (r->value >= before->clock && r->value <= INT64_MAX));
	MUST(!r->length || r->data);
}

/* One cursor for both. */
static void records(const uint8_t *bytes, size_t length, bool begun)
{
	struct ft_record_state state = {.begun = begun};
	struct ft_record_cursor cursor = {bytes, bytes + length};
	for (;;) {
		struct ft_record_state before = state, again = state;
		struct ft_error err = {0};
		const uint8_t *start = cursor.at;
		uint8_t control[FT_RECORD_CONTROL_MAX];
		struct ft_record r;
		int error = ft_record_decode(&state, &cursor, &cursor, &r, &err);
		MUST(cursor.at >= start && cursor.at <= cursor.end);
		if (error) {
			MUST(error == -EAGAIN || (error == -EBADMSG && err.code == error && *err.text));
			MUST(cursor.at == start && !memcmp(&state, &before, sizeof(state)));
			return;
		}
		expect_possible(&r, &before);
		size_t n = ft_record_encode(&again, &r, control);
		MUST(n <= sizeof(control) && n <= (size_t)(cursor.at - start) && !memcmp(control, start, n));
		MUST(!memcmp(&again, &state, sizeof(state)));
	}
}

/* All that a replay would see. */
static uint64_t read_all(struct ft_journal_files *files, int *error)
{
	struct ft_journal j;
	struct ft_error err = {0};
	uint64_t count = 0, last = 0;
	*error = ft_journal_open(&j, files, &err);
	MUST(!*error || *error == err.code);
	if (*error)
		return 0;
	const struct ft_record *r;
	for (;;) {
		ft_journal_peek(&j, count % 7, &err);
		err.code = 0;
		r = ft_journal_peek(&j, 0, &err);
		if (!r)
			break;
		/* A segment begins with an absolute count. */
		MUST(r->kind == FT_RECORD_CHECKPOINT || r->icount >= last);
		last = r->icount;
		if (r->length) {
			volatile uint8_t touched = r->data[r->length - 1] ^ r->data[0];
			(void)touched;
		}
		ft_journal_take(&j);
		count++;
	}
	*error = err.code;
	if (err.code && getenv("FT_DEBUG"))
		dprintf(2, "read: %s\n", err.text);
	MUST(!err.code || *err.text);
	ft_journal_close(&j);
	return count;
}

static int file_of(const uint8_t *bytes, size_t length)
{
	int fd = memfd_create("segment", MFD_CLOEXEC);
	MUST(fd >= 0 && write(fd, bytes, length) == (ssize_t)length);
	return fd;
}

/* A segment of these records, rightly hashed, and what is left of them in the ring. */
static void in_segment(struct input *in)
{
	struct ft_segment_writer w;
	struct ft_segment_header header = {.run = 1, .number = 1, .memory = 64 << 20, .guest = "web"};
	struct ft_error err = {0};
	int fd = memfd_create("segment", MFD_CLOEXEC), error;
	MUST(fd >= 0 && !ft_segment_writer_open(&w, &err) && !ft_segment_begin(&w, dup(fd), &header, NULL, &err));
	unsigned chunks = input8(in) % 4;
	for (unsigned i = 0; i < chunks && in->left; i++) {
		struct ft_segment_chunk chunk;
		uint8_t control[512], payload[512];
		size_t a = input16(in) % sizeof(control), b = input16(in) % sizeof(payload);
		a = a < in->left ? a : in->left;
		input_copy(in, control, a);
		b = b < in->left ? b : in->left;
		input_copy(in, payload, b);
		MUST(!ft_segment_put(&w, control, (uint32_t)a, payload, (uint32_t)b, input8(in), 100 * (i + 1), &chunk, &err));
	}
	ft_segment_writer_close(&w);
	fill_ring(in->at, in->left, chunks * 100);
	read_all(&(struct ft_journal_files){.segments = {fd, fd}, .count = 1 + chunks % 2, .ring = ring_file}, &error);
	close(fd);
}

/* The scribe takes a ring that says this. */
static void scribe(const uint8_t *bytes, size_t length)
{
	int pair[2], fd = memfd_create("segment", MFD_CLOEXEC), error;
	char room[CMSG_SPACE(sizeof(int))] = {0};
	struct ft_scribe_order order = {1};
	struct iovec part = {&order, sizeof(order)};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof(room)};
	MUST(fd >= 0 && !socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair));
	*CMSG_FIRSTHDR(&message) = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int))};
	memcpy(CMSG_DATA(CMSG_FIRSTHDR(&message)), &fd, sizeof(fd));
	MUST(sendmsg(pair[0], &message, 0) == sizeof(order));
	close(pair[0]);
	fill_ring(bytes, length, 0);
	struct ft_scribe s = {.ring = &ring,
			      .header = {.run = 1, .memory = 64 << 20, .guest = "web"},
			      .wake = eventfd(0, EFD_NONBLOCK),
			      .done = -1,
			      .orders = pair[1],
			      .channel = -1};
	struct ft_error err = {0};
	int result = ft_scribe_run(&s, &err);
	MUST(!result || err.code);
	MUST(ring.page->tail <= ring.page->head);
	/* What it took is in the segment, the rest in the ring. */
	if (ring.page->tail) {
		uint64_t count = 0;
		struct ft_record_state state = {0};
		struct ft_record_cursor cursor = {bytes, bytes + length};
		struct ft_record r;
		while (cursor.at < cursor.end && (uint64_t)(cursor.at - bytes) < ring.page->tail) {
			if ((*cursor.at & 15) == FT_RECORD_CHECKPOINT)
				state = (struct ft_record_state){0};
			MUST(!ft_record_decode(&state, &cursor, &cursor, &r, NULL));
			count++;
		}
		MUST((uint64_t)(cursor.at - bytes) == ring.page->tail);
		ring.page->head = ring.page->tail;
		MUST(read_all(&(struct ft_journal_files){.segments = {fd}, .count = 1, .ring = ring_file}, &error) == count && !error);
	}
	close(fd);
	close(pair[1]);
	close(s.wake);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
	static bool begun;
	struct input in = {bytes, length};
	int error;
	if (!begun)
		begin();
	begun = true;
	switch (input8(&in) % 6) {
	case 0:
		records(in.at, in.left, false);
		break;
	case 1:
		records(in.at, in.left, true);
		break;
	case 2: {
		int fd = file_of(in.at, in.left);
		read_all(&(struct ft_journal_files){.segments = {fd}, .count = 1, .ring = -1}, &error);
		close(fd);
		break;
	}
	case 3:
		in_segment(&in);
		break;
	case 4:
		scribe(in.at, in.left);
		break;
	default: {
		/* A ring that is none, or says what cannot be. */
		struct ft_journal_ring_page page = *ring.page;
		input_copy(&in, &page, in.left < sizeof(page) ? in.left : sizeof(page));
		MUST(pwrite(ring_file, &page, sizeof(page), 0) == sizeof(page));
		struct ft_journal_ring other;
		uint8_t to[64];
		if (!ft_journal_ring_open(&other, ring_file, false, NULL)) {
			long n = ft_journal_ring_peek(&other, input64(&in), to, sizeof(to));
			MUST(n == -EBADMSG || (n >= 0 && n <= (long)sizeof(to)));
			ft_journal_ring_close(&other);
		}
		memcpy(page.magic, "FTJRING1", 8);
		page.size = FT_JOURNAL_RING_SIZE;
		page.head = page.tail = 0;
		MUST(pwrite(ring_file, &page, sizeof(page), 0) == sizeof(page));
		break;
	}
	}
	return 0;
}
