/* Another rulebook takes the place of the one in force. */
#ifndef FT_DATAPLANE_RELOAD_H
#define FT_DATAPLANE_RELOAD_H

#include "dataplane/rulebook.h"

/* Takes book over, also on failure. -EINVAL: it is about other guests; nothing has changed. */
int ft_gate_reload(struct ft_gate *gate, struct ft_rulebook *book, struct ft_error *err);

/* For the gate's files: the book that is in force from the beginning; frees those that nothing needs any more; all. */
void ft_reload_first(struct ft_gate *gate, struct ft_rulebook *book);
void ft_reload_tick(struct ft_gate *gate);
void ft_reload_free(struct ft_gate *gate);

/* A service that is gone and still has holds, or NULL. */
const struct ft_service *ft_reload_retired(const struct ft_gate *gate, uint8_t guest, uint8_t protocol,
					   uint16_t port);

#endif
