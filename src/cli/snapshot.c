#include "cli/snapshot.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#include "cli/print.h"
#include "gateway/suggest.h"
#include "snapshot/key.h"
#include "snapshot/machine.h"

#define WAIT_MS 200

static int ask(const struct ft_cli_snapshot *c, json_t *request, json_t **result, struct ft_error *err)
{
	return c->ask(c->context, request, result, err);
}

static void print_json(const json_t *json)
{
	json_dumpf(json, stdout, JSON_INDENT(2));
	putchar('\n');
}

static json_int_t number(const json_t *json, const char *key)
{
	return json_integer_value(json_object_get(json, key));
}

static const char *text(const json_t *json, const char *key)
{
	const char *value = json_string_value(json_object_get(json, key));
	return value ? value : "";
}

/* ---- save --------------------------------------------------------------------------------------------------------- */

static int await_saved(const struct ft_cli_snapshot *c, const char *guest, const char *name, struct ft_error *err)
{
	for (;;) {
		json_t *state;
		int code = ask(c, json_pack("{s:s, s:s}", "what", "snapshot-state", "guest", guest), &state, err);
		if (code)
			return code;
		if (!strcmp(text(state, "state"), "saving")) {
			json_decref(state);
			nanosleep(&(struct timespec){.tv_nsec = WAIT_MS * 1000000}, NULL);
			continue;
		}
		bool saved = !strcmp(text(state, "state"), "saved") && !strcmp(text(state, "name"), name);
		if (!saved)
			ft_error_set(err, -EIO, "snapshot %s was not saved: %s", name, text(state, "error"));
		else if (c->json)
			print_json(state);
		else
			printf("snapshot %s: %lld bytes in %.1f s; the guest stood still for %.1f ms; contents %s\n", name,
			       (long long)number(state, "bytes"), (double)number(state, "took_ns") / 1e9,
			       (double)number(state, "pause_ns") / 1e6, text(state, "mac"));
		json_decref(state);
		return saved ? EX_OK : EX_CANTCREAT;
	}
}

static int save(const struct ft_cli_snapshot *c, char **words, int count, struct ft_error *err)
{
	char name[65];
	json_t *result;
	time_t now = time(NULL);
	struct tm utc;
	size_t n = (size_t)snprintf(name, sizeof(name), "%.40s", count > 1 ? "" : words[0]);
	if (count > 1)
		snprintf(name, sizeof(name), "%.64s", words[1]);
	else
		strftime(name + n, sizeof(name) - n, "-%Y%m%d-%H%M%S", gmtime_r(&now, &utc));
	int code = ask(c, json_pack("{s:s, s:s, s:s}", "what", "snapshot-save", "guest", words[0], "name", count > 1 ? words[1] : name),
		       &result, err);
	if (code)
		return code;
	json_decref(result);
	return await_saved(c, words[0], name, err);
}

/* ---- list, delete --------------------------------------------------------------------------------------------------- */

static int list(const struct ft_cli_snapshot *c, char **words, int count, struct ft_error *err)
{
	json_t *all, *one;
	size_t i;
	int code = ask(c, json_pack("{s:s}", "what", "snapshot-list"), &all, err);
	if (code)
		return code;
	if (c->json)
		print_json(all);
	else if (json_array_size(all))
		printf("%-32s %-16s %-20s %10s %12s\n", "NAME", "GUEST", "SAVED", "MEMORY", "BYTES");
	else
		printf("There are no snapshots.\n");
	json_array_foreach(all, i, one)
	{
		char name[80], guest[80], when[40];
		if (c->json)
			break;
		ft_print_text(one, "name", name, sizeof(name));
		if (json_object_get(one, "error")) {
			printf("%-32s %s\n", name, text(one, "error"));
			continue;
		}
		printf("%-32s %-16s %-20s %6lld MiB %12lld%s\n", name, ft_print_text(one, "guest", guest, sizeof(guest)),
		       ft_print_time(number(one, "created_ns"), true, when), (long long)number(one, "memory") >> 20,
		       (long long)number(one, "bytes"), json_is_true(json_object_get(one, "encrypted")) ? "  encrypted" : "");
	}
	json_decref(all);
	return 0;
}

static int simple(const struct ft_cli_snapshot *c, json_t *request, const char *format, const char *what, struct ft_error *err)
{
	json_t *result;
	int code = ask(c, request, &result, err);
	if (code)
		return code;
	if (c->json)
		print_json(result);
	else
		printf("%s %s\n", what, format);
	json_decref(result);
	return 0;
}

static int delete(const struct ft_cli_snapshot *c, char **words, int count, struct ft_error *err)
{
	return simple(c, json_pack("{s:s, s:s}", "what", "snapshot-delete", "name", words[0]), "is deleted", words[0], err);
}

static int attach(const struct ft_cli_snapshot *c, char **words, int count, struct ft_error *err)
{
	return simple(c, json_pack("{s:s, s:s}", "what", "guest-attach", "guest", words[0]), "is attached to its network", words[0], err);
}

static int restore(const struct ft_cli_snapshot *c, char **words, int count, struct ft_error *err)
{
	return simple(c,
		      json_pack("{s:s, s:s, s:s, s:b}", "what", "snapshot-restore", "guest", words[0], "name", words[1], "attach",
				c->attach),
		      c->attach ? "starts from the snapshot" : "starts from the snapshot, its network isolated", words[0], err);
}

/* ---- verify ----------------------------------------------------------------------------------------------------------- */

static int verify_fd(int fd, const struct ft_snapshot_seal *seal, bool json, const char *name, struct ft_error *err)
{
	struct ft_snapshot s;
	char mac[65];
	int error = ft_snapshot_open(&s, fd, seal, err);
	if (error)
		return error == -EACCES || error == -EKEYREJECTED ? EX_NOPERM : EX_DATAERR;
	error = ft_snapshot_verify(&s, err);
	sodium_bin2hex(mac, sizeof(mac), s.mac, sizeof(s.mac));
	if (!error && json)
		printf("{\"name\": \"%s\", \"chunks\": %llu, \"bytes\": %llu, \"encrypted\": %s, \"mac\": \"%s\"}\n", name,
		       (unsigned long long)s.count, (unsigned long long)s.size, seal ? "true" : "false", mac);
	else if (!error)
		printf("snapshot %s is whole: %llu chunks, %llu bytes%s; contents %s\n", name, (unsigned long long)s.count,
		       (unsigned long long)s.size, s.header.encrypted ? ", encrypted" : "", mac);
	ft_snapshot_close(&s);
	return error ? EX_DATAERR : EX_OK;
}

/* The key of one file, as the gateway tells it, or made of the operator's. 1: seal is filled; 0: there is none. */
static int seal_of(const struct ft_cli_snapshot *c, const json_t *told, int fd, struct ft_snapshot_seal *seal, struct ft_error *err)
{
	struct ft_snapshot_header header;
	uint8_t *key;
	const char *salt = text(told, "salt"), *own = text(told, "key");
	size_t length = 0;
	if (!c->key && told) {
		bool good = !sodium_hex2bin(seal->salt, sizeof(seal->salt), salt, strlen(salt), NULL, &length, NULL) &&
			    length == sizeof(seal->salt) &&
			    !sodium_hex2bin(seal->key, sizeof(seal->key), own, strlen(own), NULL, &length, NULL) && length == sizeof(seal->key);
		return good ? 1 : ft_error_set(err, -EPROTO, "the gateway told no key that is one");
	}
	if (!c->key)
		return 0;
	int error = ft_snapshot_peek(fd, &header, err);
	if (error || !header.encrypted)
		return error;
	error = ft_snapshot_key_read(&key, c->key, FT_SNAPSHOT_KEY_FILE, err);
	if (error)
		return error;
	error = ft_snapshot_unseal(seal, fd, key, err);
	ft_snapshot_key_free(key);
	return error ? error : 1;
}

static int verify_file(const struct ft_cli_snapshot *c, const char *path, const json_t *told, const char *name, struct ft_error *err)
{
	struct ft_snapshot_seal seal;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		ft_error_set(err, -errno, "%s: %s", path, strerror(errno));
		return errno == EACCES ? EX_NOPERM : EX_NOINPUT;
	}
	int sealed = seal_of(c, told, fd, &seal, err), code;
	if (sealed < 0)
		code = sealed == -EACCES || sealed == -EKEYREJECTED ? EX_NOPERM : sealed == -ENOENT ? EX_NOINPUT : EX_DATAERR;
	else
		code = verify_fd(fd, sealed ? &seal : NULL, c->json, name, err);
	sodium_memzero(&seal, sizeof(seal));
	close(fd);
	return code;
}

static int verify(const struct ft_cli_snapshot *c, char **words, int count, struct ft_error *err)
{
	json_t *result;
	if (sodium_init() < 0)
		return EX_SOFTWARE;
	if (strchr(words[0], '/'))
		return verify_file(c, words[0], NULL, "of this file", err);
	int code = ask(c, json_pack("{s:s, s:s, s:b}", "what", "snapshot-file", "name", words[0], "seal", !c->key), &result, err);
	if (code)
		return code;
	code = verify_file(c, text(result, "file"), json_object_get(result, "seal"), words[0], err);
	json_decref(result);
	return code;
}

static const struct {
	const char *name, *rest;
	int least, most;
	int (*run)(const struct ft_cli_snapshot *c, char **words, int count, struct ft_error *err);
} actions[] = {
    {"save", "GUEST [NAME]", 1, 2, save}, {"restore", "GUEST NAME", 2, 2, restore}, {"list", "", 0, 0, list},
    {"verify", "NAME|FILE", 1, 1, verify},     {"delete", "NAME", 1, 1, delete},		{"attach", "GUEST", 1, 1, attach},
};
#define ACTIONS (sizeof(actions) / sizeof(*actions))

int ft_cli_snapshot(const struct ft_cli_snapshot *c, char **words, int count, struct ft_error *err)
{
	const char *known[ACTIONS];
	for (size_t i = 0; i < ACTIONS; i++) {
		known[i] = actions[i].name;
		if (strcmp(words[0], known[i]))
			continue;
		if (count - 1 >= actions[i].least && count - 1 <= actions[i].most)
			return actions[i].run(c, words + 1, count - 1, err);
		ft_error_set(err, -EINVAL, "usage: foretaste snapshot %s %s", actions[i].name, actions[i].rest);
		return EX_USAGE;
	}
	const char *meant = ft_suggest(words[0], known, ACTIONS);
	ft_error_set(err, -EINVAL, "there is nothing called \"%.40s\" to do with snapshots%s%s%s", words[0],
		     meant ? ", did you mean \"" : ", expected save, restore, list, verify, delete or attach", meant ? meant : "",
		     meant ? "\"?" : "");
	return EX_USAGE;
}
