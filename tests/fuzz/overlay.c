/* The recovery of a disk's overlay, and its reader: a file of genuine records that the input orders, leaves out, cuts, numbers and damages
 * as it likes (it has the key, which no guest has). Held to be true: it is opened or refused; what was opened reads the same when it is
 * opened again, also after another write; and the reader of the past sees at the end of all time what the disk has,
 * and saw that before it was opened, too, where there was but one segment. */
#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <sys/mman.h>
#include <unistd.h>

#include "disk/history.h"
#include "input.h"
#include "vmm/dev/disk.h"

#define BLOCKS  24u
#define RECORDS 48u

static uint64_t clock_ns = 1000;
static int base_fd;

static uint64_t tick(void)
{
	return clock_ns++;
}

static int nothing(void *context, int fd, off_t at, off_t length)
{
	return 0;
}

static int sync_nothing(void *context, int fd)
{
	return 0;
}

static int punch(void *context, int fd, off_t at, off_t length)
{
	return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, length) ? -errno : 0;
}

static struct ft_overlay_io io = {.sync = sync_nothing, .allocate = nothing, .punch = punch};

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	base_fd = memfd_create("base", 0);
	MUST(sodium_init() >= 0 && base_fd >= 0 && !ftruncate(base_fd, BLOCKS * FT_DISK_BLOCK));
	io.pwritev = ft_overlay_io_system.pwritev;
	return 0;
}

static bool open_disk(struct ft_disk *disk, int fd)
{
	struct ft_error err = {0};
	struct ft_overlay_found found;
	struct ft_overlay_config config = {.fd = dup(fd), .read_fd = dup(fd), .guest = "fuzz", .io = &io, .clock = tick};
	MUST(ft_disk_open(disk, base_fd, &err) == 0);
	if (ft_disk_keep(disk, &config, &found, &err) == 0)
		return true;
	MUST(err.code < 0 && *err.text);
	close(config.fd);
	close(config.read_fd);
	ft_disk_close(disk);
	return false;
}

static void contents(struct ft_disk *disk, uint8_t *to)
{
	for (unsigned i = 0; i < BLOCKS; i++) {
		memset(to + i * FT_DISK_BLOCK, 0xdd, FT_DISK_BLOCK);
		ft_disk_read(disk, i * FT_DISK_BLOCK, to + i * FT_DISK_BLOCK, FT_DISK_BLOCK);
	}
}

/* What make_file knows of its file. */
struct file {
	bool plain;  /* times rise and nothing pretends to be a copy: its past is well defined */
	bool simple; /* so it is before anything is brought in order: one segment without a summary, and no block behind the disk's end */
	bool honest; /* no summary says other things than the records before it, none is a segment's second, and none is left of a segment that was begun again: whoever
		      * has the key is believed, so reading the summary may give another disk than reading the records */
};

static struct file make_file(struct input *in, int fd)
{
	static uint8_t blocks[4 * FT_DISK_BLOCK];
	struct ft_disk_record_entry entries[RECORDS];
	uint64_t begun[RECORDS];
	struct ft_overlay_head head = {.magic = FT_OVERLAY_MAGIC, .version = 1, .segment_size = FT_SEGMENT_SIZE, .created_ns = 1, .guest = "fuzz"};
	struct ft_disk_record_key key;
	struct ft_disk disk;
	struct ft_error err = {0};
	struct file file = {true, true, true};
	unsigned segments = 0, entry_count = 0;
	bool ended = false; /* the segment has a summary */
	head.disk_size = BLOCKS * FT_DISK_BLOCK;
	MUST(ft_disk_open(&disk, base_fd, &err) == 0 && ft_disk_sample(&disk, &head.base_sample) == 0);
	ft_disk_close(&disk);
	memset(head.key, 7, sizeof(head.key));
	memset(head.record_magic, 9, sizeof(head.record_magic));
	crypto_generichash(head.mac, sizeof(head.mac), (const uint8_t *)&head, offsetof(struct ft_overlay_head, mac), head.key, sizeof(head.key));
	MUST(pwrite(fd, &head, sizeof(head), 0) == sizeof(head));
	ft_disk_record_key_take(&key, &head);
	uint64_t segment = 0, sequence = 0, wall = 1, slot = 0, at = 0, summary = 0;
	uint32_t run = 1;
	for (unsigned n = 0; n < RECORDS && in->left; n++) {
		uint8_t how = input8(in), type = input8(in) % FT_DISK_RECORD_TYPES, b = input8(in);
		struct ft_disk_record record = {.type = type, .block = b % 32, .count = 1 + (b >> 5) % 4, .icount = n};
		struct iovec part = {.iov_base = blocks, .iov_len = record.count * FT_DISK_BLOCK};
		bool data = type == FT_DISK_RECORD_DATA || type == FT_DISK_RECORD_COPY;
		if (type == FT_DISK_RECORD_SEGMENT) {
			segment += how & 1 ? input8(in) : 1;
			slot = how & 2 ? input8(in) % 4 : slot + (segment > 1);
			slot %= 6;
			at = ft_segment_at(slot);
			for (unsigned i = 0; i < segments; i++)
				file.honest &= begun[i] != segment;
			begun[segments++] = segment;
			entry_count = 0;
			ended = false;
		}
		file.plain &= type != FT_DISK_RECORD_COPY && type != FT_DISK_RECORD_COPY_ZERO;
		if (type != FT_DISK_RECORD_DATA && type != FT_DISK_RECORD_COPY && !ft_disk_record_is_zero(type))
			record.count = 0;
		file.simple &= segments < 2 && record.block + record.count <= BLOCKS;
		sequence += how & 4 ? input8(in) : 1;
		run += how & 8 ? 1 : 0;
		wall += how & 16 ? 0 : 1;
		if (how & 32) {
			wall = input8(in);
			file.plain = false;
		}
		memset(blocks, (int)n + 1, sizeof(blocks));
		record.segment = segment;
		record.sequence = sequence;
		record.durable = how & 64 ? sequence - input8(in) : 0;
		record.run = run;
		record.wall_ns = wall;
		struct ft_disk_record_entry lie = {.block = b % 32, .wall_ns = wall, .offset = input8(in) * 52u, .count = 1, .type = FT_DISK_RECORD_ZERO};
		if (type == FT_DISK_RECORD_SUMMARY) {
			bool lies = b & 128;
			if (lies)
				entries[0] = lie;
			record.count = lies && !entry_count ? 1 : entry_count;
			part = (struct iovec){.iov_base = entries, .iov_len = record.count * sizeof(*entries)};
			data = true;
			summary = at - ft_segment_at(slot);
			file.honest &= !lies && !ended;
			ended = true;
		}
		uint64_t to = at;
		if (type == FT_DISK_RECORD_FOOTER) {
			to = ft_segment_at(slot) + FT_SEGMENT_SIZE - sizeof(record);
			record.block = b & 64 ? record.block : summary;
		}
		file.simple &= type != FT_DISK_RECORD_FOOTER;
		ft_disk_record_seal(&key, &record, &part, data ? 1 : 0);
		if (how & 128)
			((uint8_t *)&record)[input8(in) % sizeof(record)] ^= 1;
		if (!at)
			continue;
		MUST(pwrite(fd, &record, sizeof(record), (off_t)to) == sizeof(record));
		if (data && !((how & 128) && b & 1))
			MUST(pwrite(fd, part.iov_base, part.iov_len, (off_t)(to + sizeof(record))) == (ssize_t)part.iov_len);
		if (type == FT_DISK_RECORD_FOOTER)
			continue;
		if (type != FT_DISK_RECORD_SEGMENT && type != FT_DISK_RECORD_SUMMARY)
			entries[entry_count++] = (struct ft_disk_record_entry){.block = record.block,
									       .wall_ns = wall,
									       .offset = (uint32_t)(at - ft_segment_at(slot)),
									       .count = record.count,
									       .type = type};
		at += sizeof(record) + (data ? part.iov_len : 0);
	}
	return file;
}

/* What the reader of the past sees at the end of all time; false: nothing. */
static bool look_back(int fd, uint8_t *seen)
{
	struct ft_history h;
	struct ft_view view;
	struct ft_error err = {0};
	if (ft_history_open(&h, fd, base_fd, &err))
		return false;
	bool good = true;
	MUST(ft_view_open(&view, &h, &err) == 0);
	ft_view_forward(&view, UINT64_MAX);
	for (unsigned i = 0; i < BLOCKS; i++)
		good = !ft_view_read(&view, i * FT_DISK_BLOCK, seen + i * FT_DISK_BLOCK, FT_DISK_BLOCK) && good;
	ft_view_close(&view);
	ft_history_close(&h);
	return good;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t first[BLOCKS * FT_DISK_BLOCK], second[sizeof(first)], seen[sizeof(first)], block[FT_DISK_BLOCK];
	struct input in = {data, size};
	struct ft_memory memory = {0};
	struct ft_disk disk;
	int fd = memfd_create("overlay", 0);
	MUST(fd >= 0);
	struct file file = make_file(&in, fd);
	bool before = look_back(fd, seen) && file.plain && file.simple;
	if (open_disk(&disk, fd)) {
		contents(&disk, first);
		MUST(!before || !memcmp(seen, first, sizeof(first)));
		MUST((look_back(fd, seen) && !memcmp(seen, first, sizeof(first))) || !file.plain || !file.honest);
		ft_disk_close(&disk);
		MUST(open_disk(&disk, fd));
		contents(&disk, second);
		MUST(!memcmp(first, second, sizeof(first)));
		memset(block, 0xee, sizeof(block));
		MUST(ft_disk_write(&disk, &memory, 3 * FT_DISK_BLOCK, block, sizeof(block)) == 0);
		MUST(ft_disk_flush(&disk) == 0 && ft_disk_flushed(&disk) == 0);
		memcpy(first + 3 * FT_DISK_BLOCK, block, sizeof(block));
		for (int i = 0; i < 8; i++)
			ft_overlay_work(&disk.overlay, 1u << 20, UINT64_MAX, 0);
		ft_disk_close(&disk);
		MUST(open_disk(&disk, fd));
		contents(&disk, second);
		MUST(!memcmp(first, second, sizeof(first)) || !file.honest);
		ft_disk_close(&disk);
	}
	close(fd);
	return 0;
}
