#include "gateway/config.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/units.h"
#include "gateway/keys.h"
#include "gateway/meaning.h"
#include "gateway/suggest.h"
#include "ledger/hash.h"

#define PATH_LENGTH 256

int ft_config_exit(int code)
{
	switch (code) {
	case 0:
		return EX_OK;
	case -EINVAL:
	case -EFBIG:
		return EX_CONFIG;
	case -ENOENT:
	case -ENOTDIR:
	case -EISDIR:
		return EX_NOINPUT;
	case -EACCES:
	case -EPERM:
		return EX_NOPERM;
	case -EADDRINUSE:
	case -ENODEV:
	case -ETIMEDOUT:
	case -ECONNREFUSED:
		return EX_UNAVAILABLE;
	case -ENOSPC:
	case -EROFS:
		return EX_CANTCREAT;
	case -EIO:
		return EX_IOERR;
	case -EPROTO:
		return EX_SOFTWARE;
	default:
		return EX_OSERR;
	}
}

/* ---- Checking a map against the table ------------------------------------------------------------------------ */

static int walk(const struct ft_key *parent, const char *path, const struct ft_yaml *node,
		const struct ft_yaml *near, json_t *out, struct ft_error *err);

static bool name_is_good(const char *name)
{
	size_t length = strlen(name);
	return length > 0 && length < FT_CONFIG_NAME && isalnum((unsigned char)name[0]) &&
	       strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-_") == length;
}

static int join(char path[PATH_LENGTH], const char *parent, const char *name, const struct ft_yaml *node,
		struct ft_error *err)
{
	if (snprintf(path, PATH_LENGTH, "%s%s%s", parent, *parent ? "." : "", name) >= PATH_LENGTH)
		return ft_yaml_key_error(err, node, "a name of more than %d characters", PATH_LENGTH);
	return 0;
}

/* Did only one of the two names stand in the file (name_uplink)? */
static bool is_wrapped(const struct ft_yaml *outer, const struct ft_yaml *inner)
{
	return inner->key_line && inner->key_line == outer->key_line && inner->key_column == outer->key_column;
}

const char *ft_config_written(const struct ft_config *config, const char *path)
{
	const struct ft_yaml *outer = ft_yaml_get(config->tree, "uplinks"), *inner = ft_yaml_get(outer, "uplink");
	return inner && is_wrapped(outer, inner) && !strncmp(path, "uplinks.uplink", 14) ? path + strlen("uplinks.") : path;
}

/* guests.*, services.*: the operator's names. */
static int walk_named(const struct ft_key *key, const char *path, const struct ft_yaml *node, json_t *out,
		      struct ft_error *err)
{
	for (size_t i = 0; node && i < node->count; i++) {
		const struct ft_yaml *entry = node->items[i];
		char below[PATH_LENGTH];
		if (!name_is_good(entry->key))
			return ft_yaml_key_error(
			    err, entry,
			    "\"%.64s\" cannot be a name, expected at most %d lower-case letters, "
			    "digits, dashes and underscores",
			    entry->key, FT_CONFIG_NAME - 1);
		json_t *map = json_object();
		json_object_set_new(out, entry->key, map);
		int error = join(below, is_wrapped(node, entry) ? "" : path, entry->key, entry, err);
		if (!error)
			error = walk(key, below, entry, entry, map, err);
		if (error)
			return error;
	}
	return 0;
}

static int unknown_key(const struct ft_key *parent, const char *path, const struct ft_yaml *entry,
		       struct ft_error *err)
{
	const char *known[64] = {NULL};
	size_t count = 0;
	for (size_t i = 0; i < ft_keys_count && count < 64; i++)
		if (ft_key_is_child(parent, &ft_keys[i]))
			known[count++] = ft_key_last(&ft_keys[i]);
	const char *meant = ft_suggest(entry->key, known, count);
	char list[300] = "";
	if (!meant)
		for (size_t i = 0; i < count; i++)
			snprintf(list + strlen(list), sizeof(list) - strlen(list), "%s%s", i ? ", " : "",
				 known[i]);
	return ft_yaml_key_error(
	    err, entry, "unknown key \"%.64s\"%s%s, %s%s%s", entry->key, *path ? " in " : "", path,
	    meant ? "did you mean \"" : "expected one of: ", meant ? meant : list, meant ? "\"?" : "");
}

/* A path with the name of the map that it is in ("web" of "guests.web.console") where it has a *. */
static json_t *put_name(json_t *value, const char *path)
{
	const char *text = json_string_value(value), *star = text ? strchr(text, '*') : NULL;
	const char *end = strrchr(path, '.'), *start = end;
	while (start && start > path && start[-1] != '.')
		start--;
	if (!star || !end)
		return value;
	json_t *named = json_sprintf("%.*s%.*s%s", (int)(star - text), text, (int)(end - start), start, star + 1);
	json_decref(value);
	return named;
}

static int leaf(const struct ft_key *key, const char *path, const struct ft_yaml *entry,
		const struct ft_yaml *near, json_t *out, struct ft_error *err)
{
	json_t *value = NULL;
	int error;
	if (entry) {
		error = ft_key_value(key, entry, &value, err);
	} else if (key->fallback) {
		struct ft_yaml *fallback = NULL;
		error = ft_yaml_parse(key->fallback, strlen(key->fallback), "default", &fallback, err);
		if (!error)
			error = ft_key_value(key, fallback, &value, err);
		ft_yaml_free(fallback);
	} else {
		error = ft_yaml_key_error(err, near, "%s is missing, expected for example \"%s: %s\"", path,
					  ft_key_last(key), key->example);
	}
	if (!error && key->kind == FT_KEY_STATE)
		value = put_name(value, path);
	if (!error && json_object_set_new(out, ft_key_last(key), value))
		error = -ENOMEM;
	return error;
}

static int walk_key(const struct ft_key *key, const char *path, const struct ft_yaml *node,
		    const struct ft_yaml *near, json_t *out, struct ft_error *err)
{
	const char *name = ft_key_last(key);
	if (*name == '*')
		return walk_named(key, path, node, out, err);
	const struct ft_yaml *entry = ft_yaml_get(node, name);
	char below[PATH_LENGTH];
	int error = join(below, path, name, near, err);
	if (error || key->kind != FT_KEY_MAP)
		return error ? error : leaf(key, below, entry, near, out, err);
	json_t *map = json_object();
	json_object_set_new(out, name, map);
	return walk(key, below, entry, entry ? entry : near, map, err);
}

/* near: the closest thing that was written, for errors about what was not. */
static int walk(const struct ft_key *parent, const char *path, const struct ft_yaml *node,
		const struct ft_yaml *near, json_t *out, struct ft_error *err)
{
	bool empty = node && node->kind == FT_YAML_SCALAR && node->plain && !*node->text;
	if (node && node->kind != FT_YAML_MAP && !empty)
		return ft_yaml_error(err, node, "%s is %s, expected a map", *path ? path : "the file",
				     ft_yaml_kind_name(node->kind));
	bool named = false;
	for (size_t i = 0; i < ft_keys_count; i++)
		named |= ft_key_is_child(parent, &ft_keys[i]) && *ft_key_last(&ft_keys[i]) == '*';
	for (size_t k = 0; node && k < node->count && !named; k++) {
		const struct ft_yaml *entry = node->items[k];
		bool known = false;
		for (size_t i = 0; i < ft_keys_count && !known; i++)
			known = ft_key_is_child(parent, &ft_keys[i]) &&
				!strcmp(ft_key_last(&ft_keys[i]), entry->key);
		if (!known)
			return unknown_key(parent, path, entry, err);
	}
	for (size_t i = 0; i < ft_keys_count; i++)
		if (ft_key_is_child(parent, &ft_keys[i])) {
			int error = walk_key(&ft_keys[i], path, empty ? NULL : node, near, out, err);
			if (error)
				return error;
		}
	return 0;
}

/* ---- Paths ---------------------------------------------------------------------------------------------------- */

static json_t *absolute(const char *base, const char *path)
{
	return *path == '/' ? json_string(path) : json_sprintf("%s/%s", base, path);
}

/* Makes the paths below map absolute. `state` itself comes first in the table, so it is done when the others ask. */
static void resolve_paths(const struct ft_config *config, json_t *map, const char *path)
{
	const char *name;
	json_t *value;
	json_object_foreach(map, name, value)
	{
		char below[PATH_LENGTH];
		snprintf(below, sizeof(below), "%s%s%s", path, *path ? "." : "", name);
		const struct ft_key *key = ft_key_find(below);
		if (json_is_object(value))
			resolve_paths(config, value, below);
		else if (key && key->kind == FT_KEY_PATHS)
			for (size_t i = 0; i < json_array_size(value); i++)
				json_array_set_new(
				    value, i,
				    absolute(config->directory, json_string_value(json_array_get(value, i))));
		else if (key && json_is_string(value) &&
			 (key->kind == FT_KEY_PATH || key->kind == FT_KEY_STATE))
			json_object_set_new(map, name,
					    absolute(key->kind == FT_KEY_PATH
							 ? config->directory
							 : ft_config_text(config, "state"),
						     json_string_value(value)));
	}
}

static int find_directory(struct ft_config *config, struct ft_error *err)
{
	char *real = realpath(config->file, NULL);
	if (!real)
		return ft_error_set(err, -errno, "cannot open %s: %s", config->file, strerror(errno));
	*strrchr(real, '/') = 0;
	config->directory = *real ? real : memcpy(real, "/", 2);
	return 0;
}

/* ---- Loading ------------------------------------------------------------------------------------------------- */

static int apply_set(struct ft_config *config, const char *set, struct ft_error *err)
{
	const char *equals = strchr(set, '=');
	if (!equals || equals == set)
		return ft_error_set(err, -EINVAL,
				    "--set:1:1: \"%.64s\" is no assignment, expected NAME.KEY=VALUE", set);
	struct ft_yaml *value;
	int error = ft_yaml_parse(equals + 1, strlen(equals + 1), "--set", &value, NULL);
	if (error)
		return ft_error_set(err, error, "--set:1:%d: the value \"%.64s\" is not YAML",
				    (int)(equals + 2 - set), equals + 1);
	if (!equals[1]) { /* an empty document is a map; here it stands for an empty value */
		ft_yaml_free(value);
		error = ft_yaml_parse("\"\"", 2, "--set", &value, err);
		if (error)
			return error;
	}
	value->column += (int)(equals + 1 - set);
	value->key_line = value->key_column = 1;
	char *path = strndup(set, (size_t)(equals - set));
	if (!path) {
		ft_yaml_free(value);
		return -ENOMEM;
	}
	error = ft_yaml_put(config->tree, path, value, err);
	free(path);
	return error;
}

/* `uplink: {...}`, the way to write one uplink, becomes `uplinks: {uplink: {...}}`; places stay as they were written. */
static int name_uplink(struct ft_config *config, struct ft_error *err)
{
	struct ft_yaml *one = ft_yaml_get(config->tree, "uplink");
	if (!one)
		return 0;
	if (ft_yaml_get(config->tree, "uplinks"))
		return ft_yaml_key_error(err, one, "uplink is given besides uplinks, expected one of them");
	return ft_yaml_wrap(config->tree, "uplink", "uplinks");
}

int ft_config_load(struct ft_config *config, const char *file, const char *const *sets, size_t count,
		   struct ft_error *err)
{
	*config = (struct ft_config){0};
	config->sets = sets;
	config->set_count = count;
	config->file = strdup(file);
	config->values = json_object();
	int error = config->file && config->values ? 0 : -ENOMEM;
	if (!error)
		error = ft_yaml_read(file, &config->tree, err);
	if (!error)
		error = find_directory(config, err);
	if (!error && config->tree->kind != FT_YAML_MAP)
		error = ft_yaml_error(err, config->tree, "the file is %s, expected a map",
				      ft_yaml_kind_name(config->tree->kind));
	for (size_t i = 0; i < count && !error; i++)
		error = apply_set(config, sets[i], err);
	if (!error)
		error = name_uplink(config, err);
	if (!error)
		error = walk(NULL, "", config->tree, config->tree, config->values, err);
	if (!error)
		resolve_paths(config, config->values, "");
	if (!error)
		error = ft_meaning_check(config, err);
	if (!error)
		error = ft_meaning_load_rules(config, err);
	if (error) {
		ft_error_set(err, error, "cannot load %s: %s", file, strerror(-error));
		ft_config_free(config);
	}
	return error;
}

static void exchange(json_t **a, json_t **b)
{
	json_t *c = *a;
	*a = *b;
	*b = c;
}

void ft_config_adopt(struct ft_config *to, struct ft_config *from)
{
	static const char *const parts[] = {"services", "clone", "verdict_rules", "correlation_rules"};
	static const char *const quotas[] = {"feed", "quarantine"};
	for (size_t i = 0; i < sizeof(parts) / sizeof(*parts); i++)
		json_object_set(to->values, parts[i], json_object_get(from->values, parts[i]));
	for (size_t i = 0; i < sizeof(quotas) / sizeof(*quotas); i++)
		json_object_set(json_object_get(to->values, quotas[i]), "quota",
				json_object_get(json_object_get(from->values, quotas[i]), "quota"));
	exchange(&to->rules, &from->rules);
	exchange(&to->sids, &from->sids);
	struct ft_yaml *tree = to->tree;
	to->tree = from->tree;
	from->tree = tree;
}

void ft_config_free(struct ft_config *config)
{
	ft_yaml_free(config->tree);
	json_decref(config->values);
	json_decref(config->rules);
	json_decref(config->sids);
	free(config->file);
	free(config->directory);
	*config = (struct ft_config){0};
}

const json_t *ft_config_get(const struct ft_config *config, const char *path)
{
	const json_t *value = config->values;
	while (value && *path) {
		char name[FT_CONFIG_NAME * 2];
		size_t length = strcspn(path, ".");
		if (length >= sizeof(name))
			return NULL;
		memcpy(name, path, length);
		name[length] = 0;
		value = json_object_get(value, name);
		path += length + (path[length] == '.');
	}
	return value;
}

const char *ft_config_text(const struct ft_config *config, const char *path)
{
	return json_string_value(ft_config_get(config, path));
}

const struct ft_yaml *ft_config_where(const struct ft_config *config, const char *path)
{
	char pointer[PATH_LENGTH + 1];
	snprintf(pointer, sizeof(pointer), "/%s", path);
	for (char *p = pointer; *p; p++)
		if (*p == '.')
			*p = '/';
	return ft_yaml_at(config->tree, pointer);
}

void ft_config_place(const struct ft_config *config, const char *path, struct ft_error *err)
{
	const struct ft_yaml *node = ft_config_where(config, path);
	ft_error_prefix(err, "%s:%d:%d", node->source, node->line, node->column);
}

/* ---- Printing ------------------------------------------------------------------------------------------------ */

static void print_map(const struct ft_config *config, const json_t *map, const char *path, int indent,
		      FILE *file)
{
	const char *name;
	json_t *value;
	json_object_foreach((json_t *)map, name, value)
	{
		char below[PATH_LENGTH], text[1024];
		snprintf(below, sizeof(below), "%s%s%s", path, *path ? "." : "", name);
		if (json_is_object(value)) {
			fprintf(file, "%*s%s:%s\n", indent, "", name, json_object_size(value) ? "" : " {}");
			print_map(config, value, below, indent + 2, file);
			continue;
		}
		const struct ft_key *key = ft_key_find(below);
		char pointer[PATH_LENGTH];
		ft_key_format(key, value, text, sizeof(text));
		const struct ft_yaml *node = ft_config_where(config, below);
		snprintf(pointer, sizeof(pointer), "%s", node->key ? node->key : "");
		bool written = node->kind != FT_YAML_MAP && !strcmp(pointer, name);
		fprintf(file, "%*s%s: %s%s\n", indent, "", name, text, written ? "" : "  # default");
	}
}

void ft_config_print(const struct ft_config *config, FILE *file)
{
	print_map(config, config->values, "", 0, file);
}

/* ---- Parts for the children ------------------------------------------------------------------------------------ */

static void copy(json_t *to, const json_t *from, const char *const *names)
{
	for (; *names; names++) {
		json_t *value = json_object_get(from, *names);
		if (value && !json_is_null(value))
			json_object_set_new(to, *names, json_deep_copy(value));
	}
}

static json_t *part(const json_t *from, const char *const *names)
{
	json_t *to = json_object();
	copy(to, from, names);
	return to;
}

/* A service as the dataplane sees it: rule files become the sids in them. */
static json_t *service_part(const struct ft_config *config, const json_t *service)
{
	json_t *to = json_deep_copy(service), *sids = json_array(), *path;
	size_t i;
	json_array_foreach(json_object_get(service, "rules"), i, path)
	    json_array_extend(sids, json_object_get(config->sids, json_string_value(path)));
	json_object_set_new(to, "rules", sids);
	return to;
}

json_t *ft_config_dataplane(const struct ft_config *config)
{
	json_t *all = json_object(), *guests = json_object(), *services = json_object(), *value;
	const char *name;
	json_object_foreach((json_t *)ft_config_get(config, "guests"), name, value)
	    json_object_set_new(guests, name, part(value, (const char *[]){"uplink", "vlan", "mac", "address", "address6",
									   "mtu", "canary", "canary6", NULL}));
	json_object_foreach((json_t *)ft_config_get(config, "services"), name, value)
	    json_object_set_new(services, name, service_part(config, value));
	copy(all, config->values, (const char *[]){"uplinks", "flows", "canary", "log", NULL});
	json_object_set_new(all, "guests", guests);
	json_object_set_new(all, "services", services);
	json_object_set_new(all, "clone",
			    part(ft_config_get(config, "clone"),
				 (const char *[]){"handling_instructions", "horizon", "horizon_instructions",
						  "wall", "memory", "max", "source", "group", "parallel", NULL}));
	/* The dataplane is confined, and may have been put onto one processor. */
	json_t *clone = json_object_get(all, "clone");
	if (!json_object_get(clone, "parallel"))
		json_object_set_new(clone, "parallel", json_integer(sysconf(_SC_NPROCESSORS_ONLN)));
	json_object_set(all, "rules", json_object_get(config->rules, "patterns"));
	json_object_set(all, "verdict_rules", json_object_get(config->rules, "verdicts"));
	json_object_set(all, "correlation_rules", json_object_get(config->rules, "correlations"));
	return all;
}

json_t *ft_config_vmm(const struct ft_config *config, const char *guest)
{
	const json_t *from = json_object_get(ft_config_get(config, "guests"), guest);
	json_t *all = part(from, (const char *[]){"memory", "vcpus", "engine", "portable", "clock", "cmdline", "mac",
						  "address", "address6", "mtu", "ns_per_insn", "verify", NULL});
	json_object_set_new(all, "guest", json_string(guest));
	json_object_set_new(all, "has_initrd", json_boolean(json_is_string(json_object_get(from, "initrd"))));
	json_object_set_new(all, "has_disk", json_boolean(json_is_string(json_object_get(from, "disk"))));
	const json_t *overlay = json_object_get(from, "overlay");
	const char *keep = json_string_value(json_object_get(overlay, "keep"));
	if (json_is_string(json_object_get(from, "disk")) && keep && !strcmp(keep, "on"))
		json_object_set_new(all, "overlay", part(overlay, (const char *[]){"quota", "retention", NULL}));
	json_t *clone = part(ft_config_get(config, "clone"), (const char *[]){"max", "link", NULL});
	copy(clone, json_object_get(from, "clone"), (const char *[]){"engine", NULL});
	json_object_set_new(all, "clone", clone);
	return all;
}

/* SHA-256 of all that is in force: values and rules, keys sorted. */
static json_t *digest(const struct ft_config *config)
{
	json_t *all = json_pack("{s:O, s:O}", "values", config->values, "rules", config->rules);
	char *text = all ? json_dumps(all, JSON_COMPACT | JSON_SORT_KEYS) : NULL, hex[2 * FT_HASH_BYTES + 1];
	struct ft_hash hash;
	json_decref(all);
	if (!text)
		return NULL;
	ft_hash_bytes(&hash, text, strlen(text));
	free(text);
	for (unsigned i = 0; i < FT_HASH_BYTES; i++)
		snprintf(hex + 2 * i, 3, "%02x", hash.bytes[i]);
	return json_string(hex);
}

json_t *ft_config_ledger(const struct ft_config *config)
{
	json_t *all = part(config->values, (const char *[]){"sensor", "log", NULL});
	json_object_set_new(all, "config_sha256", digest(config));
	json_object_set(all, "quarantine_quota", (json_t *)ft_config_get(config, "quarantine.quota"));
	json_t *shares = json_object(), *service;
	const char *name;
	json_object_foreach((json_t *)ft_config_get(config, "services"), name, service)
	{
		json_t *share = json_object_get(service, "quarantine");
		if (json_is_integer(share))
			json_object_set(shares, name, share);
	}
	json_object_set_new(all, "quarantine_shares", shares);
	json_object_set(all, "feed_quota", (json_t *)ft_config_get(config, "feed.quota"));
	json_object_set(all, "feed_buffer", (json_t *)ft_config_get(config, "feed.buffer"));
	if (ft_config_text(config, "feed.socket"))
		json_object_set(all, "feed_socket", (json_t *)ft_config_get(config, "feed.socket"));
	if (ft_config_text(config, "feed.syslog.socket"))
		json_object_set_new(
		    all, "feed_syslog",
		    part(ft_config_get(config, "feed.syslog"),
			 (const char *[]){"socket", "facility", "severity", "cookie", "limit", NULL}));
	return all;
}
