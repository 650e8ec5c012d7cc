#include "gateway/answer.h"

#include <string.h>
#include <sysexits.h>

#include "gateway/guest.h"
#include "gateway/operate.h"
#include "gateway/reload.h"
#include "gateway/journal.h"
#include "gateway/seed.h"
#include "gateway/snapshot.h"
#include "gateway/suggest.h"
#include "gateway/suppress.h"
#include "gateway/supervisor.h"

static const char *phase_name(enum ft_supervisor_phase phase)
{
	static const char *const names[] = {"starting", "running", "stopping"};
	return names[phase];
}

static json_t *process_json(const struct ft_child *child, uint64_t now)
{
	json_t *json =
	    json_pack("{s:s, s:i, s:I, s:i}", "state", ft_child_state_name(child->state), "pid",
		      (int)child->pid, "uid", (json_int_t)child->uid, "restarts", (int)child->restarts);
	if (child->state == FT_CHILD_READY)
		json_object_set_new(json, "ready_s", json_real((double)(now - child->ready_at) / 1e9));
	return json;
}

/* What the supervisor itself knows; the children's own states are added as they answer. */
static json_t *own_status(const struct ft_supervisor *s)
{
	uint64_t now = ft_loop_now();
	json_t *guests = json_object(), *processes = json_object();
	for (unsigned i = 0; i < s->count; i++) {
		const struct ft_child *child = &s->children[i];
		json_object_set_new(processes, child->name, process_json(child, now));
		if (child->kind == FT_CHILD_VMM)
			json_object_set_new(guests, child->guest, ft_guest_json(s, child));
	}
	return json_pack("{s:s, s:s, s:s, s:s, s:s, s:f, s:o, s:o, s:o, s:o*}", "sensor",
			 ft_config_text(s->config, "sensor"), "version", FT_VERSION, "state",
			 phase_name(s->phase), "config", s->config->file, "feed",
			 ft_config_text(s->config, "feed.file"), "up_s", (double)(now - s->started) / 1e9,
			 "guests", guests, "processes", processes, "seeds", ft_seed_status(s), "canary", ft_canaries_json(&s->canaries, now));
}

/* what: of the dataplane, whose counters are not part of its status. */
static void ask_all(struct ft_supervisor *s, uint64_t connection, json_t *request, const char *what)
{
	json_t *own = own_status(s), *bypassed = ft_operate_bypassed(s);
	if (bypassed)
		json_object_set_new(own, "bypass", bypassed);
	struct ft_query *query = ft_query_begin(&s->queries, connection, request, own);
	for (unsigned i = 0; query && i < s->count; i++)
		if (s->children[i].state == FT_CHILD_READY)
			ft_query_ask(&s->queries, query, &s->children[i],
				     json_pack("{s:s}", "what",
					       s->children[i].kind == FT_CHILD_DATAPLANE ? what : "status"));
	if (query)
		ft_query_settle(&s->queries, query);
}

static void ask_status(struct ft_supervisor *s, uint64_t connection, json_t *request)
{
	ask_all(s, connection, request, "status");
}

static void ask_metrics(struct ft_supervisor *s, uint64_t connection, json_t *request)
{
	ask_all(s, connection, request, "metrics");
}

struct ft_query *ft_answer_ask(struct ft_supervisor *s, uint64_t connection, json_t *request,
			       enum ft_child_kind kind, json_t *message)
{
	struct ft_child *child = &s->children[kind == FT_CHILD_LEDGER ? 0 : 1];
	json_t *id = json_object_get(request, "id");
	if (child->state != FT_CHILD_READY) {
		ft_query_refuse(&s->control, connection, id, EX_UNAVAILABLE, "the %s process is %s",
				child->name, ft_child_state_name(child->state));
		json_decref(message);
		return NULL;
	}
	struct ft_query *query = ft_query_begin(&s->queries, connection, request, NULL);
	if (!query) {
		json_decref(message);
		return NULL;
	}
	if (ft_query_ask(&s->queries, query, child, message)) {
		ft_query_refuse(&s->control, connection, id, EX_UNAVAILABLE, "the %s process does not answer",
				child->name);
		json_decref(query->id);
		*query = (struct ft_query){0};
		return NULL;
	}
	return query;
}

static void ask_one(struct ft_supervisor *s, uint64_t connection, json_t *request, enum ft_child_kind kind,
		    json_t *message)
{
	ft_answer_ask(s, connection, request, kind, message);
}

static void ask_holds(struct ft_supervisor *s, uint64_t connection, json_t *request)
{
	ask_one(s, connection, request, FT_CHILD_DATAPLANE, json_pack("{s:s}", "what", "holds"));
}

static void ask_counters(struct ft_supervisor *s, uint64_t connection, json_t *request)
{
	ask_one(s, connection, request, FT_CHILD_DATAPLANE, json_pack("{s:s}", "what", "counters"));
}

static void ask_verdicts(struct ft_supervisor *s, uint64_t connection, json_t *request)
{
	json_int_t limit = json_integer_value(json_object_get(request, "limit"));
	if (limit < 1 || limit > 1000)
		limit = 50;
	ask_one(s, connection, request, FT_CHILD_LEDGER,
		json_pack("{s:s, s:I}", "what", "verdicts", "limit", limit));
}

static void ask_show(struct ft_supervisor *s, uint64_t connection, json_t *request)
{
	json_t *hold = json_object_get(request, "hold");
	if (!json_is_integer(hold) || json_integer_value(hold) < 0) {
		ft_query_refuse(&s->control, connection, json_object_get(request, "id"), EX_USAGE,
				"show needs the number of a hold");
		return;
	}
	ask_one(s, connection, request, FT_CHILD_LEDGER,
		json_pack("{s:s, s:O}", "what", "show", "hold", hold));
}

static const struct {
	const char *what;
	void (*ask)(struct ft_supervisor *s, uint64_t connection, json_t *request);
} requests[] = {
    {"status", ask_status},     {"holds", ask_holds}, {"counters", ask_counters},
    {"verdicts", ask_verdicts}, {"show", ask_show},     {"metrics", ask_metrics},
    {"guest-start", ft_guest_start}, {"guest-stop", ft_guest_stop}, {"guest-restart", ft_guest_restart},
    {"snapshot-save", ft_snapshot_request_save}, {"snapshot-state", ft_snapshot_request_state},
    {"snapshot-list", ft_snapshot_request_list}, {"snapshot-file", ft_snapshot_request_file},
    {"snapshot-delete", ft_snapshot_request_delete}, {"snapshot-restore", ft_snapshot_request_restore},
    {"guest-attach", ft_snapshot_request_attach},	 {"journal-files", ft_journal_request_files}, {"verdict-files", ft_seed_request_files},
    {"guest-console", ft_guest_console}, {"release", ft_operate_release}, {"drop", ft_operate_drop},
    {"mode", ft_operate_mode}, {"shadow", ft_operate_shadow}, {"bypass", ft_operate_bypass},
    {"reload", ft_reload_request}, {"reopen-logs", ft_reopen_request},
    {"suppress", ft_suppress_add}, {"unsuppress", ft_suppress_remove}, {"suppressions", ft_suppress_show},
};

#define REQUESTS (sizeof(requests) / sizeof(*requests))

void ft_answer_request(void *context, uint64_t connection, json_t *request)
{
	struct ft_supervisor *s = context;
	const char *what = json_string_value(json_object_get(request, "what")), *known[REQUESTS];
	for (size_t i = 0; i < REQUESTS; i++) {
		known[i] = requests[i].what;
		if (!strcmp(what, known[i])) {
			requests[i].ask(s, connection, request);
			return;
		}
	}
	const char *meant = ft_suggest(what, known, REQUESTS);
	ft_query_refuse(&s->control, connection, json_object_get(request, "id"), EX_USAGE,
			"there is no request \"%.64s\"%s%s%s", what, meant ? ", did you mean \"" : "",
			meant ? meant : "", meant ? "\"?" : "");
}

void ft_answer_closed(void *context, uint64_t connection)
{
	struct ft_supervisor *s = context;
	ft_query_drop(&s->queries, connection);
}
