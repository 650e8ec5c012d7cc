/* The notary: turns what the ledger's process hears into entries of the tamper-evident log (src/ledger/ledger.md), commits them
 * in groups, lets the signing key evolve, keeps the log within its quota, and knows which decisions have no outcome yet.
 *
 * Nothing here waits but the commit, for the disk. What the log cannot take (a disk that is full or fails) waits in memory, up to
 * 16 MiB; then entries are lost, counted, and an entry says how many as soon as one can be written. */
#ifndef FT_LOG_NOTARY_H
#define FT_LOG_NOTARY_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "ledger/entry.h"
#include "ledger/io.h"

/* What is done when something is wrong with the room on the disk, in auditd.conf's words. */
enum ft_notary_action {
	FT_NOTARY_IGNORE,  /* go on trying, say nothing */
	FT_NOTARY_SYSLOG,  /* go on trying, say so in the feed */
	FT_NOTARY_ROTATE,  /* remove the oldest entries; their hashes stay */
	FT_NOTARY_SUSPEND  /* take nothing more until the process is started again; say so */
};

struct ft_notary_config {
	const struct ft_io *io; /* NULL: the system's */
	int directory;		/* the caller's, belongs to this process' uid */
	const char *sensor;	/* for the name of a new log; not kept */
	const char *version;	/* not kept */
	uint64_t key_epoch;	/* ns */
	uint64_t interval;	/* ns that entries may wait for others before they are committed together */
	uint64_t publish_every;	/* ns from one checkpoint in the feed to the next; 0: none is */
	uint64_t quota;		/* bytes of entries; 0: no bound */
	uint64_t space_left;	/* bytes; 0: not looked at */
	enum ft_notary_action max_log_file, space_left_action, disk_full, disk_error;
	/* A sentence about the log itself, for the feed. */
	void (*tell)(void *context, const char *text, bool error);
	/* A checkpoint for the feed. */
	void (*publish)(void *context, const char *note);
	void *context;
};

struct ft_notary;

/* -EBADMSG: the log was changed behind our back, or its key is not its own; nothing is written then. */
int ft_notary_open(struct ft_notary **notary, const struct ft_notary_config *config, struct ft_error *err);

/* Writes the last entry, commits, publishes. NULL is fine. */
void ft_notary_close(struct ft_notary *notary);

/* Reads "commit", "key_epoch", "quota", ... of an object as gateway/protocol.md says; what is missing stays. */
void ft_notary_settings(struct ft_notary_config *config, const json_t *settings);

/* An entry with this body (borrowed). All of these may be called with notary NULL: nothing happens. */
void ft_notary_note(struct ft_notary *notary, enum ft_entry_type type, uint64_t time_ns, const json_t *body);

/* A hold is over; record has passed ft_record_check and is what the feed gets. */
void ft_notary_hold(struct ft_notary *notary, const json_t *record);

/* What is about to be done with a hold: {hold, verdict, disposition, reason, ...}. sequence: the sender's number of it, for
 * ft_notary_durable; 0: it does not wait. -EINVAL: it is no such record. */
int ft_notary_decided(struct ft_notary *notary, const json_t *message);

/* How many decisions could not be taken: whoever waits for one must send it again. */
uint64_t ft_notary_missed(const struct ft_notary *notary);

/* Does it take entries? */
bool ft_notary_works(const struct ft_notary *notary);

/* The outcome of a decision whose hold is not told as a whole. -EINVAL. */
int ft_notary_done(struct ft_notary *notary, const json_t *message);

/* The highest sequence that is durable. */
uint64_t ft_notary_durable(const struct ft_notary *notary);

/* The hash of a chunk, a checkpoint or the ring of a guest's journal, as gateway/protocol.md says. -EINVAL: it is none. */
int ft_notary_journal(struct ft_notary *notary, uint64_t time_ns, const json_t *message);

/* An event of the supervisor or the dataplane. */
void ft_notary_event(struct ft_notary *notary, const char *type, uint64_t time_ns, const json_t *message);

/* To be called whenever the process has nothing else to do: commits what is due, evolves the key, looks at the room. Returns
 * milliseconds until it wants to be called again, -1: when something comes. */
int ft_notary_work(struct ft_notary *notary);

/* New reference: {"entries", "signed", "bytes", "epoch", "commits", "slowest_ns", "lost", "suspended", "trouble"?} */
json_t *ft_notary_status(const struct ft_notary *notary);

#endif
