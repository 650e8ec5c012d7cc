/* Segments of inspected TCP services. Bytes reach the guest in order only, each version of a byte at most one way:
 * directly after inspection, or through a hold. */
#ifndef FT_DATAPLANE_TCP_H
#define FT_DATAPLANE_TCP_H

#include "dataplane/gate-t.h"

/* A segment from the client to the guest's service: passed, held or dropped here. Its checksum is right. */
void ft_tcp_client(struct ft_gate *gate, struct ft_guest *guest, const struct ft_service *service,
		   const struct ft_frame *frame);

/* To be called when something has changed for a flow with early segments (dataplane/early.h): those whose turn has come go their
 * way, and the client is told of the others. */
void ft_tcp_resume(struct ft_gate *gate, struct ft_flow *flow);

/* A segment from the guest. True: send it on. */
bool ft_tcp_guest(struct ft_gate *gate, struct ft_guest *guest, const struct ft_frame *frame);

#endif
