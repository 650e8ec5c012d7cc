#include "ledger/hash.h"

#include <nettle/sha2.h>
#include <string.h>

_Static_assert(FT_HASH_BYTES == SHA256_DIGEST_SIZE, "RFC 6962 with SHA-256");

void ft_hash_bytes(struct ft_hash *out, const void *data, size_t length)
{
	struct sha256_ctx context;
	sha256_init(&context);
	sha256_update(&context, length, data);
	sha256_digest(&context, FT_HASH_BYTES, out->bytes);
}

void ft_hash_leaf(struct ft_hash *out, const void *entry, size_t length)
{
	static const uint8_t prefix = 0;
	struct sha256_ctx context;
	sha256_init(&context);
	sha256_update(&context, 1, &prefix);
	sha256_update(&context, length, entry);
	sha256_digest(&context, FT_HASH_BYTES, out->bytes);
}

void ft_hash_node(struct ft_hash *out, const struct ft_hash *left, const struct ft_hash *right)
{
	uint8_t node[1 + 2 * FT_HASH_BYTES];
	struct sha256_ctx context;
	node[0] = 1;
	memcpy(node + 1, left->bytes, FT_HASH_BYTES);
	memcpy(node + 1 + FT_HASH_BYTES, right->bytes, FT_HASH_BYTES);
	sha256_init(&context);
	sha256_update(&context, sizeof(node), node);
	sha256_digest(&context, FT_HASH_BYTES, out->bytes);
}
