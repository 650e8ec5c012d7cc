#include "verify/cosign.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sodium.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "verify/directory.h"
#include "verify/note.h"

#define VARIANT sodium_base64_VARIANT_ORIGINAL
#define START	"PRIVATE+KEY+"

struct witness {
	char name[FT_SEEN_NAME + 1];
	uint8_t id[4], public[32], sign[64];
};

static void identify(struct witness *w, const uint8_t seed[32])
{
	uint8_t bytes[FT_SEEN_NAME + 2 + 32];
	size_t n = strlen(w->name);
	struct ft_hash hash;
	crypto_sign_seed_keypair(w->public, w->sign, seed);
	memcpy(bytes, w->name, n);
	bytes[n] = '\n';
	bytes[n + 1] = 0x04;
	memcpy(bytes + n + 2, w->public, 32);
	ft_hash_bytes(&hash, bytes, n + 2 + 32);
	memcpy(w->id, hash.bytes, 4);
}

static void write_key(FILE *to, const char *start, const struct witness *w, const uint8_t bytes[32])
{
	uint8_t what[33] = {0x04};
	char base64[sodium_base64_ENCODED_LEN(33, VARIANT)];
	memcpy(what + 1, bytes, 32);
	sodium_bin2base64(base64, sizeof(base64), what, sizeof(what), VARIANT);
	fprintf(to, "%s%s+%02x%02x%02x%02x+%s\n", start, w->name, w->id[0], w->id[1], w->id[2], w->id[3], base64);
	sodium_memzero(what, sizeof(what));
	sodium_memzero(base64, sizeof(base64));
}

int ft_cosign_make(const char *name, FILE *secret, FILE *public)
{
	struct witness w;
	uint8_t seed[32];
	size_t n = strlen(name);
	if (!n || n > FT_SEEN_NAME || strpbrk(name, " +\t\n"))
		return -EINVAL;
	memcpy(w.name, name, n + 1);
	randombytes_buf(seed, sizeof(seed));
	identify(&w, seed);
	write_key(secret, START, &w, seed);
	write_key(public, "", &w, w.public);
	sodium_memzero(seed, sizeof(seed));
	sodium_memzero(&w, sizeof(w));
	return 0;
}

static int load(struct witness *w, const char *file)
{
	size_t length;
	char *text = ft_read_file(AT_FDCWD, file, 1000, &length);
	if (!text)
		return -errno;
	int error = -EINVAL;
	const size_t start = sizeof(START) - 1;
	uint8_t what[33];
	char *plus = length > start && !memcmp(text, START, start) ? strchr(text + start, '+') : NULL;
	while (length && text[length - 1] == '\n')
		text[--length] = 0;
	size_t n = plus ? (size_t)(plus - text) - start : 0;
	if (n && n <= FT_SEEN_NAME && strlen(plus) > 10 && plus[9] == '+' &&
	    ft_seen_base64(plus + 10, strlen(plus + 10), what, sizeof(what)) && what[0] == 0x04) {
		memcpy(w->name, text + start, n);
		w->name[n] = 0;
		identify(w, what + 1);
		error = 0;
	}
	sodium_memzero(what, sizeof(what));
	sodium_memzero(text, length);
	free(text);
	return error;
}

int ft_cosign(const char *file, const char *note, size_t length, FILE *out)
{
	struct witness w;
	int error = load(&w, file);
	if (error)
		return error;
	const char *text_end = memmem(note, length, "\n\n", 2);
	size_t text = text_end ? (size_t)(text_end - note) + 1 : 0;
	char message[64 + 1024], base64[sodium_base64_ENCODED_LEN(76, VARIANT)];
	if (!text || text > 1024)
		return -EINVAL;
	uint64_t now = (uint64_t)time(NULL);
	int head = snprintf(message, 64, "cosignature/v1\ntime %" PRIu64 "\n", now);
	memcpy(message + head, note, text);
	uint8_t bytes[4 + 8 + 64];
	memcpy(bytes, w.id, 4);
	for (unsigned i = 0; i < 8; i++)
		bytes[4 + i] = (uint8_t)(now >> (56 - 8 * i));
	crypto_sign_detached(bytes + 12, NULL, (const uint8_t *)message, (size_t)head + text, w.sign);
	sodium_bin2base64(base64, sizeof(base64), bytes, sizeof(bytes), VARIANT);
	fwrite(note, 1, length, out);
	fprintf(out, "\xe2\x80\x94 %s %s\n", w.name, base64);
	sodium_memzero(&w, sizeof(w));
	return fflush(out) ? -errno : 0;
}
