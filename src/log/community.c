#include "log/community.h"

#include <nettle/base64.h>
#include <nettle/sha1.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>

/* ICMP messages that ask, and those that answer: the answer's type takes the place of a port. */
struct pair {
	uint8_t asks, answers;
};

static const struct pair icmp4[] = {{8, 0}, {13, 14}, {15, 16}, {17, 18}, {10, 9}};
static const struct pair icmp6[] = {{128, 129}, {130, 131}, {133, 134}, {135, 136}, {139, 140}, {144, 145}};

static bool counterpart(const struct pair *pairs, size_t count, uint16_t type, uint16_t *other)
{
	for (size_t i = 0; i < count; i++) {
		if (pairs[i].asks == type || pairs[i].answers == type) {
			*other = pairs[i].asks == type ? pairs[i].answers : pairs[i].asks;
			return true;
		}
	}
	return false;
}

static bool has_ports(uint8_t protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_SCTP ||
	       protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMPV6;
}

static void put16(struct sha1_ctx *sha, uint16_t value)
{
	uint8_t bytes[2] = {(uint8_t)(value >> 8), (uint8_t)value};
	sha1_update(sha, sizeof(bytes), bytes);
}

void ft_community_id(const struct ft_community_flow *flow, uint16_t seed, char text[FT_COMMUNITY_TEXT])
{
	size_t size = flow->family == AF_INET ? 4 : 16;
	uint16_t from = flow->source_port, to = flow->target_port;
	bool one_way = false;
	if (flow->protocol == IPPROTO_ICMP)
		one_way = !counterpart(icmp4, sizeof(icmp4) / sizeof(*icmp4), from, &to);
	else if (flow->protocol == IPPROTO_ICMPV6)
		one_way = !counterpart(icmp6, sizeof(icmp6) / sizeof(*icmp6), from, &to);

	const uint8_t *first = flow->source, *second = flow->target;
	int order = memcmp(first, second, size);
	if (!one_way && (order > 0 || (order == 0 && from > to))) {
		first = flow->target;
		second = flow->source;
		uint16_t swap = from;
		from = to;
		to = swap;
	}

	struct sha1_ctx sha;
	sha1_init(&sha);
	put16(&sha, seed);
	sha1_update(&sha, size, first);
	sha1_update(&sha, size, second);
	const uint8_t protocol[2] = {flow->protocol, 0}; /* the second byte is padding in the spec */
	sha1_update(&sha, sizeof(protocol), protocol);
	if (has_ports(flow->protocol)) {
		put16(&sha, from);
		put16(&sha, to);
	}
	uint8_t digest[SHA1_DIGEST_SIZE];
	sha1_digest(&sha, sizeof(digest), digest);
	memcpy(text, "1:", 2);
	base64_encode_raw(text + 2, sizeof(digest), digest);
	text[2 + BASE64_ENCODE_RAW_LENGTH(SHA1_DIGEST_SIZE)] = 0;
}
