/* What operators change while the gateway runs: single holds. Each act is done by the dataplane, and told in the feed with
 * who did it, as the kernel knows the client of the control socket. */
#ifndef FT_GATEWAY_OPERATE_H
#define FT_GATEWAY_OPERATE_H

#include "gateway/supervisor.h"

/* Requests of the control socket. */
void ft_operate_release(struct ft_supervisor *s, uint64_t connection, json_t *request);
void ft_operate_drop(struct ft_supervisor *s, uint64_t connection, json_t *request);

/* To be called by the queries (context: the supervisor). */
void ft_operate_acted(void *context, const json_t *act, const json_t *result);

#endif
