#include "ledger/tree.h"

#include <errno.h>

void ft_tree_append(struct ft_tree *tree, const struct ft_hash *leaf, ft_tree_complete *complete, void *context)
{
	struct ft_hash node = *leaf;
	unsigned height = 0;
	if (complete)
		complete(context, 0, &node);
	/* As in adding one to a number: each set bit is a subtree of the same size to the left. */
	for (; tree->size >> height & 1; height++) {
		ft_hash_node(&node, &tree->edge[height], &node);
		if (complete)
			complete(context, height + 1, &node);
	}
	tree->edge[height] = node;
	tree->size++;
}

void ft_tree_root(const struct ft_tree *tree, struct ft_hash *root)
{
	bool any = false;
	if (!tree->size)
		ft_hash_bytes(root, NULL, 0);
	for (unsigned height = 0; height <= FT_TREE_HEIGHT; height++) {
		if (!(tree->size >> height & 1))
			continue;
		if (any)
			ft_hash_node(root, &tree->edge[height], root);
		else
			*root = tree->edge[height];
		any = true;
	}
}

int ft_tree_load(struct ft_tree *tree, uint64_t size, ft_tree_read *read, void *context)
{
	if (size >> FT_TREE_HEIGHT)
		return -EINVAL;
	tree->size = size;
	for (unsigned height = 0; height < FT_TREE_HEIGHT; height++) {
		/* The subtree of bit h lies behind all that the higher bits count. */
		int error = size >> height & 1 ? read(context, height, (size >> height) - 1, &tree->edge[height]) : 0;
		if (error)
			return error;
	}
	return 0;
}

/* Largest power of two smaller than n > 1, as its exponent. */
static unsigned split(uint64_t n)
{
	return 63u - (unsigned)__builtin_clzll(n - 1);
}

/* MTH(D[begin:end]) where begin is a multiple of the subtree's size, as it is for all that proofs ask for. */
static int range(uint64_t begin, uint64_t end, ft_tree_read *read, void *context, struct ft_hash *root)
{
	struct ft_hash part;
	bool any = false;
	/* From the right, smallest complete subtree first. */
	for (uint64_t left = end - begin; left;) {
		unsigned height = (unsigned)__builtin_ctzll(left);
		left -= 1ull << height;
		int error = read(context, height, (begin + left) >> height, &part);
		if (error)
			return error;
		if (any)
			ft_hash_node(root, &part, root);
		else
			*root = part;
		any = true;
	}
	return 0;
}

/* The steps from the root down are collected first and then reversed: a proof begins at the bottom. */
static void reverse(struct ft_hash *proof, unsigned count)
{
	for (unsigned i = 0; i < count / 2; i++) {
		struct ft_hash swap = proof[i];
		proof[i] = proof[count - 1 - i];
		proof[count - 1 - i] = swap;
	}
}

int ft_tree_inclusion(uint64_t index, uint64_t size, ft_tree_read *read, void *context, struct ft_hash proof[FT_TREE_PROOF],
		      unsigned *count)
{
	*count = 0;
	if (size >> FT_TREE_HEIGHT || index >= size)
		return -EINVAL;
	for (uint64_t begin = 0, end = size; end - begin > 1;) {
		uint64_t middle = begin + (1ull << split(end - begin));
		bool left = index < middle;
		int error = left ? range(middle, end, read, context, &proof[*count])
				 : range(begin, middle, read, context, &proof[*count]);
		if (error)
			return error;
		++*count;
		*(left ? &end : &begin) = middle;
	}
	reverse(proof, *count);
	return 0;
}

int ft_tree_consistency(uint64_t from, uint64_t to, ft_tree_read *read, void *context, struct ft_hash proof[FT_TREE_PROOF],
			unsigned *count)
{
	*count = 0;
	if (to >> FT_TREE_HEIGHT || from > to)
		return -EINVAL;
	if (!from || from == to)
		return 0;
	/* SUBPROOF(m, D[n], b): `whole` is b, true while D[begin:from] is the old tree itself, whose root is known. */
	uint64_t begin = 0, end = to;
	bool whole = true;
	int error;
	while (from != end) {
		uint64_t middle = begin + (1ull << split(end - begin));
		bool left = from <= middle;
		error = left ? range(middle, end, read, context, &proof[*count])
			     : range(begin, middle, read, context, &proof[*count]);
		if (error)
			return error;
		++*count;
		if (!left)
			whole = false;
		*(left ? &end : &begin) = middle;
	}
	if (!whole) {
		error = range(begin, end, read, context, &proof[*count]);
		if (error)
			return error;
		++*count;
	}
	reverse(proof, *count);
	return 0;
}
