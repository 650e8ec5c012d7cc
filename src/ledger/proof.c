#include "ledger/proof.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ledger/segment.h"
#include "ledger/writer-t.h"

struct ft_prover {
	int directory, entries, levels[FT_LEVELS];
	struct ft_checkpoint checkpoint;
	char note[FT_NOTE_MAX + 1];
	size_t note_length;
};

/* The last whole note that the key has signed: the file may be growing. */
static int load_checkpoint(struct ft_prover *p)
{
	size_t length, at = 0, n;
	int error;
	struct ft_note_key key;
	char *text = ft_io_read_file(p->directory, "vkey", FT_NOTE_KEY, &length, &error);
	if (!text)
		return error;
	error = length ? ft_note_key_parse(&key, text, length - 1) : -EINVAL;
	free(text);
	char *notes = error ? NULL : ft_io_read_file(p->directory, "checkpoints", FT_NOTES_MAX, &length, &error);
	if (!notes)
		return error;
	for (; (n = ft_note_first(notes + at, length - at)); at += n + 1) {
		if (n > FT_NOTE_MAX)
			break;
		memcpy(p->note, notes + at, n);
		p->note_length = n;
	}
	free(notes);
	if (!p->note_length)
		return -ENODATA;
	return ft_checkpoint_open(p->note, p->note_length, &key, &p->checkpoint, NULL);
}

int ft_prover_open(struct ft_prover **out, int directory, struct ft_error *err)
{
	struct ft_prover *p = calloc(1, sizeof(*p));
	*out = NULL;
	if (!p)
		return ft_error_set(err, -ENOMEM, "no memory for proofs");
	p->directory = directory;
	p->entries = openat(directory, "entries", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int error = p->entries < 0 ? -errno : 0;
	for (unsigned i = 0; i < FT_LEVELS; i++) {
		char name[16];
		snprintf(name, sizeof(name), "tile/%u", i);
		p->levels[i] = openat(directory, name, O_RDONLY | O_CLOEXEC);
		error = p->levels[i] < 0 && !error ? -errno : error;
	}
	if (!error)
		error = load_checkpoint(p);
	if (error) {
		ft_prover_close(p);
		return ft_error_set(err, error, "the ledger cannot be read: %s",
				    error == -ENODATA ? "nothing is signed yet" : strerror(-error));
	}
	*out = p;
	return 0;
}

void ft_prover_close(struct ft_prover *p)
{
	if (!p)
		return;
	if (p->entries >= 0)
		close(p->entries);
	for (unsigned i = 0; i < FT_LEVELS; i++)
		if (p->levels[i] >= 0)
			close(p->levels[i]);
	free(p);
}

uint64_t ft_prover_size(const struct ft_prover *p)
{
	return p->checkpoint.size;
}

const char *ft_prover_checkpoint(const struct ft_prover *p, size_t *length)
{
	*length = p->note_length;
	return p->note;
}

static int read_node(void *context, unsigned height, uint64_t index, struct ft_hash *root)
{
	const struct ft_prover *p = context;
	return ft_level_read(p->levels[height / FT_LEVEL_HEIGHT], height % FT_LEVEL_HEIGHT, index, root);
}

/* ---- Entries ---------------------------------------------------------------------------------------------------- */

static int open_segment(const struct ft_prover *p, uint64_t segment)
{
	char name[FT_SEGMENT_NAME];
	ft_segment_name(segment, name);
	int fd = openat(p->entries, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	return fd < 0 ? -errno : fd;
}

struct wanted {
	uint64_t number;
	uint8_t entry[FT_ENTRY_MAX];
	size_t length;
};

static int take_wanted(void *context, uint64_t number, const uint8_t *entry, size_t length)
{
	struct wanted *w = context;
	if (number != w->number)
		return 0;
	memcpy(w->entry, entry, length);
	w->length = length;
	return 0;
}

static int read_entry(const struct ft_prover *p, uint64_t index, struct wanted *w)
{
	uint64_t bytes;
	int fd = open_segment(p, index / FT_WRITER_SEGMENT);
	if (fd < 0)
		return fd;
	w->number = index % FT_WRITER_SEGMENT;
	int error = ft_segment_walk(fd, w->number + 1, take_wanted, w, &bytes);
	close(fd);
	return error;
}

struct search {
	unsigned type;
	char words[48];
	size_t length;
	bool found;
	uint64_t number;
};

static int look(void *context, uint64_t number, const uint8_t *entry, size_t length)
{
	struct search *s = context;
	if (length <= FT_ENTRY_HEADER || entry[0] != s->type)
		return 0;
	const uint8_t *at = memmem(entry, length, s->words, s->length);
	if (at && at + s->length < entry + length && (at[s->length] < '0' || at[s->length] > '9')) {
		s->found = true;
		s->number = number;
	}
	return 0;
}

int ft_prover_find(struct ft_prover *p, unsigned type, uint64_t hold, uint64_t *index)
{
	struct search s = {.type = type};
	uint64_t bytes, last = (p->checkpoint.size - 1) / FT_WRITER_SEGMENT;
	s.length = (size_t)snprintf(s.words, sizeof(s.words), "\"hold\":%" PRIu64, hold);
	for (uint64_t segment = last + 1; segment-- > 0;) {
		uint64_t count = p->checkpoint.size - segment * FT_WRITER_SEGMENT;
		int fd = open_segment(p, segment);
		if (fd < 0)
			return fd;
		int error = ft_segment_walk(fd, count < FT_WRITER_SEGMENT ? count : FT_WRITER_SEGMENT, look, &s, &bytes);
		close(fd);
		if (error)
			return error;
		if (s.found) {
			*index = segment * FT_WRITER_SEGMENT + s.number;
			return 0;
		}
	}
	return -ENOENT;
}

/* ---- Texts ------------------------------------------------------------------------------------------------------ */

#define BASE64	 sodium_base64_VARIANT_ORIGINAL
#define HASH64	 sodium_base64_ENCODED_LEN(FT_HASH_BYTES, BASE64) /* with its NUL */
_Static_assert(FT_PROOF_TEXT > 64u + sodium_base64_ENCODED_LEN(FT_ENTRY_MAX, BASE64) + FT_TREE_PROOF * (HASH64 + 1) + FT_NOTE_MAX,
	       "the longest proof fits");

/* Hash lines, an empty line, the checkpoint. */
static size_t finish(char *text, size_t at, const struct ft_hash *hashes, unsigned count, const char *note, size_t note_length)
{
	for (unsigned i = 0; i < count; i++) {
		sodium_bin2base64(text + at, HASH64, hashes[i].bytes, FT_HASH_BYTES, BASE64);
		at += strlen(text + at);
		text[at++] = '\n';
	}
	text[at++] = '\n';
	memcpy(text + at, note, note_length);
	text[at + note_length] = 0;
	return at + note_length;
}

size_t ft_proof_inclusion(char text[FT_PROOF_TEXT], uint64_t index, const uint8_t *entry, size_t length, const struct ft_hash *hashes,
			  unsigned count, const char *note, size_t note_length)
{
	size_t at = (size_t)snprintf(text, FT_PROOF_TEXT, "c2sp.org/tlog-proof@v1\nextra ");
	sodium_bin2base64(text + at, sodium_base64_ENCODED_LEN(length, BASE64), entry, length, BASE64);
	at += strlen(text + at);
	at += (size_t)snprintf(text + at, FT_PROOF_TEXT - at, "\nindex %" PRIu64 "\n", index);
	return finish(text, at, hashes, count, note, note_length);
}

int ft_prover_inclusion(struct ft_prover *p, uint64_t index, char **out, struct ft_error *err)
{
	struct ft_hash hashes[FT_TREE_PROOF];
	unsigned count;
	*out = NULL;
	if (index >= p->checkpoint.size)
		return ft_error_set(err, -EINVAL, "the ledger has %" PRIu64 " signed entries", p->checkpoint.size);
	struct wanted *w = malloc(sizeof(*w));
	char *text = malloc(FT_PROOF_TEXT);
	int error = w && text ? read_entry(p, index, w) : -ENOMEM;
	if (!error)
		error = ft_tree_inclusion(index, p->checkpoint.size, read_node, p, hashes, &count);
	if (error) {
		free(w);
		free(text);
		return ft_error_set(err, error, "entry %" PRIu64 " cannot be proven: %s", index,
				    error == -ENOENT ? "it was pruned" : strerror(-error));
	}
	ft_proof_inclusion(text, index, w->entry, w->length, hashes, count, p->note, p->note_length);
	free(w);
	*out = text;
	return 0;
}

int ft_prover_consistency(struct ft_prover *p, uint64_t from, char **out, struct ft_error *err)
{
	struct ft_hash hashes[FT_TREE_PROOF];
	unsigned count;
	*out = NULL;
	int error = ft_tree_consistency(from, p->checkpoint.size, read_node, p, hashes, &count);
	char *text = error ? NULL : malloc(FT_PROOF_TEXT);
	if (!text)
		return ft_error_set(err, error ? error : -ENOMEM, "there is no proof from %" PRIu64 " to %" PRIu64 " entries", from,
				    p->checkpoint.size);
	finish(text, (size_t)snprintf(text, FT_PROOF_TEXT, "old %" PRIu64 "\n", from), hashes, count, p->note, p->note_length);
	*out = text;
	return 0;
}
