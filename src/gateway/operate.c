#include "gateway/operate.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sysexits.h>

#include "gateway/answer.h"

static const char *text_of(const json_t *map, const char *key)
{
	const char *text = json_string_value(json_object_get(map, key));
	return text ? text : "";
}

/* Has the dataplane do something (message is taken over); type and the sentence are the event's when it is done. */
static void act(struct ft_supervisor *s, uint64_t connection, json_t *request, json_t *message, const char *type,
		const char *format, ...) __attribute__((format(printf, 6, 7)));

static void act(struct ft_supervisor *s, uint64_t connection, json_t *request, json_t *message, const char *type,
		const char *format, ...)
{
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
	struct ft_query *query = ft_answer_ask(s, connection, request, FT_CHILD_DATAPLANE, message);
	if (query)
		query->act = json_pack("{s:s, s:s, s:s}", "type", type, "text", what, "who",
				       ft_control_who(&s->control, connection, who));
}

void ft_operate_acted(void *context, const json_t *act, const json_t *result)
{
	struct ft_supervisor *s = context;
	ft_supervisor_record(s, text_of(act, "type"), NULL, NULL, "%s by %s%s", text_of(act, "text"),
			     text_of(act, "who"),
			     result ? "" : " (the dataplane process did not say whether it was done)");
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
