#include "dataplane/stream.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Numbers this far from the expected ones can belong to this connection: the largest window there is (RFC
 * 7323). */
#define REACH (1 << 30)

/* First room for kept bytes. A segment with more gets what it needs; one with a few bytes, as most are that a person's
 * keys or a protocol's small talk make, does not cost the allocator and the cache a page's half. */
#define KEPT_LEAST 64u

static void forget(struct ft_stream *stream)
{
	free(stream->kept);
	stream->kept = NULL;
	stream->kept_length = stream->kept_room = 0;
}

void ft_stream_begin(struct ft_stream *stream, const struct ft_frame *syn)
{
	forget(stream);
	*stream = (struct ft_stream){
	    .state = FT_STREAM_SYN,
	    .client_isn = syn->sequence,
	    .guest_ack = syn->sequence + 1,
	    .released = syn->sequence + 1,
	    .admitted = syn->sequence + 1,
	    .client_window = syn->window,
	    .client_scale = syn->window_scale,
	    .client_sack = syn->sack_permitted,
	};
}

void ft_stream_adopt(struct ft_stream *stream, const struct ft_frame *frame)
{
	ft_stream_begin(stream, frame);
	stream->state = FT_STREAM_OPEN;
	stream->client_isn = frame->sequence - 1;
	stream->guest_ack = stream->released = stream->admitted = frame->sequence;
	stream->guest_next = stream->client_ack = frame->acknowledgement;
}

void ft_stream_free(struct ft_stream *stream)
{
	forget(stream);
}

/* Are the frame's payload bytes from..to (offsets) the kept ones? All lie between guest_ack and admitted. */
static bool same_bytes(const struct ft_stream *stream, const struct ft_frame *frame, uint32_t from,
		       uint32_t to)
{
	uint32_t at = frame->sequence + from - stream->guest_ack;
	return at + (to - from) <= stream->kept_length &&
	       !memcmp(stream->kept + at, frame->data + frame->payload + from, to - from);
}

enum ft_segment ft_stream_measure(const struct ft_stream *stream, const struct ft_frame *frame,
				  uint32_t *fresh)
{
	uint32_t length = frame->payload_length;
	bool fin = frame->flags & FT_TCP_FIN;
	int32_t start = ft_sequence_diff(frame->sequence, stream->admitted);
	int32_t end = ft_sequence_diff(frame->sequence + length + fin, stream->admitted);
	*fresh = length;
	if (start > REACH || start < -REACH || end > REACH)
		return FT_SEGMENT_OUTSIDE;
	if (!length && !fin)
		/* A keep-alive probe is one below; a late acknowledgement may be far below. */
		return start > 0 ? FT_SEGMENT_GAP : FT_SEGMENT_EMPTY;
	/* After a FIN was admitted, its number is the last: bytes there or beyond contradict it. */
	if (stream->client_fin && end > 0)
		return FT_SEGMENT_OUTSIDE;
	if (start > 0)
		return FT_SEGMENT_GAP;
	/* Payload bytes below `seen` were seen before; those below `settled` cannot be taken any more. */
	uint32_t seen = start < 0 ? (uint32_t)-start : 0;
	int32_t behind = ft_sequence_diff(stream->guest_ack, frame->sequence);
	uint32_t settled = behind > 0 ? (uint32_t)behind : 0;
	seen = seen < length ? seen : length;
	settled = settled < length ? settled : length;
	*fresh = seen;
	/* The number of the admitted FIN is in the seen range, but no byte is kept for it. */
	bool differ = settled < seen && !same_bytes(stream, frame, settled, seen);
	if (fin && end < 0)
		differ = true; /* a FIN in the middle of what was seen */
	if (fin && end == 0 && !stream->client_fin)
		differ = true; /* a FIN where a byte was */
	if (end > 0 && stream->kept_length + (length - seen) > FT_STREAM_KEPT)
		return FT_SEGMENT_FULL;
	if (differ && ft_sequence_diff(frame->sequence + length + fin, stream->guest_ack) > 0)
		return FT_SEGMENT_OVERLAP;
	if (end > 0)
		return FT_SEGMENT_NEXT;
	return settled == length && ft_sequence_diff(frame->sequence + length + fin, stream->guest_ack) <= 0
		   ? FT_SEGMENT_OLD
		   : FT_SEGMENT_REPEAT;
}

static int reserve(struct ft_stream *stream, uint32_t length)
{
	if (stream->kept_length + length <= stream->kept_room)
		return 0;
	uint32_t room = stream->kept_room ? stream->kept_room : KEPT_LEAST;
	while (room < stream->kept_length + length)
		room *= 2;
	uint8_t *kept = realloc(stream->kept, room);
	if (!kept)
		return -ENOMEM;
	stream->kept = kept;
	stream->kept_room = room;
	return 0;
}

int ft_stream_admit(struct ft_stream *stream, const struct ft_frame *frame, uint32_t fresh)
{
	uint32_t length = frame->payload_length - fresh;
	uint32_t end = frame->sequence + frame->payload_length + !!(frame->flags & FT_TCP_FIN);
	if (ft_sequence_diff(end, stream->admitted) <= 0)
		return 0;
	int error = length ? reserve(stream, length) : 0;
	if (error)
		return error;
	if (length)
		memcpy(stream->kept + stream->kept_length, frame->data + frame->payload + fresh, length);
	stream->kept_length += length;
	stream->admitted = end;
	stream->client_fin |= !!(frame->flags & FT_TCP_FIN);
	return 0;
}

void ft_stream_release(struct ft_stream *stream, uint32_t sequence)
{
	if (ft_sequence_diff(sequence, stream->released) > 0 &&
	    ft_sequence_diff(sequence, stream->admitted) <= 0)
		stream->released = sequence;
}

void ft_stream_forget(struct ft_stream *stream)
{
	if (stream->admitted == stream->released)
		return;
	/* A FIN has the last number, so it is among what is forgotten. */
	stream->admitted = stream->released;
	stream->client_fin = false;
	int32_t given = ft_sequence_diff(stream->released, stream->guest_ack);
	uint32_t left = given > 0 ? (uint32_t)given : 0;
	if (stream->kept_length > left)
		stream->kept_length = left;
}

void ft_stream_note_client(struct ft_stream *stream, const struct ft_frame *frame)
{
	/* What is below was said before; what is above the guest never sent. */
	if (!(frame->flags & FT_TCP_ACK) ||
	    ft_sequence_diff(frame->acknowledgement, stream->client_ack) < 0 ||
	    ft_sequence_diff(frame->acknowledgement, stream->guest_next) > 0)
		return;
	stream->client_ack = frame->acknowledgement;
	stream->client_window = frame->window;
}

/* Everything up to sequence is acknowledged: its bytes need not be kept. */
static void settle(struct ft_stream *stream, uint32_t sequence)
{
	int32_t moved = ft_sequence_diff(sequence, stream->guest_ack);
	if (moved <= 0 || ft_sequence_diff(sequence, stream->released) > 0)
		return;
	uint32_t bytes = (uint32_t)moved < stream->kept_length ? (uint32_t)moved : stream->kept_length;
	stream->kept_length -= bytes;
	if (stream->kept_length)
		memmove(stream->kept, stream->kept + bytes, stream->kept_length);
	else
		forget(stream);
	stream->guest_ack = sequence;
}

static void note_guest_timestamp(struct ft_stream *stream, const struct ft_frame *frame)
{
	if (!frame->timestamp)
		return;
	uint32_t timestamp = ft_load32(frame->data + frame->timestamp);
	/* Not of one that was overtaken: what repeats its values would look old to the client (PAWS). */
	if (stream->guest_has_timestamp && ft_sequence_diff(timestamp, stream->guest_timestamp) < 0)
		return;
	stream->guest_has_timestamp = true;
	stream->guest_timestamp = timestamp;
	stream->guest_echo = ft_load32(frame->data + frame->timestamp + 4);
}

void ft_stream_note_guest(struct ft_stream *stream, const struct ft_frame *frame)
{
	uint32_t end = frame->sequence + ft_frame_span(frame);
	if (frame->flags & FT_TCP_RST) {
		stream->state = FT_STREAM_CLOSED;
		return;
	}
	if (frame->flags & FT_TCP_SYN) {
		/* Our notion of the client's numbers stands; an answer to another SYN is for its tcp.c
		 * caller. */
		if (stream->state == FT_STREAM_SYN && frame->flags & FT_TCP_ACK &&
		    frame->acknowledgement == stream->client_isn + 1) {
			stream->state = FT_STREAM_OPEN;
			stream->guest_next = stream->client_ack = end;
			stream->shaken = true;
			stream->scaled = stream->client_scale >= 0 && frame->window_scale >= 0;
			stream->guest_scale = frame->window_scale;
			stream->sack = stream->client_sack && frame->sack_permitted;
			/* The window of a SYN is never scaled (RFC 7323 section 2.2). */
			stream->guest_window = (uint16_t)(frame->window >> (stream->scaled ? stream->guest_scale : 0));
			note_guest_timestamp(stream, frame);
		}
		return;
	}
	if (stream->state == FT_STREAM_SYN)
		return;
	note_guest_timestamp(stream, frame);
	if (ft_sequence_diff(end, stream->guest_next) > 0)
		stream->guest_next = end;
	if (frame->flags & FT_TCP_FIN)
		stream->guest_fin = true;
	if (frame->flags & FT_TCP_ACK) {
		settle(stream, frame->acknowledgement);
		/* Not of an old acknowledgement that came late: its window ended elsewhere. */
		if (frame->acknowledgement == stream->guest_ack) {
			stream->guest_window = frame->window;
			stream->guest_spoke = true;
			stream->has_window = stream->shaken;
		}
	}
	if (stream->guest_fin && stream->client_fin && stream->guest_ack == stream->admitted)
		stream->state = FT_STREAM_CLOSED;
}

static uint32_t guest_window(const struct ft_stream *stream)
{
	return (uint32_t)stream->guest_window << (stream->scaled ? stream->guest_scale : 0);
}

bool ft_stream_closed_window(const struct ft_stream *stream)
{
	return stream->has_window && ft_sequence_diff(stream->admitted, stream->guest_ack + guest_window(stream)) >= 0;
}

uint32_t ft_stream_edge(const struct ft_stream *stream)
{
	/* Where the scale is not known the window is not: then as much as is kept. */
	uint32_t window = stream->shaken ? guest_window(stream) : FT_STREAM_KEPT;
	return stream->guest_ack + (window < FT_STREAM_KEPT ? window : FT_STREAM_KEPT);
}

void ft_stream_note_timestamp(struct ft_stream *stream, uint32_t timestamp)
{
	if (stream->has_timestamp && ft_sequence_diff(timestamp, stream->timestamp) < 0)
		return;
	stream->has_timestamp = true;
	stream->timestamp = timestamp;
}

bool ft_stream_acknowledges(const struct ft_stream *stream, const struct ft_frame *frame)
{
	int32_t behind = ft_sequence_diff(stream->client_ack, frame->acknowledgement);
	uint32_t window = ft_stream_client_window(stream);
	return frame->flags & FT_TCP_ACK && ft_sequence_diff(frame->acknowledgement, stream->guest_next) <= 0 &&
	       behind <= (int32_t)(window > UINT16_MAX ? window : UINT16_MAX);
}

uint32_t ft_stream_client_window(const struct ft_stream *stream)
{
	return (uint32_t)stream->client_window << (stream->scaled ? stream->client_scale : 0);
}
