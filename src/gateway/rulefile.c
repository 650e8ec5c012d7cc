#include "gateway/rulefile.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define DIRECTORY "rules"

/* {"verdict_rules": [...], "normal": {SERVICE: {...}}}: all that a case is judged by. */
static json_t *rules_of(const json_t *part)
{
	json_t *rules = json_object_get(part, "verdict_rules"), *normal = json_object(), *service;
	const char *name;
	json_object_foreach(json_object_get(part, "services"), name, service)
	{
		json_t *own = json_object_get(service, "normal");
		json_object_set_new(normal, name, own ? json_incref(own) : json_object());
	}
	return json_pack("{s:o, s:o}", "verdict_rules", rules ? json_incref(rules) : json_array(), "normal", normal);
}

static int write_all(int fd, const char *text, size_t length)
{
	for (size_t done = 0; done < length;) {
		ssize_t n = write(fd, text + done, length - done);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		done += (size_t)n;
	}
	return fsync(fd) ? -errno : 0;
}

/* Under its name when it is whole and on disk. */
static int keep(int state, const char *name, const char *text, size_t length)
{
	static const char unfinished[] = ".new";
	if (mkdirat(state, DIRECTORY, 0700) && errno != EEXIST)
		return -errno;
	int directory = openat(state, DIRECTORY, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (directory < 0)
		return -errno;
	struct stat st;
	int error = 0;
	if (fstatat(directory, name, &st, AT_SYMLINK_NOFOLLOW) || st.st_size != (off_t)length) {
		unlinkat(directory, unfinished, 0);
		int fd = openat(directory, unfinished, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
		error = fd < 0 ? -errno : write_all(fd, text, length);
		if (fd >= 0)
			close(fd);
		if (!error && (renameat(directory, unfinished, directory, name) || fsync(directory)))
			error = -errno;
	}
	close(directory);
	return error;
}

void ft_rulefile_keep(struct ft_supervisor *s, json_t *part)
{
	json_t *rules = rules_of(part);
	char *text = rules ? json_dumps(rules, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
	uint8_t hash[crypto_hash_sha256_BYTES];
	char hex[2 * sizeof(hash) + 1], name[sizeof(hex) + 5];
	json_decref(rules);
	if (!text)
		return;
	crypto_hash_sha256(hash, (const uint8_t *)text, strlen(text));
	sodium_bin2hex(hex, sizeof(hex), hash, sizeof(hash));
	snprintf(name, sizeof(name), "%s.json", hex);
	int error = keep(s->state_fd, name, text, strlen(text));
	free(text);
	if (error)
		ft_supervisor_say("error", "the rules in force cannot be kept: %s; verdicts by them cannot be made again", strerror(-error));
	else
		json_object_set_new(part, "rules_sha256", json_string(hex));
}
