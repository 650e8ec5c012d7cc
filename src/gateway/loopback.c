#include "gateway/loopback.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

int ft_loopback_parse(const char *where, struct sockaddr_in *address, struct ft_error *err)
{
	char host[INET_ADDRSTRLEN];
	const char *colon = strrchr(where, ':'), *port = colon ? colon + 1 : "";
	size_t length = colon ? (size_t)(colon - where) : strlen(where), digits = strspn(port, "0123456789");
	long number = strtol(port, NULL, 10);
	*address = (struct sockaddr_in){.sin_family = AF_INET};
	if (length < sizeof(host)) {
		memcpy(host, where, length);
		host[length] = 0;
	}
	if (length >= sizeof(host) || inet_pton(AF_INET, host, &address->sin_addr) != 1)
		return ft_error_set(err, -EINVAL,
				    "\"%.100s\" is neither loopback address and port, such as 127.0.0.1:9469, nor the "
				    "absolute path of a socket",
				    where);
	if (ntohl(address->sin_addr.s_addr) >> 24 != IN_LOOPBACKNET)
		return ft_error_set(err, -EINVAL,
				    "%s is no loopback address: metrics are for this machine alone, expected for example "
				    "127.0.0.1:9469",
				    host);
	if (!digits || digits > 5 || port[digits] || number < 1 || number > 65535)
		return ft_error_set(err, -EINVAL, "\"%.100s\" has no port from 1 to 65535, expected for example %s:9469",
				    where, host);
	address->sin_port = htons((uint16_t)number);
	return 0;
}
