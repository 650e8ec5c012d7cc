#include "cli/replay.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sysexits.h>
#include <unistd.h>

static bool is_number(const char *text)
{
	return *text && strspn(text, "0123456789") == strlen(text) && strlen(text) < 19;
}

static int add(struct ft_cli_replay *r, const char *word, struct ft_error *err)
{
	if (r->count == FT_CLI_REPLAY_WORDS) {
		ft_error_set(err, -E2BIG, "too many words for foretaste replay");
		return EX_USAGE;
	}
	r->words[r->count++] = word;
	return 0;
}

static int add_two(struct ft_cli_replay *r, const char *option, const json_t *value, struct ft_error *err)
{
	if (!json_is_string(value))
		return 0;
	int code = add(r, option, err);
	return code ? code : add(r, json_string_value(value), err);
}

/* JSON as a file that foretaste-replay can open: "/dev/fd/N". What is in it is on no disk. */
static int add_memory(struct ft_cli_replay *r, const char *option, const json_t *json, struct ft_error *err)
{
	char *text = json_dumps(json, JSON_COMPACT | JSON_ENSURE_ASCII), *path = NULL;
	int fd = text ? memfd_create("verdict", 0) : -1;
	size_t length = text ? strlen(text) : 0;
	bool good = fd >= 0 && write(fd, text, length) == (ssize_t)length && asprintf(&path, "/dev/fd/%d", fd) > 0;
	if (text)
		memset(text, 0, length);
	free(text);
	if (!good) {
		ft_error_set(err, -errno, "no memory for a verdict: %s", strerror(errno));
		return EX_OSERR;
	}
	int code = add(r, option, err);
	return code ? code : add(r, path, err);
}

/* What of the gateway's answer is the same for journals and verdicts: the disk's image, the key, whose journals they may refer to. */
static int add_common(struct ft_cli_replay *r, const json_t *files, struct ft_error *err)
{
	static const char *const options[][2] = {{"disk", "--disk"}, {"key", "--key"}, {"credential", "--credential"}};
	const char *name;
	json_t *image;
	int code = 0;
	for (size_t i = 0; !code && i < sizeof(options) / sizeof(*options); i++)
		code = add_two(r, options[i][1], json_object_get(files, options[i][0]), err);
	json_object_foreach(json_object_get(files, "peers"), name, image)
		code = code ? code : add_two(r, "--peer", json_sprintf("%s=%s", name, json_string_value(image)), err);
	return code;
}

/* All that belongs to a verdict. */
static int add_verdict(struct ft_cli_replay *r, const char *id, struct ft_error *err)
{
	json_t *record, *files;
	int code = r->ask(r->context, json_pack("{s:s, s:I}", "what", "show", "hold", (json_int_t)strtoll(id, NULL, 10)), &record, err);
	if (code)
		return code;
	code = r->ask(r->context, json_pack("{s:s, s:O*, s:O*, s:O*}", "what", "verdict-files", "guest", json_object_get(record, "guest"), "hold",
					    json_object_get(record, "hold"), "rules_sha256", json_object_get(record, "rules_sha256")),
		      &files, err);
	if (!code)
		code = add_memory(r, "--verdict", record, err);
	/* Where a journal has it, that is where it comes from. */
	bool covered = json_integer_value(json_object_get(json_object_get(record, "seed"), "run")) > 0;
	if (!code && covered) {
		code = add(r, json_string_value(json_object_get(files, "directory")), err);
	} else if (!code && json_is_string(json_object_get(files, "kept"))) {
		code = add_two(r, "--kept", json_object_get(files, "kept"), err);
	} else if (!code) {
		ft_error_set(err, -ENOENT, "no journal covers the verdict on hold %s, and no seed was kept for it, or it is there no longer", id);
		code = EX_NOINPUT;
	}
	if (!code)
		code = add_common(r, files, err);
	if (!code)
		code = add_two(r, "--rules", json_object_get(files, "rules"), err);
	return code;
}

static int add_guest(struct ft_cli_replay *r, const char *guest, struct ft_error *err)
{
	json_t *files;
	int code = r->ask(r->context, json_pack("{s:s, s:s}", "what", "journal-files", "guest", guest), &files, err);
	if (code)
		return code;
	code = add(r, json_string_value(json_object_get(files, "directory")), err);
	return code ? code : add_common(r, files, err);
}

/* A snapshot by its name, or its path. */
static int add_against(struct ft_cli_replay *r, const char *name, struct ft_error *err)
{
	json_t *file = NULL;
	int code = add(r, "--against", err);
	if (code || strchr(name, '/'))
		return code ? code : add(r, name, err);
	code = r->ask(r->context, json_pack("{s:s, s:s}", "what", "snapshot-file", "name", name), &file, err);
	return code ? code : add(r, json_string_value(json_object_get(file, "file")), err);
}

int ft_cli_replay(struct ft_cli_replay *r, char **words, int count, struct ft_error *err)
{
	static const char to_verdict[] = "verdict:";
	bool verdict = false;
	int code = 0;
	r->count = 0;
	for (int i = 0; i < count; i++)
		verdict |= i + 1 < count && ((!strcmp(words[i], "--verdict") && is_number(words[i + 1])) ||
					     (!strcmp(words[i], "--to") && !strncmp(words[i + 1], to_verdict, sizeof(to_verdict) - 1)));
	for (int i = 0; i < count && !code; i++) {
		const char *next = i + 1 < count ? words[i + 1] : "";
		if (!strcmp(words[i], "--verdict") && is_number(next)) {
			code = add_verdict(r, words[++i], err);
		} else if (!strcmp(words[i], "--to") && !strncmp(next, to_verdict, sizeof(to_verdict) - 1)) {
			code = add_verdict(r, words[++i] + sizeof(to_verdict) - 1, err);
			code = code ? code : add(r, "--to", err);
			code = code ? code : add(r, "verdict", err);
		} else if (!strcmp(words[i], "--against") && *next) {
			code = add_against(r, words[++i], err);
		} else if (!i && words[0][0] != '-' && !strchr(words[0], '/')) {
			/* Of a verdict the gateway knows whose it is. */
			code = verdict ? 0 : add_guest(r, words[0], err);
		} else {
			code = add(r, words[i], err);
		}
	}
	r->words[r->count] = NULL;
	return code;
}
