#include "dataplane/batch.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>

#include "dataplane/trial.h"

/* ---- budgets ---- */

/* Inputs that handling_instructions are multiplied for, at most. */
#define HANDLING_MOST 8u

uint64_t ft_batch_wall(const struct ft_gate *gate, const struct ft_batch *batch)
{
	return batch->count > 1 ? gate->budgets.wall_ns / 4 : gate->budgets.wall_ns;
}

uint64_t ft_batch_handling(const struct ft_gate *gate, const struct ft_batch *batch)
{
	uint64_t one = gate->budgets.handling_instructions, inputs = batch->count < HANDLING_MOST ? batch->count : HANDLING_MOST;
	return one > INT64_MAX / inputs ? INT64_MAX : one * inputs;
}

/* ---- making and freeing ---- */

static unsigned class_of(unsigned count)
{
	return count > 1 ? 32u - (unsigned)__builtin_clz(count - 1) : 0;
}

struct ft_batch *ft_batch_open(struct ft_gate *gate, struct ft_hold *const *members, unsigned count)
{
	struct ft_hold *first = members[0];
	struct ft_guest *guest = first->guest;
	struct ft_batch *batch = calloc(1, sizeof(*batch));
	if (!batch)
		return NULL;
	batch->number = gate->holds.next_batch;
	batch->trial = ft_case_new(batch->number, first->book->verdict_rules, first->profile);
	if (!batch->trial) {
		free(batch);
		return NULL;
	}
	gate->holds.next_batch++;
	batch->guest = guest;
	batch->book = first->book;
	batch->book->holds++;
	batch->tally = first->tally;
	batch->shadow_of = first->shadow_of;
	batch->count = batch->flows = count;
	batch->bad = count + 1;
	for (unsigned i = 0; i < count; i++) {
		batch->members[i] = members[i];
		members[i]->batch = batch;
	}
	batch->deadline = gate->now + ft_batch_wall(gate, batch) + FT_BATCH_GRACE_NS;
	batch->next = guest->batches;
	guest->batches = batch;
	guest->batch_counts.sizes[class_of(count)]++;
	ft_admission_start(gate, batch);
	return batch;
}

void ft_batch_over(struct ft_gate *gate, struct ft_batch *batch)
{
	ft_admission_leave(gate, batch);
	batch->state = FT_BATCH_OVER;
	gate->holds.garbage = true;
	gate->holds.due = 0;
}

void ft_batch_collect(struct ft_gate *gate)
{
	for (unsigned i = 0; i < gate->guest_count; i++)
		for (struct ft_batch **at = &gate->guests[i].batches; *at;) {
			struct ft_batch *batch = *at;
			if (batch->state != FT_BATCH_OVER) {
				at = &batch->next;
				continue;
			}
			*at = batch->next;
			ft_case_free(batch->trial);
			ft_case_free(batch->clean);
			batch->book->holds--;
			free(batch);
		}
}

void ft_batch_end(struct ft_gate *gate, struct ft_batch *batch)
{
	for (unsigned i = 0; i < batch->count; i++)
		batch->members[i]->batch = NULL;
	batch->count = 0;
	gate->holds.due = 0;
	if (!batch->begun || batch->gone || !batch->guest->up) {
		ft_batch_over(gate, batch);
		return;
	}
	batch->state = FT_BATCH_DEPART;
	batch->deadline = gate->now + FT_BATCH_GRACE_NS;
	batch->word = batch->keep ? FT_BATCH_SAY_KEEP : FT_BATCH_SAY_FINISH;
	ft_batch_say(gate, batch); /* what does not fit is said at the next tick */
}

/* ---- what is said ---- */

/* One word; batch->word becomes the next. */
static int say(struct ft_gate *gate, struct ft_batch *batch)
{
	int error;
	switch (batch->word) {
	case FT_BATCH_SAY_BEGIN:
		error = ft_trial_begin(gate, batch);
		if (!error) {
			batch->begun = true;
			batch->word = FT_BATCH_SAY_FLOW;
		}
		return error;
	case FT_BATCH_SAY_FLOW:
		for (; batch->member < batch->count; batch->member++) {
			error = ft_trial_flow(batch, batch->members[batch->member]);
			if (error)
				return error;
		}
		batch->member = 0;
		batch->at = batch->members[0]->first;
		batch->word = FT_BATCH_SAY_FRAME;
		return 0;
	case FT_BATCH_SAY_FRAME:
		while (batch->at) {
			for (; batch->piece < batch->at->pieces; batch->piece++) {
				error = ft_trial_frame(gate, batch, batch->at, batch->piece);
				if (error)
					return error;
			}
			batch->piece = 0;
			batch->at = batch->at->next;
			if (!batch->at && ++batch->member < batch->count)
				batch->at = batch->members[batch->member]->first;
		}
		batch->word = FT_BATCH_SAY_GO;
		return 0;
	case FT_BATCH_SAY_GO:
		error = ft_trial_go(batch);
		batch->runs += !error;
		break;
	case FT_BATCH_SAY_RUN:
		error = ft_trial_run(batch, batch->twin ? 0 : batch->flows, ft_case_until(batch->trial));
		batch->runs += !error;
		break;
	case FT_BATCH_SAY_KEEP:
		error = ft_trial_keep(batch);
		if (!error)
			batch->word = FT_BATCH_SAY_FINISH;
		return error;
	case FT_BATCH_SAY_FINISH:
		error = ft_trial_finish(batch);
		break;
	default:
		return 0;
	}
	if (error)
		return error;
	batch->guest->batch_counts.runs += batch->word != FT_BATCH_SAY_FINISH;
	batch->word = FT_BATCH_SAY_NOTHING;
	if (batch->state == FT_BATCH_ASK)
		batch->state = FT_BATCH_RUN;
	return 0;
}

int ft_batch_say(struct ft_gate *gate, struct ft_batch *batch)
{
	int error = 0;
	while (!error && batch->word != FT_BATCH_SAY_NOTHING)
		error = say(gate, batch);
	if (error)
		gate->holds.due = 0;
	return error;
}

/* ---- what is heard ---- */

/* A guest has few at a time: as many as it may have clones. */
struct ft_batch *ft_batch_find(const struct ft_guest *guest, uint64_t number)
{
	struct ft_batch *batch = guest->batches;
	while (batch && (batch->number != number || batch->state == FT_BATCH_OVER))
		batch = batch->next;
	return batch;
}

static void run(struct ft_gate *gate, struct ft_batch *batch)
{
	batch->state = FT_BATCH_ASK;
	batch->word = FT_BATCH_SAY_RUN;
	batch->deadline = gate->now + ft_batch_wall(gate, batch) + FT_BATCH_GRACE_NS;
	ft_batch_say(gate, batch);
}

/* A budget is for one input; what a group uses up says nothing about any of them. */
static bool is_spent(const struct ft_batch *batch, const struct ft_judgement *judgement)
{
	switch (judgement->verdict == FT_VERDICT_INCONCLUSIVE ? ft_case_end(batch->trial) : FT_TRIAL_END_HORIZON) {
	case FT_TRIAL_END_WALL:
	case FT_TRIAL_END_INSTRUCTIONS:
	case FT_TRIAL_END_MEMORY:
	case FT_TRIAL_END_NEVER_IDLE:
	case FT_TRIAL_END_ERROR:
		return true;
	default:
		return false;
	}
}

/* A run of several is judged: what it says about them, and what is run next. */
static enum ft_batch_step search(struct ft_gate *gate, struct ft_batch *batch)
{
	struct ft_judgement judgement;
	ft_case_judge(batch->trial, &judgement);
	bool straight = false;
	if (judgement.verdict != FT_VERDICT_CLEAN) {
		if (is_spent(batch, &judgement))
			return FT_BATCH_FAILED;
		batch->bad = batch->flows;
	} else if (batch->answered < batch->flows) {
		/* Nothing is wrong with those before the one without an answer, so most likely they are clean alone. */
		batch->bad = (batch->answered > batch->cleared ? batch->answered : batch->cleared) + 1;
		straight = true;
	} else {
		batch->cleared = batch->flows;
		ft_case_free(batch->clean);
		batch->clean = ft_case_share(batch->trial);
	}
	if (batch->bad - batch->cleared == 1)
		return FT_BATCH_JUDGED;
	struct ft_case *next = batch->gone ? NULL : ft_case_again(batch->trial);
	if (!next)
		return FT_BATCH_FAILED;
	batch->guest->batch_counts.searches += batch->flows == batch->count;
	ft_case_free(batch->trial);
	batch->trial = next;
	batch->flows = straight ? batch->bad - 1 : batch->cleared + (batch->bad - batch->cleared) / 2;
	batch->answered = 0;
	batch->twin = false;
	run(gate, batch);
	return FT_BATCH_RUNS;
}

static enum ft_batch_step step(struct ft_gate *gate, struct ft_batch *batch)
{
	enum ft_case_step what = ft_case_step(batch->trial);
	if (what == FT_CASE_TWIN && batch->gone) {
		ft_case_abandon(batch->trial, FT_TRIAL_END_ERROR, "the twin could not be asked for");
		what = ft_case_step(batch->trial);
	} else if (what == FT_CASE_TWIN) {
		batch->twin = true;
		run(gate, batch);
	}
	if (what != FT_CASE_JUDGED)
		return FT_BATCH_RUNS;
	return batch->count > 1 ? search(gate, batch) : FT_BATCH_JUDGED;
}

/* What the guest's process says it took has to be about what was handed to it. */
static void check_handled(const struct ft_batch *batch, struct ft_event *event)
{
	uint64_t numbers = 0;
	for (unsigned i = 0; i < batch->flows; i++) {
		const struct ft_hold *hold = batch->members[i];
		numbers += hold->flow->key.protocol == IPPROTO_TCP ? hold->next_sequence - hold->first_sequence
								  : hold->bytes;
	}
	if (event->a[1] != numbers)
		event->a[0] = 0;
	event->a[1] = numbers;
}

enum ft_batch_step ft_batch_event(struct ft_gate *gate, struct ft_batch *batch, struct ft_event *event,
				  const char *const *strings)
{
	if (event->type == FT_EVENT_SEED_GONE && event->role == FT_ROLE_SEED) {
		batch->gone = true;
		batch->busy = event->a[0] == FT_SEED_BUSY;
		gate->holds.due = 0;
	}
	/* Of what the vmm was not told yet nothing can run; but it may refuse what it has heard so far. */
	if (batch->state > FT_BATCH_RUN || (batch->state == FT_BATCH_ASK && !batch->gone))
		return FT_BATCH_RUNS;
	if (event->type == FT_EVENT_TRIAL_HANDLED && event->role == FT_ROLE_TRIAL)
		check_handled(batch, event);
	if (event->type == FT_EVENT_TRIAL_ANSWERED && event->role == FT_ROLE_TRIAL && !batch->twin)
		batch->answered = event->a[0] == batch->flows && event->a[1] <= event->a[0] ? (unsigned)event->a[1] : 0;
	ft_case_clock(batch->trial, gate->now);
	ft_case_add(batch->trial, event, strings);
	return step(gate, batch);
}

void ft_batch_tell(const struct ft_batch_counts *counts, json_t *object)
{
	json_t *sizes = json_object();
	for (unsigned i = 0; i < FT_BATCH_SIZES; i++) {
		char most[8];
		snprintf(most, sizeof(most), "%u", 1u << i);
		json_object_set_new(sizes, most, json_integer((json_int_t)counts->sizes[i]));
	}
	json_object_set_new(object, "batches", sizes);
	json_object_set_new(object, "runs", json_integer((json_int_t)counts->runs));
	json_object_set_new(object, "searches", json_integer((json_int_t)counts->searches));
	json_object_set_new(object, "dissolved", json_integer((json_int_t)counts->dissolved));
}
