#include "dataplane/early.h"

#include <stdlib.h>
#include <string.h>

#include "dataplane/gate-t.h"
#include "dataplane/tcp.h"

/* Of what may be held for a guest, this part may have come early. */
#define SHARE 4u

void ft_earlies_begin(struct ft_earlies *earlies)
{
	TAILQ_INIT(&earlies->waiting);
	TAILQ_INIT(&earlies->soon);
}

static size_t cost(const struct ft_early_segment *segment)
{
	return sizeof(*segment) + segment->length;
}

static void account(struct ft_early *early, const struct ft_early_segment *segment, bool more)
{
	uint64_t change = more ? cost(segment) : -cost(segment);
	early->all->bytes += change;
	early->flow->guest->held += change;
	early->segments += more ? 1u : -1u;
}

static struct ft_early *open_queue(struct ft_flow *flow)
{
	struct ft_early *early = calloc(1, sizeof(*early));
	if (!early)
		return NULL;
	early->all = &flow->guest->early;
	early->flow = flow;
	TAILQ_INSERT_TAIL(&early->all->waiting, early, waiting);
	flow->early = early;
	return early;
}

static void close_queue(struct ft_early *early)
{
	TAILQ_REMOVE(&early->all->waiting, early, waiting);
	if (early->is_soon)
		TAILQ_REMOVE(&early->all->soon, early, soon);
	early->flow->early = NULL;
	free(early);
}

static void touch(struct ft_gate *gate, struct ft_early *early)
{
	early->until = gate->now + FT_EARLY_NS;
	TAILQ_REMOVE(&early->all->waiting, early, waiting);
	TAILQ_INSERT_TAIL(&early->all->waiting, early, waiting);
	if (early->until < gate->early_due)
		gate->early_due = early->until;
}

/* ---- keeping ---- */

/* Is there room for so much more? Other queues of the guest may go for it. */
static bool make_room(struct ft_gate *gate, struct ft_early *early, size_t bytes)
{
	struct ft_guest *guest = early->flow->guest;
	uint64_t most = gate->holds.memory_most / SHARE;
	while (early->all->bytes + bytes > most) {
		struct ft_early *oldest = TAILQ_FIRST(&early->all->waiting);
		if (oldest == early)
			oldest = TAILQ_NEXT(oldest, waiting);
		if (!oldest)
			return false;
		ft_early_free(oldest->flow, FT_REASON_DROP_OUT_OF_ORDER);
	}
	return guest->held + bytes <= gate->holds.memory_most;
}

/* What became of the numbers of one segment. */
struct kept {
	unsigned kept, full, same, other;
};

/* Keeps the numbers start..end of the frame, which nothing is kept of, behind `before` (NULL: first). Returns what is before the
 * next piece. */
static struct ft_early_segment *insert(struct ft_gate *gate, struct ft_early *early, struct ft_early_segment *before,
				       const struct ft_frame *frame, uint32_t start, uint32_t end, struct kept *kept)
{
	uint32_t from = start - frame->sequence, to = end - frame->sequence;
	bool fin = to > frame->payload_length;
	to -= fin;
	struct ft_frame slice;
	struct ft_early_segment *segment = NULL;
	size_t length = frame->payload + (to - from);
	if (early->segments < FT_EARLY_SEGMENTS && make_room(gate, early, sizeof(*segment) + length))
		segment = malloc(sizeof(*segment) + length);
	if (!segment) {
		kept->full++;
		return before;
	}
	ft_frame_slice(frame, from, to, fin, segment->data, &slice);
	segment->start = start;
	segment->end = end;
	segment->arrival = early->arrivals;
	segment->length = slice.length;
	segment->overlap = false;
	struct ft_early_segment **at = before ? &before->next : &early->first;
	segment->next = *at;
	*at = segment;
	if (!segment->next)
		early->last = segment;
	account(early, segment, true);
	kept->kept++;
	return segment;
}

/* The frame has numbers that the segment has, too: are they the same bytes? */
static void compare(struct ft_early *early, struct ft_early_segment *segment, const struct ft_frame *frame, uint32_t start,
		    uint32_t end, struct kept *kept)
{
	struct ft_frame old;
	enum ft_reason why;
	if (ft_frame_parse(&old, segment->data, segment->length, &why))
		return; /* it was parsed when it came */
	bool same = true;
	for (uint32_t number = start; number != end && same; number++) {
		uint32_t a = number - old.sequence, b = number - frame->sequence;
		bool fin_a = a == old.payload_length, fin_b = b == frame->payload_length;
		same = fin_a == fin_b && (fin_a || old.data[old.payload + a] == frame->data[frame->payload + b]);
	}
	segment->arrival = early->arrivals; /* what was asked about is told first */
	segment->overlap |= !same;
	*(same ? &kept->same : &kept->other) += 1;
}

static uint32_t later(uint32_t a, uint32_t b)
{
	return (int32_t)(a - b) > 0 ? a : b;
}

static uint32_t sooner(uint32_t a, uint32_t b)
{
	return (int32_t)(a - b) < 0 ? a : b;
}

static void merge(struct ft_gate *gate, struct ft_early *early, const struct ft_frame *frame, uint32_t start, uint32_t end,
		  struct kept *kept)
{
	struct ft_early_segment *before = NULL, *at = early->first;
	/* What comes behind everything, as most does, is not looked for. */
	if (early->last && ft_sequence_diff(start, early->last->end) >= 0) {
		before = early->last;
		at = NULL;
	}
	for (; at && ft_sequence_diff(at->start, end) < 0; before = at, at = at->next) {
		if (ft_sequence_diff(at->end, start) <= 0)
			continue;
		if (ft_sequence_diff(start, at->start) < 0)
			insert(gate, early, before, frame, start, at->start, kept);
		compare(early, at, frame, later(start, at->start), sooner(end, at->end), kept);
		start = later(start, at->end);
		if (ft_sequence_diff(start, end) >= 0)
			return;
	}
	if (ft_sequence_diff(start, end) < 0)
		insert(gate, early, before, frame, start, end, kept);
}

/* A FIN has the last number of all: of what contradicts one the later to come is left out. */
static uint32_t last_number(const struct ft_early *early, const struct ft_frame *frame, uint32_t end)
{
	struct ft_frame last;
	enum ft_reason why;
	if (!early->last)
		return end;
	if (frame->flags & FT_TCP_FIN && end == frame->sequence + ft_frame_span(frame) &&
	    ft_sequence_diff(early->last->end, end) > 0)
		return end - 1;
	if (!ft_frame_parse(&last, early->last->data, early->last->length, &why) && last.flags & FT_TCP_FIN)
		return sooner(end, early->last->end);
	return end;
}

bool ft_early_keep(struct ft_gate *gate, struct ft_flow *flow, const struct ft_frame *frame, uint32_t from)
{
	uint32_t start = later(frame->sequence, from);
	uint32_t end = sooner(frame->sequence + ft_frame_span(frame), ft_stream_edge(&flow->stream));
	struct ft_early *early = flow->early;
	if (ft_sequence_diff(start, end) >= 0) {
		ft_gate_note(gate, FT_REASON_DROP_OUT_OF_WINDOW);
		return false;
	}
	if (!early && !(early = open_queue(flow))) {
		ft_gate_note(gate, FT_REASON_DROP_NO_MEMORY);
		return true;
	}
	struct kept kept = {0};
	early->arrivals++;
	end = last_number(early, frame, end);
	if (ft_sequence_diff(start, end) < 0)
		merge(gate, early, frame, start, end, &kept);
	/* One segment, one reason: the worst that became of a part of it. */
	ft_gate_note(gate, kept.full    ? FT_REASON_DROP_OUT_OF_ORDER
			   : kept.kept  ? FT_REASON_HOLD_EARLY
			   : kept.same  ? FT_REASON_DROP_EARLY_DUPLICATE
			   : kept.other ? FT_REASON_DROP_EARLY_OVERLAP
					: FT_REASON_DROP_OUT_OF_WINDOW);
	if (!early->first)
		close_queue(early);
	else if (kept.kept)
		touch(gate, early);
	return true;
}

/* ---- taking ---- */

struct ft_early_segment *ft_early_next(const struct ft_flow *flow)
{
	struct ft_early *early = flow->early;
	return early && ft_sequence_diff(early->first->start, flow->stream.admitted) <= 0 ? early->first : NULL;
}

bool ft_early_gap(const struct ft_flow *flow)
{
	return flow->early && !ft_early_next(flow);
}

struct ft_early_segment *ft_early_take(struct ft_flow *flow)
{
	struct ft_early *early = flow->early;
	struct ft_early_segment *segment = early->first;
	early->first = segment->next;
	account(early, segment, false);
	if (!early->first)
		close_queue(early);
	return segment;
}

void ft_early_free(struct ft_flow *flow, enum ft_reason reason)
{
	while (flow->early) {
		flow->guest->counts[reason]++;
		free(ft_early_take(flow));
	}
}

void ft_earlies_end(struct ft_guest *guest, enum ft_reason reason)
{
	while (!TAILQ_EMPTY(&guest->early.waiting))
		ft_early_free(TAILQ_FIRST(&guest->early.waiting)->flow, reason);
}

/* ---- time ---- */

void ft_early_soon(struct ft_gate *gate, struct ft_flow *flow, uint64_t due)
{
	struct ft_early *early = flow->early;
	if (!early || (early->is_soon && early->due <= due))
		return;
	if (early->is_soon)
		TAILQ_REMOVE(&early->all->soon, early, soon);
	early->is_soon = true;
	early->due = due;
	/* Either now or FT_EARLY_SOON_NS from now: so the list stays sorted. */
	if (due > gate->now)
		TAILQ_INSERT_TAIL(&early->all->soon, early, soon);
	else
		TAILQ_INSERT_HEAD(&early->all->soon, early, soon);
	if (due < gate->early_due)
		gate->early_due = due;
}

void ft_earlies_wake(struct ft_gate *gate)
{
	struct ft_early *early;
	for (unsigned i = 0; i < gate->guest_count; i++)
		TAILQ_FOREACH(early, &gate->guests[i].early.waiting, waiting)
			ft_early_soon(gate, early->flow, gate->now);
}

static void tick_guest(struct ft_gate *gate, struct ft_guest *guest)
{
	struct ft_early *early;
	while ((early = TAILQ_FIRST(&guest->early.soon)) && early->due <= gate->now) {
		TAILQ_REMOVE(&guest->early.soon, early, soon);
		early->is_soon = false;
		ft_tcp_resume(gate, early->flow);
	}
	while ((early = TAILQ_FIRST(&guest->early.waiting)) && early->until <= gate->now)
		ft_early_free(early->flow, FT_REASON_DROP_EARLY_TIMEOUT);
	if (early && early->until < gate->early_due)
		gate->early_due = early->until;
	if ((early = TAILQ_FIRST(&guest->early.soon)) && early->due < gate->early_due)
		gate->early_due = early->due;
}

void ft_earlies_tick(struct ft_gate *gate)
{
	gate->early_due = UINT64_MAX;
	for (unsigned i = 0; i < gate->guest_count; i++) {
		gate->about = &gate->guests[i];
		tick_guest(gate, gate->about);
	}
	gate->about = NULL;
}
