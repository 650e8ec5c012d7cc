/* `foretaste feed`: the feed file's last lines as a table, and what is added to it from then on. */
#ifndef FT_CLI_FEED_H
#define FT_CLI_FEED_H

#include <stdbool.h>
#include <stdio.h>

#include "base/error.h"

/* Prints the last `last` verdicts and events in path (json: the last lines, as they are). follow: goes on until the
 * output or the process ends; a feed that was rotated or cut is read again from its start. 0 or a sysexits number. */
int ft_feed_print(FILE *out, const char *path, unsigned last, bool json, bool follow, struct ft_error *err);

#endif
