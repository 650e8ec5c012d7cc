#include "dataplane/batch.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>

#include "dataplane/trial.h"

/* ---- making and freeing ---- */

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
	for (unsigned i = 0; i < count; i++) {
		batch->members[i] = members[i];
		members[i]->batch = batch;
	}
	batch->deadline = gate->now + gate->budgets.wall_ns + FT_BATCH_GRACE_NS;
	batch->next = guest->batches;
	guest->batches = batch;
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
	batch->word = FT_BATCH_SAY_FINISH;
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
		break;
	case FT_BATCH_SAY_RUN:
		error = ft_trial_run(batch, batch->twin ? 0 : batch->flows, ft_case_until(batch->trial));
		break;
	case FT_BATCH_SAY_FINISH:
		error = ft_trial_finish(batch);
		break;
	default:
		return 0;
	}
	if (error)
		return error;
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
	batch->deadline = gate->now + gate->budgets.wall_ns + FT_BATCH_GRACE_NS;
	ft_batch_say(gate, batch);
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
	return what == FT_CASE_JUDGED ? FT_BATCH_JUDGED : FT_BATCH_RUNS;
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
	ft_case_clock(batch->trial, gate->now);
	ft_case_add(batch->trial, event, strings);
	return step(gate, batch);
}
