#include "vmm/dev/virtio_blk.h"

#include <errno.h>
#include <string.h>

#define BLK_F_SIZE_MAX (1ull << 1)
#define BLK_F_SEG_MAX  (1ull << 2)
#define BLK_F_BLK_SIZE (1ull << 6)
#define BLK_F_FLUSH    (1ull << 9)

enum { TYPE_IN = 0, TYPE_OUT = 1, TYPE_FLUSH = 4, TYPE_GET_ID = 8 };
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

struct header {
	uint32_t type, reserved;
	uint64_t sector;
};

_Static_assert(sizeof(struct header) == HEADER, "as in virtio 1.2 section 5.2.6");

/* Moves [at, at + length) between the disk and [gpa, gpa + length), piece by piece of what lies together in memory. */
static int move(struct ft_virtio_blk *blk, bool write, uint64_t at, ft_gpa gpa, uint64_t length)
{
	struct ft_memory *ram = &blk->v.m->ram;
	int error = 0;
	for (uint64_t n; length && !error; length -= n, at += n, gpa = ft_gpa_add(gpa, n)) {
		n = length;
		if (write) {
			const void *from = ft_memory_span(ram, gpa, &n);
			error = from ? ft_disk_write(&blk->disk, ram, at, from, n) : -EPROTO;
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
		int error = move(blk, write, at, gpa, n);
		if (error)
			return error;
		at += n;
		length -= n;
	}
	return 0;
}

static uint8_t read_or_write(struct ft_virtio_blk *blk, bool write, uint64_t sector, uint64_t length)
{
	struct ft_machine *m = blk->v.m;
	uint64_t sectors = blk->disk.size / SECTOR, count = length / SECTOR;
	if (length % SECTOR || length > REQUEST_MAX || sector > sectors || count > sectors - sector)
		return STATUS_IOERR;
	if (m->hooks.mask & FT_HOOK_DISK)
		m->hooks.disk(m->hooks.context, write, sector, (uint32_t)count);
	return transfer(blk, write, sector * SECTOR, length) ? STATUS_IOERR : STATUS_OK;
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
	case TYPE_FLUSH: /* the overlay is memory: there is nothing it could be flushed to */
		status = STATUS_OK;
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
		uint32_t written;
		if (ft_virtio_chain(v, 0, (uint16_t)request.head))
			return;
		if (execute(blk, &written)) {
			ft_virtio_break(v);
			return;
		}
		ft_virtio_give(v, 0, (uint16_t)request.head, written);
	}
	ft_virtio_finish(v, 0);
	schedule(blk);
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
		blk->s.request[(blk->s.first + blk->s.count) % FT_VIRTQUEUE_MAX] =
		    (struct ft_blk_request){.due_ns = due_ns, .head = head};
		blk->s.count++;
	}
	ft_virtio_finish(v, queue); /* moves the event index on */
	schedule(blk);
}

static void reset(struct ft_virtio *v)
{
	struct ft_virtio_blk *blk = (struct ft_virtio_blk *)v;
	memset(&blk->s, 0, sizeof(blk->s));
	ft_timer_disarm(v->m, &blk->timer);
}

static const struct ft_virtio_kind kind = {.id = 2,
					   .class = 0x018000,
					   .name = "virtio-blk",
					   .features =
					       BLK_F_SIZE_MAX | BLK_F_SEG_MAX | BLK_F_BLK_SIZE | BLK_F_FLUSH,
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
	} config = {.capacity = blk->disk.size / SECTOR,
		    .size_max = SEGMENT_MAX,
		    .seg_max = SEGMENTS,
		    .block_size = SECTOR};
	memcpy(blk->v.config, &config, sizeof(config));
	ft_timer_register(m, &blk->timer, due, blk);
	return ft_virtio_create(&blk->v, m, &kind, err);
}

void ft_virtio_blk_destroy(struct ft_virtio_blk *blk)
{
	ft_disk_close(&blk->disk);
}
