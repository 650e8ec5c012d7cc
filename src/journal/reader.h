/* The records of one run of a guest from one of its checkpoints on, out of its segments and what was left in its ring. All of it
 * may have been written by a vmm in the hands of its guest: records come through ft_record_decode alone, and what this keeps is
 * bounded. */
#ifndef FT_JOURNAL_READER_H
#define FT_JOURNAL_READER_H

#include "journal/ring.h"
#include "journal/segment.h"

#define FT_JOURNAL_SEGMENTS 1024u
#define FT_JOURNAL_AHEAD    65536u /* records that may be looked at ahead: inputs inside one run */

/* Names in a guest's directory. */
#define FT_JOURNAL_CHECKPOINT "%06u-%06u.checkpoint" /* run, number */
#define FT_JOURNAL_SEGMENT    "%06u-%06u.journal"
#define FT_JOURNAL_RING	      "%06u.ring"

/* Descriptors, the caller's; they may be closed after ft_journal_open. */
struct ft_journal_files {
	int segments[FT_JOURNAL_SEGMENTS]; /* of one run, in order, none missing */
	unsigned count;
	int ring; /* -1: none */
	const uint8_t *key; /* the operator's (snapshot/key.h), where they are encrypted; NULL: none. Not needed after ft_journal_open */
	/* Called when the ring has been copied: adds segments that were begun since the list was made, for what had left the ring by
	 * then may be in them. NULL: nobody writes. */
	void (*more)(void *context, struct ft_journal_files *files);
	void *context;
};

struct ft_journal {
	struct ft_segment_reader *segments;
	unsigned count, segment; /* the one that is being read */
	struct ft_journal_ring ring;
	struct ft_record_state state;
	struct ft_record *records;
	size_t first, end, room; /* records[first..end) are not taken yet */
	uint8_t *control, *payload, *carried;
	uint64_t position; /* in the ring, behind what the chunks have */
	uint8_t *left;	   /* what was in the ring, of a guest that may go on, before the segments were looked at: from left_from on */
	uint64_t left_from;
	size_t left_length;
	int left_error; /* why there is nothing, -errno */
	bool ring_read;
	struct ft_error failed; /* there is nothing behind it */
	/* What came out: */
	uint64_t chunks, control_bytes, payload_bytes, stored_bytes;
	uint64_t control_stored; /* what is not the inputs' own bytes, packed, chunk headers included */
	uint64_t torn;           /* bytes behind the last whole chunk */
	uint64_t in_ring;        /* bytes of records that were in the ring alone */
	uint64_t progress;       /* the recorded machine has run to here, 0: nobody knows */
	uint8_t hash[FT_SEGMENT_HASH]; /* of the last chunk read */
};

/* files: as above; more of its segments may be open afterwards, the caller's as the others. */
int ft_journal_open(struct ft_journal *j, struct ft_journal_files *files, struct ft_error *err);
void ft_journal_close(struct ft_journal *j);
const struct ft_segment_header *ft_journal_header(const struct ft_journal *j);

/* The record n places ahead. NULL: there is none, and err->code says whether because of an error. Valid until the next call that
 * has to look further. */
const struct ft_record *ft_journal_peek(struct ft_journal *j, size_t n, struct ft_error *err);
void ft_journal_take(struct ft_journal *j); /* the next one is done with */

#endif
