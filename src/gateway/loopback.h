/* "127.0.0.1:9469": where something listens that is for this machine alone. */
#ifndef FT_GATEWAY_LOOPBACK_H
#define FT_GATEWAY_LOOPBACK_H

#include <netinet/in.h>

#include "base/error.h"

/* IPv4 only: the service's unit has no other family, and localhost is 127.0.0.1 everywhere. 0, or -EINVAL with what was
 * expected. */
int ft_loopback_parse(const char *where, struct sockaddr_in *address, struct ft_error *err);

#endif
