#include "gateway/meaning.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>

#include "base/units.h"
#include "detect/profile.h"
#include "detect/rules.h"
#include "gateway/suggest.h"

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

static int check_guests(const struct ft_config *config, struct ft_error *err)
{
	const json_t *guests = ft_config_get(config, "guests");
	if (json_object_size(guests) == 0)
		return place(config, err, "there is no guest, expected one below \"guests\"", "guests");
	const char *name;
	json_t *guest;
	size_t seen = 0;
	json_object_foreach((json_t *)guests, name, guest)
	{
		if (++seen > 1) {
			const struct ft_yaml *node = ft_config_where(config, "guests");
			return ft_yaml_key_error(
			    err, ft_yaml_get(node, name),
			    "a second guest, but this version protects one guest per gateway, "
			    "expected only one below \"guests\"");
		}
		if (whole(guest, "vcpus") != 1)
			return place(
			    config, err,
			    "vcpus is more than 1, but clones and replays are exact only while one thread "
			    "touches a machine, expected 1",
			    "guests.%s.vcpus", name);
	}
	return 0;
}

static int unknown_guest(const struct ft_config *config, const char *service, const char *guest,
			 struct ft_error *err)
{
	const char *known[16] = {NULL}, *name;
	size_t count = 0;
	json_t *value;
	json_object_foreach((json_t *)ft_config_get(config, "guests"), name, value) if (count < 16)
	    known[count++] = name;
	const char *meant = ft_suggest(guest, known, count);
	char text[300];
	snprintf(text, sizeof(text), "there is no guest \"%.64s\", %s\"%s\"%s", guest,
		 meant ? "did you mean " : "expected a name from \"guests\" such as ",
		 meant ? meant : known[0], meant ? "?" : "");
	return place(config, err, text, "services.%s.guest", service);
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

static int check_service(const struct ft_config *config, const char *name, const json_t *service,
			 struct ft_error *err)
{
	if (!json_object_get(ft_config_get(config, "guests"), text_of(service, "guest")))
		return unknown_guest(config, name, text_of(service, "guest"), err);
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
	static const char *const keys[] = {"control", "feed.socket", "feed.syslog.socket"};
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
	int error = check_guests(config, err);
	const char *name;
	json_t *service;
	json_object_foreach((json_t *)ft_config_get(config, "services"), name, service) if (!error) error =
	    check_service(config, name, service, err);
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
