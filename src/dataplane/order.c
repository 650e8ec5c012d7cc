#include "dataplane/order.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sysexits.h>

#include "dataplane/gate-t.h"
#include "dataplane/hold.h"

static json_t *refuse(struct ft_refusal *refusal, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static json_t *refuse(struct ft_refusal *refusal, int code, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	vsnprintf(refusal->text, sizeof(refusal->text), format, args);
	va_end(args);
	refusal->code = code;
	return NULL;
}

static json_t *decide(struct ft_gate *gate, const json_t *message, bool release, struct ft_refusal *refusal)
{
	uint64_t before = 0;
	json_int_t id = json_integer_value(json_object_get(message, "hold"));
	int error = id > 0 ? ft_hold_order(gate, (uint64_t)id, release, &before) : -ENOENT;
	if (error == -EBUSY)
		return refuse(refusal, EX_TEMPFAIL, "hold %lld waits behind hold %llu of the same connection",
			      (long long)id, (unsigned long long)before);
	if (error)
		return refuse(
		    refusal, EX_DATAERR,
		    "there is no open hold %lld that keeps something back: `foretaste holds` lists those "
		    "that do",
		    (long long)id);
	return json_pack("{s:I, s:s}", "hold", id, "done", release ? "released" : "dropped");
}

static json_t *release(struct ft_gate *gate, const json_t *message, struct ft_refusal *refusal)
{
	return decide(gate, message, true, refusal);
}

static json_t *drop(struct ft_gate *gate, const json_t *message, struct ft_refusal *refusal)
{
	return decide(gate, message, false, refusal);
}

static struct ft_service *service_of(struct ft_gate *gate, const json_t *message, struct ft_refusal *refusal)
{
	const char *name = json_string_value(json_object_get(message, "service"));
	struct ft_service *service = ft_services_named(&gate->services, name);
	if (!service)
		refuse(refusal, EX_DATAERR, "there is no service \"%.64s\"", name ? name : "");
	return service;
}

static void end_shadow(struct ft_gate *gate, struct ft_service *service)
{
	char text[512];
	if (service->mode != FT_MODE_SHADOW)
		return;
	ft_shadow_end(service->shadow, gate->now, gate->wall);
	ft_shadow_sentence(service->shadow, service->name, gate->now, text, sizeof(text));
	ft_gate_record(gate, &gate->guests[service->guest_index], "shadow-report", text, NULL);
}

void ft_order_mode(struct ft_gate *gate, struct ft_service *service, enum ft_service_mode to)
{
	if (service->mode == to)
		return;
	end_shadow(gate, service);
	service->mode = to;
	if (to == FT_MODE_SHADOW)
		ft_shadow_begin(service->shadow, gate->now, gate->wall);
	ft_services_act(&gate->services, gate->bypass);
}

/* What is held when the mode changes stays held and is decided as it began. */
static json_t *mode(struct ft_gate *gate, const json_t *message, struct ft_refusal *refusal)
{
	struct ft_service *service = service_of(gate, message, refusal);
	int to = ft_service_mode_by_name(json_string_value(json_object_get(message, "mode")));
	if (!service)
		return NULL;
	if (to < 0)
		return refuse(refusal, EX_USAGE, "a service's mode is observe, shadow or enforce");
	enum ft_service_mode before = service->mode;
	json_t *result =
	    json_pack("{s:s, s:s, s:s}", "service", service->name, "mode",
		      ft_service_mode_name((enum ft_service_mode)to), "before", ft_service_mode_name(before));
	if (before == (enum ft_service_mode)to)
		return result;
	ft_order_mode(gate, service, (enum ft_service_mode)to);
	if (before == FT_MODE_SHADOW)
		json_object_set_new(result, "report",
				    ft_shadow_report(service->shadow, service->name, gate->now, gate->wall));
	return result;
}

static json_t *shadow(struct ft_gate *gate, const json_t *message, struct ft_refusal *refusal)
{
	struct ft_service *service = service_of(gate, message, refusal);
	if (!service)
		return NULL;
	if (!service->shadow->since_wall)
		return refuse(refusal, EX_DATAERR, "service %.64s has not been in shadow mode",
			      service->name);
	return ft_shadow_report(service->shadow, service->name, gate->now, gate->wall);
}

/* Inspection off, for one service or (none named) for all of them, or on again. */
static json_t *bypass(struct ft_gate *gate, const json_t *message, struct ft_refusal *refusal)
{
	const json_t *on = json_object_get(message, "on");
	struct ft_service *service = NULL;
	if (!json_is_boolean(on))
		return refuse(refusal, EX_USAGE, "bypass is on or off");
	if (json_object_get(message, "service") && !(service = service_of(gate, message, refusal)))
		return NULL;
	*(service ? &service->bypass : &gate->bypass) = json_is_true(on);
	ft_services_act(&gate->services, gate->bypass);
	unsigned released = ft_holds_bypass(gate);
	ft_earlies_wake(gate);
	json_t *bypassed = json_array();
	for (size_t i = 0; i < gate->services.count; i++)
		if (gate->services.list[i].acting == FT_MODE_BYPASS)
			json_array_append_new(bypassed, json_string(gate->services.list[i].name));
	return json_pack("{s:b, s:o, s:i}", "all", gate->bypass, "services", bypassed, "released",
			 (int)released);
}

static json_t *suppress(struct ft_gate *gate, const json_t *message, struct ft_refusal *refusal)
{
	struct ft_error err = {0};
	if (ft_suppressions_load(&gate->suppressions, json_object_get(message, "list"), &err))
		return refuse(refusal, EX_DATAERR, "%s", err.text);
	return ft_suppressions_list(&gate->suppressions);
}

static json_t *suppressions(struct ft_gate *gate, const json_t *message, struct ft_refusal *refusal)
{
	return ft_suppressions_list(&gate->suppressions);
}

json_t *ft_order(struct ft_gate *gate, const json_t *message, struct ft_refusal *refusal)
{
	static const struct {
		const char *what;
		json_t *(*obey)(struct ft_gate *gate, const json_t *message, struct ft_refusal *refusal);
	} orders[] = {{"release", release},
		      {"drop", drop},
		      {"mode", mode},
		      {"shadow", shadow},
		      {"bypass", bypass},
		      {"suppress", suppress},
		      {"suppressions", suppressions}};
	const char *what = json_string_value(json_object_get(message, "what"));
	*refusal = (struct ft_refusal){0};
	for (size_t i = 0; what && i < sizeof(orders) / sizeof(*orders); i++)
		if (!strcmp(what, orders[i].what))
			return orders[i].obey(gate, message, refusal);
	return NULL;
}
