/* The control socket: a unix stream socket with newline-delimited JSON. Each line in is a request, an object with
 * `what` and an `id` of any kind; each line out answers one request, in any order: {"id": ..., "result": ...} or
 * {"id": ..., "error": "one sentence", "code": sysexits number}. Connections, lines and unread answers are bounded. */
#ifndef FT_GATEWAY_CONTROL_H
#define FT_GATEWAY_CONTROL_H

#include <jansson.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "base/error.h"
#include "gateway/listen.h"
#include "gateway/loop.h"

#define FT_CONTROL_CONNECTIONS 16u
#define FT_CONTROL_LINE        (64u << 10)
#define FT_CONTROL_UNREAD      (4u << 20) /* answers that a client has not read */

/* Who is at the other end, as the kernel knew it when it connected. */
struct ft_control_peer {
	uid_t uid;
	pid_t pid;
	long login; /* the user who logged in, before any su or sudo; -1: unknown */
};

struct ft_control_connection {
	struct ft_control *control;
	struct ft_watch watch; /* fd -1: free */
	struct ft_control_peer peer;
	const char *only; /* the one request that it may make; NULL: all */
	uint64_t number; /* never used again, so that a late answer cannot reach a later client */
	char *in, *out;
	size_t in_length, out_length, out_done;
};

struct ft_control {
	struct ft_loop *loop;
	struct ft_listen listener;
	struct ft_watch watch; /* of the listener; fd -1: closed */
	struct ft_control_connection connections[FT_CONTROL_CONNECTIONS];
	uint64_t next;
	/* request is borrowed; answer with ft_control_answer, now or later. */
	void (*request)(void *context, uint64_t connection, json_t *request);
	/* The client has gone: answers to it are no longer wanted. */
	void (*closed)(void *context, uint64_t connection);
	void *context;
};

/* Listens at path, 0600. A socket that a dead gateway left is taken over; -EADDRINUSE when one answers there. loop,
 * request and context are set by the caller; the struct must not move. */
int ft_control_open(struct ft_control *control, const char *path, struct ft_error *err);
void ft_control_close(struct ft_control *control);

/* Serves a connection that was not made by a client: fd (taken over, also on failure; non-blocking) is one end of a pair, and
 * who has the other may make the request `only` (static) and no other. 0 or -errno. */
int ft_control_adopt(struct ft_control *control, int fd, const char *only);

/* "uid 0 (login uid 1000), pid 4711", for the feed. */
const char *ft_control_who(const struct ft_control *control, uint64_t connection, char text[80]);

/* Takes answer over. A connection that is gone is no error. One that does not read its answers is closed. */
void ft_control_answer(struct ft_control *control, uint64_t connection, json_t *answer);

#endif
