/* What an overlay file is made of; disk.md describes it. Records are found by walking from one to the next and by nothing else, and
 * each is authenticated with a key that the guest cannot know, so nothing that a guest writes is ever taken for one. */
#ifndef FT_DISK_RECORD_H
#define FT_DISK_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/error.h"

#define FT_DISK_RECORD_BLOCK  4096u
#define FT_DISK_RECORD_BLOCKS 256u /* most of one record: a request is cut into these */
/* The fuzzers' build has small ones: reading one costs them more than all else. */
#ifndef FT_SEGMENT_SIZE
#define FT_SEGMENT_SIZE (16u << 20)
#endif
#define FT_SEGMENT_FIRST 4096u /* where the first one begins: behind the file's head */

enum ft_disk_record_type {
	FT_DISK_RECORD_SEGMENT = 1, /* begins each segment */
	FT_DISK_RECORD_DATA,        /* count blocks */
	FT_DISK_RECORD_ZERO,        /* count blocks that are zeros from here on */
	FT_DISK_RECORD_COPY,        /* as DATA, kept by a compaction: stamped with what it was written at */
	FT_DISK_RECORD_COPY_ZERO,   /* as ZERO, the same */
	FT_DISK_RECORD_RESET,       /* all blocks are the base image's again: valid with its COMMIT only */
	FT_DISK_RECORD_COMMIT,
	FT_DISK_RECORD_HORIZON,     /* `block`: versions that were replaced before this time (UNIX, ns) are gone */
	FT_DISK_RECORD_SUMMARY,     /* ends a segment: count entries about its records */
	FT_DISK_RECORD_FOOTER,      /* in the last bytes of a segment: `block` is the place of its SUMMARY */
	FT_DISK_RECORD_TYPES
};

/* Little endian, as all machines that this runs on. */
struct ft_disk_record {
	uint8_t magic[8];  /* the file's own */
	uint8_t mac[16];   /* keyed BLAKE2b of all behind it */
	uint8_t hash[16];  /* XXH3-128 of what follows the record, seeded by the key */
	uint64_t segment;  /* rises with each segment that is begun */
	uint64_t sequence; /* rises by one */
	uint64_t durable;  /* everything up to this one was on disk when this one was written */
	uint64_t wall_ns;  /* UNIX time of the write, never lower than the one before (copies aside) */
	uint64_t icount;   /* and the guest's instruction count */
	uint64_t block;    /* the first one */
	uint32_t count, type;
	uint32_t run;      /* rises with each opening: what lies behind a cut is older than what replaces it */
	uint32_t length;   /* bytes that follow */
};

/* Of a SUMMARY. */
struct ft_disk_record_entry {
	uint64_t block, wall_ns;
	uint32_t offset; /* of the record in its segment */
	uint32_t count, type, reserved;
};

/* The file's first 4,096 bytes. */
struct ft_overlay_head {
	uint8_t magic[8]; /* FT_OVERLAY_MAGIC */
	uint32_t version, segment_size;
	uint8_t key[32];
	uint8_t record_magic[8];
	uint64_t disk_size, base_sample, created_ns;
	char guest[64];
	uint8_t mac[16]; /* BLAKE2b of all before, keyed by `key`: against accidents */
};

#define FT_OVERLAY_MAGIC   "FTDISKOV"
#define FT_OVERLAY_VERSION 1u

_Static_assert(sizeof(struct ft_disk_record) == 104, "as in disk.md");
_Static_assert(sizeof(struct ft_disk_record_entry) == 32, "as in disk.md");
_Static_assert(sizeof(struct ft_overlay_head) == 160, "as in disk.md");

struct ft_disk_record_key {
	uint8_t key[32], magic[8];
	uint64_t seed;
};

void ft_overlay_head_make(struct ft_overlay_head *head, uint64_t disk_size, uint64_t base_sample, uint64_t created_ns,
			  const char *guest);
/* 0 or -EBADMSG with what is wrong. */
int ft_overlay_head_check(const struct ft_overlay_head *head, struct ft_error *err);
void ft_disk_record_key_take(struct ft_disk_record_key *key, const struct ft_overlay_head *head);

/* Fills in magic, hash over the parts, length, mac. */
void ft_disk_record_seal(const struct ft_disk_record_key *key, struct ft_disk_record *record, const struct iovec *parts, size_t count);

/* Is this a record of this file: genuine, and with a type, count and length that fit each other? What follows is not looked at. */
bool ft_disk_record_genuine(const struct ft_disk_record_key *key, const struct ft_disk_record *record);
bool ft_disk_record_whole(const struct ft_disk_record_key *key, const struct ft_disk_record *record, const void *payload);

/* Where segment slot n begins. */
static inline uint64_t ft_segment_at(uint64_t slot)
{
	return FT_SEGMENT_FIRST + slot * FT_SEGMENT_SIZE;
}

static inline bool ft_disk_record_has_blocks(uint32_t type)
{
	return type >= FT_DISK_RECORD_DATA && type <= FT_DISK_RECORD_COPY_ZERO;
}

static inline bool ft_disk_record_is_zero(uint32_t type)
{
	return type == FT_DISK_RECORD_ZERO || type == FT_DISK_RECORD_COPY_ZERO;
}

#endif
