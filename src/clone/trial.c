#include "clone/trial.h"

#include <errno.h>
#include <sodium.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

/* The machine keeps frames that the guest has no buffer for, but not without end: more are held back here. */
#define FRAMES_AHEAD 64u

struct trial {
	struct ft_witness *witness;
	struct ft_machine *m;
	const struct ft_trial_plan *plan;
	const struct ft_trial_begin *begin;
	const struct ft_trial_flow *flows; /* of the run: the first plan->flows of the request */
	struct ft_report report;
	uint8_t room[FT_EVENTS_MAX]; /* of the report's */
	struct ft_timer answers; /* when the outside speaks next */
	uint8_t key[crypto_stream_chacha20_KEYBYTES];
	uint64_t nonce;
	uint32_t flow;       /* whose frames are next; plan->flows: all were delivered */
	uint32_t flow_frames; /* delivered of it */
	uint32_t delivered;  /* frames of all flows */
	bool refused;        /* the guest's card did not take one: there is nothing to prove any more */
	size_t delivered_bytes;
	uint64_t deadline_ns; /* host CLOCK_MONOTONIC */
	uint64_t from_icount, from_ns, from_dropped, from_faults;
	uint64_t handled_icount, handled_ns, horizon_ns; /* horizon_ns: virtual time at which the run ends */
	const char *detail;
	struct ft_trial_result *result;
	struct ft_outside outside; /* the last one: see ft_trial_run */
};

static uint64_t monotonic_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- What is around the machine ------------------------------------------------------------------------------- */

static void arm_answers(struct trial *t)
{
	uint64_t due = ft_outside_due(&t->outside);
	if (due != t->answers.deadline_ns)
		ft_timer_arm(t->m, &t->answers, due);
}

static void net_tx(void *context, const void *frame, size_t length)
{
	struct trial *t = context;
	ft_outside_take(&t->outside, frame, length, ft_machine_vtime(t->m));
	arm_answers(t);
}

static void console(void *context, const char *bytes, size_t length)
{
	/* The observer's hook tells it; a clone's console is connected to nothing. */
}

static void answers_due(void *context)
{
	struct trial *t = context;
	const uint8_t *frame;
	size_t length;
	while ((frame = ft_outside_next(&t->outside, ft_machine_vtime(t->m), &length)))
		ft_machine_input(t->m, FT_INPUT_FRAME, 0, frame, length);
	arm_answers(t);
}

/* Entropy is a stream that the request's seed alone determines: repeatable, and unlike the live guest's. */
static void entropy(void *context, size_t wanted)
{
	struct trial *t = context;
	uint8_t bytes[4096], nonce[crypto_stream_chacha20_NONCEBYTES];
	_Static_assert(sizeof(nonce) == sizeof(t->nonce), "64-bit nonce");
	while (wanted) {
		size_t n = wanted < sizeof(bytes) ? wanted : sizeof(bytes);
		memcpy(nonce, &t->nonce, sizeof(nonce));
		t->nonce++;
		crypto_stream_chacha20(bytes, n, nonce, t->key);
		if (ft_machine_input(t->m, FT_INPUT_ENTROPY, 0, bytes, n))
			return;
		wanted -= n;
	}
}

/* Faults of this process: where the engine does not see what its CPU writes, each page that it touches first is one. */
static uint64_t page_faults(void)
{
	struct rusage use;
	return getrusage(RUSAGE_SELF, &use) ? 0 : (uint64_t)use.ru_minflt;
}

static uint64_t pages_written(const struct trial *t)
{
	return t->m->engine_ops->hosted ? page_faults() - t->from_faults : t->m->ram.written;
}

static bool is_trial(const struct trial *t)
{
	return t->plan->flows != 0;
}

static void begin(struct trial *t)
{
	struct ft_machine *m = t->m;
	ft_report_begin(&t->report, t->plan->events, is_trial(t) ? FT_ROLE_TRIAL : FT_ROLE_TWIN, t->begin->trial);
	ft_report_gather(&t->report, t->room);
	crypto_generichash(t->key, sizeof(t->key), (const uint8_t *)&t->begin->seed, sizeof(t->begin->seed),
			   NULL, 0);
	ft_outside_begin(&t->outside, t->plan->outside, t->flows, t->plan->flows);
	m->backend =
	    (struct ft_backend){.context = t, .net_tx = net_tx, .console = console, .entropy = entropy};
	m->journal = NULL;
	m->clock.mode = FT_CLOCK_FREE;
	ft_timer_register(m, &t->answers, answers_due, t);
	ft_witness_clone(t->witness, &t->report);
	t->witness->observer.held = t->flows;
	t->witness->observer.held_count = t->plan->flows;
	t->from_icount = m->icount;
	t->from_ns = ft_machine_vtime(m);
	t->from_dropped = m->frames_dropped;
	t->from_faults = m->engine_ops->hosted ? page_faults() : 0;
	uint64_t now = monotonic_ns();
	t->deadline_ns = now + t->begin->wall_ns;
	t->result->first_insn_ns = now - t->plan->began_ns;
}

/* ---- Handling ------------------------------------------------------------------------------------------------ */

/* Hands held frames over, flow by flow, in order, a bounded number ahead of what the guest has taken. */
static void deliver(struct trial *t)
{
	const struct ft_request *r = t->plan->request;
	while (t->flow < t->plan->flows && ft_machine_frames_waiting(t->m) < FRAMES_AHEAD) {
		const uint8_t *frame = r->bytes + t->delivered_bytes;
		size_t length = r->lengths[t->delivered++];
		ft_outside_deliver(&t->outside, t->flow, frame, length);
		t->refused |= ft_machine_input(t->m, FT_INPUT_FRAME, 0, frame, length) != 0;
		t->delivered_bytes += length;
		if (++t->flow_frames == t->flows[t->flow].frames) {
			ft_outside_delivered(&t->outside, t->flow++);
			t->flow_frames = 0;
		}
	}
}

/* Every frame was put into a buffer of the guest's: none refused, none waiting, none that no buffer was large enough for. */
static bool all_delivered(const struct trial *t)
{
	return t->flow == t->plan->flows && !t->refused && t->m->frames_dropped == t->from_dropped &&
	       ft_machine_frames_waiting(t->m) == 0;
}

/* The proof that the guest took the input. TCP: its own acknowledgement of the last held byte. UDP: every descriptor used,
 * and (at_rest) the guest then idle with no interrupt pending: it has run what it runs for received frames. Of no flow is
 * more taken than held: it took all of each when it took all of them. */
static uint64_t taken_bytes(const struct trial *t)
{
	uint64_t taken = 0;
	for (uint32_t i = 0; i < t->plan->flows; i++)
		taken += t->flows[i].protocol == 6 ? ft_outside_taken(&t->outside, i)
			 : all_delivered(t)        ? t->flows[i].bytes
						   : 0;
	return taken;
}

static uint64_t held_bytes(const struct trial *t)
{
	uint64_t held = 0;
	for (uint32_t i = 0; i < t->plan->flows; i++) {
		const struct ft_trial_flow *f = &t->flows[i];
		held += f->protocol == 6 ? f->next_sequence - f->first_sequence : f->bytes;
	}
	return held;
}

/* At rest (the guest is idle): has it taken everything, is no device or answer under way? */
static bool at_rest(const struct trial *t)
{
	return all_delivered(t) && taken_bytes(t) == held_bytes(t) && ft_machine_quiet(t->m) &&
	       ft_outside_due(&t->outside) == UINT64_MAX;
}

static uint64_t later(uint64_t from, uint64_t by)
{
	return from > UINT64_MAX - by ? UINT64_MAX : from + by;
}

static void handled(struct trial *t)
{
	struct ft_trial_result *r = t->result;
	r->handled = true;
	t->handled_icount = t->m->icount;
	t->handled_ns = ft_machine_vtime(t->m);
	t->horizon_ns = later(t->handled_ns, t->begin->horizon_ns);
	uint64_t values[] = {taken_bytes(t), held_bytes(t), t->delivered};
	ft_observe_tell(&t->witness->observer, FT_EVENT_TRIAL_HANDLED, values, 3, NULL, NULL);
}

static void tell_answered(struct trial *t)
{
	uint64_t until = t->result->handled ? later(t->handled_ns, t->begin->horizon_ns / FT_TRIAL_ANSWERS) : UINT64_MAX;
	t->result->answered = ft_outside_answered(&t->outside, until);
	uint64_t values[] = {t->plan->flows, t->result->answered};
	ft_observe_tell(&t->witness->observer, FT_EVENT_TRIAL_ANSWERED, values, 2, NULL, NULL);
}

/* ---- The run -------------------------------------------------------------------------------------------------- */

/* Instruction count at which the current part of the run is over. */
static uint64_t instruction_limit(const struct trial *t)
{
	const struct ft_trial_begin *b = t->begin;
	if (!is_trial(t))
		return later(t->from_icount, later(b->handling_instructions, b->horizon_instructions));
	return t->result->handled ? later(t->handled_icount, b->horizon_instructions)
				  : later(t->from_icount, b->handling_instructions);
}

static bool over_budget(const struct trial *t, enum ft_trial_end *end)
{
	if (pages_written(t) > t->begin->memory_pages)
		*end = FT_TRIAL_END_MEMORY;
	else if (t->m->icount >= instruction_limit(t))
		*end =
		    is_trial(t) && !t->result->handled ? FT_TRIAL_END_NEVER_IDLE : FT_TRIAL_END_INSTRUCTIONS;
	else if (monotonic_ns() >= t->deadline_ns)
		*end = FT_TRIAL_END_WALL;
	else if (t->report.dead)
		*end = FT_TRIAL_END_ERROR;
	else
		return false;
	return true;
}

static enum ft_trial_end reset_end(struct trial *t)
{
	bool triple = t->m->reset == FT_RESET_TRIPLE_FAULT;
	t->detail = triple ? "triple fault" : t->m->reset == FT_RESET_POWEROFF ? "power off" : "reboot";
	ft_observe_tell(&t->witness->observer, FT_EVENT_RESET, (uint64_t[]){t->m->reset}, 1, t->detail, NULL);
	return triple ? FT_TRIAL_END_TRIPLE_FAULT : FT_TRIAL_END_RESET;
}

static enum ft_trial_end run(struct trial *t)
{
	struct ft_machine *m = t->m;
	enum ft_trial_end end;
	uint64_t wake_ns = 0; /* not 0: idle is to be skipped up to there */
	uint64_t slice = m->engine_ops->hosted ? FT_TRIAL_SLICE_HOSTED : FT_TRIAL_SLICE;
	t->horizon_ns = is_trial(t) ? later(t->from_ns, t->begin->horizon_ns) : t->plan->until_vtime_ns;
	for (;;) {
		deliver(t);
		ft_report_flush(&t->report);
		if (over_budget(t, &end))
			return end;
		struct ft_run_limits limits = {.icount = later(m->icount, slice),
					       .vtime_ns = t->horizon_ns};
		bool handling = is_trial(t) && !t->result->handled;
		if (limits.icount > instruction_limit(t))
			limits.icount = instruction_limit(t);
		/* While handling, every idle moment is looked at; the step that skips it ends at the next timer. */
		limits.stop_when_idle = handling && !wake_ns;
		if (handling && wake_ns && wake_ns < limits.vtime_ns)
			limits.vtime_ns = wake_ns;
		bool at_horizon = limits.vtime_ns == t->horizon_ns;
		uint64_t wake = UINT64_MAX;
		enum ft_stop stop = ft_machine_run(m, &limits, &wake);
		wake_ns = 0;
		switch (stop) {
		case FT_STOP_COUNT:
		case FT_STOP_KICKED:
			break;
		case FT_STOP_VTIME:
			if (at_horizon)
				return FT_TRIAL_END_HORIZON;
			break;
		case FT_STOP_IDLE:
			if (handling && at_rest(t)) {
				handled(t);
				break;
			}
			/* Nothing will ever happen again: as good as the horizon. */
			if (wake == UINT64_MAX)
				return FT_TRIAL_END_HORIZON;
			wake_ns = later(wake, 1);
			break;
		case FT_STOP_RESET:
			return reset_end(t);
		case FT_STOP_ERROR:
			t->detail = m->error.text;
			return FT_TRIAL_END_ERROR;
		}
	}
}

/* Ends that come in the middle of the guest's work. */
static bool is_cut(enum ft_trial_end end)
{
	return end != FT_TRIAL_END_HORIZON && end != FT_TRIAL_END_RESET && end != FT_TRIAL_END_TRIPLE_FAULT;
}

static void finish(struct trial *t, enum ft_trial_end end)
{
	struct ft_machine *m = t->m;
	struct ft_trial_result *r = t->result;
	ft_observe_end(&t->witness->observer, is_cut(end));
	t->witness->observer.held_count = 0;
	r->end = end;
	r->instructions = m->icount - t->from_icount;
	r->pages_written = pages_written(t);
	r->vtime_ns = ft_machine_vtime(m);
	r->taken_bytes = taken_bytes(t);
	r->frames_taken = t->delivered;
	/* What answers the outside still had is not the machine's state, the timer for them would be a stale pointer. */
	ft_timer_disarm(m, &t->answers);
	r->state_hash = ft_machine_hash_written(m);
	if (is_trial(t))
		tell_answered(t);
	uint64_t values[] = {(uint64_t)end,    r->state_hash, r->instructions,
			     r->pages_written, r->handled,    r->first_insn_ns};
	ft_observe_tell(&t->witness->observer, FT_EVENT_TRIAL_END, values, 6, t->detail, NULL);
}

int ft_trial_run(struct ft_witness *witness, const struct ft_trial_plan *plan, struct ft_trial_result *result)
{
	struct trial *t = malloc(sizeof(*t));
	if (!t)
		return -ENOMEM;
	/* Not the room for answers, all of which would become memory here. */
	memset(t, 0, offsetof(struct trial, outside.pending));
	memset(result, 0, sizeof(*result));
	t->witness = witness;
	t->m = witness->m;
	t->plan = plan;
	t->begin = &plan->request->begin;
	t->flows = plan->request->flows;
	t->result = result;
	begin(t);
	finish(t, run(t));
	/* The machine has served: nothing of it may call back here. */
	t->m->hooks.mask = 0;
	t->m->backend = (struct ft_backend){0};
	free(t);
	return 0;
}
