#include "gateway/query.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sysexits.h>

void ft_query_refuse(struct ft_control *control, uint64_t connection, json_t *id, int code,
		     const char *format, ...)
{
	char text[512];
	va_list args;
	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	ft_control_answer(control, connection,
			  json_pack("{s:O?, s:s, s:i}", "id", id, "error", text, "code", code));
}

struct ft_query *ft_query_begin(struct ft_queries *queries, uint64_t connection, const json_t *request,
				json_t *result)
{
	for (unsigned i = 0; i < FT_QUERY_MAX; i++) {
		struct ft_query *query = &queries->queries[i];
		if (query->connection)
			continue;
		*query = (struct ft_query){.connection = connection,
					   .id = json_incref(json_object_get(request, "id")),
					   .result = result,
					   .deadline = ft_loop_now() + FT_QUERY_TIMEOUT};
		return query;
	}
	json_decref(result);
	ft_query_refuse(queries->control, connection, json_object_get(request, "id"), EX_TEMPFAIL,
			"too many requests are waiting");
	return NULL;
}

static void end(struct ft_query *query)
{
	json_decref(query->id);
	json_decref(query->result);
	json_decref(query->act);
	*query = (struct ft_query){0};
}

static void finish(struct ft_queries *queries, struct ft_query *query, json_t *result)
{
	ft_control_answer(queries->control, query->connection,
			  json_pack("{s:O?, s:o}", "id", query->id, "result", result ? result : json_null()));
	end(query);
}

int ft_query_ask(struct ft_queries *queries, struct ft_query *query, struct ft_child *child, json_t *message)
{
	if (query->parts == FT_QUERY_PARTS) {
		json_decref(message);
		return -E2BIG;
	}
	uint64_t number = ++queries->next;
	json_object_set_new(message, "op", json_string("query"));
	json_object_set_new(message, "id", json_integer((json_int_t)number));
	int error = ft_child_send(child, message, NULL, 0);
	if (!error) {
		query->asked[query->parts].number = number;
		query->asked[query->parts++].child = child;
	}
	return error;
}

static bool waits(const struct ft_query *query)
{
	for (unsigned i = 0; i < query->parts; i++)
		if (query->asked[i].number)
			return true;
	return false;
}

void ft_query_settle(struct ft_queries *queries, struct ft_query *query)
{
	if (query->connection && !waits(query) && query->result)
		finish(queries, query, json_incref(query->result));
}

/* Puts text or an answer where the client looks for it. */
static void answered(struct ft_queries *queries, struct ft_query *query, unsigned part, json_t *result,
		     const char *error, int code)
{
	const struct ft_child *child = query->asked[part].child;
	query->asked[part].number = 0;
	if (query->act)
		queries->acted(queries->context, query->act, result ? 0 : code, error);
	if (!query->result) {
		if (result) {
			finish(queries, query, json_incref(result));
			return;
		}
		ft_query_refuse(queries->control, query->connection, query->id, code, "%s", error);
		end(query);
		return;
	}
	json_t *process = json_object_get(json_object_get(query->result, "processes"), child->name);
	if (process && result)
		json_object_set(process, "status", result);
	else if (process)
		json_object_set_new(process, "error", json_string(error));
	ft_query_settle(queries, query);
}

bool ft_query_answer(struct ft_queries *queries, const struct ft_child *child, const json_t *message)
{
	json_t *number = json_object_get(message, "id"), *result = json_object_get(message, "result");
	if (!json_is_integer(number) || json_integer_value(number) <= 0)
		return false;
	for (unsigned i = 0; i < FT_QUERY_MAX; i++) {
		struct ft_query *query = &queries->queries[i];
		for (unsigned part = 0; query->connection && part < query->parts; part++)
			if (query->asked[part].number == (uint64_t)json_integer_value(number) &&
			    query->asked[part].child == child) {
				const char *error = json_string_value(json_object_get(message, "error"));
				json_t *code = json_object_get(message, "code");
				answered(queries, query, part, result, error ? error : "it gave no result",
					 json_is_integer(code) ? (int)json_integer_value(code) : EX_DATAERR);
				return true;
			}
	}
	return false;
}

static void give_up(struct ft_queries *queries, struct ft_query *query, const struct ft_child *child,
		    const char *why)
{
	for (unsigned part = 0; query->connection && part < query->parts; part++)
		if (query->asked[part].number && (!child || query->asked[part].child == child)) {
			char text[160];
			snprintf(text, sizeof(text), "the %s process %s", query->asked[part].child->name,
				 why);
			answered(queries, query, part, NULL, text, EX_UNAVAILABLE);
		}
}

void ft_query_forget(struct ft_queries *queries, const struct ft_child *child)
{
	for (unsigned i = 0; i < FT_QUERY_MAX; i++)
		give_up(queries, &queries->queries[i], child, "died before it answered");
}

void ft_query_drop(struct ft_queries *queries, uint64_t connection)
{
	for (unsigned i = 0; i < FT_QUERY_MAX; i++)
		if (queries->queries[i].connection == connection && !queries->queries[i].act)
			end(&queries->queries[i]);
}

uint64_t ft_query_expire(struct ft_queries *queries, uint64_t now)
{
	uint64_t next = UINT64_MAX;
	for (unsigned i = 0; i < FT_QUERY_MAX; i++) {
		struct ft_query *query = &queries->queries[i];
		if (query->connection && query->deadline <= now)
			give_up(queries, query, NULL, "does not answer");
		if (query->connection && query->deadline < next)
			next = query->deadline;
	}
	return next;
}
