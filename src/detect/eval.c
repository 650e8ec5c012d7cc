#include "detect/eval.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* A remembered moment: threshold (time), set (time, value), sequence (start, value, steps already seen). */
struct moment {
	uint64_t time_ns, value;
	unsigned step;
};

struct state {
	struct moment *moments; /* oldest first, except set (any order) */
	size_t count, room;
	bool open; /* absence: `during` holds since open_ns */
	uint64_t open_ns;
};

struct ft_eval {
	const struct ft_rules *rules;
	const struct ft_profile *profile;
	struct state *states; /* one a rule */
	uint64_t now_ns;
};

struct ft_eval *ft_eval_new(const struct ft_rules *rules, const struct ft_profile *profile)
{
	struct ft_eval *eval = calloc(1, sizeof(*eval));
	if (!eval)
		return NULL;
	eval->rules = rules;
	eval->profile = profile;
	eval->states = calloc(rules->count ? rules->count : 1, sizeof(*eval->states));
	if (!eval->states) {
		free(eval);
		return NULL;
	}
	return eval;
}

void ft_eval_free(struct ft_eval *eval)
{
	if (!eval)
		return;
	for (size_t i = 0; i < eval->rules->count; i++)
		free(eval->states[i].moments);
	free(eval->states);
	free(eval);
}

static void drop_moment(struct state *state, size_t index)
{
	state->count--;
	memmove(&state->moments[index], &state->moments[index + 1],
		(state->count - index) * sizeof(*state->moments));
}

static int add_moment(struct state *state, struct moment moment)
{
	if (state->count == FT_RULES_COUNT)
		drop_moment(state, 0);
	if (state->count == state->room) {
		size_t room = state->room ? 2 * state->room : 16;
		struct moment *more = realloc(state->moments, room * sizeof(*more));
		if (!more) {
			state->count = 0;
			return -ENOMEM;
		}
		state->moments = more;
		state->room = room;
	}
	state->moments[state->count++] = moment;
	return 0;
}

/* Forgets what is older than the rule's window. */
static void expire(const struct ft_rule *rule, struct state *state, uint64_t now_ns)
{
	if (!rule->window_ns)
		return;
	size_t kept = 0;
	for (size_t i = 0; i < state->count; i++)
		if (now_ns - state->moments[i].time_ns <= rule->window_ns)
			state->moments[kept++] = state->moments[i];
	state->count = kept;
}

static uint64_t oldest(const struct state *state)
{
	uint64_t time_ns = UINT64_MAX;
	for (size_t i = 0; i < state->count; i++)
		if (state->moments[i].time_ns < time_ns)
			time_ns = state->moments[i].time_ns;
	return time_ns;
}

/* Index of the first part from `from` on that the event fits, or -1. */
static int fitting_part(const struct ft_eval *eval, const struct ft_rule *rule, unsigned from,
			const struct ft_event *event, const char *const *strings)
{
	for (unsigned i = from; i < rule->count; i++)
		if (ft_match_test(rule->parts[i], event, strings, eval->profile))
			return (int)i;
	return -1;
}

/* The steps: 1 fired (with *since_ns), 0 not, -ENOMEM. */
static int step_counting(const struct ft_eval *eval, const struct ft_rule *rule, struct state *state,
			 const struct ft_event *event, const char *const *strings, uint64_t *since_ns)
{
	int part = fitting_part(eval, rule, 0, event, strings);
	if (part < 0)
		return 0;
	expire(rule, state, eval->now_ns);
	struct moment moment = {.time_ns = eval->now_ns};
	if (rule->kind == FT_RULE_SET) {
		moment.value = ft_match_value(event, strings, rule->fields[part]);
		for (size_t i = 0; i < state->count; i++)
			if (state->moments[i].value == moment.value) {
				state->moments[i].time_ns = eval->now_ns;
				return 0;
			}
	}
	if (add_moment(state, moment))
		return -ENOMEM;
	if (state->count < rule->least)
		return 0;
	*since_ns = oldest(state);
	state->count = 0;
	return 1;
}

static int step_sequence(const struct ft_eval *eval, const struct ft_rule *rule, struct state *state,
			 const struct ft_event *event, const char *const *strings, uint64_t *since_ns)
{
	expire(rule, state, eval->now_ns);
	for (size_t i = 0; i < state->count; i++) {
		struct moment *m = &state->moments[i];
		if (!ft_match_test(rule->parts[m->step], event, strings, eval->profile))
			continue;
		int field = rule->fields[m->step];
		if (field >= 0 && ft_match_value(event, strings, field) != m->value)
			continue;
		if (++m->step == rule->count) {
			*since_ns = m->time_ns;
			state->count = 0;
			return 1;
		}
	}
	if (!ft_match_test(rule->parts[0], event, strings, eval->profile))
		return 0;
	struct moment moment = {.time_ns = eval->now_ns, .step = 1};
	if (rule->fields[0] >= 0)
		moment.value = ft_match_value(event, strings, rule->fields[0]);
	/* A later start can complete whatever an earlier one could: one beginning a value is enough. */
	for (size_t i = 0; i < state->count; i++)
		if (state->moments[i].step == 1 && state->moments[i].value == moment.value) {
			state->moments[i].time_ns = eval->now_ns;
			return 0;
		}
	return add_moment(state, moment);
}

static int step_absence(const struct ft_eval *eval, const struct ft_rule *rule, struct state *state,
			const struct ft_event *event, const char *const *strings, uint64_t *since_ns)
{
	if (fitting_part(eval, rule, 1, event, strings) > 0) {
		state->open = false;
		return 0;
	}
	if (event->type != ft_match_event(rule->parts[0]))
		return 0;
	if (!ft_match_test(rule->parts[0], event, strings, eval->profile)) {
		state->open = false;
		return 0;
	}
	if (!state->open) {
		state->open = true;
		state->open_ns = eval->now_ns;
	}
	if (eval->now_ns - state->open_ns < rule->window_ns)
		return 0;
	*since_ns = state->open_ns;
	state->open = false;
	return 1;
}

int ft_eval_event(struct ft_eval *eval, const struct ft_event *event, const char *const *strings,
		  ft_eval_found *found, void *context)
{
	int status = 0;
	if (event->vtime_ns > eval->now_ns)
		eval->now_ns = event->vtime_ns;
	for (size_t i = 0; i < eval->rules->count; i++) {
		const struct ft_rule *rule = &eval->rules->rules[i];
		struct state *state = &eval->states[i];
		uint64_t since_ns = eval->now_ns;
		int fired = 0;
		switch (rule->kind) {
		case FT_RULE_ANY:
			fired = fitting_part(eval, rule, 0, event, strings) >= 0;
			break;
		case FT_RULE_THRESHOLD:
		case FT_RULE_SET:
			fired = step_counting(eval, rule, state, event, strings, &since_ns);
			break;
		case FT_RULE_SEQUENCE:
			fired = step_sequence(eval, rule, state, event, strings, &since_ns);
			break;
		case FT_RULE_ABSENCE:
			fired = step_absence(eval, rule, state, event, strings, &since_ns);
			break;
		}
		if (fired < 0)
			status = fired;
		if (fired > 0)
			found(context, rule, event, strings, since_ns);
	}
	return status;
}

enum ft_relevance ft_eval_relevance(const struct ft_rules *rules, const struct ft_profile *profile,
				    const struct ft_event *event, const char *const *strings)
{
	enum ft_relevance most = FT_RELEVANCE_NONE;
	for (size_t i = 0; i < rules->count; i++) {
		const struct ft_rule *rule = &rules->rules[i];
		/* What ends a stretch of `during` counts too, and that is any event of its type. */
		bool counts = rule->kind == FT_RULE_ABSENCE && ft_match_event(rule->parts[0]) == event->type;
		for (unsigned k = 0; k < rule->count && !counts; k++)
			counts = ft_match_test(rule->parts[k], event, strings, profile);
		if (counts && rule->kind == FT_RULE_ANY)
			return FT_RELEVANCE_DECIDES;
		if (counts)
			most = FT_RELEVANCE_PART;
	}
	return most;
}
