/* A segment of a journal: a file of records that begins at a checkpoint, in chunks. Each chunk is compressed, and hashed together
 * with the hash of the one before it, so that the last hash stands for all of a run (journal.md).
 *
 * Written front to back by one process. Files from elsewhere are hostile: each length is checked where a chunk is read, and
 * nothing of a chunk is looked at before its hash. */
#ifndef FT_JOURNAL_SEGMENT_H
#define FT_JOURNAL_SEGMENT_H

#include "journal/record.h"
#include "snapshot/file.h"

#define FT_SEGMENT_VERSION 2u
#define FT_SEGMENT_HASH    32u
#define FT_SEGMENT_CHUNK   (1u << 20) /* bytes of control, and of payload, of one chunk: at most */

struct ft_segment_header {
	char magic[8]; /* FTJOURNL */
	uint32_t version, slice; /* FT_RECORD_SLICE */
	uint32_t run, number;    /* which life of the guest's process, and which of its segments, from 1 */
	uint64_t memory;
	uint8_t mac[6];
	uint16_t mtu;      /* as in the machine's configuration: 0: not told */
	uint32_t has_disk, clock; /* 0, 1; enum ft_clock_mode */
	uint64_t created_ns;
	uint8_t before[FT_SEGMENT_HASH]; /* of the last chunk of the segment before; zeros in the first */
	char guest[64];
	uint32_t encrypted, reserved; /* 0, 1; 0 */
	uint8_t salt[32], key_id[16]; /* as in a snapshot's header */
};

struct ft_segment_chunk {
	uint32_t magic; /* 'FTJC' */
	uint32_t sequence; /* in its segment, from 0 */
	uint32_t control, control_stored, payload, payload_stored; /* bytes; stored: packed */
	uint64_t icount;  /* of its last record */
	uint64_t ring;    /* position in the ring behind its last record */
	uint64_t created_ns;
	uint8_t hash[FT_SEGMENT_HASH]; /* BLAKE2b-256 of the hash before, this header up to here, the stored bytes (as encrypted) */
};

/* ---- Writing --------------------------------------------------------------------------------------------------------- */

struct ft_segment_writer {
	int fd; /* -1: none is open */
	uint32_t sequence;
	uint8_t hash[FT_SEGMENT_HASH]; /* of the last chunk of the run */
	uint64_t bytes;                /* of the file */
	uint8_t key[FT_SNAPSHOT_KEY];  /* of the file, when it is encrypted */
	bool encrypted;
	void *zstd;
	uint8_t *packed;
};

int ft_segment_writer_open(struct ft_segment_writer *w, struct ft_error *err); /* once a process */
void ft_segment_writer_close(struct ft_segment_writer *w);
/* Begins a file, which is taken over; -1: the one that could not be begun, once more. header: what is known of the machine; magic,
 * version, slice, `before` and what is about encryption are filled here. seal: NULL: it is not encrypted. After a failure the file is
 * empty. */
int ft_segment_begin(struct ft_segment_writer *w, int fd, struct ft_segment_header *header, const struct ft_snapshot_seal *seal,
		     struct ft_error *err);
/* One chunk; on disk when this returns (fdatasync). After a failure the file is as it was. */
int ft_segment_put(struct ft_segment_writer *w, const uint8_t *control, uint32_t control_length, const uint8_t *payload,
		   uint32_t payload_length, uint64_t icount, uint64_t ring, struct ft_segment_chunk *written, struct ft_error *err);

/* ---- Reading --------------------------------------------------------------------------------------------------------- */

struct ft_segment_reader {
	const uint8_t *map;
	uint64_t size, at; /* at: the next chunk */
	struct ft_segment_header header;
	uint32_t sequence;
	uint8_t hash[FT_SEGMENT_HASH]; /* of the last chunk read, or header.before */
	uint8_t key[FT_SNAPSHOT_KEY];
	uint8_t *plain; /* NULL: not encrypted */
	void *zstd;
};

/* The file may grow while it is open: what comes later is not seen. operators: the key, or NULL. -EBADMSG, -ENOTSUP (another version),
 * -EACCES: it is encrypted, and there is no key; -EKEYREJECTED: it is another one. */
int ft_segment_open(struct ft_segment_reader *s, int fd, const uint8_t *operators, struct ft_error *err);
void ft_segment_close(struct ft_segment_reader *s);
/* The next chunk, unpacked into two rooms of FT_SEGMENT_CHUNK bytes. 0; -ENODATA: the end, or a tail that was not written
 * whole (`torn` bytes); -EBADMSG: it was changed. */
int ft_segment_next(struct ft_segment_reader *s, struct ft_segment_chunk *chunk, uint8_t *control, uint8_t *payload, uint64_t *torn,
		    struct ft_error *err);

#endif
