#include "gateway/canaries.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/printable.h"

#define SLACK_NS 10000000000ull

static uint64_t whole(const struct ft_config *config, const char *path)
{
	json_int_t value = json_integer_value(ft_config_get(config, path));
	return value > 0 ? (uint64_t)value : 0;
}

static bool is(const json_t *map, const char *key, const char *word)
{
	const char *text = json_string_value(json_object_get(map, key));
	return text && !strcmp(text, word);
}

int ft_canaries_open(struct ft_canaries *canaries, const struct ft_config *config, uint64_t now)
{
	json_t *services = (json_t *)ft_config_get(config, "services"), *service;
	const char *name;
	*canaries = (struct ft_canaries){.every_ns = whole(config, "canary.every")};
	if (!canaries->every_ns)
		return 0;
	/* One test: up to clone.wall for the guest's answer, as long again for the trial. */
	canaries->recent_ns = 2 * (canaries->every_ns + 2 * whole(config, "clone.wall")) + SLACK_NS;
	canaries->list = calloc(json_object_size(services) + 1, sizeof(*canaries->list));
	if (!canaries->list)
		return -ENOMEM;
	int error = 0;
	json_object_foreach(services, name, service)
	{
		const char *guest = json_string_value(json_object_get(service, "guest"));
		if (!is(service, "canary", "on"))
			continue;
		struct ft_canary_state *state = &canaries->list[canaries->count++];
		*state = (struct ft_canary_state){.service = strdup(name),
						  .guest = strdup(guest ? guest : ""),
						  .result = FT_CANARY_RESULT_COUNT,
						  .since = now,
						  .udp = is(service, "protocol", "udp")};
		if (!state->service || !state->guest)
			error = -ENOMEM;
	}
	if (error)
		ft_canaries_close(canaries);
	return error;
}

void ft_canaries_close(struct ft_canaries *canaries)
{
	for (size_t i = 0; i < canaries->count; i++) {
		free(canaries->list[i].service);
		free(canaries->list[i].guest);
	}
	free(canaries->list);
	*canaries = (struct ft_canaries){0};
}

int ft_canaries_renew(struct ft_canaries *canaries, const struct ft_config *config, uint64_t now)
{
	struct ft_canaries renewed;
	int error = ft_canaries_open(&renewed, config, now);
	for (size_t i = 0; !error && i < renewed.count; i++)
		for (size_t k = 0; k < canaries->count; k++) {
			struct ft_canary_state *to = &renewed.list[i], *from = &canaries->list[k];
			if (strcmp(to->service, from->service) || strcmp(to->guest, from->guest))
				continue;
			char *service = to->service, *guest = to->guest;
			*to = *from;
			to->service = service;
			to->guest = guest;
		}
	if (error)
		return error;
	ft_canaries_close(canaries);
	*canaries = renewed;
	return 0;
}

static int result_of(const json_t *message)
{
	for (int i = 0; i < FT_CANARY_RESULT_COUNT; i++)
		if (is(message, "result", ft_canary_results[i]))
			return i;
	return -1;
}

/* Nothing could have passed. */
static bool is_idle(enum ft_canary_result result)
{
	return result == FT_CANARY_REFUSED || result == FT_CANARY_DOWN || result == FT_CANARY_OFF;
}

bool ft_canaries_note(struct ft_canaries *canaries, const json_t *message, uint64_t now)
{
	const char *service = json_string_value(json_object_get(message, "service"));
	const char *why = json_string_value(json_object_get(message, "why"));
	json_int_t took = json_integer_value(json_object_get(message, "took_ns"));
	int result = result_of(message);
	for (size_t i = 0; service && why && result >= 0 && took >= 0 && i < canaries->count; i++) {
		struct ft_canary_state *state = &canaries->list[i];
		if (strcmp(state->service, service))
			continue;
		state->result = (enum ft_canary_result)result;
		state->counts[result]++;
		state->heard = now;
		ft_printable(state->why, sizeof(state->why), why, strnlen(why, 256));
		if (result == FT_CANARY_OK) {
			state->last_ok = now;
			state->took_ns = (uint64_t)took;
		} else if (is_idle(state->result)) {
			state->since = now;
			state->last_ok = 0;
		}
		return true;
	}
	return false;
}

void ft_canaries_forget(struct ft_canaries *canaries, uint64_t now)
{
	for (size_t i = 0; i < canaries->count; i++) {
		struct ft_canary_state *state = &canaries->list[i];
		state->result = FT_CANARY_RESULT_COUNT;
		state->last_ok = 0;
		state->since = now;
	}
}

/* ---- What follows ------------------------------------------------------------------------------------------------ */

/* Until when what is known is recent. */
static uint64_t recent_until(const struct ft_canaries *canaries, const struct ft_canary_state *state)
{
	return (state->last_ok ? state->last_ok : state->since) + canaries->recent_ns;
}

static bool is_overdue(const struct ft_canaries *canaries, const struct ft_canary_state *state, uint64_t now)
{
	return !is_idle(state->result) && now > recent_until(canaries, state);
}

static bool is_ok(const struct ft_canaries *canaries, const struct ft_canary_state *state, uint64_t now)
{
	return state->result == FT_CANARY_OFF ||
	       (state->result == FT_CANARY_OK && !is_overdue(canaries, state, now));
}

/* Worth an alarm? While a service starts, that it is silent is not; nor that a booting guest does more than its service does. */
static bool is_failing(const struct ft_canaries *canaries, const struct ft_canary_state *state, uint64_t now)
{
	return (state->result == FT_CANARY_FAILED && (state->last_ok || !state->udp)) || (state->result == FT_CANARY_SILENT && state->last_ok) ||
	       is_overdue(canaries, state, now);
}

static const char *why_of(const struct ft_canaries *canaries, const struct ft_canary_state *state, uint64_t now,
			  char text[400])
{
	if (state->result == FT_CANARY_RESULT_COUNT)
		snprintf(text, 400, "nothing has come of it yet");
	else if (state->result == FT_CANARY_OK && is_overdue(canaries, state, now))
		snprintf(text, 400, "it has not run for %.0f s", (double)(now - state->last_ok) / 1e9);
	else
		snprintf(text, 400, "%s", state->why);
	return text;
}

uint64_t ft_canaries_serve(struct ft_canaries *canaries, uint64_t now,
			   void (*tell)(void *context, const char *guest, bool failing, const char *text), void *context)
{
	uint64_t next = UINT64_MAX;
	for (size_t i = 0; i < canaries->count; i++) {
		struct ft_canary_state *state = &canaries->list[i];
		bool failing = is_failing(canaries, state, now);
		char text[512], why[400];
		if (failing && !state->failing)
			snprintf(text, sizeof(text), "the self-test of service %s fails, so its input may not be inspected: %s",
				 state->service, why_of(canaries, state, now, why));
		else if (!failing && state->failing && state->result == FT_CANARY_OK)
			snprintf(text, sizeof(text), "the self-test of service %s passes again", state->service);
		else
			text[0] = 0;
		if (*text) {
			state->failing = failing;
			tell(context, state->guest, failing, text);
		}
		uint64_t until = recent_until(canaries, state);
		if (!is_idle(state->result) && until >= now && until + 1 < next)
			next = until + 1;
	}
	return next;
}

bool ft_canaries_live(const struct ft_canaries *canaries, uint64_t now)
{
	for (size_t i = 0; i < canaries->count; i++) {
		const struct ft_canary_state *state = &canaries->list[i];
		bool excused = state->result == FT_CANARY_BUSY || state->result == FT_CANARY_SILENT;
		bool told = now <= state->heard + canaries->recent_ns;
		if (state->last_ok && !(excused && told) && is_overdue(canaries, state, now))
			return false;
	}
	return true;
}

bool ft_canaries_hung(const struct ft_canaries *canaries, const char *guest, uint64_t now)
{
	bool hung = false;
	for (size_t i = 0; i < canaries->count; i++) {
		const struct ft_canary_state *state = &canaries->list[i];
		if (strcmp(state->guest, guest))
			continue;
		if (state->last_ok && !is_overdue(canaries, state, now))
			return false;
		hung |= state->last_ok && state->result == FT_CANARY_SILENT;
	}
	return hung;
}

json_t *ft_canaries_json(const struct ft_canaries *canaries, uint64_t now)
{
	if (!canaries->count)
		return NULL;
	json_t *services = json_object();
	for (size_t i = 0; i < canaries->count; i++) {
		const struct ft_canary_state *state = &canaries->list[i];
		char why[400];
		json_t *one = json_pack("{s:s, s:b, s:s, s:s}", "guest", state->guest, "ok",
					is_ok(canaries, state, now), "result",
					state->result < FT_CANARY_RESULT_COUNT ? ft_canary_results[state->result] : "none",
					"why", why_of(canaries, state, now, why));
		json_t *counts = json_object();
		for (int k = 0; k < FT_CANARY_DOWN; k++) /* what comes behind is no test */
			json_object_set_new(counts, ft_canary_results[k], json_integer((json_int_t)state->counts[k]));
		json_object_set_new(one, "results", counts);
		if (state->last_ok) {
			json_object_set_new(one, "age_s", json_real((double)(now - state->last_ok) / 1e9));
			json_object_set_new(one, "took_s", json_real((double)state->took_ns / 1e9));
		}
		json_object_set_new(services, state->service, one);
	}
	return json_pack("{s:f, s:f, s:o}", "every_s", (double)canaries->every_ns / 1e9, "recent_s",
			 (double)canaries->recent_ns / 1e9, "services", services);
}
