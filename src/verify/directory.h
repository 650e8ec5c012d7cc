/* Checks a ledger's directory (src/ledger/ledger.md) from outside: every byte of it but the secret, which it does not open. */
#ifndef FT_VERIFY_DIRECTORY_H
#define FT_VERIFY_DIRECTORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "verify/note.h"

#define FT_FINDINGS 32u /* told one by one; all are counted */

struct ft_findings {
	unsigned count;
	char text[FT_FINDINGS][256];
};

/* A checkpoint that somebody kept, for comparison. */
struct ft_kept {
	struct ft_seen seen;
	char where[96]; /* for people */
};

struct ft_checked {
	uint64_t size;	 /* entries that the last checkpoint covers */
	uint64_t first;	 /* those before were pruned: only their hashes are there */
	uint32_t epoch;	 /* of the last checkpoint */
	uint64_t tail;	 /* bytes of entries that no checkpoint covers (counted as a finding, too) */
	uint64_t hashes_missing; /* at the end of tile files, where a power cut may take them: no finding */
	struct ft_hash root;
	size_t last, last_length; /* the last checkpoint in `checkpoints` */
	char *checkpoints;	  /* the caller frees it */
	size_t length;
};

/* Verifies all; kept: `count` checkpoints that must be of this log. What is wrong is in findings; no finding: all is well, up
 * to checked->size. 0, or -errno when something cannot be read. */
int ft_directory_check(int directory, const struct ft_seen_key *key, const char *key_text, struct ft_kept *kept, size_t count,
		       struct ft_checked *checked, struct ft_findings *findings);

void ft_finding(struct ft_findings *findings, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A regular file of at most `most` bytes, allocated, with a NUL behind it. NULL: errno says why. */
char *ft_read_file(int directory, const char *name, size_t most, size_t *length);

#endif
