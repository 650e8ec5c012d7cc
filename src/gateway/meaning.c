#include "gateway/meaning.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>

#include "base/units.h"
#include "detect/profile.h"
#include "detect/rules.h"
#include "gateway/loopback.h"
#include "gateway/suggest.h"
#include "snapshot/file.h"

static int place(const struct ft_config *config, struct ft_error *err, const char *text, const char *format,
		 ...) __attribute__((format(printf, 4, 5)));

/* An error at a path made by format; when nobody wrote that key, at the name of what it would be in. */
static int place(const struct ft_config *config, struct ft_error *err, const char *text, const char *format,
		 ...)
{
	char path[256];
	va_list args;
	va_start(args, format);
	vsnprintf(path, sizeof(path), format, args);
	va_end(args);
	const struct ft_yaml *node = ft_config_where(config, path);
	const char *dot = strrchr(path, '.');
	bool written = node->key && !strcmp(node->key, dot ? dot + 1 : path);
	return written ? ft_yaml_error(err, node, "%s", text) : ft_yaml_key_error(err, node, "%s", text);
}

static json_int_t whole(const json_t *map, const char *name)
{
	return json_integer_value(json_object_get(map, name));
}

static const char *text_of(const json_t *map, const char *name)
{
	const char *text = json_string_value(json_object_get(map, name));
	return text ? text : "";
}

/* "there is no uplink "wna", did you mean "wan"?", at a path made by format. */
static int unknown_name(const struct ft_config *config, const char *what, const char *name, const char *format,
			const char *owner, struct ft_error *err)
{
	const char *known[FT_CONFIG_GUESTS] = {NULL}, *key;
	char list[16], text[300], path[256];
	size_t count = 0;
	json_t *value;
	snprintf(list, sizeof(list), "%ss", what);
	json_object_foreach((json_t *)ft_config_get(config, list), key, value) if (count < FT_CONFIG_GUESTS)
	    known[count++] = key;
	const char *meant = ft_suggest(name, known, count);
	snprintf(text, sizeof(text), "there is no %s \"%.64s\", %s\"%s\"%s", what, name,
		 meant ? "did you mean " : "expected a name such as ", meant ? meant : known[0], meant ? "?" : "");
	snprintf(path, sizeof(path), format, owner);
	return place(config, err, text, "%s", path);
}

/* Two uplinks on one device, by its name for DPDK or by the interface behind it. */
static bool same_device(const char *a, const char *b)
{
	size_t x = strcspn(a, ","), y = strcspn(b, ",");
	if (x == y && !strncmp(a, b, x))
		return true;
	a = strstr(a, "iface=");
	b = strstr(b, "iface=");
	if (!a || !b)
		return false;
	x = strcspn(a, ",");
	return x == strcspn(b, ",") && !strncmp(a, b, x);
}

static int check_uplinks(const struct ft_config *config, struct ft_error *err)
{
	const json_t *uplinks = ft_config_get(config, "uplinks");
	const char *name, *other;
	json_t *uplink, *before;
	size_t seen = 0;
	if (json_object_size(uplinks) == 0)
		return place(config, err,
			     "there is no uplink, expected for example \"uplink: {port: "
			     "\"net_af_packet0,iface=eth1\"}\"",
			     "uplinks");
	json_object_foreach((json_t *)uplinks, name, uplink)
	{
		if (++seen > FT_CONFIG_UPLINKS)
			return place(config, err, "more than 16 uplinks", "uplinks.%s", name);
		json_object_foreach((json_t *)uplinks, other, before)
		{
			if (before == uplink)
				break;
			if (!same_device(text_of(uplink, "port"), text_of(before, "port")))
				continue;
			char text[200];
			snprintf(text, sizeof(text),
				 "uplink \"%s\" has the same device, expected one for each", other);
			return place(config, err, text, "uplinks.%s.port", name);
		}
	}
	return 0;
}

/* What counts instructions needs an engine that does. */
static int check_engine(const struct ft_config *config, const char *name, const json_t *guest, struct ft_error *err)
{
	const char *engine = text_of(guest, "engine");
	if (!strcmp(text_of(json_object_get(guest, "clone"), "engine"), "kvm") && !strcmp(engine, "soft"))
		return place(config, err, "clones can run on engine kvm only where their guest does, expected \"engine: kvm\" or \"engine: auto\"",
			     "guests.%s.clone.engine", name);
	if (strcmp(engine, "kvm"))
		return 0;
	if (!strcmp(text_of(guest, "journal"), "on"))
		return place(config, err, "journal is on, but engine kvm counts no instructions, so that the run could not be repeated: expected "
			     "\"engine: soft\" or \"engine: auto\"", "guests.%s.journal", name);
	if (!strcmp(text_of(guest, "clock"), "free"))
		return place(config, err, "clock is free, but engine kvm counts no instructions: expected \"engine: soft\" or \"clock: live\"",
			     "guests.%s.clock", name);
	return 0;
}

/* Only engine kvm has several processors. What would not be as it is configured is refused, not changed: clones on kvm show less. */
static int check_vcpus(const struct ft_config *config, const char *name, const json_t *guest, struct ft_error *err)
{
	const char *why = NULL;
	if (whole(guest, "vcpus") == 1)
		return 0;
	if (!strcmp(text_of(guest, "engine"), "soft"))
		why = "vcpus is more than 1, but engine soft has one processor, expected 1, \"engine: kvm\" or \"engine: auto\"";
	else if (strcmp(text_of(json_object_get(guest, "clone"), "engine"), "kvm"))
		why = "vcpus is more than 1, but clones on engine soft have one processor, expected 1 or \"clone: {engine: kvm}\", on which they show "
		      "their network, disk and console alone";
	else if (!strcmp(text_of(guest, "journal"), "on"))
		why = "vcpus is more than 1, but a journal counts instructions, and engine soft, which does, has one processor: expected 1 or "
		      "\"journal: off\"";
	else if (!strcmp(text_of(guest, "clock"), "free"))
		why = "vcpus is more than 1, but the free clock counts instructions, and engine soft, which does, has one processor: expected 1 or "
		      "\"clock: live\"";
	return why ? place(config, err, why, "guests.%s.vcpus", name) : 0;
}

/* The host's own processor is to be had on engine kvm alone, and is no other's. */
static int check_portable(const struct ft_config *config, const char *name, const json_t *guest, struct ft_error *err)
{
	const char *why = NULL;
	if (strcmp(text_of(guest, "portable"), "false"))
		return 0;
	if (strcmp(text_of(guest, "engine"), "kvm"))
		why = "portable is false, but only engine kvm has the host's own processor, expected \"portable: true\" or \"engine: kvm\"";
	else if (strcmp(text_of(json_object_get(guest, "clone"), "engine"), "kvm"))
		why = "portable is false, but clones on engine soft do not have the host's own processor, expected \"portable: true\" or \"clone: {engine: "
		      "kvm}\", on which they show their network, disk and console alone";
	else if (!strcmp(text_of(guest, "start"), "snapshot"))
		why = "portable is false, but such a guest cannot be saved, expected \"portable: true\" or \"start: boot\"";
	return why ? place(config, err, why, "guests.%s.portable", name) : 0;
}

static int check_guest(const struct ft_config *config, const char *name, const json_t *guest,
		       struct ft_error *err)
{
	const json_t *uplinks = ft_config_get(config, "uplinks");
	const char *uplink = text_of(guest, "uplink");
	if (check_vcpus(config, name, guest, err))
		return err->code;
	if (check_engine(config, name, guest, err))
		return err->code;
	if (check_portable(config, name, guest, err))
		return err->code;
	if (*uplink && !json_object_get(uplinks, uplink))
		return unknown_name(config, "uplink", uplink, "guests.%s.uplink", name, err);
	if (!*uplink && json_object_size(uplinks) > 1) {
		char text[200];
		void *first = json_object_iter((json_t *)uplinks);
		snprintf(text, sizeof(text), "there are several uplinks, expected for example \"uplink: %s\"",
			 json_object_iter_key(first));
		return place(config, err, text, "guests.%s.uplink", name);
	}
	if (*text_of(guest, "snapshot") && !ft_snapshot_name(text_of(guest, "snapshot")))
		return place(config, err,
			     "snapshot is no name of one: letters, digits, '-', '_' and '.', not at the beginning, at most 64", "guests.%s.snapshot",
			     name);
	if (!strcmp(text_of(guest, "output_commit"), "on") && strcmp(text_of(guest, "journal"), "on"))
		return place(config, err, "output_commit is on, but there is no journal to wait for: expected \"journal: on\"", "guests.%s.output_commit", name);
	if (*text_of(guest, "snapshot") && strcmp(text_of(guest, "start"), "snapshot"))
		return place(config, err, "snapshot names one, but start is boot: expected \"start: snapshot\"", "guests.%s.snapshot", name);
	const json_t *backoff = json_object_get(guest, "backoff");
	if (whole(backoff, "first") > whole(backoff, "most"))
		return place(config, err, "backoff.first is longer than backoff.most", "guests.%s.backoff.first",
			     name);
	return 0;
}

static bool same_vlan(const json_t *a, const json_t *b)
{
	const char *x = text_of(a, "uplink"), *y = text_of(b, "uplink");
	const json_t *vlan = json_object_get(a, "vlan"), *other = json_object_get(b, "vlan");
	bool trunk = !strcmp(text_of(a, "vlan"), "trunk") || !strcmp(text_of(b, "vlan"), "trunk");
	/* No name is the only uplink's. */
	return (!*x || !*y || !strcmp(x, y)) && (trunk || json_equal((json_t *)vlan, (json_t *)other));
}

/* What no two guests may share. */
static int check_pair(const struct ft_config *config, const char *name, const json_t *guest, const char *other,
		      const json_t *before, struct ft_error *err)
{
	static const struct {
		const char *key, *what;
		bool in_vlan;
	} unique[] = {{"mac", "MAC address in the same VLAN", true},
		      {"address", "address in the same VLAN", true},
		      {"console", "console log", false},
		      {"snapshot", "snapshot to start from", false}};
	for (size_t i = 0; i < sizeof(unique) / sizeof(*unique); i++) {
		if (!*text_of(guest, unique[i].key) || strcmp(text_of(guest, unique[i].key), text_of(before, unique[i].key)) ||
		    (unique[i].in_vlan && !same_vlan(guest, before)))
			continue;
		char text[200];
		snprintf(text, sizeof(text), "guest \"%s\" has the same %s", other, unique[i].what);
		return place(config, err, text, "guests.%s.%s", name, unique[i].key);
	}
	return 0;
}

static int check_guests(const struct ft_config *config, struct ft_error *err)
{
	const json_t *guests = ft_config_get(config, "guests");
	if (json_object_size(guests) == 0)
		return place(config, err, "there is no guest, expected one below \"guests\"", "guests");
	const char *name, *other;
	json_t *guest, *before;
	size_t seen = 0;
	json_object_foreach((json_t *)guests, name, guest)
	{
		if (++seen > FT_CONFIG_GUESTS)
			return place(config, err, "more than 64 guests", "guests.%s", name);
		int error = check_guest(config, name, guest, err);
		json_object_foreach((json_t *)guests, other, before)
		{
			if (error || before == guest)
				break;
			error = check_pair(config, name, guest, other, before, err);
		}
		if (error)
			return error;
	}
	return 0;
}

static int check_profile(const struct ft_config *config, const char *name, const json_t *service,
			 struct ft_error *err)
{
	struct ft_profile *profile = NULL;
	struct ft_error why = {0};
	char where[FT_DOOR_WHERE] = "", pointer[FT_DOOR_WHERE + 128];
	int error = ft_profile_load(json_object_get(service, "normal"), &profile, where, &why);
	ft_profile_free(profile);
	if (!error)
		return 0;
	snprintf(pointer, sizeof(pointer), "/services/%s/normal%s", name, where);
	return ft_yaml_error(err, ft_yaml_at(config->tree, pointer), "%s", why.text);
}

static bool is_written(const struct ft_config *config, const char *service, const char *key)
{
	char path[256];
	snprintf(path, sizeof(path), "services.%s.%s", service, key);
	const struct ft_yaml *node = ft_config_where(config, path);
	return node->key && !strcmp(node->key, key);
}

/* Policies and limits that contradict each other. */
static int check_policies(const struct ft_config *config, const char *name, const json_t *service,
			  struct ft_error *err)
{
	static const char *const policies[] = {"on_timeout", "on_error", "on_overload", "on_oversize"};
	unsigned own = 0;
	for (unsigned i = 0; i < 4; i++)
		own += json_is_string(json_object_get(service, policies[i]));
	if (own == 4 && is_written(config, name, "on_exception"))
		return place(config, err,
			     "on_exception decides nothing: on_timeout, on_error, on_overload and on_oversize are "
			     "all given, expected it or one of them to be left out",
			     "services.%s.on_exception", name);
	if (whole(service, "held") < whole(service, "hold_limit"))
		return place(config, err, "held is less than hold_limit: one hold alone would be beyond it",
			     is_written(config, name, "held") ? "services.%s.held" : "services.%s.hold_limit",
			     name);
	if (whole(service, "source_holds") > whole(service, "holds") &&
	    is_written(config, name, "source_holds"))
		return place(config, err, "source_holds is more than holds: it would never be reached",
			     "services.%s.source_holds", name);
	json_t *clones = json_object_get(service, "clones");
	if (json_integer_value(clones) > json_integer_value(ft_config_get(config, "clone.max")))
		return place(config, err, "clones is more than clone.max: it would never be reached",
			     "services.%s.clones", name);
	if (whole(service, "quarantine") > json_integer_value(ft_config_get(config, "quarantine.quota")))
		return place(config, err, "quarantine is more than quarantine.quota: it would never be reached",
			     "services.%s.quarantine", name);
	if (whole(service, "hold_time") <= whole(service, "gather"))
		return place(config, err, "hold_time is not longer than gather: no trial would ever begin",
			     "services.%s.hold_time", name);
	if (whole(service, "input_limit") < whole(service, "hold_limit"))
		return place(config, err, "input_limit is less than hold_limit: no hold could ever be that large",
			     is_written(config, name, "input_limit") ? "services.%s.input_limit"
								    : "services.%s.hold_limit",
			     name);
	return 0;
}

static int check_service(const struct ft_config *config, const char *name, const json_t *service,
			 struct ft_error *err)
{
	if (!json_object_get(ft_config_get(config, "guests"), text_of(service, "guest")))
		return unknown_name(config, "guest", text_of(service, "guest"), "services.%s.guest", name, err);
	bool rules = json_array_size(json_object_get(service, "rules")) > 0;
	if (!rules && !strcmp(text_of(service, "risks"), "none") &&
	    !strcmp(text_of(service, "screen"), "suspicious"))
		return place(
		    config, err,
		    "nothing would ever be suspicious: there are no rules and no risks, expected rules, "
		    "risks, or \"screen: all\"",
		    "services.%s.screen", name);
	if (whole(service, "gather") >= json_integer_value(ft_config_get(config, "clone.wall")))
		return place(config, err,
			     "gather is not shorter than clone.wall: each hold would outlive its trial",
			     "services.%s.gather", name);
	int error = check_policies(config, name, service, err);
	if (error)
		return error;
	const char *other;
	json_t *value;
	json_object_foreach((json_t *)ft_config_get(config, "services"), other, value)
	{
		if (!strcmp(other, name))
			break;
		if (strcmp(text_of(value, "guest"), text_of(service, "guest")) ||
		    strcmp(text_of(value, "protocol"), text_of(service, "protocol")) ||
		    whole(value, "port") != whole(service, "port"))
			continue;
		char text[200];
		snprintf(text, sizeof(text), "%s port %d of guest %s belongs to service \"%s\" already",
			 text_of(service, "protocol"), (int)whole(service, "port"), text_of(service, "guest"),
			 other);
		return place(config, err, text, "services.%s.port", name);
	}
	return check_profile(config, name, service, err);
}

/* Names of sockets are short, and one name is one thing. The key that is named is never `control`, which may stand above
 * what it is in the way of. */
static int check_sockets(const struct ft_config *config, struct ft_error *err)
{
	static const char *const keys[] = {"control", "feed.socket", "feed.syslog.socket", "metrics.listen"};
	static const char *const others[] = {"control", "feed.file", "feed.socket"};
	char text[160];
	for (size_t i = 0; i < sizeof(keys) / sizeof(*keys); i++) {
		const char *path = ft_config_text(config, keys[i]);
		if (path && strlen(path) >= sizeof(((struct sockaddr_un *)NULL)->sun_path)) {
			snprintf(text, sizeof(text),
				 "%s is longer than the 107 characters that a socket's name may have",
				 keys[i]);
			return place(config, err, text, "%s", keys[i]);
		}
		for (size_t k = 0; k < sizeof(others) / sizeof(*others) && path && i; k++) {
			const char *other = ft_config_text(config, others[k]);
			if (!strcmp(others[k], keys[i]) || !other || strcmp(other, path))
				continue;
			snprintf(text, sizeof(text), "%s and %s are the same file", keys[i], others[k]);
			return place(config, err, text, "%s", keys[i]);
		}
	}
	return 0;
}

/* One IPv6 address can be written in many ways. */
static bool same_address(const char *a, const char *b)
{
	struct in6_addr x, y;
	return !strcmp(a, b) ||
	       (inet_pton(AF_INET6, a, &x) == 1 && inet_pton(AF_INET6, b, &y) == 1 && !memcmp(&x, &y, sizeof(x)));
}

/* The self-test's client has addresses of its own. */
static int check_canary(const struct ft_config *config, const char *name, const json_t *guest, struct ft_error *err)
{
	static const char *const keys[][2] = {{"canary", "address"}, {"canary6", "address6"}};
	json_t *guests = (json_t *)ft_config_get(config, "guests"), *other;
	const char *others;
	char text[160];
	for (size_t i = 0; i < 2; i++)
		json_object_foreach(guests, others, other)
		{
			if (!*text_of(guest, keys[i][0]) || !same_address(text_of(guest, keys[i][0]), text_of(other, keys[i][1])))
				continue;
			snprintf(text, sizeof(text), "%s is the address of guest \"%.64s\", expected one that nobody has", keys[i][0], others);
			return place(config, err, text, "guests.%s.%s", name, keys[i][0]);
		}
	if (*text_of(guest, "canary6") && !*text_of(guest, "address6"))
		return place(config, err, "canary6 tests an IPv6 address that the guest does not have, expected address6 as well",
			     "guests.%s.canary6", name);
	return 0;
}

static int check_canaries(const struct ft_config *config, struct ft_error *err)
{
	json_t *guest;
	const char *name;
	json_object_foreach((json_t *)ft_config_get(config, "guests"), name, guest)
	{
		int error = check_canary(config, name, guest, err);
		if (error)
			return error;
	}
	json_t *service;
	json_object_foreach((json_t *)ft_config_get(config, "services"), name, service)
	{
		size_t length = json_string_length(json_object_get(service, "canary_attack"));
		if (length > 1024)
			return place(config, err, "canary_attack is longer than 1024 bytes", "services.%s.canary_attack", name);
	}
	return 0;
}

static int check_metrics(const struct ft_config *config, struct ft_error *err)
{
	const char *listen = ft_config_text(config, "metrics.listen");
	struct ft_error why = {0};
	struct sockaddr_in address;
	if (!listen || *listen == '/' || !ft_loopback_parse(listen, &address, &why))
		return 0;
	char text[sizeof(why.text) + 16];
	snprintf(text, sizeof(text), "listen: %s", why.text);
	return place(config, err, text, "metrics.listen");
}

static int check_snapshots(const struct ft_config *config, struct ft_error *err)
{
	const char *credential = ft_config_text(config, "snapshots.credential");
	if (credential && (strchr(credential, '/') || *credential == '.'))
		return place(config, err, "credential is no name: it has no directory in it, and begins with no point", "snapshots.credential");
	if (credential && ft_config_text(config, "snapshots.key"))
		return place(config, err, "key and credential are both given, expected one of them", "snapshots.credential");
	return 0;
}

static int check_files(const struct ft_config *config, struct ft_error *err)
{
	const char *feed = ft_config_text(config, "feed.file"), *name;
	json_t *guest;
	json_object_foreach(
	    (json_t *)ft_config_get(config, "guests"), name,
	    guest) if (!strcmp(text_of(guest, "console"),
			       feed)) return place(config, err,
						   "the console log and feed.file are the same file",
						   "guests.%s.console", name);
	return check_sockets(config, err);
}

int ft_meaning_check(const struct ft_config *config, struct ft_error *err)
{
	int error = check_uplinks(config, err);
	if (!error)
		error = check_guests(config, err);
	const char *name;
	json_t *service;
	json_object_foreach((json_t *)ft_config_get(config, "services"), name, service) if (!error) error =
	    check_service(config, name, service, err);
	if (!error)
		error = check_canaries(config, err);
	if (!error)
		error = check_metrics(config, err);
	if (!error)
		error = check_snapshots(config, err);
	return error ? error : check_files(config, err);
}

/* ---- Rule files ------------------------------------------------------------------------------------------------ */

/* Notes the sids of a file's patterns, so that a service can say which rules are its own. */
static void note_sids(struct ft_config *config, const char *path, const json_t *file)
{
	json_t *sids = json_array(), *pattern;
	size_t i;
	json_array_foreach(json_object_get(file, "patterns"), i, pattern)
	    json_array_append(sids, json_object_get(pattern, "sid"));
	json_object_set_new(config->sids, path, sids);
}

/* key: where the file is named, so that a missing file points there. */
static int load_rules(struct ft_config *config, const char *path, const struct ft_yaml *named,
		      struct ft_error *err)
{
	if (json_object_get(config->sids, path))
		return 0;
	struct ft_yaml *tree;
	struct ft_error why = {0};
	int error = ft_yaml_read(path, &tree, &why);
	if (error) {
		/* A file that is not there is an error of who names it; one that is wrong names its own place. */
		if (error == -EINVAL)
			return ft_error_set(err, error, "%s", why.text);
		ft_yaml_error(err, named, "%s", why.text);
		if (err)
			err->code = error;
		return error;
	}
	json_t *file = ft_yaml_json(tree);
	char where[FT_DOOR_WHERE] = "";
	error = file ? ft_rules_check_file(file, where, &why) : -ENOMEM;
	if (!error)
		error = ft_rules_merge(config->rules, file, where, &why);
	if (error)
		ft_yaml_error(err, ft_yaml_at(tree, where), "%s", why.text);
	else
		note_sids(config, path, file);
	json_decref(file);
	ft_yaml_free(tree);
	return error;
}

int ft_meaning_load_rules(struct ft_config *config, struct ft_error *err)
{
	config->rules = json_pack("{s:[], s:[], s:[]}", "patterns", "verdicts", "correlations");
	config->sids = json_object();
	if (!config->rules || !config->sids)
		return -ENOMEM;
	static const char *const keys[] = {"verdict_rules", "correlation_rules"};
	int error = 0;
	for (size_t i = 0; i < 2 && !error; i++)
		error = load_rules(config, ft_config_text(config, keys[i]), ft_config_where(config, keys[i]),
				   err);
	const char *name;
	json_t *service, *path;
	size_t i;
	json_object_foreach((json_t *)ft_config_get(config, "services"), name, service)
	    json_array_foreach(json_object_get(service, "rules"), i, path)
	{
		char pointer[128];
		snprintf(pointer, sizeof(pointer), "/services/%s/rules/%zu", name, i);
		if (!error)
			error = load_rules(config, json_string_value(path), ft_yaml_at(config->tree, pointer),
					   err);
	}
	return error;
}
