#include "vmm/dev/virtio_blk.h"

#include <errno.h>
#include <string.h>

#define BLK_F_SIZE_MAX (1ull << 1)
#define BLK_F_SEG_MAX  (1ull << 2)
#define BLK_F_BLK_SIZE (1ull << 6)
#define BLK_F_FLUSH    (1ull << 9)
#define BLK_F_DISCARD  (1ull << 13)
#define BLK_F_ZEROES   (1ull << 14)

enum { TYPE_IN = 0, TYPE_OUT = 1, TYPE_FLUSH = 4, TYPE_GET_ID = 8, TYPE_DISCARD = 11, TYPE_ZEROES = 13 };
enum { STATUS_OK = 0, STATUS_IOERR = 1, STATUS_UNSUPPORTED = 2 };

#define SECTOR      512u
#define HEADER      16u
#define ID_LENGTH   20u
#define SEGMENT_MAX 65536u
#define SEGMENTS    126u

/* A request larger than this is not read or written: it bounds the work of one timer. The driver is told SEGMENTS times
 * SEGMENT_MAX, which is less. */
#define REQUEST_MAX (16u << 20)

/* Faster than any real disk, slower than the smallest interval a guest could mistake for none. */
#define LATENCY_NS 20000u

/* What a flush takes. Half of the syncs of a busy virtual disk are done by then, and most of a quiet one. */
#define FLUSH_NS 2000000u

/* Ranges of one discard or write zeroes, and sectors of each: a request's work is bounded like any other's. */
#define RANGES        16u
#define RANGE_SECTORS (1u << 18)

struct header {
	uint32_t type, reserved;
	uint64_t sector;
};

_Static_assert(sizeof(struct header) == HEADER, "as in virtio 1.2 section 5.2.6");

struct range {
	uint64_t sector;
	uint32_t sectors, flags;
};

/* What is to be written, gathered: the file takes it in one piece. */
struct gathered {
	struct iovec parts[FT_VIRTQUEUE_MAX];
	size_t count;
	uint64_t at, length;
};

static int write_gathered(struct ft_virtio_blk *blk, struct gathered *g)
{
	struct ft_machine *m = blk->v.m;
	int error = g->count ? ft_disk_writev(&blk->disk, &m->ram, m->icount, g->at, g->parts, g->count) : 0;
	g->at += g->length;
	g->length = 0;
	g->count = 0;
	return error;
}

/* Moves [at, at + length) between the disk and [gpa, gpa + length), piece by piece of what lies together in memory. */
static int move(struct ft_virtio_blk *blk, struct gathered *g, uint64_t at, ft_gpa gpa, uint64_t length)
{
	struct ft_memory *ram = &blk->v.m->ram;
	int error = 0;
	for (uint64_t n; length && !error; length -= n, at += n, gpa = ft_gpa_add(gpa, n)) {
		n = length;
		if (g) {
			const void *from = ft_memory_span(ram, gpa, &n);
			error = !from ? -EPROTO : g->count == FT_VIRTQUEUE_MAX ? write_gathered(blk, g) : 0;
			if (!error)
				g->parts[g->count++] = (struct iovec){.iov_base = (void *)from, .iov_len = n};
			g->length += n;
		} else {
			void *to = ft_memory_span_writable(ram, gpa, &n);
			error = to ? ft_disk_read(&blk->disk, at, to, n) : -EPROTO;
		}
	}
	return error;
}

/* Moves [at, at + length) between the disk and the chain's data, segment by segment. */
static int transfer(struct ft_virtio_blk *blk, bool write, uint64_t at, uint64_t length)
{
	const struct ft_chain *chain = &blk->v.chain;
	unsigned i = write ? 0 : chain->readable, end = write ? chain->readable : chain->count;
	uint64_t skip = write ? HEADER : 0;
	struct gathered g = {.at = at};
	for (; i < end && length; i++) {
		uint64_t n = chain->segment[i].length;
		if (skip >= n) {
			skip -= n;
			continue;
		}
		ft_gpa gpa = ft_gpa_add(chain->segment[i].at, skip);
		n -= skip;
		skip = 0;
		if (n > length)
			n = length;
		int error = move(blk, write ? &g : NULL, at, gpa, n);
		if (error)
			return error;
		at += n;
		length -= n;
	}
	return write_gathered(blk, &g);
}

static bool on_disk(const struct ft_virtio_blk *blk, uint64_t sector, uint64_t count)
{
	uint64_t sectors = blk->disk.size / SECTOR;
	return sector <= sectors && count <= sectors - sector;
}

static uint8_t read_or_write(struct ft_virtio_blk *blk, bool write, uint64_t sector, uint64_t length)
{
	struct ft_machine *m = blk->v.m;
	uint64_t count = length / SECTOR;
	if (length % SECTOR || length > REQUEST_MAX || !on_disk(blk, sector, count) || (write && blk->s.failed))
		return STATUS_IOERR;
	if (m->hooks.mask & FT_HOOK_DISK)
		m->hooks.disk(m->hooks.context, write, sector, (uint32_t)count);
	return transfer(blk, write, sector * SECTOR, length) ? STATUS_IOERR : STATUS_OK;
}

/* Discard and write zeroes: both leave zeros. All ranges are looked at before any is touched. */
static uint8_t zero(struct ft_virtio_blk *blk, uint64_t length, bool discard)
{
	struct ft_machine *m = blk->v.m;
	struct range ranges[RANGES];
	uint64_t count = length / sizeof(*ranges);
	if (!count || length % sizeof(*ranges) || count > RANGES || !ft_chain_read(&blk->v.chain, &m->ram, HEADER, ranges, length) ||
	    blk->s.failed)
		return STATUS_IOERR;
	for (uint64_t i = 0; i < count; i++) {
		/* Bit 0 of write zeroes allows to unmap; of discard it is reserved (virtio 1.2 section 5.2.6.1). */
		if (ranges[i].flags & ~(discard ? 0u : 1u))
			return STATUS_UNSUPPORTED;
		if (!ranges[i].sectors || ranges[i].sectors > RANGE_SECTORS || !on_disk(blk, ranges[i].sector, ranges[i].sectors))
			return STATUS_IOERR;
	}
	for (uint64_t i = 0; i < count; i++) {
		if (m->hooks.mask & FT_HOOK_DISK)
			m->hooks.disk(m->hooks.context, true, ranges[i].sector, ranges[i].sectors);
		if (ft_disk_zero(&blk->disk, &m->ram, m->icount, ranges[i].sector * SECTOR, (uint64_t)ranges[i].sectors * SECTOR))
			return STATUS_IOERR;
	}
	return STATUS_OK;
}

/* Carries out the request in v->chain; *written: bytes of the device's part that are filled. -EPROTO: no request. */
static int execute(struct ft_virtio_blk *blk, uint32_t *written)
{
	struct ft_virtio *v = &blk->v;
	const struct ft_chain *chain = &v->chain;
	struct header header;
	if (!chain->write_length || !ft_chain_read(chain, &v->m->ram, 0, &header, sizeof(header)))
		return -EPROTO;
	uint64_t room = chain->write_length - 1;
	uint8_t status = STATUS_UNSUPPORTED;
	char id[ID_LENGTH] = "foretaste";
	*written = 1;
	switch (header.type) {
	case TYPE_IN:
		status = read_or_write(blk, false, header.sector, room);
		if (status == STATUS_OK)
			*written = (uint32_t)room + 1;
		break;
	case TYPE_OUT:
		status = read_or_write(blk, true, header.sector, chain->read_length - HEADER);
		break;
	case TYPE_FLUSH: /* at its end */
		status = blk->s.failed ? STATUS_IOERR : STATUS_OK;
		break;
	case TYPE_DISCARD:
	case TYPE_ZEROES:
		status = zero(blk, chain->read_length - HEADER, header.type == TYPE_DISCARD);
		break;
	case TYPE_GET_ID:
		status = ft_chain_write(chain, &v->m->ram, 0, id, room < ID_LENGTH ? room : ID_LENGTH)
			     ? STATUS_OK
			     : STATUS_IOERR;
		break;
	}
	return ft_chain_write(chain, &v->m->ram, room, &status, 1) ? 0 : -EPROTO;
}

static void schedule(struct ft_virtio_blk *blk)
{
	ft_timer_arm(blk->v.m, &blk->timer, blk->s.count ? blk->s.request[blk->s.first].due_ns : UINT64_MAX);
}

static struct ft_blk_request *request_at(struct ft_virtio_blk *blk, uint32_t n)
{
	return &blk->s.request[(blk->s.first + n) % FT_VIRTQUEUE_MAX];
}

/* Behind all that are due before it or at the same time. There is room. */
static void insert(struct ft_virtio_blk *blk, struct ft_blk_request request)
{
	uint32_t n = blk->s.count++;
	for (; n && request_at(blk, n - 1)->due_ns > request.due_ns; n--)
		*request_at(blk, n) = *request_at(blk, n - 1);
	*request_at(blk, n) = request;
}

static bool is_flush(const struct ft_virtio_blk *blk)
{
	struct header header;
	return ft_chain_read(&blk->v.chain, &blk->v.m->ram, 0, &header, sizeof(header)) && header.type == TYPE_FLUSH;
}

/* A flush goes through here twice before it completes. What the host's disk says is not looked at here: see virtio_blk.h. */
static bool flush_goes_on(struct ft_virtio_blk *blk, struct ft_blk_request request)
{
	if (request.head & FT_BLK_WAITED)
		return false;
	if (request.head & FT_BLK_BEGUN) {
		ft_disk_flushed(&blk->disk);
		request.due_ns += LATENCY_NS;
		request.head |= FT_BLK_WAITED;
	} else {
		ft_disk_flush(&blk->disk);
		request.due_ns += FLUSH_NS;
		request.head |= FT_BLK_BEGUN;
	}
	insert(blk, request);
	return true;
}

static void due(void *context)
{
	struct ft_virtio_blk *blk = context;
	struct ft_virtio *v = &blk->v;
	uint64_t now = ft_machine_vtime(v->m);
	if (!ft_virtio_ready(v, 0)) /* waits for the bus: notify comes then */
		return;
	while (blk->s.count && blk->s.request[blk->s.first].due_ns <= now) {
		struct ft_blk_request request = blk->s.request[blk->s.first];
		memset(&blk->s.request[blk->s.first], 0, sizeof(request));
		blk->s.first = (blk->s.first + 1) % FT_VIRTQUEUE_MAX;
		blk->s.count--;
		uint16_t head = (uint16_t)(request.head & FT_BLK_HEAD);
		uint32_t written;
		if (ft_virtio_chain(v, 0, head))
			return;
		if (is_flush(blk) && flush_goes_on(blk, request)) {
			/* A disk that fails is told before the flush completes: the machine stops for it. */
			if (ft_virtio_blk_failure(blk))
				ft_machine_kick(v->m);
			continue;
		}
		if (execute(blk, &written)) {
			ft_virtio_break(v);
			return;
		}
		ft_virtio_give(v, 0, head, written);
	}
	if (ft_virtio_blk_failure(blk))
		ft_machine_kick(v->m);
	ft_virtio_finish(v, 0);
	schedule(blk);
}

int ft_virtio_blk_failure(const struct ft_virtio_blk *blk)
{
	return blk->s.failed ? 0 : blk->disk.failure;
}

static void notify(struct ft_virtio *v, unsigned queue)
{
	struct ft_virtio_blk *blk = (struct ft_virtio_blk *)v;
	uint64_t due_ns = ft_machine_vtime(v->m) + LATENCY_NS;
	uint16_t head;
	while (ft_virtio_take_head(v, queue, &head) > 0) {
		if (blk->s.count == FT_VIRTQUEUE_MAX) { /* more heads than the queue has */
			ft_virtio_break(v);
			return;
		}
		insert(blk, (struct ft_blk_request){.due_ns = due_ns, .head = head});
	}
	ft_virtio_finish(v, queue); /* moves the event index on */
	schedule(blk);
}

static void reset(struct ft_virtio *v)
{
	struct ft_virtio_blk *blk = (struct ft_virtio_blk *)v;
	uint64_t failed = blk->s.failed; /* the host's disk is no part of the device */
	memset(&blk->s, 0, sizeof(blk->s));
	blk->s.failed = failed;
	ft_timer_disarm(v->m, &blk->timer);
}

static const struct ft_virtio_kind kind = {.id = 2,
					   .class = 0x018000,
					   .name = "virtio-blk",
					   .features =
					       BLK_F_SIZE_MAX | BLK_F_SEG_MAX | BLK_F_BLK_SIZE | BLK_F_FLUSH |
					       BLK_F_DISCARD | BLK_F_ZEROES,
					   .queues = 1,
					   .notify = notify,
					   .reset = reset};

int ft_virtio_blk_create(struct ft_virtio_blk *blk, struct ft_machine *m, int fd, struct ft_error *err)
{
	int error = ft_disk_open(&blk->disk, fd, err);
	if (error)
		return error;
	struct {
		uint64_t capacity;
		uint32_t size_max, seg_max;
		uint8_t geometry[4];
		uint32_t block_size;
		uint8_t topology[8];
		uint8_t writeback, unused0[3];
		uint32_t discard_max, discard_ranges, discard_alignment;
		uint32_t zeroes_max, zeroes_ranges;
		uint8_t zeroes_unmap, unused1[3];
	} config = {.capacity = blk->disk.size / SECTOR,
		    .size_max = SEGMENT_MAX,
		    .seg_max = SEGMENTS,
		    .block_size = SECTOR,
		    .discard_max = RANGE_SECTORS,
		    .discard_ranges = RANGES,
		    .discard_alignment = FT_DISK_BLOCK / SECTOR,
		    .zeroes_max = RANGE_SECTORS,
		    .zeroes_ranges = RANGES,
		    .zeroes_unmap = 1};
	_Static_assert(sizeof(config) <= sizeof(blk->v.config), "as in virtio 1.2 section 5.2.4");
	memcpy(blk->v.config, &config, sizeof(config));
	ft_timer_register(m, &blk->timer, due, blk);
	return ft_virtio_create(&blk->v, m, &kind, err);
}

void ft_virtio_blk_destroy(struct ft_virtio_blk *blk)
{
	ft_disk_close(&blk->disk);
}
