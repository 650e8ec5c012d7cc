/* A snapshot's file: a header, chunks, an index, a footer (snapshot.md). Each chunk is compressed and authenticated alone, so
 * that any of them can be read when it is needed, by whoever has the file open or mapped, in any order.
 *
 * Written front to back through one descriptor, read at any place. Files from elsewhere are hostile: every offset, length and
 * count is checked when the index is read, everything else by the chunk's authentication before it is looked at. */
#ifndef FT_SNAPSHOT_FILE_H
#define FT_SNAPSHOT_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define FT_SNAPSHOT_VERSION 1u
#define FT_SNAPSHOT_KEY     32u /* bytes of a key */
#define FT_SNAPSHOT_CHUNK   (2u << 20) /* bytes of RAM in a chunk */
#define FT_SNAPSHOT_BLOCKS  511u       /* disk blocks in a chunk, most */
#define FT_SNAPSHOT_CONTENT_MAX (16u << 20) /* of one chunk, unpacked: a machine's state at most */
#define FT_SNAPSHOT_CHUNKS_MAX  (1u << 20)

enum ft_snapshot_kind {
	FT_SNAPSHOT_STATE = 1, /* at 0: vmm/state/state.md */
	FT_SNAPSHOT_RAM = 2,   /* at: guest physical address; 64 bytes of a bitmap of its pages that are not zero, and these */
	FT_SNAPSHOT_DISK = 3,  /* at: running number; u32 count, u32 0, u64 block numbers ascending, the blocks */
	FT_SNAPSHOT_BOOK = 4,  /* at 0, if any: what was known of the guest's processes, clone/book.h */
	FT_SNAPSHOT_TRIAL = 5  /* at 0, if any: of a seed, the request of its trial, clone/transcript.h */
};

struct ft_snapshot_header {
	char magic[8]; /* FTSNAPSH */
	uint32_t version;
	uint32_t encrypted; /* 0, 1 */
	uint8_t salt[32];   /* random; the file's own key is made of it */
	uint64_t memory, disk_size, disk_sample, created_ns; /* disk_sample: of the base image, ft_snapshot_sample */
	uint64_t icount, vtime_ns;
	char guest[64];
	uint8_t key_id[16]; /* encrypted: says whether a key is this file's, and nothing else; else zeros */
	uint8_t origin[16]; /* from whoever has it saved: what the guest was started from, see gateway/warm.h; zeros: not said */
};

struct ft_snapshot_entry {
	uint32_t kind, length; /* length: unpacked */
	uint64_t at, offset;
	uint32_t stored, reserved;
	uint8_t tag[32]; /* encrypted: Poly1305's 16 bytes and zeros; else BLAKE2b-256 of what is stored */
};

struct ft_snapshot_footer {
	uint64_t index, entries; /* where, how many */
	uint8_t mac[32]; /* BLAKE2b-256 of header and index, keyed when encrypted: who has it knows the whole file */
	char magic[8];   /* FTSNAPIX */
};

/* A file's own key, made of the operator's and the file's salt: whoever saves or restores one guest is given no more than the
 * key of that file. */
struct ft_snapshot_seal {
	uint8_t salt[32], key[FT_SNAPSHOT_KEY];
};

void ft_snapshot_seal(struct ft_snapshot_seal *seal, const uint8_t *operators); /* of a new file: random salt */
/* Of an existing one. -EBADMSG: no snapshot; -EKEYREJECTED: it is encrypted with another key. */
int ft_snapshot_unseal(struct ft_snapshot_seal *seal, int fd, const uint8_t *operators, struct ft_error *err);

/* What belongs to a guest beside its snapshots (its journal) is sealed in the same way: salt and id stand in each file. id: 16 bytes that
 * tell this key from others and nothing else. */
void ft_snapshot_identify(const struct ft_snapshot_seal *seal, uint8_t id[16]);
/* The seal of a file with this salt and id. -EACCES: operators is NULL; -EKEYREJECTED: another key. what: of the message. */
int ft_snapshot_unseal_salt(struct ft_snapshot_seal *seal, const uint8_t salt[32], const uint8_t id[16], const uint8_t *operators,
			    const char *what, struct ft_error *err);
/* A key for something else than a snapshot, made of the seal's. purpose: said where that is documented. */
void ft_snapshot_key_for(const struct ft_snapshot_seal *seal, const char *purpose, uint8_t key[FT_SNAPSHOT_KEY]);

/* ---- Writing --------------------------------------------------------------------------------------------------------- */

struct ft_snapshot_writer {
	int fd;
	struct ft_snapshot_header header;
	uint8_t key[FT_SNAPSHOT_KEY]; /* of this file */
	struct ft_snapshot_entry *entries;
	uint64_t count, room, offset;
	void *zstd;
	uint8_t *packed;
	size_t packed_room;
};

/* fd: an empty file, borrowed. header: what is known of the guest; magic, version, encrypted and salt are filled here. seal:
 * NULL: it is not encrypted. */
int ft_snapshot_begin(struct ft_snapshot_writer *w, int fd, const struct ft_snapshot_header *header,
		      const struct ft_snapshot_seal *seal, struct ft_error *err);
int ft_snapshot_put(struct ft_snapshot_writer *w, enum ft_snapshot_kind kind, uint64_t at, const void *bytes, uint32_t length,
		    struct ft_error *err);
/* Index, footer, fsync. mac: 32 bytes, may be NULL. */
int ft_snapshot_end(struct ft_snapshot_writer *w, uint8_t *mac, struct ft_error *err);
void ft_snapshot_writer_free(struct ft_snapshot_writer *w);

/* ---- Reading --------------------------------------------------------------------------------------------------------- */

struct ft_snapshot {
	const uint8_t *map; /* the file, read-only: needs no descriptor, and children of a fork have it, too */
	uint64_t size;
	struct ft_snapshot_header header;
	struct ft_snapshot_entry *entries;
	uint64_t count;
	uint8_t mac[32];
	uint8_t key[FT_SNAPSHOT_KEY];
	void *zstd;
	uint8_t *plain; /* decrypted, still packed */
};

/* -EBADMSG: no snapshot, cut, corrupted; -ENOTSUP: another version; -EACCES: encrypted, and no key; -EKEYREJECTED: another key.
 * The file must not change as long as it is open. */
int ft_snapshot_open(struct ft_snapshot *s, int fd, const struct ft_snapshot_seal *seal, struct ft_error *err);
/* The header alone, as it is: for lists. Nothing of it is authenticated. */
int ft_snapshot_peek(int fd, struct ft_snapshot_header *header, struct ft_error *err);
void ft_snapshot_close(struct ft_snapshot *s);

/* Whether header and index are what was written, as ft_snapshot_open says it, for somebody who must live through a file that
 * changes meanwhile: nothing of it is mapped, nor believed. */
int ft_snapshot_authenticate(int fd, const struct ft_snapshot_seal *seal, struct ft_error *err);

/* Unpacks a chunk into `to` (entry->length bytes). -EBADMSG. */
int ft_snapshot_get(struct ft_snapshot *s, const struct ft_snapshot_entry *entry, uint8_t *to, struct ft_error *err);

/* ---- Names ----------------------------------------------------------------------------------------------------------- */

/* A snapshot appears under its name when it is whole and on disk: it is written to a file of another name, synced, renamed, and
 * the directory synced. A crash leaves the old one, or none, and a file that the next save removes. */
int ft_snapshot_create(int directory, const char *name, struct ft_error *err);           /* a descriptor, or -errno */
int ft_snapshot_commit(int directory, const char *name, int fd, struct ft_error *err);   /* fd stays open */
void ft_snapshot_abandon(int directory, const char *name);
/* Letters, digits, '-', '_', '.', not at the beginning; at most 64 bytes. */
bool ft_snapshot_name(const char *name);

#endif
