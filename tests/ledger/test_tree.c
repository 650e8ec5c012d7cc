/* The tree against RFC 6962: roots of the eight test leaves that certificate transparency logs use, computed apart with
 * Python's hashlib (tests/ledger/check_log.py has the same function); the proofs of the RFC's own example tree of seven leaves,
 * node by node (sections 2.1.1, 2.1.2 and 2.1.3); and every proof of small trees against the verifier. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sodium.h>
#include <cmocka.h>

#include "ledger/tree.h"
#include "verify/merkle.h"

#define MOST 70u

/* Complete subtrees as a store of tiles would have them. */
struct nodes {
	struct ft_hash at[8][MOST];
	unsigned count[8];
};

static void remember(void *context, unsigned height, const struct ft_hash *root)
{
	struct nodes *n = context;
	n->at[height][n->count[height]++] = *root;
}

static int read_node(void *context, unsigned height, uint64_t index, struct ft_hash *root)
{
	struct nodes *n = context;
	if (height > 7 || index >= n->count[height])
		return -ENOENT;
	*root = n->at[height][index];
	return 0;
}

static struct ft_hash unhex(const char *hex)
{
	struct ft_hash h;
	size_t n;
	assert_int_equal(sodium_hex2bin(h.bytes, 32, hex, 64, NULL, &n, NULL), 0);
	assert_int_equal(n, 32);
	return h;
}

static const struct {
	const char *bytes;
	size_t length;
} leaves[] = {{"", 0},		     {"\x00", 1},	       {"\x10", 1},		 {"\x20\x21", 2},
	      {"\x30\x31", 2}, {"\x40\x41\x42\x43", 4}, {"\x50\x51\x52\x53\x54\x55\x56\x57", 8},
	      {"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f", 16}};

static const char *const roots[] = {
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
};

static void roots_are_those_of_the_rfc(void **state)
{
	struct ft_tree tree = {0};
	struct ft_fold fold = {0};
	for (unsigned i = 0; i <= 8; i++) {
		struct ft_hash root, expected = unhex(roots[i]), leaf, completed[64];
		ft_tree_root(&tree, &root);
		assert_memory_equal(&root, &expected, 32);
		root = ft_fold_root(&fold);
		assert_memory_equal(&root, &expected, 32);
		if (i == 8)
			break;
		ft_hash_leaf(&leaf, leaves[i].bytes, leaves[i].length);
		/* The same by hand, with the other library: 0x00 and the entry. */
		uint8_t bytes[17] = {0}, hash[32];
		memcpy(bytes + 1, leaves[i].bytes, leaves[i].length);
		crypto_hash_sha256(hash, bytes, leaves[i].length + 1);
		assert_memory_equal(&leaf, hash, 32);
		ft_tree_append(&tree, &leaf, NULL, NULL);
		ft_fold_leaf(&fold, &leaf, completed);
	}
}

static void expect(const struct ft_hash *proof, unsigned count, const struct ft_hash *const *nodes, unsigned expected)
{
	assert_int_equal(count, expected);
	for (unsigned i = 0; i < count; i++)
		assert_memory_equal(&proof[i], nodes[i], 32);
}

/* RFC 6962, section 2.1.3: a..f and j are leaves d0..d6, g = ab, h = cd, i = ef, k = gh, and hash = k(ij). */
static void proofs_are_those_of_the_rfc(void **state)
{
	struct ft_hash d[7], g, h, i, k, l, proof[FT_TREE_PROOF];
	struct nodes nodes = {0};
	struct ft_tree tree = {0};
	unsigned n;
	for (unsigned x = 0; x < 7; x++) {
		ft_hash_leaf(&d[x], &x, sizeof(x));
		ft_tree_append(&tree, &d[x], remember, &nodes);
	}
	ft_hash_node(&g, &d[0], &d[1]);
	ft_hash_node(&h, &d[2], &d[3]);
	ft_hash_node(&i, &d[4], &d[5]);
	ft_hash_node(&k, &g, &h);
	ft_hash_node(&l, &i, &d[6]);
	/* The audit path for d0 is [b, h, l]; for d3 [c, g, l]; for d4 [f, j, k]; for d6 [i, k]. */
	assert_int_equal(ft_tree_inclusion(0, 7, read_node, &nodes, proof, &n), 0);
	expect(proof, n, (const struct ft_hash *[]){&d[1], &h, &l}, 3);
	assert_int_equal(ft_tree_inclusion(3, 7, read_node, &nodes, proof, &n), 0);
	expect(proof, n, (const struct ft_hash *[]){&d[2], &g, &l}, 3);
	assert_int_equal(ft_tree_inclusion(4, 7, read_node, &nodes, proof, &n), 0);
	expect(proof, n, (const struct ft_hash *[]){&d[5], &d[6], &k}, 3);
	assert_int_equal(ft_tree_inclusion(6, 7, read_node, &nodes, proof, &n), 0);
	expect(proof, n, (const struct ft_hash *[]){&i, &k}, 2);
	/* PROOF(3, D[7]) = [c, d, g, l]; PROOF(4, D[7]) = [l]; PROOF(6, D[7]) = [i, j, k]. */
	assert_int_equal(ft_tree_consistency(3, 7, read_node, &nodes, proof, &n), 0);
	expect(proof, n, (const struct ft_hash *[]){&d[2], &d[3], &g, &l}, 4);
	assert_int_equal(ft_tree_consistency(4, 7, read_node, &nodes, proof, &n), 0);
	expect(proof, n, (const struct ft_hash *[]){&l}, 1);
	assert_int_equal(ft_tree_consistency(6, 7, read_node, &nodes, proof, &n), 0);
	expect(proof, n, (const struct ft_hash *[]){&i, &d[6], &k}, 3);
}

/* Each proof of each tree holds, and not a bit, a node, an index or a size may be different. */
static void every_proof_of_small_trees_holds(void **state)
{
	struct ft_hash leaf[MOST], root[MOST + 1], proof[FT_TREE_PROOF];
	struct nodes nodes = {0};
	struct ft_tree tree = {0};
	unsigned n;
	ft_tree_root(&tree, &root[0]);
	for (unsigned x = 0; x < MOST; x++) {
		ft_hash_leaf(&leaf[x], &x, sizeof(x));
		ft_tree_append(&tree, &leaf[x], remember, &nodes);
		ft_tree_root(&tree, &root[x + 1]);
	}
	for (unsigned size = 1; size <= MOST; size++) {
		struct ft_tree loaded;
		struct ft_hash again;
		assert_int_equal(ft_tree_load(&loaded, size, read_node, &nodes), 0);
		ft_tree_root(&loaded, &again);
		assert_memory_equal(&again, &root[size], 32);
		for (unsigned i = 0; i < size; i++) {
			assert_int_equal(ft_tree_inclusion(i, size, read_node, &nodes, proof, &n), 0);
			assert_true(ft_check_inclusion(i, size, &leaf[i], proof, n, &root[size]));
			assert_false(ft_check_inclusion(i + 1, size, &leaf[i], proof, n, &root[size]));
			assert_false(ft_check_inclusion(i, size, &leaf[(i + 1) % MOST], proof, n, &root[size]));
			if (n) {
				assert_false(ft_check_inclusion(i, size, &leaf[i], proof, n - 1, &root[size]));
				proof[n] = proof[0];
				assert_false(ft_check_inclusion(i, size, &leaf[i], proof, n + 1, &root[size]));
				proof[i % n].bytes[i % 32] ^= 4;
				assert_false(ft_check_inclusion(i, size, &leaf[i], proof, n, &root[size]));
			}
		}
		for (unsigned from = 1; from <= size; from++) {
			assert_int_equal(ft_tree_consistency(from, size, read_node, &nodes, proof, &n), 0);
			assert_true(ft_check_consistency(from, size, &root[from], &root[size], proof, n));
			assert_false(ft_check_consistency(from, size, &root[from - 1], &root[size], proof, n));
			if (from < size) {
				assert_false(ft_check_consistency(from, size, &root[from], &root[from], proof, n));
				proof[from % n].bytes[3] ^= 1;
				assert_false(ft_check_consistency(from, size, &root[from], &root[size], proof, n));
			}
		}
	}
	assert_int_equal(ft_tree_inclusion(5, 5, read_node, &nodes, proof, &n), -EINVAL);
	assert_int_equal(ft_tree_consistency(6, 5, read_node, &nodes, proof, &n), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(roots_are_those_of_the_rfc),
	    cmocka_unit_test(proofs_are_those_of_the_rfc),
	    cmocka_unit_test(every_proof_of_small_trees_holds),
	};
	return sodium_init() < 0 ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
