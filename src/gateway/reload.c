#include "gateway/reload.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "gateway/answer.h"
#include "gateway/files.h"
#include "gateway/operate.h"
#include "gateway/rulefile.h"

#define PATH 256

/* ---- what can change ---- */

/* Each with everything below it. All else is given to a process once, when it starts. */
static const char *const changeable[] = {
    "services",         "clone.handling_instructions",
    "clone.horizon",    "clone.horizon_instructions",
    "clone.wall",       "clone.memory",
    "clone.source",     "clone.group",
    "clone.parallel",   "verdict_rules",
    "feed.quota",       "correlation_rules",
    "quarantine.quota",
};

static bool may_change(const char *path)
{
	for (size_t i = 0; i < sizeof(changeable) / sizeof(*changeable); i++) {
		size_t length = strlen(changeable[i]);
		if (!strncmp(path, changeable[i], length) && (!path[length] || path[length] == '.'))
			return true;
	}
	return false;
}

/* Puts the first path below `at` that differs and may not into path. */
static bool find_change(const json_t *from, const json_t *to, const char *at, char path[PATH])
{
	if (may_change(at) || json_equal(from, to))
		return false;
	snprintf(path, PATH, "%s", at);
	if (!json_is_object(from) || !json_is_object(to))
		return true;
	const json_t *sides[] = {to, from};
	for (int i = 0; i < 2; i++) {
		const char *name;
		json_t *value;
		json_object_foreach((json_t *)sides[i], name, value)
		{
			char below[PATH];
			if (snprintf(below, sizeof(below), "%s%s%s", at, *at ? "." : "", name) < PATH &&
			    find_change(json_object_get(from, name), json_object_get(to, name), below, path))
				return true;
		}
	}
	return false;
}

int ft_reload_check(const struct ft_config *from, const struct ft_config *to, struct ft_error *err)
{
	char path[PATH];
	if (!find_change(from->values, to->values, "", path))
		return 0;
	ft_error_set(err, -EINVAL,
		     "%s cannot change while the gateway runs: restart it, or leave the key as it was",
		     ft_config_written(to, path));
	ft_config_place(to, path, err);
	return -EINVAL;
}

/* ---- reloading ---- */

/* The connection of what nobody waits for: no client ever has this number. */
#define NOBODY UINT64_MAX

static void failed(struct ft_supervisor *s, uint64_t connection, const json_t *id, int code, const char *why,
		   const char *who)
{
	ft_supervisor_record(s, "reload-failed", NULL, NULL,
			     "the configuration stays as it was (reload by %s): %s", who, why);
	if (connection != NOBODY)
		ft_query_refuse(&s->control, connection, (json_t *)id, code, "%s", why);
}

/* Reads and checks the file. The result is the caller's. */
static struct ft_config *load(const struct ft_supervisor *s, struct ft_error *err)
{
	struct ft_config *config = calloc(1, sizeof(*config));
	int error = config
			? ft_config_load(config, s->config->file, s->config->sets, s->config->set_count, err)
			: ft_error_set(err, -ENOMEM, "no memory");
	if (!error) {
		error = ft_reload_check(s->config, config, err);
		if (error)
			ft_config_free(config);
	}
	if (!error)
		return config;
	free(config);
	return NULL;
}

/* The rules that were in force still are. */
static void keep_rules(struct ft_supervisor *s)
{
	json_t *part = ft_config_dataplane(s->config);
	ft_rulefile_keep(s, part);
	json_decref(part);
}

static void reload(struct ft_supervisor *s, uint64_t connection, json_t *request, const char *who)
{
	struct ft_error err = {0};
	json_t *id = json_object_get(request, "id");
	if (s->phase != FT_PHASE_RUNNING || s->pending) {
		failed(s, connection, id, EX_TEMPFAIL,
		       s->pending ? "another reload is under way" : "the gateway is not running yet", who);
		return;
	}
	struct ft_config *config = load(s, &err);
	if (!config) {
		failed(s, connection, id, ft_config_exit(err.code), err.text, who);
		return;
	}
	json_t *part = ft_config_dataplane(config);
	ft_operate_patch(s, part);
	ft_rulefile_keep(s, part);
	struct ft_query *query = ft_answer_ask(s, connection, request, FT_CHILD_DATAPLANE,
					       json_pack("{s:s, s:o}", "what", "reload", "config", part));
	if (!query) {
		keep_rules(s);
		failed(s, NOBODY, NULL, 0, "the dataplane process does not take it", who);
		ft_config_free(config);
		free(config);
		return;
	}
	/* Compiling takes as long as it takes; if the dataplane dies of it that is noticed. */
	query->deadline = UINT64_MAX;
	query->act = json_pack("{s:s, s:s}", "type", "reload", "who", who);
	s->pending = config;
}

static void tell_ledger(struct ft_supervisor *s)
{
	struct ft_child *ledger = ft_supervisor_ledger(s);
	json_t *part = ft_config_ledger(s->config);
	if (ledger->state == FT_CHILD_READY)
		ft_child_send(ledger,
			      json_pack("{s:s, s:O, s:O, s:O, s:O?}", "op", "quotas", "feed_quota",
					json_object_get(part, "feed_quota"), "quarantine_quota",
					json_object_get(part, "quarantine_quota"), "quarantine_shares",
					json_object_get(part, "quarantine_shares"), "config_sha256",
					json_object_get(part, "config_sha256")),
			      NULL, 0);
	json_decref(part);
}

void ft_reload_acted(struct ft_supervisor *s, const json_t *act, int code, const char *error)
{
	const char *who = json_string_value(json_object_get(act, "who"));
	struct ft_config *config = s->pending;
	s->pending = NULL;
	if (code) {
		keep_rules(s);
		failed(s, NOBODY, NULL, code, error, who);
	} else {
		ft_config_adopt(s->config, config);
		if (ft_canaries_renew(&s->canaries, s->config, ft_loop_now()))
			ft_supervisor_record(s, "error", NULL, NULL, "no memory to follow the self-tests of new services");
		tell_ledger(s);
		ft_supervisor_record(s, "reload", NULL, NULL, "the configuration was reloaded by %s", who);
	}
	ft_config_free(config);
	free(config);
}

void ft_reload_request(struct ft_supervisor *s, uint64_t connection, json_t *request)
{
	char who[80];
	reload(s, connection, request, ft_control_who(&s->control, connection, who));
}

void ft_reload_signal(struct ft_supervisor *s)
{
	json_t *request = json_object();
	reload(s, NOBODY, request, "SIGHUP");
	json_decref(request);
}

/* ---- reopening logs ---- */

/* Opens each log again under its name and hands it to who writes it. The first failure is told; the others are tried. */
static int reopen(struct ft_supervisor *s, const char *who, struct ft_error *err)
{
	int error = 0;
	for (unsigned i = 0; i < s->count; i++) {
		struct ft_child *child = &s->children[i];
		bool vmm = child->kind == FT_CHILD_VMM;
		struct ft_error why = {0};
		if (child->state != FT_CHILD_READY || (!vmm && child->kind != FT_CHILD_LEDGER))
			continue;
		int fd = ft_files_log(s->config, vmm ? child->guest : NULL, &why), failure = fd < 0 ? fd : 0;
		if (!failure)
			failure = ft_child_send(child, json_pack("{s:s}", "op", "reopen"), &fd, 1);
		ft_files_close(&fd, 1);
		if (failure && !error)
			error = ft_error_set(err, failure, "%s",
					     *why.text ? why.text : "a process does not take its log");
	}
	if (error)
		ft_supervisor_record(s, "reopen-failed", NULL, NULL, "not all logs were reopened by %s: %s",
				     who, err->text);
	else
		ft_supervisor_record(s, "reopen-logs", NULL, NULL, "the logs were reopened by %s", who);
	return error;
}

void ft_reopen_request(struct ft_supervisor *s, uint64_t connection, json_t *request)
{
	char who[80];
	struct ft_error err = {0};
	json_t *id = json_object_get(request, "id");
	int error = reopen(s, ft_control_who(&s->control, connection, who), &err);
	if (error)
		ft_query_refuse(&s->control, connection, id, ft_config_exit(error), "%s", err.text);
	else
		ft_control_answer(&s->control, connection,
				  json_pack("{s:O?, s:{s:b}}", "id", id, "result", "reopened", 1));
}

void ft_reopen_signal(struct ft_supervisor *s)
{
	struct ft_error err = {0};
	reopen(s, "SIGUSR1", &err);
}
