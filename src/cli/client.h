/* The command line's end of the control socket: one request, one answer. */
#ifndef FT_CLI_CLIENT_H
#define FT_CLI_CLIENT_H

#include <jansson.h>

#include "base/error.h"

/* Asks the gateway at path; request (taken over) is {"what": ..., ...}. 0 with a new reference in *result, or a
 * sysexits number with a sentence in err. */
int ft_client_ask(const char *path, json_t *request, json_t **result, struct ft_error *err);

/* How long the next questions may take, where ten seconds are too few. */
void ft_client_patience(unsigned seconds);

#endif
