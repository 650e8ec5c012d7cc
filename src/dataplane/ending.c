#include "dataplane/ending.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "dataplane/batch.h"
#include "dataplane/hold.h"
#include "dataplane/made.h"
#include "dataplane/record.h"
#include "dataplane/rulebook.h"

/* ---- leaving ---- */

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

/* A member of a batch that is over, undecided: it is tried again. */
void ft_hold_wait_again(struct ft_gate *gate, struct ft_hold *hold)
{
	hold->state = FT_HOLD_WAIT;
	hold->deadline = UINT64_MAX;
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
			ft_hold_wait_again(gate, members[i]);
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
void ft_hold_detach(struct ft_gate *gate, struct ft_hold *hold)
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

/* ---- what is done ---- */

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
	if (*hold->book->rules_sha256)
		json_object_set_new(record, "rules_sha256", json_string(hold->book->rules_sha256));
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
	struct ft_made reset = ft_made_of(flow, false);
	reset.sequence = stream->released;
	reset.acknowledgement = stream->client_ack;
	reset.flags = FT_TCP_RST | FT_TCP_ACK;
	ft_gate_deliver(gate, flow->guest, frame, ft_made_build(&reset, frame));
}

/* What the client expects next is what it has received: at least what it acknowledged, at most what the guest sent.
 * When these differ both are tried: the one below its window is ignored (RFC 5961 3.2), and a wrong one above is
 * answered with the right number, which the dead flow answers. */
static void reset_client(struct ft_gate *gate, const struct ft_flow *flow)
{
	const struct ft_stream *stream = &flow->stream;
	uint8_t frame[FT_MADE_LENGTH];
	struct ft_made reset = ft_made_of(flow, true);
	reset.sequence = stream->client_ack;
	reset.acknowledgement = stream->admitted;
	reset.flags = FT_TCP_RST | FT_TCP_ACK;
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
	ft_hold_detach(gate, hold);
	/* What came behind it was never tried, and the connection is over. */
	if (later) {
		ft_case_abandon(later->trial, FT_TRIAL_END_ERROR,
				"the flow was dropped before this was tried");
		later->outcome = FT_REASON_DROP_FLOW_DEAD;
		ft_gate_note_many(gate, FT_REASON_DROP_FLOW_DEAD, later->frames);
		report(gate, later, "dropped");
		ft_hold_detach(gate, later);
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
	ft_hold_detach(gate, hold);
	if (!flow->hold && flow->reset)
		release_reset(gate, flow);
	return true;
}

/* Puts what is decided into the guest's ring; goes on at the next tick when the ring is full. */
void ft_holds_release(struct ft_gate *gate, struct ft_guest *guest)
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

void ft_hold_release(struct ft_gate *gate, struct ft_hold *hold, enum ft_reason reason)
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
	ft_holds_release(gate, hold->guest);
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
	ft_hold_detach(gate, hold);
	if (later) {
		ft_case_abandon(later->trial, FT_TRIAL_END_ERROR,
				"what came before it was not taken, so this was not tried");
		later->outcome = FT_REASON_TEMPFAIL_BEHIND;
		ft_gate_note_many(gate, FT_REASON_TEMPFAIL_BEHIND, later->frames);
		report(gate, later, reset ? "reset" : "tempfailed");
		ft_hold_detach(gate, later);
	}
	if (reset && !flow->dead)
		ft_flow_kill(gate, flow);
	else if (tcp)
		ft_stream_forget(&flow->stream);
}

/* ---- what the verdict or the policy says ---- */

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
		ft_hold_release(gate, hold, reason);
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
	ft_hold_detach(gate, hold);
}

/* Of the self-test: whatever the verdict, the live guest does not get it. It is nobody's input, so nothing is reported. */
static void end_canary(struct ft_gate *gate, struct ft_hold *hold)
{
	struct ft_flow *flow = hold->flow;
	ft_canary_judged(gate, hold);
	ft_gate_note_many(gate, FT_REASON_DROP_CANARY, hold->frames);
	ft_hold_detach(gate, hold);
	if (!flow->dead)
		ft_flow_kill(gate, flow);
}

/* The case is judged: does what the verdict, and without one the service's policy, says. */
void ft_hold_conclude(struct ft_gate *gate, struct ft_hold *hold)
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
void ft_hold_take_case(struct ft_hold *hold, struct ft_case *trial)
{
	ft_case_free(hold->trial);
	hold->trial = ft_case_share(trial);
}

/* No more is to be learnt about the hold. */
static void abandon(struct ft_hold *hold, enum ft_trial_end end, const char *why)
{
	if (hold->batch && hold->batch->count == 1)
		ft_hold_take_case(hold, hold->batch->trial);
	ft_case_abandon(hold->trial, end, why);
	/* Without a twin no rule can have the last word: the case says inconclusive. */
	if (ft_case_step(hold->trial) == FT_CASE_TWIN)
		ft_case_abandon(hold->trial, end, why);
	ft_case_step(hold->trial);
}

void ft_hold_give_up(struct ft_gate *gate, struct ft_hold *hold, enum ft_exception exception, const char *why)
{
	hold->exception = exception;
	abandon(hold, exception == FT_EXCEPTION_TIMEOUT ? FT_TRIAL_END_WALL : FT_TRIAL_END_ERROR, why);
	ft_hold_conclude(gate, hold);
}

void ft_hold_give_up_at(struct ft_gate *gate, struct ft_hold *hold, enum ft_exception exception,
		       enum ft_limit limit)
{
	hold->tally->limits[limit]++;
	ft_hold_give_up(gate, hold, exception, ft_limit_text(limit));
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
			ft_hold_release(gate, hold, FT_REASON_RELEASE_BYPASS);
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
		ft_holds_release(gate, guest);
	if (!gone)
		drop_undurable(gate, guest);
	while (!gone && guest->releasing)
		drop(gate, guest->releasing, FT_REASON_DROP_RING_FULL);
	if (!gone)
		ft_holds_release(gate, guest); /* resets */
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
