/* RFC 6962 for whoever checks: proofs as in RFC 9162, sections 2.1.3.2 and 2.1.4.2, and the tree as it is built up from
 * leaves. Written apart from the writer's (ledger/tree.h) on purpose: a mistake there is found here. */
#ifndef FT_VERIFY_MERKLE_H
#define FT_VERIFY_MERKLE_H

#include <stdbool.h>
#include <stdint.h>

#include "ledger/hash.h"

/* Complete subtrees from the left, largest first: their sizes are the set bits of `size`. */
struct ft_fold {
	uint64_t size;
	unsigned count;
	struct ft_hash roots[64];
};

/* Adds a leaf. completed[h]: root of the subtree of 2^h leaves that it completed; returns how many there are (at least 1). */
unsigned ft_fold_leaf(struct ft_fold *fold, const struct ft_hash *leaf, struct ft_hash completed[64]);
struct ft_hash ft_fold_root(const struct ft_fold *fold);

bool ft_check_inclusion(uint64_t index, uint64_t size, const struct ft_hash *leaf, const struct ft_hash *proof, unsigned count,
			const struct ft_hash *root);
bool ft_check_consistency(uint64_t from, uint64_t to, const struct ft_hash *from_root, const struct ft_hash *to_root,
			  const struct ft_hash *proof, unsigned count);

#endif
