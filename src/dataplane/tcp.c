#include "dataplane/tcp.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "dataplane/hold.h"
#include "dataplane/made.h"
#include "dataplane/sack.h"
#include "dataplane/trigger.h"

static void answer_with_reset(struct ft_gate *gate, struct ft_guest *guest, const struct ft_frame *frame,
			      bool to_client)
{
	uint8_t reset[FT_MADE_LENGTH];
	size_t length = ft_made_reset(frame, reset);
	if (length && to_client)
		ft_gate_emit(gate, guest, reset, length);
	else if (length && guest->up)
		ft_gate_deliver(gate, guest, reset, length);
}

/* Passes a frame without its payload. */
static int deliver_bare(struct ft_gate *gate, struct ft_flow *flow, const struct ft_frame *frame,
			const struct ft_frame_bare *change)
{
	uint8_t bare[FT_FRAME_HEADERS];
	int error = ft_gate_deliver(gate, flow->guest, bare, ft_frame_bare(frame, change, bare));
	if (!error && frame->timestamp)
		ft_stream_note_timestamp(&flow->stream, ft_load32(bare + frame->timestamp));
	return error;
}

/* The acknowledgement of a held flow's packet, or of one that came early, at the number that the guest expects. With a TSval above that of the
 * held segments the guest would discard these when they come (PAWS, RFC 7323 5.3), so it gets the last one again. */
static void pass_acknowledgement(struct ft_gate *gate, struct ft_flow *flow,
				 const struct ft_frame *frame)
{
	if (!(frame->flags & FT_TCP_ACK)) {
		ft_gate_note(gate, FT_REASON_DROP_MALFORMED); /* neither bytes nor an acknowledgement */
		return;
	}
	struct ft_frame_bare change = {.sequence = flow->stream.released,
				       .flags = FT_TCP_ACK,
				       .set_timestamp = flow->stream.has_timestamp,
				       .timestamp = flow->stream.timestamp};
	if (!deliver_bare(gate, flow, frame, &change))
		ft_gate_note(gate, FT_REASON_PASS_ACK);
}

/* Does the segment acknowledge something that the guest has not been told, or open the window? */
static bool tells_more(const struct ft_stream *stream, const struct ft_frame *frame)
{
	return frame->flags & FT_TCP_ACK &&
	       (ft_sequence_diff(frame->acknowledgement, stream->client_ack) > 0 ||
		frame->window != stream->client_window);
}

/* Passes a frame as it is. */
static void pass(struct ft_gate *gate, struct ft_flow *flow, const struct ft_frame *frame,
		 enum ft_reason reason)
{
	if (ft_gate_deliver(gate, flow->guest, frame->data, frame->length))
		return;
	ft_gate_note(gate, reason);
	if (frame->timestamp)
		ft_stream_note_timestamp(&flow->stream, ft_load32(frame->data + frame->timestamp));
}

static enum ft_reason pass_reason(const struct ft_flow *flow)
{
	return ft_trigger_settled(flow) ? FT_REASON_PASS_SETTLED : FT_REASON_PASS_INSPECTED;
}

/* ---- connections ---- */

static void pass_syn(struct ft_gate *gate, struct ft_flow *flow, const struct ft_frame *frame)
{
	if (!frame->payload_length || flow->service->acting != FT_MODE_ENFORCE) {
		pass(gate, flow, frame, FT_REASON_PASS_INSPECTED);
		return;
	}
	struct ft_frame_bare change = {.sequence = frame->sequence, .flags = FT_TCP_SYN};
	ft_gate_note(gate, FT_REASON_DROP_SYN_DATA);
	if (!deliver_bare(gate, flow, frame, &change))
		ft_gate_note(gate, FT_REASON_PASS_INSPECTED);
}

/* The client begins a connection, or says again that it does. */
static void begin(struct ft_gate *gate, struct ft_flow *flow, const struct ft_frame *frame)
{
	struct ft_stream *stream = &flow->stream;
	if (flow->dead || stream->state != FT_STREAM_OPEN) {
		ft_flow_renew(flow);
		flow->start_wall = gate->wall;
		flow->seen = gate->now;
		ft_flow_note_ethernet(flow, frame);
		ft_stream_begin(stream, frame);
	} else if (frame->sequence != stream->client_isn) {
		/* The guest may have forgotten the old connection, or not: its answer will tell. */
		ft_stream_begin(&flow->renewed, frame);
	}
}

static void handle_syn(struct ft_gate *gate, struct ft_flow *flow, const struct ft_frame *frame)
{
	if (flow->hold) {
		ft_gate_note(gate, FT_REASON_DROP_OUT_OF_WINDOW);
		return;
	}
	begin(gate, flow, frame);
	pass_syn(gate, flow, frame);
}

/* A guest's answer to a SYN that came while we took the old connection to be open. */
static void renew_if_answered(struct ft_flow *flow, const struct ft_frame *frame)
{
	const unsigned both = FT_TCP_SYN | FT_TCP_ACK;
	if ((frame->flags & (both | FT_TCP_RST)) != both || flow->stream.state != FT_STREAM_OPEN ||
	    flow->hold || !flow->renewed.guest_ack ||
	    frame->acknowledgement != flow->renewed.client_isn + 1 ||
	    frame->acknowledgement == flow->stream.client_isn + 1)
		return;
	struct ft_stream stream = flow->renewed;
	struct ft_flow old = *flow;
	flow->renewed = (struct ft_stream){0};
	ft_flow_renew(flow);
	flow->stream = stream;
	flow->start_wall = old.start_wall;
	flow->seen = old.seen;
	memcpy(flow->ethernet, old.ethernet, sizeof(flow->ethernet));
	flow->ethernet_length = old.ethernet_length;
}

static void handle_reset(struct ft_gate *gate, struct ft_flow *flow, const struct ft_frame *frame)
{
	struct ft_stream *stream = &flow->stream;
	/* What else it says has no place in a reset, and a SYN in it could be read as one. */
	uint8_t flags = frame->flags & (FT_TCP_RST | FT_TCP_ACK);
	int32_t ahead = ft_sequence_diff(frame->sequence, stream->admitted);
	if (flow->hold) {
		/* Waits behind what was sent before it; at any other number it is not the end of this connection. */
		if (ahead || flow->reset)
			ft_gate_note(gate, FT_REASON_DROP_OUT_OF_WINDOW);
		else if (!(flow->reset = malloc(FT_FRAME_HEADERS)))
			ft_gate_note(gate, FT_REASON_DROP_NO_MEMORY);
		else {
			struct ft_frame_bare change = {.sequence = frame->sequence, .flags = flags};
			flow->reset_length = (uint32_t)ft_frame_bare(frame, &change, flow->reset);
			ft_gate_note(gate, FT_REASON_HOLD_JOIN);
		}
		return;
	}
	struct ft_frame_bare change = {.sequence = frame->sequence, .flags = flags};
	if (deliver_bare(gate, flow, frame, &change))
		return;
	ft_gate_note(gate, FT_REASON_PASS_INSPECTED);
	if (ahead)
		return;
	stream->state = FT_STREAM_CLOSED;
	ft_early_free(flow, FT_REASON_DROP_EARLY_END);
}

/* ---- bytes ---- */

/* Bytes that the flow's holds have no room for now wait for it, as far as they are new. */
static void refuse(struct ft_gate *gate, struct ft_flow *flow, const struct ft_frame *frame, enum ft_reason refused)
{
	uint32_t admitted = flow->stream.admitted;
	if (flow->hold && ft_sequence_diff(frame->sequence + ft_frame_span(frame), admitted) > 0)
		ft_early_keep(gate, flow, frame, admitted);
	else
		ft_gate_note(gate, refused);
}

static void hold(struct ft_gate *gate, struct ft_flow *flow, const struct ft_frame *frame, uint32_t fresh,
		 const struct ft_trigger *trigger)
{
	/* Also when there is no room for it now: it comes again, and inspection that has seen it once may see nothing in it
	 * the second time. */
	flow->suspect = true;
	bool more = tells_more(&flow->stream, frame);
	enum ft_reason refused = ft_hold_refuses(gate, flow, frame);
	if (refused != FT_REASON_COUNT) {
		refuse(gate, flow, frame, refused);
		if (more)
			pass_acknowledgement(gate, flow, frame);
		return;
	}
	uint8_t bytes[FT_FRAME_MOST];
	struct ft_frame rest;
	if (fresh && ft_hold_collects(flow)) {
		ft_frame_slice(frame, fresh, frame->payload_length, frame->flags & FT_TCP_FIN, bytes, &rest);
		frame = &rest;
		fresh = 0;
	}
	if (ft_hold_join(gate, flow, frame, fresh, trigger)) {
		ft_gate_note(gate, FT_REASON_DROP_NO_MEMORY);
		return;
	}
	if (ft_stream_admit(&flow->stream, frame, fresh)) {
		/* Held, but without a copy to compare retransmissions with: better no connection than that. */
		ft_gate_note(gate, FT_REASON_DROP_NO_MEMORY);
		ft_flow_kill(gate, flow);
		return;
	}
	if (more)
		pass_acknowledgement(gate, flow, frame);
}

/* A byte sent into a closed window, to learn whether it is open by now: BSD's and Windows' way (RFC 9293 3.8.6.1; Linux sends
 * an old number). A clone's guest would take it no more than the live one, and a trial that proves nothing kills the
 * connection. So the guest gets the question without the byte, at a number that it answers; the byte comes again. */
static void probe_window(struct ft_gate *gate, struct ft_flow *flow, const struct ft_frame *frame)
{
	struct ft_frame_bare change = {.sequence = flow->stream.released - 1,
				       .flags = FT_TCP_ACK,
				       .set_timestamp = flow->stream.has_timestamp,
				       .timestamp = flow->stream.timestamp};
	if (!deliver_bare(gate, flow, frame, &change))
		ft_gate_note(gate, FT_REASON_PASS_PROBE);
}

/* New bytes in order. */
static void handle_next(struct ft_gate *gate, struct ft_flow *flow, const struct ft_frame *frame,
			uint32_t fresh)
{
	const struct ft_trigger join = {.reason = FT_REASON_HOLD_JOIN};
	struct ft_trigger trigger;
	/* A bare FIN has no bytes, but a service may act on the end of its input: it is tried as well, unless the guest
	 * has answered what was tried before, which is how an ordinary exchange ends. */
	bool farewell = !frame->payload_length && !flow->hold &&
			flow->stream.guest_next != flow->answered_from &&
			flow->stream.guest_ack == flow->stream.released;
	if (frame->payload_length && !flow->hold && frame->flags & FT_TCP_ACK &&
	    ft_stream_closed_window(&flow->stream)) {
		probe_window(gate, flow, frame);
		return;
	}
	if (flow->suspect && !farewell) {
		/* Nothing of it passes without a trial, so there is nothing left that inspection could add. */
		hold(gate, flow, frame, fresh, &join);
		return;
	}
	/* What will not fit must not be looked at: it comes again, and would be looked at twice. */
	if (!ft_gate_has_room(flow->guest, frame->length)) {
		ft_gate_note(gate, flow->guest->up ? FT_REASON_DROP_RING_FULL : FT_REASON_DROP_GUEST_DOWN);
		return;
	}
	int found = ft_trigger_client(gate, flow, frame, fresh, &trigger);
	if (found < 0) {
		flow->suspect = true; /* half looked at: it comes again */
		ft_gate_note(gate, FT_REASON_DROP_NO_MEMORY);
		return;
	}
	if (found) {
		hold(gate, flow, frame, fresh, &trigger);
		return;
	}
	if (ft_stream_admit(&flow->stream, frame, fresh)) {
		flow->suspect = true;
		ft_gate_note(gate, FT_REASON_DROP_NO_MEMORY);
		return;
	}
	pass(gate, flow, frame, trigger.suppressed ? FT_REASON_PASS_SUPPRESSED : pass_reason(flow));
	ft_stream_release(&flow->stream, flow->stream.admitted);
}

/* Other bytes under numbers that the guest may still take. */
static void handle_overlap(struct ft_gate *gate, struct ft_flow *flow, const struct ft_frame *frame,
			   uint32_t fresh)
{
	const struct ft_trigger trigger = {.reason = FT_REASON_HOLD_OVERLAP};
	if (flow->hold && fresh == frame->payload_length) {
		/* The first version is being tried, and the guest will get that one: this one has no use. */
		flow->hold->overlap = true;
		ft_gate_note(gate, FT_REASON_DROP_HOLD_DUPLICATE);
		return;
	}
	hold(gate, flow, frame, fresh, &trigger);
}

/* The client is to know at once that something is missing, and what is not: the guest, which sees nothing of it, cannot tell. Not
 * before the guest has had time to acknowledge what it was given, or that would look lost, too. */
static void acknowledge_early(struct ft_gate *gate, struct ft_flow *flow)
{
	if (!ft_early_gap(flow) || flow->service->canary)
		return;
	if (flow->stream.guest_ack == flow->stream.released) {
		ft_sack_send(gate, flow);
		return;
	}
	flow->early->owed++;
	ft_early_soon(gate, flow, gate->now + FT_EARLY_SOON_NS);
}

/* Something behind what is there. */
static void handle_early(struct ft_gate *gate, struct ft_flow *flow, const struct ft_frame *frame)
{
	const struct ft_stream *stream = &flow->stream;
	bool bytes = ft_frame_span(frame);
	if ((!bytes && !ft_stream_acknowledges(stream, frame)) ||
	    ft_sequence_diff(frame->sequence, ft_stream_edge(stream)) > 0) {
		ft_gate_note(gate, FT_REASON_DROP_OUT_OF_WINDOW);
		return;
	}
	if (bytes && !ft_early_keep(gate, flow, frame, frame->sequence))
		return;
	if (!bytes || tells_more(stream, frame))
		pass_acknowledgement(gate, flow, frame);
	if (bytes)
		acknowledge_early(gate, flow);
}

static void handle_segment(struct ft_gate *gate, struct ft_flow *flow, const struct ft_frame *frame)
{
	uint32_t fresh;
	enum ft_segment segment = ft_stream_measure(&flow->stream, frame, &fresh);
	bool more = flow->hold && tells_more(&flow->stream, frame);
	switch (segment) {
	case FT_SEGMENT_NEXT:
		handle_next(gate, flow, frame, fresh);
		return;
	case FT_SEGMENT_OVERLAP:
		handle_overlap(gate, flow, frame, fresh);
		return;
	case FT_SEGMENT_EMPTY:
		if (flow->hold)
			pass_acknowledgement(gate, flow, frame);
		else
			pass(gate, flow, frame, pass_reason(flow));
		return;
	case FT_SEGMENT_REPEAT:
		if (!flow->hold) {
			pass(gate, flow, frame, pass_reason(flow));
			return;
		}
		ft_gate_note(gate, FT_REASON_DROP_HOLD_DUPLICATE);
		break;
	case FT_SEGMENT_OLD: {
		/* The guest answers a number below with what it expects; bytes are of no use to it. */
		struct ft_frame_bare change = {.sequence = frame->sequence, .flags = FT_TCP_ACK};
		if (flow->hold)
			ft_gate_note(gate, FT_REASON_DROP_HOLD_DUPLICATE);
		else if (!deliver_bare(gate, flow, frame, &change))
			ft_gate_note(gate, FT_REASON_PASS_INSPECTED);
		break;
	}
	case FT_SEGMENT_GAP:
		handle_early(gate, flow, frame);
		return;
	case FT_SEGMENT_FULL:
		ft_gate_note(gate, flow->hold ? FT_REASON_DROP_HOLD_LIMIT : FT_REASON_DROP_OUT_OF_WINDOW);
		break;
	case FT_SEGMENT_OUTSIDE:
		ft_gate_note(gate, FT_REASON_DROP_OUT_OF_WINDOW);
		return;
	}
	if (more)
		pass_acknowledgement(gate, flow, frame);
}

/* What has numbers that something early has, too, joins that; only what is before them is handled now. */
static void handle_enforced(struct ft_gate *gate, struct ft_flow *flow, const struct ft_frame *frame)
{
	if (ft_frame_span(frame) && !ft_stream_acknowledges(&flow->stream, frame)) {
		/* The guest would not take these bytes, so they must not count as given; what it answers is its business. */
		ft_gate_note(gate, FT_REASON_DROP_ACKNOWLEDGEMENT);
		if (frame->flags & FT_TCP_ACK)
			pass_acknowledgement(gate, flow, frame);
		return;
	}
	if (!flow->early) {
		handle_segment(gate, flow, frame);
		return;
	}
	uint8_t bytes[FT_FRAME_MOST];
	struct ft_frame head;
	uint32_t fresh, start = flow->early->first->start;
	enum ft_segment segment = ft_stream_measure(&flow->stream, frame, &fresh);
	bool fresh_numbers = segment == FT_SEGMENT_NEXT || segment == FT_SEGMENT_OVERLAP || segment == FT_SEGMENT_FULL;
	if (!fresh_numbers || ft_sequence_diff(frame->sequence + ft_frame_span(frame), start) <= 0) {
		handle_segment(gate, flow, frame);
	} else if (ft_sequence_diff(frame->sequence, start) >= 0) {
		handle_early(gate, flow, frame);
	} else {
		ft_early_keep(gate, flow, frame, start);
		ft_frame_slice(frame, 0, start - frame->sequence, false, bytes, &head);
		handle_segment(gate, flow, &head);
	}
}

/* ---- what passes unasked ---- */

/* Where everything passes: the stream follows as well as it can; after a gap it goes on behind it. */
static enum ft_segment follow(struct ft_stream *stream, const struct ft_frame *frame, uint32_t *fresh)
{
	/* What the guest sent before anybody looked is known by its being acknowledged alone. */
	if (!stream->shaken && frame->flags & FT_TCP_ACK && ft_sequence_diff(frame->acknowledgement, stream->guest_next) > 0)
		stream->guest_next = frame->acknowledgement;
	enum ft_segment segment = ft_stream_measure(stream, frame, fresh);
	if (segment == FT_SEGMENT_GAP || segment == FT_SEGMENT_FULL || segment == FT_SEGMENT_OUTSIDE) {
		struct ft_stream old = *stream;
		ft_stream_adopt(stream, frame);
		stream->guest_next = old.guest_next;
		/* This frame is no SYN and says nothing of what the SYNs agreed on. */
		stream->shaken = old.shaken;
		stream->client_scale = old.client_scale;
		stream->guest_scale = old.guest_scale;
		stream->scaled = old.scaled;
		stream->sack = old.sack;
		stream->guest_window = old.guest_window;
		segment = ft_stream_measure(stream, frame, fresh);
	}
	return segment;
}

/* What would this frame be held for? */
static bool find_trigger(struct ft_gate *gate, struct ft_flow *flow, const struct ft_frame *frame,
			 enum ft_segment segment, uint32_t fresh, struct ft_trigger *trigger)
{
	*trigger = (struct ft_trigger){.reason = FT_REASON_HOLD_OVERLAP};
	if (segment != FT_SEGMENT_NEXT)
		return segment == FT_SEGMENT_OVERLAP;
	/* What enforce would try, because something was found before: see dataplane/shadow.h. */
	bool shadow = flow->service->acting == FT_MODE_SHADOW;
	if (shadow && flow->suspect && frame->payload_length) {
		*trigger = (struct ft_trigger){.reason = FT_REASON_HOLD_JOIN};
		return true;
	}
	bool found = ft_trigger_client(gate, flow, frame, fresh, trigger) > 0;
	flow->suspect |= found && shadow;
	return found;
}

static void handle_observed(struct ft_gate *gate, struct ft_flow *flow, const struct ft_frame *frame)
{
	uint32_t fresh;
	struct ft_trigger trigger;
	struct ft_stream *stream = &flow->stream;
	enum ft_segment segment = follow(stream, frame, &fresh);
	bool found = find_trigger(gate, flow, frame, segment, fresh, &trigger);
	bool shadow = flow->service->acting == FT_MODE_SHADOW;
	if (found && ft_gate_has_room(flow->guest, frame->length))
		ft_hold_observe(gate, flow, frame, fresh, &trigger);
	ft_stream_admit(stream, frame, fresh);
	pass(gate, flow, frame,
	     !found   ? (trigger.suppressed ? FT_REASON_PASS_SUPPRESSED : pass_reason(flow))
	     : shadow ? FT_REASON_PASS_SHADOW
		      : FT_REASON_PASS_OBSERVED);
	ft_stream_release(stream, stream->admitted);
}

/* Nothing is looked at, but the connection is followed: inspection may be switched on again in its middle. */
static void handle_bypassed(struct ft_gate *gate, struct ft_flow *flow, const struct ft_frame *frame)
{
	uint32_t fresh;
	struct ft_stream *stream = &flow->stream;
	if ((frame->flags & (FT_TCP_SYN | FT_TCP_ACK | FT_TCP_RST)) == FT_TCP_SYN) {
		begin(gate, flow, frame);
	} else if (frame->flags & FT_TCP_RST) {
		if (frame->sequence == stream->admitted)
			stream->state = FT_STREAM_CLOSED;
	} else if (!flow->dead && !(frame->flags & FT_TCP_SYN)) {
		follow(stream, frame, &fresh);
		ft_stream_admit(stream, frame, fresh);
	}
	pass(gate, flow, frame, ft_service_unlooked(flow->service));
	ft_stream_release(stream, stream->admitted);
}

/* ---- what came early ---- */

/* TSval of what was taken last. */
static void last_timestamp(const struct ft_flow *flow, struct ft_frame_news *news)
{
	const struct ft_hold *hold = flow->later ? flow->later : flow->hold;
	news->has_timestamp = flow->stream.has_timestamp;
	news->timestamp = flow->stream.timestamp;
	if (!hold || !hold->last || !hold->last->has_timestamp ||
	    (news->has_timestamp && ft_sequence_diff(hold->last->timestamp, news->timestamp) < 0))
		return;
	news->has_timestamp = true;
	news->timestamp = hold->last->timestamp;
}

/* Parses an early segment and brings it up to date. */
static bool refresh(const struct ft_flow *flow, struct ft_early_segment *segment, struct ft_frame *frame)
{
	enum ft_reason why;
	struct ft_frame_news news = {.acknowledgement = flow->stream.client_ack, .window = flow->stream.client_window};
	if (ft_frame_parse(frame, segment->data, segment->length, &why))
		return false; /* it was parsed when it came */
	last_timestamp(flow, &news);
	ft_frame_refresh(frame, segment->data, &news);
	return true;
}

/* Will the segment be taken now? If not it would be lost, and its sender believes that it has come. */
static bool is_room(const struct ft_gate *gate, const struct ft_flow *flow, const struct ft_frame *frame)
{
	if (!flow->hold && frame->payload_length && ft_stream_closed_window(&flow->stream))
		return false;
	return flow->suspect ? ft_hold_takes(gate, flow, frame) : ft_gate_has_room(flow->guest, frame->length);
}

static void take_early(struct ft_gate *gate, struct ft_flow *flow, const struct ft_early_segment *segment,
		       const struct ft_frame *frame)
{
	const struct ft_trigger overlap = {.reason = FT_REASON_HOLD_OVERLAP};
	uint32_t fresh;
	if (segment->overlap && ft_stream_measure(&flow->stream, frame, &fresh) == FT_SEGMENT_NEXT)
		hold(gate, flow, frame, fresh, &overlap);
	else
		handle_segment(gate, flow, frame);
}

/* Gives to handling what can be handled now. Each segment goes on as if it came just now. */
static void drain(struct ft_gate *gate, struct ft_flow *flow)
{
	bool bypass = !flow->hold && flow->service->acting == FT_MODE_BYPASS;
	while (flow->early) {
		struct ft_early_segment *segment = bypass ? flow->early->first : ft_early_next(flow);
		struct ft_frame frame;
		if (!segment)
			return;
		bool whole = refresh(flow, segment, &frame);
		if (whole && !bypass && !is_room(gate, flow, &frame)) {
			ft_early_soon(gate, flow, gate->now + FT_EARLY_SOON_NS);
			return;
		}
		ft_early_take(flow);
		if (whole && bypass)
			handle_bypassed(gate, flow, &frame);
		else if (whole)
			take_early(gate, flow, segment, &frame);
		free(segment);
	}
}

void ft_tcp_resume(struct ft_gate *gate, struct ft_flow *flow)
{
	if (flow->early && flow->stream.state != FT_STREAM_OPEN)
		ft_early_free(flow, FT_REASON_DROP_EARLY_END);
	drain(gate, flow);
	if (!flow->early)
		return;
	/* Of several that carry the same blocks one says all; without blocks their number counts (RFC 5681 section 3.2). */
	uint32_t owed = flow->early->owed;
	flow->early->owed = 0;
	if (flow->stream.sack)
		owed = owed > 0;
	for (uint32_t n = 0; n < owed && n < 3 && ft_early_gap(flow); n++)
		ft_sack_send(gate, flow);
}

/* ---- the two directions ---- */

static struct ft_flow *flow_of_client(struct ft_gate *gate, struct ft_guest *guest,
				      const struct ft_service *service, const struct ft_frame *frame)
{
	struct ft_flow_key key;
	ft_flow_key_client(&key, guest->index, frame);
	struct ft_flow *flow = ft_flows_find(gate->flows, &key);
	bool syn = (frame->flags & (FT_TCP_SYN | FT_TCP_ACK | FT_TCP_RST)) == FT_TCP_SYN;
	if (flow)
		return flow;
	if (!syn && service->acting == FT_MODE_ENFORCE) {
		ft_gate_note(gate, FT_REASON_DROP_NO_FLOW);
		answer_with_reset(gate, guest, frame, true);
		return NULL;
	}
	flow = ft_flows_add(gate->flows, &key);
	if (!flow && service->acting != FT_MODE_ENFORCE) {
		if (!ft_gate_deliver(gate, guest, frame->data, frame->length))
			ft_gate_note(gate, service->acting == FT_MODE_BYPASS ? ft_service_unlooked(service)
									     : FT_REASON_PASS_UNSEEN);
		return NULL;
	}
	if (!flow) {
		ft_gate_note(gate, FT_REASON_DROP_FLOW_TABLE);
		return NULL;
	}
	flow->guest = guest;
	flow->service = service;
	flow->start_wall = gate->wall;
	ft_flow_note_ethernet(flow, frame);
	if (syn)
		ft_stream_begin(&flow->stream, frame);
	else
		ft_stream_adopt(&flow->stream, frame);
	return flow;
}

void ft_tcp_client(struct ft_gate *gate, struct ft_guest *guest, const struct ft_service *service,
		   const struct ft_frame *frame)
{
	struct ft_flow *flow = flow_of_client(gate, guest, service, frame);
	if (!flow)
		return;
	bool syn = (frame->flags & (FT_TCP_SYN | FT_TCP_RST)) == FT_TCP_SYN;
	flow->seen = gate->now;
	/* What is held stays in order and is decided as it began, whatever the mode is now; and what came early, its gap closed. */
	bool enforce = flow->hold || service->acting == FT_MODE_ENFORCE ||
		       (flow->early && service->acting != FT_MODE_BYPASS);
	if (!enforce && service->acting == FT_MODE_BYPASS) {
		handle_bypassed(gate, flow, frame);
		flow->packets++;
		flow->bytes += frame->length;
		ft_stream_note_client(&flow->stream, frame);
		return;
	}
	if (flow->dead && !(syn && !(frame->flags & FT_TCP_ACK))) {
		ft_gate_note(gate, FT_REASON_DROP_FLOW_DEAD);
		answer_with_reset(gate, guest, frame, true);
		return;
	}
	if (syn) {
		/* A client has no business answering a SYN of a service's port, with data least of all. */
		if (frame->flags & FT_TCP_ACK)
			ft_gate_note(gate, FT_REASON_DROP_OUT_OF_WINDOW);
		else
			handle_syn(gate, flow, frame);
	} else if (frame->flags & FT_TCP_RST) {
		handle_reset(gate, flow, frame);
	} else if (!enforce) {
		handle_observed(gate, flow, frame);
	} else if (flow->stream.state == FT_STREAM_SYN) {
		/* Nobody can know the guest's number before the guest said it. */
		ft_gate_note(gate, FT_REASON_DROP_OUT_OF_WINDOW);
	} else if (flow->stream.state == FT_STREAM_CLOSED) {
		struct ft_frame_bare change = {.sequence = frame->sequence, .flags = frame->flags};
		if (!deliver_bare(gate, flow, frame, &change))
			ft_gate_note(gate, frame->payload_length ? FT_REASON_DROP_OUT_OF_WINDOW
								 : FT_REASON_PASS_INSPECTED);
	} else {
		handle_enforced(gate, flow, frame);
	}
	flow->packets++;
	flow->bytes += frame->length;
	ft_stream_note_client(&flow->stream, frame);
	if (flow->early)
		drain(gate, flow);
}

/* The guest of a flow with early segments said something: it may have acknowledged all that it was given, opened its window, or
 * ended the connection. Its own words go out first. */
static void note_word(struct ft_gate *gate, struct ft_flow *flow)
{
	const struct ft_stream *stream = &flow->stream;
	if (stream->state != FT_STREAM_OPEN || ft_early_next(flow) ||
	    (flow->early->owed && stream->guest_ack == stream->released))
		ft_early_soon(gate, flow, gate->now);
}

bool ft_tcp_guest(struct ft_gate *gate, struct ft_guest *guest, const struct ft_frame *frame)
{
	struct ft_flow_key key;
	ft_flow_key_guest(&key, guest->index, frame);
	struct ft_flow *flow = ft_flows_find(gate->flows, &key);
	if (!flow)
		return true; /* not an inspected service's, or one that was forgotten */
	bool bypass = flow->service->acting == FT_MODE_BYPASS;
	if (bypass && (flow->dead || frame->odd_options))
		return true;
	if (frame->odd_options) {
		ft_gate_note(gate, FT_REASON_DROP_MALFORMED);
		return false;
	}
	if (flow->dead) {
		ft_gate_note(gate, FT_REASON_DROP_FLOW_DEAD);
		answer_with_reset(gate, guest, frame, false);
		return false;
	}
	flow->seen = gate->now;
	flow->packets_toclient++;
	flow->bytes_toclient += frame->length;
	renew_if_answered(flow, frame);
	if (!bypass)
		ft_trigger_guest(gate, flow, frame);
	ft_stream_note_guest(&flow->stream, frame);
	if (flow->early)
		note_word(gate, flow);
	return true;
}
