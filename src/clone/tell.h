/* How a finished system call becomes an event. Between observe.c, which sees and matches, and the reports. */
#ifndef FT_CLONE_TELL_H
#define FT_CLONE_TELL_H

#include "clone/calls.h"
#include "clone/observe.h"

/* The process that acts now; NULL when its address space was never seen to act. */
struct ft_process *ft_tell_process(struct ft_observer *o);

/* Sends an event that acting process (may be NULL) of address space cr3 caused. */
void ft_tell_as(struct ft_observer *o, const struct ft_process *process, uint64_t cr3,
		enum ft_event_type type, const uint64_t *values, unsigned count, const char *string0,
		const char *string1);

/* A NUL-terminated guest string, made printable. False when none of it can be read now. */
bool ft_tell_string(struct ft_observer *o, uint64_t cr3, uint64_t va, char *to, size_t size);

/* Reads the strings of a call whose arguments are in memory, if they can be read by now. */
void ft_tell_strings(struct ft_observer *o, struct ft_observe_call *call);

/* The call has returned (for execve: succeeded or failed) with result. */
void ft_tell_call(struct ft_observer *o, const struct ft_observe_call *call, uint64_t result);

/* The acting process maps a file to run code of it: told when the file is new, or nobody knows which it is. */
void ft_tell_mapped(struct ft_observer *o, uint64_t fd, uint64_t protection);

/* A call that is told at its entry, as it is. */
void ft_tell_syscall(struct ft_observer *o, uint64_t nr, const uint64_t args[6]);

/* The page fault that process was not seen to survive; it is told only now, of the moment when it happened. */
void ft_tell_fault(struct ft_observer *o, struct ft_process *process);

/* The signal that the process must have died of: its last exception, and nothing after it. */
void ft_tell_end(struct ft_observer *o, struct ft_process *process);

#endif
