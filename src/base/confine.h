/* Confinement: what a process of ours gives up once it has what it needs.
 *
 * The order that works, in each child of the supervisor:
 *   1. open, map and start everything that needs privileges or a syscall that the filter will refuse
 *   2. ft_confine_identity: own uid and gid, no supplementary groups, no capabilities, no_new_privs
 *   3. ft_confine_compile + ft_confine_install: the seccomp allow-list, on every thread of the process
 * A clone stacks a second, tighter filter on the first: it compiles it before the fork (that allocates) and
 * installs it after (that does not). The first filter has to allow `seccomp` for that; the kernel takes the
 * stricter of the two for each call.
 *
 * No function here weakens anything that was already given up. */
#ifndef FT_BASE_CONFINE_H
#define FT_BASE_CONFINE_H

#include <linux/filter.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"

/* What ft_confine_identity may be asked for besides. */
enum ft_confine_option {
	FT_CONFINE_UNDUMPABLE =
	    1, /* PR_SET_DUMPABLE 0 and no core files: nobody of the same uid attaches to us */
};

/* Becomes uid and gid for good (real, effective, saved; no passwd entry is needed), empties the supplementary
 * groups, the ambient, inheritable, permitted and effective capabilities and, where the process may, the
 * bounding set, locks the securebits so that uid 0 means nothing, and sets no_new_privs. Then checks that it
 * is so. All threads get the ids (glibc); call it before threads start where you can. A process that is
 * already uid:gid and holds no privileges (a test) only gets the rest. uid 0 is refused: -EINVAL. The
 * parent-death signal, which the kernel clears on a change of ids, is armed again if it was. */
int ft_confine_identity(uid_t uid, gid_t gid, unsigned options, struct ft_error *err);

/* May this process become another uid and gid, and start others as such (CAP_SETUID, CAP_SETGID)? */
bool ft_confine_may_become(void);

/* The kernel sends us `signal` when `parent`, who forked us, dies. Closes the race with a parent that died
 * before the call: then -ESRCH, and the caller ends. To be called by the child itself, after fork.
 * Async-signal-safe. */
int ft_confine_die_with(pid_t parent, int signal);

/* One row of an allow-list. Rows of the same syscall add up: any that fits allows the call.
 *
 *	{"read", "event loop: eventfds and the channel"},
 *	{"prctl", "thread names", .arg = 1, .equals = PR_SET_NAME},
 *	{"mmap", "malloc; never executable", .arg = 3, .mask = PROT_EXEC, .equals = 0},
 *	{"clone3", "pthread_create tries it first and falls back to clone", .error = ENOSYS}, */
struct ft_confine_rule {
	const char *name; /* as in syscalls(2) */
	const char *why;  /* who calls it and for what; never empty */
	unsigned arg;     /* 0: any arguments; 1..6: only if (argument & mask) == equals */
	uint64_t mask;    /* 0 means all bits */
	uint64_t equals;
	int error; /* not 0: not allowed, but answered with this errno instead of death */
};

/* A compiled filter. Owns program.filter. */
struct ft_confine_filter {
	struct sock_fprog program;
};

/* Compiles an allow-list; everything else kills the process (SIGSYS), calls of another architecture too.
 * Names what is wrong with the table: an unknown syscall, a row without a reason. Free with
 * ft_confine_filter_free. */
int ft_confine_compile(const struct ft_confine_rule *rules, size_t count, struct ft_confine_filter *filter,
		       struct ft_error *err);
void ft_confine_filter_free(struct ft_confine_filter *filter);

/* Installs a compiled filter on all threads of this process; sets no_new_privs first. Allocates nothing and
 * is async-signal-safe: for use after fork. 0 or -errno (-EBUSY: a thread has another filter history). */
int ft_confine_install(const struct ft_confine_filter *filter);

#endif
