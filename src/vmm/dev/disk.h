/* What is on the guest's disk: an immutable base image and, block by block, what has been written since: in an overlay file
 * (disk/overlay.h), which outlives the machine, or in private memory. A fork takes a copy-on-write copy of the index, and what it
 * writes itself stays in its memory once it is sealed. Bounded by the size of the disk. */
#ifndef FT_VMM_DEV_DISK_H
#define FT_VMM_DEV_DISK_H

#include <sys/uio.h>
#include <xxhash.h>

#include "disk/overlay.h"
#include "vmm/memory.h"

#define FT_DISK_BLOCK 4096u
#define FT_DISK_LEAF  512u /* blocks of one leaf of the index */

_Static_assert(FT_DISK_BLOCK == FT_DISK_RECORD_BLOCK, "a block is one of the overlay's");

struct ft_disk_leaf {
	uint64_t where[FT_DISK_LEAF]; /* 0: in the base image; as in disk/overlay.h; else the block's address */
	uint32_t mark[FT_DISK_LEAF];  /* ft_memory.marks + 1 when it was written last */
	uint32_t newest;              /* the latest of these */
};

struct ft_disk {
	int fd; /* -1: no disk */
	uint64_t size;
	struct ft_disk_leaf **leaves;
	uint64_t leaf_count, written_blocks;
	uint64_t memory_blocks; /* of these in memory */
	uint8_t *arena;         /* where the next blocks come from */
	uint64_t arena_left;
	void **arenas;
	uint64_t arena_count;
	uint8_t **spare; /* blocks of arenas that nobody has */
	uint64_t spare_count, spare_room;
	bool kept;   /* there is an overlay file */
	bool sealed; /* a fork's: the file is only read */
	int read_fd;
	struct ft_overlay overlay;
	uint64_t unwritten; /* blocks in memory because the file did not take them */
	int failure;        /* why */
	uint8_t *bounce;    /* ft_disk_next's */
};

/* Dups fd. */
int ft_disk_open(struct ft_disk *disk, int fd, struct ft_error *err);
void ft_disk_close(struct ft_disk *disk);

/* What is written goes to an overlay file from here on, and what it has is on the disk. Once, right after the opening; sizes and
 * index functions of config are filled in here; its descriptors are taken over. 0 or as ft_overlay_open. */
int ft_disk_keep(struct ft_disk *disk, struct ft_overlay_config *config, struct ft_overlay_found *found, struct ft_error *err);

/* In a fork, before anything is written. What is left of the parent's arena is shared, and its huge page would fall apart. */
static inline void ft_disk_seal(struct ft_disk *disk)
{
	disk->sealed = true;
	disk->arena_left = 0;
}

/* at + length within size. 0 or -errno. Writes count in memory->written, once a block and mark; icount is for the file alone. What the
 * file does not take is kept in memory, up to FT_DISK_UNWRITTEN blocks, and disk->failure says why: beyond that -EIO. */
#define FT_DISK_UNWRITTEN 16384u
int ft_disk_read(const struct ft_disk *disk, uint64_t at, void *to, uint64_t length);
int ft_disk_write(struct ft_disk *disk, struct ft_memory *memory, uint64_t at, const void *from,
		  uint64_t length);
int ft_disk_writev(struct ft_disk *disk, struct ft_memory *memory, uint64_t icount, uint64_t at, const struct iovec *parts, size_t count);
/* Reads as zeros from here on. */
int ft_disk_zero(struct ft_disk *disk, struct ft_memory *memory, uint64_t icount, uint64_t at, uint64_t length);

/* Everything written so far is made durable; ft_disk_flushed waits for it. 0 or -errno; at once where there is no file. */
int ft_disk_flush(struct ft_disk *disk);
int ft_disk_flushed(struct ft_disk *disk);

/* Tries again to write what the file did not take. 0: it has all. */
int ft_disk_settle(struct ft_disk *disk, struct ft_memory *memory, uint64_t icount);

/* The base image's contents again, and then what is written until the commit: in the file, all of it or nothing. */
int ft_disk_reset(struct ft_disk *disk, uint64_t icount);
int ft_disk_commit(struct ft_disk *disk, uint64_t icount);

/* Tells base images apart: XXH3-64 of up to 1,024 blocks at equal distances. 0 or -errno. */
int ft_disk_sample(const struct ft_disk *disk, uint64_t *sample);

/* The overlay, for who carries a disk elsewhere: the first written block at or after *block (which is set to its number), and
 * its FT_DISK_BLOCK bytes, until the next call or write. 1; 0: there is none; -errno. */
int ft_disk_next(struct ft_disk *disk, uint64_t *block, const uint8_t **bytes);

int ft_disk_hash(struct ft_disk *disk, XXH3_state_t *hash); /* all blocks that were ever written. 0 or -errno */

/* The blocks written since memory's mark: costs what was written since, however old the guest is. */
int ft_disk_hash_written(struct ft_disk *disk, const struct ft_memory *memory, XXH3_state_t *hash);

#endif
