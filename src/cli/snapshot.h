/* `foretaste snapshot`: what the control socket knows of snapshots, and reading one through. */
#ifndef FT_CLI_SNAPSHOT_H
#define FT_CLI_SNAPSHOT_H

#include <jansson.h>
#include <stdbool.h>

#include "base/error.h"

struct ft_cli_snapshot {
	/* Asks the gateway; a sysexits number. request is taken over, *result is the caller's. */
	int (*ask)(const void *context, json_t *request, json_t **result, struct ft_error *err);
	const void *context;
	bool json, attach;
	const char *key; /* file with the operator's key, NULL: the gateway knows it */
};

/* words: what stands behind the command, at least one. */
int ft_cli_snapshot(const struct ft_cli_snapshot *c, char **words, int count, struct ft_error *err);

#endif
