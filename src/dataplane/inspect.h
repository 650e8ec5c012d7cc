/* Protocol inspection with nDPI: looks at the start of a flow, both ways, and reports risks. One module per thread. */
#ifndef FT_DATAPLANE_INSPECT_H
#define FT_DATAPLANE_INSPECT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define FT_INSPECT_PACKETS                                                                                   \
	8u /* payload packets of a flow that are looked at; nDPI has made up its mind by then */

struct ft_inspect;
struct ndpi_flow_struct;

/* One flow's inspection; zeroed at the start of the flow. */
struct ft_inspect_flow {
	struct ndpi_flow_struct *state;
	uint64_t risks; /* seen so far, a bit each */
	uint8_t packets;
};

int ft_inspect_new(struct ft_inspect **inspect, struct ft_error *err);
void ft_inspect_free(struct ft_inspect *inspect);

/* Looks at one IPv4 or IPv6 packet (from its IP header). *risks: those that this packet added. False: it has seen enough, and
 * must not be given more of this flow. */
bool ft_inspect_packet(struct ft_inspect *inspect, struct ft_inspect_flow *flow, const void *packet,
		       size_t length, uint64_t now_ms, uint64_t *risks);
void ft_inspect_end(struct ft_inspect_flow *flow);

#endif
