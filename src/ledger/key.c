#include "ledger/key.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ledger/tree.h"

#define SEED 32u

/* secret/key: magic, epoch (big-endian), seed. */
static const char magic[8] = {'F', 'T', 'K', 'E', 'Y', '1', '\n', 0};
#define SECRET_FILE (sizeof(magic) + 4 + SEED)

/* In memory that is locked and left out of core files. */
struct secret {
	uint8_t seed[SEED];
	uint8_t sign[crypto_sign_SECRETKEYBYTES];
};

struct ft_key {
	struct ft_note_key public;
	uint32_t epoch;
	uint8_t (*publics)[32]; /* of all epochs */
	struct ft_hash path[FT_NOTE_DEPTH];
	struct secret *secret;
};

static void derive(uint8_t out[32], const char *label, const uint8_t seed[SEED])
{
	uint8_t bytes[32 + SEED];
	size_t n = strlen(label);
	struct ft_hash hash;
	memcpy(bytes, label, n);
	memcpy(bytes + n, seed, SEED);
	ft_hash_bytes(&hash, bytes, n + SEED);
	memcpy(out, hash.bytes, 32);
	sodium_memzero(bytes, sizeof(bytes));
	sodium_memzero(&hash, sizeof(hash));
}

static void next_seed(uint8_t seed[SEED])
{
	derive(seed, "foretaste next", seed);
}

static void key_pair(uint8_t public[32], uint8_t sign[crypto_sign_SECRETKEYBYTES], const uint8_t seed[SEED])
{
	uint8_t key_seed[32];
	derive(key_seed, "foretaste key", seed);
	crypto_sign_seed_keypair(public, sign, key_seed);
	sodium_memzero(key_seed, sizeof(key_seed));
}

static int write_secret(const struct ft_io *io, int directory, uint32_t epoch, const uint8_t seed[SEED])
{
	uint8_t bytes[SECRET_FILE];
	memcpy(bytes, magic, sizeof(magic));
	for (unsigned i = 0; i < 4; i++)
		bytes[sizeof(magic) + i] = (uint8_t)(epoch >> (24 - 8 * i));
	memcpy(bytes + sizeof(magic) + 4, seed, SEED);
	int secret = io->open(io->context, directory, "secret", O_RDONLY | O_DIRECTORY, 0);
	if (secret < 0)
		return secret;
	/* The old file keeps its content when another takes its name: it is held open to be overwritten. */
	int old = io->open(io->context, secret, "key", O_WRONLY, 0);
	int error = ft_io_replace(io, secret, "key", bytes, sizeof(bytes), 0600);
	sodium_memzero(bytes, sizeof(bytes));
	if (!error && old >= 0) {
		error = ft_io_write(io, old, bytes, sizeof(bytes), 0);
		if (!error)
			error = io->sync(io->context, old);
	}
	if (old >= 0)
		close(old);
	close(secret);
	return error;
}

static void tree_of(const uint8_t (*publics)[32], uint64_t count, struct ft_hash *root)
{
	struct ft_tree tree = {0};
	for (uint64_t i = 0; i < count; i++) {
		struct ft_hash leaf;
		ft_hash_leaf(&leaf, publics[i], 32);
		ft_tree_append(&tree, &leaf, NULL, NULL);
	}
	ft_tree_root(&tree, root);
}

int ft_key_make(const struct ft_io *io, int directory, const char *origin, unsigned depth, struct ft_error *err)
{
	if (!depth || depth > FT_NOTE_DEPTH || !ft_note_name_ok(origin))
		return ft_error_set(err, -EINVAL, "no such key can be made");
	uint8_t first[SEED], seed[SEED], sign[crypto_sign_SECRETKEYBYTES];
	size_t count = (size_t)1 << depth;
	uint8_t(*publics)[32] = calloc(count, sizeof(*publics));
	if (!publics)
		return ft_error_set(err, -ENOMEM, "no memory for the ledger's keys");
	randombytes_buf(first, sizeof(first));
	memcpy(seed, first, sizeof(seed));
	for (size_t i = 0; i < count; i++) {
		key_pair(publics[i], sign, seed);
		next_seed(seed);
	}
	sodium_memzero(sign, sizeof(sign));
	sodium_memzero(seed, sizeof(seed));
	struct ft_note_key key = {.depth = (uint8_t)depth};
	char text[FT_NOTE_KEY], line[FT_NOTE_KEY + 1];
	memcpy(key.name, origin, strlen(origin) + 1);
	tree_of((const uint8_t(*)[32])publics, count, &key.root);
	ft_note_key_format(&key, text);
	snprintf(line, sizeof(line), "%s\n", text);
	int error = io->mkdir(io->context, directory, "secret", 0700);
	if (error == -EEXIST)
		error = 0;
	if (!error)
		error = ft_io_replace(io, directory, "keys", publics, count * sizeof(*publics), 0644);
	if (!error)
		error = ft_io_replace(io, directory, "vkey", line, strlen(line), 0644);
	/* Last: a directory without it has no key yet. */
	if (!error)
		error = write_secret(io, directory, 0, first);
	sodium_memzero(first, sizeof(first));
	free(publics);
	return error ? ft_error_set(err, error, "the ledger's key cannot be written: %s", strerror(-error)) : 0;
}

/* Node `index` of height `height` of the tree of public keys. */
static int read_node(void *context, unsigned height, uint64_t index, struct ft_hash *root)
{
	const struct ft_key *key = context;
	tree_of((const uint8_t(*)[32])(key->publics + (index << height)), 1ull << height, root);
	return 0;
}

static void find_path(struct ft_key *key)
{
	struct ft_hash proof[FT_TREE_PROOF];
	unsigned count;
	ft_tree_inclusion(key->epoch, 1ull << key->public.depth, read_node, key, proof, &count);
	memcpy(key->path, proof, key->public.depth * sizeof(*proof));
}

static int load_secret(struct ft_key *key, int directory)
{
	size_t length;
	int error;
	uint8_t *bytes = ft_io_read_file(directory, "secret/key", SECRET_FILE, &length, &error);
	if (!bytes)
		return error;
	if (length != SECRET_FILE || memcmp(bytes, magic, sizeof(magic))) {
		error = -EBADMSG;
	} else {
		const uint8_t *epoch = bytes + sizeof(magic);
		key->epoch = (uint32_t)epoch[0] << 24 | (uint32_t)epoch[1] << 16 | (uint32_t)epoch[2] << 8 | epoch[3];
		memcpy(key->secret->seed, epoch + 4, SEED);
	}
	sodium_memzero(bytes, length);
	free(bytes);
	return error;
}

static int load_public(struct ft_key *key, int directory)
{
	size_t length;
	int error;
	char *text = ft_io_read_file(directory, "vkey", FT_NOTE_KEY, &length, &error);
	if (!text)
		return error;
	error = length && text[length - 1] == '\n' ? ft_note_key_parse(&key->public, text, length - 1) : -EINVAL;
	free(text);
	if (error)
		return -EBADMSG;
	size_t expected = (size_t)32 << key->public.depth;
	key->publics = ft_io_read_file(directory, "keys", expected, &length, &error);
	if (!key->publics)
		return error == -EFBIG ? -EBADMSG : error;
	struct ft_hash root;
	if (length != expected || key->epoch >> key->public.depth)
		return -EBADMSG;
	tree_of((const uint8_t(*)[32])key->publics, 1ull << key->public.depth, &root);
	return memcmp(&root, &key->public.root, sizeof(root)) ? -EBADMSG : 0;
}

int ft_key_load(struct ft_key **out, int directory, struct ft_error *err)
{
	struct ft_key *key = calloc(1, sizeof(*key));
	*out = NULL;
	if (key)
		key->secret = sodium_malloc(sizeof(*key->secret));
	if (!key || !key->secret) {
		free(key);
		return ft_error_set(err, -ENOMEM, "no memory for the ledger's key");
	}
	int error = load_secret(key, directory);
	if (!error)
		error = load_public(key, directory);
	uint8_t public[32];
	if (!error) {
		key_pair(public, key->secret->sign, key->secret->seed);
		error = memcmp(public, key->publics[key->epoch], sizeof(public)) ? -EBADMSG : 0;
	}
	if (error) {
		ft_key_free(key);
		return ft_error_set(err, error, error == -EBADMSG ? "the ledger's key files do not fit each other"
								  : "the ledger's key cannot be read: %s", strerror(-error));
	}
	find_path(key);
	*out = key;
	return 0;
}

void ft_key_free(struct ft_key *key)
{
	if (!key)
		return;
	sodium_free(key->secret);
	free(key->publics);
	free(key);
}

const struct ft_note_key *ft_key_public(const struct ft_key *key)
{
	return &key->public;
}

uint32_t ft_key_epoch(const struct ft_key *key)
{
	return key->epoch;
}

uint32_t ft_key_epochs(const struct ft_key *key)
{
	return 1u << key->public.depth;
}

void ft_key_sign(const struct ft_key *key, const void *text, size_t length, struct ft_note_evolving *s)
{
	s->epoch = key->epoch;
	memcpy(s->public, key->publics[key->epoch], sizeof(s->public));
	memcpy(s->path, key->path, sizeof(s->path));
	crypto_sign_detached(s->signature, NULL, text, length, key->secret->sign);
}

int ft_key_evolve(struct ft_key *key, const struct ft_io *io, int directory)
{
	if (key->epoch + 1 == ft_key_epochs(key))
		return -ENOKEY;
	uint8_t seed[SEED], public[32];
	memcpy(seed, key->secret->seed, sizeof(seed));
	next_seed(seed);
	int error = write_secret(io, directory, key->epoch + 1, seed);
	if (!error) {
		key->epoch++;
		memcpy(key->secret->seed, seed, sizeof(seed));
		key_pair(public, key->secret->sign, seed);
		find_path(key);
	}
	sodium_memzero(seed, sizeof(seed));
	return error;
}
