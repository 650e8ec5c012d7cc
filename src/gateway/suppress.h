/* Suppressions as operators make, list and remove them. They are kept in the file `suppressions` of the state directory, so
 * that they outlive any process; the dataplane gets all of them at each change and when it starts. Each has an author, a
 * comment and an end, which is told in the feed as its making is. */
#ifndef FT_GATEWAY_SUPPRESS_H
#define FT_GATEWAY_SUPPRESS_H

#include "gateway/supervisor.h"

/* Reads the file; a missing one is empty, a damaged one an error (what was suppressed must not come back unseen). */
int ft_suppress_open(struct ft_supervisor *s, struct ft_error *err);
void ft_suppress_close(struct ft_supervisor *s);

/* Those in force, for the dataplane's configuration; borrowed. */
json_t *ft_suppress_list(const struct ft_supervisor *s);

/* Ends those whose time is over. Returns when to call again (ft_loop_now's clock). */
uint64_t ft_suppress_expire(struct ft_supervisor *s, uint64_t now);

/* Requests of the control socket: suppress {sid, network, service: at least one; for: duration; comment},
 * unsuppress {suppression}, suppressions. */
void ft_suppress_add(struct ft_supervisor *s, uint64_t connection, json_t *request);
void ft_suppress_remove(struct ft_supervisor *s, uint64_t connection, json_t *request);
void ft_suppress_show(struct ft_supervisor *s, uint64_t connection, json_t *request);

#endif
