/* The Merkle tree of RFC 6962, section 2.1, over any number of leaves: its right edge in memory, and proofs from nodes that
 * somebody else keeps (the tiles on disk). Nothing here reads a file or trusts one. */
#ifndef FT_LEDGER_TREE_H
#define FT_LEDGER_TREE_H

#include <stdbool.h>
#include <stdint.h>

#include "ledger/hash.h"

#define FT_TREE_HEIGHT 63u /* sizes are below 2^63 */

/* Longest proof of either kind: one node a level, and for consistency one more. */
#define FT_TREE_PROOF 64u

/* The right edge. Invariant: edge[h] is the root of the complete subtree of 2^h leaves that ends where the lower set bits of
 * size begin; it means something only while bit h of size is set. All zeroes is the empty tree. */
struct ft_tree {
	uint64_t size;
	struct ft_hash edge[FT_TREE_HEIGHT + 1];
};

/* A subtree of 2^height leaves became complete: its root. Called from the leaf (height 0) upwards. */
typedef void ft_tree_complete(void *context, unsigned height, const struct ft_hash *root);

/* Adds a leaf's hash (ft_hash_leaf). complete may be NULL. */
void ft_tree_append(struct ft_tree *tree, const struct ft_hash *leaf, ft_tree_complete *complete, void *context);

/* The root, SHA-256 of nothing for the empty tree. */
void ft_tree_root(const struct ft_tree *tree, struct ft_hash *root);

/* Reads the root of the complete subtree of leaves [index << height, (index + 1) << height). 0 or -errno. */
typedef int ft_tree_read(void *context, unsigned height, uint64_t index, struct ft_hash *root);

/* The right edge of the tree of `size` leaves, out of its nodes. */
int ft_tree_load(struct ft_tree *tree, uint64_t size, ft_tree_read *read, void *context);

/* Inclusion proof of leaf `index` in the tree of `size` leaves (RFC 6962, 2.1.1), sibling of the leaf first. *count: how
 * many. -EINVAL unless index < size < 2^63; what read returns. */
int ft_tree_inclusion(uint64_t index, uint64_t size, ft_tree_read *read, void *context, struct ft_hash proof[FT_TREE_PROOF],
		      unsigned *count);

/* Consistency proof between the trees of `from` and `to` leaves (RFC 6962, 2.1.2); empty when they are equal or from is
 * 0. -EINVAL unless from <= to < 2^63. */
int ft_tree_consistency(uint64_t from, uint64_t to, ft_tree_read *read, void *context, struct ft_hash proof[FT_TREE_PROOF],
			unsigned *count);

#endif
