#include "dataplane/hold.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "base/channel.h"
#include "dataplane/batch.h"
#include "dataplane/cut.h"
#include "dataplane/made.h"
#include "dataplane/record.h"

#define NEVER UINT64_MAX

/* ---- making and freeing ---- */

static struct ft_hold *open_hold(struct ft_gate *gate, struct ft_flow *flow, const struct ft_trigger *trigger)
{
	struct ft_hold *hold = calloc(1, sizeof(*hold));
	if (!hold)
		return NULL;
	hold->id = gate->holds.next_id;
	hold->profile = flow->service->profile;
	hold->trial = ft_case_new(0, gate->verdict_rules, hold->profile);
	hold->flow = flow;
	hold->guest = flow->guest;
	if (!hold->trial || ft_admission_enter(gate, hold)) {
		ft_case_free(hold->trial);
		free(hold);
		return NULL;
	}
	gate->holds.next_id++;
	hold->book = gate->book;
	hold->book->holds++;
	hold->refused = FT_LIMIT_COUNT;
	hold->company = FT_TRIAL_FLOWS;
	hold->exception = FT_EXCEPTION_COUNT;
	hold->trigger = *trigger;
	hold->opened = hold->last_at = gate->now;
	hold->opened_wall = gate->wall;
	hold->first_sequence = hold->next_sequence = flow->stream.admitted;
	hold->previous = gate->holds.last;
	*(hold->previous ? &hold->previous->next : &gate->holds.first) = hold;
	gate->holds.last = hold;
	return hold;
}

static void free_frames(struct ft_hold *hold)
{
	while (hold->first) {
		struct ft_held *held = hold->first;
		hold->first = held->next;
		hold->guest->held -= sizeof(*held) + held->length;
		hold->tally->held -= sizeof(*held) + held->length;
		free(held);
	}
	hold->last = hold->first = hold->to_release = NULL;
}

static void collect_garbage(struct ft_gate *gate)
{
	if (!gate->holds.garbage)
		return;
	for (struct ft_hold *hold = gate->holds.first, *next; hold; hold = next) {
		next = hold->next;
		if (hold->state != FT_HOLD_OVER)
			continue;
		*(hold->previous ? &hold->previous->next : &gate->holds.first) = hold->next;
		*(hold->next ? &hold->next->previous : &gate->holds.last) = hold->previous;
		ft_case_free(hold->trial);
		hold->book->holds--;
		free(hold);
	}
	ft_batch_collect(gate);
	gate->holds.garbage = false;
}

/* A member of a batch that is over, undecided: it is tried again. */
static void wait_again(struct ft_gate *gate, struct ft_hold *hold)
{
	hold->state = FT_HOLD_WAIT;
	hold->deadline = NEVER;
	gate->holds.due = 0;
}

/* The hold is decided without its trial. What its batch shows is about all of its members together, so the others are tried
 * again without it. */
static void leave_batch(struct ft_gate *gate, struct ft_hold *hold)
{
	struct ft_batch *batch = hold->batch;
	if (!batch)
		return;
	struct ft_hold *members[FT_TRIAL_FLOWS];
	unsigned count = batch->count;
	memcpy(members, batch->members, count * sizeof(*members));
	hold->guest->batch_counts.dissolved += count > 1;
	ft_batch_end(gate, batch);
	for (unsigned i = 0; i < count; i++)
		if (members[i] != hold)
			wait_again(gate, members[i]);
}

static void stop_releasing(struct ft_hold *hold)
{
	struct ft_hold **at = &hold->guest->releasing;
	while (*at && *at != hold)
		at = &(*at)->behind;
	if (*at)
		*at = hold->behind;
	hold->behind = NULL;
}

/* The hold is decided and done: the flow goes on without it. Freed at the end of the next tick: callers up the stack may be
 * on their way through the list. */
static void detach(struct ft_gate *gate, struct ft_hold *hold)
{
	struct ft_flow *flow = hold->flow;
	if (flow->hold == hold) {
		flow->hold = flow->later;
		flow->later = NULL;
	} else if (flow->later == hold) {
		flow->later = NULL;
	}
	ft_early_soon(gate, flow, gate->now); /* there may be room now for what waits */
	flow->observing -= hold->observed;
	leave_batch(gate, hold);
	if (hold->state == FT_HOLD_RELEASE)
		stop_releasing(hold);
	hold->flow = NULL;
	hold->ready = false;
	free_frames(hold);
	ft_admission_close(gate, hold);
	hold->state = FT_HOLD_OVER;
	gate->holds.garbage = true;
	gate->holds.due = 0;
}

/* ---- collecting ---- */

static struct ft_hold *collecting(const struct ft_flow *flow)
{
	if (flow->later)
		return flow->later;
	return flow->hold && flow->hold->state <= FT_HOLD_WAIT ? flow->hold : NULL;
}

bool ft_hold_collects(const struct ft_flow *flow)
{
	return collecting(flow) != NULL;
}

static enum ft_limit limit_of(const struct ft_gate *gate, const struct ft_flow *flow, const struct ft_frame *frame)
{
	const struct ft_hold *hold = collecting(flow);
	/* What opens the flow's first hold is judged by its policy, see ft_hold_join. What comes behind one waits with its
	 * sender. */
	if (flow->hold && flow->guest->held + frame->length > gate->holds.memory_most)
		return FT_LIMIT_GUEST_HELD;
	if (flow->hold && flow->service->tally->held + frame->length > flow->service->quotas.held)
		return FT_LIMIT_HELD;
	if (hold && (hold->refused != FT_LIMIT_COUNT || hold->pieces > FT_TRIAL_FRAMES - FT_CUT_PIECES ||
		     (hold->frames && hold->bytes + frame->payload_length > flow->service->hold_bytes)))
		return FT_LIMIT_HOLD;
	return FT_LIMIT_COUNT;
}

enum ft_reason ft_hold_refuses(struct ft_gate *gate, const struct ft_flow *flow, const struct ft_frame *frame)
{
	enum ft_limit limit = limit_of(gate, flow, frame);
	if (limit == FT_LIMIT_COUNT)
		return FT_REASON_COUNT;
	flow->service->tally->limits[limit]++;
	return FT_REASON_DROP_HOLD_LIMIT;
}

bool ft_hold_takes(const struct ft_gate *gate, const struct ft_flow *flow, const struct ft_frame *frame)
{
	return limit_of(gate, flow, frame) == FT_LIMIT_COUNT;
}

static int keep(struct ft_gate *gate, struct ft_hold *hold, const struct ft_frame *frame, uint32_t fresh)
{
	/* Other bytes under passed numbers are what this hold is about: of them, too, the clone has to prove that it took
	 * them, as far as the guest still can. */
	if (!hold->frames && hold->trigger.reason == FT_REASON_HOLD_OVERLAP) {
		int32_t settled = ft_sequence_diff(hold->flow->stream.guest_ack, frame->sequence);
		fresh = settled > 0 ? (uint32_t)settled : 0;
		if (fresh > frame->payload_length)
			fresh = frame->payload_length;
		hold->first_sequence = frame->sequence + fresh;
	}
	struct ft_held *held = malloc(sizeof(*held) + frame->length);
	if (!held)
		return -ENOMEM;
	*held = (struct ft_held){
	    .wall = gate->wall,
	    .length = frame->length,
	    .pieces = ft_cut_pieces(frame->data, frame->length, hold->guest->mtu),
	    .fresh = frame->payload + fresh,
	    .fresh_length = frame->payload_length - fresh,
	    .has_timestamp = frame->timestamp,
	    .timestamp = frame->timestamp ? ft_load32(frame->data + frame->timestamp) : 0,
	};
	memcpy(held->data, frame->data, frame->length);
	*(hold->last ? &hold->last->next : &hold->first) = held;
	hold->last = held;
	hold->frames++;
	hold->pieces += held->pieces;
	hold->memory += sizeof(*held) + held->length;
	hold->bytes += held->fresh_length;
	hold->guest->held += sizeof(*held) + held->length;
	hold->tally->held += sizeof(*held) + held->length;
	if (frame->protocol == IPPROTO_TCP) {
		uint32_t end = frame->sequence + frame->payload_length + !!(frame->flags & FT_TCP_FIN);
		if (ft_sequence_diff(end, hold->next_sequence) > 0)
			hold->next_sequence = end;
	} else {
		hold->next_sequence += held->fresh_length;
	}
	return 0;
}

int ft_hold_join(struct ft_gate *gate, struct ft_flow *flow, const struct ft_frame *frame, uint32_t fresh,
		 const struct ft_trigger *trigger)
{
	struct ft_hold *hold = collecting(flow);
	bool opened = !hold;
	if (opened) {
		hold = open_hold(gate, flow, trigger);
		if (!hold)
			return -ENOMEM;
		*(flow->hold ? &flow->later : &flow->hold) = hold;
	}
	int error = keep(gate, hold, frame, fresh);
	if (error) {
		if (opened)
			detach(gate, hold);
		return error;
	}
	if (opened && flow->hold == hold)
		hold->refused = ft_admission_exceeds(gate, hold);
	hold->last_at = gate->now;
	if (trigger->reason == FT_REASON_HOLD_OVERLAP)
		hold->overlap = true;
	/* A rule that matches in a frame that joins says more than "later packet of a held flow". */
	if (hold->trigger.reason == FT_REASON_HOLD_JOIN)
		hold->trigger = *trigger;
	ft_gate_note(gate, opened ? trigger->reason : FT_REASON_HOLD_JOIN);
	gate->holds.due = 0;
	return 0;
}

/* ---- the end of a hold ---- */

static void report(struct ft_gate *gate, struct ft_hold *hold, const char *disposition)
{
	struct ft_judgement judgement;
	ft_case_judge(hold->trial, &judgement);
	ft_outcome_note(&hold->tally->outcomes, judgement.verdict, disposition, gate->now - hold->opened);
	if (!ft_admission_tells(gate, hold,
				judgement.verdict == FT_VERDICT_MALICIOUS ||
				    judgement.verdict == FT_VERDICT_SUSPICIOUS)) {
		ft_decision_done(gate, hold, disposition);
		return;
	}
	if (!strcmp(disposition, "dropped"))
		ft_record_packets(gate, hold);
	json_t *record = ft_record_hold(gate, hold);
	if (!record || ft_case_record(hold->trial, record)) {
		ft_gate_log(gate, "error", "no memory for the record of hold %llu",
			    (unsigned long long)hold->id);
		json_decref(record);
		return;
	}
	json_object_set_new(record, "disposition", json_string(disposition));
	json_object_set_new(record, "disposition_reason", json_string(ft_reason_label(hold->outcome)));
	json_object_set_new(record, "frames_done",
			    json_integer(strcmp(disposition, "released") ? hold->frames : hold->released));
	if (hold->group)
		json_object_set_new(record, "group",
				    json_pack("{s:i, s:i}", "size", (int)hold->group, "runs", (int)hold->runs));
	if (hold->shadow_of)
		json_object_set_new(record, "would",
				    json_pack("{s:s, s:b, s:I}", "reason", ft_reason_label(hold->would), "tried",
					      hold->refused == FT_LIMIT_COUNT, "delay_ns",
					      (json_int_t)hold->would_delay));
	gate->outlet.record(gate->outlet.context, record);
	json_decref(record);
}

static void reset_guest(struct ft_gate *gate, const struct ft_flow *flow)
{
	const struct ft_stream *stream = &flow->stream;
	uint8_t frame[FT_MADE_LENGTH];
	struct ft_made reset = {.ethernet = flow->ethernet,
				.ethernet_length = flow->ethernet_length,
				.source = flow->key.client,
				.destination = flow->key.server,
				.source_port = flow->key.client_port,
				.destination_port = flow->key.server_port,
				.sequence = stream->released,
				.acknowledgement = stream->client_ack,
				.flags = FT_TCP_RST | FT_TCP_ACK};
	ft_gate_deliver(gate, flow->guest, frame, ft_made_build(&reset, frame));
}

/* What the client expects next is what it has received: at least what it acknowledged, at most what the guest sent.
 * When these differ both are tried: the one below its window is ignored (RFC 5961 3.2), and a wrong one above is
 * answered with the right number, which the dead flow answers. */
static void reset_client(struct ft_gate *gate, const struct ft_flow *flow)
{
	const struct ft_stream *stream = &flow->stream;
	uint8_t frame[FT_MADE_LENGTH];
	struct ft_made reset = {.ethernet = flow->ethernet,
				.ethernet_length = flow->ethernet_length,
				.turn = true,
				.source = flow->key.server,
				.destination = flow->key.client,
				.source_port = flow->key.server_port,
				.destination_port = flow->key.client_port,
				.sequence = stream->client_ack,
				.acknowledgement = stream->admitted,
				.flags = FT_TCP_RST | FT_TCP_ACK};
	if (stream->client_ack != stream->guest_next)
		ft_gate_emit(gate, flow->guest, frame, ft_made_build(&reset, frame));
	reset.sequence = stream->guest_next;
	ft_gate_emit(gate, flow->guest, frame, ft_made_build(&reset, frame));
}

void ft_flow_kill(struct ft_gate *gate, struct ft_flow *flow)
{
	flow->dead = true;
	ft_stream_free(&flow->stream);
	free(flow->reset);
	flow->reset = NULL;
	ft_early_free(flow, FT_REASON_DROP_FLOW_DEAD);
	if (flow->key.protocol != IPPROTO_TCP || flow->stream.state != FT_STREAM_OPEN)
		return;
	if (flow->guest->up)
		reset_guest(gate, flow);
	reset_client(gate, flow);
}

static void drop(struct ft_gate *gate, struct ft_hold *hold, enum ft_reason reason)
{
	struct ft_flow *flow = hold->flow;
	struct ft_hold *later = flow->later == hold ? NULL : flow->later;
	hold->outcome = reason;
	ft_gate_note_many(gate, reason, hold->frames);
	report(gate, hold, "dropped");
	detach(gate, hold);
	/* What came behind it was never tried, and the connection is over. */
	if (later) {
		ft_case_abandon(later->trial, FT_TRIAL_END_ERROR,
				"the flow was dropped before this was tried");
		later->outcome = FT_REASON_DROP_FLOW_DEAD;
		ft_gate_note_many(gate, FT_REASON_DROP_FLOW_DEAD, later->frames);
		report(gate, later, "dropped");
		detach(gate, later);
	}
	if (!flow->dead)
		ft_flow_kill(gate, flow);
}

/* The client's reset is the end of its connection. It goes behind what is still to be released: of that a clone took one hold
 * after the other, and might have taken it otherwise with a reset in between. */
static void release_reset(struct ft_gate *gate, struct ft_flow *flow)
{
	struct ft_guest *guest = flow->guest;
	struct ft_late *late = guest->releasing ? malloc(sizeof(*late)) : NULL;
	flow->stream.state = FT_STREAM_CLOSED;
	if (late) {
		struct ft_late **last = &guest->late;
		while (*last)
			last = &(*last)->next;
		*late = (struct ft_late){.frame = flow->reset, .length = flow->reset_length};
		*last = late;
	} else {
		ft_gate_deliver(gate, guest, flow->reset, flow->reset_length);
		free(flow->reset);
	}
	flow->reset = NULL;
}

/* The ledger has not made the release of this hold durable. What was to follow it in the guest was tried behind it, and waits for the
 * same ledger: it goes the same way. */
static void drop_undurable(struct ft_gate *gate, struct ft_guest *guest)
{
	while (guest->releasing && guest->releasing->decision.sequence)
		drop(gate, guest->releasing, FT_REASON_DROP_LEDGER);
}

/* Goes on without the ledger. */
static void release_undurable(struct ft_hold *hold)
{
	hold->decision.sequence = 0;
	hold->outcome = FT_REASON_RELEASE_LEDGER;
}

/* The first one of those that are to be released. False: the ring is full, or its decision is not durable yet. */
static bool release(struct ft_gate *gate, struct ft_hold *hold)
{
	struct ft_flow *flow = hold->flow;
	enum ft_decision_state decision = ft_decision_look(gate, hold);
	if (decision == FT_DECISION_WAITS)
		return false;
	if (decision == FT_DECISION_FAILED && gate->decisions.on_failure == FT_ON_FAILURE_DROP) {
		drop_undurable(gate, hold->guest);
		return true;
	}
	if (decision == FT_DECISION_FAILED)
		release_undurable(hold);
	for (; hold->to_release; hold->to_release = hold->to_release->next) {
		struct ft_held *held = hold->to_release;
		if (!ft_gate_has_room(hold->guest, held->length))
			return false;
		if (ft_gate_deliver(gate, hold->guest, held->data, held->length))
			return false; /* the link broke: whoever cuts it ends the holds */
		hold->released++;
		ft_gate_note(gate, hold->outcome);
		if (held->has_timestamp)
			ft_stream_note_timestamp(&flow->stream, held->timestamp);
	}
	ft_stream_release(&flow->stream, hold->next_sequence);
	flow->answered_from = flow->stream.guest_next;
	report(gate, hold, "released");
	detach(gate, hold);
	if (!flow->hold && flow->reset)
		release_reset(gate, flow);
	return true;
}

/* Puts what is decided into the guest's ring; goes on at the next tick when the ring is full. */
static void release_all(struct ft_gate *gate, struct ft_guest *guest)
{
	if (guest->settling)
		return;
	while (guest->releasing && release(gate, guest->releasing))
		;
	while (guest->late && !guest->releasing) {
		struct ft_late *late = guest->late;
		guest->late = late->next;
		ft_gate_deliver(gate, guest, late->frame, late->length);
		free(late->frame);
		free(late);
	}
}

static void start_release(struct ft_gate *gate, struct ft_hold *hold, enum ft_reason reason)
{
	leave_batch(gate, hold);
	hold->state = FT_HOLD_RELEASE;
	hold->outcome = reason;
	hold->to_release = hold->first;
	ft_decision_make(gate, hold);
	gate->holds.due = 0; /* where the ring is full it goes on at the next tick */
	/* One after the other, so that what was tried together goes in its order whatever fits. */
	struct ft_hold **last = &hold->guest->releasing;
	while (*last)
		last = &(*last)->behind;
	*last = hold;
	release_all(gate, hold->guest);
}

/* The sender is to try again later: see FT_POLICY_TEMPFAIL. */
static void tempfail(struct ft_gate *gate, struct ft_hold *hold, enum ft_reason reason)
{
	struct ft_flow *flow = hold->flow;
	bool tcp = flow->key.protocol == IPPROTO_TCP;
	/* A client that has reset its end sends nothing again. */
	bool reset = tcp && (hold->hopeless || flow->reset || !hold->guest->up);
	struct ft_hold *later = tcp && flow->later != hold ? flow->later : NULL;
	hold->outcome = reason;
	ft_gate_note_many(gate, reason, hold->frames);
	report(gate, hold, reset ? "reset" : "tempfailed");
	detach(gate, hold);
	if (later) {
		ft_case_abandon(later->trial, FT_TRIAL_END_ERROR,
				"what came before it was not taken, so this was not tried");
		later->outcome = FT_REASON_TEMPFAIL_BEHIND;
		ft_gate_note_many(gate, FT_REASON_TEMPFAIL_BEHIND, later->frames);
		report(gate, later, reset ? "reset" : "tempfailed");
		detach(gate, later);
	}
	if (reset && !flow->dead)
		ft_flow_kill(gate, flow);
	else if (tcp)
		ft_stream_forget(&flow->stream);
}

/* What is to be done with a hold whose case is judged, and why. */
static enum ft_policy decide(const struct ft_hold *hold, enum ft_reason *reason)
{
	const struct ft_policies *policies = &hold->flow->service->policies;
	struct ft_judgement judgement;
	ft_case_judge(hold->trial, &judgement);
	switch (judgement.verdict) {
	case FT_VERDICT_CLEAN:
		*reason = FT_REASON_RELEASE_CLEAN;
		return FT_POLICY_RELEASE;
	case FT_VERDICT_MALICIOUS:
		*reason = FT_REASON_DROP_VERDICT;
		return FT_POLICY_DROP;
	case FT_VERDICT_SUSPICIOUS:
		/* A rule objects: that is a verdict, no exception. */
		*reason = policies->on_suspicious == FT_POLICY_RELEASE ? FT_REASON_RELEASE_SUSPICIOUS
								       : FT_REASON_DROP_VERDICT;
		return policies->on_suspicious;
	default:;
	}
	enum ft_exception exception = hold->exception;
	if (exception == FT_EXCEPTION_COUNT)
		exception = ft_exception_of(ft_case_end(hold->trial));
	hold->tally->exceptions[exception]++;
	*reason = ft_policy_reason(exception, policies->on[exception]);
	return policies->on[exception];
}

static void do_it(struct ft_gate *gate, struct ft_hold *hold, enum ft_policy what, enum ft_reason reason)
{
	if (what == FT_POLICY_RELEASE)
		start_release(gate, hold, reason);
	else if (what == FT_POLICY_TEMPFAIL)
		tempfail(gate, hold, reason);
	else
		drop(gate, hold, reason);
}

/* Nothing was kept back, so nothing is done. */
static void observed(struct ft_gate *gate, struct ft_hold *hold, enum ft_policy would, enum ft_reason reason)
{
	struct ft_flow *flow = hold->flow;
	hold->outcome = FT_REASON_PASS_OBSERVED;
	if (hold->shadow_of) {
		hold->outcome = FT_REASON_PASS_SHADOW;
		hold->would = reason;
		bool refused = hold->refused != FT_LIMIT_COUNT;
		uint64_t gathered = hold->opened + (refused ? 0 : flow->service->gather_ns);
		uint64_t begun = gathered > flow->shadow_until ? gathered : flow->shadow_until;
		uint64_t until = begun + (gate->now - hold->opened);
		hold->would_delay = until - hold->opened;
		if (hold->refused == FT_LIMIT_CLONES) {
			hold->shadow_of->untried++;
		} else if (!hold->shadow_of->until) {
			flow->shadow_until = until;
			flow->shadow_dead |= would == FT_POLICY_DROP;
			ft_shadow_decided(hold->shadow_of, hold, reason, hold->would_delay);
		}
	}
	report(gate, hold, "observed");
	detach(gate, hold);
}

/* Of the self-test: whatever the verdict, the live guest does not get it. It is nobody's input, so nothing is reported. */
static void end_canary(struct ft_gate *gate, struct ft_hold *hold)
{
	struct ft_flow *flow = hold->flow;
	ft_canary_judged(gate, hold);
	ft_gate_note_many(gate, FT_REASON_DROP_CANARY, hold->frames);
	detach(gate, hold);
	if (!flow->dead)
		ft_flow_kill(gate, flow);
}

/* The case is judged: does what the verdict, and without one the service's policy, says. */
static void conclude(struct ft_gate *gate, struct ft_hold *hold)
{
	if (hold->flow->service->canary) {
		end_canary(gate, hold);
		return;
	}
	enum ft_reason reason;
	enum ft_policy what = decide(hold, &reason);
	/* Tried alone, since of a group only the clean are judged; and it was not the vmm that had no room. */
	if (reason != FT_REASON_RELEASE_CLEAN && hold->batch && hold->batch->count == 1 &&
	    hold->exception != FT_EXCEPTION_OVERLOAD)
		ft_admission_suspect(gate, hold);
	if (hold->observed) {
		observed(gate, hold, what, reason);
		return;
	}
	do_it(gate, hold, what, reason);
}

/* What its trial has shown is what is known of the hold. */
static void take_case(struct ft_hold *hold, struct ft_case *trial)
{
	ft_case_free(hold->trial);
	hold->trial = ft_case_share(trial);
}

/* No more is to be learnt about the hold. */
static void abandon(struct ft_hold *hold, enum ft_trial_end end, const char *why)
{
	if (hold->batch && hold->batch->count == 1)
		take_case(hold, hold->batch->trial);
	ft_case_abandon(hold->trial, end, why);
	/* Without a twin no rule can have the last word: the case says inconclusive. */
	if (ft_case_step(hold->trial) == FT_CASE_TWIN)
		ft_case_abandon(hold->trial, end, why);
	ft_case_step(hold->trial);
}

static void give_up(struct ft_gate *gate, struct ft_hold *hold, enum ft_exception exception, const char *why)
{
	hold->exception = exception;
	abandon(hold, exception == FT_EXCEPTION_TIMEOUT ? FT_TRIAL_END_WALL : FT_TRIAL_END_ERROR, why);
	conclude(gate, hold);
}

static void give_up_at(struct ft_gate *gate, struct ft_hold *hold, enum ft_exception exception,
		       enum ft_limit limit)
{
	hold->tally->limits[limit]++;
	give_up(gate, hold, exception, ft_limit_text(limit));
}

/* ---- events and time ---- */

/* A hold that was tried alone. */
static void judged(struct ft_gate *gate, struct ft_batch *batch)
{
	struct ft_hold *hold = batch->members[0];
	struct ft_judgement judgement;
	if (batch->busy)
		hold->exception = FT_EXCEPTION_OVERLOAD;
	ft_case_judge(batch->trial, &judgement);
	ft_admission_learn(gate, batch->tally, 1, judgement.verdict == FT_VERDICT_CLEAN);
	take_case(hold, batch->trial);
	conclude(gate, hold);
}

/* A group test is over. */
static void settle(struct ft_gate *gate, struct ft_batch *batch, bool failed)
{
	struct ft_guest *guest = batch->guest;
	struct ft_hold *members[FT_TRIAL_FLOWS];
	unsigned count = batch->count, cleared = batch->cleared, runs = batch->runs;
	memcpy(members, batch->members, count * sizeof(*members));
	ft_admission_learn(gate, batch->tally, count, cleared == count);
	guest->batch_counts.dissolved += failed;
	ft_batch_end(gate, batch);
	for (unsigned i = cleared; i < count; i++) {
		wait_again(gate, members[i]);
		if (failed) /* soon it is alone, where what fails has its policy */
			members[i]->company = count > 4 ? count / 4 : 1;
	}
	if (!failed && cleared < count) {
		members[cleared]->company = 1;
		members[cleared]->again = true;
	}
	guest->settling = true;
	for (unsigned i = 0; i < cleared; i++) {
		struct ft_hold *hold = members[i];
		hold->group = cleared;
		hold->runs = runs;
		hold->flow->trials++;
		hold->flow->tried += hold->bytes;
		take_case(hold, batch->clean);
		conclude(gate, hold);
	}
	guest->settling = false;
	release_all(gate, guest);
}

void ft_hold_event(struct ft_gate *gate, struct ft_guest *guest, struct ft_event *event, const char *const *strings)
{
	struct ft_batch *batch = ft_batch_find(guest, event->trial);
	/* Late words about a batch that is over, or a process that makes numbers up, or uses those of another guest. */
	if (!batch || event->role == FT_ROLE_LIVE)
		return;
	enum ft_batch_step step = ft_batch_event(gate, batch, event, strings);
	if (step == FT_BATCH_RUNS)
		return;
	if (batch->count == 1)
		judged(gate, batch);
	else
		settle(gate, batch, step == FT_BATCH_FAILED);
}

static void start_trial(struct ft_gate *gate, struct ft_hold *const *members, unsigned count)
{
	if (!ft_batch_open(gate, members, count)) {
		give_up(gate, members[0], FT_EXCEPTION_ERROR, "no memory for a trial");
		return;
	}
	for (unsigned i = 0; i < count; i++) {
		members[i]->state = FT_HOLD_TRY;
		/* What this one had no room for can open the next. */
		ft_early_soon(gate, members[i]->flow, gate->now);
	}
	/* Of a group that is dissolved nobody has had a trial: see settle. */
	if (count == 1) {
		members[0]->flow->trials++;
		members[0]->flow->tried += members[0]->bytes;
	}
}

/* Has it gathered what it may? */
static bool is_gathered(struct ft_gate *gate, struct ft_hold *hold)
{
	const struct ft_service *service = hold->flow->service;
	uint64_t quiet = hold->last_at + service->gather_ns, most = hold->opened + service->gather_most_ns;
	/* What waits behind a gap is worth another trial of its own if this one does not wait for it. */
	if (ft_early_gap(hold->flow))
		quiet = most;
	uint64_t until = quiet < most ? quiet : most;
	bool full = hold->pieces > FT_TRIAL_FRAMES - FT_CUT_PIECES || hold->bytes >= service->hold_bytes;
	if (gate->now >= until || full)
		return true;
	if (until < gate->holds.due)
		gate->holds.due = until;
	return false;
}

static uint64_t end_of_time(const struct ft_hold *hold)
{
	return hold->opened + hold->flow->service->quotas.hold_time_ns;
}

static void tick_waiting(struct ft_gate *gate, struct ft_hold *hold)
{
	struct ft_flow *flow = hold->flow;
	const struct ft_service *service = flow->service;
	if (hold->refused != FT_LIMIT_COUNT) {
		give_up_at(gate, hold, FT_EXCEPTION_OVERLOAD, hold->refused);
		return;
	}
	if (hold->state == FT_HOLD_GATHER && !hold->bypassed) {
		if (!is_gathered(gate, hold))
			return;
		hold->state = FT_HOLD_WAIT;
		hold->deadline = NEVER;
	}
	if (flow->hold != hold)
		return; /* the one before is still being tried */
	if (hold->bypassed) {
		start_release(gate, hold, FT_REASON_RELEASE_BYPASS);
		return;
	}
	if (hold->deadline == NEVER)
		hold->deadline = gate->now + gate->budgets.wall_ns;
	hold->ready = false;
	if (flow->trials >= service->trials_per_flow) {
		hold->hopeless = true;
		give_up_at(gate, hold, FT_EXCEPTION_OVERLOAD, FT_LIMIT_TRIALS);
	} else if (flow->tried + hold->bytes > service->input_most) {
		hold->hopeless = true;
		give_up_at(gate, hold, FT_EXCEPTION_OVERSIZE, FT_LIMIT_INPUT);
	} else if (hold->frames == 1 && hold->bytes > service->hold_bytes) {
		hold->hopeless = true;
		give_up_at(gate, hold, FT_EXCEPTION_OVERSIZE, FT_LIMIT_HOLD);
	} else if (gate->now >= end_of_time(hold)) {
		give_up_at(gate, hold, FT_EXCEPTION_OVERLOAD, FT_LIMIT_TIME);
	} else if (gate->now >= hold->deadline) {
		give_up_at(gate, hold, FT_EXCEPTION_OVERLOAD, FT_LIMIT_CLONES);
	} else {
		hold->ready = true;
		if (hold->deadline < gate->holds.due)
			gate->holds.due = hold->deadline;
		if (end_of_time(hold) < gate->holds.due)
			gate->holds.due = end_of_time(hold);
	}
}

static void tick_batch(struct ft_gate *gate, struct ft_batch *batch)
{
	if (ft_batch_say(gate, batch) == -EPROTO) {
		ft_gate_link_broken(gate, batch->guest, "its command ring has an impossible index");
		return; /* and with it this batch */
	}
	if (batch->state == FT_BATCH_DEPART && (batch->gone || gate->now >= batch->deadline))
		ft_batch_over(gate, batch);
	else if (gate->now >= batch->deadline && batch->count > 1)
		settle(gate, batch, true);
	else if (gate->now >= batch->deadline)
		give_up(gate, batch->members[0], FT_EXCEPTION_TIMEOUT, "the guest's process did not answer in time");
	else if (batch->deadline < gate->holds.due)
		gate->holds.due = batch->deadline;
}

static void tick_guest(struct ft_gate *gate, struct ft_guest *guest)
{
	if (guest->releasing)
		release_all(gate, guest);
	/* Where the ring is full it goes on as soon as there is room. */
	if (guest->releasing && !guest->releasing->decision.sequence)
		gate->holds.due = gate->now;
	for (struct ft_batch *batch = guest->batches; batch; batch = batch->next)
		if (batch->state != FT_BATCH_OVER)
			tick_batch(gate, batch);
}

static void tick_trial(struct ft_gate *gate, struct ft_hold *hold)
{
	if (hold->observed)
		return;
	if (gate->now >= end_of_time(hold))
		give_up_at(gate, hold, FT_EXCEPTION_TIMEOUT, FT_LIMIT_TIME);
	else if (end_of_time(hold) < gate->holds.due)
		gate->holds.due = end_of_time(hold);
}

void ft_holds_tick(struct ft_gate *gate)
{
	gate->holds.due = ft_admission_tick(gate);
	for (struct ft_hold *hold = gate->holds.first; hold; hold = hold->next) {
		gate->about = hold->guest;
		if (hold->state <= FT_HOLD_WAIT)
			tick_waiting(gate, hold);
	}
	for (unsigned i = 0; i < gate->guest_count; i++) {
		struct ft_hold *members[FT_TRIAL_FLOWS];
		gate->about = &gate->guests[i];
		for (unsigned count; (count = ft_admission_next(gate, &gate->guests[i], members));)
			start_trial(gate, members, count);
	}
	for (struct ft_hold *hold = gate->holds.first; hold; hold = hold->next) {
		gate->about = hold->guest;
		if (hold->state == FT_HOLD_TRY)
			tick_trial(gate, hold);
	}
	for (unsigned i = 0; i < gate->guest_count; i++) {
		gate->about = &gate->guests[i];
		tick_guest(gate, &gate->guests[i]);
	}
	gate->about = NULL;
	collect_garbage(gate);
}

/* ---- observing ---- */

void ft_hold_observe(struct ft_gate *gate, struct ft_flow *flow, const struct ft_frame *frame, uint32_t fresh,
		     const struct ft_trigger *trigger)
{
	bool shadow = flow->service->acting == FT_MODE_SHADOW;
	bool spent = flow->trials >= flow->service->trials_per_flow;
	if (shadow && flow->shadow_dead) {
		flow->service->shadow->behind++;
		return;
	}
	if (spent && !shadow) {
		flow->service->tally->limits[FT_LIMIT_TRIALS]++;
		return;
	}
	struct ft_hold *hold = open_hold(gate, flow, trigger);
	if (!hold)
		return;
	hold->observed = true;
	if (shadow)
		hold->shadow_of = flow->service->shadow;
	flow->observing++;
	if (keep(gate, hold, frame, fresh)) {
		give_up(gate, hold, FT_EXCEPTION_ERROR, "no memory for a copy of the frame");
		return;
	}
	/* The frame goes on at once, so a trial that cannot begin now would begin from a guest that has it already. */
	enum ft_exception exception = FT_EXCEPTION_OVERLOAD;
	enum ft_limit limit = ft_admission_exceeds(gate, hold);
	if (spent) {
		limit = FT_LIMIT_TRIALS;
	} else if (flow->tried + hold->bytes > flow->service->input_most) {
		limit = FT_LIMIT_INPUT;
		exception = FT_EXCEPTION_OVERSIZE;
	} else if (limit == FT_LIMIT_COUNT && !ft_admission_at_once(gate, hold)) {
		limit = FT_LIMIT_CLONES;
	}
	if (limit != FT_LIMIT_COUNT) {
		flow->trials += limit == FT_LIMIT_CLONES;
		hold->refused = limit;
		give_up_at(gate, hold, exception, limit);
		return;
	}
	start_trial(gate, &hold, 1);
	/* What is said later is of a guest that has taken the frame. */
	if (hold->batch && ft_batch_say(gate, hold->batch))
		give_up(gate, hold, FT_EXCEPTION_ERROR, "the guest's process does not take requests");
	gate->holds.due = 0;
}

/* ---- an operator's word ---- */

int ft_hold_order(struct ft_gate *gate, uint64_t id, bool release_it, uint64_t *before)
{
	struct ft_hold *hold = gate->holds.first;
	while (hold && hold->id != id)
		hold = hold->next;
	if (!hold || hold->observed || !hold->flow || hold->state >= FT_HOLD_RELEASE || hold->flow->service->canary)
		return -ENOENT;
	if (hold->flow->hold != hold) {
		*before = hold->flow->hold->id;
		return -EBUSY;
	}
	struct ft_guest *about = gate->about;
	gate->about = hold->guest;
	abandon(hold, FT_TRIAL_END_ERROR, "an operator decided before the trial did");
	do_it(gate, hold, release_it ? FT_POLICY_RELEASE : FT_POLICY_DROP,
	      release_it ? FT_REASON_RELEASE_OPERATOR : FT_REASON_DROP_OPERATOR);
	gate->about = about;
	return 0;
}

/* In the order in which they were opened, which is that of each connection. */
unsigned ft_holds_bypass(struct ft_gate *gate)
{
	unsigned count = 0;
	struct ft_guest *about = gate->about;
	for (struct ft_hold *hold = gate->holds.first; hold; hold = hold->next) {
		if (!hold->flow || hold->observed || hold->state >= FT_HOLD_RELEASE ||
		    hold->flow->service->acting != FT_MODE_BYPASS)
			continue;
		gate->about = hold->guest;
		abandon(hold, FT_TRIAL_END_ERROR, "inspection was switched off");
		/* One that waits behind another whose release found the ring full waits for that, see tick_waiting. */
		if (hold->flow->hold == hold)
			start_release(gate, hold, FT_REASON_RELEASE_BYPASS);
		else
			hold->bypassed = true;
		count++;
	}
	gate->about = about;
	return count;
}

/* ---- the end of everything ---- */

/* What is held when its guest or the gateway goes is an error of the trial, as far as policies go. */
static void end_by_policy(struct ft_gate *gate, struct ft_hold *hold, bool gone, const char *why)
{
	static const enum ft_reason stopping[FT_POLICY_COUNT] = {
	    FT_REASON_DROP_SHUTDOWN, FT_REASON_RELEASE_SHUTDOWN, FT_REASON_TEMPFAIL_SHUTDOWN};
	enum ft_policy policy = hold->flow->service->policies.on[FT_EXCEPTION_ERROR];
	bool releasing = hold->state == FT_HOLD_RELEASE;
	if (!releasing)
		abandon(hold, FT_TRIAL_END_ERROR, why);
	hold->hopeless = true;
	if (hold->flow->service->canary) {
		end_canary(gate, hold);
		return;
	}
	if (hold->observed)
		observed(gate, hold, policy, ft_policy_reason(FT_EXCEPTION_ERROR, policy));
	else if (gone && (releasing || policy == FT_POLICY_RELEASE))
		drop(gate, hold, FT_REASON_DROP_GUEST_DOWN);
	else
		do_it(gate, hold, policy,
		      gone ? ft_policy_reason(FT_EXCEPTION_ERROR, policy) : stopping[policy]);
	if (hold->flow) /* a release that found the ring full */
		drop(gate, hold, FT_REASON_DROP_RING_FULL);
}

void ft_holds_end(struct ft_gate *gate, struct ft_guest *guest, bool gone, const char *why)
{
	/* For what does not fit now there is no later tick; and nothing goes in the place of what was to go before it. Nor is
	 * the ledger waited for any longer. */
	for (struct ft_hold *hold = gone ? NULL : guest->releasing; hold; hold = hold->behind)
		if (gate->decisions.on_failure == FT_ON_FAILURE_RELEASE && ft_decision_look(gate, hold) != FT_DECISION_DURABLE)
			release_undurable(hold);
	if (!gone)
		release_all(gate, guest);
	if (!gone)
		drop_undurable(gate, guest);
	while (!gone && guest->releasing)
		drop(gate, guest->releasing, FT_REASON_DROP_RING_FULL);
	if (!gone)
		release_all(gate, guest); /* resets */
	for (struct ft_hold *hold = gate->holds.first; hold; hold = hold->next) {
		if (hold->guest != guest)
			continue;
		if (hold->flow)
			end_by_policy(gate, hold, gone, why);
	}
	for (struct ft_batch *batch = guest->batches; gone && batch; batch = batch->next)
		if (batch->state == FT_BATCH_DEPART)
			ft_batch_over(gate, batch);
	while (gone && guest->late) {
		struct ft_late *late = guest->late;
		guest->late = late->next;
		free(late->frame);
		free(late);
	}
	gate->holds.due = 0;
}

/* ---- queries ---- */

/* Of a message, the rest of the answer aside. When much is held is when somebody asks. */
#define LIST_BYTES (FT_CHANNEL_MESSAGE - 1024u)

json_t *ft_holds_list(const struct ft_gate *gate)
{
	static const char *const states[] = {"gathering", "waiting", "trial", "releasing"};
	json_t *list = json_array();
	size_t bytes = 0;
	json_int_t more = 0;
	for (const struct ft_hold *hold = gate->holds.first; hold; hold = hold->next) {
		if (hold->state == FT_HOLD_OVER || hold->flow->service->canary)
			continue;
		if (more) {
			more++;
			continue;
		}
		json_t *record = ft_record_hold(gate, hold);
		json_object_del(record, "op");
		json_object_del(record, "ended_ns");
		json_object_set_new(record, "state", json_string(hold->batch && hold->batch->twin ? "twin" : states[hold->state]));
		json_object_set_new(record, "frames", json_integer(hold->frames));
		json_object_set_new(record, "bytes", json_integer(hold->bytes));
		json_object_set_new(record, "age_ns", json_integer((json_int_t)(gate->now - hold->opened)));
		bytes += json_dumpb(record, NULL, 0, JSON_COMPACT) + 1;
		if (bytes <= LIST_BYTES) {
			json_array_append_new(list, record);
		} else {
			json_decref(record);
			more = 1;
		}
	}
	if (more)
		json_array_append_new(list, json_pack("{s:I}", "more", more));
	return list;
}
