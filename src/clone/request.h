/* Trial requests as they come in over the command ring: BEGIN, flows, frames, GO. The dataplane process may be broken or taken
 * over; every field is checked here, once. Several requests may come in interleaved; together they take at most
 * FT_REQUESTS * (FT_REQUEST_BYTES + sizeof(struct ft_request)), 64.3 MiB, of the live vmm's memory, each until its seed is forked.
 * A seed keeps what it inherited of them, copied page by page as the vmm lets go of it. */
#ifndef FT_CLONE_REQUEST_H
#define FT_CLONE_REQUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/trial.h"

#define FT_REQUESTS      16u        /* being put together at one time */
#define FT_REQUEST_BYTES (4u << 20) /* most frame bytes of one request */
#define FT_REQUEST_FRAME 9216u      /* most bytes of one frame */

/* A complete request. The frames lie one behind the other in bytes, each with its length in lengths, those of the first flow
 * first. */
struct ft_request {
	struct ft_trial_begin begin;
	struct ft_trial_flow flows[FT_TRIAL_FLOWS];
	bool used;
	bool bad; /* something was wrong: GO is answered with a refusal */
	uint32_t flow_count, frames; /* so far */
	size_t filled, room;
	uint8_t *bytes; /* owned */
	uint32_t lengths[FT_TRIAL_FRAMES];
};

struct ft_requests {
	struct ft_request entries[FT_REQUESTS];
};

enum ft_request_event {
	FT_REQUEST_NONE,  /* taken in, nothing to do yet */
	FT_REQUEST_READY, /* *request is complete; ft_request_drop it when done */
	FT_REQUEST_BAD, /* GO for something that cannot be tried: tell SEED_GONE for *trial; already dropped */
	FT_REQUEST_FULL,   /* no place for another one: tell SEED_GONE (busy) for *trial */
	FT_REQUEST_RUN,    /* *run is filled */
	FT_REQUEST_FINISH, /* *trial is no longer needed */
	FT_REQUEST_UNKNOWN /* not a command: the peer is not what it should be */
};

/* Takes one record of the command ring. */
enum ft_request_event ft_request_take(struct ft_requests *requests, uint32_t kind, const void *data,
				      size_t length, struct ft_request **request, struct ft_trial_run *run,
				      uint64_t *trial);
void ft_request_drop(struct ft_request *request);
void ft_requests_clear(struct ft_requests *requests);

#endif
