/* One TCP connection as seen from between its ends: what the guest has been given, what was accepted from the
 *client, what each end expects next. Pure bookkeeping: no packets are made or kept here, so it is tested
 *without any.
 *
 * Sequence numbers are the connection's own, host byte order, compared modulo 2^32.
 *
 *	 guest_ack            released              admitted
 *	     |  given, unacknowledged  |   held           |   not seen yet
 *	-----+-------------------------+------------------+------------->
 *
 * The bytes from guest_ack to admitted are kept, to tell a retransmission from different bytes under the same
 * numbers. The guest may still take either version of what it has not acknowledged; of what it has
 *acknowledged it can take nothing any more. */
#ifndef FT_DATAPLANE_STREAM_H
#define FT_DATAPLANE_STREAM_H

#include <stdbool.h>
#include <stdint.h>

#include "dataplane/frame.h"

/* Most unacknowledged bytes of one connection: data beyond waits until the guest acknowledged some (the
 * sender sends it again). Above what a guest of this size usually offers as a window on a short path. */
#define FT_STREAM_KEPT (256u << 10)

enum ft_stream_state {
	FT_STREAM_SYN, /* the client's SYN was seen, no answer yet */
	FT_STREAM_OPEN,
	FT_STREAM_CLOSED /* reset by an end, or both sent FIN and have it acknowledged */
};

/* One cache line: the pass path of a packet is three (dataplane/flow.h). */
struct ft_stream {
	/* client to guest */
	uint8_t *kept; /* bytes from guest_ack on, a FIN not counted */
	uint32_t kept_length, kept_room;
	uint32_t client_isn;
	uint32_t guest_ack, released, admitted;
	/* what the client last said about the other direction */
	uint32_t client_ack;
	uint16_t client_window;
	uint16_t guest_window; /* as the guest's last acknowledgement said it */
	uint32_t guest_next;   /* behind the last byte that the guest sent */
	uint32_t timestamp;    /* newest TSval that the guest was given */
	uint32_t guest_timestamp, guest_echo; /* TSval and TSecr of the guest's last segment */
	int8_t client_scale, guest_scale;     /* of their SYNs; -1: none */
	uint8_t state;                        /* enum ft_stream_state */
	bool client_fin : 1; /* a FIN was admitted; nothing can follow */
	bool guest_fin : 1;
	bool shaken : 1;      /* both SYNs were seen: what they agreed on is known */
	bool scaled : 1;      /* both ends offered window scaling */
	bool client_sack : 1; /* the client permits SACK ... */
	bool sack : 1;        /* ... both ends do */
	bool has_timestamp : 1;
	bool guest_has_timestamp : 1;
	bool guest_spoke : 1; /* guest_window is known ... */
	bool has_window : 1;  /* ... and what it means */
};

/* A client's segment, measured against the stream. */
enum ft_segment {
	FT_SEGMENT_NEXT,    /* new bytes (or a FIN) that directly follow; bytes before, if any, are the same
			       again */
	FT_SEGMENT_EMPTY,   /* nothing but an acknowledgement, at or near the expected number */
	FT_SEGMENT_REPEAT,  /* nothing new, the same bytes again, at least one of them not acknowledged */
	FT_SEGMENT_OLD,     /* nothing but bytes (or numbers) that the guest acknowledged before */
	FT_SEGMENT_OVERLAP, /* other bytes than before under numbers that the guest has not acknowledged */
	FT_SEGMENT_GAP,     /* bytes, or an acknowledgement alone, behind a gap */
	FT_SEGMENT_OUTSIDE, /* numbers that this connection cannot mean */
	FT_SEGMENT_FULL     /* more unacknowledged bytes than are kept */
};

/* A SYN of the client (its numbers; options). Frees what an earlier connection kept. */
void ft_stream_begin(struct ft_stream *stream, const struct ft_frame *syn);
/* Picks a connection up in its middle, from a segment of the client (services that are only observed). */
void ft_stream_adopt(struct ft_stream *stream, const struct ft_frame *frame);
void ft_stream_free(struct ft_stream *stream);

/* frame: a segment of the client without SYN and RST. *fresh: payload offset (from frame->payload) of its
 * first new byte, its length if there is none. Changes nothing. */
enum ft_segment ft_stream_measure(const struct ft_stream *stream, const struct ft_frame *frame,
				  uint32_t *fresh);

/* Accepts the new bytes of a segment measured as NEXT, or as OVERLAP: admitted moves behind it. 0 or -ENOMEM
 * (nothing changed). */
int ft_stream_admit(struct ft_stream *stream, const struct ft_frame *frame, uint32_t fresh);

/* The guest has been given everything before sequence. */
void ft_stream_release(struct ft_stream *stream, uint32_t sequence);

/* What was admitted and not released never came: the sender will send it again. */
void ft_stream_forget(struct ft_stream *stream);

/* Remembers what a client's segment says about the other direction. */
void ft_stream_note_client(struct ft_stream *stream, const struct ft_frame *frame);

/* A segment of the guest. Its claims are bounded: it cannot acknowledge what it has not been given. */
void ft_stream_note_guest(struct ft_stream *stream, const struct ft_frame *frame);

/* The guest's window ends where new bytes would begin: it has said that it takes none now. */
bool ft_stream_closed_window(const struct ft_stream *stream);

/* Behind the last number that the guest takes, as far as it has said, and of which the bytes can be kept. */
uint32_t ft_stream_edge(const struct ft_stream *stream);

/* The guest has been given a segment with this TSval. */
void ft_stream_note_timestamp(struct ft_stream *stream, uint32_t timestamp);

/* Does the segment acknowledge something that an end in the guest's state accepts (RFC 5961 section 5.2)? Who cannot see the
 * connection cannot know. */
bool ft_stream_acknowledges(const struct ft_stream *stream, const struct ft_frame *frame);

/* The client's window in bytes. */
uint32_t ft_stream_client_window(const struct ft_stream *stream);

static inline int32_t ft_sequence_diff(uint32_t a, uint32_t b)
{
	return (int32_t)(a - b);
}

#endif
