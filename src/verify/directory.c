#include "verify/directory.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "verify/merkle.h"

#define LEVELS	8u
#define SEGMENT 65536u
#define NOTES	(64u << 20)
#define BUFFER	(1u << 20)

/* Numbers of entry types that mean something to the proof itself. */
enum { CUT = 16, PRUNED = 17, EPOCH = 18 };

/* A size at which the root must be `root`. */
struct target {
	uint64_t size;
	struct ft_hash root;
	bool final; /* ends an epoch */
	bool kept;  /* somebody else's */
	char what[96];
};

struct check {
	int directory, entries, tiles;
	const struct ft_seen_key *key;
	struct ft_findings *findings;
	struct ft_checked *out;
	struct target *targets;
	size_t count, next;
	struct ft_fold fold;
	uint64_t good;	   /* the tree was right at this size */
	bool broken;	   /* a root was wrong: later ones would only repeat that */
	uint64_t claimed;  /* first entry that is left, as `pruned` entries say */
	uint64_t ends;	   /* entries that end an epoch */
	uint64_t differ;   /* leaves that are not those in tile/0 */
	uint64_t differ_at; /* the first of them */
	/* Where the files end when we come: what a running ledger adds meanwhile is not looked at. */
	uint64_t tile_sizes[LEVELS];
	struct {
		int fd;
		uint64_t at; /* hashes read so far */
		struct ft_hash buffer[256];
		unsigned have, used;
	} levels[LEVELS];
};

void ft_finding(struct ft_findings *findings, const char *format, ...)
{
	va_list args;
	if (findings->count < FT_FINDINGS) {
		va_start(args, format);
		vsnprintf(findings->text[findings->count], sizeof(findings->text[0]), format, args);
		va_end(args);
	}
	findings->count++;
}

static ssize_t read_at(int fd, void *bytes, size_t length, uint64_t offset)
{
	size_t done = 0;
	while (done < length) {
		ssize_t n = pread(fd, (char *)bytes + done, length - done, (off_t)(offset + done));
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -1;
		if (!n)
			break;
		done += (size_t)n;
	}
	return (ssize_t)done;
}

char *ft_read_file(int directory, const char *name, size_t most, size_t *length)
{
	struct stat st;
	int fd = openat(directory, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return NULL;
	char *bytes = NULL;
	*length = 0;
	if (!fstat(fd, &st)) {
		if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size > most)
			errno = EFBIG;
		else if ((bytes = malloc((size_t)st.st_size + 1))) {
			ssize_t n = read_at(fd, bytes, (size_t)st.st_size, 0);
			*length = n < 0 ? 0 : (size_t)n;
			bytes[*length] = 0;
		}
	}
	int error = errno;
	close(fd);
	errno = error;
	return bytes;
}

/* ---- Keys and checkpoints --------------------------------------------------------------------------------------- */

static void check_keys(struct check *c, const char *key_text)
{
	size_t length, n = strlen(key_text);
	char *text = ft_read_file(c->directory, "vkey", 4096, &length);
	if (!text || length != n + 1 || memcmp(text, key_text, n) || text[n] != '\n')
		ft_finding(c->findings, "vkey is not the key that was given");
	free(text);
	size_t expected = (size_t)32 << c->key->depth;
	char *keys = ft_read_file(c->directory, "keys", expected, &length);
	struct ft_fold fold = {0};
	struct ft_hash completed[64], leaf;
	for (size_t i = 0; keys && i < length / 32; i++) {
		ft_hash_leaf(&leaf, keys + 32 * i, 32);
		ft_fold_leaf(&fold, &leaf, completed);
	}
	leaf = ft_fold_root(&fold);
	if (!keys || length != expected || memcmp(&leaf, c->key->bytes, 32))
		ft_finding(c->findings, "keys are not the epochs' keys that the key stands for");
	free(keys);
}

static int add_target(struct check *c, const struct ft_seen *seen, bool final, const char *what, uint64_t number)
{
	struct target *more = realloc(c->targets, (c->count + 1) * sizeof(*more));
	if (!more)
		return -ENOMEM;
	c->targets = more;
	struct target *t = &more[c->count++];
	*t = (struct target){.size = seen->size, .root = seen->root, .final = final};
	snprintf(t->what, sizeof(t->what), "%s %" PRIu64, what, number);
	return 0;
}

/* `epochs`: the last checkpoint of each epoch that has ended, without a gap. *last: the last one in `notes`. */
static int check_epochs(struct check *c, const char *notes, size_t length, struct ft_seen *last, size_t *last_at)
{
	size_t at = 0, n;
	uint64_t number = 0;
	for (; (n = ft_seen_first(notes + at, length - at)); at += n + 1, number++) {
		struct ft_seen seen;
		const char *wrong = ft_seen_open(&seen, notes + at, n, c->key, NULL);
		if (wrong) {
			ft_finding(c->findings, "the checkpoint that ends epoch %" PRIu64 " %s", number, wrong);
			return 0;
		}
		if (seen.epoch != number)
			ft_finding(c->findings, "epoch %" PRIu64 " ends with a checkpoint of epoch %" PRIu32, number, seen.epoch);
		if (number && seen.size <= last->size)
			ft_finding(c->findings, "epoch %" PRIu64 " ends before the one before it", number);
		*last = seen;
		*last_at = at;
		if (add_target(c, &seen, true, "the end of epoch", number))
			return -ENOMEM;
	}
	if (at != length)
		ft_finding(c->findings, "epochs has %zu bytes that are no checkpoint at its end", length - at);
	c->ends = number;
	return 0;
}

static int check_checkpoints(struct check *c, const char *finals, size_t finals_length)
{
	struct ft_seen final = {0}, before = {0};
	size_t final_at = 0, at = 0, n;
	uint64_t number = 0;
	int error = check_epochs(c, finals, finals_length, &final, &final_at);
	const char *notes = c->out->checkpoints;
	size_t length = c->out->length;
	for (; !error && (n = ft_seen_first(notes + at, length - at)); at += n + 1, number++) {
		struct ft_seen seen;
		const char *wrong = ft_seen_open(&seen, notes + at, n, c->key, NULL);
		if (wrong) {
			ft_finding(c->findings, "checkpoint %" PRIu64 " %s", number, wrong);
			return 0;
		}
		if (number && seen.size <= before.size)
			ft_finding(c->findings, "checkpoint %" PRIu64 " is not larger than the one before it", number);
		/* A compacted file begins with any checkpoint; an epoch that has ended signs nothing beyond its end. */
		if (seen.epoch > c->ends)
			ft_finding(c->findings, "checkpoint %" PRIu64 " is of epoch %" PRIu32 ", but epoch %" PRIu64 " has no end",
				   number, seen.epoch, c->ends);
		else if (seen.epoch < before.epoch)
			ft_finding(c->findings, "checkpoint %" PRIu64 " is of an epoch that has ended", number);
		for (size_t i = 0; i < c->count && i < c->ends; i++)
			if ((i == seen.epoch && seen.size > c->targets[i].size) ||
			    (i + 1 == seen.epoch && seen.size <= c->targets[i].size))
				ft_finding(c->findings, "checkpoint %" PRIu64 " is not within its epoch %" PRIu32, number,
					   seen.epoch);
		before = seen;
		c->out->last = at;
		c->out->last_length = n;
		error = add_target(c, &seen, false, "checkpoint", number);
	}
	if (error)
		return error;
	if (at != length)
		ft_finding(c->findings, "checkpoints has %zu bytes that are no checkpoint at its end", length - at);
	if (c->ends && before.epoch != c->ends &&
	    (before.epoch + 1 != c->ends || before.size != final.size ||
	     memcmp(finals + final_at, notes + c->out->last, c->out->last_length)))
		ft_finding(c->findings, "the last checkpoint is older than the end of the last epoch");
	c->out->size = before.size;
	c->out->root = before.root;
	c->out->epoch = before.epoch;
	return 0;
}

static int by_size(const void *a, const void *b)
{
	const struct target *x = a, *y = b;
	return x->size < y->size ? -1 : x->size > y->size;
}

/* ---- Entries and tiles ------------------------------------------------------------------------------------------ */

/* The next hash of a level's file. False: there is none. */
static bool next_hash(struct check *c, unsigned level, struct ft_hash *hash)
{
	if (c->levels[level].used == c->levels[level].have) {
		ssize_t n = read_at(c->levels[level].fd, c->levels[level].buffer, sizeof(c->levels[level].buffer),
				    c->levels[level].at * 32);
		c->levels[level].have = n > 0 ? (unsigned)n / 32 : 0;
		c->levels[level].used = 0;
		c->levels[level].at += c->levels[level].have;
		if (!c->levels[level].have)
			return false;
	}
	*hash = c->levels[level].buffer[c->levels[level].used++];
	return true;
}

/* The size that the tree has reached: what must be true there. */
static void reach(struct check *c)
{
	for (; c->next < c->count && c->targets[c->next].size == c->fold.size; c->next++) {
		const struct target *t = &c->targets[c->next];
		struct ft_hash root = ft_fold_root(&c->fold);
		if (!memcmp(&root, &t->root, sizeof(root))) {
			c->good = c->fold.size;
			continue;
		}
		if (t->kept)
			ft_finding(c->findings, "%s has another history: the ledger was forked before entry %" PRIu64, t->what,
				   t->size);
		else if (!c->broken)
			ft_finding(c->findings, "entries %" PRIu64 " to %" PRIu64 " are not those that were signed (%s)", c->good,
				   t->size ? t->size - 1 : 0, t->what);
		c->broken |= !t->kept;
	}
}

static void add_leaf(struct check *c, const struct ft_hash *leaf, bool have_entry)
{
	struct ft_hash completed[64], hash;
	uint64_t index = c->fold.size;
	unsigned n = ft_fold_leaf(&c->fold, leaf, completed);
	for (unsigned level = have_entry ? 0 : 1; level * 8 < n && level < LEVELS; level++) {
		bool there = next_hash(c, level, &hash);
		/* After a power cut the newest hashes may be missing until the ledger is opened again: they follow from the
		 * entries, which are what is signed. */
		if (!there && index / SEGMENT == (c->out->size - 1) / SEGMENT) {
			c->out->hashes_missing++;
			continue;
		}
		if (there && !memcmp(&hash, &completed[level * 8], sizeof(hash)))
			continue;
		if (!c->differ++)
			ft_finding(c->findings, "tile/%u has %s for entry %" PRIu64, level, there ? "another hash" : "no hash",
				   index);
	}
	reach(c);
}

/* A cut names the file that keeps what was cut and its SHA-256. */
static void check_cut(struct check *c, uint64_t index, const char *body, size_t length)
{
	json_t *json = json_loadb(body, length, 0, NULL);
	const char *file = json_string_value(json_object_get(json, "file"));
	const char *sha256 = json_string_value(json_object_get(json, "sha256"));
	char name[32], hex[65];
	snprintf(name, sizeof(name), "cut/%" PRIu64, index);
	size_t n;
	char *bytes = file && sha256 && !strcmp(file, name) ? ft_read_file(c->directory, name, 1u << 30, &n) : NULL;
	if (bytes) {
		struct ft_hash hash;
		ft_hash_bytes(&hash, bytes, n);
		for (unsigned i = 0; i < 32; i++)
			snprintf(hex + 2 * i, 3, "%02x", hash.bytes[i]);
	}
	if (!bytes || strcmp(hex, sha256))
		ft_finding(c->findings, "%s is not what entry %" PRIu64 " says was cut off", name, index);
	free(bytes);
	json_decref(json);
}

static void look_at(struct check *c, uint64_t index, const uint8_t *entry, size_t length)
{
	bool final = false;
	for (size_t i = c->next; i < c->count && c->targets[i].size <= index + 1; i++)
		final |= c->targets[i].final && c->targets[i].size == index + 1;
	if (length < 9) {
		ft_finding(c->findings, "entry %" PRIu64 " is too short", index);
		return;
	}
	if (final != (entry[0] == EPOCH))
		ft_finding(c->findings, final ? "entry %" PRIu64 " ends an epoch without saying so"
					      : "entry %" PRIu64 " ends an epoch that goes on", index);
	if (entry[0] == CUT)
		check_cut(c, index, (const char *)entry + 9, length - 9);
	if (entry[0] == PRUNED) {
		json_t *json = json_loadb((const char *)entry + 9, length - 9, 0, NULL);
		json_int_t first = json_integer_value(json_object_get(json, "first"));
		if (first > 0 && (uint64_t)first > c->claimed)
			c->claimed = (uint64_t)first;
		json_decref(json);
	}
}

/* One segment of `count` signed entries; `size` bytes of it were there when we came. */
static int check_segment(struct check *c, int fd, uint64_t count, uint64_t size)
{
	uint8_t *buffer = malloc(BUFFER);
	uint64_t offset = 0;
	size_t have = 0, at = 0;
	if (!buffer)
		return -ENOMEM;
	for (uint64_t i = 0; i < count; i++) {
		size_t length = have - at >= 2 ? (size_t)buffer[at] << 8 | buffer[at + 1] : 0;
		if (have - at < 2 || have - at < 2 + length) {
			ssize_t n = read_at(fd, buffer, BUFFER, offset);
			have = n > 0 ? (size_t)n : 0;
			at = 0;
			length = have >= 2 ? (size_t)buffer[0] << 8 | buffer[1] : 0;
		}
		if (have - at < 2 || have - at < 2 + length) {
			ft_finding(c->findings, "entry %" PRIu64 " is missing: its file ends before it", c->fold.size);
			free(buffer);
			return -ENODATA;
		}
		struct ft_hash leaf;
		look_at(c, c->fold.size, buffer + at + 2, length);
		ft_hash_leaf(&leaf, buffer + at + 2, length);
		add_leaf(c, &leaf, true);
		at += 2 + length;
		offset += 2 + length;
	}
	free(buffer);
	if (size > offset)
		c->out->tail += size - offset;
	return 0;
}

static int open_segment(const struct check *c, uint64_t segment, uint64_t *size)
{
	char name[32];
	struct stat st;
	snprintf(name, sizeof(name), "%015" PRIu64, segment);
	int fd = openat(c->entries, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd >= 0 && (fstat(fd, &st) || !S_ISREG(st.st_mode))) {
		close(fd);
		return -1;
	}
	if (fd >= 0)
		*size = (uint64_t)st.st_size;
	return fd;
}

/* Where the entries begin, and whether the directory has anything else. */
static int list_entries(struct check *c, uint64_t *lowest)
{
	int fd = openat(c->entries, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *directory = fd < 0 ? NULL : fdopendir(fd);
	if (!directory) {
		int error = -errno;
		if (fd >= 0)
			close(fd);
		return error;
	}
	*lowest = UINT64_MAX;
	for (const struct dirent *d; (d = readdir(directory));) {
		char *end;
		uint64_t segment = strtoull(d->d_name, &end, 10);
		if (!strcmp(d->d_name, ".") || !strcmp(d->d_name, ".."))
			continue;
		if (*end || strlen(d->d_name) != 15)
			ft_finding(c->findings, "entries has a file that is none of the ledger's");
		else if (segment < *lowest)
			*lowest = segment;
	}
	closedir(directory);
	return 0;
}

/* Pruned entries have left their hashes. */
static void take_hashes(struct check *c, uint64_t until)
{
	struct ft_hash leaf;
	while (c->fold.size < until) {
		if (!next_hash(c, 0, &leaf)) {
			ft_finding(c->findings, "tile/0 has no hash for entry %" PRIu64, c->fold.size);
			return;
		}
		add_leaf(c, &leaf, false);
	}
}

static int check_entries(struct check *c)
{
	uint64_t lowest = 0, size = 0, segments = (c->out->size + SEGMENT - 1) / SEGMENT;
	int error = list_entries(c, &lowest);
	if (error)
		return error;
	if (lowest > segments)
		lowest = segments;
	reach(c);
	c->out->first = lowest * SEGMENT < c->out->size ? lowest * SEGMENT : c->out->size;
	take_hashes(c, c->out->first);
	for (uint64_t segment = lowest; segment < segments && !error; segment++) {
		uint64_t count = c->out->size - segment * SEGMENT;
		int fd = open_segment(c, segment, &size);
		if (fd < 0) {
			ft_finding(c->findings, "the file of entries %" PRIu64 " and on is missing", segment * SEGMENT);
			error = -ENODATA;
			break;
		}
		error = check_segment(c, fd, count < SEGMENT ? count : SEGMENT, size);
		close(fd);
	}
	/* Files behind the last signed entry. */
	for (uint64_t segment = segments;; segment++) {
		int fd = open_segment(c, segment, &size);
		if (fd < 0)
			break;
		c->out->tail += size;
		close(fd);
	}
	if (!error && c->out->first > c->claimed)
		ft_finding(c->findings, "entries before %" PRIu64 " are missing, and no entry says that they were removed",
			   c->out->first);
	return error == -ENODATA ? 0 : error;
}

static void check_tile_sizes(struct check *c)
{
	for (unsigned i = 0; i < LEVELS; i++) {
		uint64_t expected = (c->out->size >> (8 * i)) * 32;
		if (c->tile_sizes[i] > expected && !c->out->tail)
			ft_finding(c->findings, "tile/%u has %" PRIu64 " bytes more than the signed tree", i,
				   c->tile_sizes[i] - expected);
	}
}

/* ---- All of it -------------------------------------------------------------------------------------------------- */

static void close_fd(int fd)
{
	if (fd >= 0)
		close(fd);
}

static int open_all(struct check *c)
{
	c->entries = openat(c->directory, "entries", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	c->tiles = openat(c->directory, "tile", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (c->entries < 0 || c->tiles < 0)
		return -errno;
	for (unsigned i = 0; i < LEVELS; i++) {
		char name[4];
		struct stat st;
		snprintf(name, sizeof(name), "%u", i);
		c->levels[i].fd = openat(c->tiles, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
		if (c->levels[i].fd < 0 || fstat(c->levels[i].fd, &st))
			return -errno;
		c->tile_sizes[i] = (uint64_t)st.st_size;
	}
	return 0;
}

static int check_all(struct check *c, const char *key_text, struct ft_kept *kept, size_t count)
{
	size_t finals_length = 0;
	int error = open_all(c);
	if (error)
		return error;
	char *finals = ft_read_file(c->directory, "epochs", NOTES, &finals_length);
	c->out->checkpoints = finals ? ft_read_file(c->directory, "checkpoints", NOTES, &c->out->length) : NULL;
	if (!c->out->checkpoints) {
		error = -errno;
		free(finals);
		return error;
	}
	check_keys(c, key_text);
	error = check_checkpoints(c, finals, finals_length);
	free(finals);
	for (size_t i = 0; i < count && !error; i++) {
		if (kept[i].seen.size > c->out->size)
			ft_finding(c->findings, "%s has %" PRIu64 " entries, the ledger only %" PRIu64 ": it was truncated or rolled back",
				   kept[i].where, kept[i].seen.size, c->out->size);
		else if (!(error = add_target(c, &kept[i].seen, false, "", i))) {
			c->targets[c->count - 1].kept = true;
			memcpy(c->targets[c->count - 1].what, kept[i].where, sizeof(kept[i].where));
		}
	}
	if (error)
		return error;
	if (c->count)
		qsort(c->targets, c->count, sizeof(*c->targets), by_size);
	error = check_entries(c);
	if (error)
		return error;
	check_tile_sizes(c);
	if (c->out->tail)
		ft_finding(c->findings, "%" PRIu64 " bytes of entries at the end are not signed", c->out->tail);
	return 0;
}

int ft_directory_check(int directory, const struct ft_seen_key *key, const char *key_text, struct ft_kept *kept, size_t count,
		       struct ft_checked *checked, struct ft_findings *findings)
{
	struct check *c = calloc(1, sizeof(*c));
	if (!c)
		return -ENOMEM;
	*checked = (struct ft_checked){0};
	c->directory = directory;
	c->key = key;
	c->findings = findings;
	c->out = checked;
	c->entries = c->tiles = -1;
	for (unsigned i = 0; i < LEVELS; i++)
		c->levels[i].fd = -1;
	int error = check_all(c, key_text, kept, count);
	for (unsigned i = 0; i < LEVELS; i++)
		close_fd(c->levels[i].fd);
	close_fd(c->entries);
	close_fd(c->tiles);
	free(c->targets);
	free(c);
	return error;
}
