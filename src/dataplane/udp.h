/* Datagrams of inspected UDP services: each is inspected alone; once one was suspicious, those that follow in the same
 * flow are tried as well. */
#ifndef FT_DATAPLANE_UDP_H
#define FT_DATAPLANE_UDP_H

#include "dataplane/gate-t.h"

void ft_udp_client(struct ft_gate *gate, struct ft_guest *guest, const struct ft_service *service,
		   const struct ft_frame *frame);
bool ft_udp_guest(struct ft_gate *gate, struct ft_guest *guest, const struct ft_frame *frame);

#endif
