/* Held input for a guest that does not know its connections: each TCP flow of a request is opened to it first, as its client would
 * have, and the held segments are made to fit what the guest answers. Datagrams need nothing.
 *
 * What came on such a connection before the held bytes is not there: to that guest they are the first. */
#ifndef FT_REPLAY_CONNECT_H
#define FT_REPLAY_CONNECT_H

#include "clone/outside.h"
#include "clone/request.h"
#include "vmm/machine.h"

/* m runs, with the free clock, until all are open and it is at rest. request: its flows and frames change. -ECONNREFUSED: the guest
 * refuses one; -ETIMEDOUT: it says nothing; -EIO: it cannot run. m goes on with nobody around it. */
int ft_connect_flows(struct ft_machine *m, struct ft_request *request, const struct ft_outside_config *outside, struct ft_error *err);

#endif
