#include "verify/proof.h"

#include <stdlib.h>
#include <string.h>

#include "verify/merkle.h"

#define HASHES 64u

static bool take_line(const char **at, const char *end, const char **line, size_t *length)
{
	const char *newline = memchr(*at, '\n', (size_t)(end - *at));
	if (!newline)
		return false;
	*line = *at;
	*length = (size_t)(newline - *at);
	*at = newline + 1;
	return true;
}

/* The rest of a line that begins with `word `; NULL. */
static const char *after(const char *line, size_t *length, const char *word)
{
	size_t n = strlen(word);
	if (*length < n || memcmp(line, word, n))
		return NULL;
	*length -= n;
	return line + n;
}

static bool take_entry(struct ft_proof *proof, const char *base64, size_t length)
{
	size_t room = length / 4 * 3 + 3;
	if (room > 70000 || !(proof->entry = malloc(room)))
		return false;
	long n = ft_seen_decode(base64, length, proof->entry, room);
	proof->length = n < 0 ? 0 : (size_t)n;
	return n >= 0;
}

const char *ft_proof_check(struct ft_proof *proof, const char *text, size_t length, const struct ft_seen_key *log,
			   const struct ft_seen_key *witness, const struct ft_seen *older)
{
	const char *at = text, *end = text + length, *line, *rest;
	size_t n;
	struct ft_hash hashes[HASHES], leaf;
	unsigned count = 0;
	*proof = (struct ft_proof){0};
	if (!take_line(&at, end, &line, &n))
		return "is no proof";
	rest = after(line, &n, "old ");
	if (rest) {
		proof->consistency = true;
	} else {
		if (n != 22 || memcmp(line, "c2sp.org/tlog-proof@v1", 22) || !take_line(&at, end, &line, &n))
			return "is no proof";
		rest = after(line, &n, "extra ");
		if (!rest || !take_entry(proof, rest, n))
			return "does not have its entry";
		rest = take_line(&at, end, &line, &n) ? after(line, &n, "index ") : NULL;
	}
	if (!rest || !ft_seen_number(rest, n, &proof->index))
		return "is no proof";
	for (;;) {
		if (!take_line(&at, end, &line, &n))
			return "is no proof";
		if (!n)
			break;
		if (count == HASHES || !ft_seen_base64(line, n, hashes[count].bytes, FT_HASH_BYTES))
			return "is no proof";
		count++;
	}
	const char *wrong = ft_seen_open(&proof->at, at, (size_t)(end - at), log, witness);
	if (wrong)
		return wrong;
	if (proof->consistency) {
		if (!older || older->size != proof->index)
			return "needs the checkpoint that it begins at (--since)";
		return ft_check_consistency(older->size, proof->at.size, &older->root, &proof->at.root, hashes, count)
			   ? NULL
			   : "does not hold";
	}
	ft_hash_leaf(&leaf, proof->entry, proof->length);
	return ft_check_inclusion(proof->index, proof->at.size, &leaf, hashes, count, &proof->at.root) ? NULL : "does not hold";
}
