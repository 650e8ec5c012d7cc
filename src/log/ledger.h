/* The ledger: takes records from the dataplane and the supervisor, checks them, and is the only writer of the feed and of
 * the quarantine. Answers questions about past holds. One thread; nothing here waits.
 *
 * What cannot be done (a full disk, a broken record) costs exactly that line or file, is counted, and is told through
 * `log` and, once it works again, in the feed. */
#ifndef FT_LOG_LEDGER_H
#define FT_LOG_LEDGER_H

#include <jansson.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/durable.h"
#include "base/error.h"
#include "log/notary.h"
#include "log/sink.h"

#define FT_LEDGER_SINKS 2u

/* text: one sentence for the supervisor's log. level: "error", "warning", "info". */
typedef void ft_ledger_log(void *context, const char *level, const char *text);

/* The connection of the sink with this name is gone; another one is wanted. */
typedef void ft_ledger_hung_up(void *context, const char *sink, const char *why);

struct ft_ledger_config {
	const char *sensor; /* borrowed until ft_ledger_close */
	uint64_t feed_quota, quarantine_quota;
	const json_t *quarantine_shares; /* {SERVICE: bytes}, or NULL; not kept */
	int feed;        /* for appending */
	int feed_reader; /* the same file for reading, or -1; only used while opening */
	int quarantine;  /* directory */
	struct ft_durable *durable; /* where the dataplane sees what is durable, or NULL */
	struct ft_sink_config sinks[FT_LEDGER_SINKS];
	unsigned sink_count;
	ft_ledger_log *log;
	ft_ledger_hung_up *hung_up; /* may be NULL without sinks */
	void *context;
};

struct ft_ledger;

int ft_ledger_open(struct ft_ledger **ledger, const struct ft_ledger_config *config, struct ft_error *err);
void ft_ledger_close(struct ft_ledger *ledger);

/* Begins to keep the tamper-evident log (notary.h) in config->directory; tell, publish and context are set here. Without it, or
 * when it fails, everything else works, and the feed says so. config_sha256: of the configuration in force, or NULL. */
int ft_ledger_notarise(struct ft_ledger *ledger, struct ft_notary_config *config, const char *config_sha256, struct ft_error *err);

/* Commits what is due and says what is durable; milliseconds until the next time, -1: when something comes. */
int ft_ledger_work(struct ft_ledger *ledger);

/* The end of the tamper-evident log for this run: its last entry, its last checkpoint in the feed. */
void ft_ledger_seal(struct ft_ledger *ledger);

/* Another configuration is in force. */
void ft_ledger_configured(struct ft_ledger *ledger, const char *config_sha256);

/* The feed goes on in this file (fd is taken over, the old one closed), and quotas change. */
int ft_ledger_reopen(struct ft_ledger *ledger, int fd, struct ft_error *err);
void ft_ledger_quotas(struct ft_ledger *ledger, uint64_t feed, uint64_t quarantine, const json_t *shares);

/* One record: hold, decided, done, event or packets. */
void ft_ledger_record(struct ft_ledger *ledger, const json_t *message);

/* A datagram on the record socket that was no record at all. */
void ft_ledger_refuse(struct ft_ledger *ledger, const char *why);

/* Tries again what could not be written. True: call again in about a second. */
bool ft_ledger_tick(struct ft_ledger *ledger);

/* The supervisor has connected a sink (fd is taken over in any case), or says why it could not (fd is -1). -ENOENT: there
 * is no sink with this name. */
int ft_ledger_sink(struct ft_ledger *ledger, const char *name, int fd, const char *why);

/* For poll(2): one entry a sink, fd -1 while it is not connected; and afterwards what came of it. Both with the same
 * FT_LEDGER_SINKS entries. */
void ft_ledger_poll(const struct ft_ledger *ledger, struct pollfd fds[FT_LEDGER_SINKS]);
void ft_ledger_polled(struct ft_ledger *ledger, const struct pollfd fds[FT_LEDGER_SINKS]);

/* To be called last: tells which lines the sinks did not take. */
void ft_ledger_end(struct ft_ledger *ledger);

/* The result of a query (gateway/protocol.md), a new reference that fits one message; or NULL with *error. */
json_t *ft_ledger_query(struct ft_ledger *ledger, const json_t *message, const char **error);

#endif
