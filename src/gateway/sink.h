/* The connections of the feed's sinks: the supervisor makes them and hands them to the ledger, which can make no socket
 * itself (log/sink.h says why). The ledger says when one is broken; when the next is tried is decided here, so that not
 * even a ledger that lies makes us try more often than the back-off allows.
 *
 * Connecting to a unix socket never waits: it is done, or refused. */
#ifndef FT_GATEWAY_SINK_H
#define FT_GATEWAY_SINK_H

#include <stdbool.h>
#include <stdint.h>

#include "gateway/child.h"
#include "gateway/config.h"

#define FT_SINKS 2u

struct ft_sink_link {
	const char *name;      /* "socket", "syslog" */
	const char *path;      /* borrowed from the configuration; NULL: not configured */
	int type;              /* SOCK_STREAM, SOCK_DGRAM */
	uint64_t retry_at;     /* UINT64_MAX: nothing is to be done */
	uint64_t connected_at; /* 0: not connected */
	unsigned failures;     /* in a row */
	bool said;             /* that it cannot be connected */
};

struct ft_sinks {
	struct ft_sink_link links[FT_SINKS];
};

void ft_sinks_prepare(struct ft_sinks *sinks, const struct ft_config *config);

/* A ledger has become ready, without connections yet; or there is none any more. */
void ft_sinks_ledger(struct ft_sinks *sinks, bool ready);

/* The ledger says that a connection is broken. false: there is no such sink, or it had none. */
bool ft_sinks_lost(struct ft_sinks *sinks, const char *name);

/* Connects what is due. One sentence for the log at a time goes to say. Returns when the next is due. */
typedef void ft_sinks_say(const char *level, const char *text);
uint64_t ft_sinks_serve(struct ft_sinks *sinks, struct ft_child *ledger, ft_sinks_say *say);

#endif
