/* What is on the guest's disk: an immutable base image and, block by block, what has been written since, in private
 * memory: a fork takes a copy-on-write copy of it. Bounded by the size of the disk. */
#ifndef FT_VMM_DEV_DISK_H
#define FT_VMM_DEV_DISK_H

#include <xxhash.h>

#include "vmm/memory.h"

#define FT_DISK_BLOCK 4096u
#define FT_DISK_LEAF  512u /* blocks of one leaf of the index */

struct ft_disk_leaf {
	uint8_t *block[FT_DISK_LEAF]; /* NULL: as in the base image */
	uint32_t mark[FT_DISK_LEAF];  /* ft_memory.marks + 1 when it was written last */
	uint32_t newest;              /* the latest of these */
};

struct ft_disk {
	int fd; /* -1: no disk */
	uint64_t size;
	struct ft_disk_leaf **leaves;
	uint64_t leaf_count, written_blocks;
	uint8_t *arena; /* where the next blocks come from */
	uint64_t arena_left;
	void **arenas;
	uint64_t arena_count;
};

/* Dups fd. */
int ft_disk_open(struct ft_disk *disk, int fd, struct ft_error *err);
void ft_disk_close(struct ft_disk *disk);

/* at + length within size. 0 or -errno. Writes count in memory->written, once a block and mark. */
int ft_disk_read(const struct ft_disk *disk, uint64_t at, void *to, uint64_t length);
int ft_disk_write(struct ft_disk *disk, struct ft_memory *memory, uint64_t at, const void *from,
		  uint64_t length);

/* Tells base images apart: XXH3-64 of up to 1,024 blocks at equal distances. 0 or -errno. */
int ft_disk_sample(const struct ft_disk *disk, uint64_t *sample);

/* The overlay, for who carries a disk elsewhere: the first written block at or after *block (which is set to its number), and
 * its FT_DISK_BLOCK bytes, as long as nothing is written; NULL: there is none. */
const uint8_t *ft_disk_next(const struct ft_disk *disk, uint64_t *block);

void ft_disk_hash(const struct ft_disk *disk, XXH3_state_t *hash); /* all blocks that were ever written */

/* The blocks written since memory's mark: costs what was written since, however old the guest is. */
void ft_disk_hash_written(const struct ft_disk *disk, const struct ft_memory *memory, XXH3_state_t *hash);

#endif
