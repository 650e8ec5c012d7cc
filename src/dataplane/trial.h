/* The words of which a request to the vmm is made (base/trial.h), each put into the link's command ring. All return 0, -EAGAIN
 * when the ring has no room for it, or -EPROTO when the link is dead. */
#ifndef FT_DATAPLANE_TRIAL_H
#define FT_DATAPLANE_TRIAL_H

#include "dataplane/gate-t.h"

int ft_trial_begin(struct ft_gate *gate, const struct ft_batch *batch);
int ft_trial_flow(const struct ft_batch *batch, const struct ft_hold *hold);
/* The clone gets the very frames that a release gives to the live guest: one that is cut for it, piece by piece. */
int ft_trial_frame(struct ft_gate *gate, const struct ft_batch *batch, const struct ft_held *held, uint32_t piece);
int ft_trial_go(const struct ft_batch *batch);
/* flows: members whose frames the run gets, the first ones; 0: the twin, until then. */
int ft_trial_run(const struct ft_batch *batch, unsigned flows, uint64_t until_vtime_ns);
/* Before that, where batch->keep says so. */
int ft_trial_keep(const struct ft_batch *batch);
int ft_trial_finish(const struct ft_batch *batch);

#endif
