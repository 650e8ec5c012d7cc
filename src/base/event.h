/* The one event vocabulary: what the host can see of a guest, live or clone. Clones and the live guest produce these
 * records, the dataplane process receives them, src/detect evaluates rules over them, the feed prints them.
 *
 * A record is struct ft_event, then its strings (each NUL-terminated, `strings` of them, in the order the table names them). A
 * message of the event socket has one or more of them, one behind the other. The producer may be under a guest's control:
 * ft_event_check is the door, for each.
 *
 * `text` of connect, listen and net.tx: "ADDRESS:PORT" (of net.tx: the destination; port 0 when the protocol has
 * none), "[IPV6]:PORT" or "unix:PATH" ("unix:@NAME" when abstract): rules compare it with may_connect. IPv4 addresses
 * and ports in a[] are in host byte order. `opens` of net.tx: 1 when the guest begins something new with this packet
 * (a SYN without ACK, the first datagram of a flow that nobody sent it), else 0: rules on outgoing traffic need it,
 * since answers to clients are no news. file.link: path is a new name, hard or symbolic, of target. file.map: code that is
 * new since the fork is mapped to be run, by mmap or execve. `result` is what the system call returned: negative errno on failure.
 * seed.ready: run of the guest's journal in which the seed is noted down, 0: in none; its number among the seeds of that vmm.
 * trial.answered: told by each trial, not by twins, right before its end: how many flows got their frames, and how many of
 * them, counted from the first up to one that was not, the guest answered (base/trial.h).
 *
 * X(NAME, "name", strings, "names of a[0..], comma-separated; then the strings") */
#ifndef FT_BASE_EVENT_H
#define FT_BASE_EVENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FT_EVENTS(X)                                                                                       \
	/* life of a trial: written by the vmm side, never by guest action */                              \
	X(SEED_READY, "seed.ready", 0, "pause_ns,fork_icount,run,seed")                                    \
	X(TRIAL_HANDLED, "trial.handled", 0, "taken_bytes,held_bytes,frames_taken")                        \
	X(TRIAL_ANSWERED, "trial.answered", 0, "flows,answered")                                           \
	X(TRIAL_END, "trial.end", 1, "end,state_hash,insns,pages_written,handled,first_insn_ns;detail")                  \
	X(SEED_GONE, "seed.gone", 1, "code;detail")                                                        \
	/* processes */                                                                                    \
	X(SYSCALL, "syscall", 2, "nr,arg0,arg1,arg2,arg3,arg4;string0,string1")                            \
	X(EXEC, "exec", 2, "result;path,argv")                                                             \
	X(PROCESS_NEW, "process.new", 0, "child_pid,flags")                                                \
	X(PROCESS_EXIT, "process.exit", 0, "status")                                                       \
	X(CR3, "cr3", 0, "old,new")                                                                        \
	X(SIGNAL, "signal", 0, "signal,target_pid")                                                        \
	X(FAULT, "fault", 0, "vector,error,address,rip")                                                   \
	X(CODE_WRITTEN, "code.written", 0, "rip,gpa,page_flags")                                           \
	/* network */                                                                                      \
	X(CONNECT, "connect", 1, "family,address,port,result;text")                                        \
	X(LISTEN, "listen", 1, "family,address,port,result;text")                                          \
	X(NET_TX, "net.tx", 1, "length,protocol,daddr,dport,sport,opens;text")                                   \
	X(NET_RX, "net.rx", 0, "length,protocol,saddr,sport,dport")                                        \
	/* files and disk */                                                                               \
	X(FILE_WRITE, "file.write", 1, "flags,result;path")                                                \
	X(FILE_REMOVE, "file.remove", 1, "result;path")                                                    \
	X(FILE_RENAME, "file.rename", 2, "result;from,to")                                                 \
	X(FILE_MODE, "file.mode", 1, "mode,result;path")                                                   \
	X(FILE_LINK, "file.link", 2, "result;target,path")                                                 \
	X(FILE_MAP, "file.map", 1, "protection;path")                                                      \
	X(DISK_READ, "disk.read", 0, "sector,sectors")                                                     \
	X(DISK_WRITE, "disk.write", 0, "sector,sectors")                                                   \
	/* machine */                                                                                      \
	X(CONSOLE, "console", 1, "length;text")                                                            \
	X(KEY, "key", 0, "scancode")                                                                       \
	X(CPU, "cpu", 0, "busy_permille,window_ms")                                                        \
	X(RESET, "reset", 1, "kind;detail")                                                                \
	X(PANIC, "panic", 1, "kind;detail")                                                                \
	X(LOST, "lost", 0, "count")

enum ft_event_type {
#define X(name, label, strings, fields) FT_EVENT_##name,
	FT_EVENTS(X)
#undef X
		FT_EVENT_TYPES
};

/* Who speaks. */
enum ft_event_role { FT_ROLE_LIVE, FT_ROLE_SEED, FT_ROLE_TRIAL, FT_ROLE_TWIN, FT_ROLES };

/* a[0] of TRIAL_END: why the run stopped. The first one is the only end a clean verdict can come from. */
#define FT_TRIAL_ENDS(X)                                                                                       \
	X(HORIZON, "horizon", "ran through its horizon of virtual time")                                       \
	X(WALL, "budget.wall", "wall-clock budget used up")                                                    \
	X(INSTRUCTIONS, "budget.instructions", "instruction budget used up")                                   \
	X(MEMORY, "budget.memory", "wrote more pages than its budget")                                         \
	X(NEVER_IDLE, "budget.handling", "did not come to rest after the input within the handling budget")    \
	X(RESET, "reset", "the clone reset or powered off")                                                    \
	X(TRIPLE_FAULT, "triple-fault", "the clone shut down by a triple fault")                               \
	X(KILLED, "killed", "the clone's process died")                                                        \
	X(ERROR, "error", "the clone could not be made or run")

enum ft_trial_end {
#define X(name, label, text) FT_TRIAL_END_##name,
	FT_TRIAL_ENDS(X)
#undef X
		FT_TRIAL_END_COUNT
};

#define FT_EVENT_MAX     4096u /* bytes of one record, strings included */
#define FT_EVENTS_MAX    8192u /* bytes of one message */
#define FT_EVENT_STRINGS 2u
#define FT_EVENT_ARGS    6u

struct ft_event {
	uint16_t type;       /* enum ft_event_type */
	uint8_t role;        /* enum ft_event_role */
	uint8_t strings;     /* how many follow; equals the table's count */
	uint32_t length;     /* whole record, header included */
	uint64_t trial;      /* number of the request (base/trial.h); 0 for the live guest */
	uint64_t sequence;   /* per writer, from 0, without gaps (LOST says how many were not sent) */
	uint64_t icount;     /* instructions since the machine's start */
	uint64_t vtime_ns;   /* the machine's virtual time */
	uint64_t cr3;        /* address space that acted; 0: none (device, machine) */
	int64_t pid;         /* guest's process id when known, else -1 */
	char process[16];    /* name of the acting process when known (NUL-padded, as comm) */
	uint64_t a[FT_EVENT_ARGS];
};

/* Where the first record of a message ends that has left bytes: what ft_event_check is to look at. */
size_t ft_event_first(const void *message, size_t left);

/* Checks one received record: type, role, length, string count, every string terminated inside the record.
 * strings[i] point into record. 0 or -EPROTO. */
int ft_event_check(const void *record, size_t length, struct ft_event *event,
		   const char *strings[FT_EVENT_STRINGS]);

/* Builds a record from event (type, role, trial, a[], ... set by the caller; strings and length filled here) and its
 * strings, cutting strings that would not fit. NULL counts as "". Returns the record's length; buffer holds
 * FT_EVENT_MAX bytes. Async-signal-safe, no allocation: clones call it under a tight seccomp filter. */
size_t ft_event_build(void *buffer, struct ft_event *event, const char *string0, const char *string1);

const char *ft_event_name(unsigned type);   /* "unknown" when out of range */
int ft_event_by_name(const char *name);     /* -1 when there is none */
/* Index of field `name` of the type: 0..5 for a[], 8 for string 0, 9 for string 1; -1 when there is none. */
int ft_event_field(unsigned type, const char *name);
/* The other way round: the field's name. False when the type has no such field. */
#define FT_EVENT_FIELD_NAME 32u
bool ft_event_field_name(unsigned type, int index, char name[FT_EVENT_FIELD_NAME]);
const char *ft_trial_end_label(unsigned end);
const char *ft_trial_end_text(unsigned end);
const char *ft_event_role_name(unsigned role); /* "live", "seed", "trial", "twin" */

#endif
