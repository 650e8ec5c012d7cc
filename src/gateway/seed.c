#include "gateway/seed.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#include "base/listing.h"
#include "base/printable.h"
#include "gateway/guest.h"
#include "gateway/journal.h"
#include "gateway/snapshot.h"
#include "snapshot/file.h"

#define DIRECTORY "seeds"

static uint64_t setting(const struct ft_supervisor *s, const char *key)
{
	return (uint64_t)json_integer_value(ft_config_get(s->config, key));
}

static int open_directory(const struct ft_supervisor *s, struct ft_error *err)
{
	if (mkdirat(s->state_fd, DIRECTORY, 0700) && errno != EEXIST)
		return ft_error_set(err, -errno, "the directory of kept seeds cannot be made: %s", strerror(errno));
	int fd = openat(s->state_fd, DIRECTORY, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return fd < 0 ? ft_error_set(err, -errno, "the directory of kept seeds cannot be opened: %s", strerror(errno)) : fd;
}

static void name_of(const char *guest, uint64_t hold, char name[65])
{
	snprintf(name, 65, "%.31s-%" PRIu64, guest, hold);
}

/* ---- Quota and retention ------------------------------------------------------------------------------------------- */

/* All of them, oldest first; *files is the caller's to free. */
static size_t list(int directory, struct ft_listing_file **files, uint64_t *bytes)
{
	size_t count = ft_listing(directory, ft_snapshot_name, files);
	*bytes = 0;
	for (size_t i = 0; i < count; i++)
		*bytes += (*files)[i].bytes;
	return count;
}

static void prune(struct ft_supervisor *s, int directory)
{
	struct ft_listing_file *files;
	uint64_t bytes, quota = setting(s, "seeds.quota");
	time_t oldest = time(NULL) - (time_t)(setting(s, "seeds.keep") / 1000000000u);
	size_t count = list(directory, &files, &bytes), removed = 0;
	for (; removed < count && (bytes > quota || files[removed].changed.tv_sec < oldest); removed++) {
		if (unlinkat(directory, files[removed].name, 0))
			break;
		bytes -= files[removed].bytes;
	}
	free(files);
	s->seeds_removed += removed;
	if (removed)
		ft_supervisor_record(s, "seeds-pruned", NULL, NULL,
				     "%zu of the oldest kept seeds are removed (seeds.quota, seeds.keep): their verdicts cannot be made again", removed);
}

/* ---- Keeping -------------------------------------------------------------------------------------------------------- */

static void refuse(struct ft_child *vmm, uint64_t number)
{
	ft_child_send(vmm, json_pack("{s:s, s:I}", "op", "seed", "number", (json_int_t)number), NULL, 0);
}

/* Told of when there is another one, and then all together: a flood of bad input is no flood of events. */
static void skip(struct ft_supervisor *s, struct ft_child *vmm, uint64_t number, bool quiet)
{
	refuse(vmm, number);
	if (quiet)
		return;
	vmm->seeds_skipped++;
	if (!vmm->seeds_untold++)
		ft_supervisor_record(s, "seed-skipped", vmm->guest, NULL,
				     "a seed of guest %s is not kept: the last one is younger than seeds.every; others that follow are counted", vmm->guest);
}

static void end(struct ft_child *vmm)
{
	if (vmm->seed)
		close(vmm->seed_fd);
	vmm->seed = 0;
}

static void fail(struct ft_supervisor *s, struct ft_child *vmm, const char *why)
{
	char name[65];
	int directory = open_directory(s, NULL);
	name_of(vmm->guest, vmm->seed_hold, name);
	if (directory >= 0) {
		ft_snapshot_abandon(directory, name);
		close(directory);
	}
	vmm->seeds_failed++;
	ft_supervisor_record(s, "seed-failed", vmm->guest, NULL, "the seed of the verdict on hold %" PRIu64 " of guest %s is not kept: %s",
			     vmm->seed_hold, vmm->guest, why);
	end(vmm);
}

static void begin(struct ft_supervisor *s, struct ft_child *vmm, uint64_t number, uint64_t hold)
{
	struct ft_error err = {0};
	struct timespec wall;
	char name[65];
	uint64_t now = ft_loop_now();
	if (!setting(s, "seeds.quota") || s->phase != FT_PHASE_RUNNING) {
		skip(s, vmm, number, true);
		return;
	}
	if (vmm->seed || (vmm->seed_at && now - vmm->seed_at < setting(s, "seeds.every"))) {
		skip(s, vmm, number, false);
		return;
	}
	name_of(vmm->guest, hold, name);
	vmm->seed_hold = hold;
	vmm->seed_at = now;
	int directory = open_directory(s, &err), fd = directory < 0 ? directory : ft_snapshot_create(directory, name, &err);
	if (directory >= 0)
		close(directory);
	if (fd < 0) {
		refuse(vmm, number);
		fail(s, vmm, err.text);
		return;
	}
	clock_gettime(CLOCK_REALTIME, &wall);
	json_t *message = json_pack("{s:s, s:I, s:I}", "op", "seed", "number", (json_int_t)number, "created_ns",
				    (json_int_t)wall.tv_sec * 1000000000 + wall.tv_nsec);
	json_t *seal = ft_snapshot_new_seal(s);
	if (seal)
		json_object_set_new(message, "seal", seal);
	vmm->seed = number;
	vmm->seed_fd = fd;
	int error = ft_child_send(vmm, json_incref(message), &fd, 1);
	ft_snapshot_wipe_seal(message);
	json_decref(message);
	if (error)
		fail(s, vmm, "its vmm process takes no messages");
}

static void kept(struct ft_supervisor *s, struct ft_child *vmm, const json_t *message)
{
	struct ft_snapshot_header header;
	struct ft_error err = {0};
	char name[65], skipped[64] = "";
	name_of(vmm->guest, vmm->seed_hold, name);
	/* As of any snapshot: that it is one, and of this guest. */
	int error = ft_snapshot_peek(vmm->seed_fd, &header, &err);
	if (!error && strcmp(header.guest, vmm->guest))
		error = ft_error_set(&err, -EINVAL, "its vmm process wrote another guest's snapshot");
	if (!error && s->snapshot_key && !header.encrypted)
		error = ft_error_set(&err, -EINVAL, "its vmm process did not encrypt it");
	int directory = error ? -1 : open_directory(s, &err);
	if (directory >= 0)
		ft_snapshot_commit(directory, name, vmm->seed_fd, &err);
	if (err.code) {
		if (directory >= 0)
			close(directory);
		fail(s, vmm, err.text);
		return;
	}
	vmm->seeds_kept++;
	if (vmm->seeds_untold)
		snprintf(skipped, sizeof(skipped), "; since the last one %" PRIu64 " were not", vmm->seeds_untold);
	vmm->seeds_untold = 0;
	ft_supervisor_record(s, "seed-kept", vmm->guest, NULL,
			     "the seed of the verdict on hold %" PRIu64 " of guest %s is kept: %lld bytes in %.1f s%s", vmm->seed_hold, vmm->guest,
			     (long long)json_integer_value(json_object_get(message, "bytes")),
			     (double)json_integer_value(json_object_get(message, "took_ns")) / 1e9, skipped);
	end(vmm);
	prune(s, directory);
	close(directory);
}

bool ft_seed_told(struct ft_supervisor *s, struct ft_child *vmm, const json_t *message)
{
	const char *op = json_string_value(json_object_get(message, "op")), *why = json_string_value(json_object_get(message, "error"));
	json_int_t number = json_integer_value(json_object_get(message, "number")), hold = json_integer_value(json_object_get(message, "hold"));
	char clean[256];
	if (vmm->kind != FT_CHILD_VMM || number <= 0 || hold < 0)
		return false;
	if (!strcmp(op, "seed")) {
		begin(s, vmm, (uint64_t)number, (uint64_t)hold);
		return true;
	}
	if (vmm->seed != (uint64_t)number)
		return true; /* one that was refused, or given up */
	if (why) {
		ft_printable(clean, sizeof(clean), why, strnlen(why, 60));
		fail(s, vmm, clean);
	} else {
		kept(s, vmm, message);
	}
	return true;
}

void ft_seed_ended(struct ft_supervisor *s, struct ft_child *vmm)
{
	if (vmm->kind == FT_CHILD_VMM && vmm->seed)
		fail(s, vmm, "its vmm process has ended");
}

/* ---- What there is -------------------------------------------------------------------------------------------------- */

int64_t ft_seed_oldest(const struct ft_supervisor *s)
{
	struct ft_listing_file *files;
	uint64_t bytes;
	int directory = openat(s->state_fd, DIRECTORY, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (directory < 0)
		return errno == ENOENT ? INT64_MAX : 0;
	size_t count = list(directory, &files, &bytes);
	int64_t oldest = count ? files[0].changed.tv_sec : INT64_MAX;
	free(files);
	close(directory);
	return oldest;
}

json_t *ft_seed_guest_status(const struct ft_child *vmm)
{
	return json_pack("{s:I, s:I, s:I}", "kept", (json_int_t)vmm->seeds_kept, "skipped", (json_int_t)vmm->seeds_skipped, "failed",
			 (json_int_t)vmm->seeds_failed);
}

json_t *ft_seed_status(const struct ft_supervisor *s)
{
	uint64_t counts[3] = {0}, bytes = 0;
	size_t files = 0;
	for (unsigned i = 0; i < s->count; i++) {
		counts[0] += s->children[i].seeds_kept;
		counts[1] += s->children[i].seeds_skipped;
		counts[2] += s->children[i].seeds_failed;
	}
	int directory = openat(s->state_fd, DIRECTORY, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (directory >= 0) {
		struct ft_listing_file *all;
		files = list(directory, &all, &bytes);
		free(all);
		close(directory);
	}
	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "kept", (json_int_t)counts[0], "skipped", (json_int_t)counts[1], "failed",
			 (json_int_t)counts[2], "removed", (json_int_t)s->seeds_removed, "files", (json_int_t)files, "bytes", (json_int_t)bytes,
			 "quota", (json_int_t)setting(s, "seeds.quota"));
}

void ft_seed_request_files(struct ft_supervisor *s, uint64_t connection, json_t *request)
{
	struct ft_child *vmm = ft_guest_named(s, connection, request);
	const char *sha256 = json_string_value(json_object_get(request, "rules_sha256")), *state = ft_config_text(s->config, "state");
	json_int_t hold = json_integer_value(json_object_get(request, "hold"));
	char name[65];
	if (!vmm)
		return;
	if (hold < 0 || (sha256 && (strlen(sha256) != 64 || strspn(sha256, "0123456789abcdef") != 64))) {
		ft_query_refuse(&s->control, connection, json_object_get(request, "id"), EX_USAGE, "verdict-files needs the number of a hold");
		return;
	}
	json_t *result = ft_journal_files(s, vmm);
	if (sha256)
		json_object_set_new(result, "rules", json_sprintf("%s/rules/%s.json", state, sha256));
	name_of(vmm->guest, (uint64_t)hold, name);
	char path[sizeof(DIRECTORY) + sizeof(name)];
	snprintf(path, sizeof(path), DIRECTORY "/%s", name);
	if (!faccessat(s->state_fd, path, R_OK, 0))
		json_object_set_new(result, "kept", json_sprintf("%s/%s", state, path));
	ft_control_answer(&s->control, connection, json_pack("{s:O?, s:o}", "id", json_object_get(request, "id"), "result", result));
}
