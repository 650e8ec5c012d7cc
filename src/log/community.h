/* Community ID v1: one short name for a flow that other tools compute too (spec: github.com/corelight/community-id-spec),
 * so that our alerts meet their connection logs. */
#ifndef FT_LOG_COMMUNITY_H
#define FT_LOG_COMMUNITY_H

#include <stdint.h>

#define FT_COMMUNITY_TEXT 32 /* "1:", 28 characters of base64, NUL */

struct ft_community_flow {
	int family;         /* AF_INET or AF_INET6 */
	uint8_t source[16]; /* network order; IPv4 in the first four */
	uint8_t target[16];
	uint8_t protocol;
	uint16_t source_port; /* host order; ICMP: type */
	uint16_t target_port; /* ICMP: code */
};

/* seed: 0 unless a whole site agreed on another. Both directions of a flow give the same text. */
void ft_community_id(const struct ft_community_flow *flow, uint16_t seed, char text[FT_COMMUNITY_TEXT]);

#endif
