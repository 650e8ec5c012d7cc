#include "vmm/dev/disk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <linux/fs.h>
#include <unistd.h>

#define ARENA  (2ull << 20) /* a huge page */
#define SECTOR 512u

/* Parts of one write to the file; a request's many small ones are written a few at a time. */
#define FT_DISK_PARTS 128u

static int find_size(int fd, uint64_t *size)
{
	struct stat st;
	if (fstat(fd, &st))
		return -errno;
	if (S_ISBLK(st.st_mode))
		return ioctl(fd, BLKGETSIZE64, size) ? -errno : 0;
	if (!S_ISREG(st.st_mode))
		return -EINVAL;
	*size = (uint64_t)st.st_size;
	return 0;
}

int ft_disk_open(struct ft_disk *disk, int fd, struct ft_error *err)
{
	*disk = (struct ft_disk){.fd = -1, .read_fd = -1};
	uint64_t size = 0;
	int error = find_size(fd, &size);
	if (error)
		return ft_error_set(err, error, "the disk image cannot be used: %s", strerror(-error));
	size -= size % SECTOR;
	if (!size || size > 1ull << 44)
		return ft_error_set(err, -EINVAL,
				    "the disk image has %llu bytes; a disk has 512 bytes to 16 TiB",
				    (unsigned long long)size);
	disk->leaf_count =
	    (size + (uint64_t)FT_DISK_BLOCK * FT_DISK_LEAF - 1) / ((uint64_t)FT_DISK_BLOCK * FT_DISK_LEAF);
	disk->leaves = calloc(disk->leaf_count, sizeof(*disk->leaves));
	disk->bounce = malloc(FT_DISK_BLOCK);
	if (!disk->leaves || !disk->bounce) {
		ft_disk_close(disk);
		return ft_error_set(err, -ENOMEM, "no memory for the index of the disk's overlay");
	}
	disk->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (disk->fd < 0) {
		error = -errno;
		ft_disk_close(disk);
		return ft_error_set(err, error, "the disk image cannot be used: %s", strerror(-error));
	}
	disk->size = size;
	return 0;
}

void ft_disk_close(struct ft_disk *disk)
{
	if (disk->kept) {
		/* Of a fork's, the lock of the thread that syncs may be held by a thread that it has not got. */
		if (!disk->sealed)
			ft_overlay_close(&disk->overlay);
		close(disk->read_fd);
		if (!disk->sealed)
			close(disk->overlay.config.fd);
	}
	for (uint64_t i = 0; i < disk->arena_count; i++)
		munmap(disk->arenas[i], ARENA);
	for (uint64_t i = 0; disk->leaves && i < disk->leaf_count; i++)
		free(disk->leaves[i]);
	free(disk->arenas);
	free(disk->leaves);
	free(disk->spare);
	free(disk->bounce);
	if (disk->fd >= 0)
		close(disk->fd);
	*disk = (struct ft_disk){.fd = -1, .read_fd = -1};
}

static uint64_t place(const struct ft_disk *disk, uint64_t block)
{
	const struct ft_disk_leaf *leaf = disk->leaves[block / FT_DISK_LEAF];
	return leaf ? leaf->where[block % FT_DISK_LEAF] : 0;
}

/* A place that is neither in a file nor without bytes: a pointer, and those of blocks end in zeros. */
static bool in_memory(uint64_t where)
{
	return where && !(where & (FT_DISK_WHERE_FILE | FT_DISK_WHERE_ZERO));
}

static uint8_t *pointer(uint64_t where)
{
	return (uint8_t *)(uintptr_t)where;
}

/* From a file; what lies behind the end of one that shrank reads as an error, never as old data. */
static int read_file(int fd, uint64_t at, uint8_t *to, uint64_t length)
{
	while (length) {
		ssize_t n = pread(fd, to, length, (off_t)at);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		to += n;
		at += (uint64_t)n;
		length -= (uint64_t)n;
	}
	return 0;
}

/* Bytes from `at` on, at most length, that one place has and one read gets. */
static uint64_t stretch(const struct ft_disk *disk, uint64_t at, uint64_t length, uint64_t *where)
{
	uint64_t block = at / FT_DISK_BLOCK, n = FT_DISK_BLOCK - at % FT_DISK_BLOCK;
	uint64_t next = *where = place(disk, block);
	bool follows = !next || (next & (FT_DISK_WHERE_FILE | FT_DISK_WHERE_ZERO));
	while (follows && n < length) {
		if (next && !(next & FT_DISK_WHERE_ZERO)) /* in the file its neighbour lies behind it */
			next = ft_disk_where_make(ft_disk_where_at(next) + FT_DISK_BLOCK, false);
		uint64_t there = place(disk, ++block);
		follows = next & FT_DISK_WHERE_ZERO ? (there & FT_DISK_WHERE_ZERO) != 0 : there == next;
		n += follows ? FT_DISK_BLOCK : 0;
	}
	return n < length ? n : length;
}

int ft_disk_read(const struct ft_disk *disk, uint64_t at, void *to, uint64_t length)
{
	uint8_t *out = to;
	while (length) {
		uint64_t where, within = at % FT_DISK_BLOCK, n = stretch(disk, at, length, &where);
		int error = 0;
		if (in_memory(where))
			memcpy(out, pointer(where) + within, n);
		else if (where & FT_DISK_WHERE_ZERO)
			memset(out, 0, n);
		else if (where)
			error = read_file(disk->read_fd, ft_disk_where_at(where) + within, out, n);
		else
			error = read_file(disk->fd, at, out, n);
		if (error)
			return error;
		out += n;
		at += n;
		length -= n;
	}
	return 0;
}

/* One huge page where the kernel has one: of small ones each costs a fault when it is first written, and a clone whose guest
 * writes its logs back in the horizon writes 120 blocks for the first time (measured: a tenth of the clone's processor time). */
static uint8_t *map_arena(void)
{
	uint8_t *area = mmap(NULL, 2 * ARENA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (area == MAP_FAILED)
		return NULL;
	uint64_t before = -(uintptr_t)area % ARENA;
	if (before)
		munmap(area, before);
	munmap(area + before + ARENA, ARENA - before);
	madvise(area + before, ARENA, MADV_HUGEPAGE); /* without huge pages it is slower, not wrong */
	return area + before;
}

static uint8_t *new_block(struct ft_disk *disk)
{
	if (disk->spare_count)
		return disk->spare[--disk->spare_count];
	if (disk->arena_left < FT_DISK_BLOCK) {
		void **arenas = realloc(disk->arenas, (disk->arena_count + 1) * sizeof(*arenas));
		if (!arenas)
			return NULL;
		disk->arenas = arenas;
		uint8_t *arena = map_arena();
		if (!arena)
			return NULL;
		disk->arenas[disk->arena_count++] = arena;
		disk->arena = arena;
		disk->arena_left = ARENA;
	}
	uint8_t *block = disk->arena;
	disk->arena += FT_DISK_BLOCK;
	disk->arena_left -= FT_DISK_BLOCK;
	return block;
}

static void spare_block(struct ft_disk *disk, uint8_t *block)
{
	if (disk->spare_count == disk->spare_room) {
		uint64_t room = disk->spare_room ? 2 * disk->spare_room : 64;
		uint8_t **spare = realloc(disk->spare, room * sizeof(*spare));
		if (!spare)
			return; /* its arena goes with the disk */
		disk->spare = spare;
		disk->spare_room = room;
	}
	disk->spare[disk->spare_count++] = block;
}

/* The block's leaf; NULL: no memory. */
static struct ft_disk_leaf *leaf_of(struct ft_disk *disk, uint64_t block)
{
	struct ft_disk_leaf **leaf = &disk->leaves[block / FT_DISK_LEAF];
	if (!*leaf)
		*leaf = calloc(1, sizeof(**leaf));
	return *leaf;
}

static int make_leaves(struct ft_disk *disk, uint64_t block, uint64_t count)
{
	for (uint64_t b = block - block % FT_DISK_LEAF; b < block + count; b += FT_DISK_LEAF)
		if (!leaf_of(disk, b))
			return -ENOMEM;
	return 0;
}

static void set_place(struct ft_disk *disk, uint64_t block, uint64_t where)
{
	struct ft_disk_leaf *leaf = disk->leaves[block / FT_DISK_LEAF];
	uint64_t *at = &leaf->where[block % FT_DISK_LEAF], old = *at;
	*at = where;
	disk->written_blocks += !old;
	disk->memory_blocks += in_memory(where);
	if (!in_memory(old))
		return;
	disk->memory_blocks--;
	if (old != where)
		spare_block(disk, pointer(old));
}

static void mark(struct ft_disk *disk, struct ft_memory *memory, uint64_t block, uint64_t count)
{
	for (uint64_t i = block; i < block + count; i++) {
		struct ft_disk_leaf *leaf = disk->leaves[i / FT_DISK_LEAF];
		if (leaf->mark[i % FT_DISK_LEAF] == memory->marks + 1)
			continue;
		leaf->newest = leaf->mark[i % FT_DISK_LEAF] = memory->marks + 1;
		memory->written++;
	}
}

/* ---- Writing to memory -------------------------------------------------------------------------------------------- */

/* A copy of the block in memory, made from what it was unless all of it is about to be written. */
static int own_block(struct ft_disk *disk, uint64_t block, bool whole, uint8_t **own)
{
	uint64_t where = place(disk, block), at = block * FT_DISK_BLOCK;
	if (!leaf_of(disk, block))
		return -ENOMEM;
	if (!in_memory(where)) {
		uint8_t *fresh = new_block(disk);
		if (!fresh)
			return -ENOMEM;
		uint64_t there = disk->size - at < FT_DISK_BLOCK ? disk->size - at : FT_DISK_BLOCK;
		int error = whole ? 0 : ft_disk_read(disk, at, fresh, there);
		if (!error && !whole)
			memset(fresh + there, 0, FT_DISK_BLOCK - there);
		if (error) { /* nothing refers to it yet */
			spare_block(disk, fresh);
			return error;
		}
		set_place(disk, block, (uintptr_t)fresh);
		where = (uintptr_t)fresh;
	}
	*own = pointer(where);
	return 0;
}

static int write_memory(struct ft_disk *disk, struct ft_memory *memory, uint64_t at, const void *from, uint64_t length)
{
	const uint8_t *in = from;
	while (length) {
		uint64_t within = at % FT_DISK_BLOCK, n = FT_DISK_BLOCK - within, block = at / FT_DISK_BLOCK;
		if (n > length)
			n = length;
		uint8_t *own;
		int error = own_block(disk, block, n == FT_DISK_BLOCK, &own);
		if (error)
			return error;
		mark(disk, memory, block, 1);
		if (in)
			memcpy(own + within, in, n);
		else
			memset(own + within, 0, n);
		in += in ? n : 0;
		at += n;
		length -= n;
	}
	return 0;
}

/* ---- Writing to the file -------------------------------------------------------------------------------------------- */

static bool to_file(const struct ft_disk *disk)
{
	return disk->kept && !disk->sealed;
}

/* Whole blocks, at most FT_DISK_RECORD_BLOCKS, whose index is there. What the file does not take stays in memory: the guest has what it
 * wrote, and is told when it asks for it to be durable. */
static int write_blocks(struct ft_disk *disk, struct ft_memory *memory, uint64_t icount, uint64_t block, uint32_t count,
			const struct iovec *parts, size_t part_count)
{
	int error = disk->failure ? disk->failure : ft_overlay_write(&disk->overlay, icount, block, count, parts, part_count);
	mark(disk, memory, block, count);
	if (!error)
		return 0;
	disk->failure = error;
	if (disk->unwritten + count > FT_DISK_UNWRITTEN)
		return -EIO;
	disk->unwritten += count;
	uint64_t at = block * FT_DISK_BLOCK;
	for (size_t i = 0; i < part_count; i++) {
		if ((error = write_memory(disk, memory, at, parts[i].iov_base, parts[i].iov_len)))
			return error;
		at += parts[i].iov_len;
	}
	return 0;
}

/* A part of one block: the whole of it is written anew. */
static int write_part(struct ft_disk *disk, struct ft_memory *memory, uint64_t icount, uint64_t at, const void *from, uint64_t length)
{
	uint8_t bytes[FT_DISK_BLOCK] = {0};
	uint64_t block = at / FT_DISK_BLOCK, start = block * FT_DISK_BLOCK;
	uint64_t there = disk->size - start < FT_DISK_BLOCK ? disk->size - start : FT_DISK_BLOCK;
	struct iovec part = {.iov_base = bytes, .iov_len = sizeof(bytes)};
	int error = ft_disk_read(disk, start, bytes, there);
	if (error)
		return error;
	if (from)
		memcpy(bytes + at - start, from, length);
	else
		memset(bytes + at - start, 0, length);
	return write_blocks(disk, memory, icount, block, 1, &part, 1);
}

/* Takes up to `most` bytes from the parts, at *skip within the first. */
static uint64_t take_parts(const struct iovec **parts, size_t *count, uint64_t *skip, uint64_t most, struct iovec *to, size_t *to_count)
{
	uint64_t taken = 0;
	*to_count = 0;
	while (*count && taken < most && *to_count < FT_DISK_PARTS) {
		uint64_t n = (*parts)->iov_len - *skip;
		n = n < most - taken ? n : most - taken;
		if (n)
			to[(*to_count)++] = (struct iovec){.iov_base = (uint8_t *)(*parts)->iov_base + *skip, .iov_len = n};
		taken += n;
		*skip += n;
		if (*skip == (*parts)->iov_len) {
			++*parts;
			--*count;
			*skip = 0;
		}
	}
	return taken;
}

static void copy_parts(uint8_t *to, const struct iovec *parts, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		memcpy(to, parts[i].iov_base, parts[i].iov_len);
		to += parts[i].iov_len;
	}
}

static int write_file(struct ft_disk *disk, struct ft_memory *memory, uint64_t icount, uint64_t at, const struct iovec *parts, size_t count)
{
	uint64_t skip = 0, left = 0;
	for (size_t i = 0; i < count; i++)
		left += parts[i].iov_len;
	int error = make_leaves(disk, at / FT_DISK_BLOCK, (at % FT_DISK_BLOCK + left + FT_DISK_BLOCK - 1) / FT_DISK_BLOCK);
	while (!error && left) {
		struct iovec some[FT_DISK_PARTS];
		uint8_t bytes[FT_DISK_BLOCK];
		size_t some_count;
		uint64_t within = at % FT_DISK_BLOCK, n = FT_DISK_BLOCK - within;
		if (!within && left >= FT_DISK_BLOCK) {
			uint64_t most = left - left % FT_DISK_BLOCK;
			most = most < FT_DISK_RECORD_BLOCKS * FT_DISK_BLOCK ? most : FT_DISK_RECORD_BLOCKS * FT_DISK_BLOCK;
			const struct iovec *before = parts;
			size_t before_count = count;
			uint64_t before_skip = skip;
			n = take_parts(&parts, &count, &skip, most, some, &some_count);
			if (n >= FT_DISK_BLOCK && n % FT_DISK_BLOCK) { /* many small parts, and their end is in the middle of a block */
				parts = before;
				count = before_count;
				skip = before_skip;
				n = take_parts(&parts, &count, &skip, n - n % FT_DISK_BLOCK, some, &some_count);
			}
			if (n % FT_DISK_BLOCK == 0) {
				error = write_blocks(disk, memory, icount, at / FT_DISK_BLOCK, (uint32_t)(n / FT_DISK_BLOCK), some, some_count);
				at += n;
				left -= n;
				continue;
			}
			parts = before;
			count = before_count;
			skip = before_skip;
			n = FT_DISK_BLOCK;
		}
		n = n < left ? n : left;
		n = take_parts(&parts, &count, &skip, n, some, &some_count);
		copy_parts(bytes, some, some_count);
		error = write_part(disk, memory, icount, at, bytes, n);
		at += n;
		left -= n;
	}
	return error;
}

int ft_disk_writev(struct ft_disk *disk, struct ft_memory *memory, uint64_t icount, uint64_t at, const struct iovec *parts, size_t count)
{
	if (to_file(disk))
		return write_file(disk, memory, icount, at, parts, count);
	for (size_t i = 0; i < count; i++) {
		int error = write_memory(disk, memory, at, parts[i].iov_base, parts[i].iov_len);
		if (error)
			return error;
		at += parts[i].iov_len;
	}
	return 0;
}

int ft_disk_write(struct ft_disk *disk, struct ft_memory *memory, uint64_t at, const void *from,
		  uint64_t length)
{
	struct iovec part = {.iov_base = (void *)from, .iov_len = length};
	return ft_disk_writev(disk, memory, 0, at, &part, 1);
}

/* Whole blocks. */
static int zero_blocks(struct ft_disk *disk, struct ft_memory *memory, uint64_t icount, uint64_t block, uint32_t count)
{
	int error = make_leaves(disk, block, count);
	if (error)
		return error;
	mark(disk, memory, block, count);
	if (to_file(disk)) {
		error = disk->failure ? disk->failure : ft_overlay_zero(&disk->overlay, icount, block, count);
		if (!error)
			return 0;
		disk->failure = error;
		if (disk->unwritten + count > FT_DISK_UNWRITTEN)
			return -EIO;
		disk->unwritten += count;
		return write_memory(disk, memory, block * FT_DISK_BLOCK, NULL, (uint64_t)count * FT_DISK_BLOCK);
	}
	for (uint32_t i = 0; i < count; i++)
		set_place(disk, block + i, FT_DISK_WHERE_ZERO);
	return 0;
}

int ft_disk_zero(struct ft_disk *disk, struct ft_memory *memory, uint64_t icount, uint64_t at, uint64_t length)
{
	int error = 0;
	while (!error && length) {
		uint64_t within = at % FT_DISK_BLOCK, n = FT_DISK_BLOCK - within;
		if (!within && length >= FT_DISK_BLOCK) {
			n = length - length % FT_DISK_BLOCK;
			n = n < FT_DISK_UNWRITTEN / 4 * FT_DISK_BLOCK ? n : FT_DISK_UNWRITTEN / 4 * FT_DISK_BLOCK;
			error = zero_blocks(disk, memory, icount, at / FT_DISK_BLOCK, (uint32_t)(n / FT_DISK_BLOCK));
		} else {
			n = n < length ? n : length;
			error = !to_file(disk)                        ? write_memory(disk, memory, at, NULL, n)
				: make_leaves(disk, at / FT_DISK_BLOCK, 1) ? -ENOMEM
									   : write_part(disk, memory, icount, at, NULL, n);
		}
		at += n;
		length -= n;
	}
	return error;
}

/* ---- The file ------------------------------------------------------------------------------------------------------- */

static uint64_t put(void *context, uint64_t block, uint64_t where)
{
	struct ft_disk *disk = context;
	uint64_t old = place(disk, block);
	set_place(disk, block, where);
	return old & FT_DISK_WHERE_FILE ? old : 0;
}

/* The same while the file is opened: the index may have to grow. */
static uint64_t put_first(void *context, uint64_t block, uint64_t where)
{
	struct ft_disk *disk = context;
	if (leaf_of(disk, block))
		return put(context, block, where);
	disk->failure = -ENOMEM;
	return where; /* counts as replaced at once; the opening fails */
}

static uint64_t get(void *context, uint64_t block)
{
	return place(context, block);
}

static void reset(void *context)
{
	struct ft_disk *disk = context;
	for (uint64_t i = 0; i < disk->leaf_count; i++) {
		for (unsigned n = 0; disk->leaves[i] && n < FT_DISK_LEAF; n++)
			set_place(disk, i * FT_DISK_LEAF + n, 0);
		free(disk->leaves[i]);
		disk->leaves[i] = NULL;
	}
	disk->written_blocks = 0;
}

int ft_disk_keep(struct ft_disk *disk, struct ft_overlay_config *config, struct ft_overlay_found *found, struct ft_error *err)
{
	config->disk_size = disk->size;
	config->user = (struct ft_overlay_user){.context = disk, .put = put_first, .get = get, .reset = reset};
	int error = ft_disk_sample(disk, &config->base_sample);
	if (error)
		return ft_error_set(err, error, "the disk's base image cannot be read: %s", strerror(-error));
	error = ft_overlay_open(&disk->overlay, config, found, err);
	if (error)
		return error;
	disk->overlay.config.user.put = put;
	disk->kept = true;
	disk->read_fd = config->read_fd;
	return disk->failure ? ft_error_set(err, disk->failure, "no memory for the index of the disk's overlay") : 0;
}

int ft_disk_flush(struct ft_disk *disk)
{
	if (!to_file(disk))
		return 0;
	int error = disk->failure ? disk->failure : ft_overlay_flush(&disk->overlay);
	disk->failure = error;
	return error;
}

int ft_disk_flushed(struct ft_disk *disk)
{
	if (!to_file(disk))
		return 0;
	int error = disk->failure ? disk->failure : ft_overlay_wait(&disk->overlay);
	disk->failure = error;
	return error;
}

int ft_disk_settle(struct ft_disk *disk, struct ft_memory *memory, uint64_t icount)
{
	if (!to_file(disk) || !disk->failure)
		return 0;
	if (disk->overlay.broken)
		return -EIO;
	for (uint64_t i = 0; disk->memory_blocks && i < disk->leaf_count; i++)
		for (unsigned n = 0; disk->leaves[i] && n < FT_DISK_LEAF; n++) {
			if (!in_memory(disk->leaves[i]->where[n]))
				continue;
			struct iovec part = {.iov_base = pointer(disk->leaves[i]->where[n]), .iov_len = FT_DISK_BLOCK};
			int error = ft_overlay_write(&disk->overlay, icount, i * FT_DISK_LEAF + n, 1, &part, 1);
			if (error)
				return error;
		}
	disk->unwritten = 0;
	disk->failure = 0;
	return 0;
}

int ft_disk_reset(struct ft_disk *disk, uint64_t icount)
{
	if (to_file(disk))
		return ft_overlay_reset(&disk->overlay, icount);
	reset(disk);
	return 0;
}

int ft_disk_commit(struct ft_disk *disk, uint64_t icount)
{
	if (!to_file(disk))
		return 0;
	return disk->failure ? disk->failure : ft_overlay_commit(&disk->overlay, icount);
}

int ft_disk_sample(const struct ft_disk *disk, uint64_t *sample)
{
	uint8_t bytes[FT_DISK_BLOCK];
	uint64_t blocks = disk->size / FT_DISK_BLOCK, count = blocks < 1024 ? blocks : 1024, hash = disk->size;
	for (uint64_t i = 0; i < count; i++) {
		int error = read_file(disk->fd, blocks * i / count * FT_DISK_BLOCK, bytes, sizeof(bytes));
		if (error)
			return error;
		hash = XXH3_64bits_withSeed(bytes, sizeof(bytes), hash);
	}
	*sample = hash;
	return 0;
}

/* A written block's bytes; the bounce buffer if they are not in memory. */
static int bytes_of(struct ft_disk *disk, uint64_t block, uint64_t where, const uint8_t **bytes)
{
	*bytes = in_memory(where) ? pointer(where) : disk->bounce;
	if (in_memory(where))
		return 0;
	if (where & FT_DISK_WHERE_ZERO) {
		memset(disk->bounce, 0, FT_DISK_BLOCK);
		return 0;
	}
	return read_file(disk->read_fd, ft_disk_where_at(where), disk->bounce, FT_DISK_BLOCK);
}

int ft_disk_next(struct ft_disk *disk, uint64_t *block, const uint8_t **bytes)
{
	for (uint64_t i = *block / FT_DISK_LEAF; i < disk->leaf_count; i++) {
		const struct ft_disk_leaf *leaf = disk->leaves[i];
		uint64_t first = i == *block / FT_DISK_LEAF ? *block % FT_DISK_LEAF : 0;
		for (uint64_t n = first; leaf && n < FT_DISK_LEAF; n++) {
			if (!leaf->where[n])
				continue;
			*block = i * FT_DISK_LEAF + n;
			int error = bytes_of(disk, *block, leaf->where[n], bytes);
			return error ? error : 1;
		}
	}
	return 0;
}

/* The blocks that bear the mark, or all that were ever written (0, which no block bears); leaves that have none are not looked into. */
static int hash_blocks(struct ft_disk *disk, uint32_t mark, XXH3_state_t *hash)
{
	for (uint64_t i = 0; i < disk->leaf_count; i++) {
		const struct ft_disk_leaf *leaf = disk->leaves[i];
		if (!leaf || (mark && leaf->newest != mark))
			continue;
		for (uint64_t n = 0; n < FT_DISK_LEAF; n++) {
			uint64_t block = i * FT_DISK_LEAF + n;
			const uint8_t *bytes;
			if (!leaf->where[n] || (mark && leaf->mark[n] != mark))
				continue;
			int error = bytes_of(disk, block, leaf->where[n], &bytes);
			if (error)
				return error;
			XXH3_128bits_update(hash, &block, sizeof(block));
			XXH3_128bits_update(hash, bytes, FT_DISK_BLOCK);
		}
	}
	return 0;
}

int ft_disk_hash(struct ft_disk *disk, XXH3_state_t *hash)
{
	return hash_blocks(disk, 0, hash);
}

int ft_disk_hash_written(struct ft_disk *disk, const struct ft_memory *memory, XXH3_state_t *hash)
{
	return hash_blocks(disk, memory->marks + 1, hash);
}
