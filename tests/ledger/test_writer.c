/* The writer, above all when the disk fails, is full, or the power goes at any step it takes. */
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
#include <sodium.h>
#include <cmocka.h>

#include "ledger/proof.h"
#include "ledger/segment.h"
#include "tests/ledger/log.h"
#include "tests/ledger/place.h"

/* ---- A file system that fails ----------------------------------------------------------------------------------- */

#define FILES 64u

enum kind {
	CRASH,	/* the step is half done, nothing after it happens */
	ERROR	/* this step fails with EIO, writes with ENOSPC after a part of them; later ones work */
};

/* What is on the disk when the power goes, beside what was synced. */
enum loss { KILLED /* all of it */, TORN /* half of the rest */, LOST /* nothing of the rest */, ZEROES /* lengths, not data */, LOSSES };

struct disk {
	enum kind kind;
	unsigned step, at; /* it fails at step `at`, counted from 1; 0: never */
	bool dead;
	struct {
		ino_t inode;
		int fd; /* our own, for after the crash */
		char *durable;
		size_t length;
	} files[FILES];
	unsigned count;
};

static int fails(struct disk *d, int error)
{
	if (d->dead)
		return -EIO;
	if (++d->step != d->at)
		return 0;
	d->dead = d->kind == CRASH;
	return error;
}

static unsigned file_of(struct disk *d, int fd)
{
	struct stat st;
	assert_int_equal(fstat(fd, &st), 0);
	for (unsigned i = 0; i < d->count; i++)
		if (d->files[i].inode == st.st_ino)
			return i;
	assert_true(d->count < FILES);
	char path[64];
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	d->files[d->count].inode = st.st_ino;
	d->files[d->count].fd = open(path, O_RDWR | O_CLOEXEC);
	assert_true(d->files[d->count].fd >= 0);
	return d->count++;
}

static int disk_open(void *context, int directory, const char *name, int flags, mode_t mode)
{
	struct disk *d = context;
	if (d->dead)
		return -EIO;
	int fd = ft_io_system.open(NULL, directory, name, flags, mode);
	/* A file that was there before we looked is on the disk as it is. */
	if (fd >= 0 && (flags & O_ACCMODE) != O_RDONLY) {
		unsigned known = d->count, i = file_of(d, fd);
		if (i == known) {
			struct stat st;
			fstat(fd, &st);
			d->files[i].length = (size_t)st.st_size;
			d->files[i].durable = malloc(d->files[i].length + 1);
			assert_int_equal(ft_io_read(d->files[i].fd, d->files[i].durable, d->files[i].length, 0), st.st_size);
		}
	}
	return fd;
}

static ssize_t disk_pwrite(void *context, int fd, const void *bytes, size_t length, off_t offset)
{
	int error = fails(context, -ENOSPC);
	if (error == -ENOSPC && length / 2)
		return ft_io_system.pwrite(NULL, fd, bytes, length / 2, offset) < 0 ? -EIO : -ENOSPC;
	return error ? error : ft_io_system.pwrite(NULL, fd, bytes, length, offset);
}

static int disk_truncate(void *context, int fd, off_t length)
{
	int error = fails(context, -EIO);
	return error ? error : ft_io_system.truncate(NULL, fd, length);
}

static int disk_sync(void *context, int fd)
{
	struct disk *d = context;
	int error = fails(d, -EIO);
	if (error)
		return error;
	unsigned i = file_of(d, fd);
	struct stat st;
	fstat(fd, &st);
	free(d->files[i].durable);
	d->files[i].length = (size_t)st.st_size;
	d->files[i].durable = malloc(d->files[i].length + 1);
	assert_int_equal(ft_io_read(d->files[i].fd, d->files[i].durable, d->files[i].length, 0), st.st_size);
	return 0;
}

static int disk_rename(void *context, int directory, const char *from, const char *to)
{
	int error = fails(context, -EIO);
	return error ? error : ft_io_system.rename(NULL, directory, from, to);
}

static int disk_unlink(void *context, int directory, const char *name)
{
	int error = fails(context, -EIO);
	return error ? error : ft_io_system.unlink(NULL, directory, name);
}

static int disk_mkdir(void *context, int directory, const char *name, mode_t mode)
{
	int error = fails(context, -EIO);
	return error ? error : ft_io_system.mkdir(NULL, directory, name, mode);
}

static int disk_sync_directory(void *context, int fd)
{
	return fails(context, -EIO);
}

static struct ft_io disk_io(struct disk *d)
{
	return (struct ft_io){.context = d, .open = disk_open, .pwrite = disk_pwrite, .truncate = disk_truncate, .sync = disk_sync,
			      .rename = disk_rename, .unlink = disk_unlink, .mkdir = disk_mkdir,
			      .sync_directory = disk_sync_directory};
}

/* The power goes. */
static void lose(struct disk *d, enum loss loss)
{
	for (unsigned i = 0; i < d->count; i++) {
		struct stat st;
		int fd = d->files[i].fd;
		fstat(fd, &st);
		size_t length = d->files[i].length, now = (size_t)st.st_size;
		if (loss != KILLED) {
			size_t rest = now > length ? now - length : 0;
			char *tail = calloc(1, rest + 1);
			size_t keep = loss == TORN ? rest / 2 : loss == ZEROES ? rest : 0;
			if (loss == TORN)
				assert_int_equal(ft_io_read(fd, tail, keep, (off_t)length), keep);
			assert_int_equal(ftruncate(fd, 0), 0);
			assert_int_equal(pwrite(fd, d->files[i].durable ? d->files[i].durable : "", length, 0), length);
			assert_int_equal(pwrite(fd, tail, keep, (off_t)length), keep);
			free(tail);
		}
	}
	for (unsigned i = 0; i < d->count; i++) {
		close(d->files[i].fd);
		free(d->files[i].durable);
	}
}

/* ---- Scenes ----------------------------------------------------------------------------------------------------- */

/* What a caller believes: entries whose commit returned 0. */
struct belief {
	uint64_t promised[64]; /* numbers, in order */
	unsigned count;
	uint64_t waiting[64];
	unsigned waiting_count;
};

static void take(struct belief *b, struct ft_writer *w, uint64_t number)
{
	int error = log_append(w, number);
	/* An epoch whose end is not finished takes nothing: finish it. */
	for (unsigned i = 0; error == -ENOBUFS && i < 8; i++) {
		ft_writer_commit(w);
		error = log_append(w, number);
	}
	if (!error)
		b->waiting[b->waiting_count++] = number;
}

static void promise(struct belief *b)
{
	for (unsigned i = 0; i < b->waiting_count; i++)
		b->promised[b->count++] = b->waiting[i];
	b->waiting_count = 0;
}

static void commit(struct belief *b, struct ft_writer *w, unsigned attempts)
{
	for (unsigned i = 0; i < attempts; i++) {
		if (ft_writer_commit(w))
			continue;
		promise(b);
		return;
	}
}

/* Opens, writes, ends an epoch, writes. Stops where the disk is dead. */
static void work(struct belief *b, const struct ft_io *io, int directory, uint64_t number, unsigned attempts)
{
	struct ft_writer_config config = {.io = io, .directory = directory, .origin = LOG_ORIGIN, .depth = LOG_DEPTH};
	struct ft_writer *w = NULL;
	for (unsigned i = 0; i < attempts && !w; i++)
		ft_writer_open(&w, &config, NULL);
	if (!w)
		return;
	take(b, w, number);
	take(b, w, number + 1);
	commit(b, w, attempts);
	take(b, w, number + 2);
	int error = ft_writer_evolve(w, 1790000000000000000u);
	if (!error)
		promise(b);
	else
		commit(b, w, attempts);
	take(b, w, number + 3);
	commit(b, w, attempts);
	ft_writer_close(w);
}

struct reading {
	uint64_t numbers[64];
	unsigned count, cuts;
};

static int read_one(void *context, uint64_t number, const uint8_t *entry, size_t length)
{
	struct reading *r = context;
	const char *text = memmem(entry, length, "entry number ", 13);
	r->cuts += entry[0] == FT_ENTRY_CUT;
	if (entry[0] == FT_ENTRY_EVENT && text)
		r->numbers[r->count++] = strtoull(text + 13, NULL, 10);
	return 0;
}

static void read_log(int directory, struct reading *r)
{
	uint64_t bytes, size = log_good(directory);
	*r = (struct reading){0};
	int fd = openat(directory, "entries/000000000000000", O_RDONLY);
	if (fd < 0)
		return;
	assert_int_equal(ft_segment_walk(fd, size, read_one, r, &bytes), 0);
	close(fd);
}

/* Each promised entry is there once, in order; what else is there was taken in between. */
static void must_have(const struct reading *r, const struct belief *b, unsigned at, enum loss loss)
{
	unsigned next = 0;
	for (unsigned i = 0; i < r->count; i++) {
		if (next < b->count && r->numbers[i] == b->promised[next])
			next++;
		for (unsigned j = 0; j < i; j++)
			assert_int_not_equal(r->numbers[i], r->numbers[j]);
	}
	if (next < b->count)
		fail_msg("step %u, loss %d: entry %" PRIu64 " was promised and is not there (%u of %u)", at, (int)loss,
			 b->promised[next], next, b->count);
}

/* The power goes at each step of a new ledger, then at each step of mending it; nothing promised is lost, everything left
 * unsigned is cut, and says so. */
static void the_power_may_go_at_any_step(void **state)
{
	unsigned cuts = 0, crashes = 0;
	bool more = true;
	for (unsigned at = 1; more; at++) {
		for (unsigned loss = 0; loss < LOSSES; loss++) {
			struct place place;
			struct belief b = {0};
			struct reading r;
			place_open(&place);
			struct disk d = {.kind = CRASH, .at = at};
			struct ft_io io = disk_io(&d);
			work(&b, &io, place.fd, 0, 1);
			more = d.dead;
			crashes += d.dead;
			lose(&d, loss);
			/* And again while it is being mended and used. */
			b.waiting_count = 0;
			d = (struct disk){.kind = CRASH, .at = 1 + (at * 7 + loss) % 40};
			work(&b, &io, place.fd, 10, 1);
			lose(&d, (loss + at) % LOSSES);
			b.waiting_count = 0;
			work(&b, &ft_io_system, place.fd, 20, 1);
			read_log(place.fd, &r);
			must_have(&r, &b, at, loss);
			assert_true(b.count >= 4);
			cuts += r.cuts;
			place_close(&place);
		}
	}
	print_message("%u crashes, %u cuts\n", crashes, cuts);
	assert_true(crashes > 100);
	assert_true(cuts > 20);
}

/* A step fails once: nothing at all is lost, and nothing is cut. */
static void any_step_may_fail_once(void **state)
{
	bool more = true;
	for (unsigned at = 1; more; at++) {
		struct place place;
		struct belief b = {0};
		struct reading r;
		place_open(&place);
		struct disk d = {.kind = ERROR, .at = at};
		struct ft_io io = disk_io(&d);
		work(&b, &io, place.fd, 0, 3);
		more = d.step >= at;
		lose(&d, KILLED);
		read_log(place.fd, &r);
		must_have(&r, &b, at, KILLED);
		assert_int_equal(b.count, 4);
		place_close(&place);
	}
}

/* Whatever fails while an epoch ends: no entry comes behind its end under its key. */
static void an_epoch_that_cannot_end_takes_no_entries(void **state)
{
	unsigned at = 1;
	for (int error = -1; error; at++) {
		struct place place;
		place_open(&place);
		struct disk d = {.kind = ERROR};
		struct ft_io io = disk_io(&d);
		struct ft_writer *w = log_open(&io, place.fd);
		log_write(w, 0, 2);
		d.at = d.step + at;
		error = ft_writer_evolve(w, 1790000000000000000u);
		d.at = 0;
		assert_int_equal(log_append(w, 2), error ? -ENOBUFS : 0);
		assert_int_equal(ft_writer_commit(w), 0);
		log_write(w, 3, 1);
		assert_int_equal(ft_key_epoch(ft_writer_key(w)), 1);
		ft_writer_close(w);
		lose(&d, KILLED);
		log_good(place.fd);
		place_close(&place);
	}
	assert_true(at > 8);
}

static void a_cut_is_an_entry_and_is_kept(void **state)
{
	struct place place;
	struct reading r;
	place_open(&place);
	struct ft_writer *w = log_open(&ft_io_system, place.fd);
	log_write(w, 0, 3);
	ft_writer_close(w);
	/* Somebody adds an entry of his own while nobody looks: it is not taken over. */
	int fd = openat(place.fd, "entries/000000000000000", O_RDWR | O_APPEND);
	char tail[100 * 14];
	for (unsigned i = 0; i < 100; i++)
		memcpy(tail + 14 * i, "\0\x0c" "123456789{}x", 14);
	assert_int_equal(write(fd, tail, sizeof(tail)), sizeof(tail));
	close(fd);
	w = log_open(&ft_io_system, place.fd);
	assert_int_equal(ft_writer_cut(w), sizeof(tail));
	assert_int_equal(ft_writer_commit(w), 0);
	ft_writer_close(w);
	read_log(place.fd, &r);
	assert_int_equal(r.count, 3);
	assert_int_equal(r.cuts, 1);
	size_t n;
	int error;
	char *cut = ft_io_read_file(place.fd, "cut/3", 10000, &n, &error);
	assert_int_equal(n, sizeof(tail));
	assert_memory_equal(cut, tail, sizeof(tail));
	/* What was cut is part of the evidence. */
	fd = openat(place.fd, "cut/3", O_WRONLY);
	assert_int_equal(pwrite(fd, "!", 1, 7), 1);
	close(fd);
	log_bad(place.fd, NULL, "cut/3 is not what entry 3 says");
	free(cut);
	place_close(&place);
}

/* A changed entry in the newest segment is seen at open, and nothing is signed on top of it. */
static void a_ledger_that_was_changed_is_not_gone_on_with(void **state)
{
	struct place place;
	place_open(&place);
	struct ft_writer *w = log_open(&ft_io_system, place.fd);
	log_write(w, 0, 3);
	ft_writer_close(w);
	int fd = openat(place.fd, "entries/000000000000000", O_RDWR);
	assert_int_equal(pwrite(fd, "!", 1, 30), 1);
	struct ft_writer_config config = {.io = &ft_io_system, .directory = place.fd, .origin = LOG_ORIGIN, .depth = LOG_DEPTH};
	struct ft_error err = {0};
	assert_int_equal(ft_writer_open(&w, &config, &err), -EBADMSG);
	assert_non_null(strstr(err.text, "not those that were signed"));
	/* Nor without its last entries, nor without its key. */
	assert_int_equal(ftruncate(fd, 60), 0);
	assert_int_equal(ft_writer_open(&w, &config, NULL), -EBADMSG);
	close(fd);
	assert_int_equal(unlinkat(place.fd, "secret/key", 0), 0);
	assert_int_equal(ft_writer_open(&w, &config, NULL), -EBADMSG);
	place_close(&place);
}

/* Segments: 65,536 entries each; the oldest may be pruned, and proofs of the rest and consistency go on. */
static void segments_begin_end_and_are_pruned(void **state)
{
	struct place place;
	place_open(&place);
	struct ft_writer *w = log_open(&ft_io_system, place.fd);
	unsigned n = 2 * FT_WRITER_SEGMENT + 777;
	for (unsigned i = 0; i < n; i++) {
		assert_int_equal(log_append(w, i), 0);
		if (i % 9973 == 0)
			assert_int_equal(ft_writer_commit(w), 0);
	}
	assert_int_equal(ft_writer_commit(w), 0);
	ft_writer_close(w);
	assert_int_equal(log_good(place.fd), n);
	struct ft_kept kept = log_keep(place.fd);
	w = log_open(&ft_io_system, place.fd);
	uint64_t bytes = ft_writer_bytes(w);
	assert_int_equal(ft_writer_size(w), n);
	assert_int_equal(ft_writer_prune(w, 1), 0);
	assert_int_equal(ft_writer_first(w), FT_WRITER_SEGMENT);
	assert_true(ft_writer_bytes(w) < bytes - FT_WRITER_SEGMENT * 20);
	assert_int_equal(ft_writer_prune(w, 1), 0);
	assert_int_equal(ft_writer_prune(w, 1), -ENOENT);
	ft_writer_close(w);
	struct ft_checked checked;
	struct ft_findings findings;
	log_check(place.fd, &kept, &checked, &findings);
	if (findings.count)
		fail_msg("%s", findings.text[0]);
	assert_int_equal(checked.first, 2 * FT_WRITER_SEGMENT);
	/* A hash of a pruned entry is as much evidence as ever. */
	int fd = openat(place.fd, "tile/0", O_RDWR);
	assert_int_equal(pwrite(fd, "x", 1, 32 * 1000), 1);
	close(fd);
	log_bad(place.fd, &kept, "are not those that were signed");
	place_close(&place);
}

/* Their hashes are not computed again at open, so they are on the disk before anything is signed on top of them. */
static void hashes_of_complete_segments_outlive_the_power(void **state)
{
	struct place place;
	place_open(&place);
	struct disk d = {0};
	struct ft_io io = disk_io(&d);
	struct ft_writer *w = log_open(&io, place.fd);
	log_write(w, 0, FT_WRITER_SEGMENT - 3);
	log_write(w, 1, 10);
	ft_writer_close(w);
	lose(&d, LOST);
	w = log_open(&ft_io_system, place.fd);
	assert_int_equal(ft_writer_size(w), FT_WRITER_SEGMENT + 7);
	log_write(w, 2, 1);
	ft_writer_close(w);
	assert_int_equal(log_good(place.fd), FT_WRITER_SEGMENT + 8);
	place_close(&place);
}

static void what_waits_is_bounded(void **state)
{
	struct place place;
	place_open(&place);
	struct ft_writer_config config = {
	    .io = &ft_io_system, .directory = place.fd, .origin = LOG_ORIGIN, .depth = LOG_DEPTH, .buffer = 1000};
	struct ft_writer *w;
	assert_int_equal(ft_writer_open(&w, &config, NULL), 0);
	unsigned i = 0;
	while (i < 100 && !log_append(w, i))
		i++;
	assert_in_range(i, 5, 30);
	assert_int_equal(log_append(w, i), -ENOBUFS);
	assert_int_equal(ft_writer_commit(w), 0);
	assert_int_equal(log_append(w, i), 0);
	static char body[FT_ENTRY_BODY + 1];
	assert_int_equal(ft_writer_append(w, FT_ENTRY_EVENT, 0, body, sizeof(body), NULL), -EMSGSIZE);
	assert_int_equal(ft_writer_commit(w), 0);
	/* The longest entry is taken, alone. */
	memset(body, 'x', sizeof(body));
	assert_int_equal(ft_writer_append(w, FT_ENTRY_EVENT, 0, body, FT_ENTRY_BODY, NULL), 0);
	assert_int_equal(ft_writer_commit(w), 0);
	ft_writer_close(w);
	assert_int_equal(log_good(place.fd), i + 2);
	place_close(&place);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(the_power_may_go_at_any_step),
	    cmocka_unit_test(any_step_may_fail_once),
	    cmocka_unit_test(an_epoch_that_cannot_end_takes_no_entries),
	    cmocka_unit_test(a_cut_is_an_entry_and_is_kept),
	    cmocka_unit_test(a_ledger_that_was_changed_is_not_gone_on_with),
	    cmocka_unit_test(segments_begin_end_and_are_pruned),
	    cmocka_unit_test(hashes_of_complete_segments_outlive_the_power),
	    cmocka_unit_test(what_waits_is_bounded),
	};
	return sodium_init() < 0 ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
