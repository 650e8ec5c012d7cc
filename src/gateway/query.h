/* Questions on their way to children, and the requests of the control socket that wait for the answers. A child can
 * only answer what it was asked itself; one that does not answer in time is named in the reply. */
#ifndef FT_GATEWAY_QUERY_H
#define FT_GATEWAY_QUERY_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "gateway/child.h"
#include "gateway/control.h"

#define FT_QUERY_MAX     64u /* requests waiting at a time */
#define FT_QUERY_CLIENT  16u /* of one client */
#define FT_QUERY_PARTS   67u /* children asked for one request */
#define FT_QUERY_TIMEOUT 3000000000ull

struct ft_query {
	uint64_t connection; /* 0: free */
	json_t *id;          /* the client's */
	json_t *result;      /* what is put together; NULL: the one child's answer is the result */
	json_t *act; /* what an operator does with it: told to queries->acted, also when the client has gone */
	uint64_t deadline;
	unsigned parts;
	struct {
		uint64_t number; /* of the question; 0: answered */
		const struct ft_child *child;
	} asked[FT_QUERY_PARTS];
};

struct ft_queries {
	struct ft_control *control;
	struct ft_query queries[FT_QUERY_MAX];
	uint64_t next; /* number of the last question */
	/* What became of an act. code 0: done; EX_UNAVAILABLE: the child does not say; else a sysexits number: it refused. */
	void (*acted)(void *context, const json_t *act, int code, const char *error);
	void *context;
};

/* Starts a request. result (taken over, may be NULL): object whose "processes" get each child's answer as "state".
 * NULL when too many wait; the client has been told. */
struct ft_query *ft_query_begin(struct ft_queries *queries, uint64_t connection, const json_t *request,
				json_t *result);

/* Asks one child; message: {"what": ...}, taken over. 0 or -errno, and then nothing is waited for. */
int ft_query_ask(struct ft_queries *queries, struct ft_query *query, struct ft_child *child, json_t *message);

/* To be called after the asking: answers at once when nothing is waited for. */
void ft_query_settle(struct ft_queries *queries, struct ft_query *query);

/* A child's `answer` message (borrowed, unchecked). false: it answers nothing that it was asked. */
bool ft_query_answer(struct ft_queries *queries, const struct ft_child *child, const json_t *message);

/* The child died: nothing more will come from it. */
void ft_query_forget(struct ft_queries *queries, const struct ft_child *child);

/* The client has gone: nothing more is wanted. */
void ft_query_drop(struct ft_queries *queries, uint64_t connection);

/* Ends what has waited too long. Returns when to call again. */
uint64_t ft_query_expire(struct ft_queries *queries, uint64_t now);

/* Ends a request with an error sentence. */
void ft_query_refuse(struct ft_control *control, uint64_t connection, json_t *id, int code,
		     const char *format, ...) __attribute__((format(printf, 5, 6)));

#endif
