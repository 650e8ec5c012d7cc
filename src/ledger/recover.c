/* What the writer finds when it opens a ledger. Everything is looked at before anything is changed. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ledger/segment.h"
#include "ledger/writer-t.h"

#define CUT_MAX (256u << 20) /* more unsigned bytes than a writer ever leaves behind */

struct found {
	struct ft_checkpoint checkpoint; /* the last one; size 0: none */
	uint32_t epoch;			 /* its key's */
	char *notes;			 /* `checkpoints` */
	size_t notes_length, notes_good;
	char *finals; /* `epochs` */
	size_t finals_length, finals_good;
	struct ft_checkpoint final; /* the last of them; size 0: none */
	uint32_t final_epoch;
	uint64_t segment; /* the last one with signed entries */
	uint64_t length;  /* bytes of those */
	uint64_t tail;	  /* unsigned bytes behind them, in all segments */
	struct ft_hash root;
};

static int damaged(struct ft_error *err, const char *what)
{
	return ft_error_set(err, -EBADMSG, "the ledger does not fit together: %s", what);
}

/* ---- Looking ---------------------------------------------------------------------------------------------------- */

/* The last note of the file that the key has signed. Only one can be written at a time, so only the last can be torn. */
static int last_note(const struct ft_writer *w, const char *notes, size_t length, size_t *good, char note[FT_NOTE_MAX],
		     size_t *note_length, struct ft_checkpoint *checkpoint, uint32_t *epoch)
{
	size_t at = 0, last = 0, before = 0, count = 0, n;
	for (; (n = ft_note_first(notes + at, length - at)); at += n + 1, count++) {
		before = last;
		last = at;
	}
	*good = 0;
	if (!count)
		return length > FT_NOTE_MAX ? -EBADMSG : 0;
	size_t starts[] = {last, before};
	for (unsigned i = 0; i < 2 && i < count; i++) {
		struct ft_note_evolving signature;
		n = ft_note_first(notes + starts[i], length - starts[i]);
		if (n > FT_NOTE_MAX ||
		    ft_checkpoint_open(notes + starts[i], n, ft_key_public(w->key), checkpoint, &signature))
			continue;
		*good = starts[i] + n + 1;
		*epoch = signature.epoch;
		memcpy(note, notes + starts[i], n);
		*note_length = n;
		return length - *good > FT_NOTE_MAX + 1 ? -EBADMSG : 0;
	}
	checkpoint->size = 0;
	return -EBADMSG;
}

static int look_at_notes(struct ft_writer *w, struct found *f, struct ft_error *err)
{
	int error;
	char note[FT_NOTE_MAX];
	size_t length;
	f->notes = ft_io_read_file(w->directory, "checkpoints", FT_NOTES_MAX, &f->notes_length, &error);
	if (f->notes)
		f->finals = ft_io_read_file(w->directory, "epochs", FT_NOTES_MAX, &f->finals_length, &error);
	if (!f->notes || !f->finals)
		return ft_error_set(err, error, "the ledger's checkpoints cannot be read: %s", strerror(-error));
	if (last_note(w, f->notes, f->notes_length, &f->notes_good, w->note, &w->note_length, &f->checkpoint, &f->epoch) ||
	    last_note(w, f->finals, f->finals_length, &f->finals_good, note, &length, &f->final, &f->final_epoch))
		return damaged(err, "its last checkpoint is not signed by its key");
	uint32_t epoch = ft_key_epoch(w->key);
	bool ended = f->final.size && f->final.size == f->checkpoint.size && f->final_epoch == f->epoch;
	if (f->checkpoint.size ? f->epoch != epoch && !(ended && f->epoch + 1 == epoch) : epoch || f->final.size)
		return damaged(err, "its key is of another epoch than its last checkpoint");
	if (f->final.size ? f->final_epoch + 1 != epoch && !(ended && f->final_epoch == epoch) : epoch)
		return damaged(err, "checkpoints of ended epochs are missing");
	return 0;
}

struct rehash {
	struct ft_writer *w;
	const struct ft_writer_config *config;
	unsigned type;
	uint64_t time;
};

/* An entry of a complete segment, whose hashes are there. */
static int see(void *context, uint64_t number, const uint8_t *entry, size_t length)
{
	struct rehash *r = context;
	if (length < FT_ENTRY_HEADER)
		return -EBADMSG;
	r->type = entry[0];
	r->time = 0;
	for (unsigned i = 0; i < 8; i++)
		r->time = r->time << 8 | entry[1 + i];
	if (r->config->seen)
		r->config->seen(r->config->context, r->type, r->time, (const char *)entry + FT_ENTRY_HEADER,
				length - FT_ENTRY_HEADER);
	return 0;
}

static int rehash(void *context, uint64_t number, const uint8_t *entry, size_t length)
{
	struct rehash *r = context;
	struct ft_hash leaf;
	int error = ft_writer_reserve(r->w);
	if (error)
		return error;
	ft_hash_leaf(&leaf, entry, length);
	ft_tree_append(&r->w->tree, &leaf, ft_writer_complete, r->w);
	return see(context, number, entry, length);
}

static int open_segment(const struct ft_writer *w, uint64_t segment, uint64_t *size)
{
	char name[FT_SEGMENT_NAME];
	struct stat st;
	ft_segment_name(segment, name);
	int fd = openat(w->entries, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) || !S_ISREG(st.st_mode)) {
		close(fd);
		return -EBADMSG;
	}
	*size = (uint64_t)st.st_size;
	return fd;
}

/* Hashes the last segment again, on the tree of the complete ones before it. */
static int look_at_entries(struct ft_writer *w, const struct ft_writer_config *config, struct found *f, struct ft_error *err)
{
	struct rehash r = {.w = w, .config = config};
	uint64_t n = f->checkpoint.size, size = 0;
	f->segment = n ? (n - 1) / FT_WRITER_SEGMENT : 0;
	uint64_t before = f->segment * FT_WRITER_SEGMENT;
	if (ft_tree_load(&w->tree, before, ft_writer_read_node, w))
		return damaged(err, "its tiles are too short");
	for (unsigned i = 0; i < FT_LEVELS; i++)
		w->levels[i].written = FT_LEVEL_HEIGHT * i < 63 ? before >> (FT_LEVEL_HEIGHT * i) : 0;
	/* What is wrong with older entries is the verifier's to find: here they are only shown. */
	int fd = f->segment && config->seen ? open_segment(w, f->segment - 1, &size) : -1;
	if (fd >= 0) {
		uint64_t bytes;
		ft_segment_walk(fd, FT_WRITER_SEGMENT, see, &r, &bytes);
		close(fd);
	}
	size = 0;
	fd = open_segment(w, f->segment, &size);
	if (fd < 0 && (fd != -ENOENT || n))
		return damaged(err, "its newest entries cannot be read");
	if (fd >= 0) {
		int error = ft_segment_walk(fd, n - before, rehash, &r, &f->length);
		close(fd);
		if (error)
			return damaged(err, "entries that a checkpoint covers are missing");
	}
	ft_tree_root(&w->tree, &f->root);
	if (n && memcmp(&f->root, &f->checkpoint.root, sizeof(f->root)))
		return damaged(err, "its newest entries are not those that were signed");
	w->last_type = r.type;
	w->last_time = r.time;
	f->tail = size - f->length;
	for (uint64_t segment = f->segment + 1; (fd = open_segment(w, segment, &size)) >= 0; segment++) {
		f->tail += size;
		close(fd);
	}
	return f->tail > CUT_MAX ? damaged(err, "far more entries are unsigned than ever wait") : 0;
}

static int look_at_directory(struct ft_writer *w, struct ft_error *err)
{
	int fd = openat(w->entries, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *directory = fd < 0 ? NULL : fdopendir(fd);
	if (!directory) {
		if (fd >= 0)
			close(fd);
		return ft_error_set(err, -EIO, "the ledger's entries cannot be listed");
	}
	uint64_t lowest = UINT64_MAX;
	for (const struct dirent *d; (d = readdir(directory));) {
		char *end;
		uint64_t segment = strtoull(d->d_name, &end, 10);
		struct stat st;
		if (*end || end == d->d_name || fstatat(fd, d->d_name, &st, AT_SYMLINK_NOFOLLOW))
			continue;
		w->bytes += (uint64_t)st.st_size;
		lowest = segment < lowest ? segment : lowest;
	}
	closedir(directory);
	w->first = lowest == UINT64_MAX ? 0 : lowest * FT_WRITER_SEGMENT;
	return 0;
}

/* ---- Cutting ---------------------------------------------------------------------------------------------------- */

/* What is to be cut: unsigned entries, then what is behind the last good checkpoint. */
static uint8_t *read_tail(const struct ft_writer *w, const struct found *f, size_t *length)
{
	size_t torn = f->notes_length - f->notes_good, at = 0;
	uint8_t *bytes = malloc((size_t)f->tail + torn + 1);
	if (!bytes)
		return NULL;
	for (uint64_t segment = f->segment, from = f->length; at < f->tail; segment++, from = 0) {
		uint64_t size = 0;
		int fd = open_segment(w, segment, &size);
		ssize_t n = fd < 0 ? fd : ft_io_read(fd, bytes + at, (size_t)f->tail - at, (off_t)from);
		if (fd >= 0)
			close(fd);
		if (n < 0)
			break;
		at += (size_t)n;
	}
	memcpy(bytes + at, f->notes + f->notes_good, torn);
	*length = at + torn;
	return bytes;
}

/* The file cut/SIZE keeps what was cut there, until the entry that says so is committed and the log is longer. When that
 * entry was itself torn off, the file has more than once what was cut. */
static int keep_tail(struct ft_writer *w, int directory, const char *name, const struct found *f)
{
	size_t length = 0, old_length = 0;
	int error;
	uint8_t *tail = read_tail(w, f, &length);
	uint8_t *old = ft_io_read_file(directory, name, 4ull * CUT_MAX, &old_length, &error), *both = NULL;
	if (!tail || (!old && error != -ENOENT)) {
		error = tail ? error : -ENOMEM;
	} else if (old && old_length >= length && !memcmp(old + old_length - length, tail, length)) {
		error = 0; /* we died before it was cut */
	} else {
		both = malloc(old_length + length + 1);
		if (both && old)
			memcpy(both, old, old_length);
		if (both)
			memcpy(both + old_length, tail, length);
		error = both ? ft_io_replace(w->io, directory, name, both, old_length + length, 0600) : -ENOMEM;
	}
	free(tail);
	free(old);
	free(both);
	return error;
}

static int cut_segments(struct ft_writer *w, const struct found *f)
{
	uint64_t size;
	int error = 0;
	/* The last first: what remains after a crash in between is still one piece. */
	uint64_t last = f->segment;
	for (int fd; (fd = open_segment(w, last + 1, &size)) >= 0; last++)
		close(fd);
	for (; last > f->segment && !error; last--) {
		char name[FT_SEGMENT_NAME];
		ft_segment_name(last, name);
		error = w->io->unlink(w->io->context, w->entries, name);
	}
	if (!error)
		error = w->io->sync_directory(w->io->context, w->entries);
	int fd = open_segment(w, f->segment, &size);
	if (fd >= 0) {
		if (!error && size > f->length)
			error = w->io->truncate(w->io->context, fd, (off_t)f->length);
		if (!error)
			error = w->io->sync(w->io->context, fd);
		close(fd);
	}
	return error;
}

static int truncate_notes(const struct ft_writer *w, struct ft_notes *notes, size_t length, size_t good)
{
	notes->length = good;
	int error = length > good ? w->io->truncate(w->io->context, notes->fd, (off_t)good) : 0;
	return error || length == good ? error : w->io->sync(w->io->context, notes->fd);
}

static int append_cut(struct ft_writer *w, int directory, const char *name)
{
	size_t length;
	int error;
	uint8_t *bytes = ft_io_read_file(directory, name, 4ull * CUT_MAX, &length, &error);
	if (!bytes)
		return error == -ENOENT ? 0 : error;
	struct ft_hash hash;
	char body[256], hex[2 * FT_HASH_BYTES + 1];
	struct stat st;
	ft_hash_bytes(&hash, bytes, length);
	free(bytes);
	for (unsigned i = 0; i < FT_HASH_BYTES; i++)
		snprintf(hex + 2 * i, 3, "%02x", hash.bytes[i]);
	/* The time is the file's: when it was cut. */
	if (fstatat(directory, name, &st, AT_SYMLINK_NOFOLLOW))
		return -errno;
	int n = snprintf(body, sizeof(body), "{\"file\":\"cut/%s\",\"bytes\":%zu,\"sha256\":\"%s\"}", name, length, hex);
	w->cut = length;
	return ft_writer_append(w, FT_ENTRY_CUT, (uint64_t)st.st_mtim.tv_sec * 1000000000u + (uint64_t)st.st_mtim.tv_nsec,
				body, (size_t)n, NULL);
}

static int cut(struct ft_writer *w, const struct found *f)
{
	char name[32];
	bool torn = f->tail || f->notes_length > f->notes_good;
	int error = w->io->mkdir(w->io->context, w->directory, "cut", 0755);
	if (error && error != -EEXIST)
		return error;
	int directory = w->io->open(w->io->context, w->directory, "cut", O_RDONLY | O_DIRECTORY, 0);
	if (directory < 0)
		return directory;
	snprintf(name, sizeof(name), "%" PRIu64, f->checkpoint.size);
	error = torn ? keep_tail(w, directory, name, f) : 0;
	/* Checkpoints first: without them the entries are still seen to be unsigned, the other way round they would be missing. */
	if (!error)
		error = truncate_notes(w, &w->checkpoints, f->notes_length, f->notes_good);
	if (!error)
		error = truncate_notes(w, &w->epochs, f->finals_length, f->finals_good);
	if (!error && f->tail)
		error = cut_segments(w, f);
	w->bytes -= f->tail;
	if (!error)
		error = append_cut(w, directory, name);
	close(directory);
	return error;
}

/* Tiles as they must be; longer ones are cut. */
static int mend_tiles(struct ft_writer *w)
{
	int error = ft_writer_write_levels(w, true);
	if (error)
		return error;
	ft_writer_levels_done(w);
	for (unsigned i = 0; i < FT_LEVELS && !error; i++)
		error = w->io->truncate(w->io->context, w->levels[i].fd,
					(off_t)(w->levels[i].written * sizeof(struct ft_hash)));
	return error;
}

int ft_writer_recover(struct ft_writer *w, const struct ft_writer_config *config, struct ft_error *err)
{
	struct found f = {0};
	int error = look_at_notes(w, &f, err);
	if (!error)
		error = look_at_entries(w, config, &f, err);
	if (!error)
		error = look_at_directory(w, err);
	if (!error) {
		w->committed = f.checkpoint.size;
		w->segment_length = f.length;
		error = mend_tiles(w);
		/* The end of an epoch that was begun is finished before anything else is signed. */
		if (!error && w->last_type == FT_ENTRY_EPOCH && f.epoch == ft_key_epoch(w->key))
			w->turn = f.final.size == f.checkpoint.size ? FT_TURN_NOTED : FT_TURN_ENDING;
		if (!error && w->turn != FT_TURN_NONE) {
			error = truncate_notes(w, &w->epochs, f.finals_length, f.finals_good);
			f.finals_length = f.finals_good;
			if (!error)
				error = ft_writer_commit(w);
			f.finals_length = f.finals_good = w->epochs.length;
		}
		if (!error)
			error = cut(w, &f);
		if (error)
			ft_error_set(err, error, "the ledger cannot be made whole: %s", strerror(-error));
	}
	free(f.notes);
	free(f.finals);
	return error;
}
