/* Early segments: bytes of a client that are not to be looked at yet, because some before them are missing (lost, or
 * overtaken), or because the hold that collects has no room for them. They wait here, in the order of their numbers, and go
 * the way of every segment that comes in order when it is their turn: nothing of them has been inspected, held or given to
 * anybody before.
 *
 * No number is kept twice: what comes first stays, and what comes later under the same numbers is cut off. Where that would
 * have been other bytes the one kept is marked (`overlap`), and held for it.
 *
 * Kept are only numbers that the guest's window offers, so what waits is at most a window or FT_STREAM_KEPT of a connection,
 * in at most FT_EARLY_SEGMENTS segments. What waits for a guest counts as held for it (ft_guest.held), but has a part of that
 * alone: suspicious input finds room whatever comes early. When that part is full the queue goes that nothing has come to for
 * longest; the sender, who was never told more of it than a SACK, sends it again (RFC 2018 section 8 allows that). */
#ifndef FT_DATAPLANE_EARLY_H
#define FT_DATAPLANE_EARLY_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "base/reason.h"
#include "dataplane/frame.h"

#define FT_EARLY_SEGMENTS 256u
/* A gap that is not closed by then belongs to a sender that is gone: Linux has sent it seven times by then. */
#define FT_EARLY_NS 30000000000ull
/* How long a duplicate acknowledgement waits for the guest's own word about what it was given (Linux delays that so long, or less),
 * and what waits for room until it is tried again if nothing has brought it up before. Measured on a busy machine: with 5 ms
 * the guest was often later, and clients sent again twice as much. */
#define FT_EARLY_SOON_NS 40000000ull

struct ft_early_segment {
	struct ft_early_segment *next;
	uint32_t start, end; /* numbers; a FIN has one, too */
	uint32_t arrival;    /* later ones have more */
	uint32_t length;
	bool overlap; /* other bytes came under these numbers */
	uint8_t data[];
};

/* Of one flow. There is none without segments. */
struct ft_early {
	TAILQ_ENTRY(ft_early) waiting, soon;
	struct ft_earlies *all;
	struct ft_flow *flow;
	struct ft_early_segment *first, *last;
	uint32_t segments, arrivals;
	uint32_t owed; /* duplicate acknowledgements that the client has not been sent yet */
	bool is_soon;
	uint64_t due;   /* is_soon: when to look at it */
	uint64_t until; /* when to give it up */
};

/* Of one guest. */
struct ft_earlies {
	TAILQ_HEAD(ft_early_list, ft_early) waiting; /* all; first the one that nothing has come to for longest */
	struct ft_early_list soon;                   /* first the one that is due first */
	uint64_t bytes;
};

struct ft_gate;
struct ft_flow;
struct ft_guest;

void ft_earlies_begin(struct ft_earlies *earlies);

/* Keeps what the segment has of numbers from `from` on that nothing is kept of yet, and counts the reason. The caller has
 * checked that it may belong to the connection (FT_SEGMENT_NEXT or _GAP). False: none of its bytes can be kept at any time. */
bool ft_early_keep(struct ft_gate *gate, struct ft_flow *flow, const struct ft_frame *frame, uint32_t from);

/* The next segment of the flow, or NULL unless its turn has come. */
struct ft_early_segment *ft_early_next(const struct ft_flow *flow);
/* Takes that out of the queue; the caller frees it. The queue is gone with its last segment. */
struct ft_early_segment *ft_early_take(struct ft_flow *flow);

/* Is something kept, and what is before it missing? */
bool ft_early_gap(const struct ft_flow *flow);

/* To be looked at (ft_tcp_resume) at this time, or before; gate->early_due follows. */
void ft_early_soon(struct ft_gate *gate, struct ft_flow *flow, uint64_t due);

/* Drops all that waits for the flow, if anything does. */
void ft_early_free(struct ft_flow *flow, enum ft_reason reason);

/* The same for all flows of the guest. */
void ft_earlies_end(struct ft_guest *guest, enum ft_reason reason);

/* All flows are to be looked at: it has changed what services do. */
void ft_earlies_wake(struct ft_gate *gate);

/* What time brings. Sets gate->early_due. */
void ft_earlies_tick(struct ft_gate *gate);

#endif
