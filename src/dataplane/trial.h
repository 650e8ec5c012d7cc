/* What the vmm is asked over the link's command ring (base/trial.h). */
#ifndef FT_DATAPLANE_TRIAL_H
#define FT_DATAPLANE_TRIAL_H

#include "dataplane/gate-t.h"

/* Hands over as much of the hold as there is room for. 0 when all is there, -EAGAIN when the ring is full (call
 * again), -EPROTO when the link is dead. */
int ft_trial_send(struct ft_gate *gate, struct ft_hold *hold);

/* Asks for the twin, or says that the seed is no longer needed. 0 or -errno. */
int ft_trial_twin(struct ft_hold *hold, uint64_t until_vtime_ns);
int ft_trial_finish(struct ft_hold *hold);

#endif
