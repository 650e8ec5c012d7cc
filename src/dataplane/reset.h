/* TCP resets that an end accepts: RFC 5961 wants exactly the sequence number it expects next. Pure functions. */
#ifndef FT_DATAPLANE_RESET_H
#define FT_DATAPLANE_RESET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "dataplane/frame.h"

#define FT_RESET_LENGTH (FT_ETHERNET_MOST + 40u + 20u) /* at most: Ethernet with tags, IPv6, TCP without options */

struct ft_reset {
	const uint8_t *ethernet; /* header of a frame of this connection, tags included ... */
	size_t ethernet_length;
	bool turn; /* ... that went the other way */
	struct ft_address source, destination;
	uint16_t source_port, destination_port;
	uint32_t sequence;        /* what the receiver expects next */
	uint32_t acknowledgement; /* what it has sent, as far as we know */
};

/* Builds the frame, IPv4 or IPv6 as the addresses are; returns its length. */
size_t ft_reset_build(const struct ft_reset *reset, uint8_t to[FT_RESET_LENGTH]);

/* The answer to a segment of a connection that is no more: a reset with the number that the segment acknowledges,
 * which is what its sender expects (RFC 9293 3.10.7.1). Returns 0 for segments that must not be answered (resets,
 * segments that acknowledge nothing). */
size_t ft_reset_answer(const struct ft_frame *frame, uint8_t to[FT_RESET_LENGTH]);

#endif
