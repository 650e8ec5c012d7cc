/* A ledger process under test: started as the supervisor starts it, with the same descriptors and messages. */
#ifndef FT_TESTS_LOG_CONVERSATION_H
#define FT_TESTS_LOG_CONVERSATION_H

#include <jansson.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/durable.h"

struct conversation {
	pid_t pid;
	int channel, records; /* our ends */
	char directory[64];   /* with feed.json, quarantine/ and state/ */
	char feed[96], quarantine[96], state[96];
	uint64_t feed_quota, quarantine_quota;
	int durable_fd;
	const struct ft_durable *durable; /* as the dataplane sees it */
	uint64_t publish_every; /* of checkpoints in the feed; set before conversation_restart */
	json_t *sinks; /* more of the configuration; NULL: none */
	json_t *logs;  /* `log` messages so far */
	json_t *lost;  /* `sink-lost` messages so far */
};

/* file_limit: RLIMIT_FSIZE of the process, 0: none. */
void conversation_begin(struct conversation *c, uint64_t feed_quota, uint64_t quarantine_quota,
			uint64_t file_limit);
/* The same with sinks (taken over): the keys of gateway/protocol.md. */
void conversation_begin_sinks(struct conversation *c, json_t *sinks);
/* What the supervisor says of a sink: connected (fd stays the caller's) or, fd -1, why not. */
void conversation_sink(struct conversation *c, const char *name, int fd, const char *why);
/* Waits until `count` sinks were lost in all. */
void conversation_wait_lost(struct conversation *c, size_t count);
/* The same directory with a new process, without a file limit. */
void conversation_restart(struct conversation *c);
void conversation_send(struct conversation *c, json_t *record);  /* takes it over */
json_t *conversation_ask(struct conversation *c, json_t *query); /* takes it over; the answer */
void conversation_stop(struct conversation *c);                  /* asserts a clean end */
void conversation_remove(struct conversation *c);                /* its directory */
json_t *conversation_feed(const struct conversation *c);         /* its lines as a list */

/* A complete record of a hold, as the dataplane would send it. */
json_t *conversation_hold(uint64_t hold, const char *verdict);
json_t *conversation_packets(uint64_t hold, unsigned frames, size_t bytes);

#endif
