/* A virtio device and a hostile driver: descriptor chains, rings, registers, in any order. Built once a device (DEVICE).
 *
 * Whatever was done: the device writes no memory that no descriptor or ring named, the disk's base image stays as it is, what
 * it says it has written it has been given room for, and after a reset it serves an honest driver as if nothing had been. */
#include "input.h"

#include <sys/prctl.h>
#include <unistd.h>

#include "driver.h"

enum { NET = 1, RNG = 2, BLK = 3 }; /* PCI slots */
enum { RECEIVE, TRANSMIT };

#define DISK_BYTES (64u << 10)

static int disk = -1;

struct world {
	struct driver d;
	bool wild; /* rings or descriptors are where the fuzzer did not see them put */
	bool large; /* a queue has as many places as there can be: its entries are not where the driver looks for them */
	bool loose; /* what is available is not what was offered */
	unsigned offered[2][DRIVER_QUEUE_SIZE + 1], outstanding[2];
	size_t fed; /* the most that came from outside at once */
	uint8_t named[FT_RAM_MIN / FT_PAGE_SIZE]; /* pages that the device may write */
};

static void name(struct world *w, uint64_t at, uint64_t length)
{
	if (!length || at >= FT_RAM_MIN)
		return;
	uint64_t end = length > FT_RAM_MIN - at ? FT_RAM_MIN : at + length;
	memset(w->named + at / FT_PAGE_SIZE, 1, (end - 1) / FT_PAGE_SIZE - at / FT_PAGE_SIZE + 1);
}

static uint64_t address(struct input *in)
{
	uint8_t how = input8(in);
	uint64_t at = DRIVER_DATA + input16(in) * 8ull;
	switch (how & 15) {
	case 0:
		return FT_RAM_MIN - (at & 0xff);
	case 1:
		return UINT64_MAX - (at & 0x1fff);
	case 2:
		return input64(in);
	case 3:
		return DRIVER_RINGS(how >> 7) + (at & 0x3fff);
	default:
		return at;
	}
}

static uint32_t length(struct input *in)
{
	static const uint32_t usual[] = {0,   1,   12,        14,        16,   17,    26,
					 512, 513, 1514 + 12, 1515 + 12, 4096, 65536, 20};
	uint8_t how = input8(in);
	if (how < 0xd0)
		return usual[how % (sizeof(usual) / sizeof(usual[0]))];
	return how < 0xf0 ? input16(in) : input32(in);
}

/* One descriptor somewhere in the table; mostly part of a sound chain. */
static void describe(struct world *w, struct input *in)
{
	uint8_t place = input8(in), how = input8(in);
	unsigned queue = (place >> 7) % w->d.queues, n = place % DRIVER_QUEUE_SIZE;
	uint64_t at = address(in);
	uint32_t size = length(in);
	uint16_t flags = how & 3, next = (how & 0x40) ? (uint16_t)(input8(in) % (DRIVER_QUEUE_SIZE + 1))
						      : (uint16_t)((n + 1) % DRIVER_QUEUE_SIZE);
	if ((how & 0x3c) == 0x3c)
		flags = input16(in);
	driver_describe(&w->d, queue, n, at, size, flags, next);
	name(w, at, size);
}

static void offer(struct world *w, unsigned queue, uint16_t head)
{
	w->offered[queue][head]++;
	/* More than there are places: what was used first is written over before it is looked at. */
	w->loose |= ++w->outstanding[queue] > DRIVER_QUEUE_SIZE;
	driver_offer(&w->d, queue, head);
	driver_notify(&w->d, queue);
}

/* A block request of three descriptors, a frame of one or two, or a buffer. */
static void request(struct world *w, struct input *in)
{
	struct driver *d = &w->d;
	uint8_t how = input8(in);
	uint64_t at = DRIVER_DATA + (how & 15) * 0x8000ull;
	unsigned queue = (how >> 7) % d->queues, n = (how & 3) * 4u;
	uint32_t size = length(in) % 0x8000;
	name(w, at, 0x8000);
	if (DEVICE == BLK) {
		uint32_t header[4] = {input8(in) % 10, 0, input8(in), 0};
		if (how & 0x40)
			input_copy(in, header, sizeof(header));
		driver_put(d, at, header, sizeof(header));
		driver_describe(d, 0, n, at, 16, DRIVER_NEXT, (uint16_t)(n + 1));
		driver_describe(d, 0, n + 1, at + 0x100, size,
				(uint16_t)(DRIVER_NEXT | (header[0] == 1 ? 0 : DRIVER_WRITE)),
				(uint16_t)(n + 2));
		driver_describe(d, 0, n + 2, at + 0x80, 1, DRIVER_WRITE, 0);
	} else {
		uint16_t write = DEVICE == RNG || queue == RECEIVE ? DRIVER_WRITE : 0;
		uint32_t cut = how & 0x40 ? size / 2 : 12;
		driver_describe(d, queue, n, at, cut, DRIVER_NEXT | write, (uint16_t)(n + 1));
		driver_describe(d, queue, n + 1, at + 0x4000, size > cut ? size - cut : 0, write, 0);
	}
	offer(w, queue, (uint16_t)n);
}

static void outside(struct world *w, struct input *in)
{
	struct driver *d = &w->d;
	uint8_t how = input8(in);
	size_t n = how & 1 ? input16(in) % 2048u : 60;
	uint8_t *bytes = malloc(n ? n : 1); /* of exactly this length */
	memset(bytes, how, n);
	if (n > w->fed)
		w->fed = n;
	ft_machine_input(d->pc.m, how & 2 ? FT_INPUT_ENTROPY : FT_INPUT_FRAME, 0, bytes, n);
	free(bytes);
}

/* Most bytes that one chain can have got. */
static int64_t most_written(const struct world *w, unsigned queue)
{
	if (DEVICE == BLK)
		return (int64_t)DRIVER_QUEUE_SIZE * UINT32_MAX;
	if (DEVICE == RNG)
		return (int64_t)w->fed;
	return queue == RECEIVE ? 12 + (int64_t)w->fed : 0;
}

/* What the device gave back: not more bytes than there were for it. */
static void look(struct world *w, unsigned queue)
{
	uint32_t head;
	int64_t written;
	for (unsigned i = 0; i < DRIVER_QUEUE_SIZE && (written = driver_used(&w->d, queue, &head)) >= 0; i++) {
		w->outstanding[queue] -= w->outstanding[queue] ? 1 : 0;
		if (w->wild || w->large)
			continue;
		MUST(head < DRIVER_QUEUE_SIZE && written <= most_written(w, queue));
		/* Each chain as often as it was offered. */
		MUST(w->loose || w->offered[queue][head]-- > 0);
	}
}

static void act(struct world *w, struct input *in)
{
	struct driver *d = &w->d;
	uint8_t op = input8(in), queue = (op >> 7) % (uint8_t)d->queues;
	switch (op % 12) {
	case 0: { /* a register, as it is meant to be written or not */
		uint8_t offset = input8(in) % 64, size = (uint8_t)(1u << (input8(in) & 3));
		uint64_t value = size == 8 ? address(in) : input16(in);
		w->wild |= offset >= 32;
		pc_store(&d->pc, d->registers + offset, size, value);
		break;
	}
	case 1:
	case 2:
	case 3:
		describe(w, in);
		break;
	case 4:
	case 5:
		offer(w, queue, input8(in) % (DRIVER_QUEUE_SIZE + 1));
		break;
	case 6: { /* the ring's index jumps, an entry is nonsense; or the same buffers are offered again and again */
		uint16_t value = input16(in);
		if (value >= 0xff00) {
			for (unsigned i = 0; i < (value & 0xff) * 2u; i++)
				offer(w, queue, i % (DRIVER_QUEUE_SIZE - 1));
			break;
		}
		w->loose = true;
		driver_put(d, DRIVER_RINGS(queue) + 0x2000 + (input8(in) & 0x3e), &value, 2);
		driver_notify(d, queue);
		break;
	}
	case 7:
		pc_pass(&d->pc, input8(in) * 1000ull);
		break;
	case 8:
		outside(w, in);
		break;
	case 9:
	case 10:
		request(w, in);
		break;
	case 11: {
		uint8_t what = input8(in);
		if (what < 32) {
			driver_start(d, what & 1 ? 1u << 29 : 0); /* EVENT_IDX */
			memset(w->offered, 0, sizeof(w->offered));
			memset(w->outstanding, 0, sizeof(w->outstanding));
			w->loose = w->large = false;
		} else if (what < 64) {
			uint64_t at = address(in) & ~15ull;
			w->wild = true;
			driver_place(d, queue, input16(in), at, at + 0x1000, at + 0x2000);
		} else if (what < 128) {
			pc_load(&d->pc, d->registers + input16(in) % 0x4000, 1u << (what & 3));
		} else if (what < 160) {
			w->wild = true;
			pc_store(&d->pc, d->registers + input16(in) % 0x4000, 1u << (what & 3), input64(in));
		} else if (what < 192) {
			w->large = true;
			driver_negotiate(d, 0);
			for (unsigned q = 0; q < d->queues; q++) {
				uint64_t ring = DRIVER_RINGS(q);
				driver_place(d, q, FT_VIRTQUEUE_MAX, ring, ring + 0x2000, ring + 0x3000);
			}
			pc_store(&d->pc, d->registers + 20, 1, 15);
		}
		break;
	}
	}
	look(w, queue);
}

/* Only what was named may be written; the lists of pages are the machine's own. */
static void check_writes(struct world *w)
{
	const struct ft_memory *ram = &w->d.pc.m->ram;
	uint64_t written = 0;
	for (uint64_t page = 0; page < FT_RAM_MIN / FT_PAGE_SIZE; page++)
		if (ram->page_flags[page] & FT_PAGE_WRITTEN) {
			MUST(w->wild || w->named[page]);
			written++;
		}
	MUST(ram->written >= written);
}

static void check_base(void)
{
	static uint8_t bytes[DISK_BYTES];
	MUST(pread(disk, bytes, sizeof(bytes), 0) == DISK_BYTES);
	for (size_t i = 0; i < sizeof(bytes); i++)
		MUST(bytes[i] == (uint8_t)(i / 512 + i % 512));
}

static void honest_blk(struct driver *d)
{
	uint32_t header[4] = {0, 0, 7, 0}, head;
	uint8_t sector[512], done = 0xff;
	memset(sector, 0x3c, sizeof(sector));
	for (int write = 1; write >= 0; write--) {
		header[0] = (uint32_t)write;
		driver_put(d, DRIVER_DATA, header, sizeof(header));
		driver_put(d, DRIVER_DATA + 0x1000, sector, sizeof(sector));
		driver_put(d, DRIVER_DATA + 0x100, &done, 1);
		driver_describe(d, 0, 0, DRIVER_DATA, 16, DRIVER_NEXT, 1);
		driver_describe(d, 0, 1, DRIVER_DATA + 0x1000, 512,
				(uint16_t)(DRIVER_NEXT | (write ? 0 : DRIVER_WRITE)), 2);
		driver_describe(d, 0, 2, DRIVER_DATA + 0x100, 1, DRIVER_WRITE, 0);
		driver_offer(d, 0, 0);
		driver_notify(d, 0);
		pc_pass(&d->pc, 1000000);
		MUST(driver_used(d, 0, &head) == (write ? 1 : 513) && head == 0);
		MUST(driver_get(d, DRIVER_DATA + 0x100, 1) == 0);
		memset(sector, 0, sizeof(sector));
	}
	MUST(driver_get(d, DRIVER_DATA + 0x1000, 8) == 0x3c3c3c3c3c3c3c3c);
	/* One sector behind the end: refused, and nothing is given. */
	header[2] = DISK_BYTES / 512;
	driver_put(d, DRIVER_DATA, header, sizeof(header));
	driver_offer(d, 0, 0);
	driver_notify(d, 0);
	pc_pass(&d->pc, 1000000);
	MUST(driver_used(d, 0, &head) == 1 && driver_get(d, DRIVER_DATA + 0x100, 1) == 1);
}

static void honest_rng(struct driver *d)
{
	uint32_t head;
	driver_describe(d, 0, 0, DRIVER_DATA, 32, DRIVER_WRITE, 0);
	driver_offer(d, 0, 0);
	driver_notify(d, 0);
	MUST(!ft_machine_input(d->pc.m, FT_INPUT_ENTROPY, 0, "0123456789abcdef0123456789abcdef", 32));
	MUST(driver_used(d, 0, &head) == 32 && head == 0);
	MUST(driver_get(d, DRIVER_DATA, 1) == '0');
}

static void honest_net(struct driver *d)
{
	uint32_t head;
	uint8_t frame[60], zero[12] = {0};
	memset(frame, 0x71, sizeof(frame));
	driver_put(d, DRIVER_DATA, zero, sizeof(zero));
	driver_put(d, DRIVER_DATA + 12, frame, sizeof(frame));
	driver_describe(d, TRANSMIT, 0, DRIVER_DATA, 12 + sizeof(frame), 0, 0);
	driver_offer(d, TRANSMIT, 0);
	unsigned sent = d->pc.sent_count;
	driver_notify(d, TRANSMIT);
	MUST(driver_used(d, TRANSMIT, &head) == 0 && d->pc.sent_count == sent + 1);
	MUST(d->pc.sent_length == sizeof(frame) && !memcmp(d->pc.sent, frame, sizeof(frame)));
	driver_describe(d, RECEIVE, 0, DRIVER_DATA, 2000, DRIVER_WRITE, 0);
	driver_offer(d, RECEIVE, 0);
	driver_notify(d, RECEIVE);
	MUST(!ft_machine_input(d->pc.m, FT_INPUT_FRAME, 0, frame, sizeof(frame)));
	MUST(driver_used(d, RECEIVE, &head) == 12 + sizeof(frame));
	MUST(driver_get(d, DRIVER_DATA + 12, 1) == 0x71);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	/* Small pages: the machines live for microseconds. */
	prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
	disk = pc_disk_image(DISK_BYTES);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size};
	static struct world w;
	memset(&w, 0, sizeof(w));
	driver_open(&w.d, DEVICE, DEVICE == BLK ? disk : -1);
	for (unsigned q = 0; q < w.d.queues; q++)
		name(&w, DRIVER_RINGS(q) + 0x3000, 0x1000);
	ft_memory_mark(&w.d.pc.m->ram);
	while (in.left)
		act(&w, &in);
	pc_pass(&w.d.pc, 1000000);
	check_writes(&w);
	if (DEVICE == BLK)
		check_base();

	pc_config_write(&w.d.pc, DEVICE, 4, 2, 6);
	driver_start(&w.d, 0);
	if (DEVICE == BLK)
		honest_blk(&w.d);
	else if (DEVICE == RNG)
		honest_rng(&w.d);
	else
		honest_net(&w.d);
	MUST(driver_status(&w.d) == 15);
	driver_close(&w.d);
	return 0;
}
