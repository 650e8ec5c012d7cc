/* Why a packet would be held: the pattern rules, nDPI's risks, `screen: all`. */
#ifndef FT_DATAPLANE_TRIGGER_H
#define FT_DATAPLANE_TRIGGER_H

#include "dataplane/gate-t.h"

/* Looks at a client's packet whose payload from offset fresh on is new. 1: *trigger says why to hold it; 0: nothing
 * suspicious; -ENOMEM: it could not be looked at, so it must not pass. */
int ft_trigger_client(struct ft_gate *gate, struct ft_flow *flow, const struct ft_frame *frame,
		      uint32_t fresh, struct ft_trigger *trigger);

/* Lets protocol inspection see the guest's side. */
void ft_trigger_guest(struct ft_gate *gate, struct ft_flow *flow, const struct ft_frame *frame);

/* Does nothing more of this flow need to be looked at? */
bool ft_trigger_settled(const struct ft_flow *flow);

#endif
