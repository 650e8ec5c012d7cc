/* What the verifier must catch, one test each; a ledger that nobody touched has no finding. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <sodium.h>
#include <cmocka.h>

#include "tests/ledger/log.h"
#include "tests/ledger/place.h"

#define SEGMENT "entries/000000000000000"

static struct place place;
static int dir;

/* 30 entries in three commits and one ended epoch: sizes 10, 16 (the end of epoch 0 is the 16th), 26 and 31. */
static int begin(void **state)
{
	place_open(&place);
	dir = place.fd;
	struct ft_writer *w = log_open(&ft_io_system, dir);
	log_write(w, 0, 10);
	log_write(w, 10, 5);
	assert_int_equal(ft_writer_evolve(w, 1790000000000000000u), 0);
	log_write(w, 15, 10);
	log_write(w, 25, 5);
	assert_int_equal(ft_writer_size(w), 31);
	ft_writer_close(w);
	assert_int_equal(log_good(dir), 31);
	return 0;
}

static int end(void **state)
{
	place_close(&place);
	return 0;
}

static char *load(const char *name, size_t *length)
{
	int error;
	char *bytes = ft_io_read_file(dir, name, 1u << 24, length, &error);
	assert_non_null(bytes);
	return bytes;
}

static void store(const char *name, const void *bytes, size_t length)
{
	int fd = openat(dir, name, O_WRONLY | O_CREAT | O_TRUNC, 0644);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, bytes, length), length);
	close(fd);
}

/* Where entry `number` begins in the segment, with its length. */
static size_t offset_of(const char *bytes, unsigned number)
{
	size_t at = 0;
	while (number--)
		at += 2 + ((size_t)(uint8_t)bytes[at] << 8 | (uint8_t)bytes[at + 1]);
	return at;
}

static void no_bit_of_any_file_may_change(void **state)
{
	static const char *const files[] = {SEGMENT, "tile/0", "checkpoints", "epochs", "keys", "vkey"};
	/* The key that somebody kept elsewhere: vkey itself may be what is changed. */
	log_copy(dir, dir, "vkey");
	size_t n;
	char *key = load("vkey", &n);
	store("key-that-was-kept", key, n);
	free(key);
	setenv("LOG_KEY", "kept", 1);
	for (unsigned i = 0; i < sizeof(files) / sizeof(*files); i++) {
		size_t length;
		char *bytes = load(files[i], &length);
		assert_true(length > 30);
		for (size_t at = 0; at < length; at++) {
			struct ft_checked checked;
			struct ft_findings findings;
			int fd = openat(dir, files[i], O_WRONLY);
			char changed = (char)(bytes[at] ^ 1 << at % 8);
			assert_int_equal(pwrite(fd, &changed, 1, (off_t)at), 1);
			log_check(dir, NULL, &checked, &findings);
			if (!findings.count)
				fail_msg("a bit of byte %zu of %s may change", at, files[i]);
			assert_int_equal(pwrite(fd, &bytes[at], 1, (off_t)at), 1);
			close(fd);
		}
		free(bytes);
	}
	unsetenv("LOG_KEY");
	log_good(dir);
}

static void an_edited_entry(void **state)
{
	size_t length;
	char *bytes = load(SEGMENT, &length), *at = memmem(bytes, length, "number 12", 9);
	assert_non_null(at);
	memcpy(at, "number 99", 9);
	store(SEGMENT, bytes, length);
	free(bytes);
	log_bad(dir, NULL, "another hash for entry 12");
	log_bad(dir, NULL, "entries 10 to 14 are not those that were signed");
}

/* Edited, and the tiles made to fit. */
static void an_edited_entry_with_its_hash(void **state)
{
	size_t length;
	struct ft_hash leaf;
	char *bytes = load(SEGMENT, &length);
	size_t at = offset_of(bytes, 3), n = (size_t)(uint8_t)bytes[at + 1];
	bytes[at + n - 1] ^= 2;
	ft_hash_leaf(&leaf, bytes + at + 2, n);
	store(SEGMENT, bytes, length);
	int fd = openat(dir, "tile/0", O_WRONLY);
	assert_int_equal(pwrite(fd, &leaf, 32, 3 * 32), 32);
	close(fd);
	free(bytes);
	log_bad(dir, NULL, "entries 0 to 9 are not those that were signed");
}

static void a_dropped_entry(void **state)
{
	size_t length;
	char *bytes = load(SEGMENT, &length);
	size_t at = offset_of(bytes, 7), next = offset_of(bytes, 8);
	memmove(bytes + at, bytes + next, length - next);
	store(SEGMENT, bytes, length - (next - at));
	free(bytes);
	log_bad(dir, NULL, "entry 30 is missing");
	log_bad(dir, NULL, "another hash for entry 7");
}

static void a_duplicated_entry(void **state)
{
	size_t length;
	char *bytes = load(SEGMENT, &length), *more = malloc(length + 256);
	size_t at = offset_of(bytes, 7), next = offset_of(bytes, 8);
	memcpy(more, bytes, next);
	memcpy(more + next, bytes + at, length - at);
	store(SEGMENT, more, length + next - at);
	free(bytes);
	free(more);
	log_bad(dir, NULL, "another hash for entry 8");
	log_bad(dir, NULL, "are not signed");
}

static void reordered_entries(void **state)
{
	size_t length;
	char *bytes = load(SEGMENT, &length), *more = malloc(length);
	/* Entries 21 and 22 have the same length. */
	size_t a = offset_of(bytes, 21), b = offset_of(bytes, 22), c = offset_of(bytes, 23);
	memcpy(more, bytes, length);
	memcpy(more + a, bytes + b, c - b);
	memcpy(more + a + (c - b), bytes + a, b - a);
	store(SEGMENT, more, length);
	free(bytes);
	free(more);
	log_bad(dir, NULL, "another hash for entry 21");
}

static void a_torn_middle(void **state)
{
	size_t length;
	char *bytes = load(SEGMENT, &length);
	memset(bytes + length / 3, 0, 300);
	store(SEGMENT, bytes, length);
	free(bytes);
	log_bad(dir, NULL, "another hash for entry");
}

static void an_unsigned_tail(void **state)
{
	size_t length;
	char *bytes = load(SEGMENT, &length);
	size_t at = offset_of(bytes, 5), next = offset_of(bytes, 6);
	int fd = openat(dir, SEGMENT, O_WRONLY | O_APPEND);
	assert_int_equal(write(fd, bytes + at, next - at), next - at);
	close(fd);
	free(bytes);
	log_bad(dir, NULL, "bytes of entries at the end are not signed");
}

static void tiles_beyond_the_end(void **state)
{
	int fd = openat(dir, "tile/0", O_WRONLY | O_APPEND);
	char hash[32] = {1};
	assert_int_equal(write(fd, hash, 32), 32);
	close(fd);
	log_bad(dir, NULL, "more than the signed tree");
}

/* The forger has the key of epoch 1 and rewrites what epoch 0 signed. */
static void resealing_with_a_later_key(void **state)
{
	struct place forged;
	place_open(&forged);
	log_forge(dir, forged.fd, 4);
	log_bad(forged.fd, NULL, "epoch 0 ends with a checkpoint of epoch 1");
	place_close(&forged);
}

/* The same, but the forger leaves the genuine end of epoch 0 in its place. */
static void resealing_behind_a_genuine_end(void **state)
{
	struct place forged;
	place_open(&forged);
	log_forge(dir, forged.fd, 4);
	log_copy(dir, forged.fd, "epochs");
	log_bad(forged.fd, NULL, "are not those that were signed");
	place_close(&forged);
}

/* The forger takes an earlier checkpoint of epoch 0 for its end, so as to write the entries behind it anew. */
static void an_epoch_that_ends_early(void **state)
{
	size_t length, first;
	struct place forged;
	place_open(&forged);
	log_forge(dir, forged.fd, 12);
	char *notes = load("checkpoints", &length);
	first = ft_note_first(notes, length) + 1;
	int fd = openat(forged.fd, "epochs", O_WRONLY | O_TRUNC);
	assert_int_equal(write(fd, notes, first), first);
	close(fd);
	free(notes);
	log_bad(forged.fd, NULL, "entry 9 ends an epoch without saying so");
	place_close(&forged);
}

/* Within the epoch of a stolen key nothing in the directory helps: that is what a kept checkpoint is for. */
static void a_fork_is_seen_by_who_kept_a_checkpoint(void **state)
{
	struct place forged;
	struct ft_kept kept = log_keep(dir);
	place_open(&forged);
	log_forge(dir, forged.fd, 20);
	assert_int_equal(log_good(forged.fd), 31);
	log_bad(forged.fd, &kept, "forked");
	place_close(&forged);
}

static void truncation_is_seen_by_who_kept_a_checkpoint(void **state)
{
	struct ft_kept kept = log_keep(dir);
	size_t length, at = 0, n, last = 0;
	char *notes = load("checkpoints", &length);
	for (; (n = ft_note_first(notes + at, length - at)); at += n + 1)
		last = at;
	store("checkpoints", notes, last);
	free(notes);
	char *bytes = load(SEGMENT, &length);
	store(SEGMENT, bytes, offset_of(bytes, 26));
	free(bytes);
	bytes = load("tile/0", &length);
	store("tile/0", bytes, 26 * 32);
	free(bytes);
	assert_int_equal(log_good(dir), 26);
	log_bad(dir, &kept, "truncated or rolled back");
}

/* A copy from yesterday is put in place of today's. */
static void roll_back_is_seen_by_who_kept_a_checkpoint(void **state)
{
	struct ft_writer *w = log_open(&ft_io_system, dir);
	struct ft_checked checked;
	struct ft_findings findings;
	struct ft_kept before = log_keep(dir);
	log_write(w, 100, 3);
	ft_writer_close(w);
	struct ft_kept after = log_keep(dir);
	assert_int_equal(after.seen.size, 34);
	/* What goes on is no roll-back. */
	log_check(dir, &before, &checked, &findings);
	assert_int_equal(findings.count, 0);
	end(NULL);
	begin(NULL);
	log_bad(dir, &after, "truncated or rolled back");
}

static void the_wrong_key(void **state)
{
	struct place other;
	place_open(&other);
	struct ft_writer *w = log_open(&ft_io_system, other.fd);
	log_write(w, 0, 1);
	ft_writer_close(w);
	log_copy(other.fd, dir, "vkey");
	log_bad(dir, NULL, "is not signed by this key");
	place_close(&other);
}

/* Where the power went, tiles may be short; they are never wrong. */
static void missing_hashes_are_no_tampering_and_wrong_ones_are(void **state)
{
	struct ft_checked checked;
	struct ft_findings findings;
	size_t length;
	char *hashes = load("tile/0", &length);
	store("tile/0", hashes, length - 5 * 32);
	log_check(dir, NULL, &checked, &findings);
	assert_int_equal(findings.count, 0);
	assert_int_equal(checked.hashes_missing, 5);
	memset(hashes + length - 5 * 32, 0, 5 * 32);
	store("tile/0", hashes, length);
	log_bad(dir, NULL, "another hash for entry 26");
	free(hashes);
}

static void a_missing_segment(void **state)
{
	assert_int_equal(unlinkat(dir, SEGMENT, 0), 0);
	log_bad(dir, NULL, "no entry says that they were removed");
}

static void missing_ends_of_epochs(void **state)
{
	store("epochs", "", 0);
	log_bad(dir, NULL, "epoch 0 has no end");
}

static void a_torn_checkpoint(void **state)
{
	size_t length;
	char *notes = load("checkpoints", &length);
	store("checkpoints", notes, length - 40);
	free(notes);
	log_bad(dir, NULL, "bytes that are no checkpoint");
}

static void a_file_that_is_none_of_ours(void **state)
{
	store("entries/notes.txt", "x", 1);
	log_bad(dir, NULL, "none of the ledger's");
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, begin, end)
	const struct CMUnitTest tests[] = {
	    T(no_bit_of_any_file_may_change), T(an_edited_entry), T(an_edited_entry_with_its_hash), T(a_dropped_entry),
	    T(a_duplicated_entry), T(reordered_entries), T(a_torn_middle), T(an_unsigned_tail), T(tiles_beyond_the_end),
	    T(resealing_with_a_later_key), T(resealing_behind_a_genuine_end), T(an_epoch_that_ends_early),
	    T(a_fork_is_seen_by_who_kept_a_checkpoint), T(truncation_is_seen_by_who_kept_a_checkpoint),
	    T(roll_back_is_seen_by_who_kept_a_checkpoint), T(the_wrong_key),
	    T(missing_hashes_are_no_tampering_and_wrong_ones_are), T(a_missing_segment), T(missing_ends_of_epochs),
	    T(a_torn_checkpoint), T(a_file_that_is_none_of_ours),
	};
	return sodium_init() < 0 ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
