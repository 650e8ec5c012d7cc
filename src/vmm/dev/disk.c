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

#define ARENA  (2ull << 20)
#define SECTOR 512u

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
	*disk = (struct ft_disk){.fd = -1};
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
	if (!disk->leaves)
		return ft_error_set(err, -ENOMEM, "no memory for the index of the disk's overlay");
	disk->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (disk->fd < 0) {
		error = -errno;
		free(disk->leaves);
		disk->leaves = NULL;
		return ft_error_set(err, error, "the disk image cannot be used: %s", strerror(-error));
	}
	disk->size = size;
	return 0;
}

void ft_disk_close(struct ft_disk *disk)
{
	for (uint64_t i = 0; i < disk->arena_count; i++)
		munmap(disk->arenas[i], ARENA);
	for (uint64_t i = 0; i < disk->leaf_count; i++)
		free(disk->leaves[i]);
	free(disk->arenas);
	free(disk->leaves);
	if (disk->fd >= 0)
		close(disk->fd);
	*disk = (struct ft_disk){.fd = -1};
}

static uint8_t *overlay(const struct ft_disk *disk, uint64_t block)
{
	const struct ft_disk_leaf *leaf = disk->leaves[block / FT_DISK_LEAF];
	return leaf ? leaf->block[block % FT_DISK_LEAF] : NULL;
}

/* From the base image; what lies behind the end of a file that shrank reads as an error, never as old data. */
static int read_base(const struct ft_disk *disk, uint64_t at, uint8_t *to, uint64_t length)
{
	while (length) {
		ssize_t n = pread(disk->fd, to, length, (off_t)at);
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

int ft_disk_read(const struct ft_disk *disk, uint64_t at, void *to, uint64_t length)
{
	uint8_t *out = to;
	while (length) {
		uint64_t block = at / FT_DISK_BLOCK, within = at % FT_DISK_BLOCK;
		const uint8_t *own = overlay(disk, block);
		uint64_t n = FT_DISK_BLOCK - within;
		/* One read for a run of blocks that are all in the base image. */
		while (!own && n < length && !overlay(disk, (at + n) / FT_DISK_BLOCK))
			n += FT_DISK_BLOCK;
		if (n > length)
			n = length;
		if (own) {
			memcpy(out, own + within, n);
		} else {
			int error = read_base(disk, at, out, n);
			if (error)
				return error;
		}
		out += n;
		at += n;
		length -= n;
	}
	return 0;
}

static uint8_t *new_block(struct ft_disk *disk)
{
	if (disk->arena_left < FT_DISK_BLOCK) {
		void **arenas = realloc(disk->arenas, (disk->arena_count + 1) * sizeof(*arenas));
		if (!arenas)
			return NULL;
		disk->arenas = arenas;
		void *arena = mmap(NULL, ARENA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (arena == MAP_FAILED)
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

/* The overlay's copy of a block, made from the base image unless all of it is about to be written. */
static int own_block(struct ft_disk *disk, struct ft_memory *memory, uint64_t block, bool whole,
		     uint8_t **own)
{
	struct ft_disk_leaf **leaf = &disk->leaves[block / FT_DISK_LEAF];
	if (!*leaf)
		*leaf = calloc(1, sizeof(**leaf));
	if (!*leaf)
		return -ENOMEM;
	uint64_t n = block % FT_DISK_LEAF;
	if (!(*leaf)->block[n]) {
		uint8_t *fresh = new_block(disk);
		if (!fresh)
			return -ENOMEM;
		uint64_t at = block * FT_DISK_BLOCK;
		uint64_t there = disk->size - at < FT_DISK_BLOCK ? disk->size - at : FT_DISK_BLOCK;
		int error = whole ? 0 : read_base(disk, at, fresh, there);
		if (error) { /* nothing refers to it yet */
			disk->arena -= FT_DISK_BLOCK;
			disk->arena_left += FT_DISK_BLOCK;
			memset(fresh, 0, FT_DISK_BLOCK);
			return error;
		}
		(*leaf)->block[n] = fresh;
		disk->written_blocks++;
	}
	if ((*leaf)->mark[n] != memory->marks + 1) {
		(*leaf)->newest = (*leaf)->mark[n] = memory->marks + 1;
		memory->written++;
	}
	*own = (*leaf)->block[n];
	return 0;
}

int ft_disk_write(struct ft_disk *disk, struct ft_memory *memory, uint64_t at, const void *from,
		  uint64_t length)
{
	const uint8_t *in = from;
	while (length) {
		uint64_t within = at % FT_DISK_BLOCK, n = FT_DISK_BLOCK - within;
		if (n > length)
			n = length;
		uint8_t *own;
		int error = own_block(disk, memory, at / FT_DISK_BLOCK, n == FT_DISK_BLOCK, &own);
		if (error)
			return error;
		memcpy(own + within, in, n);
		in += n;
		at += n;
		length -= n;
	}
	return 0;
}

int ft_disk_sample(const struct ft_disk *disk, uint64_t *sample)
{
	uint8_t bytes[FT_DISK_BLOCK];
	uint64_t blocks = disk->size / FT_DISK_BLOCK, count = blocks < 1024 ? blocks : 1024, hash = disk->size;
	for (uint64_t i = 0; i < count; i++) {
		int error = read_base(disk, blocks * i / count * FT_DISK_BLOCK, bytes, sizeof(bytes));
		if (error)
			return error;
		hash = XXH3_64bits_withSeed(bytes, sizeof(bytes), hash);
	}
	*sample = hash;
	return 0;
}

const uint8_t *ft_disk_next(const struct ft_disk *disk, uint64_t *block)
{
	for (uint64_t i = *block / FT_DISK_LEAF; i < disk->leaf_count; i++) {
		const struct ft_disk_leaf *leaf = disk->leaves[i];
		uint64_t first = i == *block / FT_DISK_LEAF ? *block % FT_DISK_LEAF : 0;
		for (uint64_t n = first; leaf && n < FT_DISK_LEAF; n++) {
			if (!leaf->block[n])
				continue;
			*block = i * FT_DISK_LEAF + n;
			return leaf->block[n];
		}
	}
	return NULL;
}

/* The blocks that bear the mark, or all that were ever written (0, which no block bears); leaves that have none are not looked into. */
static void hash_blocks(const struct ft_disk *disk, uint32_t mark, XXH3_state_t *hash)
{
	for (uint64_t i = 0; i < disk->leaf_count; i++) {
		const struct ft_disk_leaf *leaf = disk->leaves[i];
		if (!leaf || (mark && leaf->newest != mark))
			continue;
		for (uint64_t n = 0; n < FT_DISK_LEAF; n++) {
			uint64_t block = i * FT_DISK_LEAF + n;
			if (!leaf->block[n] || (mark && leaf->mark[n] != mark))
				continue;
			XXH3_128bits_update(hash, &block, sizeof(block));
			XXH3_128bits_update(hash, leaf->block[n], FT_DISK_BLOCK);
		}
	}
}

void ft_disk_hash(const struct ft_disk *disk, XXH3_state_t *hash)
{
	hash_blocks(disk, 0, hash);
}

void ft_disk_hash_written(const struct ft_disk *disk, const struct ft_memory *memory, XXH3_state_t *hash)
{
	hash_blocks(disk, memory->marks + 1, hash);
}
