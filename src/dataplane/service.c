#include "dataplane/service.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "base/trial.h"
#include "dataplane/risk.h"

#define DEFAULT_GATHER_NS       2000000ull
#define GATHER_MOST             25u /* times gather: a dribbling sender waits this long at most */
#define DEFAULT_HOLD_LIMIT      (256u << 10)
#define DEFAULT_TRIALS_PER_FLOW 64u
#define DEFAULT_INPUT_LIMIT     (16ull << 20)
#define DEFAULT_HOLDS           256u
#define DEFAULT_SOURCE_HOLDS    64u
#define DEFAULT_HELD            (16ull << 20)
#define DEFAULT_HOLD_TIME       40000000000ull
#define DEFAULT_FEED_LIMIT      6000u

static int integer(const json_t *object, const char *key, uint64_t fallback, uint64_t most, uint64_t *to,
		   struct ft_error *err)
{
	const json_t *value = json_object_get(object, key);
	*to = fallback;
	if (!value || json_is_null(value))
		return 0;
	if (!json_is_integer(value) || json_integer_value(value) < 0 ||
	    (uint64_t)json_integer_value(value) > most)
		return ft_error_set(err, -EINVAL, "%s: not a number from 0 to %llu", key,
				    (unsigned long long)most);
	*to = (uint64_t)json_integer_value(value);
	return 0;
}

/* One of two words; *second says which. Absent: the first. */
static int either(const json_t *object, const char *key, const char *a, const char *b, bool *second,
		  struct ft_error *err)
{
	const json_t *value = json_object_get(object, key);
	*second = false;
	if (!value || json_is_null(value))
		return 0;
	const char *text = json_string_value(value);
	if (text && !strcmp(text, a))
		return 0;
	*second = text && !strcmp(text, b);
	return *second ? 0 : ft_error_set(err, -EINVAL, "%s: neither %s nor %s", key, a, b);
}

static int load_sids(const json_t *rules, struct ft_service *service, struct ft_error *err)
{
	if (!rules)
		return 0;
	service->sids = calloc(json_array_size(rules) + 1, sizeof(*service->sids));
	if (!service->sids)
		return -ENOMEM;
	const json_t *sid;
	size_t i;
	json_array_foreach(rules, i, sid)
	{
		if (!json_is_integer(sid) || json_integer_value(sid) <= 0 ||
		    json_integer_value(sid) > UINT32_MAX)
			return ft_error_set(err, -EINVAL, "rules: entry %zu is no rule number", i);
		service->sids[service->sid_count++] = (uint32_t)json_integer_value(sid);
	}
	return 0;
}

/* Numbers without an upper bound worth naming are absent, and then there is none. */
static int load_quotas(const json_t *json, struct ft_quotas *to, struct ft_error *err)
{
	const struct {
		const char *key;
		uint64_t fallback;
		uint32_t *to;
	} numbers[] = {{"holds", DEFAULT_HOLDS, &to->holds},
		       {"source_holds", DEFAULT_SOURCE_HOLDS, &to->source_holds},
		       {"clones", UINT32_MAX, &to->clones},
		       {"feed_limit", DEFAULT_FEED_LIMIT, &to->feed_limit}};
	int error = integer(json, "held", DEFAULT_HELD, INT64_MAX, &to->held, err);
	if (!error)
		error = integer(json, "hold_time", DEFAULT_HOLD_TIME, INT64_MAX, &to->hold_time_ns, err);
	for (size_t i = 0; i < sizeof(numbers) / sizeof(*numbers) && !error; i++) {
		uint64_t value;
		error = integer(json, numbers[i].key, numbers[i].fallback, UINT32_MAX, &value, err);
		if (!error)
			*numbers[i].to = (uint32_t)value;
	}
	return error;
}

static const char *const modes[] = {"observe", "shadow", "enforce", "bypass"};

int ft_service_mode_by_name(const char *name)
{
	for (int i = 0; name && i < FT_MODE_BYPASS; i++)
		if (!strcmp(name, modes[i]))
			return i;
	return -1;
}

static int read_mode(const json_t *json, enum ft_service_mode *mode, struct ft_error *err)
{
	const json_t *value = json_object_get(json, "mode");
	int found = value && !json_is_null(value) ? ft_service_mode_by_name(json_string_value(value)) : 0;
	if (found < 0)
		return ft_error_set(err, -EINVAL, "mode: neither observe nor shadow nor enforce");
	*mode = (enum ft_service_mode)found;
	return 0;
}

static int load_service(const json_t *json, const char *name, struct ft_service *service,
			struct ft_error *err)
{
	bool udp, all;
	uint64_t port, hold_limit, trials;
	const json_t *guest = json_object_get(json, "guest");
	int error = either(json, "protocol", "tcp", "udp", &udp, err);
	if (!error)
		error = read_mode(json, &service->mode, err);
	if (!error)
		error = ft_policies_load(json, &service->policies, err);
	if (!error)
		error = either(json, "screen", "suspicious", "all", &all, err);
	if (!error)
		error = integer(json, "port", 0, 65535, &port, err);
	if (!error && !port)
		error = ft_error_set(err, -EINVAL, "port: missing");
	if (!error)
		error = integer(json, "gather", DEFAULT_GATHER_NS, 1000000000, &service->gather_ns, err);
	if (!error)
		error = integer(json, "hold_limit", DEFAULT_HOLD_LIMIT, 1u << 20, &hold_limit, err);
	if (!error)
		error = integer(json, "input_limit", DEFAULT_INPUT_LIMIT, INT64_MAX, &service->input_most, err);
	if (!error)
		error = integer(json, "trials_per_flow", DEFAULT_TRIALS_PER_FLOW, UINT32_MAX, &trials, err);
	if (!error)
		error = load_sids(json_object_get(json, "rules"), service, err);
	if (!error)
		error = ft_risk_load(json_object_get(json, "risks"), &service->risks, err);
	if (error)
		return error;
	if ((error = load_quotas(json, &service->quotas, err)))
		return error;
	service->bypass = json_is_true(json_object_get(json, "bypass"));
	service->tally = calloc(1, sizeof(*service->tally));
	service->shadow = calloc(1, sizeof(*service->shadow));
	service->name = strdup(name);
	service->guest = strdup(json_is_string(guest) ? json_string_value(guest) : "");
	service->protocol = udp ? IPPROTO_UDP : IPPROTO_TCP;
	service->port = (uint16_t)port;
	service->screen_all = all;
	service->gather_most_ns = service->gather_ns * GATHER_MOST;
	/* A limit below one full segment could never hold anything. */
	service->hold_bytes =
	    hold_limit < FT_SERVICE_HOLD_LEAST ? FT_SERVICE_HOLD_LEAST : (uint32_t)hold_limit;
	service->trials_per_flow = (uint32_t)trials;
	if (service->input_most < service->hold_bytes)
		service->input_most = service->hold_bytes;
	if (!service->name || !service->guest || !service->tally || !service->shadow)
		return -ENOMEM;
	const json_t *normal = json_object_get(json, "normal");
	return ft_profile_load(normal ? normal : json, &service->profile, NULL, err);
}

int ft_services_load(const json_t *services, struct ft_services *to, struct ft_error *err)
{
	*to = (struct ft_services){0};
	if (services && !json_is_object(services))
		return ft_error_set(err, -EINVAL, "services: not an object");
	to->list = calloc(json_object_size(services) + 1, sizeof(*to->list));
	if (!to->list)
		return ft_error_set(err, -ENOMEM, "no memory for the services");
	const char *name;
	json_t *json;
	json_object_foreach((json_t *)(uintptr_t)services, name, json)
	{
		int error = load_service(json, name, &to->list[to->count++], err);
		if (error) {
			ft_error_set(err, error, "no memory");
			ft_error_prefix(err, "service %s", name);
			ft_services_free(to);
			return error;
		}
	}
	return 0;
}

void ft_services_free(struct ft_services *services)
{
	for (size_t i = 0; i < services->count; i++) {
		struct ft_service *service = &services->list[i];
		free(service->name);
		free(service->guest);
		free(service->sids);
		free(service->tally);
		free(service->shadow);
		ft_profile_free(service->profile);
	}
	free(services->list);
	*services = (struct ft_services){0};
}

int ft_services_profile(const json_t *services, const char *guest, struct ft_profile **profile, struct ft_error *err)
{
	json_t *all = json_object();
	const char *name;
	json_t *service;
	json_object_foreach((json_t *)(uintptr_t)services, name, service)
	{
		const char *whose = json_string_value(json_object_get(service, "guest"));
		const json_t *normal = json_object_get(service, "normal");
		if (!whose || strcmp(whose, guest))
			continue;
		for (int i = 0; i < FT_PROFILE_LISTS; i++) {
			const char *key = ft_profile_list_name((enum ft_profile_list)i);
			if (!json_object_get(all, key))
				json_object_set_new(all, key, json_array());
			json_t *list = json_object_get(normal, key);
			if (list)
				json_array_extend(json_object_get(all, key), list);
		}
	}
	int error = ft_profile_load(all, profile, NULL, err);
	json_decref(all);
	return error;
}

int ft_budgets_load(const json_t *clone, struct ft_budgets *to, struct ft_error *err)
{
	uint64_t memory, most, source, group, parallel;
	const uint64_t any = INT64_MAX;
	int error =
	    integer(clone, "handling_instructions", 20000000000ull, any, &to->handling_instructions, err);
	if (!error)
		error = integer(clone, "horizon", 120000000000ull, any, &to->horizon_ns, err);
	if (!error)
		error = integer(clone, "horizon_instructions", 20000000000ull, any, &to->horizon_instructions,
				err);
	if (!error)
		error = integer(clone, "wall", 20000000000ull, any, &to->wall_ns, err);
	if (!error)
		error = integer(clone, "memory", 128ull << 20, any, &memory, err);
	if (!error)
		error = integer(clone, "max", 2, 1024, &most, err);
	if (!error)
		error = integer(clone, "source", 3, 1024, &source, err);
	if (!error)
		error = integer(clone, "group", FT_TRIAL_FLOWS, FT_TRIAL_FLOWS, &group, err);
	if (!error)
		error = integer(clone, "parallel", 2, 1024, &parallel, err);
	if (error) {
		ft_error_prefix(err, "clone");
		return error;
	}
	to->memory_pages = memory / 4096;
	to->most = most ? (uint32_t)most : 1;
	to->source = source ? (uint32_t)source : 1;
	to->group = group ? (uint32_t)group : 1;
	to->parallel = parallel ? (uint32_t)parallel : 1;
	return 0;
}

void ft_services_act(struct ft_services *services, bool bypass)
{
	for (size_t i = 0; i < services->count; i++) {
		struct ft_service *service = &services->list[i];
		service->acting = bypass || service->bypass ? FT_MODE_BYPASS : service->mode;
	}
}

struct ft_service *ft_services_named(struct ft_services *services, const char *name)
{
	for (size_t i = 0; name && i < services->count; i++)
		if (!strcmp(services->list[i].name, name))
			return &services->list[i];
	return NULL;
}

const struct ft_service *ft_services_find(const struct ft_services *services, uint8_t guest, uint8_t protocol,
					  uint16_t port)
{
	for (size_t i = 0; i < services->count; i++)
		if (services->list[i].port == port && services->list[i].protocol == protocol &&
		    services->list[i].guest_index == guest)
			return &services->list[i];
	return NULL;
}

static bool acts_like(const struct ft_service *service, enum ft_service_mode mode)
{
	return service->acting == mode || (mode == FT_MODE_OBSERVE && service->acting == FT_MODE_SHADOW);
}

bool ft_services_have(const struct ft_services *services, uint8_t guest, uint8_t protocol,
		      enum ft_service_mode mode)
{
	for (size_t i = 0; i < services->count; i++)
		if (services->list[i].guest_index == guest && acts_like(&services->list[i], mode) &&
		    (!protocol || services->list[i].protocol == protocol))
			return true;
	return false;
}

const char *ft_service_mode_name(enum ft_service_mode mode)
{
	return (unsigned)mode < sizeof(modes) / sizeof(*modes) ? modes[mode] : "unknown";
}
