/* What reads the ledger's files and proofs, on both sides: notes, keys, proofs, entries, tiles, and whole directories. The input
 * edits something valid or stands for itself.
 *
 * Must hold: the writer's reader and the verifier's, written apart, agree on each note and each key; a proof holds only for
 * the entry, index and hashes that it was made for; a directory of which a byte was changed has a finding. */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <sodium.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "input.h"
#include "ledger/proof.h"
#include "ledger/segment.h"
#include "ledger/writer-t.h"
#include "ledger/writer.h"
#include "verify/directory.h"
#include "verify/proof.h"

#define ENTRIES 24u

static const char *const files[] = {"checkpoints", "epochs", "entries/000000000000000", "tile/0", "vkey", "keys"};
#define FILES (sizeof(files) / sizeof(*files))

static struct {
	char path[64];
	int fd;
	char key_text[FT_NOTE_KEY];
	struct ft_note_key key;
	struct ft_seen_key seen_key;
	struct ft_seen older;
	char *bytes[FILES];
	size_t length[FILES];
	char *inclusion, *consistency, *note;
	size_t note_length;
} valid;

/* The same key in each run, so that an input means the same. */
static const char *name_of_random(void)
{
	return "counter";
}

static uint32_t next_random(void)
{
	static uint32_t n;
	return n++;
}

static void fill_random(void *buffer, size_t size)
{
	for (size_t i = 0; i < size; i++)
		((uint8_t *)buffer)[i] = (uint8_t)next_random();
}

static struct randombytes_implementation counter = {
    .implementation_name = name_of_random, .random = next_random, .buf = fill_random};

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	return remove(path);
}

static void clean_up(void)
{
	nftw(valid.path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static void write_log(void)
{
	struct ft_writer_config config = {.io = &ft_io_system, .directory = valid.fd, .origin = "example.com/fuzz", .depth = 2};
	struct ft_writer *w;
	MUST(!ft_writer_open(&w, &config, NULL));
	for (unsigned i = 0; i < ENTRIES; i++) {
		char body[32];
		int n = snprintf(body, sizeof(body), "{\"hold\":%u}", i);
		MUST(!ft_writer_append(w, FT_ENTRY_DECIDED, i, body, (size_t)n, NULL));
		if (i % 8 == 7)
			MUST(!ft_writer_commit(w));
		if (i == 11)
			MUST(!ft_writer_evolve(w, i));
	}
	ft_writer_close(w);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	int error;
	size_t n;
	struct ft_prover *prover;
	randombytes_set_implementation(&counter);
	MUST(sodium_init() >= 0);
	strcpy(valid.path, "/dev/shm/foretaste-fuzz-ledger-XXXXXX");
	MUST(mkdtemp(valid.path));
	atexit(clean_up);
	valid.fd = open(valid.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	write_log();
	for (unsigned i = 0; i < FILES; i++)
		MUST(valid.bytes[i] = ft_io_read_file(valid.fd, files[i], 1 << 20, &valid.length[i], &error));
	memcpy(valid.key_text, valid.bytes[4], valid.length[4] - 1);
	MUST(!ft_note_key_parse(&valid.key, valid.key_text, strlen(valid.key_text)));
	MUST(ft_seen_key_parse(&valid.seen_key, valid.key_text, strlen(valid.key_text)));
	MUST(!ft_prover_open(&prover, valid.fd, NULL));
	MUST(!ft_prover_inclusion(prover, 5, &valid.inclusion, NULL));
	n = ft_seen_first(valid.bytes[0], valid.length[0]);
	MUST(!ft_seen_open(&valid.older, valid.bytes[0], n, &valid.seen_key, NULL));
	MUST(!ft_prover_consistency(prover, valid.older.size, &valid.consistency, NULL));
	valid.note = strdup(ft_prover_checkpoint(prover, &valid.note_length));
	ft_prover_close(prover);
	return 0;
}

/* The input edits `from`, or stands for itself: the caller's to free. */
static char *edited(struct input *in, const char *from, size_t length, size_t *edited_length)
{
	size_t n;
	if (input8(in) & 1) {
		const uint8_t *own = input_bytes(in, 1 << 16, &n);
		char *text = malloc(n + 1);
		if (n)
			memcpy(text, own, n);
		*edited_length = n;
		return text;
	}
	char *text = malloc(length + 64);
	memcpy(text, from, length);
	for (unsigned edits = 0; edits < 4 && in->left; edits++) {
		uint8_t what = input8(in);
		size_t at = length ? input16(in) % length : 0;
		if (what % 4 == 0)
			length = at;
		else if (what % 4 == 1 && length) {
			memmove(text + at, text + at + 1, length - at - 1);
			length--;
		} else if (what % 4 == 2) {
			memmove(text + at + 1, text + at, length - at);
			text[at] = (char)input8(in);
			length++;
		} else if (length)
			text[at] = (char)input8(in);
	}
	*edited_length = length;
	return text;
}

static void notes(struct input *in)
{
	struct ft_checkpoint checkpoint;
	struct ft_seen seen;
	size_t n;
	char *text = edited(in, valid.note, valid.note_length, &n);
	int mine = ft_checkpoint_open(text, n, &valid.key, &checkpoint, NULL);
	const char *theirs = ft_seen_open(&seen, text, n, &valid.seen_key, NULL);
	MUST(!mine == !theirs);
	if (!mine) {
		/* More signatures may follow; what is signed is what was signed. */
		MUST(checkpoint.size == seen.size && !memcmp(&checkpoint.root, &seen.root, 32));
		MUST(n >= valid.note_length && !memcmp(text, valid.note, valid.note_length));
	}
	MUST(ft_note_first(text, n) == ft_seen_first(text, n));
	free(text);
}

static void keys(struct input *in)
{
	struct ft_note_key key;
	struct ft_seen_key seen;
	size_t n;
	char *text = edited(in, valid.key_text, strlen(valid.key_text), &n), again[FT_NOTE_KEY];
	int mine = ft_note_key_parse(&key, text, n);
	bool theirs = ft_seen_key_parse(&seen, text, n);
	/* The verifier takes longer names and witnesses' keys. */
	MUST(mine || (theirs && seen.kind == FT_SEEN_LOG && !strcmp(seen.name, key.name) && seen.depth == key.depth));
	if (!mine) {
		ft_note_key_format(&key, again);
		MUST(strlen(again) == n && !memcmp(again, text, n));
	}
	free(text);
}

static void proofs(struct input *in)
{
	struct ft_proof proof;
	bool which = input8(in) & 1;
	const char *from = which ? valid.inclusion : valid.consistency;
	size_t n;
	char *text = edited(in, from, strlen(from), &n);
	const char *wrong = ft_proof_check(&proof, text, n, &valid.seen_key, NULL, &valid.older);
	if (!wrong && !proof.consistency)
		MUST(n >= strlen(valid.inclusion) && !memcmp(text, valid.inclusion, strlen(valid.inclusion)));
	if (!wrong && proof.consistency)
		MUST(proof.index == valid.older.size);
	free(proof.entry);
	free(text);
}

static int count_entry(void *context, uint64_t number, const uint8_t *entry, size_t length)
{
	uint64_t *bytes = context;
	uint8_t sum = 0;
	for (size_t i = 0; i < length; i++)
		sum = (uint8_t)(sum + entry[i]);
	*bytes += 2 + length + (sum & 0);
	return 0;
}

static void segments(struct input *in)
{
	size_t n;
	uint64_t count = input8(in), bytes, seen = 0;
	char *text = edited(in, valid.bytes[2], valid.length[2], &n);
	int fd = memfd_create("segment", MFD_CLOEXEC);
	MUST(write(fd, text, n) == (ssize_t)n);
	int error = ft_segment_walk(fd, count, count_entry, &seen, &bytes);
	MUST(seen == bytes && bytes <= n && (!error || error == -EBADMSG));
	struct ft_hash root;
	error = ft_level_read(fd, input8(in) % 8, input8(in), &root);
	MUST(!error || error == -EBADMSG);
	close(fd);
	free(text);
}

static void store(unsigned file, const char *bytes, size_t length)
{
	int fd = openat(valid.fd, files[file], O_WRONLY | O_TRUNC);
	MUST(fd >= 0 && write(fd, bytes, length) == (ssize_t)length);
	close(fd);
}

static void directories(struct input *in)
{
	unsigned file = input8(in) % FILES;
	size_t n;
	char *text = edited(in, valid.bytes[file], valid.length[file], &n);
	bool same = n == valid.length[file] && !memcmp(text, valid.bytes[file], n);
	/* Notes may be followed by other people's signatures; the end of tile/0 may be missing after a power cut, and a log may
	 * end at any of its checkpoints: all of these are no finding. */
	bool loose = file <= 1 || (file == 3 && n < valid.length[file] && !memcmp(text, valid.bytes[file], n / 32 * 32));
	struct ft_checked checked;
	static struct ft_findings findings;
	findings.count = 0;
	store(file, text, n);
	MUST(!ft_directory_check(valid.fd, &valid.seen_key, valid.key_text, NULL, 0, &checked, &findings) || n > 1 << 16);
	MUST(!same || !findings.count);
	MUST(same || loose || findings.count);
	free(checked.checkpoints);
	/* The writer opens it or refuses it, and changes nothing in the second case. */
	if (input8(in) & 1) {
		struct ft_writer_config config = {.io = &ft_io_system, .directory = valid.fd, .origin = "example.com/fuzz", .depth = 2};
		struct ft_writer *w = NULL;
		int error = ft_writer_open(&w, &config, NULL);
		MUST(!same || !error);
		ft_writer_close(w);
		for (unsigned i = 0; i < FILES; i++)
			store(i, valid.bytes[i], valid.length[i]);
		for (unsigned i = 0; i <= ENTRIES + 1; i++) {
			char name[16];
			snprintf(name, sizeof(name), "cut/%u", i);
			unlinkat(valid.fd, name, 0);
		}
	}
	store(file, valid.bytes[file], valid.length[file]);
	free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static void (*const what[])(struct input *) = {notes, keys, proofs, segments, directories};
	struct input in = {.at = data, .left = size};
	what[input8(&in) % 5](&in);
	return 0;
}
