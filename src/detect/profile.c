#include "detect/profile.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fnmatch.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "detect/door.h"

#define ENTRIES 1024u /* of one list */
#define COMM    15u   /* longest name that Linux keeps of a process */
#define ENTRY   1024u /* bytes of one entry; also the longest path that can be normal */

struct peer {
	int family; /* AF_INET, AF_INET6, AF_UNIX, or 0: any address */
	uint8_t address[16];
	unsigned prefix;
	unsigned port; /* 0: any */
	char *path;    /* AF_UNIX: glob */
};

struct ft_profile {
	char **paths[FT_PROFILE_LISTS]; /* may_connect's slot stays empty */
	size_t path_count[FT_PROFILE_LISTS];
	struct peer *peers;
	size_t peer_count;
};

static const char *const list_names[FT_PROFILE_LISTS] = {"may_exec", "may_connect", "may_write", "may_jit", "may_uring"};

const char *ft_profile_list_name(enum ft_profile_list list)
{
	return (unsigned)list < FT_PROFILE_LISTS ? list_names[list] : "unknown";
}

static bool read_number(const char *text, unsigned most, unsigned *value)
{
	if (!*text || strlen(text) > 5 || strspn(text, "0123456789") != strlen(text))
		return false;
	*value = (unsigned)strtoul(text, NULL, 10);
	return *value <= most;
}

/* ADDRESS[/LEN][:PORT], [V6[/LEN]][:PORT], *[:PORT], unix:GLOB. False when it is none of these. */
static bool read_peer(const char *text, struct peer *peer)
{
	*peer = (struct peer){0};
	if (!strncmp(text, "unix:", 5)) {
		peer->family = AF_UNIX;
		peer->path = strdup(text + 5);
		return peer->path && text[5];
	}
	char host[128];
	const char *port = NULL;
	size_t n;
	if (*text == '[') {
		const char *end = strchr(text, ']');
		if (!end)
			return false;
		n = (size_t)(end - text) - 1;
		text++;
		if (end[1] == ':')
			port = end + 2;
		else if (end[1])
			return false;
		peer->family = AF_INET6;
	} else {
		n = strcspn(text, ":");
		if (text[n])
			port = text + n + 1;
		peer->family = AF_INET;
	}
	if (n >= sizeof(host) || (port && (!read_number(port, 65535, &peer->port) || !peer->port)))
		return false;
	memcpy(host, text, n);
	host[n] = 0;
	if (peer->family == AF_INET && !strcmp(host, "*")) {
		peer->family = 0;
		return true;
	}
	unsigned bits = peer->family == AF_INET ? 32 : 128;
	peer->prefix = bits;
	char *slash = strchr(host, '/');
	if (slash) {
		*slash = 0;
		if (!read_number(slash + 1, bits, &peer->prefix))
			return false;
	}
	return inet_pton(peer->family, host, peer->address) == 1;
}

static bool peer_holds(const struct peer *rule, const struct peer *event)
{
	if (rule->family == AF_UNIX || event->family == AF_UNIX)
		return rule->family == event->family && !fnmatch(rule->path, event->path, FNM_PATHNAME);
	if (rule->port && rule->port != event->port)
		return false;
	if (!rule->family)
		return true;
	if (rule->family != event->family)
		return false;
	unsigned whole = rule->prefix / 8, rest = rule->prefix % 8;
	if (memcmp(rule->address, event->address, whole))
		return false;
	if (!rest)
		return true;
	uint8_t mask = (uint8_t)(0xff00u >> rest);
	return (rule->address[whole] & mask) == (event->address[whole] & mask);
}

/* An absolute path without "//" and "/./". False when it is not absolute, has a "..", or is too long. */
static bool normalise(const char *path, char clean[ENTRY])
{
	if (*path != '/')
		return false;
	size_t at = 0;
	while (*path) {
		path += strspn(path, "/");
		size_t n = strcspn(path, "/");
		if (n == 0 || (n == 1 && path[0] == '.')) {
			path += n;
			continue;
		}
		if (n == 2 && path[0] == '.' && path[1] == '.')
			return false;
		if (at + n + 2 > ENTRY)
			return false;
		clean[at++] = '/';
		memcpy(clean + at, path, n);
		at += n;
		path += n;
	}
	if (!at)
		clean[at++] = '/';
	clean[at] = 0;
	return true;
}

static bool path_holds(const char *rule, const char *path)
{
	size_t n = strlen(rule);
	if (n >= 3 && !strcmp(rule + n - 3, "/**")) {
		/* Everything below: compare the components in front of it one by one, globs allowed. */
		size_t depth = 0;
		for (size_t i = 0; i < n - 3; i++)
			depth += rule[i] == '/';
		const char *end = path;
		for (size_t i = 0; i < depth && end; i++)
			end = strchr(end + 1, '/');
		if (!end || !end[0] || !end[1])
			return false;
		char above[ENTRY], pattern[ENTRY];
		memcpy(above, path, (size_t)(end - path));
		above[end - path] = 0;
		memcpy(pattern, rule, n - 3);
		pattern[n - 3] = 0;
		return !fnmatch(pattern, above, FNM_PATHNAME);
	}
	return !fnmatch(rule, path, FNM_PATHNAME);
}

static bool names_processes(enum ft_profile_list list)
{
	return list == FT_PROFILE_MAY_JIT || list == FT_PROFILE_MAY_URING;
}

bool ft_profile_has(const struct ft_profile *profile, enum ft_profile_list list, const char *text)
{
	if (!profile)
		return false;
	if (list == FT_PROFILE_MAY_CONNECT) {
		struct peer event;
		bool found = false;
		if (read_peer(text, &event))
			for (size_t i = 0; i < profile->peer_count && !found; i++)
				found = peer_holds(&profile->peers[i], &event);
		free(event.path);
		return found;
	}
	char clean[ENTRY];
	if (names_processes(list)) {
		for (size_t i = 0; i < profile->path_count[list]; i++)
			if (!fnmatch(profile->paths[list][i], text, 0))
				return true;
		return false;
	}
	if (!normalise(text, clean))
		return false;
	for (size_t i = 0; i < profile->path_count[list]; i++)
		if (path_holds(profile->paths[list][i], clean))
			return true;
	return false;
}

void ft_profile_free(struct ft_profile *profile)
{
	if (!profile)
		return;
	for (unsigned list = 0; list < FT_PROFILE_LISTS; list++) {
		for (size_t i = 0; i < profile->path_count[list]; i++)
			free(profile->paths[list][i]);
		free(profile->paths[list]);
	}
	for (size_t i = 0; i < profile->peer_count; i++)
		free(profile->peers[i].path);
	free(profile->peers);
	free(profile);
}

static int read_entry(struct ft_profile *profile, enum ft_profile_list list, const json_t *value,
		      struct ft_door *door, const struct ft_place *here)
{
	const char *text = json_string_value(value);
	if (!text || !*text || json_string_length(value) >= ENTRY ||
	    strlen(text) != json_string_length(value))
		return ft_door_refuse(door, here, "expected a text of 1 to %u bytes", ENTRY - 1);
	if (list == FT_PROFILE_MAY_CONNECT) {
		struct peer peer;
		if (!read_peer(text, &peer)) {
			free(peer.path);
			return ft_door_refuse(
			    door, here,
			    "\"%.100s\" is no place to connect to: expected ADDRESS[/LEN][:PORT], "
			    "[IPV6]:PORT, *:PORT or unix:PATH",
			    text);
		}
		profile->peers[profile->peer_count++] = peer;
		return 0;
	}
	if (names_processes(list)) {
		if (strchr(text, '/') || strlen(text) > COMM)
			return ft_door_refuse(door, here,
					      "\"%.100s\" is no name of a process: expected at most %u bytes "
					      "without a path",
					      text, COMM);
	} else if (*text != '/')
		return ft_door_refuse(door, here, "\"%.100s\" is no absolute path", text);
	char *copy = strdup(text);
	if (!copy)
		return ft_error_set(door->err, -ENOMEM, "no memory for the profile");
	profile->paths[list][profile->path_count[list]++] = copy;
	return 0;
}

int ft_profile_load(const json_t *normal, struct ft_profile **out, char *where, struct ft_error *err)
{
	*out = NULL;
	struct ft_error local = {0};
	struct ft_door door = {where, err ? err : &local};
	struct ft_place root = {0};
	struct ft_profile *profile = calloc(1, sizeof(*profile));
	if (!profile)
		return ft_error_set(err, -ENOMEM, "no memory for the profile");
	int status = 0;
	for (unsigned list = 0; list < FT_PROFILE_LISTS && !status; list++) {
		const json_t *entries = json_object_get(normal, list_names[list]);
		if (!entries)
			continue;
		struct ft_place at = {&root, list_names[list], 0};
		size_t count = json_array_size(entries);
		if (!json_is_array(entries) || count > ENTRIES) {
			status = ft_door_refuse(&door, &at, "expected a list of at most %u texts", ENTRIES);
			break;
		}
		if (list == FT_PROFILE_MAY_CONNECT)
			profile->peers = calloc(count ? count : 1, sizeof(*profile->peers));
		else
			profile->paths[list] = calloc(count ? count : 1, sizeof(*profile->paths[list]));
		if (list == FT_PROFILE_MAY_CONNECT ? !profile->peers : !profile->paths[list]) {
			status = ft_error_set(err, -ENOMEM, "no memory for the profile");
			break;
		}
		for (size_t i = 0; i < count && !status; i++) {
			struct ft_place here = {&at, NULL, i};
			status = read_entry(profile, (enum ft_profile_list)list, json_array_get(entries, i),
					    &door, &here);
		}
	}
	if (status) {
		ft_profile_free(profile);
		return status;
	}
	*out = profile;
	return 0;
}
