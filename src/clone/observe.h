/* The observer: turns what the machine's hooks show into events.
 *
 * It sits on the live machine from its first instruction, where it only keeps book of processes (who runs in which
 * address space) and tells little. A clone inherits that book with its memory and tells everything.
 *
 * It reads the guest through `source` and never writes to it. All it knows is bounded: the guest chooses how much
 * happens, not how much we keep. One thread, the machine's. */
#ifndef FT_CLONE_OBSERVE_H
#define FT_CLONE_OBSERVE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "clone/files.h"
#include "clone/process.h"
#include "clone/report.h"

#define FT_OBSERVE_CALLS    128u /* system calls under way that we wait for */
#define FT_OBSERVE_STRING   512u
#define FT_OBSERVE_SOCKETS  32u
#define FT_OBSERVE_SYSCALLS 512u /* records of ordinary system calls in one clone */
#define FT_OBSERVE_SWITCHES 64u  /* records of address space switches in one clone */
#define FT_OBSERVE_READS    256u /* records of disk reads in one clone */
#define FT_OBSERVE_RINGS    16u  /* records of uses of io_uring in one clone */
#define FT_OBSERVE_PAGES    256u /* records of code run from written pages in one clone */

/* Where the observer looks. */
struct ft_observe_source {
	void *context;
	/* Guest virtual memory with user rights in address space cr3: bytes read before the first that cannot be. */
	size_t (*peek)(void *context, uint64_t cr3, uint64_t va, void *to, size_t length);
	void (*now)(void *context, uint64_t *icount, uint64_t *vtime_ns);
	/* Has the kernel page tables of its own beside those of this address space (vmm/engine/walk.h)? NULL: it has not. */
	bool (*isolated)(void *context, uint64_t cr3);
};

/* Whether the guest's kernel does so is known once user code has been seen, and stays. */
enum ft_observe_isolation { FT_OBSERVE_UNKNOWN, FT_OBSERVE_SHARED, FT_OBSERVE_ISOLATED };

/* A system call between its entry and its return. Returns are matched by address space and stack pointer. */
struct ft_observe_call {
	uint64_t cr3; /* 0: free */
	uint64_t rsp, rip, began;
	uint16_t nr;
	uint64_t args[6];
	bool has_strings;
	bool child_ran;     /* fork: the child has returned to user mode */
	bool parent_ran;    /* fork: the parent has */
	int64_t child_pid;  /* fork: once the parent has */
	uint64_t child_cr3; /* fork: once the child has; execve: the address space last switched to */
	uint64_t flags;
	char first[FT_OBSERVE_STRING], second[FT_OBSERVE_STRING];
};

struct ft_observe_socket {
	uint64_t cr3, fd, family, address, port;
	char text[64];
};

struct ft_observer {
	struct ft_observe_source source;
	struct ft_report *report;
	bool clone; /* tell everything */
	const struct ft_trial_flow *held; /* clone: the flows whose input is tried, borrowed for the run */
	uint32_t held_count;
	uint64_t cr3; /* where tables are isolated the kernel's, whoever runs */
	enum ft_observe_isolation isolation;
	bool user_seen; /* some user code has made a system call: the guest's userland is there */
	struct ft_processes processes;
	struct ft_observe_call calls[FT_OBSERVE_CALLS];
	unsigned calls_used; /* no entry in use at or beyond it */
	uint64_t calls_clock;
	struct ft_observe_socket sockets[FT_OBSERVE_SOCKETS];
	unsigned next_socket;
	struct ft_files files; /* of a clone: since the fork */
	int64_t last_death;
	unsigned syscalls_told, switches_told, reads_told, rings_told, pages_told;
	uint64_t switches;
	char line[FT_OBSERVE_STRING];
	unsigned line_length;
};

void ft_observe_begin(struct ft_observer *o, const struct ft_observe_source *source, struct ft_report *report,
		      uint64_t cr3);

/* The CPU is in this address space, by its register. */
void ft_observe_at(struct ft_observer *o, uint64_t cr3);

/* From here on everything is told, to another writer. In a clone, before its first instruction. */
void ft_observe_become_clone(struct ft_observer *o, struct ft_report *report);

/* Tells what is known only once no more is to come: calls under way that may have succeeded, unresolved faults, the
 * rest of a console line. cut: the guest was stopped in the middle of its work, so that a page fault of this moment is no
 * death: its page may have been on the way. */
void ft_observe_end(struct ft_observer *o, bool cut);

/* The hooks, as in vmm/machine.h. */
void ft_observe_syscall(struct ft_observer *o, uint64_t nr, const uint64_t args[6], uint64_t rip,
			uint64_t rsp);
void ft_observe_sysret(struct ft_observer *o, uint64_t rax, uint64_t rip, uint64_t rsp);
void ft_observe_cr3(struct ft_observer *o, uint64_t old, uint64_t new);
void ft_observe_fault(struct ft_observer *o, unsigned vector, uint32_t error, uint64_t address, uint64_t rip);
void ft_observe_exec_page(struct ft_observer *o, uint64_t rip, uint64_t gpa, uint8_t page_flags,
			  uint64_t pte_flags);
void ft_observe_net_tx(struct ft_observer *o, const void *frame, size_t length);
void ft_observe_disk(struct ft_observer *o, bool write, uint64_t sector, uint32_t sectors);
void ft_observe_console(struct ft_observer *o, const char *bytes, size_t length);

/* Sends an event about the machine (no process); used by the live loop, too. */
void ft_observe_tell(struct ft_observer *o, enum ft_event_type type, const uint64_t *values, unsigned count,
		     const char *string0, const char *string1);

/* Text of guest bytes: what is not printable ASCII becomes \xNN. Cuts at size - 1. */
void ft_observe_printable(const char *bytes, size_t length, char *to, size_t size);

/* Reads addresses out of an IPv4 or IPv6 frame, tagged or not: fills values {length, protocol, daddr, dport, sport, opens} (received: source
 * and destination change places) and "address:port" or "[address]:port". opens: the sender begins something itself, as far as one frame
 * can tell: a SYN, an echo request, a datagram from no well-known port. False for other frames. */
bool ft_observe_frame(const void *frame, size_t length, bool received, uint64_t values[6], char text[64]);

#endif
