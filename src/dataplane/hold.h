/* What is done with holds. The invariant that this file keeps: a held frame reaches the live guest only from a hold
 * whose trial took exactly its frames, in order, or because the service's policy says so; and then exactly once. Holds that were
 * tried together are released together: all that one run took, in its order, and no held frame of others in between.
 *
 * A flow has at most two holds: the one being tried, and one that collects what comes meanwhile. Nothing joins a hold
 * while it is tried; one whose group test decided nothing about it waits again, and may gather more. */
#ifndef FT_DATAPLANE_HOLD_H
#define FT_DATAPLANE_HOLD_H

#include "base/event.h"
#include "dataplane/gate-t.h"

/* Would a frame of this length still fit the hold that the flow's next frame joins? 0, or the reason why not. */
enum ft_reason ft_hold_refuses(struct ft_gate *gate, const struct ft_flow *flow,
			       const struct ft_frame *frame);

/* Would ft_hold_refuses, called for this frame now, find a reason? Counts nothing. */
bool ft_hold_takes(const struct ft_gate *gate, const struct ft_flow *flow, const struct ft_frame *frame);

/* Is there a hold that the flow's next frame joins? */
bool ft_hold_collects(const struct ft_flow *flow);

/* Adds a frame to the hold that collects, opening one with this trigger if there is none. fresh: payload offset of its
 * first new byte. 0, or -ENOMEM (nothing changed). For TCP before ft_stream_admit.
 *
 * No byte may be in one hold in two versions: which of them a guest takes can depend on what only the live guest has sent
 * by the time of the release (an acknowledgement ahead of the clone is none ahead of it), so a clone of one version would
 * speak for the other. So a frame that joins has fresh 0: what it repeats was cut off. */
int ft_hold_join(struct ft_gate *gate, struct ft_flow *flow, const struct ft_frame *frame, uint32_t fresh,
		 const struct ft_trigger *trigger);

/* A service that only observes: asks for a trial of this one frame, which is about to go on. */
void ft_hold_observe(struct ft_gate *gate, struct ft_flow *flow, const struct ft_frame *frame, uint32_t fresh,
		     const struct ft_trigger *trigger);

/* An event of a trial of this guest (event->trial is not 0). */
void ft_hold_event(struct ft_gate *gate, struct ft_guest *guest, struct ft_event *event, const char *const *strings);

/* What time and room bring. Sets gate->holds.due. */
void ft_holds_tick(struct ft_gate *gate);

/* Ends all holds of the guest, by policy. gone: there is nobody to release to any more. */
void ft_holds_end(struct ft_gate *gate, struct ft_guest *guest, bool gone, const char *why);

/* Both ends of a TCP flow get a reset; nothing of it passes any more. */
void ft_flow_kill(struct ft_gate *gate, struct ft_flow *flow);

/* An operator decides on an open hold, whose trial is given up. 0; -ENOENT: there is no such hold that keeps something back;
 * -EBUSY: it waits behind another one of its connection, *before. */
int ft_hold_order(struct ft_gate *gate, uint64_t id, bool release, uint64_t *before);

/* Releases what is held for services that are bypassed. How many holds that were. */
unsigned ft_holds_bypass(struct ft_gate *gate);

json_t *ft_holds_list(const struct ft_gate *gate);

#endif
