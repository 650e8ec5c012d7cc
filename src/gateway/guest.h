/* Guests as operators see them: their settings, what the control socket says of them, and starting and stopping one
 * while the others go on. Each such act is an event of the feed that says who did it. */
#ifndef FT_GATEWAY_GUEST_H
#define FT_GATEWAY_GUEST_H

#include "gateway/supervisor.h"

/* Takes restart policy, back-off and processor share of a vmm's guest from the configuration. */
void ft_guest_settings(const struct ft_config *config, struct ft_child *vmm);

json_t *ft_guest_json(const struct ft_supervisor *s, const struct ft_child *vmm);

/* The guest that a request names, when the gateway runs; NULL: the client has been told. */
struct ft_child *ft_guest_named(struct ft_supervisor *s, uint64_t connection, const json_t *request);

/* Requests of the control socket: guest-start, guest-stop, guest-restart, guest-console, each with "guest". They answer
 * with the guest's state, "stopping" where it takes a while. */
void ft_guest_start(struct ft_supervisor *s, uint64_t connection, json_t *request);
void ft_guest_stop(struct ft_supervisor *s, uint64_t connection, json_t *request);
void ft_guest_restart(struct ft_supervisor *s, uint64_t connection, json_t *request);
void ft_guest_console(struct ft_supervisor *s, uint64_t connection, json_t *request);

#endif
