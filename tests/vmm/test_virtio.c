/* The virtio devices, driven the way a guest drives them; then the way a hostile one does. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "driver.h"

enum { SLOT_NET = 1, SLOT_RNG = 2, SLOT_BLK = 3 };

#define DISK_BYTES (1u << 20)
#define DATA       DRIVER_DATA

/* ---- A driver (driver.h) ---- */

/* And with the PIC masked: interrupts come by MSI-X alone. */
static void open_driver(struct driver *d, unsigned slot, int disk)
{
	driver_open(d, slot, disk);
	pc_out(&d->pc, 0x21, 1, 0xff);
}

static void put16(struct driver *d, uint64_t at, uint16_t value)
{
	driver_put(d, at, &value, 2);
}

static int interrupt(struct driver *d)
{
	if (!d->pc.m->interrupt)
		return -1;
	int vector = ft_irq_acknowledge(d->pc.m);
	pc_store(&d->pc, 0xfee000b0, 4, 0);
	return vector;
}

/* ---- Behaving drivers ---- */

static void blk_request(struct driver *d, uint32_t type, uint64_t sector, uint32_t length)
{
	struct {
		uint32_t type, reserved;
		uint64_t sector;
	} header = {.type = type, .sector = sector};
	driver_put(d, DATA, &header, sizeof(header));
	driver_put(d, DATA + 0x100, "\xff", 1);
	driver_describe(d, 0, 0, DATA, 16, DRIVER_NEXT, 1);
	driver_describe(d, 0, 1, DATA + 0x1000, length, (uint16_t)(DRIVER_NEXT | (type == 1 ? 0 : DRIVER_WRITE)), 2);
	driver_describe(d, 0, 2, DATA + 0x100, 1, DRIVER_WRITE, 0);
	driver_offer(d, 0, 0);
	driver_notify(d, 0);
}

static uint8_t blk_status(struct driver *d)
{
	uint8_t value;
	assert_true(ft_memory_read(&d->pc.m->ram, ft_gpa_make(DATA + 0x100), &value, 1));
	return value;
}

static void a_device_without_the_bus_touches_no_memory(void **state)
{
	int fd = pc_disk_image(DISK_BYTES);
	struct driver d;
	/* Taken away before the request, given back later. */
	open_driver(&d, SLOT_BLK, fd);
	pc_config_write(&d.pc, SLOT_BLK, 4, 2, 2);
	blk_request(&d, 0, 9, 512);
	pc_pass(&d.pc, 1000000);
	assert_int_equal(driver_used(&d, 0, NULL), -1);
	assert_int_equal(blk_status(&d), 0xff);
	pc_config_write(&d.pc, SLOT_BLK, 4, 2, 6);
	pc_pass(&d.pc, 1000000);
	assert_int_equal(driver_used(&d, 0, NULL), 513);
	assert_int_equal(interrupt(&d), 0x40);
	/* Taken away while the request is under way. */
	blk_request(&d, 0, 9, 512);
	pc_config_write(&d.pc, SLOT_BLK, 4, 2, 2);
	pc_pass(&d.pc, 1000000);
	assert_int_equal(driver_used(&d, 0, NULL), -1);
	assert_int_equal(blk_status(&d), 0xff);
	assert_int_equal(interrupt(&d), -1);
	pc_config_write(&d.pc, SLOT_BLK, 4, 2, 6);
	pc_pass(&d.pc, 1000000);
	assert_int_equal(driver_used(&d, 0, NULL), 513);
	assert_int_equal(blk_status(&d), 0);
	/* A driver that resets the device has nothing to wait for. */
	blk_request(&d, 0, 9, 512);
	pc_config_write(&d.pc, SLOT_BLK, 4, 2, 2);
	driver_reset(&d);
	pc_config_write(&d.pc, SLOT_BLK, 4, 2, 6);
	pc_pass(&d.pc, 1000000);
	assert_int_equal(driver_used(&d, 0, NULL), -1);
	pc_close(&d.pc);
	close(fd);
}

static void a_network_card_without_the_bus_neither_sends_nor_receives(void **state)
{
	static const uint8_t frame[64] = {1};
	struct driver d;
	open_driver(&d, SLOT_NET, -1);
	driver_describe(&d, 0, 0, DATA, 2048, DRIVER_WRITE, 0);
	driver_offer(&d, 0, 0);
	pc_config_write(&d.pc, SLOT_NET, 4, 2, 2);
	ft_machine_input(d.pc.m, FT_INPUT_FRAME, 0, frame, sizeof(frame));
	pc_pass(&d.pc, 1000000);
	assert_int_equal(driver_used(&d, 0, NULL), -1);
	driver_describe(&d, 1, 0, DATA + 0x1000, 76, 0, 0);
	driver_offer(&d, 1, 0);
	driver_notify(&d, 1);
	pc_pass(&d.pc, 1000000);
	assert_int_equal(d.pc.sent_count, 0);
	pc_config_write(&d.pc, SLOT_NET, 4, 2, 6);
	pc_pass(&d.pc, 1000000);
	assert_int_equal(d.pc.sent_count, 1);
	ft_machine_input(d.pc.m, FT_INPUT_FRAME, 0, frame, sizeof(frame));
	pc_pass(&d.pc, 1000000);
	assert_int_equal(driver_used(&d, 0, NULL), 12 + 64);
	pc_close(&d.pc);
}

static void disk_reads_base_and_keeps_writes_to_itself(void **state)
{
	int fd = pc_disk_image(DISK_BYTES);
	struct driver d;
	open_driver(&d, SLOT_BLK, fd);
	assert_true(pc_load(&d.pc, d.registers + 0x2000, 8) == DISK_BYTES / 512);

	blk_request(&d, 0, 9, 1024);
	assert_false(ft_machine_quiet(d.pc.m));
	pc_pass(&d.pc, 10000);
	assert_int_equal(driver_used(&d, 0, NULL), -1); /* not before its latency has passed */
	pc_pass(&d.pc, 1000000);
	assert_true(ft_machine_quiet(d.pc.m) || d.pc.m->interrupt);
	assert_int_equal(driver_used(&d, 0, NULL), 1025);
	assert_int_equal(interrupt(&d), 0x40);
	assert_int_equal(blk_status(&d), 0);
	const uint8_t *data = ft_memory_span(&d.pc.m->ram, ft_gpa_make(DATA + 0x1000), &(uint64_t){1024});
	assert_int_equal(data[0], 9);
	assert_int_equal(data[513], 11);

	/* A write inside of a block: the rest of it stays as in the base image, which does not change. */
	uint8_t sector[512];
	memset(sector, 0xa5, sizeof(sector));
	driver_put(&d, DATA + 0x1000, sector, sizeof(sector));
	uint64_t before = ft_machine_hash(d.pc.m);
	blk_request(&d, 1, 10, 512);
	pc_pass(&d.pc, 1000000);
	assert_int_equal(driver_used(&d, 0, NULL), 1);
	assert_int_equal(blk_status(&d), 0);
	assert_true(ft_machine_hash(d.pc.m) != before);
	blk_request(&d, 0, 8, 4096);
	pc_pass(&d.pc, 1000000);
	driver_used(&d, 0, NULL);
	data = ft_memory_span(&d.pc.m->ram, ft_gpa_make(DATA + 0x1000), &(uint64_t){4096});
	for (unsigned i = 0; i < 4096; i++)
		assert_int_equal(data[i], i / 512 == 2 ? 0xa5 : (uint8_t)(8 + i / 512 + i % 512));
	uint8_t base[512];
	assert_int_equal(pread(fd, base, 512, 10 * 512), 512);
	assert_int_equal(base[0], 10);

	/* Overlay blocks count in the memory budget, once a mark. */
	ft_memory_mark(&d.pc.m->ram);
	uint64_t blocks = d.pc.m->devices->blk.disk.written_blocks;
	for (unsigned i = 0; i < 3; i++) {
		blk_request(&d, 1, 10, 512);
		pc_pass(&d.pc, 1000000);
		driver_used(&d, 0, NULL);
	}
	assert_int_equal(d.pc.m->devices->blk.disk.written_blocks, blocks);
	unsigned pages = 0;
	for (uint64_t page = 0; page < d.pc.m->ram.size / FT_PAGE_SIZE; page++)
		pages += d.pc.m->ram.page_flags[page] & FT_PAGE_WRITTEN;
	assert_int_equal(d.pc.m->ram.written, pages + 1);

	blk_request(&d, 4, 0, 0x10); /* flush */
	pc_pass(&d.pc, 1000000);
	driver_used(&d, 0, NULL);
	assert_int_equal(blk_status(&d), 0);
	blk_request(&d, 77, 0, 512);
	pc_pass(&d.pc, 1000000);
	driver_used(&d, 0, NULL);
	assert_int_equal(blk_status(&d), 2);
	pc_close(&d.pc);
	close(fd);
}

static void disk_refuses_what_lies_outside(void **state)
{
	int fd = pc_disk_image(DISK_BYTES + 700); /* its end is inside of a block */
	struct driver d;
	open_driver(&d, SLOT_BLK, fd);
	uint64_t sectors = (DISK_BYTES + 700) / 512;
	static const struct {
		uint64_t from_end;
		uint32_t type, length;
		uint8_t status;
	} cases[] = {{0, 0, 512, 1},  {1, 0, 512, 0}, {1, 0, 1024, 1}, {1, 1, 512, 0},         {0, 1, 512, 1},
		     {1, 1, 1024, 1}, {4, 0, 513, 1}, {4, 1, 100, 1},  {1ull << 60, 0, 512, 1}};
	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		blk_request(&d, cases[i].type, sectors - cases[i].from_end, cases[i].length);
		pc_pass(&d.pc, 1000000);
		assert_true(driver_used(&d, 0, NULL) > 0);
		assert_int_equal(blk_status(&d), cases[i].status);
	}
	blk_request(&d, 0, UINT64_MAX, 512);
	pc_pass(&d.pc, 1000000);
	driver_used(&d, 0, NULL);
	assert_int_equal(blk_status(&d), 1);
	assert_int_equal(driver_status(&d), 15); /* mistakes, not violations */
	pc_close(&d.pc);
	close(fd);
}

static void net_keeps_frames_in_order_until_there_is_room(void **state)
{
	struct driver d;
	open_driver(&d, SLOT_NET, -1);
	uint8_t frame[FT_NET_FRAME_MAX] = {0};
	for (unsigned i = 0; i < 5; i++) {
		frame[20] = (uint8_t)i;
		assert_int_equal(ft_machine_input(d.pc.m, FT_INPUT_FRAME, 0, frame, 60 + i), 0);
	}
	assert_int_equal(ft_machine_frames_waiting(d.pc.m), 5);
	for (unsigned i = 0; i < 3; i++) {
		driver_describe(&d, 0, 2 * i, DATA + 0x1000 * i, 12, DRIVER_WRITE | DRIVER_NEXT, (uint16_t)(2 * i + 1));
		driver_describe(&d, 0, 2 * i + 1, DATA + 0x1000 * i + 0x100, 1514, DRIVER_WRITE, 0);
		driver_offer(&d, 0, (uint16_t)(2 * i));
	}
	driver_notify(&d, 0);
	assert_int_equal(ft_machine_frames_waiting(d.pc.m), 2);
	assert_int_equal(interrupt(&d), 0x40);
	for (unsigned i = 0; i < 3; i++) {
		uint32_t head;
		assert_int_equal(driver_used(&d, 0, &head), 12 + 60 + i);
		assert_int_equal(head, 2 * i);
		const uint8_t *at = ft_memory_span(&d.pc.m->ram, ft_gpa_make(DATA + 0x1000 * i), &(uint64_t){0x200});
		assert_int_equal(at[10], 1);
		assert_int_equal(at[0x100 + 20], i);
	}
	/* Too many: refused and counted, those that wait are not lost. */
	int error = 0;
	for (unsigned i = 0; i < 2 * FT_NET_WAITING && !error; i++)
		error = ft_machine_input(d.pc.m, FT_INPUT_FRAME, 0, frame, 60);
	assert_int_equal(error, -ENOBUFS);
	assert_int_equal(ft_machine_frames_waiting(d.pc.m), FT_NET_WAITING);
	assert_int_equal(d.pc.m->frames_dropped, 1);
	assert_int_equal(ft_machine_input(d.pc.m, FT_INPUT_FRAME, 0, frame, FT_NET_FRAME_MAX + 1), -EINVAL);
	assert_int_equal(ft_machine_input(d.pc.m, FT_INPUT_FRAME, 0, frame, 13), -EINVAL);
	driver_reset(&d);
	assert_int_equal(ft_machine_frames_waiting(d.pc.m), 0);
	assert_int_equal(ft_machine_input(d.pc.m, FT_INPUT_FRAME, 0, frame, 60), -ENETDOWN);
	pc_close(&d.pc);
}

static void net_sends_what_is_a_frame(void **state)
{
	struct driver d;
	open_driver(&d, SLOT_NET, -1);
	uint8_t bytes[64];
	for (unsigned i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)i;
	driver_put(&d, DATA, (uint8_t[12]){0}, 12);
	driver_put(&d, DATA + 0x100, bytes, sizeof(bytes));
	driver_describe(&d, 1, 0, DATA, 12, DRIVER_NEXT, 1);
	driver_describe(&d, 1, 1, DATA + 0x100, 30, DRIVER_NEXT, 2); /* in pieces */
	driver_describe(&d, 1, 2, DATA + 0x11e, 34, 0, 0);
	driver_offer(&d, 1, 0);
	driver_notify(&d, 1);
	assert_int_equal(d.pc.sent_count, 1);
	assert_int_equal(d.pc.sent_length, 64);
	assert_memory_equal(d.pc.sent, bytes, 64);
	assert_int_equal(driver_used(&d, 1, NULL), 0);
	assert_int_equal(interrupt(&d), 0x41);
	static const uint32_t lengths[] = {12, 25, 12 + FT_NET_FRAME_MAX + 1, 1}; /* no frames */
	for (unsigned i = 0; i < 4; i++) {
		driver_describe(&d, 1, 0, DATA, lengths[i], 0, 0);
		driver_offer(&d, 1, 0);
		driver_notify(&d, 1);
		assert_int_equal(driver_used(&d, 1, NULL), 0);
	}
	assert_int_equal(d.pc.sent_count, 1);
	assert_int_equal(driver_status(&d), 15);
	pc_close(&d.pc);
}

static void answer_at_once(void *context, const void *frame, size_t length)
{
	assert_int_equal(ft_machine_input(context, FT_INPUT_FRAME, 0, frame, length), 0);
}

static void net_may_be_answered_while_it_sends(void **state)
{
	struct driver d;
	uint32_t head;
	open_driver(&d, SLOT_NET, -1);
	d.pc.m->backend.net_tx = answer_at_once;
	d.pc.m->backend.context = d.pc.m;
	driver_describe(&d, 0, 5, DATA + 0x1000, 1526, DRIVER_WRITE, 0);
	driver_offer(&d, 0, 5);
	for (unsigned i = 0; i < 2; i++) {
		driver_describe(&d, 1, 2 + i, DATA, 12 + 60 + i, 0, 0);
		driver_offer(&d, 1, (uint16_t)(2 + i));
	}
	driver_notify(&d, 1);
	/* Each buffer comes back once, on its own queue; the second answer waits for one. */
	assert_int_equal(driver_used(&d, 0, &head), 12 + 60);
	assert_int_equal(head, 5);
	assert_int_equal(driver_used(&d, 1, &head), 0);
	assert_int_equal(head, 2);
	assert_int_equal(driver_used(&d, 1, &head), 0);
	assert_int_equal(head, 3);
	assert_int_equal(ft_machine_frames_waiting(d.pc.m), 1);
	pc_close(&d.pc);
}

static void rng_takes_bytes_only_through_the_door(void **state)
{
	struct driver d;
	open_driver(&d, SLOT_RNG, -1);
	driver_describe(&d, 0, 0, DATA, 64, DRIVER_WRITE, 0);
	driver_describe(&d, 0, 1, DATA + 0x100, 64, DRIVER_WRITE, 0);
	driver_offer(&d, 0, 0);
	driver_offer(&d, 0, 1);
	driver_notify(&d, 0);
	assert_int_equal(d.pc.entropy_wanted, 128);
	assert_int_equal(driver_used(&d, 0, NULL), -1);
	uint8_t bytes[100];
	memset(bytes, 0x77, sizeof(bytes));
	assert_int_equal(ft_machine_input(d.pc.m, FT_INPUT_ENTROPY, 0, bytes, sizeof(bytes)), 0);
	assert_int_equal(driver_used(&d, 0, NULL), 64);
	assert_int_equal(driver_used(&d, 0, NULL), 36);
	assert_int_equal(ft_machine_input(d.pc.m, FT_INPUT_ENTROPY, 0, bytes, sizeof(bytes)), 0);
	assert_int_equal(driver_used(&d, 0, NULL), -1);
	assert_true(ft_machine_quiet(d.pc.m) || d.pc.m->interrupt);
	pc_close(&d.pc);
}

static void event_index_saves_interrupts(void **state)
{
	struct driver d;
	open_driver(&d, SLOT_NET, -1);
	driver_start(&d, 1u << 29);
	interrupt(&d);
	uint8_t frame[60] = {0};
	for (unsigned i = 0; i < 8; i++) {
		driver_describe(&d, 0, i, DATA + 0x1000 * i, 1526, DRIVER_WRITE, 0);
		driver_offer(&d, 0, (uint16_t)i);
	}
	put16(&d, DRIVER_RINGS(0) + 0x2004 + 2 * DRIVER_QUEUE_SIZE, 3); /* tell me at the fourth */
	driver_notify(&d, 0);
	for (unsigned i = 0; i < 8; i++) {
		ft_machine_input(d.pc.m, FT_INPUT_FRAME, 0, frame, sizeof(frame));
		assert_int_equal(interrupt(&d), i == 3 ? 0x40 : -1);
	}
	assert_int_equal(driver_get(&d, DRIVER_RINGS(0) + 0x3004 + 8 * DRIVER_QUEUE_SIZE, 2), 8); /* notify me of the ninth */
	pc_close(&d.pc);
}

static void masked_messages_wait(void **state)
{
	struct driver d;
	open_driver(&d, SLOT_NET, -1);
	uint64_t table = pc_config_read(&d.pc, SLOT_NET, 0x14, 4), control = table + 16 + 12;
	uint8_t frame[60] = {0};
	pc_store(&d.pc, control, 4, 1);
	for (unsigned i = 0; i < 2; i++) {
		driver_describe(&d, 0, i, DATA, 1526, DRIVER_WRITE, 0);
		driver_offer(&d, 0, (uint16_t)i);
		ft_machine_input(d.pc.m, FT_INPUT_FRAME, 0, frame, sizeof(frame));
	}
	assert_int_equal(interrupt(&d), -1);
	assert_int_equal(pc_load(&d.pc, table + 0x800, 8), 2);
	pc_store(&d.pc, control, 4, 0);
	assert_int_equal(interrupt(&d), 0x40);
	assert_int_equal(pc_load(&d.pc, table + 0x800, 8), 0);
	assert_int_equal(interrupt(&d), -1);
	pc_close(&d.pc);
}

static void intx_is_used_without_msix(void **state)
{
	struct driver d;
	open_driver(&d, SLOT_NET, -1);
	for (unsigned at = (unsigned)pc_config_read(&d.pc, SLOT_NET, 0x34, 1); at;
	     at = (unsigned)pc_config_read(&d.pc, SLOT_NET, at + 1, 1))
		if (pc_config_read(&d.pc, SLOT_NET, at, 1) == 0x11)
			pc_config_write(&d.pc, SLOT_NET, at + 2, 2, 0);
	pc_store(&d.pc, 0xfec00000, 4, 0x10 + 2 * (16 + SLOT_NET));
	pc_store(&d.pc, 0xfec00010, 4, 0x51 | 1 << 15);
	driver_describe(&d, 0, 0, DATA, 1526, DRIVER_WRITE, 0);
	driver_offer(&d, 0, 0);
	uint8_t frame[60] = {0};
	ft_machine_input(d.pc.m, FT_INPUT_FRAME, 0, frame, sizeof(frame));
	assert_int_equal(ft_irq_acknowledge(d.pc.m), 0x51);
	assert_int_equal(pc_load(&d.pc, d.registers + 0x1000, 1), 1);
	assert_int_equal(pc_load(&d.pc, d.registers + 0x1000, 1), 0);
	pc_store(&d.pc, 0xfee000b0, 4, 0);
	assert_false(d.pc.m->interrupt);
	pc_close(&d.pc);
}

/* ---- Hostile drivers ---- */

struct violation {
	const char *what;
	void (*commit)(struct driver *d);
};

static void loop(struct driver *d)
{
	driver_describe(d, 1, 0, DATA, 16, DRIVER_NEXT, 1);
	driver_describe(d, 1, 1, DATA, 16, DRIVER_NEXT, 0);
	driver_offer(d, 1, 0);
}

static void outside(struct driver *d)
{
	driver_describe(d, 1, 0, FT_RAM_MIN - 8, 16, 0, 0);
	driver_offer(d, 1, 0);
}

static void far_outside(struct driver *d)
{
	driver_describe(d, 1, 0, UINT64_MAX - 7, 16, 0, 0);
	driver_offer(d, 1, 0);
}

static void whole_space(struct driver *d)
{
	driver_describe(d, 1, 0, 0, UINT32_MAX, 0, 0);
	driver_offer(d, 1, 0);
}

static void empty(struct driver *d)
{
	driver_describe(d, 1, 0, DATA, 0, 0, 0);
	driver_offer(d, 1, 0);
}

static void indirect(struct driver *d)
{
	driver_describe(d, 1, 0, DATA, 16, DRIVER_INDIRECT, 0);
	driver_offer(d, 1, 0);
}

static void write_then_read(struct driver *d)
{
	driver_describe(d, 1, 0, DATA, 16, DRIVER_WRITE | DRIVER_NEXT, 1);
	driver_describe(d, 1, 1, DATA, 16, 0, 0);
	driver_offer(d, 1, 0);
}

static void next_outside(struct driver *d)
{
	driver_describe(d, 1, 0, DATA, 16, DRIVER_NEXT, DRIVER_QUEUE_SIZE);
	driver_offer(d, 1, 0);
}

static void head_outside(struct driver *d)
{
	driver_offer(d, 1, DRIVER_QUEUE_SIZE);
}

static void index_jump(struct driver *d)
{
	driver_describe(d, 1, 0, DATA, 30, 0, 0); /* a chain that would be fine */
	put16(d, DRIVER_RINGS(1) + 0x2002, DRIVER_QUEUE_SIZE + 1);
}

static void index_back(struct driver *d)
{
	put16(d, DRIVER_RINGS(1) + 0x2002, UINT16_MAX);
}

static void violations_break_the_device_and_nothing_else(void **state)
{
	static const struct violation violations[] = {
	    {"loop", loop},
	    {"outside", outside},
	    {"far outside", far_outside},
	    {"whole space", whole_space},
	    {"empty", empty},
	    {"indirect", indirect},
	    {"write then read", write_then_read},
	    {"next outside", next_outside},
	    {"head outside", head_outside},
	    {"index jump", index_jump},
	    {"index back", index_back},
	};
	struct driver d;
	open_driver(&d, SLOT_NET, -1);
	for (unsigned i = 0; i < sizeof(violations) / sizeof(violations[0]); i++) {
		driver_start(&d, 0);
		violations[i].commit(&d);
		driver_notify(&d, 1);
		if (!(driver_status(&d) & 0x40))
			fail_msg("%s was accepted", violations[i].what);
		assert_int_equal(d.pc.sent_count, 0);
		assert_true(d.pc.m->devices->net.v.chain.count <= DRIVER_QUEUE_SIZE);
		/* It stays broken until it is reset, whatever the driver writes. */
		pc_store(&d.pc, d.registers + 20, 1, 15);
		assert_int_equal(driver_status(&d) & 0x40, 0x40);
		driver_notify(&d, 1);
		driver_notify(&d, 0);
	}
	net_sends_what_is_a_frame(NULL);
	driver_start(&d, 0);
	pc_close(&d.pc);
}

static void rings_outside_of_memory_are_refused(void **state)
{
	static const uint64_t places[] = {FT_RAM_MIN - 16, FT_RAM_MIN, UINT64_MAX & ~15ull, 0x100008,
					  1ull << 63};
	struct driver d;
	open_driver(&d, SLOT_NET, -1);
	for (unsigned i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		driver_negotiate(&d, 0);
		driver_place(&d, 0, DRIVER_QUEUE_SIZE, places[i], DRIVER_RINGS(0) + 0x2000, DRIVER_RINGS(0) + 0x3000);
		assert_int_equal(driver_status(&d) & 0x40, 0x40);
		pc_store(&d.pc, d.registers + 22, 2, 0);
		assert_int_equal(pc_load(&d.pc, d.registers + 28, 2), 0);
		driver_notify(&d, 0);
	}
	/* Features that were not offered, and no VERSION_1. */
	driver_reset(&d);
	pc_store(&d.pc, d.registers + 8, 4, 0);
	pc_store(&d.pc, d.registers + 12, 4, 0xffffffff);
	pc_store(&d.pc, d.registers + 8, 4, 1);
	pc_store(&d.pc, d.registers + 12, 4, 1);
	pc_store(&d.pc, d.registers + 20, 1, 11);
	assert_int_equal(driver_status(&d) & 8, 0);
	pc_store(&d.pc, d.registers + 20, 1, 15);
	assert_int_equal(driver_status(&d) & 4, 0);
	pc_close(&d.pc);
}

static uint64_t next_random(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed;
}

/* Puts the registers back where the driver looks for them. */
static void restore(struct driver *d, unsigned slot)
{
	pc_config_write(&d->pc, slot, 4, 2, 6);
	pc_config_write(&d->pc, slot, 0x10, 4, d->registers);
}

/* Whatever is written to registers, configuration and rings, the machine stays within its memory (the sanitizers
 * watch) and comes to an end. */
static void random_abuse(void **state)
{
	int fd = pc_disk_image(DISK_BYTES);
	struct driver d;
	uint64_t seed = 0x9e3779b97f4a7c15ull;
	for (unsigned slot = SLOT_NET; slot <= SLOT_BLK; slot++) {
		open_driver(&d, slot, fd);
		for (unsigned i = 0; i < 60000; i++) {
			uint64_t r = next_random(&seed), value = next_random(&seed);
			unsigned size = 1u << (r & 3);
			uint64_t small = value & (value >> 8 & 0xff); /* often near 0 */
			uint8_t junk[16];
			switch (r >> 8 & 15) {
			case 0:
				pc_store(&d.pc, d.registers + (r >> 16 & 0x3f), size, small);
				break;
			case 1:
				pc_store(&d.pc, d.registers + (r >> 16 & 0x3fff), size, value);
				break;
			case 2:
				pc_load(&d.pc, d.registers + (r >> 16 & 0x3fff), size);
				break;
			case 3:
				if ((r >> 40 & 63) == 0)
					pc_config_write(&d.pc, slot, r >> 16 & 0xff, 1u << (r & 1), value);
				pc_config_read(&d.pc, slot, r >> 16 & 0xff, 1u << (r & 1));
				break;
			case 4:
				restore(&d, slot);
				driver_start(&d, (r >> 16 & 1) << 29);
				break;
			case 5:
				ft_machine_input(d.pc.m, FT_INPUT_FRAME, 0, d.pc.sent, 14 + (r >> 16 & 1023));
				ft_machine_input(d.pc.m, FT_INPUT_ENTROPY, 0, d.pc.sent,
						 1 + (r >> 16 & 1023));
				break;
			case 6:
				pc_pass(&d.pc, r >> 16 & 0xffff);
				break;
			case 7:
				driver_offer(&d, r >> 16 & 1, (uint16_t)small);
				break;
			case 8:
			case 9:
				driver_describe(&d, r >> 16 & 1, r >> 20 & 15, DATA + (value & 0xffff),
					 (uint32_t)small, (uint16_t)(r >> 24 & 3), (uint16_t)(r >> 28 & 15));
				break;
			case 10:
				memcpy(junk, &value, 8);
				memcpy(junk + 8, &r, 8);
				driver_put(&d, DRIVER_RINGS(r >> 16 & 1) + (r >> 20 & 0x3fff), junk, 16);
				break;
			case 11:
				restore(&d, slot);
				break;
			default:
				driver_notify(&d, r >> 16 & 1);
			}
			if (d.pc.m->interrupt)
				interrupt(&d);
		}
		/* After a reset it serves again. */
		restore(&d, slot);
		driver_start(&d, 0);
		pc_close(&d.pc);
	}
	close(fd);
}

static void bars_can_be_sized_moved_and_switched_off(void **state)
{
	struct driver d;
	open_driver(&d, SLOT_NET, -1);
	uint64_t old = pc_config_read(&d.pc, SLOT_NET, 0x10, 4);
	pc_config_write(&d.pc, SLOT_NET, 0x10, 4, 0xffffffff);
	assert_int_equal(pc_config_read(&d.pc, SLOT_NET, 0x10, 4), 0xffffc000);
	pc_config_write(&d.pc, SLOT_NET, 0x10, 4, 0xe8000000);
	assert_int_equal(pc_load(&d.pc, 0xe8000000 + 18, 2), 2);
	assert_int_equal(pc_load(&d.pc, old + 18, 2), 0xffff);
	pc_config_write(&d.pc, SLOT_NET, 4, 2, 0);
	assert_int_equal(pc_load(&d.pc, 0xe8000000 + 18, 2), 0xffff);
	/* Over an interrupt controller: that one stays. */
	pc_config_write(&d.pc, SLOT_NET, 4, 2, 6);
	pc_config_write(&d.pc, SLOT_NET, 0x10, 4, 0xfee00000);
	assert_int_equal(pc_load(&d.pc, 0xfee00030, 4) & 0xff, 0x14);
	/* Nothing answers on other slots and functions, and identity cannot be changed. */
	assert_true(pc_config_read(&d.pc, 7, 0, 4) == 0xffffffff);
	pc_config_write(&d.pc, SLOT_NET, 0, 4, 0);
	assert_int_equal(pc_config_read(&d.pc, SLOT_NET, 0, 4), 0x10411af4);
	pc_close(&d.pc);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_device_without_the_bus_touches_no_memory),
	    cmocka_unit_test(a_network_card_without_the_bus_neither_sends_nor_receives),
	    cmocka_unit_test(disk_reads_base_and_keeps_writes_to_itself),
	    cmocka_unit_test(disk_refuses_what_lies_outside),
	    cmocka_unit_test(net_keeps_frames_in_order_until_there_is_room),
	    cmocka_unit_test(net_sends_what_is_a_frame),
	    cmocka_unit_test(net_may_be_answered_while_it_sends),
	    cmocka_unit_test(rng_takes_bytes_only_through_the_door),
	    cmocka_unit_test(event_index_saves_interrupts),
	    cmocka_unit_test(masked_messages_wait),
	    cmocka_unit_test(intx_is_used_without_msix),
	    cmocka_unit_test(violations_break_the_device_and_nothing_else),
	    cmocka_unit_test(rings_outside_of_memory_are_refused),
	    cmocka_unit_test(random_abuse),
	    cmocka_unit_test(bars_can_be_sized_moved_and_switched_off),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
