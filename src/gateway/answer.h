/* What the control socket's requests mean. The table of them is in answer.c. */
#ifndef FT_GATEWAY_ANSWER_H
#define FT_GATEWAY_ANSWER_H

#include <jansson.h>
#include <stdint.h>

#include "gateway/supervisor.h"

/* A struct ft_control's request callback; context is the struct ft_supervisor. */
void ft_answer_request(void *context, uint64_t connection, json_t *request);
void ft_answer_closed(void *context, uint64_t connection); /* its callback for clients that have gone */

/* Asks one child, whose answer is the client's. message is taken over. NULL: the client has been told why not. */
struct ft_query *ft_answer_ask(struct ft_supervisor *s, uint64_t connection, json_t *request,
			       enum ft_child_kind kind, json_t *message);

#endif
