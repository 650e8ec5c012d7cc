#include "verify/note.h"

#include <inttypes.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>

static const char dash[] = "\xe2\x80\x94 ";
static const char evolving[] = "\xff" "foretaste/evolving-ed25519/v1";

struct line {
	const char *text;
	size_t length;
};

static bool next_line(const char **at, const char *end, struct line *line)
{
	const char *newline = memchr(*at, '\n', (size_t)(end - *at));
	if (!newline)
		return false;
	*line = (struct line){.text = *at, .length = (size_t)(newline - *at)};
	*at = newline + 1;
	return true;
}

bool ft_seen_number(const char *text, size_t length, uint64_t *number)
{
	uint64_t n = 0;
	if (!length || length > 19 || (*text == '0' && length > 1))
		return false;
	for (size_t i = 0; i < length; i++) {
		if (text[i] < '0' || text[i] > '9')
			return false;
		n = n * 10 + (uint64_t)(text[i] - '0');
	}
	*number = n;
	return !(n >> 63);
}

long ft_seen_decode(const char *text, size_t length, void *bytes, size_t room)
{
	size_t got;
	const char *end;
	/* libsodium 1.0.18 takes some bytes above 127 for digits. */
	for (size_t i = 0; i < length; i++)
		if (text[i] & 0x80)
			return -1;
	if (sodium_base642bin(bytes, room, text, length, NULL, &got, &end, sodium_base64_VARIANT_ORIGINAL) ||
	    end != text + length)
		return -1;
	return (long)got;
}

bool ft_seen_base64(const char *text, size_t length, void *bytes, size_t size)
{
	return ft_seen_decode(text, length, bytes, size) == (long)size;
}

/* First four bytes of SHA-256(name || "\n" || what), what beginning with the type. */
static void key_id(uint8_t id[4], const char *name, const void *what, size_t length)
{
	uint8_t bytes[FT_SEEN_NAME + 1 + 128];
	size_t n = strlen(name);
	struct ft_hash hash;
	memcpy(bytes, name, n);
	bytes[n] = '\n';
	memcpy(bytes + n + 1, what, length);
	ft_hash_bytes(&hash, bytes, n + 1 + length);
	memcpy(id, hash.bytes, 4);
}

bool ft_seen_key_parse(struct ft_seen_key *key, const char *text, size_t length)
{
	const char *plus = memchr(text, '+', length);
	size_t name = plus ? (size_t)(plus - text) : 0;
	uint8_t what[128];
	char hex[9];
	*key = (struct ft_seen_key){0};
	if (!name || name > FT_SEEN_NAME || length < name + 11 || plus[9] != '+')
		return false;
	for (size_t i = 0; i < name; i++)
		if (text[i] <= ' ' || text[i] > '~')
			return false;
	memcpy(key->name, text, name);
	long n = ft_seen_decode(plus + 10, length - name - 10, what, sizeof(what));
	const long mark = sizeof(evolving) - 1;
	if (n == 33 && what[0] == 0x04) {
		key->kind = FT_SEEN_WITNESS;
		memcpy(key->bytes, what + 1, 32);
	} else if (n == mark + 33 && !memcmp(what, evolving, (size_t)mark)) {
		key->kind = FT_SEEN_LOG;
		key->depth = what[mark];
		memcpy(key->bytes, what + mark + 1, 32);
		if (!key->depth || key->depth > 20)
			return false;
	} else {
		return false;
	}
	key_id(key->id, key->name, what, (size_t)n);
	snprintf(hex, sizeof(hex), "%02x%02x%02x%02x", key->id[0], key->id[1], key->id[2], key->id[3]);
	return !memcmp(hex, plus + 1, 8);
}

/* The base64 of a signature line under this name; NULL when it is under another. */
static const char *signature_of(const struct line *line, const char *name, size_t *length)
{
	size_t n = strlen(name), prefix = sizeof(dash) - 1;
	if (line->length < prefix + n + 2 || memcmp(line->text + prefix, name, n) || line->text[prefix + n] != ' ')
		return NULL;
	*length = line->length - prefix - n - 1;
	return line->text + prefix + n + 1;
}

/* Both of the log's signatures over text. */
static bool signed_by_log(const struct ft_seen_key *key, const struct line lines[2], const char *text, size_t length,
			  uint32_t *epoch)
{
	uint8_t bytes[4 + 4 + 32 + 20 * 32 + 64], plain[68], what[33], id[4];
	size_t n;
	const char *base64 = signature_of(&lines[1], key->name, &n);
	const size_t path = key->depth * 32u, size = 40 + path + 64;
	if (!base64 || !ft_seen_base64(base64, n, bytes, size) || memcmp(bytes, key->id, 4))
		return false;
	*epoch = (uint32_t)bytes[4] << 24 | (uint32_t)bytes[5] << 16 | (uint32_t)bytes[6] << 8 | bytes[7];
	struct ft_hash node, sibling;
	ft_hash_leaf(&node, bytes + 8, 32);
	for (unsigned i = 0; i < key->depth; i++) {
		memcpy(&sibling, bytes + 40 + 32 * i, 32);
		*epoch >> i & 1 ? ft_hash_node(&node, &sibling, &node) : ft_hash_node(&node, &node, &sibling);
	}
	if (*epoch >> key->depth || memcmp(&node, key->bytes, 32))
		return false;
	base64 = signature_of(&lines[0], key->name, &n);
	what[0] = 0x01;
	memcpy(what + 1, bytes + 8, 32);
	key_id(id, key->name, what, sizeof(what));
	/* Ed25519 is deterministic: both lines have the same signature. */
	return base64 && ft_seen_base64(base64, n, plain, sizeof(plain)) && !memcmp(plain, id, 4) &&
	       !memcmp(plain + 4, bytes + 40 + path, 64) &&
	       !crypto_sign_verify_detached(plain + 4, (const uint8_t *)text, length, bytes + 8);
}

/* One line that may be the witness' cosignature. False: it is, and it is wrong. */
static bool check_witness(const struct ft_seen_key *witness, const struct line *line, const char *text, size_t length,
			  struct ft_seen *seen)
{
	uint8_t bytes[4 + 8 + 64];
	char message[64 + FT_SEEN_NAME + 128];
	size_t n;
	const char *base64 = witness ? signature_of(line, witness->name, &n) : NULL;
	if (!base64 || !ft_seen_base64(base64, n, bytes, sizeof(bytes)) || memcmp(bytes, witness->id, 4))
		return true;
	uint64_t time = 0;
	for (unsigned i = 0; i < 8; i++)
		time = time << 8 | bytes[4 + i];
	int head = snprintf(message, 64, "cosignature/v1\ntime %" PRIu64 "\n", time);
	memcpy(message + head, text, length);
	if (time >> 63 ||
	    crypto_sign_verify_detached(bytes + 12, (const uint8_t *)message, (size_t)head + length, witness->bytes))
		return false;
	seen->witnessed = true;
	seen->witnessed_at = time;
	return true;
}

const char *ft_seen_open(struct ft_seen *seen, const char *note, size_t length, const struct ft_seen_key *log,
			 const struct ft_seen_key *witness)
{
	const char *at = note, *end = note + length;
	struct line origin, size, root, empty, signatures[2], more;
	*seen = (struct ft_seen){0};
	if (length > FT_SEEN_NOTE || !next_line(&at, end, &origin) || !next_line(&at, end, &size) || !next_line(&at, end, &root))
		return "is no checkpoint";
	size_t text = (size_t)(at - note);
	if (!next_line(&at, end, &empty) || empty.length || !next_line(&at, end, &signatures[0]) ||
	    !next_line(&at, end, &signatures[1]) || !ft_seen_number(size.text, size.length, &seen->size) ||
	    !ft_seen_base64(root.text, root.length, seen->root.bytes, FT_HASH_BYTES))
		return "is no checkpoint";
	for (unsigned i = 0; i < 2; i++)
		if (signatures[i].length < sizeof(dash) || memcmp(signatures[i].text, dash, sizeof(dash) - 1))
			return "is no checkpoint";
	if (origin.length != strlen(log->name) || memcmp(origin.text, log->name, origin.length))
		return "is of another ledger";
	if (!signed_by_log(log, signatures, note, text, &seen->epoch))
		return "is not signed by this key";
	while (at < end) {
		if (!next_line(&at, end, &more) || more.length < sizeof(dash) || memcmp(more.text, dash, sizeof(dash) - 1))
			return "has something behind its signatures";
		if (!check_witness(witness, &more, note, text, seen))
			return "has a wrong cosignature";
	}
	return NULL;
}

size_t ft_seen_first(const char *notes, size_t length)
{
	const char *text = memmem(notes, length, "\n\n", 2), *end;
	if (!text)
		return 0;
	text += 2;
	end = memmem(text, length - (size_t)(text - notes), "\n\n", 2);
	return end ? (size_t)(end - notes) + 1 : 0;
}
