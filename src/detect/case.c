#include "detect/case.h"

#include <errno.h>
#include <inttypes.h>
#include <nettle/sha2.h> /* with the processor's instructions: a quarter of libsodium's time */
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "detect/eval.h"
#include "detect/story.h"
#include "detect/trace.h"

/* The twin runs on this much longer than the trial: the input may have warmed caches, so that routine work which the trial
 * shows just before its end comes a little later without it. What only the twin shows does no harm. */
#define TWIN_MORE_NS 1000000000ull

/* JSON bytes of the evidence list: the whole record has to fit FT_CHANNEL_MESSAGE with the rest of the hold. */
#define STORY_BYTES (72u << 10)

struct run {
	struct ft_trace trace;
	bool ended;
	unsigned end; /* enum ft_trial_end */
	bool handled, proved; /* proved: TRIAL_HANDLED came, with what was taken */
	uint64_t taken_bytes, held_bytes;
	uint64_t state_hash, instructions, pages_written, vtime_ns;
	uint64_t began_ns, ended_ns; /* host's clock */
	char detail[128];
	struct sha256_ctx digest; /* of all its events */
	uint64_t events;
};

struct ft_case {
	uint64_t number; /* in its events */
	unsigned owners;
	const struct ft_rules *rules;
	const struct ft_profile *profile;
	struct run trial, twin;
	uint64_t pause_ns, fork_vtime_ns;
	uint64_t now_ns; /* host's clock, as last told */
	bool forked;     /* SEED_READY was seen */
	struct ft_case_seed seed;
	bool twin_asked;
	bool judged;
	struct ft_judgement judgement;
	json_t *evidence; /* of the record, told once for all who share it */
	uint64_t dropped;
};

enum outcome {
#define X(name, sid, verdict, severity, label, text) OUTCOME_##name,
	FT_OUTCOMES(X)
#undef X
};

static const struct ft_judgement outcomes[] = {
#define X(name_, sid_, verdict_, severity_, label_, text_)                                                   \
	{.verdict = FT_VERDICT_##verdict_,                                                                   \
	 .sid = sid_,                                                                                        \
	 .rev = 1,                                                                                           \
	 .severity = severity_,                                                                              \
	 .name = label_,                                                                                     \
	 .text = text_},
    FT_OUTCOMES(X)
#undef X
};

/* What an end other than the horizon comes to when no rule says more. */
static const enum outcome end_outcomes[FT_TRIAL_END_COUNT] = {
    [FT_TRIAL_END_WALL] = OUTCOME_WALL,     [FT_TRIAL_END_INSTRUCTIONS] = OUTCOME_INSTRUCTIONS,
    [FT_TRIAL_END_MEMORY] = OUTCOME_MEMORY, [FT_TRIAL_END_NEVER_IDLE] = OUTCOME_NEVER_IDLE,
    [FT_TRIAL_END_RESET] = OUTCOME_RESET,   [FT_TRIAL_END_TRIPLE_FAULT] = OUTCOME_TRIPLE_FAULT,
    [FT_TRIAL_END_KILLED] = OUTCOME_KILLED, [FT_TRIAL_END_ERROR] = OUTCOME_ERROR,
};

struct ft_case *ft_case_new(uint64_t trial, const struct ft_rules *rules, const struct ft_profile *profile)
{
	struct ft_case *c = calloc(1, sizeof(*c));
	if (!c)
		return NULL;
	c->number = trial;
	c->owners = 1;
	c->rules = rules;
	c->profile = profile;
	sha256_init(&c->trial.digest);
	sha256_init(&c->twin.digest);
	return c;
}

struct ft_case *ft_case_again(const struct ft_case *c)
{
	struct ft_case *again = ft_case_new(c->number, c->rules, c->profile);
	if (!again)
		return NULL;
	again->forked = c->forked;
	again->pause_ns = c->pause_ns;
	again->fork_vtime_ns = c->fork_vtime_ns;
	again->seed = c->seed;
	again->now_ns = again->trial.began_ns = c->now_ns;
	return again;
}

struct ft_case *ft_case_share(struct ft_case *c)
{
	c->owners++;
	return c;
}

void ft_case_free(struct ft_case *c)
{
	if (!c || --c->owners)
		return;
	ft_trace_free(&c->trial.trace);
	ft_trace_free(&c->twin.trace);
	json_decref(c->evidence);
	free(c);
}

/* The run that is under way, or NULL. */
static struct run *running(struct ft_case *c)
{
	if (!c->trial.ended)
		return &c->trial;
	return c->twin_asked && !c->twin.ended ? &c->twin : NULL;
}

static void add_seed_event(struct ft_case *c, const struct ft_event *event, const char *const *strings)
{
	if (event->type == FT_EVENT_SEED_READY && !c->forked) {
		c->forked = true;
		c->trial.began_ns = c->now_ns;
		c->pause_ns = event->a[0];
		c->fork_vtime_ns = event->vtime_ns;
		if (event->a[1] <= INT64_MAX && event->a[2] <= UINT32_MAX && event->a[3] <= INT64_MAX)
			c->seed = (struct ft_case_seed){.icount = event->a[1], .run = (uint32_t)event->a[2], .number = event->a[3]};
	} else if (event->type == FT_EVENT_SEED_GONE) {
		ft_case_abandon(c, FT_TRIAL_END_ERROR, strings[0][0] ? strings[0] : "the seed ended early");
	} else if (event->type == FT_EVENT_LOST) {
		ft_trace_lose(&c->trial.trace, event);
	}
}

/* What a run shows, whoever watches it: all of its events but the number of the request and how fast the host was (hold.md). */
static void note_event(struct run *run, const struct ft_event *event, const char *const *strings)
{
	struct {
		uint64_t type, icount, vtime_ns, cr3, pid, a[FT_EVENT_ARGS];
		char process[sizeof(event->process)];
	} seen = {.type = event->type, .icount = event->icount, .vtime_ns = event->vtime_ns, .cr3 = event->cr3, .pid = (uint64_t)event->pid};
	memcpy(seen.a, event->a, sizeof(seen.a));
	memcpy(seen.process, event->process, sizeof(seen.process));
	if (event->type == FT_EVENT_TRIAL_END)
		seen.a[5] = 0; /* first_insn_ns */
	sha256_update(&run->digest, sizeof(seen), (const uint8_t *)&seen);
	for (unsigned i = 0; i < event->strings; i++)
		sha256_update(&run->digest, strlen(strings[i]) + 1, (const uint8_t *)strings[i]);
	run->events++;
}

int ft_case_add(struct ft_case *c, const struct ft_event *event, const char *const *strings)
{
	if (event->trial != c->number || c->judged)
		return -EPROTO;
	if (event->role == FT_ROLE_SEED) {
		add_seed_event(c, event, strings);
		return 0;
	}
	struct run *run = event->role == FT_ROLE_TRIAL  ? &c->trial
			  : event->role == FT_ROLE_TWIN ? &c->twin
							: NULL;
	if (!run || run->ended || (run == &c->twin && !c->twin_asked))
		return -EPROTO;
	if (event->vtime_ns > run->vtime_ns)
		run->vtime_ns = event->vtime_ns;
	note_event(run, event, strings);
	/* How far a group was answered is no evidence: whoever asked for the group looks at it. */
	if (event->type == FT_EVENT_TRIAL_ANSWERED)
		return 0;
	if (event->type == FT_EVENT_TRIAL_HANDLED) {
		run->proved = true;
		run->taken_bytes = event->a[0];
		run->held_bytes = event->a[1];
	}
	if (event->type == FT_EVENT_TRIAL_END) {
		run->ended = true;
		run->ended_ns = c->now_ns;
		run->end = event->a[0] < FT_TRIAL_END_COUNT ? (unsigned)event->a[0] : FT_TRIAL_END_ERROR;
		run->state_hash = event->a[1];
		run->instructions = event->a[2];
		run->pages_written = event->a[3];
		run->handled = event->a[4] == 1 && run->proved;
		ft_story_printable(strings[0], run->detail, sizeof(run->detail));
	}
	ft_trace_add(&run->trace, event, strings, ft_eval_relevance(c->rules, c->profile, event, strings));
	return 0;
}

void ft_case_abandon(struct ft_case *c, enum ft_trial_end end, const char *detail)
{
	struct run *run = running(c);
	if (!run || c->judged)
		return;
	/* As an event, so that rules on the end of a trial see it as any other. */
	struct ft_event event = {
	    .type = FT_EVENT_TRIAL_END,
	    .role = run == &c->trial ? FT_ROLE_TRIAL : FT_ROLE_TWIN,
	    .trial = c->number,
	    .vtime_ns = run->vtime_ns,
	    .pid = -1,
	    .strings = 1,
	    .a = {end},
	};
	const char *strings[FT_EVENT_STRINGS] = {detail ? detail : "", ""};
	ft_case_add(c, &event, strings);
}

static void consider(void *context, const struct ft_rule *rule, const struct ft_event *event,
		     const char *const *strings, uint64_t since_ns)
{
	const struct ft_rule **best = context;
	if (!*best || rule->verdict > (*best)->verdict ||
	    (rule->verdict == (*best)->verdict && rule->severity < (*best)->severity))
		*best = rule;
}

/* Runs the rules over what the trial kept and the twin did not take away. *rule: the worst that fires, of equals the
 * first, or NULL. */
static int evaluate(const struct ft_case *c, const struct ft_rule **rule)
{
	*rule = NULL;
	struct ft_eval *eval = ft_eval_new(c->rules, c->profile);
	if (!eval)
		return -ENOMEM;
	int status = 0;
	for (size_t i = 0; i < c->trial.trace.kept.count && !status; i++) {
		const struct ft_trace_event *e = &c->trial.trace.kept.events[i];
		if (e->count)
			status = ft_eval_event(eval, &e->event, (const char *const *)e->strings, consider,
					       &rule[0]);
	}
	ft_eval_free(eval);
	return status;
}

/* Did the twin run as far as the trial did? */
static bool twin_compares(const struct ft_case *c)
{
	return c->twin.ended && !c->twin.trace.lost && !c->twin.trace.overflow &&
	       (c->twin.end == FT_TRIAL_END_HORIZON || c->twin.end == c->trial.end);
}

static void judge(struct ft_case *c)
{
	const struct ft_rule *rule;
	enum outcome outcome = OUTCOME_CLEAN;
	int status = evaluate(c, &rule);
	if (rule && twin_compares(c)) {
		c->judgement = (struct ft_judgement){.verdict = rule->verdict,
						     .sid = rule->sid,
						     .rev = rule->rev,
						     .severity = rule->severity,
						     .name = rule->name,
						     .text = rule->text};
		return;
	}
	const struct run *trial = &c->trial;
	if (rule)
		outcome = OUTCOME_NO_TWIN;
	else if (!trial->ended)
		outcome = OUTCOME_ERROR;
	else if (trial->end != FT_TRIAL_END_HORIZON)
		outcome = end_outcomes[trial->end];
	else if (!trial->handled || trial->taken_bytes < trial->held_bytes)
		outcome = OUTCOME_NOT_TAKEN;
	else if (trial->trace.lost || status)
		outcome = OUTCOME_LOST;
	else if (trial->trace.overflow)
		outcome = OUTCOME_OVERFLOW;
	c->judgement = outcomes[outcome];
}

enum ft_case_step ft_case_step(struct ft_case *c)
{
	if (c->judged)
		return FT_CASE_JUDGED;
	if (running(c))
		return FT_CASE_RUNNING;
	if (!c->twin_asked) {
		const struct ft_rule *rule;
		evaluate(c, &rule);
		/* Only what a rule objects to can be routine; a run that proved nothing proves nothing either way. */
		if (rule) {
			c->twin_asked = true;
			c->twin.began_ns = c->now_ns;
			return FT_CASE_TWIN;
		}
	} else {
		ft_trace_subtract(&c->trial.trace, &c->twin.trace);
	}
	judge(c);
	c->judged = true;
	return FT_CASE_JUDGED;
}

void ft_case_clock(struct ft_case *c, uint64_t now_ns)
{
	c->now_ns = now_ns;
}

uint64_t ft_case_until(const struct ft_case *c)
{
	uint64_t end = c->trial.vtime_ns;
	return end > UINT64_MAX - TWIN_MORE_NS ? UINT64_MAX : end + TWIN_MORE_NS;
}

bool ft_case_seed(const struct ft_case *c, struct ft_case_seed *seed)
{
	*seed = c->seed;
	return c->forked;
}

enum ft_trial_end ft_case_end(const struct ft_case *c)
{
	const struct run *run = c->twin_asked && c->twin.ended ? &c->twin : &c->trial;
	return run->ended ? (enum ft_trial_end)run->end : FT_TRIAL_END_ERROR;
}

void ft_case_judge(struct ft_case *c, struct ft_judgement *judgement)
{
	if (!c->judged)
		judge(c);
	*judgement = c->judgement;
}

/* The record. */

static int add_run(const struct ft_case *c, json_t *trials, const struct run *run, const char *role)
{
	uint64_t ran = run->vtime_ns > c->fork_vtime_ns && c->forked ? run->vtime_ns - c->fork_vtime_ns : 0;
	struct sha256_ctx digest = run->digest;
	uint8_t sum[SHA256_DIGEST_SIZE];
	char hash[24], hex[2 * sizeof(sum) + 1];
	sha256_digest(&digest, sizeof(sum), sum);
	sodium_bin2hex(hex, sizeof(hex), sum, sizeof(sum));
	snprintf(hash, sizeof(hash), "0x%016" PRIx64, run->state_hash);
	json_t *entry = json_pack("{s:s, s:s, s:b, s:I, s:I, s:s, s:I, s:I, s:I, s:I, s:I, s:s}", "role", role, "end",
				  run->ended ? ft_trial_end_label(run->end) : "running", "handled",
				  run->handled, "taken_bytes", (json_int_t)run->taken_bytes, "held_bytes",
				  (json_int_t)run->held_bytes, "state_hash", hash, "instructions",
				  (json_int_t)run->instructions, "virtual_ns", (json_int_t)ran, "pause_ns",
				  (json_int_t)c->pause_ns, "pages_written", (json_int_t)run->pages_written, "events",
				  (json_int_t)run->events, "sha256", hex);
	if (entry && run->began_ns && run->ended_ns >= run->began_ns)
		json_object_set_new(entry, "wall_ns",
				    json_integer((json_int_t)(run->ended_ns - run->began_ns)));
	if (entry && run->detail[0])
		json_object_set_new(entry, "detail", json_string(run->detail));
	return json_array_append_new(trials, entry);
}

/* Marks which story entries get told: what a rule looked at comes before the rest. */
static void choose(const struct ft_trace *trace, bool *told)
{
	size_t chosen = 0;
	for (unsigned pass = 0; pass < 2; pass++)
		for (size_t i = 0; i < trace->story.count && chosen < FT_CASE_STORY; i++)
			if (trace->story.events[i].relevant == (pass == 0)) {
				told[i] = true;
				chosen++;
			}
}

static json_t *tell(const struct ft_case *c, uint64_t *dropped)
{
	const struct ft_trace *trace = &c->trial.trace;
	bool told[FT_TRACE_STORY] = {false};
	size_t left = STORY_BYTES;
	choose(trace, told);
	*dropped = trace->dropped;
	json_t *story = json_array();
	for (size_t i = 0; story && i < trace->story.count; i++) {
		const struct ft_trace_event *e = &trace->story.events[i];
		json_t *entry = told[i] ? ft_story_entry(&e->event, (const char *const *)e->strings) : NULL;
		size_t size = entry ? json_dumpb(entry, NULL, 0, JSON_COMPACT) + 64 : 0;
		if (!entry || size > left) {
			json_decref(entry);
			*dropped += e->count;
			continue;
		}
		left -= size;
		uint64_t since = e->event.vtime_ns > c->fork_vtime_ns && c->forked
				     ? e->event.vtime_ns - c->fork_vtime_ns
				     : 0;
		json_object_set_new(entry, "t_ns", json_integer((json_int_t)since));
		json_object_set_new(entry, "twin",
				    json_boolean(ft_trace_told(&c->twin.trace, e->key) >= e->count));
		if (e->count > 1)
			json_object_set_new(entry, "count", json_integer((json_int_t)e->count));
		json_array_append_new(story, entry);
	}
	return story;
}

int ft_case_record(struct ft_case *c, json_t *record)
{
	struct ft_judgement judgement;
	ft_case_judge(c, &judgement);
	if (!c->evidence || !c->judged) {
		json_decref(c->evidence);
		c->evidence = tell(c, &c->dropped);
	}
	json_t *trials = json_array(), *story = json_incref(c->evidence);
	int bad = !trials || !story;
	if (!bad)
		bad |= add_run(c, trials, &c->trial, ft_event_role_name(FT_ROLE_TRIAL));
	if (!bad && c->twin_asked)
		bad |= add_run(c, trials, &c->twin, ft_event_role_name(FT_ROLE_TWIN));
	if (c->forked)
		bad |= json_object_set_new(record, "seed", json_pack("{s:I, s:I, s:I}", "run", (json_int_t)c->seed.run, "number",
								      (json_int_t)c->seed.number, "instructions", (json_int_t)c->seed.icount));
	bad |= json_object_set_new(record, "trials", trials);
	bad |= json_object_set_new(record, "evidence", story);
	bad |= json_object_set_new(record, "evidence_dropped", json_integer((json_int_t)(c->dropped + c->trial.trace.lost)));
	bad |= json_object_set_new(record, "verdict", json_string(ft_verdict_name(judgement.verdict)));
	bad |= json_object_set_new(record, "rule", json_string(judgement.name));
	bad |= json_object_set_new(record, "rule_sid", json_integer(judgement.sid));
	bad |= json_object_set_new(record, "rule_rev", json_integer(judgement.rev));
	bad |= json_object_set_new(record, "rule_text", json_string(judgement.text));
	bad |= json_object_set_new(record, "severity", json_integer(judgement.severity));
	return bad ? -ENOMEM : 0;
}
