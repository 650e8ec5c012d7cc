/* A sink: somebody on this machine who gets the feed live, a log shipper on a unix stream socket or the syslog receiver on
 * its datagram socket. The feed file is the record; a sink is a copy that may be away, slow or stuck, and costs nobody
 * anything then.
 *
 * Who connects: the supervisor (gateway/sink.h), which sends the connected descriptor along. The ledger has its own uid,
 * which a listener's socket need not admit, and seccomp cannot look at the name in a connect(2): a ledger that may call
 * it could talk to every socket of the machine. So it can make no socket at all, and a broken one gets nothing but the
 * listeners that the operator named.
 *
 * Declared policy:
 *   - Nothing here waits. Lines that a sink does not take wait in memory, in order, up to `buffer` bytes; then new lines
 *     are lost and counted until half of the buffer is free. The first line after a loss is an `engine` line that says how
 *     many are missing there.
 *   - stream: a line that a connection took only a part of is sent again as a whole on the next one, never continued. So
 *     are lines that a reader may not have read when it went away: a line can come twice, but is not lost unseen.
 *   - datagrams: one message a line. What a receiver has in its own queue when it dies, dies with it: nobody is told.
 *   - Lines that wait when the ledger itself ends are lost to the sink; the file has them. */
#ifndef FT_LOG_SINK_H
#define FT_LOG_SINK_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "log/syslog_message.h"

struct ft_sink_config {
	const char *name; /* "socket", "syslog": for messages and people; all three borrowed */
	const char *path;
	const char *sensor;
	size_t buffer;
	bool datagrams; /* then `syslog` frames them; otherwise a line ends with a newline */
	struct ft_syslog syslog;
};

struct ft_sink_line {
	struct ft_sink_line *next;
	size_t length;
	char text[];
};

/* Invariant: first..(before waits) were handed over on this connection and may not have been read; waits.. are to be
 * handed over, `begun` bytes of the first of them have been. */
struct ft_sink {
	struct ft_sink_config config;
	int fd;    /* connected, or -1 */
	bool full; /* the socket took no more: POLLOUT says when it does again */
	struct ft_sink_line *first, *waits, **last;
	size_t begun;
	size_t unread_bytes, waiting_bytes; /* of the lines before `waits`; of those from there on */
	uint64_t unread;
	uint64_t waiting, written, shortened, lost, lost_untold;
	uint64_t again;    /* handed over, and then once more: may have been read twice */
	bool losing;       /* until half of the buffer is free */
	char trouble[160]; /* why it is not connected, "" while it is */
};

void ft_sink_open(struct ft_sink *sink, const struct ft_sink_config *config);
void ft_sink_close(struct ft_sink *sink); /* forgets what waits, closes the connection */

/* Hands line (borrowed) over or lets it wait. */
void ft_sink_write(struct ft_sink *sink, const json_t *line);

/* A new connection (taken over): what waits goes there. A connection that it has is given up. */
void ft_sink_connect(struct ft_sink *sink, int fd);

/* There is no connection for now; why: a sentence from the supervisor. */
void ft_sink_refuse(struct ft_sink *sink, const char *why);

/* For poll(2): what to wait for, and what came of it. */
short ft_sink_events(const struct ft_sink *sink);
void ft_sink_ready(struct ft_sink *sink, short events);

/* Hands over what waits as far as it goes without waiting. */
void ft_sink_pump(struct ft_sink *sink);

/* New reference: {"path", "connected", "lines", "waiting", "lost", "again" or "shortened", "trouble"} */
json_t *ft_sink_status(const struct ft_sink *sink);

#endif
