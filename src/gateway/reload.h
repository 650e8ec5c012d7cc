/* Reloading the configuration and reopening logs while the gateway runs, by request or by signal (SIGHUP, SIGUSR1).
 *
 * A reload is all or nothing: the new file is read, checked against everything that `foretaste check` looks at, and against
 * what can change at run time; then the dataplane makes its part ready beside the old one and puts it in force between two
 * frames; only then is it the gateway's configuration. A file that is wrong changes nothing and is told by its line. What
 * operators switched (modes, bypass, suppressions) stays switched. */
#ifndef FT_GATEWAY_RELOAD_H
#define FT_GATEWAY_RELOAD_H

#include "gateway/supervisor.h"

/* The first key that differs and cannot change while the gateway runs: -EINVAL with its place in `to`. 0: there is none. */
int ft_reload_check(const struct ft_config *from, const struct ft_config *to, struct ft_error *err);

/* Requests of the control socket. */
void ft_reload_request(struct ft_supervisor *s, uint64_t connection, json_t *request);
void ft_reopen_request(struct ft_supervisor *s, uint64_t connection, json_t *request);

void ft_reload_signal(struct ft_supervisor *s); /* SIGHUP */
void ft_reopen_signal(struct ft_supervisor *s); /* SIGUSR1 */

/* The dataplane has the new part in force, or says why not (code: sysexits number, 0: done). */
void ft_reload_acted(struct ft_supervisor *s, const json_t *act, int code, const char *error);

#endif
