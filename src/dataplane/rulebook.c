#include "dataplane/rulebook.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "dataplane/screen.h"

static int name_guests(struct ft_rulebook *book, const json_t *config, struct ft_error *err)
{
	json_t *guests = json_object_get(config, "guests"), *json;
	const char *name;
	if (!json_object_size(guests) || json_object_size(guests) > FT_GATE_GUESTS)
		return ft_error_set(err, -EINVAL, "guests: not between 1 and %u of them", FT_GATE_GUESTS);
	json_object_foreach(guests, name, json)
	{
		book->guests[book->guest_count] = strdup(name);
		if (!book->guests[book->guest_count])
			return -ENOMEM;
		book->guest_count++;
	}
	return 0;
}

/* Which guest a service belongs to. */
static int assign_services(struct ft_rulebook *book, struct ft_error *err)
{
	for (size_t i = 0; i < book->services.count; i++) {
		struct ft_service *service = &book->services.list[i];
		unsigned at = 0;
		while (at < book->guest_count && strcmp(book->guests[at], service->guest))
			at++;
		if (at == book->guest_count)
			return ft_error_set(err, -EINVAL, "service %s: there is no guest \"%.60s\"",
					    service->name, service->guest);
		service->guest_index = (uint8_t)at;
	}
	return 0;
}

/* Each service with patterns has the self-test's among them, so that it is this very matcher that finds it. */
static int load_screen(struct ft_rulebook *book, struct ft_service *service, bool canary,
		       struct ft_error *err)
{
	size_t count = service->sid_count;
	uint32_t *sids = calloc(count + 1, sizeof(*sids));
	if (!sids)
		return ft_error_set(err, -ENOMEM, "no memory for the patterns");
	if (count)
		memcpy(sids, service->sids, count * sizeof(*sids));
	if (canary && count)
		sids[count++] = FT_CANARY_SID;
	int error = ft_screen_new(book->patterns, sids, count, &service->screen, err);
	free(sids);
	if (error)
		ft_error_prefix(err, "service %s", service->name);
	return error;
}

static int load_screens(struct ft_rulebook *book, const json_t *config, struct ft_error *err)
{
	const json_t *rules = json_object_get(config, "rules");
	json_t *all = json_is_array(rules) ? json_copy((json_t *)(uintptr_t)rules) : json_array();
	json_t *canary = ft_canary_pattern(&book->canary, config);
	if (canary)
		json_array_append_new(all, canary);
	int error = ft_patterns_load(all, &book->patterns, NULL, err);
	json_decref(all);
	for (size_t i = 0; i < book->services.count && !error; i++)
		error = load_screen(book, &book->services.list[i], canary != NULL, err);
	return error;
}

static int keep_canary_config(struct ft_rulebook *book, const json_t *config)
{
	json_t *guests = json_deep_copy(json_object_get(config, "guests"));
	json_t *services = json_deep_copy(json_object_get(config, "services"));
	book->canary_config = json_pack("{s:o*, s:o*}", "guests", guests, "services", services);
	return book->canary_config ? 0 : -ENOMEM;
}

static int load_rules(struct ft_rulebook *book, const json_t *config, struct ft_error *err)
{
	json_t *empty = json_array();
	const json_t *verdicts = json_object_get(config, "verdict_rules");
	const json_t *correlations = json_object_get(config, "correlation_rules");
	int error =
	    ft_rules_load(verdicts ? verdicts : empty, FT_RULES_VERDICT, &book->verdict_rules, NULL, err);
	if (!error)
		error = ft_rules_load(correlations ? correlations : empty, FT_RULES_CORRELATION,
				      &book->correlation_rules, NULL, err);
	json_decref(empty);
	const char *sha256 = json_string_value(json_object_get(config, "rules_sha256"));
	if (sha256 && strlen(sha256) == sizeof(book->rules_sha256) - 1)
		memcpy(book->rules_sha256, sha256, sizeof(book->rules_sha256));
	for (unsigned i = 0; i < book->guest_count && !error; i++) {
		error = ft_services_profile(json_object_get(config, "services"), book->guests[i],
					    &book->profiles[i], err);
		if (!error)
			book->watches[i] = ft_watch_new(book->correlation_rules, book->profiles[i]);
		if (!error && !book->watches[i])
			error = ft_error_set(err, -ENOMEM, "no memory for the correlation rules");
	}
	return error;
}

int ft_rulebook_new(const json_t *config, struct ft_rulebook **book, struct ft_error *err)
{
	struct ft_rulebook *made = calloc(1, sizeof(*made));
	if (!made)
		return ft_error_set(err, -ENOMEM, "no memory for the rules");
	int error = name_guests(made, config, err);
	if (!error)
		error = ft_services_load(json_object_get(config, "services"), &made->services, err);
	if (!error)
		error = assign_services(made, err);
	if (!error)
		error = ft_budgets_load(json_object_get(config, "clone"), &made->budgets, err);
	if (!error)
		error = load_screens(made, config, err);
	if (!error)
		error = keep_canary_config(made, config);
	if (!error)
		error = load_rules(made, config, err);
	if (error) {
		ft_rulebook_free(made);
		return error;
	}
	*book = made;
	return 0;
}

void ft_rulebook_free(struct ft_rulebook *book)
{
	if (!book)
		return;
	ft_canary_close(&book->canary);
	json_decref(book->canary_config);
	for (size_t i = 0; i < book->services.count; i++)
		ft_screen_free(book->services.list[i].screen);
	ft_services_free(&book->services);
	ft_patterns_free(book->patterns);
	for (unsigned i = 0; i < book->guest_count; i++) {
		ft_watch_free(book->watches[i]);
		ft_profile_free(book->profiles[i]);
		free(book->guests[i]);
	}
	ft_rules_free(book->verdict_rules);
	ft_rules_free(book->correlation_rules);
	free(book);
}
