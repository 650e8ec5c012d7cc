#include "dataplane/decision.h"

#include <errno.h>
#include <string.h>

#include "dataplane/gate-t.h"

#define LOOK_NS 250000u /* between two looks at the page */

int ft_decisions_load(struct ft_decisions *d, const json_t *config, struct ft_error *err)
{
	static const char *const words[] = {"release", "drop", "hold"};
	const json_t *log = json_object_get(config, "log"), *timeout = json_object_get(log, "timeout");
	const char *commit = json_string_value(json_object_get(log, "commit"));
	const char *on_failure = json_string_value(json_object_get(log, "on_failure"));
	bool before_release = commit && !strcmp(commit, "before-release");
	if (commit && !before_release && strcmp(commit, "async"))
		return ft_error_set(err, -EINVAL, "log.commit is neither before-release nor async");
	enum ft_on_failure what = FT_ON_FAILURE_RELEASE;
	for (unsigned i = 0; on_failure && i < 3; i++)
		if (!strcmp(on_failure, words[i]))
			what = (enum ft_on_failure)i;
	d->before_release = before_release;
	d->on_failure = what;
	d->timeout = json_is_integer(timeout) && json_integer_value(timeout) > 0 ? (uint64_t)json_integer_value(timeout)
										 : 2000000000u;
	return 0;
}

static void send_decision(struct ft_gate *gate, struct ft_hold *hold)
{
	struct ft_decisions *d = &gate->decisions;
	struct ft_judgement judgement;
	ft_case_judge(hold->trial, &judgement);
	/* Numbers of an earlier dataplane are smaller: the page outlives us, the clock goes one way. */
	d->sequence = d->sequence >= gate->now ? d->sequence + 1 : gate->now;
	hold->decision.sequence = d->sequence;
	hold->decision.run = atomic_load_explicit(&d->page->run, memory_order_acquire);
	hold->decision.told = true;
	json_t *record = json_pack("{s:s, s:I, s:I, s:s, s:s, s:s}", "op", "decided", "hold", (json_int_t)hold->id, "sequence",
				   (json_int_t)d->sequence, "verdict", ft_verdict_name(judgement.verdict), "disposition",
				   "released", "disposition_reason", ft_reason_label(hold->outcome));
	if (record)
		gate->outlet.record(gate->outlet.context, record);
	json_decref(record);
}

void ft_decision_make(struct ft_gate *gate, struct ft_hold *hold)
{
	struct ft_decisions *d = &gate->decisions;
	hold->decision = (struct ft_decision){0};
	if (!d->page || !d->before_release || hold->outcome == FT_REASON_RELEASE_BYPASS ||
	    hold->outcome == FT_REASON_RELEASE_SHUTDOWN)
		return;
	d->made++;
	hold->decision.made = gate->now;
	send_decision(gate, hold);
}

static void fail(struct ft_gate *gate, struct ft_hold *hold)
{
	static const char *const what[] = {"is released without", "is dropped for want of", "stays held for want of"};
	struct ft_decisions *d = &gate->decisions;
	if (hold->decision.failed)
		return;
	hold->decision.failed = true;
	d->failed++;
	if (!d->failing)
		ft_gate_log(gate, "error", "the ledger does not make decisions durable: what was to be released %s it (log.on_failure)",
			    what[d->on_failure]);
	d->failing = true;
}

enum ft_decision_state ft_decision_look(struct ft_gate *gate, struct ft_hold *hold)
{
	struct ft_decisions *d = &gate->decisions;
	struct ft_decision *decision = &hold->decision;
	if (!decision->sequence)
		return FT_DECISION_DURABLE;
	/* The number first: a run that is the same afterwards was so when it was read. */
	uint64_t sequence = atomic_load_explicit(&d->page->sequence, memory_order_acquire);
	uint64_t run = atomic_load_explicit(&d->page->run, memory_order_acquire), waited = gate->now - decision->made;
	if (run == decision->run && sequence >= decision->sequence) {
		if (waited > d->longest)
			d->longest = waited;
		if (d->failing)
			ft_gate_log(gate, "info", "the ledger makes decisions durable again");
		d->failing = false;
		decision->sequence = 0;
		return FT_DECISION_DURABLE;
	}
	if (run != decision->run) {
		d->again++;
		send_decision(gate, hold);
	}
	if (gate->now + LOOK_NS < gate->holds.due)
		gate->holds.due = gate->now + LOOK_NS;
	if (waited < d->timeout && atomic_load_explicit(&d->page->working, memory_order_relaxed))
		return FT_DECISION_WAITS;
	fail(gate, hold);
	return d->on_failure == FT_ON_FAILURE_HOLD ? FT_DECISION_WAITS : FT_DECISION_FAILED;
}

void ft_decision_done(struct ft_gate *gate, const struct ft_hold *hold, const char *disposition)
{
	if (!hold->decision.told)
		return;
	json_t *record = json_pack("{s:s, s:I, s:s, s:s, s:I}", "op", "done", "hold", (json_int_t)hold->id, "disposition", disposition,
				   "disposition_reason", ft_reason_label(hold->outcome), "frames_done",
				   (json_int_t)(strcmp(disposition, "released") ? hold->frames : hold->released));
	if (record)
		gate->outlet.record(gate->outlet.context, record);
	json_decref(record);
}

json_t *ft_decisions_status(const struct ft_decisions *d)
{
	return json_pack("{s:b, s:I, s:I, s:I, s:I, s:b}", "before_release", d->before_release && d->page, "made", (json_int_t)d->made,
			 "again", (json_int_t)d->again, "failed", (json_int_t)d->failed, "longest_ns", (json_int_t)d->longest,
			 "failing", d->failing);
}
