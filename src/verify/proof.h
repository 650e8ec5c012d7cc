/* Proofs as files: of inclusion (c2sp.org/tlog-proof, the entry's bytes in its `extra` line) and of consistency (the body of
 * c2sp.org/tlog-witness' add-checkpoint). Both verify with the public key alone. */
#ifndef FT_VERIFY_PROOF_H
#define FT_VERIFY_PROOF_H

#include "verify/note.h"

struct ft_proof {
	bool consistency;
	uint64_t index;	   /* of the entry; for consistency: the older tree's size */
	struct ft_seen at; /* the checkpoint in the proof */
	uint8_t *entry;	   /* of an inclusion proof; the caller frees it */
	size_t length;
};

/* Checks a proof. older: the checkpoint that a consistency proof begins at, or NULL. NULL when it holds, else why not. */
const char *ft_proof_check(struct ft_proof *proof, const char *text, size_t length, const struct ft_seen_key *log,
			   const struct ft_seen_key *witness, const struct ft_seen *older);

#endif
