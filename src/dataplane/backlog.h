/* Records on their way to the ledger. Its socket does not block and holds what fits: packets, by far the most of it, are lost
 * where it is full, but a verdict or an event waits here, in order, until there is room. One thread. */
#ifndef FT_DATAPLANE_BACKLOG_H
#define FT_DATAPLANE_BACKLOG_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#define FT_BACKLOG_MOST 4096u /* records that wait */

struct ft_backlog {
	int fd;
	json_t *waiting; /* array */
	uint64_t lost;
};

/* fd stays the caller's. 0 or -ENOMEM. */
int ft_backlog_open(struct ft_backlog *backlog, int fd);
void ft_backlog_close(struct ft_backlog *backlog);

/* record is borrowed and must not be changed afterwards. 0: sent, or waits; -errno: lost, and counted. */
int ft_backlog_send(struct ft_backlog *backlog, json_t *record);

/* Sends what waits, as far as there is room now. */
void ft_backlog_flush(struct ft_backlog *backlog);

static inline bool ft_backlog_waits(const struct ft_backlog *backlog)
{
	return json_array_size(backlog->waiting) > 0;
}

#endif
