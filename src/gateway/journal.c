#include "gateway/journal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/printable.h"
#include "gateway/files.h"
#include "gateway/guest.h"
#include "gateway/snapshot.h"
#include "journal/reader.h"
#include "snapshot/file.h"

#define SOON	 1000000000ull /* ns until a checkpoint after a gap, and until it is tried again; doubled with each try, up to ... */
#define TRIES	 6	       /* ... 64 s: each costs the guest a fork, and a disk that is full what is left of it */
#define LISTED	 4096
#define PART	 65536

/* Something that should have been written was not. */
static void __attribute__((format(printf, 3, 4))) note_failure(struct ft_supervisor *s, struct ft_child *vmm, const char *format, ...)
{
	char text[512];
	va_list arguments;
	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	vmm->journal_failures++;
	ft_supervisor_record(s, "journal-failed", vmm->guest, NULL, "%s", text);
}

static bool is_on(const struct ft_supervisor *s, const struct ft_child *vmm, const char *key)
{
	char path[128];
	snprintf(path, sizeof(path), "guests.%s.%s", vmm->guest, key);
	const char *value = ft_config_text(s->config, path);
	return value && !strcmp(value, "on");
}

static bool wanted(const struct ft_supervisor *s, const struct ft_child *vmm)
{
	return is_on(s, vmm, "journal");
}

static uint64_t setting(const struct ft_supervisor *s, const char *key)
{
	return (uint64_t)json_integer_value(ft_config_get(s->config, key));
}

static int open_directory(const struct ft_supervisor *s, const char *guest, struct ft_error *err)
{
	char path[64];
	snprintf(path, sizeof(path), "journal/%s", guest);
	if ((mkdirat(s->state_fd, "journal", 0700) && errno != EEXIST) || (mkdirat(s->state_fd, path, 0700) && errno != EEXIST))
		return ft_error_set(err, -errno, "the directory of the journal cannot be made: %s", strerror(errno));
	int fd = openat(s->state_fd, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return fd < 0 ? ft_error_set(err, -errno, "the directory of the journal cannot be opened: %s", strerror(errno)) : fd;
}

/* ---- What there is ------------------------------------------------------------------------------------------------- */

struct files {
	struct pair {
		uint32_t run, number;
		uint64_t bytes, changed_s, oldest_s; /* the last change of either, and of the one that was changed first */
	} *pairs; /* a checkpoint and its segment; in order */
	size_t count;
	uint64_t bytes;
	uint32_t last_run;
};

static int in_order(const void *a, const void *b)
{
	const struct pair *x = a, *y = b;
	return x->run != y->run ? (x->run < y->run ? -1 : 1) : x->number != y->number ? (x->number < y->number ? -1 : 1) : 0;
}

static void add(struct files *f, unsigned run, unsigned number, const struct stat *st)
{
	size_t i = 0;
	while (i < f->count && (f->pairs[i].run != run || f->pairs[i].number != number))
		i++;
	if (i == LISTED)
		return;
	if (i == f->count)
		f->pairs[f->count++] = (struct pair){.run = run, .number = number, .oldest_s = UINT64_MAX};
	f->pairs[i].bytes += (uint64_t)st->st_size;
	if ((uint64_t)st->st_mtime > f->pairs[i].changed_s)
		f->pairs[i].changed_s = (uint64_t)st->st_mtime;
	if ((uint64_t)st->st_mtime < f->pairs[i].oldest_s)
		f->pairs[i].oldest_s = (uint64_t)st->st_mtime;
	f->bytes += (uint64_t)st->st_size;
}

/* Is name exactly what format makes of one or two numbers? */
static bool is(const char *name, const char *format, unsigned *run, unsigned *number)
{
	char made[64];
	if (sscanf(name, "%u-%u", run, number) < 1)
		return false;
	snprintf(made, sizeof(made), format, *run, *number);
	return !strcmp(made, name);
}

static int list(int directory, struct files *f)
{
	*f = (struct files){.pairs = calloc(LISTED, sizeof(*f->pairs))};
	DIR *all = f->pairs ? fdopendir(dup(directory)) : NULL;
	if (!all)
		return -errno;
	rewinddir(all);
	for (struct dirent *e; (e = readdir(all));) {
		unsigned run = 0, number = 0;
		struct stat st;
		bool part = is(e->d_name, FT_JOURNAL_CHECKPOINT, &run, &number) || is(e->d_name, FT_JOURNAL_SEGMENT, &run, &number);
		if (part && !fstatat(directory, e->d_name, &st, AT_SYMLINK_NOFOLLOW))
			add(f, run, number, &st);
		if ((part || is(e->d_name, FT_JOURNAL_RING, &run, &number)) && run > f->last_run)
			f->last_run = run;
	}
	closedir(all);
	qsort(f->pairs, f->count, sizeof(*f->pairs), in_order);
	return 0;
}

int64_t ft_journal_oldest(const struct ft_supervisor *s)
{
	uint64_t oldest = INT64_MAX;
	int fd = openat(s->state_fd, "journal", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? INT64_MAX : 0;
	DIR *guests = fdopendir(fd);
	if (!guests)
		close(fd);
	for (struct dirent *e; guests && oldest && (e = readdir(guests));) {
		struct files f;
		if (*e->d_name == '.')
			continue;
		int directory = openat(fd, e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (directory < 0 && (errno == ENOTDIR || errno == ELOOP))
			continue;
		if (directory < 0 || list(directory, &f)) {
			oldest = 0;
		} else {
			for (size_t i = 0; i < f.count; i++)
				oldest = f.pairs[i].oldest_s < oldest ? f.pairs[i].oldest_s : oldest;
			free(f.pairs);
		}
		if (directory >= 0)
			close(directory);
	}
	if (guests)
		closedir(guests);
	return guests ? (int64_t)oldest : 0;
}

static void remove_pair(int directory, const struct files *f, size_t i)
{
	char name[64];
	const struct pair *p = &f->pairs[i];
	snprintf(name, sizeof(name), FT_JOURNAL_CHECKPOINT, p->run, p->number);
	unlinkat(directory, name, 0);
	snprintf(name, sizeof(name), FT_JOURNAL_SEGMENT, p->run, p->number);
	unlinkat(directory, name, 0);
	if (i + 1 < f->count && f->pairs[i + 1].run == p->run)
		return;
	snprintf(name, sizeof(name), FT_JOURNAL_RING, p->run);
	unlinkat(directory, name, 0);
}

/* The oldest go first; what the running guest could be replayed from its newest checkpoint stays. */
static void prune(struct ft_supervisor *s, struct ft_child *vmm)
{
	uint64_t quota = setting(s, "journal.quota"), keep_s = setting(s, "journal.keep") / 1000000000u, now_s = (uint64_t)time(NULL);
	struct files f;
	int directory = open_directory(s, vmm->guest, NULL);
	if (directory < 0)
		return;
	size_t removed = 0;
	if (!list(directory, &f))
		for (size_t i = 0; i < f.count; i++) {
			const struct pair *p = &f.pairs[i];
			bool current = p->run == vmm->journal_run && p->number >= vmm->journal_saved;
			if (current || (f.bytes <= quota && now_s < p->changed_s + keep_s))
				break;
			remove_pair(directory, &f, i);
			f.bytes -= p->bytes;
			removed++;
		}
	vmm->journal_bytes = f.bytes;
	free(f.pairs);
	close(directory);
	if (removed)
		ft_supervisor_record(s, "journal-pruned", vmm->guest, NULL,
				     "%zu of the oldest parts of the journal of guest %s are removed (journal.quota, journal.keep)", removed,
				     vmm->guest);
}

/* ---- Starting, and checkpoints ------------------------------------------------------------------------------------------ */

static void name_checkpoint(const struct ft_child *vmm, bool whole, char name[64])
{
	char bare[48];
	snprintf(bare, sizeof(bare), FT_JOURNAL_CHECKPOINT, vmm->journal_run, vmm->journal_number);
	snprintf(name, 64, "%s%s%s", whole ? "" : ".", bare, whole ? "" : ".new");
}

static int make(int directory, const char *name, struct ft_error *err)
{
	int fd = openat(directory, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	return fd < 0 ? ft_error_set(err, -errno, "%s of the journal cannot be made: %s", name, strerror(errno)) : fd;
}

/* fds[0]: the file for the checkpoint, fds[1]: for its segment. */
static int make_pair(const struct ft_child *vmm, int directory, int fds[2], struct ft_error *err)
{
	char name[64];
	name_checkpoint(vmm, false, name);
	fds[0] = make(directory, name, err);
	fds[1] = -1;
	if (fds[0] < 0)
		return fds[0];
	snprintf(name, sizeof(name), FT_JOURNAL_SEGMENT, vmm->journal_run, vmm->journal_number);
	fds[1] = make(directory, name, err);
	/* Whatever becomes of a vmm: what was written stays in front of what it writes. */
	if (fds[1] >= 0 && fcntl(fds[1], F_SETFL, O_APPEND))
		return ft_error_set(err, -errno, "%s of the journal cannot be made: %s", name, strerror(errno));
	/* What is made durable in a file is nowhere when its name is not. */
	if (fds[1] >= 0 && fsync(directory))
		return ft_error_set(err, -errno, "the directory of the journal cannot be written: %s", strerror(errno));
	return fds[1] < 0 ? fds[1] : 0;
}

/* A checkpoint that came to nothing, and what would have followed it if nothing has begun there. */
static void unmake_pair(const struct ft_child *vmm, int directory, bool segment)
{
	char name[64];
	name_checkpoint(vmm, false, name);
	unlinkat(directory, name, 0);
	if (!segment)
		return;
	snprintf(name, sizeof(name), FT_JOURNAL_SEGMENT, vmm->journal_run, vmm->journal_number);
	unlinkat(directory, name, 0);
}

int ft_journal_start(struct ft_supervisor *s, struct ft_child *vmm, json_t *part, int fds[FT_JOURNAL_FILES], struct ft_error *err)
{
	struct files f = {0};
	struct ft_snapshot_seal seal;
	char name[64];
	int pair[2] = {-1, -1};
	fds[0] = fds[1] = fds[2] = -1;
	vmm->journal_run = vmm->journal_number = vmm->journal_pending = vmm->journal_saved = 0;
	vmm->journal_due = UINT64_MAX;
	vmm->journal_tries = 0;
	vmm->journal_failing = false;
	vmm->journal_segment = 0;
	if (!wanted(s, vmm))
		return 1;
	int directory = open_directory(s, vmm->guest, err), error = directory < 0 ? directory : list(directory, &f);
	if (!error) {
		vmm->journal_run = f.last_run + 1;
		vmm->journal_number = vmm->journal_pending = 1;
		snprintf(name, sizeof(name), FT_JOURNAL_RING, vmm->journal_run);
		fds[0] = make(directory, name, err);
		if (s->snapshot_key)
			ft_snapshot_seal(&seal, s->snapshot_key);
		error = fds[0] < 0 ? fds[0] : ft_journal_ring_make(fds[0], s->snapshot_key ? &seal : NULL, err);
	} else if (!err->code) {
		ft_error_set(err, error, "the directory of the journal cannot be read: %s", strerror(-error));
	}
	if (!error)
		error = make_pair(vmm, directory, pair, err);
	vmm->journal_bytes = f.bytes;
	free(f.pairs);
	if (error && fds[0] >= 0) {
		unmake_pair(vmm, directory, true);
		unlinkat(directory, name, 0);
	}
	if (directory >= 0)
		close(directory);
	fds[1] = pair[1];
	fds[2] = pair[0];
	if (error) {
		ft_files_close(fds, FT_JOURNAL_FILES);
		vmm->journal_run = 0;
		note_failure(s, vmm, "guest %s has no journal: %s", vmm->guest, err->text);
		return error;
	}
	json_object_set_new(part, "journal",
			    json_pack("{s:I, s:I, s:O, s:b, s:b, s:b}", "run", (json_int_t)vmm->journal_run, "number", (json_int_t)1, "check_every",
				      ft_config_get(s->config, "journal.check_every"), "hold", !strcmp(ft_config_text(s->config, "journal.on_failure"), "hold"),
				      "commit", is_on(s, vmm, "output_commit"), "by_reference",
				      !strcmp(ft_config_text(s->config, "journal.by_reference"), "on")));
	if (s->snapshot_key)
		json_object_set_new(json_object_get(part, "journal"), "seal", ft_snapshot_seal_json(&seal));
	sodium_memzero(&seal, sizeof(seal));
	return 0;
}

json_t *ft_journal_json(const struct ft_supervisor *s, const struct ft_child *vmm)
{
	if (!vmm->journal_run && !wanted(s, vmm))
		return NULL;
	return json_pack("{s:I, s:I, s:b, s:I, s:I, s:I, s:I, s:I}", "run", (json_int_t)vmm->journal_run, "checkpoint",
			 (json_int_t)vmm->journal_saved, "failing", vmm->journal_failing || vmm->journal_tries, "gaps",
			 (json_int_t)vmm->journal_gaps, "failures", (json_int_t)vmm->journal_failures, "checkpoints",
			 (json_int_t)vmm->journal_checkpoints, "chunks", (json_int_t)vmm->journal_chunks, "bytes", (json_int_t)vmm->journal_bytes);
}

/* A checkpoint could not be had. One event for all tries in a row; the next that is saved has its own. */
static void try_again(struct ft_supervisor *s, struct ft_child *vmm, const char *why)
{
	vmm->journal_due = ft_loop_now() + (SOON << (vmm->journal_tries < TRIES ? vmm->journal_tries : TRIES));
	if (vmm->journal_tries++)
		vmm->journal_failures++;
	else
		note_failure(s, vmm, "checkpoint %u of guest %s was not saved: %s", vmm->journal_number, vmm->guest, why);
}

/* Each checkpoint and its segment have a key of their own. */
static int send_order(struct ft_supervisor *s, struct ft_child *vmm, int fds[2])
{
	struct ft_snapshot_seal seal;
	json_t *message = json_pack("{s:s, s:I}", "op", "checkpoint", "number", (json_int_t)vmm->journal_number);
	if (s->snapshot_key) {
		ft_snapshot_seal(&seal, s->snapshot_key);
		json_object_set_new(message, "seal", ft_snapshot_seal_json(&seal));
		sodium_memzero(&seal, sizeof(seal));
	}
	int error = ft_child_send(vmm, json_incref(message), fds, 2);
	ft_snapshot_wipe_seal(message);
	json_decref(message);
	return error;
}

static void request_checkpoint(struct ft_supervisor *s, struct ft_child *vmm, uint64_t now)
{
	struct ft_error err = {0};
	int fds[2] = {-1, -1};
	int directory = open_directory(s, vmm->guest, &err);
	vmm->journal_due = now + SOON;
	if (directory < 0)
		return;
	vmm->journal_number++;
	int error = make_pair(vmm, directory, fds, &err);
	if (!error)
		error = send_order(s, vmm, fds);
	ft_files_close(fds, 2);
	if (error)
		unmake_pair(vmm, directory, true);
	close(directory);
	if (error) {
		try_again(s, vmm, err.code ? err.text : strerror(-error));
		return;
	}
	vmm->journal_pending = vmm->journal_number;
	vmm->journal_due = UINT64_MAX;
}

uint64_t ft_journal_serve(struct ft_supervisor *s, uint64_t now)
{
	uint64_t next = UINT64_MAX;
	for (unsigned i = 0; i < s->count && s->phase == FT_PHASE_RUNNING; i++) {
		struct ft_child *vmm = &s->children[i];
		if (vmm->kind != FT_CHILD_VMM || !vmm->journal_run || vmm->state != FT_CHILD_READY || vmm->journal_pending)
			continue;
		if (vmm->journal_due <= now && *vmm->saving)
			vmm->journal_due = now + SOON; /* one save at a time */
		if (vmm->journal_due <= now)
			request_checkpoint(s, vmm, now);
		if (vmm->journal_due < next)
			next = vmm->journal_due;
	}
	return next;
}

/* ---- What the vmm says -------------------------------------------------------------------------------------------------- */

/* Of 32 bytes, in hexadecimal; NULL: it is none. */
static const char *hash_of(const json_t *message, const char *key)
{
	const char *hex = json_string_value(json_object_get(message, key));
	return hex && strlen(hex) == 64 && strspn(hex, "0123456789abcdef") == 64 ? hex : NULL;
}

static void note(struct ft_supervisor *s, json_t *entry)
{
	if (entry && ft_channel_send(s->records[1], entry, NULL, 0))
		ft_supervisor_say("error", "the ledger could not take a hash of a journal; the next one is chained to it");
	json_decref(entry);
}

static bool is_encrypted(int directory, const char *name)
{
	struct ft_snapshot_header header;
	int fd = openat(directory, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	bool encrypted = fd >= 0 && !ft_snapshot_peek(fd, &header, NULL) && header.encrypted;
	if (fd >= 0)
		close(fd);
	return encrypted;
}

static void end_pending(struct ft_supervisor *s, struct ft_child *vmm, const char *why)
{
	struct ft_error err = {0};
	char name[64], whole[64], clean[256];
	int directory = open_directory(s, vmm->guest, &err);
	name_checkpoint(vmm, false, name);
	name_checkpoint(vmm, true, whole);
	/* That it is whole is believed, for whoever reads it checks that. */
	if (directory >= 0 && !why && s->snapshot_key && !is_encrypted(directory, name))
		why = "its vmm process did not encrypt it";
	if (directory >= 0 && !why && (renameat(directory, name, directory, whole) || fsync(directory)))
		why = strerror(errno);
	if (directory >= 0 && why)
		unlinkat(directory, name, 0);
	if (directory >= 0)
		close(directory);
	vmm->journal_due = ft_loop_now() + setting(s, "journal.checkpoint_every");
	vmm->journal_pending = 0;
	if (!why) {
		vmm->journal_saved = vmm->journal_number;
		vmm->journal_tries = 0;
		vmm->journal_checkpoints++;
		return;
	}
	ft_printable(clean, sizeof(clean), why, strnlen(why, 60));
	try_again(s, vmm, clean);
}

static bool told_checkpoint(struct ft_supervisor *s, struct ft_child *vmm, const json_t *message)
{
	const char *mac = hash_of(message, "mac"), *why = json_string_value(json_object_get(message, "error"));
	if (!vmm->journal_pending || json_integer_value(json_object_get(message, "number")) != (json_int_t)vmm->journal_pending)
		return false;
	end_pending(s, vmm, why ? why : mac ? NULL : "it has no hash");
	if (vmm->journal_saved != vmm->journal_number)
		return true;
	note(s, json_pack("{s:s, s:s, s:I, s:I, s:s}", "op", "journal", "guest", vmm->guest, "run", (json_int_t)vmm->journal_run, "segment",
			  (json_int_t)vmm->journal_number, "checkpoint", mac));
	ft_supervisor_record(s, "checkpoint", vmm->guest, NULL,
			     "checkpoint %u of guest %s (run %u) is saved: %lld bytes in %.1f s, the guest stood still for %.1f ms",
			     vmm->journal_number, vmm->guest, vmm->journal_run, (long long)json_integer_value(json_object_get(message, "bytes")),
			     (double)json_integer_value(json_object_get(message, "took_ns")) / 1e9,
			     (double)json_integer_value(json_object_get(message, "pause_ns")) / 1e6);
	prune(s, vmm);
	return true;
}

static void told_chunk(struct ft_supervisor *s, struct ft_child *vmm, const json_t *message, const char *hash)
{
	json_int_t bytes = json_integer_value(json_object_get(message, "bytes"));
	note(s, json_pack("{s:s, s:s, s:I, s:I, s:I, s:s, s:I}", "op", "journal", "guest", vmm->guest, "run", (json_int_t)vmm->journal_run,
			  "segment", json_integer_value(json_object_get(message, "segment")), "chunk",
			  json_integer_value(json_object_get(message, "chunk")), "hash", hash, "instructions",
			  json_integer_value(json_object_get(message, "instructions"))));
	uint32_t segment = (uint32_t)json_integer_value(json_object_get(message, "segment"));
	if (segment != vmm->journal_segment)
		vmm->journal_segment_bytes = 0;
	vmm->journal_segment = segment;
	if (bytes > 0 && (uint64_t)bytes > vmm->journal_segment_bytes) {
		vmm->journal_bytes += (uint64_t)bytes - vmm->journal_segment_bytes;
		vmm->journal_segment_bytes = (uint64_t)bytes;
	}
	vmm->journal_chunks++;
	if (vmm->journal_failing)
		ft_supervisor_record(s, "journal-works", vmm->guest, NULL, "the journal of guest %s is written again, and nothing of it is missing%s",
				     vmm->guest, vmm->journal_gaps ? " but what the gaps are" : "");
	vmm->journal_failing = false;
	/* A quarter of what it may have: what is before the next checkpoint can go then. */
	if (bytes > 0 && (uint64_t)bytes > setting(s, "journal.quota") / 4 && !vmm->journal_pending && vmm->journal_due != UINT64_MAX)
		vmm->journal_due = ft_loop_now();
}

bool ft_journal_told(struct ft_supervisor *s, struct ft_child *vmm, const json_t *message)
{
	const char *op = json_string_value(json_object_get(message, "op")), *why = json_string_value(json_object_get(message, "error"));
	char clean[256];
	if (vmm->kind != FT_CHILD_VMM || !vmm->journal_run)
		return false;
	if (!strcmp(op, "checkpoint"))
		return told_checkpoint(s, vmm, message);
	const char *hash = hash_of(message, "hash");
	unsigned lost;
	if (hash) {
		told_chunk(s, vmm, message, hash);
	} else if (why && ft_child_may_log(vmm, &lost)) {
		ft_printable(clean, sizeof(clean), why, strnlen(why, 200));
		vmm->journal_failing = true;
		note_failure(s, vmm, "the journal of guest %s cannot be written: %s", vmm->guest, clean);
	} else if (json_is_integer(json_object_get(message, "stands_still")) && ft_child_may_log(vmm, &lost)) {
		ft_supervisor_record(s, "journal-held", vmm->guest, NULL, "guest %s stands still from instruction %lld on: its journal has no room", vmm->guest,
				     (long long)json_integer_value(json_object_get(message, "stands_still")));
	} else if (json_is_integer(json_object_get(message, "stood_still_ns")) && ft_child_may_log(vmm, &lost)) {
		ft_supervisor_record(s, "journal-works", vmm->guest, NULL, "guest %s goes on, after %.1f s for which its journal had no room", vmm->guest,
				     (double)json_integer_value(json_object_get(message, "stood_still_ns")) / 1e9);
	} else if (json_is_integer(json_object_get(message, "lost"))) {
		vmm->journal_gaps++;
		ft_supervisor_record(s, "journal-gap", vmm->guest, NULL,
				     "the journal of guest %s has a gap from instruction %lld on, until the next checkpoint", vmm->guest,
				     (long long)json_integer_value(json_object_get(message, "lost")));
		if (!vmm->journal_pending)
			vmm->journal_due = ft_loop_now() + SOON;
	}
	return true;
}

/* What no chunk has any more is in the ring's file. Its hash is all that the supervisor makes of it. */
static void note_ring(struct ft_supervisor *s, const struct ft_child *vmm, int directory)
{
	static uint8_t bytes[PART];
	struct ft_journal_ring_page page;
	crypto_generichash_state state;
	uint8_t hash[32];
	char name[64], hex[65];
	snprintf(name, sizeof(name), FT_JOURNAL_RING, vmm->journal_run);
	int fd = openat(directory, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	bool good = fd >= 0 && pread(fd, &page, sizeof(page), 0) == sizeof(page) && page.head >= page.tail &&
		    page.head - page.tail <= FT_JOURNAL_RING_SIZE;
	crypto_generichash_init(&state, NULL, 0, sizeof(hash));
	for (uint64_t at = page.tail, n; good && at < page.head; at += n) {
		uint64_t place = at % FT_JOURNAL_RING_SIZE;
		n = page.head - at < PART ? page.head - at : PART;
		n = n < FT_JOURNAL_RING_SIZE - place ? n : FT_JOURNAL_RING_SIZE - place;
		good = pread(fd, bytes, n, (off_t)(4096 + place)) == (ssize_t)n;
		crypto_generichash_update(&state, bytes, n);
	}
	if (fd >= 0)
		close(fd);
	if (!good)
		return;
	crypto_generichash_final(&state, hash, sizeof(hash));
	sodium_bin2hex(hex, sizeof(hex), hash, sizeof(hash));
	note(s, json_pack("{s:s, s:s, s:I, s:I, s:I, s:s}", "op", "journal", "guest", vmm->guest, "run", (json_int_t)vmm->journal_run,
			  "ring_from", (json_int_t)(page.tail & INT64_MAX), "ring_to", (json_int_t)(page.head & INT64_MAX), "hash", hex));
}

void ft_journal_ended(struct ft_supervisor *s, struct ft_child *vmm)
{
	if (vmm->kind != FT_CHILD_VMM || !vmm->journal_run)
		return;
	if (vmm->journal_pending)
		end_pending(s, vmm, "its vmm process has ended");
	int directory = open_directory(s, vmm->guest, NULL);
	if (directory >= 0) {
		note_ring(s, vmm, directory);
		close(directory);
	}
	vmm->journal_run = 0;
	vmm->journal_due = UINT64_MAX;
}

json_t *ft_journal_files(const struct ft_supervisor *s, const struct ft_child *vmm)
{
	char path[128];
	snprintf(path, sizeof(path), "guests.%s.disk", vmm->guest);
	json_t *peers = json_object();
	for (unsigned i = 0; i < s->count && !strcmp(ft_config_text(s->config, "journal.by_reference"), "on"); i++) {
		const struct ft_child *other = &s->children[i];
		char disk[128];
		snprintf(disk, sizeof(disk), "guests.%s.disk", other->guest);
		const char *image = other->kind == FT_CHILD_VMM && other != vmm && wanted(s, other) ? ft_config_text(s->config, disk) : NULL;
		if (other->kind == FT_CHILD_VMM && other != vmm && wanted(s, other))
			json_object_set_new(peers, other->guest, json_string(image ? image : ""));
	}
	return json_pack("{s:s, s:o, s:s*, s:I, s:s*, s:s*, s:o}", "guest", vmm->guest, "directory",
			 json_sprintf("%s/journal/%s", ft_config_text(s->config, "state"), vmm->guest), "disk", ft_config_text(s->config, path), "run",
			 (json_int_t)vmm->journal_run, "key", ft_config_text(s->config, "snapshots.key"), "credential",
			 ft_config_text(s->config, "snapshots.credential"), "peers", peers);
}

void ft_journal_request_files(struct ft_supervisor *s, uint64_t connection, json_t *request)
{
	struct ft_child *vmm = ft_guest_named(s, connection, request);
	if (vmm)
		ft_control_answer(&s->control, connection,
				  json_pack("{s:O?, s:o}", "id", json_object_get(request, "id"), "result", ft_journal_files(s, vmm)));
}
