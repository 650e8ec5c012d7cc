#include "gateway/operate.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sysexits.h>

#include "gateway/answer.h"
#include "gateway/reload.h"
#include "gateway/suggest.h"

static const char *text_of(const json_t *map, const char *key)
{
	const char *text = json_string_value(json_object_get(map, key));
	return text ? text : "";
}

/* Has the dataplane do something (message is taken over); type and the sentence are the event's when it is done. */
static void act(struct ft_supervisor *s, uint64_t connection, json_t *request, json_t *message,
		const char *type, const char *format, ...) __attribute__((format(printf, 6, 7)));

static void act(struct ft_supervisor *s, uint64_t connection, json_t *request, json_t *message,
		const char *type, const char *format, ...)
{
	json_t *service = json_object_get(message, "service"), *mode = json_object_get(message, "mode"),
	       *on = json_object_get(message, "on");
	char what[200], who[80];
	va_list args;
	va_start(args, format);
	vsnprintf(what, sizeof(what), format, args);
	va_end(args);
	if (s->phase != FT_PHASE_RUNNING) {
		ft_query_refuse(&s->control, connection, json_object_get(request, "id"), EX_TEMPFAIL,
				"the gateway is %s", s->phase == FT_PHASE_STARTING ? "starting" : "stopping");
		json_decref(message);
		return;
	}
	json_t *act = json_pack("{s:s, s:s, s:s, s:O*, s:O*, s:O*}", "type", type, "text", what, "who",
				ft_control_who(&s->control, connection, who), "service", service, "mode",
				mode, "on", on);
	struct ft_query *query = ft_answer_ask(s, connection, request, FT_CHILD_DATAPLANE, message);
	if (query)
		query->act = act;
	else
		json_decref(act);
}

/* ---- what was switched, for a dataplane process that starts anew ---- */

static void set_or_remove(json_t *live, const char *part, const char *service, json_t *value)
{
	json_t *map = json_object_get(live, part);
	if (!map) {
		map = json_object();
		json_object_set_new(live, part, map);
	}
	if (value)
		json_object_set_new(map, service, value);
	else
		json_object_del(map, service);
}

static void remember(struct ft_supervisor *s, const json_t *act)
{
	const char *service = text_of(act, "service"), *mode = text_of(act, "mode");
	const json_t *on = json_object_get(act, "on");
	if (!s->live)
		s->live = json_object();
	if (*mode)
		set_or_remove(s->live, "modes", service, json_string(mode));
	else if (on && *service)
		set_or_remove(s->live, "bypass", service, json_is_true(on) ? json_true() : NULL);
	else if (on)
		json_object_set_new(s->live, "bypass_all", json_boolean(json_is_true(on)));
}

void ft_operate_patch(const struct ft_supervisor *s, json_t *part)
{
	json_t *services = json_object_get(part, "services"), *value;
	const char *name;
	json_object_foreach(json_object_get(s->live, "modes"), name, value)
	    json_object_set(json_object_get(services, name), "mode", value);
	json_object_foreach(json_object_get(s->live, "bypass"), name, value)
	    json_object_set(json_object_get(services, name), "bypass", value);
	if (json_is_true(json_object_get(s->live, "bypass_all")))
		json_object_set_new(part, "bypass", json_true());
}

json_t *ft_operate_bypassed(const struct ft_supervisor *s)
{
	bool all = json_is_true(json_object_get(s->live, "bypass_all"));
	json_t *services = json_array(), *value;
	const char *name;
	json_object_foreach(json_object_get(s->live, "bypass"), name, value)
	    json_array_append_new(services, json_string(name));
	if (all || json_array_size(services))
		return json_pack("{s:b, s:o}", "all", all, "services", services);
	json_decref(services);
	return NULL;
}

void ft_operate_acted(void *context, const json_t *act, int code, const char *error)
{
	struct ft_supervisor *s = context;
	if (!strcmp(text_of(act, "type"), "reload")) {
		ft_reload_acted(s, act, code, error);
		return;
	}
	if (code && code != EX_UNAVAILABLE)
		return;
	if (!code)
		remember(s, act);
	ft_supervisor_record(s, text_of(act, "type"), NULL, NULL, "%s by %s%s", text_of(act, "text"),
			     text_of(act, "who"),
			     !code ? "" : " (the dataplane process did not say whether it was done)");
}

static void decide(struct ft_supervisor *s, uint64_t connection, json_t *request, const char *what,
		   const char *done)
{
	json_t *hold = json_object_get(request, "hold");
	if (!json_is_integer(hold) || json_integer_value(hold) <= 0) {
		ft_query_refuse(&s->control, connection, json_object_get(request, "id"), EX_USAGE,
				"%s needs the number of a hold", what);
		return;
	}
	act(s, connection, request, json_pack("{s:s, s:O}", "what", what, "hold", hold), what,
	    "hold %" JSON_INTEGER_FORMAT " was %s", json_integer_value(hold), done);
}

void ft_operate_release(struct ft_supervisor *s, uint64_t connection, json_t *request)
{
	decide(s, connection, request, "release", "released");
}

void ft_operate_drop(struct ft_supervisor *s, uint64_t connection, json_t *request)
{
	decide(s, connection, request, "drop", "dropped");
}

/* The service that a request names; NULL: the client has been told. */
static const char *service_of(struct ft_supervisor *s, uint64_t connection, json_t *request)
{
	const char *name = json_string_value(json_object_get(request, "service")), *known[64], *key;
	json_t *value, *id = json_object_get(request, "id");
	size_t count = 0;
	json_object_foreach((json_t *)ft_config_get(s->config, "services"), key, value)
	{
		if (name && !strcmp(key, name))
			return key;
		if (count < sizeof(known) / sizeof(*known))
			known[count++] = key;
	}
	const char *meant = name ? ft_suggest(name, known, count) : NULL;
	if (name)
		ft_query_refuse(&s->control, connection, id, EX_USAGE, "there is no service \"%.64s\"%s%s%s",
				name, meant ? ", did you mean \"" : "", meant ? meant : "",
				meant ? "\"?" : "");
	else
		ft_query_refuse(&s->control, connection, id, EX_USAGE, "this needs the name of a service");
	return NULL;
}

void ft_operate_mode(struct ft_supervisor *s, uint64_t connection, json_t *request)
{
	static const char *const modes[] = {"observe", "shadow", "enforce"};
	const char *service = service_of(s, connection, request), *mode = text_of(request, "mode");
	bool known = false;
	for (size_t i = 0; i < sizeof(modes) / sizeof(*modes); i++)
		known |= !strcmp(mode, modes[i]);
	if (!service)
		return;
	if (!known) {
		const char *meant = ft_suggest(mode, modes, sizeof(modes) / sizeof(*modes));
		ft_query_refuse(&s->control, connection, json_object_get(request, "id"), EX_USAGE,
				"there is no mode \"%.64s\"%s%s%s", mode,
				meant ? ", did you mean \"" : ", expected observe, shadow or enforce",
				meant ? meant : "", meant ? "\"?" : "");
		return;
	}
	act(s, connection, request,
	    json_pack("{s:s, s:s, s:s}", "what", "mode", "service", service, "mode", mode), "mode",
	    "service %s was switched to %s", service, mode);
}

void ft_operate_shadow(struct ft_supervisor *s, uint64_t connection, json_t *request)
{
	const char *service = service_of(s, connection, request);
	if (service)
		ft_answer_ask(s, connection, request, FT_CHILD_DATAPLANE,
			      json_pack("{s:s, s:s}", "what", "shadow", "service", service));
}

void ft_operate_bypass(struct ft_supervisor *s, uint64_t connection, json_t *request)
{
	json_t *on = json_object_get(request, "on"), *name = json_object_get(request, "service");
	const char *service = name && !json_is_null(name) ? service_of(s, connection, request) : NULL;
	if (name && !json_is_null(name) && !service)
		return;
	if (!json_is_boolean(on)) {
		ft_query_refuse(&s->control, connection, json_object_get(request, "id"), EX_USAGE,
				"bypass is on (true) or off (false)");
		return;
	}
	act(s, connection, request,
	    json_pack("{s:s, s:O, s:s*}", "what", "bypass", "on", on, "service", service),
	    json_is_true(on) ? "bypass-on" : "bypass-off", "inspection of %s%s was switched %s",
	    service ? "service " : "all services", service ? service : "",
	    json_is_true(on) ? "OFF" : "on again");
}
