/* The HTTP server: /metrics, /healthz and /readyz for whoever may connect to its socket, by libmicrohttpd without a thread.
 *
 * Each answer is made from what the supervisor says at that time: a request waits for it, and all that wait share one
 * question, so however many ask, the gateway is asked one thing at a time. Connections, their memory and their time are
 * bounded; there are no kept connections, so a slow client is over with its one request. */
#ifndef FT_METRICS_SERVER_H
#define FT_METRICS_SERVER_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/select.h>

#include "base/error.h"

#define FT_SERVER_CONNECTIONS 32u
#define FT_SERVER_MEMORY      (16u << 10)   /* of one connection: its request has to fit */
#define FT_SERVER_TIME        10000000000ull /* most time that one connection gets, ns */
#define FT_SERVER_PATIENCE    6000000000ull /* the supervisor itself gives up on a process after 3 s */

struct ft_server;

/* listener: a listening socket, taken over. ask: the state of the gateway is wanted; ft_server_answer is called when it is
 * there. One question at a time. */
int ft_server_open(struct ft_server **server, int listener, void (*ask)(void *context), void *context,
		   struct ft_error *err);
void ft_server_close(struct ft_server *server);

/* What to wait for: adds to the sets and raises *most. Level-triggered on purpose: with its edge-triggered epoll,
 * libmicrohttpd 0.9.75 does not see a hang-up that comes together with the last bytes. */
struct ft_server_sets {
	fd_set read, write, except;
	int most; /* highest descriptor, -1: none */
};
void ft_server_watch(struct ft_server *server, struct ft_server_sets *sets);

/* state is borrowed; NULL: there is no answer. */
void ft_server_answer(struct ft_server *server, const json_t *state);

/* Serves what is ready at now (monotonic, ns): sets are as select(2) left them. */
void ft_server_serve(struct ft_server *server, const struct ft_server_sets *sets, uint64_t now);

/* When to serve again if nothing is ready before, UINT64_MAX: never. */
uint64_t ft_server_due(const struct ft_server *server);

#endif
