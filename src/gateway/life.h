/* The life of a child of the supervisor: it is started and given what it needs, gets ready and its links, is stopped, dies,
 * and is replaced, or left down where that is the guest's policy or an operator's wish. */
#ifndef FT_GATEWAY_LIFE_H
#define FT_GATEWAY_LIFE_H

#include "gateway/supervisor.h"

void ft_life_start(struct ft_supervisor *s, struct ft_child *child); /* one that is down */
void ft_life_stop(struct ft_child *child);                          /* one that is not */

/* It says that it is prepared. */
void ft_life_ready(struct ft_supervisor *s, struct ft_child *child);

/* A vmm and the dataplane, when both are ready, get the ends of a new link; of an isolated guest the dataplane is told that. */
void ft_life_link(struct ft_supervisor *s, struct ft_child *vmm);

/* Its process has been reaped, with this status of wait(2). */
void ft_life_died(struct ft_supervisor *s, struct ft_child *child, int status);

/* Kills the vmm of a guest that hangs (ft_canaries_hung), so that it is replaced; the others stay. A guest that hangs again and
 * again is left hanging for a time that doubles, and one whose policy is never to be restarted is left as it is, for whoever
 * wants to look at it. Returns when to ask again if nothing else happens. */
uint64_t ft_life_unhang(struct ft_supervisor *s, struct ft_child *vmm, uint64_t now);

/* The guest takes no packets from now on. */
void ft_life_guest_down(struct ft_supervisor *s, const struct ft_child *vmm, const char *why);

#endif
