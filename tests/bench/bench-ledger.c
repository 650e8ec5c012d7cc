/* What the tamper-evident log costs, with the product's own writer and verifier, on a disk's file system:
 *
 *   events_per_s   entries of a decision's size taken, hashed, signed and made durable by one thread that never waits for
 *                  anybody else, committing every COMMIT entries with real fdatasync
 *   commit_ms      time of those commits; lone_ms: of a commit of one entry, which is what a release waits for
 *   floor          the same bytes written and synced in the same pieces, without a log: what the disk alone takes
 *   proof_bytes    an inclusion proof in a log of 80 M entries, whose tree is built for that, in the form it is handed out in;
 *                  it is verified, too
 *   verify_per_s   entries that the verifier checks, the log above from beginning to end
 *
 * Arguments: none; or the number of entries to write, and that of the tree. */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "ledger/proof.h"
#include "ledger/tree.h"
#include "ledger/writer.h"
#include "verify/directory.h"
#include "verify/proof.h"

#define ENTRIES 3000000u
#define COMMIT	32768u
#define LONE	100u
#define TREE	80000000u
#define BODY	"{\"hold\":%u,\"verdict\":\"malicious\",\"severity\":1,\"rule\":\"service-exec\",\"rule_sid\":2000001,"       \
		"\"disposition\":\"dropped\",\"disposition_reason\":\"drop.verdict\"}"

static char directory[] = "/tmp/foretaste-bench-ledger-XXXXXX";

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double cpu(void)
{
	struct timespec t;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return x < y ? -1 : x > y;
}

static double percentile(double *values, unsigned count, double part)
{
	qsort(values, count, sizeof(*values), by_value);
	return count ? values[(unsigned)((count - 1) * part)] : 0;
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	return remove(path);
}

static void clean_up(void)
{
	nftw(directory, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static void need(int error, const char *what)
{
	if (!error)
		return;
	fprintf(stderr, "bench-ledger: %s: %s\n", what, strerror(-error));
	exit(1);
}

struct result {
	double events_per_s, events_per_cpu_s, p50, p99, lone_p50, lone_p99, floor_per_s;
	unsigned bytes; /* of the entries, with their lengths */
};

static void write_log(int fd, unsigned entries, struct result *r)
{
	struct ft_writer_config config = {.io = &ft_io_system, .directory = fd, .origin = "example.com/bench"};
	struct ft_error err = {0};
	struct ft_writer *w;
	double *times = calloc(entries / COMMIT + LONE + 2, sizeof(*times));
	char body[256];
	unsigned commits = 0;
	int n = 0;
	need(ft_writer_open(&w, &config, &err), err.text);
	double start = now(), start_cpu = cpu();
	for (unsigned i = 0; i < entries; i++) {
		n = snprintf(body, sizeof(body), BODY, i);
		need(ft_writer_append(w, FT_ENTRY_DECIDED, 1790000000000000000u + i, body, (size_t)n, NULL), "an entry");
		if (i % COMMIT == COMMIT - 1 || i + 1 == entries) {
			double before = now();
			need(ft_writer_commit(w), "a commit");
			times[commits++] = (now() - before) * 1000;
		}
	}
	r->events_per_s = entries / (now() - start);
	r->events_per_cpu_s = entries / (cpu() - start_cpu);
	r->bytes = (unsigned)n + FT_ENTRY_HEADER + 2;
	r->p50 = percentile(times, commits, 0.5);
	r->p99 = percentile(times, commits, 0.99);
	for (unsigned i = 0; i < LONE; i++) {
		n = snprintf(body, sizeof(body), BODY, i);
		need(ft_writer_append(w, FT_ENTRY_DECIDED, 1790000000000000000u + i, body, (size_t)n, NULL), "an entry");
		double before = now();
		need(ft_writer_commit(w), "a commit");
		times[i] = (now() - before) * 1000;
	}
	r->lone_p50 = percentile(times, LONE, 0.5);
	r->lone_p99 = percentile(times, LONE, 0.99);
	ft_writer_close(w);
	free(times);
}

/* Entries and hashes in the same pieces with the same syncs, and nothing else. */
static void write_floor(int fd, unsigned entries, struct result *r)
{
	size_t piece = COMMIT * (r->bytes + 32);
	char *bytes = calloc(1, piece);
	int data = openat(fd, "floor", O_RDWR | O_CREAT, 0600), notes = openat(fd, "floor.notes", O_RDWR | O_CREAT, 0600);
	double start = now();
	for (unsigned i = 0; i * COMMIT < entries; i++) {
		need(ft_io_write(&ft_io_system, data, bytes, piece, (off_t)(i * piece)), "the floor");
		need(fdatasync(data) ? -errno : 0, "the floor");
		need(ft_io_write(&ft_io_system, notes, bytes, 1000, (off_t)i * 1000), "the floor");
		need(fdatasync(notes) ? -errno : 0, "the floor");
	}
	r->floor_per_s = entries / (now() - start);
	close(data);
	close(notes);
	unlinkat(fd, "floor", 0);
	unlinkat(fd, "floor.notes", 0);
	free(bytes);
}

static double verify_log(int fd)
{
	struct ft_seen_key key;
	struct ft_checked checked;
	struct ft_findings findings = {0};
	size_t n;
	int error;
	char *text = ft_io_read_file(fd, "vkey", 1000, &n, &error);
	need(error, "vkey");
	text[n - 1] = 0;
	if (!ft_seen_key_parse(&key, text, n - 1))
		need(-EINVAL, "vkey");
	double start = now();
	need(ft_directory_check(fd, &key, text, NULL, 0, &checked, &findings), "verify");
	double took = now() - start;
	if (findings.count)
		need(-EBADMSG, findings.text[0]);
	free(checked.checkpoints);
	free(text);
	return (double)checked.size / took;
}

/* ---- A proof in a large tree ------------------------------------------------------------------------------------ */

#define PLACES 6u

/* Nodes beside the way from some leaves to the root: all that their proofs need, beside the right edge. */
struct nodes {
	struct ft_tree tree;
	uint64_t count[FT_TREE_HEIGHT + 1];
	uint64_t place[PLACES];
	struct ft_hash beside[PLACES][FT_TREE_HEIGHT + 1];
};

static void keep(void *context, unsigned height, const struct ft_hash *root)
{
	struct nodes *n = context;
	uint64_t index = n->count[height]++;
	for (unsigned i = 0; i < PLACES; i++)
		if ((n->place[i] >> height ^ 1) == index)
			n->beside[i][height] = *root;
}

static int read_node(void *context, unsigned height, uint64_t index, struct ft_hash *root)
{
	const struct nodes *n = context;
	for (unsigned i = 0; i < PLACES; i++)
		if ((n->place[i] >> height ^ 1) == index && index < n->count[height]) {
			*root = n->beside[i][height];
			return 0;
		}
	if (!(n->tree.size >> height & 1) || index != (n->tree.size >> height) - 1)
		return -ENOENT;
	*root = n->tree.edge[height];
	return 0;
}

static size_t entry_bytes(uint8_t entry[512], unsigned number)
{
	memset(entry, 0, FT_ENTRY_HEADER);
	entry[0] = FT_ENTRY_DECIDED;
	return FT_ENTRY_HEADER + (size_t)snprintf((char *)entry + FT_ENTRY_HEADER, 512 - FT_ENTRY_HEADER, BODY, number);
}

static void prove(int fd, unsigned size, size_t *longest, double *build_s, double *proofs_per_s)
{
	struct nodes *n = calloc(1, sizeof(*n));
	uint8_t entry[512];
	struct ft_error err = {0};
	struct ft_key *key;
	struct ft_checkpoint checkpoint = {.size = size};
	struct ft_note_evolving signature;
	struct ft_seen_key seen_key;
	char note[FT_NOTE_MAX], text[FT_NOTE_MAX], *proof = malloc(FT_PROOF_TEXT);
	for (unsigned i = 0; i < PLACES; i++)
		n->place[i] = i == 0 ? 0 : i == 1 ? size - 1 : (uint64_t)size * i / PLACES;
	double start = now();
	for (unsigned i = 0; i < size; i++) {
		struct ft_hash leaf;
		ft_hash_leaf(&leaf, entry, entry_bytes(entry, i));
		ft_tree_append(&n->tree, &leaf, keep, n);
	}
	*build_s = now() - start;
	need(ft_key_load(&key, fd, &err), err.text);
	strcpy(checkpoint.origin, ft_key_public(key)->name);
	ft_tree_root(&n->tree, &checkpoint.root);
	ft_key_sign(key, text, ft_checkpoint_text(&checkpoint, text), &signature);
	size_t note_length = ft_checkpoint_note(&checkpoint, ft_key_public(key), &signature, note);
	char key_text[FT_NOTE_KEY];
	ft_note_key_format(ft_key_public(key), key_text);
	if (!ft_seen_key_parse(&seen_key, key_text, strlen(key_text)))
		need(-EINVAL, "the key");
	*longest = 0;
	for (unsigned i = 0; i < PLACES; i++) {
		struct ft_hash hashes[FT_TREE_PROOF];
		struct ft_proof checked;
		unsigned count;
		need(ft_tree_inclusion(n->place[i], size, read_node, n, hashes, &count), "a proof");
		size_t length = entry_bytes(entry, (unsigned)n->place[i]);
		length = ft_proof_inclusion(proof, n->place[i], entry, length, hashes, count, note, note_length);
		const char *wrong = ft_proof_check(&checked, proof, length, &seen_key, NULL, NULL);
		if (wrong)
			need(-EBADMSG, wrong);
		free(checked.entry);
		*longest = length > *longest ? length : *longest;
		if (i)
			continue;
		start = now();
		for (unsigned j = 0; j < 1000; j++) {
			ft_proof_check(&checked, proof, length, &seen_key, NULL, NULL);
			free(checked.entry);
		}
		*proofs_per_s = 1000 / (now() - start);
	}
	ft_key_free(key);
	free(proof);
	free(n);
}

int main(int argc, char **argv)
{
	unsigned entries = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : ENTRIES;
	unsigned size = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 10) : TREE;
	struct result r = {0};
	double verify_per_s, build_s, proofs_per_s;
	size_t proof_bytes;
	if (sodium_init() < 0 || !mkdtemp(directory))
		return 1;
	atexit(clean_up);
	int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	write_log(fd, entries, &r);
	write_floor(fd, entries, &r);
	printf("%u entries of %u bytes, %u a commit: %.0f/s (%.0f/s of processor time); the disk alone: %.0f/s\n", entries, r.bytes,
	       COMMIT, r.events_per_s, r.events_per_cpu_s, r.floor_per_s);
	verify_per_s = verify_log(fd);
	printf("verified: %.0f entries/s\n", verify_per_s);
	fflush(stdout);
	prove(fd, size, &proof_bytes, &build_s, &proofs_per_s);
	printf("a tree of %u entries, built in %.1f s: a proof has %zu bytes, %.0f proofs/s are verified\n", size, build_s, proof_bytes,
	       proofs_per_s);
	printf("{\"events_per_s\": %.0f, \"events_per_cpu_s\": %.0f, \"floor_per_s\": %.0f, \"commit_ms\": {\"p50\": %.2f, \"p99\": %.2f}, "
	       "\"lone_ms\": {\"p50\": %.2f, \"p99\": %.2f}, \"proof_bytes\": %zu, \"proof_entries\": %u, \"verify_per_s\": %.0f, "
	       "\"proofs_per_s\": %.0f}\n",
	       r.events_per_s, r.events_per_cpu_s, r.floor_per_s, r.p50, r.p99, r.lone_p50, r.lone_p99, proof_bytes, size, verify_per_s,
	       proofs_per_s);
	return 0;
}
