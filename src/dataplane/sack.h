/* The duplicate acknowledgement that a receiver sends for each segment that comes early (RFC 5681 section 3.2), made by the gate,
 * because the guest does not see such segments: what the guest said last, again, and where both ends permit it which numbers
 * have come (RFC 2018). It never acknowledges more than the guest did. */
#ifndef FT_DATAPLANE_SACK_H
#define FT_DATAPLANE_SACK_H

#include <stddef.h>
#include <stdint.h>

struct ft_gate;
struct ft_flow;

/* Most that fit behind a timestamp, and without one. */
#define FT_SACK_BLOCKS 4u

struct ft_sack_block {
	uint32_t start, end; /* numbers: the first, and behind the last */
};

/* The blocks of what came early, the one with the latest segment first, then as recent ones as possible. Returns how many,
 * at most `most`. */
unsigned ft_sack_blocks(const struct ft_flow *flow, unsigned most, struct ft_sack_block to[FT_SACK_BLOCKS]);

/* Sends one to the client of a flow with early segments. Nothing is sent where the guest has said too little. */
void ft_sack_send(struct ft_gate *gate, struct ft_flow *flow);

#endif
