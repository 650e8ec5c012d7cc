#include "disk/ext4.h"

#include <endian.h>
#include <errno.h>
#include <ext2fs/ext2fs.h>
#include <stdlib.h>
#include <string.h>

/* jbd2 as in the kernel's include/linux/jbd2.h; everything in it is big endian. */
#define JOURNAL_MAGIC     0xc03b3998u
#define BLOCK_DESCRIPTOR  1u
#define BLOCK_COMMIT      2u
#define BLOCK_SUPER1      3u
#define BLOCK_SUPER2      4u
#define BLOCK_REVOKE      5u
#define INCOMPAT_64BIT    2u
#define INCOMPAT_CSUM_V2  8u
#define INCOMPAT_CSUM_V3  16u
#define INCOMPAT_KNOWN    31u
#define TAG_ESCAPED       1u
#define TAG_SAME_UUID     2u
#define TAG_LAST          8u
#define JOURNAL_MOST      (1u << 20) /* blocks of a journal that are looked at */

struct journal_header {
	uint32_t magic, type, sequence;
};

struct journal_super {
	struct journal_header header;
	uint32_t block_size, most, first, sequence, start, error, compat, incompat;
};

struct replayed {
	uint64_t block, from; /* blocks of the file system: the one at `block` has the bytes of the one at `from` */
	uint32_t sequence;
	bool escaped; /* but for its first four, which are the journal's magic */
};

struct revoked {
	uint64_t block;
	uint32_t sequence;
};

struct ft_ext4 {
	struct ft_view *view;
	ext2_filsys fs;
	struct struct_io_manager manager;
	int error; /* of the last read that failed */
	struct replayed *replayed; /* by block */
	size_t replayed_count, replayed_room;
	struct revoked *revoked; /* by block */
	size_t revoked_count, revoked_room;
	bool replaying;
	unsigned block_size; /* the file system's; known when its journal is read */
};

/* ---- libext2fs reads blocks ------------------------------------------------------------------------------------------- */

/* Numbers of transactions go round; those of one journal are close to each other. */
static int in_order(uint64_t block, uint32_t sequence, uint64_t other, uint32_t than)
{
	int32_t later = (int32_t)(sequence - than);
	return block != other ? (block < other ? -1 : 1) : later < 0 ? -1 : later > 0;
}

static int by_block(const void *a, const void *b)
{
	const struct replayed *x = a, *y = b;
	return in_order(x->block, x->sequence, y->block, y->sequence);
}

static int by_revoked_block(const void *a, const void *b)
{
	const struct revoked *x = a, *y = b;
	return in_order(x->block, x->sequence, y->block, y->sequence);
}

static const struct replayed *find_replayed(const struct ft_ext4 *e, uint64_t block)
{
	size_t low = 0, high = e->replayed_count;
	while (low < high) {
		size_t middle = (low + high) / 2;
		if (e->replayed[middle].block < block)
			low = middle + 1;
		else
			high = middle;
	}
	return low < e->replayed_count && e->replayed[low].block == block ? &e->replayed[low] : NULL;
}

static errcode_t read_bytes(struct ft_ext4 *e, uint64_t at, void *to, uint64_t length)
{
	uint64_t size = e->view->h->head.disk_size;
	if (at > size || length > size - at)
		return EXT2_ET_SHORT_READ;
	int error = ft_view_read(e->view, at, to, length);
	if (error)
		e->error = error;
	return error ? EXT2_ET_SHORT_READ : 0;
}

/* Of the channel's size, which is 1,024 while the superblock is read: a part of the file system's then. */
static errcode_t read_block(struct ft_ext4 *e, uint64_t block, unsigned size, uint8_t *to)
{
	if (block > UINT64_MAX / 65536)
		return EXT2_ET_SHORT_READ;
	uint64_t at = block * size;
	const struct replayed *r = e->replaying ? NULL : find_replayed(e, at / e->block_size);
	if (r && r->from > UINT64_MAX / 65536)
		return EXT2_ET_SHORT_READ;
	errcode_t error = read_bytes(e, r ? r->from * e->block_size + at % e->block_size : at, to, size);
	if (!error && r && r->escaped && at % e->block_size == 0)
		memcpy(to, &(uint32_t){htobe32(JOURNAL_MAGIC)}, 4);
	return error;
}

/* A negative count is one of bytes. */
static errcode_t io_read(io_channel channel, unsigned long long block, int count, void *to)
{
	struct ft_ext4 *e = channel->private_data;
	unsigned size = (unsigned)channel->block_size;
	if (count == INT32_MIN)
		return EXT2_ET_INVALID_ARGUMENT;
	if (count < 0) {
		uint8_t *whole = malloc(size);
		uint64_t left = (uint64_t)-(int64_t)count;
		errcode_t error = whole ? 0 : EXT2_ET_NO_MEMORY;
		for (uint8_t *out = to; !error && left; block++) {
			uint64_t n = left < size ? left : size;
			error = read_block(e, block, size, whole);
			if (!error)
				memcpy(out, whole, n);
			out += n;
			left -= n;
		}
		free(whole);
		return error;
	}
	for (int i = 0; i < count; i++) {
		errcode_t error = read_block(e, block + (unsigned)i, size, (uint8_t *)to + (size_t)i * size);
		if (error)
			return error;
	}
	return 0;
}

static errcode_t io_read32(io_channel channel, unsigned long block, int count, void *to)
{
	return io_read(channel, block, count, to);
}

static errcode_t io_write(io_channel channel, unsigned long long block, int count, const void *from)
{
	return EXT2_ET_RO_FILSYS;
}

static errcode_t io_write32(io_channel channel, unsigned long block, int count, const void *from)
{
	return EXT2_ET_RO_FILSYS;
}

static errcode_t io_set_block_size(io_channel channel, int size)
{
	if (size < 1024 || size > 65536)
		return EXT2_ET_INVALID_ARGUMENT;
	channel->block_size = size;
	return 0;
}

static errcode_t io_flush(io_channel channel)
{
	return 0;
}

static errcode_t io_close(io_channel channel)
{
	if (--channel->refcount > 0)
		return 0;
	free(channel->name);
	free(channel);
	return 0;
}

/* libext2fs opens by name: the name is the address, in decimal, of who asks. It is made here and comes back at once. */
static errcode_t io_open(const char *name, int flags, io_channel *channel)
{
	io_channel io = calloc(1, sizeof(*io));
	char *copy = strdup(name);
	if (!io || !copy) {
		free(io);
		free(copy);
		return EXT2_ET_NO_MEMORY;
	}
	struct ft_ext4 *e = (struct ft_ext4 *)(uintptr_t)strtoull(name, NULL, 10); /* NOLINT */
	*io = (struct struct_io_channel){
	    .magic = EXT2_ET_MAGIC_IO_CHANNEL, .manager = &e->manager, .name = copy, .block_size = 1024, .refcount = 1, .private_data = e};
	*channel = io;
	return 0;
}

/* ---- The journal -------------------------------------------------------------------------------------------------------- */

struct journal {
	struct ft_ext4 *e;
	uint64_t *blocks; /* where its blocks are */
	uint32_t count, first;
	uint32_t incompat;
	uint8_t *block;
	unsigned size;
};

static bool journal_read(struct journal *j, uint32_t n)
{
	return n < j->count && j->blocks[n] && !read_block(j->e, j->blocks[n], j->size, j->block);
}

static uint32_t next_of(const struct journal *j, uint32_t n)
{
	return n + 1 >= j->count ? j->first : n + 1;
}

static int add_replayed(struct ft_ext4 *e, struct replayed r)
{
	if (e->replayed_count == e->replayed_room) {
		size_t room = e->replayed_room ? 2 * e->replayed_room : 256;
		struct replayed *all = realloc(e->replayed, room * sizeof(*all));
		if (!all)
			return -ENOMEM;
		e->replayed = all;
		e->replayed_room = room;
	}
	e->replayed[e->replayed_count++] = r;
	return 0;
}

static int add_revoked(struct ft_ext4 *e, uint64_t block, uint32_t sequence)
{
	if (e->revoked_count == e->revoked_room) {
		size_t room = e->revoked_room ? 2 * e->revoked_room : 256;
		struct revoked *all = realloc(e->revoked, room * sizeof(*e->revoked));
		if (!all)
			return -ENOMEM;
		e->revoked = all;
		e->revoked_room = room;
	}
	e->revoked[e->revoked_count++] = (struct revoked){.block = block, .sequence = sequence};
	return 0;
}

static uint32_t be(const uint8_t *at)
{
	uint32_t value;
	memcpy(&value, at, 4);
	return be32toh(value);
}

/* The blocks that a descriptor in j->block speaks of; *n moves behind them. */
static int take_descriptor(struct journal *j, uint32_t sequence, uint32_t *n)
{
	bool v3 = j->incompat & INCOMPAT_CSUM_V3, wide = j->incompat & INCOMPAT_64BIT;
	unsigned tag = v3 ? 16 : wide ? 12 : 8, at = sizeof(struct journal_header);
	unsigned end = j->size - (j->incompat & (INCOMPAT_CSUM_V2 | INCOMPAT_CSUM_V3) ? 4 : 0);
	while (at + tag <= end) {
		const uint8_t *t = j->block + at;
		uint32_t flags = v3 ? be(t + 4) : be(t + 4) & 0xffff;
		uint64_t block = be(t) | (wide ? (uint64_t)be(t + 8) << 32 : 0);
		at += tag + (flags & TAG_SAME_UUID ? 0 : 16);
		*n = next_of(j, *n);
		if (*n >= j->count || !j->blocks[*n])
			return -EBADMSG;
		int error = add_replayed(j->e, (struct replayed){.block = block,
								 .from = j->blocks[*n],
								 .sequence = sequence,
								 .escaped = flags & TAG_ESCAPED});
		if (error)
			return error;
		if (flags & TAG_LAST)
			return 0;
	}
	return 0;
}

static int take_revoke(struct journal *j, uint32_t sequence)
{
	unsigned width = j->incompat & INCOMPAT_64BIT ? 8 : 4, end = be(j->block + 12);
	for (unsigned at = 16; end <= j->size && at + width <= end; at += width) {
		uint64_t block = width == 8 ? (uint64_t)be(j->block + at) << 32 | be(j->block + at + 4) : be(j->block + at);
		int error = add_revoked(j->e, block, sequence);
		if (error)
			return error;
	}
	return 0;
}

/* Transaction by transaction, as long as each ends with its commit. */
static int replay(struct journal *j, uint32_t n, uint32_t sequence)
{
	struct ft_ext4 *e = j->e;
	size_t replayed = 0, revoked = 0;
	for (uint32_t steps = 0; steps < j->count && journal_read(j, n); steps++) {
		int error = 0;
		if (be(j->block) != JOURNAL_MAGIC || be(j->block + 8) != sequence)
			break;
		uint32_t type = be(j->block + 4);
		if (type == BLOCK_DESCRIPTOR) {
			error = take_descriptor(j, sequence, &n);
		} else if (type == BLOCK_REVOKE) {
			error = take_revoke(j, sequence);
		} else if (type == BLOCK_COMMIT) {
			sequence++;
			replayed = e->replayed_count;
			revoked = e->revoked_count;
		} else {
			break;
		}
		if (error == -ENOMEM)
			return error;
		if (error)
			break;
		n = next_of(j, n);
	}
	e->replayed_count = replayed;
	e->revoked_count = revoked;
	return 0;
}

/* In that transaction or a later one. */
static bool is_revoked(const struct ft_ext4 *e, const struct replayed *r)
{
	size_t low = 0, high = e->revoked_count;
	while (low < high) {
		size_t middle = (low + high) / 2;
		if (in_order(e->revoked[middle].block, e->revoked[middle].sequence, r->block, r->sequence) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low < e->revoked_count && e->revoked[low].block == r->block;
}

/* The last one of each block, unless it was revoked since. The guest decides how many of both there are. */
static void settle(struct ft_ext4 *e)
{
	size_t kept = 0;
	if (e->replayed_count)
		qsort(e->replayed, e->replayed_count, sizeof(*e->replayed), by_block);
	if (e->revoked_count)
		qsort(e->revoked, e->revoked_count, sizeof(*e->revoked), by_revoked_block);
	for (size_t i = 0; i < e->replayed_count; i++) {
		struct replayed r = e->replayed[i];
		if (i + 1 < e->replayed_count && e->replayed[i + 1].block == r.block)
			continue;
		if (!is_revoked(e, &r))
			e->replayed[kept++] = r;
	}
	e->replayed_count = kept;
}

static int read_journal(struct ft_ext4 *e)
{
	struct ext2_super_block *super = e->fs->super;
	struct journal j = {.e = e, .size = e->fs->blocksize};
	struct ext2_inode inode;
	struct journal_super head;
	if (!super->s_journal_inum || super->s_journal_dev || ext2fs_read_inode(e->fs, super->s_journal_inum, &inode))
		return 0;
	uint64_t size = EXT2_I_SIZE(&inode) / j.size;
	if (size < 2 || size > JOURNAL_MOST)
		return 0;
	j.count = (uint32_t)size;
	j.blocks = calloc(j.count, sizeof(*j.blocks));
	j.block = malloc(j.size);
	int error = j.blocks && j.block ? 0 : -ENOMEM;
	for (uint32_t n = 0; !error && n < j.count; n++) {
		blk64_t block = 0;
		if (ext2fs_bmap2(e->fs, super->s_journal_inum, &inode, NULL, 0, n, NULL, &block))
			break;
		j.blocks[n] = block;
	}
	if (!error && journal_read(&j, 0)) {
		memcpy(&head, j.block, sizeof(head));
		uint32_t type = be32toh(head.header.type), most = be32toh(head.most), start = be32toh(head.start);
		j.first = be32toh(head.first);
		j.incompat = type == BLOCK_SUPER2 ? be32toh(head.incompat) : 0;
		if (be32toh(head.header.magic) == JOURNAL_MAGIC && (type == BLOCK_SUPER1 || type == BLOCK_SUPER2) &&
		    be32toh(head.block_size) == j.size && most <= j.count && j.first && j.first < most && start < most &&
		    !(j.incompat & ~INCOMPAT_KNOWN)) {
			j.count = most;
			if (start) /* 0: it is empty */
				error = replay(&j, start, be32toh(head.sequence));
		}
	}
	settle(e);
	free(j.blocks);
	free(j.block);
	return error;
}

/* ---- Files --------------------------------------------------------------------------------------------------------------- */

static int failed(const struct ft_ext4 *e, errcode_t code, const char *what, struct ft_error *err)
{
	if (e->error == -ESTALE)
		return ft_error_set(err, -ESTALE, "the guest's writes have gone on, and what was asked for is not kept any more");
	if (code == EXT2_ET_FILE_NOT_FOUND)
		return ft_error_set(err, -ENOENT, "there was no such file");
	return ft_error_set(err, e->error ? e->error : -EBADMSG, "%s cannot be read: %s", what, error_message(code));
}

static errcode_t open_fs(struct ft_ext4 *e)
{
	char name[32];
	snprintf(name, sizeof(name), "%llu", (unsigned long long)(uintptr_t)e);
	return ext2fs_open2(name, NULL, EXT2_FLAG_64BITS | EXT2_FLAG_IGNORE_CSUM_ERRORS, 0, 0, &e->manager, &e->fs);
}

struct ft_ext4 *ft_ext4_open(struct ft_view *view, struct ft_error *err)
{
	struct ft_ext4 *e = calloc(1, sizeof(*e));
	if (!e) {
		ft_error_set(err, -ENOMEM, "no memory for a file system");
		return NULL;
	}
	e->view = view;
	e->manager = (struct struct_io_manager){.magic = EXT2_ET_MAGIC_IO_MANAGER,
						.name = "view",
						.open = io_open,
						.close = io_close,
						.set_blksize = io_set_block_size,
						.read_blk = io_read32,
						.write_blk = io_write32,
						.flush = io_flush,
						.read_blk64 = io_read,
						.write_blk64 = io_write};
	e->replaying = true;
	initialize_ext2_error_table();
	errcode_t code = open_fs(e);
	int error = code ? 0 : read_journal(e);
	e->block_size = code ? 1024 : e->fs->blocksize;
	e->replaying = false;
	/* Anew: what it has read of the superblock and the groups may be in the journal. */
	if (!code && !error && e->replayed_count) {
		ext2fs_free(e->fs);
		e->fs = NULL;
		code = open_fs(e);
	}
	if (!code && !error)
		return e;
	if (code)
		failed(e, code, "the file system", err);
	else
		ft_error_set(err, error, "no memory for the file system's journal");
	ft_ext4_close(e);
	return NULL;
}

void ft_ext4_close(struct ft_ext4 *e)
{
	if (!e)
		return;
	if (e->fs)
		ext2fs_free(e->fs);
	free(e->replayed);
	free(e->revoked);
	free(e);
}

int ft_ext4_find(struct ft_ext4 *e, const char *path, struct ft_ext4_file *file, struct ft_error *err)
{
	struct ext2_inode inode;
	ext2_ino_t number = 0;
	e->error = 0;
	errcode_t code = ext2fs_namei(e->fs, EXT2_ROOT_INO, EXT2_ROOT_INO, path, &number);
	if (!code)
		code = ext2fs_read_inode(e->fs, number, &inode);
	if (code)
		return failed(e, code, "the file", err);
	*file = (struct ft_ext4_file){.inode = number,
				      .generation = inode.i_generation,
				      .size = EXT2_I_SIZE(&inode),
				      .mtime_s = inode.i_mtime,
				      .mode = inode.i_mode,
				      .uid = inode_uid(inode)};
	return 0;
}

int ft_ext4_read(struct ft_ext4 *e, const struct ft_ext4_file *file, uint64_t most, int (*take)(void *context, const void *bytes, size_t length),
		 void *context, struct ft_error *err)
{
	char bytes[65536];
	ext2_file_t open = NULL;
	e->error = 0;
	if (!LINUX_S_ISREG(file->mode))
		return ft_error_set(err, -EINVAL, "this is no regular file");
	errcode_t code = ext2fs_file_open(e->fs, file->inode, 0, &open);
	int error = 0;
	for (uint64_t done = 0; !code && !error && done < most;) {
		unsigned got = 0, want = most - done < sizeof(bytes) ? (unsigned)(most - done) : (unsigned)sizeof(bytes);
		code = ext2fs_file_read(open, bytes, want, &got);
		if (!code && !got)
			break;
		if (!code)
			error = take(context, bytes, got);
		done += got;
	}
	if (open)
		ext2fs_file_close(open);
	if (code)
		return failed(e, code, "the file", err);
	return error ? ft_error_set(err, error, "what was read cannot be written: %s", strerror(-error)) : 0;
}
