/* TCP segments without payload of our own making, from what is known of a connection: resets, acknowledgements. Pure
 * functions. */
#ifndef FT_DATAPLANE_MADE_H
#define FT_DATAPLANE_MADE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "dataplane/frame.h"

struct ft_flow;

#define FT_MADE_OPTIONS 40u /* most bytes of TCP options: the header's length is 4 bits, of 32-bit words */
#define FT_MADE_LENGTH  (FT_ETHERNET_MOST + 40u + 20u + FT_MADE_OPTIONS) /* at most: Ethernet with tags, IPv6, TCP */

struct ft_made {
	const uint8_t *ethernet; /* header of a frame of this connection, tags included ... */
	size_t ethernet_length;
	bool turn; /* ... that went the other way */
	struct ft_address source, destination;
	uint16_t source_port, destination_port;
	uint32_t sequence;        /* of a reset: exactly what the receiver expects next (RFC 5961 section 3) */
	uint32_t acknowledgement; /* what it has sent, as far as we know */
	uint8_t flags;
	uint16_t window;
	const uint8_t *options;
	size_t options_length; /* a multiple of 4, at most FT_MADE_OPTIONS */
};

/* Addresses and ports of a segment of this connection, to its client or to the guest; the rest is zero. */
struct ft_made ft_made_of(const struct ft_flow *flow, bool to_client);

/* Builds the frame, IPv4 or IPv6 as the addresses are; returns its length. */
size_t ft_made_build(const struct ft_made *made, uint8_t to[FT_MADE_LENGTH]);

/* The answer to a segment of a connection that is no more: a reset with the number that the segment acknowledges,
 * which is what its sender expects (RFC 9293 3.10.7.1). Returns 0 for segments that must not be answered (resets,
 * segments that acknowledge nothing). */
size_t ft_made_reset(const struct ft_frame *frame, uint8_t to[FT_MADE_LENGTH]);

#endif
