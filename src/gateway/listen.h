/* Sockets that the supervisor listens on, for itself and for foretaste-metrics. */
#ifndef FT_GATEWAY_LISTEN_H
#define FT_GATEWAY_LISTEN_H

#include <sys/stat.h>

#include "base/error.h"

struct ft_listen {
	int fd;           /* -1: closed */
	char *path;       /* of a unix socket */
	struct stat made; /* the socket as we made it: only that one is removed */
};

/* Listens on a unix stream socket with this mode; makes the directories above it. A socket that a dead gateway left is taken
 * over; -EADDRINUSE when one answers there. what: "control socket", for errors. */
int ft_listen_unix(struct ft_listen *listener, const char *path, mode_t mode, const char *what, struct ft_error *err);

/* where: "127.0.0.1:9469" or the path of a unix socket, which its group may use. */
int ft_listen_local(struct ft_listen *listener, const char *where, const char *what, struct ft_error *err);

void ft_listen_close(struct ft_listen *listener);

#endif
