/* What children say: messages on their channels, which are checked here and passed to who is concerned, and lines on standard
 * error, which go to the log. A child is not believed: what makes no sense costs it a line in the log, what is no message its
 * life, and nobody else anything. */
#ifndef FT_GATEWAY_HEARING_H
#define FT_GATEWAY_HEARING_H

#include "gateway/supervisor.h"

/* The loop's callbacks for a child (context) whose channel, or whose output, has something. */
void ft_hearing_message(void *context, uint32_t events);
void ft_hearing_output(void *context, uint32_t events);

/* The child is dead; its last messages and words are still in the sockets. Bounded: it may have filled them. */
void ft_hearing_last(struct ft_supervisor *s, struct ft_child *child);

#endif
