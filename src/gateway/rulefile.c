#include "gateway/rulefile.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/listing.h"
#include "gateway/journal.h"
#include "gateway/seed.h"

#define DIRECTORY "rules"
#define NAME	  (2 * crypto_hash_sha256_BYTES + sizeof(".json")) /* of a file, with its zero */
#define SLACK	  3600					   /* s, see the header */

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

static int open_directory(int state)
{
	if (mkdirat(state, DIRECTORY, 0700) && errno != EEXIST)
		return -errno;
	int directory = openat(state, DIRECTORY, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return directory < 0 ? -errno : directory;
}

/* Under its name when it is whole and on disk. */
static int keep(int directory, const char *name, const char *text, size_t length)
{
	static const char unfinished[] = ".new";
	struct stat st;
	int error = 0;
	if (!fstatat(directory, name, &st, AT_SYMLINK_NOFOLLOW) && st.st_size == (off_t)length)
		return 0;
	unlinkat(directory, unfinished, 0);
	int fd = openat(directory, unfinished, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	error = fd < 0 ? -errno : write_all(fd, text, length);
	if (fd >= 0)
		close(fd);
	if (!error && (renameat(directory, unfinished, directory, name) || fsync(directory)))
		error = -errno;
	return error;
}

/* ---- What nothing needs any more -------------------------------------------------------------------------------------- */

static bool is_one(const char *name)
{
	return strspn(name, "0123456789abcdef") == NAME - sizeof(".json") && !strcmp(name + NAME - sizeof(".json"), ".json");
}

/* current is in force: unless it was so before, from now on. Not the kernel's time of the last tick: a reload that fails puts two sets of
 * rules in force within less. */
static int put_in_force(int directory, const char *current)
{
	struct ft_listing_file *files; /* in the order in which they came into force */
	size_t count = ft_listing(directory, is_one, &files);
	bool was = count && !strcmp(files[count - 1].name, current);
	struct timespec times[2];
	free(files);
	clock_gettime(CLOCK_REALTIME, &times[1]);
	times[0] = times[1];
	return was || !utimensat(directory, current, times, AT_SYMLINK_NOFOLLOW) ? 0 : -errno;
}

static void prune(struct ft_supervisor *s, int directory, const char *current)
{
	struct ft_listing_file *files;
	int64_t journals = ft_journal_oldest(s), seeds = ft_seed_oldest(s), oldest = (int64_t)time(NULL);
	oldest = journals < oldest ? journals : oldest;
	oldest = seeds < oldest ? seeds : oldest;
	size_t count = ft_listing(directory, is_one, &files), removed = 0;
	for (size_t i = 0; i + 1 < count; i++)
		if (files[i + 1].changed.tv_sec < oldest - SLACK && strcmp(files[i].name, current) && !unlinkat(directory, files[i].name, 0))
			removed++;
	free(files);
	if (removed)
		ft_supervisor_say("info", "%zu former sets of rules are not kept any more: no journal and no kept seed is as old", removed);
}

void ft_rulefile_keep(struct ft_supervisor *s, json_t *part)
{
	json_t *rules = rules_of(part);
	char *text = rules ? json_dumps(rules, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
	uint8_t hash[crypto_hash_sha256_BYTES];
	char hex[2 * sizeof(hash) + 1], name[NAME];
	json_decref(rules);
	if (!text)
		return;
	crypto_hash_sha256(hash, (const uint8_t *)text, strlen(text));
	sodium_bin2hex(hex, sizeof(hex), hash, sizeof(hash));
	snprintf(name, sizeof(name), "%s.json", hex);
	int directory = open_directory(s->state_fd), error = directory < 0 ? directory : keep(directory, name, text, strlen(text));
	free(text);
	if (!error)
		error = put_in_force(directory, name);
	if (!error)
		prune(s, directory, name);
	if (directory >= 0)
		close(directory);
	if (error)
		ft_supervisor_say("error", "the rules in force cannot be kept: %s; verdicts by them cannot be made again", strerror(-error));
	else
		json_object_set_new(part, "rules_sha256", json_string(hex));
}
