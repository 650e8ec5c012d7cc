/* Proofs out of a ledger's directory, read while its writer may be at work: of inclusion in the form of c2sp.org/tlog-proof
 * with the entry's bytes as `extra`, of consistency in the form of the body of c2sp.org/tlog-witness' add-checkpoint. */
#ifndef FT_LEDGER_PROOF_H
#define FT_LEDGER_PROOF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "ledger/note.h"

#define FT_PROOF_TEXT (112u << 10) /* room for the longest proof */

/* The text of an inclusion proof of this entry (ft_tree_inclusion's hashes); returns its length. */
size_t ft_proof_inclusion(char text[FT_PROOF_TEXT], uint64_t index, const uint8_t *entry, size_t length, const struct ft_hash *hashes,
			  unsigned count, const char *note, size_t note_length);

struct ft_prover;

/* directory stays the caller's. -ENODATA: nothing is signed yet. */
int ft_prover_open(struct ft_prover **prover, int directory, struct ft_error *err);
void ft_prover_close(struct ft_prover *prover);

uint64_t ft_prover_size(const struct ft_prover *prover);

/* The last checkpoint, a note. */
const char *ft_prover_checkpoint(const struct ft_prover *prover, size_t *length);

/* Both texts are the caller's to free. -EINVAL: there is no such entry, or size; -ENOENT: it was pruned. */
int ft_prover_inclusion(struct ft_prover *prover, uint64_t index, char **text, struct ft_error *err);
int ft_prover_consistency(struct ft_prover *prover, uint64_t from, char **text, struct ft_error *err);

/* The newest entry of this type about this hold (its body has "hold": number). -ENOENT. */
int ft_prover_find(struct ft_prover *prover, unsigned type, uint64_t hold, uint64_t *index);

#endif
