#include "dataplane/hold.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "base/channel.h"
#include "dataplane/batch.h"
#include "dataplane/cut.h"
#include "dataplane/ending.h"
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
			ft_hold_detach(gate, hold);
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

/* ---- events and time ---- */

/* A hold that was tried alone. */
static void judged(struct ft_gate *gate, struct ft_batch *batch)
{
	struct ft_hold *hold = batch->members[0];
	struct ft_judgement judgement;
	if (batch->busy)
		hold->exception = FT_EXCEPTION_OVERLOAD;
	ft_case_judge(batch->trial, &judgement);
	ft_admission_learn(gate, batch, judgement.verdict == FT_VERDICT_CLEAN);
	ft_hold_take_case(hold, batch->trial);
	/* What no journal has is kept beside, so that the verdict can be made again; not for the self-test. */
	struct ft_case_seed seed;
	if (judgement.verdict != FT_VERDICT_CLEAN && !hold->flow->service->canary && ft_case_seed(batch->trial, &seed) && !seed.run)
		batch->keep = hold->id;
	ft_hold_conclude(gate, hold);
}

/* A group test is over. */
static void settle(struct ft_gate *gate, struct ft_batch *batch, bool failed)
{
	struct ft_guest *guest = batch->guest;
	struct ft_hold *members[FT_TRIAL_FLOWS];
	unsigned count = batch->count, cleared = batch->cleared, runs = batch->runs;
	memcpy(members, batch->members, count * sizeof(*members));
	ft_admission_learn(gate, batch, cleared == count);
	guest->batch_counts.dissolved += failed;
	ft_batch_end(gate, batch);
	for (unsigned i = cleared; i < count; i++) {
		ft_hold_wait_again(gate, members[i]);
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
		ft_hold_take_case(hold, batch->clean);
		ft_hold_conclude(gate, hold);
	}
	guest->settling = false;
	ft_holds_release(gate, guest);
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
		ft_hold_give_up(gate, members[0], FT_EXCEPTION_ERROR, "no memory for a trial");
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
		ft_hold_give_up_at(gate, hold, FT_EXCEPTION_OVERLOAD, hold->refused);
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
		ft_hold_release(gate, hold, FT_REASON_RELEASE_BYPASS);
		return;
	}
	if (hold->deadline == NEVER)
		hold->deadline = gate->now + gate->budgets.wall_ns;
	hold->ready = false;
	if (flow->trials >= service->trials_per_flow) {
		hold->hopeless = true;
		ft_hold_give_up_at(gate, hold, FT_EXCEPTION_OVERLOAD, FT_LIMIT_TRIALS);
	} else if (flow->tried + hold->bytes > service->input_most) {
		hold->hopeless = true;
		ft_hold_give_up_at(gate, hold, FT_EXCEPTION_OVERSIZE, FT_LIMIT_INPUT);
	} else if (hold->frames == 1 && hold->bytes > service->hold_bytes) {
		hold->hopeless = true;
		ft_hold_give_up_at(gate, hold, FT_EXCEPTION_OVERSIZE, FT_LIMIT_HOLD);
	} else if (gate->now >= end_of_time(hold)) {
		ft_hold_give_up_at(gate, hold, FT_EXCEPTION_OVERLOAD, FT_LIMIT_TIME);
	} else if (gate->now >= hold->deadline) {
		ft_hold_give_up_at(gate, hold, FT_EXCEPTION_OVERLOAD, FT_LIMIT_CLONES);
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
		ft_hold_give_up(gate, batch->members[0], FT_EXCEPTION_TIMEOUT, "the guest's process did not answer in time");
	else if (batch->deadline < gate->holds.due)
		gate->holds.due = batch->deadline;
}

static void tick_guest(struct ft_gate *gate, struct ft_guest *guest)
{
	if (guest->releasing)
		ft_holds_release(gate, guest);
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
		ft_hold_give_up_at(gate, hold, FT_EXCEPTION_TIMEOUT, FT_LIMIT_TIME);
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
		ft_hold_give_up(gate, hold, FT_EXCEPTION_ERROR, "no memory for a copy of the frame");
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
		ft_hold_give_up_at(gate, hold, exception, limit);
		return;
	}
	start_trial(gate, &hold, 1);
	/* What is said later is of a guest that has taken the frame. */
	if (hold->batch && ft_batch_say(gate, hold->batch))
		ft_hold_give_up(gate, hold, FT_EXCEPTION_ERROR, "the guest's process does not take requests");
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
