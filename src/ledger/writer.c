#include "ledger/writer.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ledger/writer-t.h"

void ft_segment_name(uint64_t segment, char name[FT_SEGMENT_NAME])
{
	snprintf(name, FT_SEGMENT_NAME, "%015" PRIu64, segment);
}

int ft_writer_file(const struct ft_writer *w, int directory, const char *name)
{
	return w->io->open(w->io->context, directory, name, O_RDWR | O_CREAT, 0644);
}

/* ---- Tiles ------------------------------------------------------------------------------------------------------ */

int ft_writer_reserve(struct ft_writer *w)
{
	for (unsigned i = 0; i < FT_LEVELS; i++) {
		struct ft_level *level = &w->levels[i];
		if (level->count < level->room)
			continue;
		size_t room = level->room ? level->room * 2 : 256;
		struct ft_hash *pending = realloc(level->pending, room * sizeof(*pending));
		if (!pending)
			return -ENOMEM;
		level->pending = pending;
		level->room = room;
	}
	return 0;
}

void ft_writer_complete(void *context, unsigned height, const struct ft_hash *root)
{
	struct ft_writer *w = context;
	if (height % FT_LEVEL_HEIGHT)
		return;
	struct ft_level *level = &w->levels[height / FT_LEVEL_HEIGHT];
	level->pending[level->count++] = *root;
}

int ft_level_read(int fd, unsigned above, uint64_t index, struct ft_hash *root)
{
	struct ft_hash hashes[1u << (FT_LEVEL_HEIGHT - 1)];
	size_t length = sizeof(*hashes) << above;
	ssize_t n = ft_io_read(fd, hashes, length, (off_t)(index * length));
	if (n != (ssize_t)length)
		return n < 0 ? (int)n : -EBADMSG;
	for (unsigned count = 1u << above; count > 1; count /= 2)
		for (unsigned i = 0; i < count / 2; i++)
			ft_hash_node(&hashes[i], &hashes[2 * i], &hashes[2 * i + 1]);
	*root = hashes[0];
	return 0;
}

int ft_writer_read_node(void *context, unsigned height, uint64_t index, struct ft_hash *root)
{
	const struct ft_writer *w = context;
	return ft_level_read(w->levels[height / FT_LEVEL_HEIGHT].fd, height % FT_LEVEL_HEIGHT, index, root);
}

int ft_writer_write_levels(struct ft_writer *w, bool sync)
{
	for (unsigned i = 0; i < FT_LEVELS; i++) {
		const struct ft_level *level = &w->levels[i];
		int error = ft_io_write(w->io, level->fd, level->pending, level->count * sizeof(*level->pending),
					(off_t)(level->written * sizeof(*level->pending)));
		if (!error && sync)
			error = w->io->sync(w->io->context, level->fd);
		if (error)
			return error;
	}
	return 0;
}

void ft_writer_levels_done(struct ft_writer *w)
{
	for (unsigned i = 0; i < FT_LEVELS; i++) {
		w->levels[i].written += w->levels[i].count;
		w->levels[i].count = 0;
	}
}

/* ---- Entries ---------------------------------------------------------------------------------------------------- */

static int reserve_bytes(struct ft_writer *w, size_t more)
{
	/* A single entry is always taken when nothing waits. */
	if (w->length && w->length + more > w->buffer)
		return -ENOBUFS;
	if (w->length + more <= w->room)
		return 0;
	size_t room = w->room ? w->room : 1u << 16;
	while (room < w->length + more)
		room *= 2;
	uint8_t *pending = realloc(w->pending, room);
	if (!pending)
		return -ENOMEM;
	w->pending = pending;
	w->room = room;
	return 0;
}

/* The next entry begins a chunk: the first since a commit, or the first of a segment. */
static int begin_chunk(struct ft_writer *w)
{
	if (w->chunk_count == w->chunk_room) {
		size_t room = w->chunk_room ? w->chunk_room * 2 : 4;
		struct ft_chunk *chunks = realloc(w->chunks, room * sizeof(*chunks));
		if (!chunks)
			return -ENOMEM;
		w->chunks = chunks;
		w->chunk_room = room;
	}
	if (w->tree.size % FT_WRITER_SEGMENT == 0)
		w->segment_length = 0;
	w->chunks[w->chunk_count++] = (struct ft_chunk){
	    .segment = w->tree.size / FT_WRITER_SEGMENT, .offset = w->segment_length, .begin = w->length};
	return 0;
}

int ft_writer_append(struct ft_writer *w, enum ft_entry_type type, uint64_t time_ns, const char *body, size_t length,
		     uint64_t *index)
{
	if (length > FT_ENTRY_BODY)
		return -EMSGSIZE;
	/* Nothing may follow the end of an epoch under the epoch's key. */
	if (w->turn != FT_TURN_NONE)
		return -ENOBUFS;
	size_t entry = FT_ENTRY_HEADER + length;
	int error = reserve_bytes(w, 2 + entry);
	if (!error)
		error = ft_writer_reserve(w);
	if (!error && (!w->chunk_count || w->tree.size % FT_WRITER_SEGMENT == 0))
		error = begin_chunk(w);
	if (error)
		return error;
	uint8_t *at = w->pending + w->length;
	at[0] = (uint8_t)(entry >> 8);
	at[1] = (uint8_t)entry;
	at[2] = (uint8_t)type;
	for (unsigned i = 0; i < 8; i++)
		at[3 + i] = (uint8_t)(time_ns >> (56 - 8 * i));
	memcpy(at + 2 + FT_ENTRY_HEADER, body, length);
	w->length += 2 + entry;
	w->segment_length += 2 + entry;
	if (index)
		*index = w->tree.size;
	struct ft_hash leaf;
	ft_hash_leaf(&leaf, at + 2, entry);
	ft_tree_append(&w->tree, &leaf, ft_writer_complete, w);
	return 0;
}

/* ---- Commit ----------------------------------------------------------------------------------------------------- */

static int open_segment(struct ft_writer *w, uint64_t segment, bool begins)
{
	char name[FT_SEGMENT_NAME];
	if (w->segment_fd >= 0 && w->segment == segment)
		return 0;
	if (w->segment_fd >= 0)
		close(w->segment_fd);
	ft_segment_name(segment, name);
	w->segment_fd = ft_writer_file(w, w->entries, name);
	if (w->segment_fd < 0)
		return w->segment_fd;
	w->segment = segment;
	int error = begins ? w->io->sync_directory(w->io->context, w->entries) : 0;
	if (error) {
		close(w->segment_fd);
		w->segment_fd = -1;
	}
	return error;
}

static int write_entries(struct ft_writer *w)
{
	for (size_t i = 0; i < w->chunk_count; i++) {
		const struct ft_chunk *chunk = &w->chunks[i];
		size_t end = i + 1 < w->chunk_count ? chunk[1].begin : w->length;
		int error = open_segment(w, chunk->segment, !chunk->offset);
		if (!error)
			error = ft_io_write(w->io, w->segment_fd, w->pending + chunk->begin, end - chunk->begin,
					    (off_t)chunk->offset);
		if (!error)
			error = w->io->sync(w->io->context, w->segment_fd);
		if (error)
			return error;
	}
	return 0;
}

static int append_note(const struct ft_io *io, struct ft_notes *notes, const char *note, size_t length)
{
	char record[FT_NOTE_MAX + 1];
	memcpy(record, note, length);
	record[length] = '\n';
	int error = ft_io_write(io, notes->fd, record, length + 1, (off_t)notes->length);
	if (!error)
		error = io->sync(io->context, notes->fd);
	if (!error)
		notes->length += length + 1;
	return error;
}

static size_t sign_tree(const struct ft_writer *w, char note[FT_NOTE_MAX])
{
	struct ft_checkpoint checkpoint = {.size = w->tree.size};
	struct ft_note_evolving signature;
	const struct ft_note_key *key = ft_key_public(w->key);
	char text[FT_NOTE_MAX];
	memcpy(checkpoint.origin, key->name, sizeof(checkpoint.origin));
	ft_tree_root(&w->tree, &checkpoint.root);
	ft_key_sign(w->key, text, ft_checkpoint_text(&checkpoint, text), &signature);
	return ft_checkpoint_note(&checkpoint, key, &signature, note);
}

/* Leaves only the last checkpoint in `checkpoints`. When that does not work, what is there under the name is what counts. */
static int compact(struct ft_writer *w)
{
	char record[FT_NOTE_MAX + 1];
	memcpy(record, w->note, w->note_length);
	record[w->note_length] = '\n';
	int error = ft_io_replace(w->io, w->directory, "checkpoints", record, w->note_length + 1, 0644);
	int fd = ft_writer_file(w, w->directory, "checkpoints");
	if (fd < 0)
		return fd;
	close(w->checkpoints.fd);
	w->checkpoints.fd = fd;
	off_t end = lseek(fd, 0, SEEK_END);
	w->checkpoints.length = end > 0 ? (uint64_t)end : 0;
	return error;
}

static int turn(struct ft_writer *w)
{
	int error = 0;
	if (w->turn == FT_TURN_ENDING)
		error = append_note(w->io, &w->epochs, w->note, w->note_length);
	if (error)
		return error;
	w->turn = FT_TURN_NOTED;
	error = ft_key_evolve(w->key, w->io, w->directory);
	if (!error)
		w->turn = FT_TURN_NONE;
	return error;
}

static int commit(struct ft_writer *w)
{
	char note[FT_NOTE_MAX];
	bool completes = w->committed / FT_WRITER_SEGMENT != w->tree.size / FT_WRITER_SEGMENT;
	int error = write_entries(w);
	/* Hashes can be computed again from the entries of the newest segment, so only complete segments' are waited for. */
	if (!error)
		error = ft_writer_write_levels(w, completes);
	if (error)
		return error;
	size_t length = sign_tree(w, note);
	error = append_note(w->io, &w->checkpoints, note, length);
	if (error)
		return error;
	memcpy(w->note, note, length);
	w->note_length = length;
	w->bytes += w->length;
	w->committed = w->tree.size;
	w->length = w->chunk_count = 0;
	ft_writer_levels_done(w);
	if (w->checkpoints.length > FT_NOTES_COMPACT)
		compact(w);
	return 0;
}

int ft_writer_commit(struct ft_writer *w)
{
	int error = w->length ? commit(w) : 0;
	return error || w->turn == FT_TURN_NONE ? error : turn(w);
}

int ft_writer_evolve(struct ft_writer *w, uint64_t time_ns)
{
	char body[64];
	uint32_t epoch = ft_key_epoch(w->key);
	if (epoch + 1 == ft_key_epochs(w->key))
		return -ENOKEY;
	int error = ft_writer_commit(w);
	if (error)
		return error;
	int n = snprintf(body, sizeof(body), "{\"epoch\":%" PRIu32 "}", epoch);
	error = ft_writer_append(w, FT_ENTRY_EPOCH, time_ns, body, (size_t)n, NULL);
	if (error)
		return error;
	w->turn = FT_TURN_ENDING;
	return ft_writer_commit(w);
}

int ft_writer_prune(struct ft_writer *w, uint64_t time_ns)
{
	char body[64], name[FT_SEGMENT_NAME];
	uint64_t segment = w->first / FT_WRITER_SEGMENT;
	if ((w->committed ? w->committed - 1 : 0) / FT_WRITER_SEGMENT <= segment)
		return -ENOENT;
	uint64_t first = (segment + 1) * FT_WRITER_SEGMENT;
	int n = snprintf(body, sizeof(body), "{\"first\":%" PRIu64 "}", first);
	int error = ft_writer_append(w, FT_ENTRY_PRUNED, time_ns, body, (size_t)n, NULL);
	if (!error)
		error = ft_writer_commit(w);
	if (error)
		return error;
	ft_segment_name(segment, name);
	struct stat st = {0};
	fstatat(w->entries, name, &st, AT_SYMLINK_NOFOLLOW);
	error = w->io->unlink(w->io->context, w->entries, name);
	if (error && error != -ENOENT)
		return error;
	w->first = first;
	w->bytes -= (uint64_t)st.st_size;
	return w->io->sync_directory(w->io->context, w->entries);
}

/* ---- Open and close --------------------------------------------------------------------------------------------- */

static int open_directory(const struct ft_writer *w, const char *name)
{
	int error = w->io->mkdir(w->io->context, w->directory, name, 0755);
	if (error && error != -EEXIST)
		return error;
	return w->io->open(w->io->context, w->directory, name, O_RDONLY | O_DIRECTORY, 0);
}

static int open_files(struct ft_writer *w)
{
	int error = 0;
	int *fds[] = {&w->entries, &w->tiles};
	const char *names[] = {"entries", "tile"};
	for (unsigned i = 0; i < 2 && !error; i++)
		error = (*fds[i] = open_directory(w, names[i])) < 0 ? *fds[i] : 0;
	for (unsigned i = 0; i < FT_LEVELS && !error; i++) {
		char name[4];
		snprintf(name, sizeof(name), "%u", i);
		error = (w->levels[i].fd = ft_writer_file(w, w->tiles, name)) < 0 ? w->levels[i].fd : 0;
	}
	if (!error)
		error = (w->checkpoints.fd = ft_writer_file(w, w->directory, "checkpoints")) < 0 ? w->checkpoints.fd : 0;
	if (!error)
		error = (w->epochs.fd = ft_writer_file(w, w->directory, "epochs")) < 0 ? w->epochs.fd : 0;
	if (!error)
		error = w->io->sync_directory(w->io->context, w->tiles);
	if (!error)
		error = w->io->sync_directory(w->io->context, w->directory);
	return error;
}

/* The key; a new one where nothing has been signed yet. */
static int open_key(struct ft_writer *w, const struct ft_writer_config *config, struct ft_error *err)
{
	struct ft_error none = {0};
	int error = ft_key_load(&w->key, w->directory, &none);
	if (error != -ENOENT)
		return error ? ft_error_set(err, error, "%s", none.text) : 0;
	/* A file that is there but empty was never written: a checkpoint makes `checkpoints` longer. */
	if (lseek(w->checkpoints.fd, 0, SEEK_END) > 0 || lseek(w->epochs.fd, 0, SEEK_END) > 0)
		return ft_error_set(err, -EBADMSG, "the ledger has checkpoints but no key: its secret is gone");
	error = ft_key_make(w->io, w->directory, config->origin, config->depth ? config->depth : FT_KEY_DEPTH, err);
	return error ? error : ft_key_load(&w->key, w->directory, err);
}

int ft_writer_open(struct ft_writer **out, const struct ft_writer_config *config, struct ft_error *err)
{
	*out = NULL;
	struct ft_writer *w = calloc(1, sizeof(*w));
	if (!w)
		return ft_error_set(err, -ENOMEM, "no memory for the ledger");
	w->io = config->io;
	w->directory = config->directory;
	w->buffer = config->buffer ? config->buffer : 16u << 20;
	w->entries = w->tiles = w->segment_fd = w->checkpoints.fd = w->epochs.fd = -1;
	for (unsigned i = 0; i < FT_LEVELS; i++)
		w->levels[i].fd = -1;
	int error = open_files(w);
	if (error)
		ft_error_set(err, error, "the ledger's files cannot be opened: %s", strerror(-error));
	else
		error = open_key(w, config, err);
	if (!error)
		error = ft_writer_recover(w, config, err);
	if (error)
		ft_writer_close(w);
	else
		*out = w;
	return error;
}

static void close_fd(int fd)
{
	if (fd >= 0)
		close(fd);
}

void ft_writer_close(struct ft_writer *w)
{
	if (!w)
		return;
	for (unsigned i = 0; i < FT_LEVELS; i++) {
		close_fd(w->levels[i].fd);
		free(w->levels[i].pending);
	}
	close_fd(w->entries);
	close_fd(w->tiles);
	close_fd(w->segment_fd);
	close_fd(w->checkpoints.fd);
	close_fd(w->epochs.fd);
	ft_key_free(w->key);
	free(w->pending);
	free(w->chunks);
	free(w);
}

uint64_t ft_writer_size(const struct ft_writer *w)
{
	return w->tree.size;
}

uint64_t ft_writer_committed(const struct ft_writer *w)
{
	return w->committed;
}

uint64_t ft_writer_bytes(const struct ft_writer *w)
{
	return w->bytes;
}

uint64_t ft_writer_first(const struct ft_writer *w)
{
	return w->first;
}

uint64_t ft_writer_cut(const struct ft_writer *w)
{
	return w->cut;
}

const struct ft_key *ft_writer_key(const struct ft_writer *w)
{
	return w->key;
}

unsigned ft_writer_last(const struct ft_writer *w, uint64_t *time_ns)
{
	*time_ns = w->last_time;
	return w->last_type;
}

const char *ft_writer_checkpoint(const struct ft_writer *w, size_t *length)
{
	*length = w->note_length;
	return w->note_length ? w->note : NULL;
}
