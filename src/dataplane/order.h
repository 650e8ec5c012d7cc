/* What operators change while the gate runs, as the supervisor passes it on. Who they are is the supervisor's business. */
#ifndef FT_DATAPLANE_ORDER_H
#define FT_DATAPLANE_ORDER_H

#include "dataplane/gate.h"
#include "dataplane/service.h"

/* Sentence and sysexits number of an order that was not obeyed. */
struct ft_refusal {
	int code;
	char text[256];
};

/* message: {"what": "release", ...} (gateway/protocol.md). The result, a new reference; or NULL, and nothing has changed:
 * with *refusal, or with refusal->code 0 where the gate knows no such order. */
json_t *ft_order(struct ft_gate *gate, const json_t *message, struct ft_refusal *refusal);

/* Switches a service's mode; a shadow report that ends with it goes to the feed. */
void ft_order_mode(struct ft_gate *gate, struct ft_service *service, enum ft_service_mode to);

#endif
