#include "ledger/note.h"

#include <errno.h>
#include <inttypes.h>
#include <sodium.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define DASH	"\xe2\x80\x94 " /* em dash, space */
#define BASE64	sodium_base64_VARIANT_ORIGINAL
#define PAYLOAD (4u + 4u + 32u + FT_NOTE_DEPTH * 32u + 64u)

int ft_note_name_ok(const char *name)
{
	size_t n = strlen(name);
	if (!n || n > FT_NOTE_NAME)
		return 0;
	for (size_t i = 0; i < n; i++)
		if (name[i] <= ' ' || name[i] > '~' || name[i] == '+')
			return 0;
	return 1;
}

void ft_note_key_id(uint8_t id[4], const char *name, uint8_t type, const char *identifier, const void *public, size_t length)
{
	uint8_t bytes[FT_NOTE_NAME + 2 + 64 + 64];
	size_t n = strlen(name), m = identifier ? strlen(identifier) : 0;
	struct ft_hash hash;
	memcpy(bytes, name, n);
	bytes[n++] = '\n';
	bytes[n++] = type;
	memcpy(bytes + n, identifier ? identifier : "", m);
	n += m;
	memcpy(bytes + n, public, length);
	ft_hash_bytes(&hash, bytes, n + length);
	memcpy(id, hash.bytes, 4);
}

static void evolving_id(const struct ft_note_key *key, uint8_t id[4])
{
	uint8_t public[1 + FT_HASH_BYTES];
	public[0] = key->depth;
	memcpy(public + 1, key->root.bytes, FT_HASH_BYTES);
	ft_note_key_id(id, key->name, FT_NOTE_OTHER, FT_NOTE_EVOLVING, public, sizeof(public));
}

/* ---- Keys as text --------------------------------------------------------------------------------------------- */

#define IDENTIFIER (sizeof(FT_NOTE_EVOLVING) - 1)
#define KEY_BYTES  (1 + IDENTIFIER + 1 + FT_HASH_BYTES)

void ft_note_key_format(const struct ft_note_key *key, char text[FT_NOTE_KEY])
{
	uint8_t bytes[KEY_BYTES], id[4];
	char base64[sodium_base64_ENCODED_LEN(KEY_BYTES, BASE64)];
	bytes[0] = FT_NOTE_OTHER;
	memcpy(bytes + 1, FT_NOTE_EVOLVING, IDENTIFIER);
	bytes[1 + IDENTIFIER] = key->depth;
	memcpy(bytes + 2 + IDENTIFIER, key->root.bytes, FT_HASH_BYTES);
	evolving_id(key, id);
	sodium_bin2base64(base64, sizeof(base64), bytes, sizeof(bytes), BASE64);
	snprintf(text, FT_NOTE_KEY, "%s+%02x%02x%02x%02x+%s", key->name, id[0], id[1], id[2], id[3], base64);
}

static int from_base64(const char *text, size_t length, void *bytes, size_t room, size_t *got)
{
	const char *end = NULL;
	/* libsodium 1.0.18 takes some bytes above 127 for digits. */
	for (size_t i = 0; i < length; i++)
		if ((unsigned char)text[i] > 127)
			return -EINVAL;
	return sodium_base642bin(bytes, room, text, length, NULL, got, &end, BASE64) || end != text + length ? -EINVAL : 0;
}

int ft_note_key_parse(struct ft_note_key *key, const char *text, size_t length)
{
	const char *plus = memchr(text, '+', length);
	size_t name = plus ? (size_t)(plus - text) : 0, got;
	if (!name || name > FT_NOTE_NAME || length < name + 10 || text[name + 9] != '+')
		return -EINVAL;
	memcpy(key->name, text, name);
	key->name[name] = 0;
	uint8_t bytes[KEY_BYTES + 3], id[4];
	char hex[9];
	if (!ft_note_name_ok(key->name) || strlen(key->name) != name ||
	    from_base64(text + name + 10, length - name - 10, bytes, sizeof(bytes), &got) || got != KEY_BYTES)
		return -EINVAL;
	key->depth = bytes[1 + IDENTIFIER];
	memcpy(key->root.bytes, bytes + 2 + IDENTIFIER, FT_HASH_BYTES);
	evolving_id(key, id);
	snprintf(hex, sizeof(hex), "%02x%02x%02x%02x", id[0], id[1], id[2], id[3]);
	if (bytes[0] != FT_NOTE_OTHER || memcmp(bytes + 1, FT_NOTE_EVOLVING, IDENTIFIER) || !key->depth ||
	    key->depth > FT_NOTE_DEPTH || memcmp(hex, text + name + 1, 8))
		return -EINVAL;
	return 0;
}

/* ---- Checkpoints ------------------------------------------------------------------------------------------------ */

size_t ft_checkpoint_text(const struct ft_checkpoint *checkpoint, char text[FT_NOTE_MAX])
{
	char base64[sodium_base64_ENCODED_LEN(FT_HASH_BYTES, BASE64)];
	sodium_bin2base64(base64, sizeof(base64), checkpoint->root.bytes, FT_HASH_BYTES, BASE64);
	return (size_t)snprintf(text, FT_NOTE_MAX, "%s\n%" PRIu64 "\n%s\n", checkpoint->origin, checkpoint->size, base64);
}

static size_t signature_line(char *to, size_t room, const char *name, const uint8_t *payload, size_t length)
{
	char base64[sodium_base64_ENCODED_LEN(PAYLOAD, BASE64)];
	sodium_bin2base64(base64, sizeof(base64), payload, length, BASE64);
	return (size_t)snprintf(to, room, DASH "%s %s\n", name, base64);
}

/* Both payloads, key IDs first. Returns the length of the evolving one. */
static size_t payloads(const struct ft_note_key *key, const struct ft_note_evolving *s, uint8_t plain[68], uint8_t evolving[PAYLOAD])
{
	ft_note_key_id(plain, key->name, FT_NOTE_ED25519, NULL, s->public, sizeof(s->public));
	memcpy(plain + 4, s->signature, sizeof(s->signature));
	size_t path = key->depth * sizeof(struct ft_hash);
	evolving_id(key, evolving);
	for (unsigned i = 0; i < 4; i++)
		evolving[4 + i] = (uint8_t)(s->epoch >> (24 - 8 * i));
	memcpy(evolving + 8, s->public, sizeof(s->public));
	memcpy(evolving + 40, s->path, path);
	memcpy(evolving + 40 + path, s->signature, sizeof(s->signature));
	return 40 + path + sizeof(s->signature);
}

size_t ft_checkpoint_note(const struct ft_checkpoint *checkpoint, const struct ft_note_key *key,
			  const struct ft_note_evolving *signature, char note[FT_NOTE_MAX])
{
	uint8_t plain[68], evolving[PAYLOAD];
	size_t length = payloads(key, signature, plain, evolving);
	size_t at = ft_checkpoint_text(checkpoint, note);
	note[at++] = '\n';
	at += signature_line(note + at, FT_NOTE_MAX - at, key->name, plain, sizeof(plain));
	return at + signature_line(note + at, FT_NOTE_MAX - at, key->name, evolving, length);
}

static int parse_size(const char *text, size_t length, uint64_t *size)
{
	if (!length || length > 19 || (length > 1 && *text == '0'))
		return -EINVAL;
	*size = 0;
	for (size_t i = 0; i < length; i++) {
		if (text[i] < '0' || text[i] > '9')
			return -EINVAL;
		*size = *size * 10 + (uint64_t)(text[i] - '0');
	}
	return *size >> 63 ? -EINVAL : 0;
}

/* Takes one line, without its newline, from the front. False: there is no whole one. */
static bool take_line(const char **text, size_t *left, const char **line, size_t *length)
{
	const char *end = memchr(*text, '\n', *left);
	if (!end)
		return false;
	*line = *text;
	*length = (size_t)(end - *text);
	*left -= *length + 1;
	*text = end + 1;
	return true;
}

static int parse_text(const char **text, size_t *left, struct ft_checkpoint *checkpoint)
{
	const char *line;
	size_t length, got;
	if (!take_line(text, left, &line, &length) || !length || length > FT_NOTE_NAME || memchr(line, 0, length))
		return -EINVAL;
	memcpy(checkpoint->origin, line, length);
	checkpoint->origin[length] = 0;
	if (!ft_note_name_ok(checkpoint->origin) || !take_line(text, left, &line, &length) ||
	    parse_size(line, length, &checkpoint->size))
		return -EINVAL;
	if (!take_line(text, left, &line, &length) ||
	    from_base64(line, length, checkpoint->root.bytes, FT_HASH_BYTES, &got) || got != FT_HASH_BYTES)
		return -EINVAL;
	return take_line(text, left, &line, &length) && !length ? 0 : -EINVAL;
}

static void parse_evolving(const uint8_t *payload, unsigned depth, struct ft_note_evolving *s)
{
	s->epoch = (uint32_t)payload[4] << 24 | (uint32_t)payload[5] << 16 | (uint32_t)payload[6] << 8 | payload[7];
	memcpy(s->public, payload + 8, sizeof(s->public));
	memcpy(s->path, payload + 40, depth * sizeof(struct ft_hash));
	memcpy(s->signature, payload + 40 + depth * sizeof(struct ft_hash), sizeof(s->signature));
}

/* Is s->public the key of s->epoch in the tree that key is the root of? */
static bool is_epoch_key(const struct ft_note_key *key, const struct ft_note_evolving *s)
{
	struct ft_hash node;
	if (s->epoch >> key->depth)
		return false;
	ft_hash_leaf(&node, s->public, sizeof(s->public));
	for (unsigned i = 0; i < key->depth; i++)
		s->epoch >> i & 1 ? ft_hash_node(&node, &s->path[i], &node) : ft_hash_node(&node, &node, &s->path[i]);
	return !sodium_memcmp(&node, &key->root, sizeof(node));
}

int ft_checkpoint_open(const char *note, size_t length, const struct ft_note_key *key, struct ft_checkpoint *checkpoint,
		       struct ft_note_evolving *signature)
{
	const char *at = note, *line, *evolving_line, *plain_line;
	size_t left = length, n, evolving_n, plain_n, got;
	uint8_t payload[PAYLOAD], plain[68], id[4];
	struct ft_note_evolving mine, *s = signature ? signature : &mine;
	if (length > FT_NOTE_MAX || parse_text(&at, &left, checkpoint))
		return -EINVAL;
	size_t text = (size_t)(at - note) - 1;
	/* Ours come first, in this order: whatever else there is, is not looked at here. */
	if (!take_line(&at, &left, &plain_line, &plain_n) || !take_line(&at, &left, &evolving_line, &evolving_n))
		return -EINVAL;
	size_t prefix = sizeof(DASH) - 1 + strlen(key->name) + 1, expected = 40 + key->depth * sizeof(struct ft_hash) + 64;
	char start[sizeof(DASH) + FT_NOTE_NAME + 1];
	snprintf(start, sizeof(start), DASH "%s ", key->name);
	if (strcmp(checkpoint->origin, key->name) || plain_n < prefix || evolving_n < prefix || memcmp(plain_line, start, prefix) ||
	    memcmp(evolving_line, start, prefix))
		return -EBADMSG;
	if (from_base64(evolving_line + prefix, evolving_n - prefix, payload, sizeof(payload), &got) || got != expected)
		return -EBADMSG;
	evolving_id(key, id);
	parse_evolving(payload, key->depth, s);
	if (memcmp(payload, id, 4) || !is_epoch_key(key, s) ||
	    crypto_sign_verify_detached(s->signature, (const uint8_t *)note, text, s->public))
		return -EBADMSG;
	/* One key, one text: the plain signature is the same, as Ed25519's are a function of both. */
	uint8_t again[PAYLOAD];
	payloads(key, s, plain, again);
	if (from_base64(plain_line + prefix, plain_n - prefix, payload, sizeof(payload), &got) || got != sizeof(plain) ||
	    memcmp(payload, plain, sizeof(plain)))
		return -EBADMSG;
	while (left) {
		if (!take_line(&at, &left, &line, &n) || n < sizeof(DASH) || memcmp(line, DASH, sizeof(DASH) - 1))
			return -EINVAL;
	}
	return 0;
}

size_t ft_note_first(const char *notes, size_t length)
{
	/* Text, empty line, signatures, empty line. */
	const char *text = memmem(notes, length, "\n\n", 2);
	if (!text)
		return 0;
	size_t at = (size_t)(text - notes) + 2;
	const char *end = memmem(notes + at, length - at, "\n\n", 2);
	return end ? (size_t)(end - notes) + 1 : 0;
}
