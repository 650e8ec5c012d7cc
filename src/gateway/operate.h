/* What operators change while the gateway runs: single holds, modes of services, and whether there is inspection at all. Each act is done by the dataplane, and told in the feed with
 * who did it, as the kernel knows the client of the control socket. */
#ifndef FT_GATEWAY_OPERATE_H
#define FT_GATEWAY_OPERATE_H

#include "gateway/supervisor.h"

/* Requests of the control socket. */
void ft_operate_release(struct ft_supervisor *s, uint64_t connection, json_t *request);
void ft_operate_drop(struct ft_supervisor *s, uint64_t connection, json_t *request);

void ft_operate_mode(struct ft_supervisor *s, uint64_t connection, json_t *request);
void ft_operate_shadow(struct ft_supervisor *s, uint64_t connection, json_t *request);
void ft_operate_bypass(struct ft_supervisor *s, uint64_t connection, json_t *request);

/* Puts what was switched into the dataplane's part of the configuration, for a dataplane process that starts anew. */
void ft_operate_patch(const struct ft_supervisor *s, json_t *part);

/* {"all": true, "services": [names]}: what is not inspected; NULL when everything is. A new reference. */
json_t *ft_operate_bypassed(const struct ft_supervisor *s);

/* To be called by the queries (context: the supervisor). */
void ft_operate_acted(void *context, const json_t *act, int code, const char *error);

#endif
