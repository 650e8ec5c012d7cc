/* An IP address of either family in one form, so that whoever compares, hashes or stores addresses needs no second way:
 * 16 bytes in network order, IPv4 as ::ffff:a.b.c.d (RFC 4291 2.5.5.2). That form never comes from the wire: parsers refuse
 * IPv6 packets that carry it, or an IPv6 packet could claim an IPv4 connection's name. */
#ifndef FT_BASE_ADDRESS_H
#define FT_BASE_ADDRESS_H

#include <arpa/inet.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

struct ft_address {
	uint8_t bytes[16];
};

static const uint8_t ft_address_mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

/* four: as on the wire. */
static inline struct ft_address ft_address_v4(const void *four)
{
	struct ft_address address;
	memcpy(address.bytes, ft_address_mapped, 12);
	memcpy(address.bytes + 12, four, 4);
	return address;
}

static inline struct ft_address ft_address_v6(const void *sixteen)
{
	struct ft_address address;
	memcpy(address.bytes, sixteen, 16);
	return address;
}

static inline bool ft_address_is_v4(const struct ft_address *address)
{
	return !memcmp(address->bytes, ft_address_mapped, 12);
}

static inline bool ft_address_same(const struct ft_address *a, const struct ft_address *b)
{
	return !memcmp(a->bytes, b->bytes, 16);
}

/* text: at least INET6_ADDRSTRLEN. Returns it. */
static inline const char *ft_address_text(const struct ft_address *address, char *text)
{
	bool four = ft_address_is_v4(address);
	return inet_ntop(four ? AF_INET : AF_INET6, address->bytes + (four ? 12 : 0), text, INET6_ADDRSTRLEN);
}

#endif
