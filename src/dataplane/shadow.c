#include "dataplane/shadow.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/units.h"
#include "dataplane/hold-t.h"

void ft_shadow_begin(struct ft_shadow *shadow, uint64_t now, uint64_t wall)
{
	*shadow = (struct ft_shadow){.since = now, .since_wall = wall ? wall : 1};
}

void ft_shadow_end(struct ft_shadow *shadow, uint64_t now, uint64_t wall)
{
	shadow->until = now;
	shadow->until_wall = wall;
}

/* ---- delays ---- */

/* Eight classes an octave, each named by its upper end. */
static unsigned class_of(uint64_t ns)
{
	if (ns < 8)
		return (unsigned)ns;
	unsigned octave = 63 - (unsigned)__builtin_clzll(ns);
	return (octave - 2) * 8 + (unsigned)(ns >> (octave - 3) & 7);
}

static uint64_t end_of(unsigned class)
{
	if (class < 8)
		return class;
	unsigned octave = class / 8 + 2;
	return ((uint64_t)(class % 8 + 9) << (octave - 3)) - 1;
}

uint64_t ft_shadow_delay(const struct ft_shadow *shadow, unsigned part)
{
	uint64_t all = 0, below = 0;
	for (unsigned i = 0; i < FT_SHADOW_DELAYS; i++)
		all += shadow->delays[i];
	for (unsigned i = 0; i < FT_SHADOW_DELAYS && all; i++) {
		below += shadow->delays[i];
		if (below * 1000 >= all * part)
			return end_of(i) < shadow->longest ? end_of(i) : shadow->longest;
	}
	return 0;
}

/* ---- what is counted ---- */

static struct ft_shadow_rule *rule_of(struct ft_shadow *shadow, const struct ft_trigger *trigger)
{
	uint32_t sid = trigger->pattern ? trigger->pattern->sid : 0;
	for (unsigned i = 0; i < shadow->rule_count; i++)
		if (shadow->rules[i].sid == sid && shadow->rules[i].reason == trigger->reason)
			return &shadow->rules[i];
	if (shadow->rule_count == FT_SHADOW_RULES)
		return NULL;
	struct ft_shadow_rule *rule = &shadow->rules[shadow->rule_count++];
	*rule = (struct ft_shadow_rule){.sid = sid, .reason = trigger->reason};
	snprintf(rule->name, sizeof(rule->name), "%s",
		 trigger->pattern ? trigger->pattern->name : ft_reason_label(trigger->reason));
	return rule;
}

static bool is_drop(enum ft_reason would)
{
	enum ft_reason_action action = ft_reason_action(would);
	return action == FT_REASON_ACTION_DROP || action == FT_REASON_ACTION_TEMPFAIL;
}

void ft_shadow_decided(struct ft_shadow *shadow, const struct ft_hold *hold, enum ft_reason would,
		       uint64_t delay_ns)
{
	struct ft_shadow_rule *rule = rule_of(shadow, &hold->trigger);
	bool dropped = is_drop(would);
	shadow->holds++;
	shadow->frames += hold->frames;
	shadow->bytes += hold->bytes;
	shadow->outcomes[would]++;
	*(rule ? &rule->holds : &shadow->other_holds) += 1;
	*(rule ? &rule->dropped : &shadow->other_dropped) += dropped;
	unsigned class = class_of(delay_ns);
	shadow->delays[class < FT_SHADOW_DELAYS ? class : FT_SHADOW_DELAYS - 1]++;
	if (delay_ns > shadow->longest)
		shadow->longest = delay_ns;
}

/* ---- the report ---- */

static uint64_t dropped_of(const struct ft_shadow *shadow)
{
	uint64_t dropped = 0;
	for (int i = 0; i < FT_REASON_COUNT; i++)
		dropped += is_drop((enum ft_reason)i) ? shadow->outcomes[i] : 0;
	return dropped;
}

static json_t *rules_json(const struct ft_shadow *shadow)
{
	json_t *rules = json_array();
	for (unsigned i = 0; i < shadow->rule_count; i++) {
		const struct ft_shadow_rule *rule = &shadow->rules[i];
		json_t *one = json_pack("{s:s, s:s, s:I, s:I}", "name", rule->name, "reason",
					ft_reason_label(rule->reason), "held", (json_int_t)rule->holds,
					"dropped", (json_int_t)rule->dropped);
		if (rule->sid)
			json_object_set_new(one, "sid", json_integer(rule->sid));
		json_array_append_new(rules, one);
	}
	if (shadow->other_holds)
		json_array_append_new(rules, json_pack("{s:s, s:I, s:I}", "name", "others", "held",
						       (json_int_t)shadow->other_holds, "dropped",
						       (json_int_t)shadow->other_dropped));
	return rules;
}

json_t *ft_shadow_report(const struct ft_shadow *shadow, const char *service, uint64_t now, uint64_t wall)
{
	uint64_t until = shadow->until ? shadow->until : now;
	json_t *outcomes = json_object();
	for (int i = 0; i < FT_REASON_COUNT; i++)
		if (shadow->outcomes[i])
			json_object_set_new(outcomes, ft_reason_label((enum ft_reason)i),
					    json_integer((json_int_t)shadow->outcomes[i]));
	json_t *delay = json_pack(
	    "{s:I, s:I, s:I, s:I, s:I}", "holds", (json_int_t)shadow->holds, "p50",
	    (json_int_t)ft_shadow_delay(shadow, 500), "p90", (json_int_t)ft_shadow_delay(shadow, 900), "p99",
	    (json_int_t)ft_shadow_delay(shadow, 990), "longest", (json_int_t)shadow->longest);
	return json_pack(
	    "{s:s, s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:o, s:o}", "service", service,
	    "ended", shadow->until != 0, "since_ns", (json_int_t)shadow->since_wall, "until_ns",
	    (json_int_t)(shadow->until ? shadow->until_wall : wall), "lasted_ns",
	    (json_int_t)(until - shadow->since), "held", (json_int_t)shadow->holds, "held_frames",
	    (json_int_t)shadow->frames, "held_bytes", (json_int_t)shadow->bytes, "dropped",
	    (json_int_t)dropped_of(shadow), "dropped_behind", (json_int_t)shadow->behind, "untried",
	    (json_int_t)shadow->untried, "clone_ns", (json_int_t)shadow->clone_ns, "outcomes", outcomes,
	    "delay_ns", delay, "rules", rules_json(shadow));
}

void ft_shadow_sentence(const struct ft_shadow *shadow, const char *service, uint64_t now, char *text,
			size_t size)
{
	char lasted[FT_UNITS_TEXT], p50[FT_UNITS_TEXT], p99[FT_UNITS_TEXT], clones[FT_UNITS_TEXT];
	uint64_t until = shadow->until ? shadow->until : now;
	snprintf(text, size,
		 "service %s in shadow mode for %s: %" PRIu64 " holds (%" PRIu64 " frames), %" PRIu64
		 " of them dropped, delays of %s (p50) and %s (p99), %" PRIu64
		 " not tried for want of a clone, %s of clones' time",
		 service, ft_units_round_duration(until - shadow->since, lasted), shadow->holds,
		 shadow->frames, dropped_of(shadow),
		 ft_units_round_duration(ft_shadow_delay(shadow, 500), p50),
		 ft_units_round_duration(ft_shadow_delay(shadow, 990), p99), shadow->untried,
		 ft_units_round_duration(shadow->clone_ns, clones));
}
