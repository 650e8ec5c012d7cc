/* The guests' shares of the processor, as they are configured (`cpu`, `cpu_weight`). A share that cannot be had is said, in the
 * feed and with the guest's state, and stops nothing: traffic comes first. */
#ifndef FT_GATEWAY_SHARE_H
#define FT_GATEWAY_SHARE_H

#include "gateway/supervisor.h"

/* Without a wish for a share no process is moved; with one each guest has a group, for a weight is one among others. Before
 * the first child is started. */
void ft_share_open(struct ft_supervisor *s);

/* Before the child gets its configuration, and so before its guest or a clone runs. */
void ft_share_give(struct ft_supervisor *s, struct ft_child *child);

#endif
