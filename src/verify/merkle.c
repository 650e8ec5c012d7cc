#include "verify/merkle.h"

#include <string.h>

static bool same(const struct ft_hash *a, const struct ft_hash *b)
{
	return !memcmp(a, b, sizeof(*a));
}

unsigned ft_fold_leaf(struct ft_fold *fold, const struct ft_hash *leaf, struct ft_hash completed[64])
{
	unsigned n = 0;
	completed[n++] = *leaf;
	fold->roots[fold->count++] = *leaf;
	fold->size++;
	/* As many pairs of equal size as the new size has trailing zeroes. */
	for (uint64_t size = fold->size; !(size & 1); size >>= 1) {
		struct ft_hash *left = &fold->roots[fold->count - 2];
		ft_hash_node(left, left, left + 1);
		fold->count--;
		completed[n++] = *left;
	}
	return n;
}

struct ft_hash ft_fold_root(const struct ft_fold *fold)
{
	struct ft_hash root;
	if (!fold->count) {
		ft_hash_bytes(&root, NULL, 0);
		return root;
	}
	root = fold->roots[fold->count - 1];
	for (unsigned i = fold->count - 1; i-- > 0;)
		ft_hash_node(&root, &fold->roots[i], &root);
	return root;
}

bool ft_check_inclusion(uint64_t index, uint64_t size, const struct ft_hash *leaf, const struct ft_hash *proof, unsigned count,
			const struct ft_hash *root)
{
	if (index >= size)
		return false;
	uint64_t fn = index, sn = size - 1;
	struct ft_hash r = *leaf;
	for (unsigned i = 0; i < count; i++) {
		if (!sn)
			return false;
		if (fn & 1 || fn == sn) {
			ft_hash_node(&r, &proof[i], &r);
			while (!(fn & 1) && fn) {
				fn >>= 1;
				sn >>= 1;
			}
		} else {
			ft_hash_node(&r, &r, &proof[i]);
		}
		fn >>= 1;
		sn >>= 1;
	}
	return !sn && same(&r, root);
}

bool ft_check_consistency(uint64_t from, uint64_t to, const struct ft_hash *from_root, const struct ft_hash *to_root,
			  const struct ft_hash *proof, unsigned count)
{
	if (from > to)
		return false;
	if (from == to)
		return !count && same(from_root, to_root);
	if (!from)
		return !count;
	if (!count && (from & (from - 1)))
		return false;
	uint64_t fn = from - 1, sn = to - 1;
	for (; fn & 1; fn >>= 1)
		sn >>= 1;
	unsigned i = 0;
	struct ft_hash fr = *from_root;
	if (from & (from - 1))
		fr = proof[i++];
	struct ft_hash sr = fr;
	for (; i < count; i++) {
		if (!sn)
			return false;
		if (fn & 1 || fn == sn) {
			ft_hash_node(&fr, &proof[i], &fr);
			ft_hash_node(&sr, &proof[i], &sr);
			while (!(fn & 1) && fn) {
				fn >>= 1;
				sn >>= 1;
			}
		} else {
			ft_hash_node(&sr, &sr, &proof[i]);
		}
		fn >>= 1;
		sn >>= 1;
	}
	return !sn && same(&fr, from_root) && same(&sr, to_root);
}
