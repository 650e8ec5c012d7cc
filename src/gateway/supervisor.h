/* The supervisor: starts the other processes, gives each the files and links it needs, replaces the dead, answers the
 * control socket, and stops everything in order. It never touches a packet, and believes none of its children. */
#ifndef FT_GATEWAY_SUPERVISOR_H
#define FT_GATEWAY_SUPERVISOR_H

#include "gateway/canaries.h"
#include "gateway/cgroup.h"
#include "gateway/child.h"
#include "gateway/config.h"
#include "gateway/control.h"
#include "gateway/notify.h"
#include "gateway/query.h"
#include "gateway/sink.h"

#define FT_SUPERVISOR_CHILDREN (3u + FT_CONFIG_GUESTS)

enum ft_supervisor_phase { FT_PHASE_STARTING, FT_PHASE_RUNNING, FT_PHASE_STOPPING };

struct ft_supervisor {
	struct ft_config *config;
	struct ft_config *pending; /* of a reload under way, until the dataplane has its part in force */
	struct ft_loop loop;
	struct ft_watch signals;
	struct ft_control control;
	struct ft_queries queries;
	struct ft_notify notify;
	struct ft_sinks sinks;
	struct ft_cgroup cgroup;
	struct ft_canaries canaries;
	struct ft_listen metrics; /* what foretaste-metrics accepts on; fd -1: there is none */
	struct ft_child children[FT_SUPERVISOR_CHILDREN]; /* ledger, dataplane, the vmms, metrics */
	unsigned count;
	int state_fd;   /* holds the lock on the state directory */
	int durable;	/* memfd of base/durable.h: the ledger writes it, the dataplane reads it */
	int records[2]; /* dataplane and supervisor write [1], the ledger reads [0]; both stay open here */
	enum ft_supervisor_phase phase;
	unsigned stop_step; /* which kind of child is being stopped */
	uint64_t started;
	uint64_t seeds_removed; /* kept ones, since the start: gateway/seed.h */
	uint8_t *snapshot_key; /* the operator's, snapshot/key.h; NULL: snapshots are not encrypted */
	json_t *suppressions; /* {"next": number, "list": [entries]}: gateway/suppress.h */
	json_t *live; /* what operators switched: {"modes": {SERVICE: mode}, "bypass": {SERVICE: true}, "bypass_all": true} */
	int exit_code;
	struct ft_error why; /* of an exit that nobody asked for */
};

/* Runs a gateway until SIGTERM or SIGINT (SIGHUP reloads config, which changes, SIGUSR1 reopens logs), or until it cannot start. Returns a sysexits number; err has the sentence.
 * Blocks the signals it serves and becomes a child subreaper: to be called once, from main. */
int ft_supervisor_run(struct ft_config *config, struct ft_error *err);

/* For the other files of the supervisor. */

/* An event of our own for the feed and the log; guest and process may be NULL. */
void ft_supervisor_record(struct ft_supervisor *s, const char *type, const char *guest, const char *process,
			  const char *format, ...) __attribute__((format(printf, 5, 6)));

/* One line on standard error; level may be "". */
void ft_supervisor_say(const char *level, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Ends the run because of an error; the first one counts. */
void ft_supervisor_fail(struct ft_supervisor *s, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));

struct ft_child *ft_supervisor_ledger(struct ft_supervisor *s);
struct ft_child *ft_supervisor_dataplane(struct ft_supervisor *s);

#endif
