#include "metrics/health.h"

#include <string.h>

static bool is(const json_t *json, const char *key, const char *word)
{
	const char *text = json_string_value(json_object_get(json, key));
	return text && !strcmp(text, word);
}

static const char *text_of(const json_t *json, const char *key)
{
	const char *text = json_string_value(json_object_get(json, key));
	return text ? text : "unknown";
}

bool ft_health_live(const json_t *state, json_t *problems)
{
	const char *name;
	json_t *process;
	bool ok = true;
	if (!json_object_size(json_object_get(state, "processes"))) {
		json_array_append_new(problems, json_string("the supervisor does not answer"));
		return false;
	}
	if (!is(state, "state", "running")) {
		ok = false;
		json_array_append_new(problems, json_sprintf("the gateway is %s", text_of(state, "state")));
	}
	json_object_foreach(json_object_get(state, "processes"), name, process)
	{
		/* That of a guest which an operator has stopped is not missing. */
		json_t *guest = strncmp(name, "vmm ", 4) ? NULL : json_object_get(json_object_get(state, "guests"), name + 4);
		bool ready = is(process, "state", "ready"), stopped = is(guest, "state", "stopped");
		if (!ready && !stopped)
			json_array_append_new(problems,
					      json_sprintf("the %s process is %s", name, text_of(process, "state")));
		else if (json_object_get(process, "error"))
			json_array_append_new(problems, json_sprintf("%s", text_of(process, "error")));
		else
			continue;
		ok = false;
	}
	return ok;
}

bool ft_health_ready(const json_t *state, json_t *problems)
{
	const char *name;
	json_t *value;
	bool ok = ft_health_live(state, problems);
	json_object_foreach(json_object_get(state, "guests"), name, value)
	{
		if (is(value, "state", "up"))
			continue;
		json_array_append_new(problems, json_sprintf("guest %s is %s", name, text_of(value, "state")));
		ok = false;
	}
	json_object_foreach(json_object_get(json_object_get(state, "canary"), "services"), name, value)
	{
		if (json_is_true(json_object_get(value, "ok")))
			continue;
		json_array_append_new(problems, json_sprintf("self-test of service %s: %s", name, text_of(value, "why")));
		ok = false;
	}
	return ok;
}

json_t *ft_health_json(bool (*check)(const json_t *state, json_t *problems), const json_t *state, bool *ok)
{
	json_t *problems = json_array();
	*ok = check(state, problems);
	if (*ok) {
		json_decref(problems);
		return json_pack("{s:s}", "status", "ok");
	}
	return json_pack("{s:s, s:o}", "status", "failing", "problems", problems);
}
