#include "gateway/guest.h"

#include <stdio.h>
#include <string.h>
#include <sysexits.h>

#include "gateway/journal.h"
#include "gateway/life.h"
#include "gateway/seed.h"
#include "gateway/suggest.h"

static const json_t *setting(const struct ft_config *config, const char *guest, const char *key)
{
	char path[128];
	snprintf(path, sizeof(path), "guests.%s.%s", guest, key);
	return ft_config_get(config, path);
}

void ft_guest_settings(const struct ft_config *config, struct ft_child *vmm)
{
	const char *restart = json_string_value(setting(config, vmm->guest, "restart"));
	vmm->restart = restart && !strcmp(restart, "never")      ? FT_RESTART_NEVER
		       : restart && !strcmp(restart, "on-crash") ? FT_RESTART_ON_CRASH
								 : FT_RESTART_ALWAYS;
	vmm->backoff_first = (uint64_t)json_integer_value(setting(config, vmm->guest, "backoff.first"));
	vmm->backoff_most = (uint64_t)json_integer_value(setting(config, vmm->guest, "backoff.most"));
	const char *start = json_string_value(setting(config, vmm->guest, "start"));
	const char *snapshot = json_string_value(setting(config, vmm->guest, "snapshot"));
	if (start && !strcmp(start, "snapshot"))
		snprintf(vmm->start_snapshot, sizeof(vmm->start_snapshot), "%s%s", snapshot ? snapshot : vmm->guest, snapshot ? "" : "-start");
	vmm->cpu = (unsigned)json_integer_value(setting(config, vmm->guest, "cpu"));
	vmm->cpu_weight = (unsigned)json_integer_value(setting(config, vmm->guest, "cpu_weight"));
}

static const char *state_of(const struct ft_child *vmm)
{
	switch (vmm->state) {
	case FT_CHILD_STARTING:
		return "starting";
	case FT_CHILD_READY:
		return vmm->running ? "up" : "booting";
	case FT_CHILD_STOPPING:
		return "stopping";
	default:
		return vmm->unwanted ? "stopped" : "down";
	}
}

json_t *ft_guest_json(const struct ft_supervisor *s, const struct ft_child *vmm)
{
	static const char *const settings[] = {"uplink", "vlan", "mac", "address", "memory", "restart"};
	json_t *json = json_pack("{s:s}", "state", state_of(vmm));
	if (vmm->isolated && vmm->pid)
		json_object_set_new(json, "isolated", json_true());
	if (vmm->pid)
		json_object_set_new(json, "engine", json_string(vmm->kvm ? "kvm" : "soft"));
	if (vmm->running)
		json_object_set_new(json, "boot_s", json_real((double)vmm->boot_ns / 1e9));
	for (size_t i = 0; i < sizeof(settings) / sizeof(*settings); i++) {
		json_t *value = (json_t *)setting(s->config, vmm->guest, settings[i]);
		if (value && !json_is_null(value))
			json_object_set(json, settings[i], value);
	}
	if (vmm->cpu)
		json_object_set_new(json, "cpu_percent", json_integer(vmm->cpu));
	if (vmm->cpu_weight != FT_CGROUP_WEIGHT)
		json_object_set_new(json, "cpu_weight", json_integer(vmm->cpu_weight));
	if (*vmm->cpu_why)
		json_object_set_new(json, "cpu_not_in_force", json_string(vmm->cpu_why));
	json_t *journal = ft_journal_json(s, vmm);
	if (journal)
		json_object_set_new(json, "journal", journal);
	json_object_set_new(json, "seeds", ft_seed_guest_status(vmm));
	return json;
}

/* The guest that a request names; NULL: the client has been told. */
static struct ft_child *named(struct ft_supervisor *s, uint64_t connection, const json_t *request)
{
	const char *name = json_string_value(json_object_get(request, "guest")), *known[FT_CONFIG_GUESTS];
	json_t *id = json_object_get(request, "id");
	size_t count = 0;
	if (!name) {
		ft_query_refuse(&s->control, connection, id, EX_USAGE, "this needs the name of a guest");
		return NULL;
	}
	for (unsigned i = 0; i < s->count; i++) {
		struct ft_child *child = &s->children[i];
		if (child->kind != FT_CHILD_VMM)
			continue;
		if (!strcmp(child->guest, name))
			return child;
		if (count < FT_CONFIG_GUESTS)
			known[count++] = child->guest;
	}
	const char *meant = ft_suggest(name, known, count);
	ft_query_refuse(&s->control, connection, id, EX_USAGE, "there is no guest \"%.64s\"%s%s%s", name,
			meant ? ", did you mean \"" : "", meant ? meant : "", meant ? "\"?" : "");
	return NULL;
}

/* The same for what changes something. */
struct ft_child *ft_guest_named(struct ft_supervisor *s, uint64_t connection, const json_t *request)
{
	struct ft_child *vmm = named(s, connection, request);
	if (vmm && s->phase == FT_PHASE_RUNNING)
		return vmm;
	if (vmm)
		ft_query_refuse(&s->control, connection, json_object_get(request, "id"), EX_TEMPFAIL,
				"the gateway is %s", s->phase == FT_PHASE_STARTING ? "starting" : "stopping");
	return NULL;
}

static void answer(struct ft_supervisor *s, uint64_t connection, const json_t *request, json_t *result)
{
	ft_control_answer(&s->control, connection,
			  json_pack("{s:O?, s:o}", "id", json_object_get(request, "id"), "result", result));
}

static void answer_state(struct ft_supervisor *s, uint64_t connection, const json_t *request,
			 const struct ft_child *vmm)
{
	answer(s, connection, request, json_pack("{s:s, s:s}", "guest", vmm->guest, "state", state_of(vmm)));
}

static void tell(struct ft_supervisor *s, uint64_t connection, const struct ft_child *vmm, const char *type,
		 const char *what)
{
	char who[80];
	ft_supervisor_record(s, type, vmm->guest, NULL, "guest %s is %s by %s", vmm->guest, what,
			     ft_control_who(&s->control, connection, who));
}

static void end(struct ft_supervisor *s, struct ft_child *vmm)
{
	/* The dataplane first: what is held ends by policy, and no packet goes where nobody takes it. */
	ft_life_guest_down(s, vmm, "an operator stops the guest");
	ft_life_stop(vmm);
}

static void begin(struct ft_supervisor *s, struct ft_child *vmm)
{
	vmm->unwanted = false;
	if (vmm->state == FT_CHILD_STOPPING) {
		vmm->again = true;
	} else if (vmm->state == FT_CHILD_DOWN) {
		vmm->failures = 0;
		ft_life_start(s, vmm);
	}
}

void ft_guest_start(struct ft_supervisor *s, uint64_t connection, json_t *request)
{
	struct ft_child *vmm = ft_guest_named(s, connection, request);
	if (!vmm)
		return;
	if (vmm->state == FT_CHILD_DOWN || (vmm->state == FT_CHILD_STOPPING && !vmm->again)) {
		tell(s, connection, vmm, "guest-start", "started");
		begin(s, vmm);
	}
	answer_state(s, connection, request, vmm);
}

void ft_guest_stop(struct ft_supervisor *s, uint64_t connection, json_t *request)
{
	struct ft_child *vmm = ft_guest_named(s, connection, request);
	if (!vmm)
		return;
	if (!vmm->unwanted || vmm->again)
		tell(s, connection, vmm, "guest-stop", "stopped");
	vmm->unwanted = true;
	vmm->again = false;
	vmm->retry_at = UINT64_MAX;
	if (vmm->state == FT_CHILD_STARTING || vmm->state == FT_CHILD_READY)
		end(s, vmm);
	answer_state(s, connection, request, vmm);
}

void ft_guest_restart(struct ft_supervisor *s, uint64_t connection, json_t *request)
{
	struct ft_child *vmm = ft_guest_named(s, connection, request);
	if (!vmm)
		return;
	tell(s, connection, vmm, "guest-restart", "restarted");
	if (vmm->state == FT_CHILD_STARTING || vmm->state == FT_CHILD_READY)
		end(s, vmm);
	begin(s, vmm);
	answer_state(s, connection, request, vmm);
}

void ft_guest_console(struct ft_supervisor *s, uint64_t connection, json_t *request)
{
	struct ft_child *vmm = named(s, connection, request);
	if (vmm)
		answer(s, connection, request,
		       json_pack("{s:s, s:O}", "guest", vmm->guest, "file",
				 setting(s->config, vmm->guest, "console")));
}
