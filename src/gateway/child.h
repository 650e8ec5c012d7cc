/* One child process of the supervisor: how it is started, spoken to and ended. What to do about its messages and its
 * death is the supervisor's business.
 *
 * A child is hostile once its guest or the network has had a chance to break it: its messages are bounded and checked,
 * its standard error is read line by line, cleaned and rate-limited, and it cannot make the supervisor wait. */
#ifndef FT_GATEWAY_CHILD_H
#define FT_GATEWAY_CHILD_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/channel.h"
#include "base/error.h"
#include "gateway/loop.h"

enum ft_child_kind { FT_CHILD_LEDGER, FT_CHILD_DATAPLANE, FT_CHILD_VMM, FT_CHILD_METRICS };

enum ft_child_state {
	FT_CHILD_DOWN,     /* no process; `retry_at` says when the next one starts */
	FT_CHILD_STARTING, /* configured, not ready yet */
	FT_CHILD_READY,
	FT_CHILD_STOPPING /* told to stop */
};

/* What happens when a guest's process ends by itself. */
enum ft_child_restart { FT_RESTART_ALWAYS, FT_RESTART_ON_CRASH, FT_RESTART_NEVER };

#define FT_CHILD_LINE  400u /* bytes of one line of its standard error that are kept */
#define FT_CHILD_LINES 50u  /* lines a second that are logged */

#define FT_CHILD_STOP_TIMEOUT 5000000000ull /* ns; one that is told to stop, or that has hung up, is killed then */

struct ft_child {
	void *owner; /* for the watches' callbacks */
	enum ft_child_kind kind;
	enum ft_child_state state;
	char name[64];                   /* "ledger", "dataplane", "vmm web": for people */
	char guest[32];                  /* of a vmm */
	uid_t uid;                       /* its uid and gid */
	pid_t pid;                       /* 0: none */
	struct ft_watch channel, output; /* fd -1: closed */
	uint64_t deadline; /* STARTING: ready until then; STOPPING: gone until then; else UINT64_MAX */
	uint64_t retry_at; /* DOWN: start again then; else UINT64_MAX */
	uint64_t spawned_at, ready_at;
	unsigned failures; /* in a row; the back-off grows with them */
	unsigned restarts;
	uint64_t backoff_first, backoff_most; /* pause before the next start, doubling */
	/* of a vmm */
	enum ft_child_restart restart;
	bool unwanted;       /* an operator stopped it, or its policy leaves it down: it is not started again */
	bool again;          /* STOPPING: to be started when it is gone */
	unsigned cpu;        /* percent of one processor, 0: no bound */
	unsigned cpu_weight; /* in proportion to the others' */
	char cpu_why[512];   /* why these are not in force, "": they are, or nothing was asked for */
	char saving[65];       /* the snapshot that it is writing, "": none */
	int saving_fd;
	char saved[65];        /* the last one, whatever came of it ... */
	char saved_error[512]; /* ... "": it is saved */
	char saved_mac[65];
	uint64_t saved_bytes, saved_took_ns, saved_pause_ns;
	uint32_t journal_run;     /* of its journal; 0: it has none */
	uint32_t journal_number;  /* of the last checkpoint that was asked for */
	uint32_t journal_pending; /* the same, while it is being saved; else 0 */
	uint32_t journal_saved;   /* the last one that is there */
	uint64_t journal_due;     /* when the next one is */
	unsigned journal_tries;   /* at a checkpoint, that failed, in a row */
	bool journal_failing;     /* its last chunk could not be written */
	/* Since the gateway started: */
	uint64_t journal_gaps, journal_failures, journal_checkpoints, journal_chunks;
	uint64_t journal_bytes;   /* of all its checkpoints and segments, as far as they were told of */
	uint64_t journal_segment_bytes; /* of the one that is being written */
	uint32_t journal_segment;
	/* The seed that it is writing, see gateway/seed.h. */
	uint64_t seed;	      /* its number; 0: none */
	uint64_t seed_hold;
	int seed_fd;
	uint64_t seed_at;     /* when it was asked for the last one, 0: never */
	uint64_t seeds_kept, seeds_skipped, seeds_failed; /* since the gateway started */
	uint64_t seeds_untold; /* skipped, and not told of yet */
	char restore[65];      /* the snapshot to start from next, "": it boots */
	bool restore_attach;
	bool isolated; /* restored, and no link between it and the dataplane is made until it is attached */
	/* Of warm starts, see gateway/warm.h. */
	char start_snapshot[65]; /* "": it boots */
	uint8_t origin[16];	 /* what its process was started from */
	bool warm;		 /* from that snapshot */
	bool save_settled;	 /* a new one is saved when the guest is idle for the first time */
	bool cold;		 /* the next start is to be a boot, because: */
	char cold_why[512];
	bool kvm;     /* it runs on engine kvm */
	bool running; /* vmm: its guest is up */
	bool hung;           /* killed, for its guest answered no self-test any more */
	unsigned hangs;      /* in a row */
	uint64_t hung_at, hung_next; /* when that was last, and before when it is not done again */
	uint64_t boot_ns;
	int failed_code; /* what it said when it could not start or go on, 0: nothing */
	char failed_text[512];
	char killed_why[256]; /* why we killed it, "": we did not */
	char line[FT_CHILD_LINE];
	size_t line_length;
	uint64_t window_start; /* rate limit of what it may write to our log */
	unsigned window_lines, window_lost;
};

void ft_child_prepare(struct ft_child *child, enum ft_child_kind kind, const char *guest, uid_t uid);

/* Full path of the kind's executable: $FORETASTE_LIBEXEC, beside our own executable, in the build tree, or installed.
 * 0 or -ENOENT with a sentence. */
int ft_child_program(enum ft_child_kind kind, char *path, size_t size, struct ft_error *err);

/* Forks and executes it with its channel as descriptor 3; nothing else of ours gets through. It dies with us. Sets
 * pid, channel.fd and output.fd (non-blocking). */
int ft_child_spawn(struct ft_child *child, const char *program, struct ft_error *err);

/* Never waits: -EAGAIN when the child does not read. Takes message over. */
int ft_child_send(struct ft_child *child, json_t *message, const int *fds, int count);

/* Gives the next line that it wrote, cleaned. false: none for now. Closes output at its end. */
bool ft_child_output(struct ft_child *child, char *line, size_t size);

/* Whether one more line of it may go to the log now; *lost: lines that were suppressed before. */
bool ft_child_may_log(struct ft_child *child, unsigned *lost);

/* why: for people, a clause ("it was not ready in time"); the first one counts. */
void ft_child_kill(struct ft_child *child, const char *why);

/* Closes what we hold of it; its process has been reaped. */
void ft_child_close(struct ft_child *child);

const char *ft_child_state_name(enum ft_child_state state);

#endif
