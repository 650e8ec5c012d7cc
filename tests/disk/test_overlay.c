/* The overlay's file beside its crashes: what a hostile guest cannot make of it, clones, retention, room. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "medium.h"
#include "vmm/dev/disk.h"

#define BLOCKS 2048u
#define HOUR   3600000000000ull

struct side {
	struct medium medium;
	struct ft_memory memory;
	struct ft_disk disk;
};

static int base_fd, other_fd;

static int open_as(struct side *s, int base, uint64_t quota, uint64_t retention_ns)
{
	struct ft_error err = {0};
	struct ft_overlay_found found;
	struct ft_overlay_config config = {.fd = dup(s->medium.fd),
					   .read_fd = dup(s->medium.read_fd),
					   .guest = "test",
					   .quota = quota,
					   .retention_ns = retention_ns,
					   .io = &s->medium.io,
					   .clock = medium_clock};
	memset(&s->memory, 0, sizeof(s->memory));
	assert_int_equal(ft_disk_open(&s->disk, base, &err), 0);
	int error = ft_disk_keep(&s->disk, &config, &found, &err);
	if (error) {
		close(config.fd);
		close(config.read_fd);
		ft_disk_close(&s->disk);
	}
	return error;
}

static void open_side(struct side *s, uint64_t quota, uint64_t retention_ns)
{
	assert_int_equal(open_as(s, base_fd, quota, retention_ns), 0);
}

static void again(struct side *s, uint64_t quota, uint64_t retention_ns)
{
	ft_disk_close(&s->disk);
	open_side(s, quota, retention_ns);
}

static void put(struct side *s, uint64_t block, uint32_t count, uint8_t value)
{
	static uint8_t bytes[256 * FT_DISK_BLOCK];
	memset(bytes, value, count * FT_DISK_BLOCK);
	assert_int_equal(ft_disk_write(&s->disk, &s->memory, block * FT_DISK_BLOCK, bytes, count * FT_DISK_BLOCK), 0);
}

static uint8_t get(struct side *s, uint64_t block)
{
	uint8_t bytes[FT_DISK_BLOCK];
	assert_int_equal(ft_disk_read(&s->disk, block * FT_DISK_BLOCK, bytes, sizeof(bytes)), 0);
	for (unsigned i = 1; i < sizeof(bytes); i++)
		assert_int_equal(bytes[i], bytes[0]);
	return bytes[0];
}

static void compact(struct side *s, uint64_t oldest, uint64_t newest)
{
	for (int i = 0; i < 2000 && ft_overlay_work(&s->disk.overlay, 1u << 20, oldest, newest); i++)
		;
}

/* Sectors, parts of blocks and a disk whose end is inside of one: each byte is the last that was written there. */
static void any_bytes(void **state)
{
	static uint8_t model[40 * FT_DISK_BLOCK], bytes[sizeof(model)];
	int fd = memfd_create("odd", MFD_CLOEXEC);
	uint64_t size = 39 * FT_DISK_BLOCK + 1536;
	struct side s;
	for (uint64_t i = 0; i < size; i++)
		model[i] = (uint8_t)(i * 31 >> 3);
	assert_int_equal(write(fd, model, size), size);
	medium_open(&s.medium, false);
	assert_int_equal(open_as(&s, fd, 0, HOUR), 0);
	uint64_t seed = 5;
	for (unsigned n = 0; n < 600; n++) {
		seed = seed * 6364136223846793005ull + 1442695040888963407ull;
		uint64_t at = (seed >> 33) % (size / 512) * 512, length = ((seed >> 20) % (n % 3 ? 8 : 60) + 1) * 512;
		length = length < size - at ? length : size - at;
		struct iovec parts[9] = {{0}};
		uint64_t given = 0;
		for (unsigned i = 0; i < 9; i++) {
			uint64_t part = i == 8 ? length - given : length / 9;
			parts[i] = (struct iovec){.iov_base = model + at + given, .iov_len = part};
			given += part;
		}
		if (n % 5 == 0) {
			memset(model + at, 0, length);
			assert_int_equal(ft_disk_zero(&s.disk, &s.memory, 0, at, length), 0);
		} else {
			for (uint64_t i = 0; i < length; i++)
				model[at + i] = (uint8_t)(seed >> 40 ^ i * 7);
			assert_int_equal(ft_disk_writev(&s.disk, &s.memory, 0, at, parts, 9), 0);
		}
		if (n % 100 == 99) {
			ft_disk_close(&s.disk);
			assert_int_equal(open_as(&s, fd, 0, HOUR), 0);
		}
		assert_int_equal(ft_disk_read(&s.disk, 0, bytes, size), 0);
		assert_memory_equal(bytes, model, size);
	}
	ft_disk_close(&s.disk);
	medium_close(&s.medium);
	close(fd);
}

/* A guest that knows the format writes what looks like records, at every alignment, and the power is cut so that its bytes lie where a
 * record is expected. It even knows everything but the key. */
static void guest_forges_records(void **state)
{
	struct side s;
	struct stat st;
	static uint8_t forged[64 * FT_DISK_BLOCK];
	medium_open(&s.medium, false);
	open_side(&s, 0, HOUR);
	put(&s, 7, 1, 1);
	assert_int_equal(ft_disk_flush(&s.disk), 0);
	uint64_t end = ft_segment_at(0) + s.disk.overlay.segments[0].used;
	struct ft_disk_record record = {.segment = s.disk.overlay.segments[0].id,
				   .sequence = s.disk.overlay.sequence + 1,
				   .run = s.disk.overlay.run,
				   .type = FT_DISK_RECORD_ZERO,
				   .block = 7,
				   .count = 1};
	struct ft_disk_record_key key = s.disk.overlay.key;
	memset(key.key, 0x41, sizeof(key.key));
	ft_disk_record_seal(&key, &record, NULL, 0);
	for (uint64_t at = 0; at + sizeof(record) <= sizeof(forged); at += sizeof(record))
		memcpy(forged + at, &record, sizeof(record));
	assert_int_equal(ft_disk_write(&s.disk, &s.memory, 100 * FT_DISK_BLOCK, forged, sizeof(forged)), 0);
	/* The record of the write is lost, what it wrote is there, right where the next record is looked for. */
	assert_int_equal(pwrite(s.medium.fd, forged, sizeof(forged), (off_t)end), sizeof(forged));
	again(&s, 0, HOUR);
	assert_int_equal(get(&s, 7), 1);
	assert_int_equal(fstat(s.medium.fd, &st), 0);
	ft_disk_close(&s.disk);
	medium_close(&s.medium);
}

static void another_image(void **state)
{
	struct side s;
	medium_open(&s.medium, false);
	open_side(&s, 0, HOUR);
	put(&s, 7, 1, 1);
	ft_disk_close(&s.disk);
	assert_int_equal(open_as(&s, other_fd, 0, HOUR), -EINVAL);
	open_side(&s, 0, HOUR);
	assert_int_equal(get(&s, 7), 1);
	ft_disk_close(&s.disk);
	medium_close(&s.medium);
}

/* A fork has the disk as it was, whatever is written, compacted and given back meanwhile; and what it writes is its own. */
static void fork_keeps_its_disk(void **state)
{
	struct side s;
	int go[2], status;
	medium_open(&s.medium, false);
	open_side(&s, 6 * FT_SEGMENT_SIZE, 0);
	for (unsigned i = 0; i < BLOCKS; i += 64)
		put(&s, i, 64, (uint8_t)(1 + i / 64));
	assert_int_equal(pipe(go), 0);
	pid_t pid = fork();
	if (!pid) {
		char byte;
		close(go[1]);
		ft_disk_seal(&s.disk);
		if (read(go[0], &byte, 1) != 1)
			_exit(1);
		put(&s, 5, 3, 0xee); /* its own */
		if (ft_disk_flush(&s.disk) || ft_disk_flushed(&s.disk))
			_exit(2);
		for (unsigned i = 0; i < BLOCKS; i++)
			if (get(&s, i) != (i >= 5 && i < 8 ? 0xee : 1 + i / 64))
				_exit(3);
		_exit(0);
	}
	/* Five times over: without the fork's hold its segments would have been used again. */
	for (unsigned round = 0; round < 2; round++)
		for (unsigned i = 0; i < BLOCKS; i += 64) {
			medium_now += 1000;
			put(&s, i, 64, (uint8_t)(100 + round));
			compact(&s, 2, 3); /* fork number 2 lives */
		}
	uint64_t held = 0;
	for (uint64_t i = 0; i < s.disk.overlay.segment_count; i++)
		held += s.disk.overlay.segments[i].state == FT_SEGMENT_LIMBO;
	assert_true(held > 0);
	assert_int_equal(write(go[1], "x", 1), 1);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	for (unsigned i = 0; i < BLOCKS; i++)
		assert_int_equal(get(&s, i), 101);
	compact(&s, UINT64_MAX, 3);
	for (uint64_t i = 0; i < s.disk.overlay.segment_count; i++)
		assert_true(s.disk.overlay.segments[i].state != FT_SEGMENT_LIMBO);
	again(&s, 6 * FT_SEGMENT_SIZE, 0);
	for (unsigned i = 0; i < BLOCKS; i++)
		assert_int_equal(get(&s, i), 101);
	close(go[0]);
	close(go[1]);
	ft_disk_close(&s.disk);
	medium_close(&s.medium);
}

/* What was replaced within the retention time stays while there is room; the file is bounded all the same. */
static void retention_and_quota(void **state)
{
	struct side s;
	struct stat st;
	medium_open(&s.medium, false);
	open_side(&s, 8 * FT_SEGMENT_SIZE, HOUR);
	for (unsigned round = 0; round < 4; round++)
		for (unsigned i = 0; i < BLOCKS; i += 64) {
			medium_now += 1000;
			put(&s, i, 64, (uint8_t)round);
			compact(&s, UINT64_MAX, 1);
		}
	assert_int_equal(s.disk.overlay.counts.freed, 0); /* all of it is younger than an hour, and there is room */
	medium_now += 2 * HOUR;
	compact(&s, UINT64_MAX, 1);
	uint64_t freed = s.disk.overlay.counts.freed;
	assert_true(freed > 0);
	assert_int_equal(s.disk.overlay.counts.shortened, 0);
	/* Written over and over: history gives way to what is written now. */
	for (unsigned round = 0; round < 30; round++)
		for (unsigned i = 0; i < BLOCKS; i += 64) {
			medium_now += 1000;
			put(&s, i, 64, (uint8_t)(10 + round));
			compact(&s, UINT64_MAX, 1);
			assert_true(ft_overlay_bytes(&s.disk.overlay) <= 8 * FT_SEGMENT_SIZE + FT_SEGMENT_FIRST);
		}
	assert_int_equal(s.disk.failure, 0);
	assert_true(s.disk.overlay.counts.shortened > 0);
	assert_int_equal(fstat(s.medium.fd, &st), 0);
	assert_true((uint64_t)st.st_blocks * 512 <= 8ull * FT_SEGMENT_SIZE + FT_SEGMENT_FIRST);
	for (unsigned i = 0; i < BLOCKS; i++)
		assert_int_equal(get(&s, i), 39);
	ft_disk_close(&s.disk);
	medium_close(&s.medium);
}

/* No room on the host: what the guest wrote stays its own to read, flushes fail, and when there is room all of it is kept. */
static void no_room(void **state)
{
	struct side s;
	medium_open(&s.medium, false);
	open_side(&s, 0, HOUR);
	put(&s, 0, 64, 1);
	s.medium.room = ft_segment_at(1);
	for (unsigned i = 0; i < BLOCKS && !s.disk.failure; i += 64)
		for (unsigned round = 2; round < 5; round++)
			put(&s, i, 64, (uint8_t)round);
	assert_int_equal(s.disk.failure, -ENOSPC);
	put(&s, 17, 1, 200);
	assert_int_equal(get(&s, 17), 200);
	assert_int_equal(ft_disk_flush(&s.disk), -ENOSPC);
	assert_int_equal(ft_disk_settle(&s.disk, &s.memory, 0), -ENOSPC);
	s.medium.room = UINT64_MAX;
	assert_int_equal(ft_disk_settle(&s.disk, &s.memory, 0), 0);
	assert_int_equal(ft_disk_flush(&s.disk), 0);
	assert_int_equal(s.disk.memory_blocks, 0);
	again(&s, 0, HOUR);
	assert_int_equal(get(&s, 17), 200);
	/* And memory for it is bounded. */
	s.medium.room = 0;
	uint8_t block[FT_DISK_BLOCK] = {0};
	int error = 0;
	for (unsigned n = 0; n < FT_DISK_UNWRITTEN + FT_SEGMENT_SIZE / FT_DISK_BLOCK + 2 && !error; n++)
		error = ft_disk_write(&s.disk, &s.memory, n % BLOCKS * FT_DISK_BLOCK, block, sizeof(block));
	assert_int_equal(error, -EIO);
	ft_disk_close(&s.disk);
	medium_close(&s.medium);
}

/* A thread syncs: a flush is asked for and waited for, and what it covers is durable then. */
static void flush_in_a_thread(void **state)
{
	struct side s;
	struct ft_error err;
	medium_open(&s.medium, false);
	open_side(&s, 0, HOUR);
	assert_int_equal(ft_overlay_start(&s.disk.overlay, &err), 0);
	for (unsigned i = 0; i < 200; i++) {
		put(&s, i, 1, 9);
		assert_int_equal(ft_disk_flush(&s.disk), 0);
		if (i % 3 == 0) {
			assert_int_equal(ft_disk_flushed(&s.disk), 0);
			assert_int_equal(ft_sync_done(&s.disk.overlay.sync, NULL), s.disk.overlay.sequence);
		}
	}
	ft_disk_close(&s.disk);
	medium_close(&s.medium);
}

static int make_base(void **state)
{
	base_fd = memfd_create("base", MFD_CLOEXEC);
	other_fd = memfd_create("other", MFD_CLOEXEC);
	return base_fd < 0 || other_fd < 0 || ftruncate(base_fd, BLOCKS * FT_DISK_BLOCK) || ftruncate(other_fd, BLOCKS * FT_DISK_BLOCK) ||
	       pwrite(other_fd, "x", 1, 8 * FT_DISK_BLOCK) != 1;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(any_bytes),	   cmocka_unit_test(guest_forges_records), cmocka_unit_test(another_image),
	    cmocka_unit_test(fork_keeps_its_disk), cmocka_unit_test(retention_and_quota),  cmocka_unit_test(no_room),
	    cmocka_unit_test(flush_in_a_thread),
	};
	return cmocka_run_group_tests(tests, make_base, NULL);
}
