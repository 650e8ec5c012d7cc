/* A feed line as a message to the machine's own syslog receiver, on the datagram socket /dev/log:
 *
 *     <174>Nov 24 16:56:31 foretaste[812]: @cee: {"timestamp":...}
 *
 * The form that the C library's syslog() sends, not that of RFC 5424: it is what both usual listeners on that socket
 * parse. rsyslog's imuxsock reads it with a parser of its own and journald knows no other; an RFC 5424 header would
 * become the start of the message text in both. The receiver adds the host's name and forwards as RFC 5424 where it is
 * told to.
 *
 * A message is never longer than the limit, and always whole JSON. A longer line comes shortened: without evidence,
 * trials and input (alert.context.foretaste.shortened_from says how long it was), and if that is not enough, as an
 * `engine` line that names it. Either is counted by the caller; the feed file has the whole line. */
#ifndef FT_LOG_SYSLOG_MESSAGE_H
#define FT_LOG_SYSLOG_MESSAGE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

#define FT_SYSLOG_PATH  "/dev/log"
#define FT_SYSLOG_LEAST 1024u /* smallest limit: the `engine` line that names another always fits */

struct ft_syslog {
	int priority; /* facility and severity as one number */
	int pid;
	bool cee;     /* "@cee: " before the JSON, which tells rsyslog's mmjsonparse that it is some */
	size_t limit; /* bytes of a message */
};

/* facility and severity by their names in syslog.conf(5) ("local5", "info"). -EINVAL for an unknown name and for a
 * limit below FT_SYSLOG_LEAST. */
int ft_syslog_open(struct ft_syslog *syslog, const char *facility, const char *severity, bool cee,
		   size_t limit, struct ft_error *err);

/* The message for a line (borrowed), without a NUL: the caller's to free, *length bytes; NULL without memory.
 * *shortened: it is not the whole line. */
char *ft_syslog_message(const struct ft_syslog *syslog, const char *sensor, const json_t *line,
			size_t *length, bool *shortened);

#endif
