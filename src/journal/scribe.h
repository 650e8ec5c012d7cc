/* The scribe: a process of its own, forked from the vmm before that has a guest, that takes records out of the ring and writes
 * them as chunks, once a second or when there are many, and at once what somebody waits for (the ring's `wanted`). What cannot be written
 * stays in the ring and is tried again; what the ring cannot take any more is the recorder's business (guest/recorder.h). */
#ifndef FT_JOURNAL_SCRIBE_H
#define FT_JOURNAL_SCRIBE_H

#include "journal/ring.h"
#include "journal/segment.h"

/* Checkpoint `number` goes into the ring next, or (there was no room for it) never: its segment is what came with the order. */
struct ft_scribe_order {
	uint32_t number, sealed; /* sealed: 0, 1 */
	struct ft_snapshot_seal seal;
};

struct ft_scribe {
	struct ft_journal_ring *ring;
	struct ft_segment_header header; /* of its segments, number aside */
	int wake;    /* eventfd: much is in the ring, or something is wanted */
	int done;    /* eventfd: what was wanted is durable, or cannot be made so; -1: nobody waits */
	int orders;  /* SOCK_SEQPACKET from the recorder: struct ft_scribe_order with the descriptor of a segment; its end is our end */
	int channel; /* to the supervisor: {"op": "journal", ...} (gateway/protocol.md); -1: nobody is told */
	void (*told)(void *context, const struct ft_segment_chunk *chunk); /* tests; may be NULL */
	void *context;
};

/* Until `orders` is at its end and everything is written. 0, or -errno: what is in the ring is no journal. */
int ft_scribe_run(struct ft_scribe *scribe, struct ft_error *err);

#endif
