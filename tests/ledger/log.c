#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "ledger/segment.h"
#include "ledger/tree.h"
#include "tests/ledger/log.h"

struct ft_writer *log_open(const struct ft_io *io, int directory)
{
	struct ft_writer_config config = {.io = io, .directory = directory, .origin = LOG_ORIGIN, .depth = LOG_DEPTH};
	struct ft_error err = {0};
	struct ft_writer *w;
	if (ft_writer_open(&w, &config, &err))
		fail_msg("the ledger cannot be opened: %s", err.text);
	return w;
}

int log_append(struct ft_writer *w, uint64_t number)
{
	char body[128];
	int n = snprintf(body, sizeof(body), "{\"hold\":%" PRIu64 ",\"text\":\"entry number %" PRIu64 "\"}", number / 3, number);
	return ft_writer_append(w, FT_ENTRY_EVENT, 1790000000000000000u + number, body, (size_t)n, NULL);
}

void log_write(struct ft_writer *w, uint64_t number, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		assert_int_equal(log_append(w, number + i), 0);
	assert_int_equal(ft_writer_commit(w), 0);
}

void log_check(int directory, const struct ft_kept *since, struct ft_checked *checked, struct ft_findings *findings)
{
	struct ft_seen_key key;
	struct ft_kept kept;
	char text[512];
	struct ft_note_key ours;
	size_t n;
	int error;
	/* The key that the ledger began with, not what the directory says now: tests keep it in LOG_KEY. */
	char *file = ft_io_read_file(directory, getenv("LOG_KEY") ? "key-that-was-kept" : "vkey", sizeof(text), &n, &error);
	assert_non_null(file);
	assert_int_equal(ft_note_key_parse(&ours, file, n - 1), 0);
	file[n - 1] = 0;
	assert_true(ft_seen_key_parse(&key, file, n - 1));
	if (since)
		kept = *since;
	*findings = (struct ft_findings){0};
	assert_int_equal(ft_directory_check(directory, &key, file, &kept, since != NULL, checked, findings), 0);
	free(file);
	free(checked->checkpoints);
	checked->checkpoints = NULL;
}

uint64_t log_good(int directory)
{
	struct ft_checked checked;
	struct ft_findings findings;
	log_check(directory, NULL, &checked, &findings);
	if (findings.count)
		fail_msg("%u findings, the first: %s", findings.count, findings.text[0]);
	return checked.size;
}

void log_bad(int directory, const struct ft_kept *since, const char *words)
{
	struct ft_checked checked;
	struct ft_findings findings;
	log_check(directory, since, &checked, &findings);
	for (unsigned i = 0; i < findings.count && i < FT_FINDINGS; i++)
		if (strstr(findings.text[i], words))
			return;
	fail_msg("nothing found about \"%s\"; %u findings, the first: %s", words, findings.count,
		 findings.count ? findings.text[0] : "none");
}

struct ft_kept log_keep(int directory)
{
	struct ft_checked checked;
	struct ft_findings findings;
	log_check(directory, NULL, &checked, &findings);
	struct ft_kept kept = {.seen = {.size = checked.size, .root = checked.root, .epoch = checked.epoch}};
	strcpy(kept.where, "what was kept");
	return kept;
}

void log_copy(int from, int to, const char *name)
{
	size_t n;
	int error;
	char *bytes = ft_io_read_file(from, name, 1u << 24, &n, &error);
	assert_non_null(bytes);
	int fd = openat(to, name, O_WRONLY | O_CREAT | O_TRUNC, 0644);
	assert_int_equal(write(fd, bytes, n), n);
	close(fd);
	free(bytes);
}

/* ---- Forging ---------------------------------------------------------------------------------------------------- */

struct forger {
	uint64_t changed;
	struct ft_tree tree;
	int entries, tile;
	size_t at;
	struct ft_hash roots[4096];
};

static int forge_entry(void *context, uint64_t number, const uint8_t *entry, size_t length)
{
	struct forger *f = context;
	uint8_t bytes[2 + 4096];
	struct ft_hash leaf;
	memcpy(bytes + 2, entry, length);
	if (number == f->changed)
		bytes[2 + length - 4] ^= 1;
	bytes[0] = (uint8_t)(length >> 8);
	bytes[1] = (uint8_t)length;
	assert_int_equal(pwrite(f->entries, bytes, length + 2, (off_t)f->at), length + 2);
	f->at += length + 2;
	ft_hash_leaf(&leaf, bytes + 2, length);
	assert_int_equal(pwrite(f->tile, &leaf, 32, (off_t)number * 32), 32);
	ft_tree_append(&f->tree, &leaf, NULL, NULL);
	ft_tree_root(&f->tree, &f->roots[number + 1]);
	return 0;
}

/* The notes of a file, signed again with the key of now where they cover the changed entry. */
static void forge_notes(struct forger *f, const struct ft_key *key, int from, int to, const char *name)
{
	size_t length, n;
	int error;
	char *notes = ft_io_read_file(from, name, 1u << 24, &length, &error);
	assert_non_null(notes);
	FILE *out = fdopen(openat(to, name, O_WRONLY | O_CREAT | O_TRUNC, 0644), "w");
	for (size_t at = 0; (n = ft_note_first(notes + at, length - at)); at += n + 1) {
		struct ft_checkpoint c;
		struct ft_note_evolving signature;
		char text[FT_NOTE_MAX], note[FT_NOTE_MAX];
		assert_int_equal(ft_checkpoint_open(notes + at, n, ft_key_public(key), &c, &signature), 0);
		if (c.size <= f->changed) {
			fprintf(out, "%.*s\n", (int)n, notes + at);
			continue;
		}
		c.root = f->roots[c.size];
		ft_key_sign(key, text, ft_checkpoint_text(&c, text), &signature);
		size_t m = ft_checkpoint_note(&c, ft_key_public(key), &signature, note);
		fprintf(out, "%.*s\n", (int)m, note);
	}
	fclose(out);
	free(notes);
}

void log_forge(int from, int to, uint64_t changed)
{
	struct ft_error err = {0};
	struct ft_key *key;
	struct forger f = {.changed = changed};
	uint64_t bytes;
	assert_int_equal(ft_key_load(&key, from, &err), 0);
	assert_int_equal(mkdirat(to, "entries", 0755), 0);
	assert_int_equal(mkdirat(to, "tile", 0755), 0);
	log_copy(from, to, "vkey");
	log_copy(from, to, "keys");
	for (char name[] = "tile/1"; name[5] <= '7'; name[5]++)
		log_copy(from, to, name);
	struct ft_kept kept = log_keep(from);
	assert_in_range(kept.seen.size, 1, 255);
	int fd = openat(from, "entries/000000000000000", O_RDONLY);
	f.entries = openat(to, "entries/000000000000000", O_RDWR | O_CREAT, 0644);
	f.tile = openat(to, "tile/0", O_RDWR | O_CREAT, 0644);
	assert_int_equal(ft_segment_walk(fd, kept.seen.size, forge_entry, &f, &bytes), 0);
	close(fd);
	close(f.entries);
	close(f.tile);
	forge_notes(&f, key, from, to, "checkpoints");
	forge_notes(&f, key, from, to, "epochs");
	ft_key_free(key);
}
