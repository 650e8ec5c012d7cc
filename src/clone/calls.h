/* The guest's system calls that mean something to the observer: x86-64 numbers (Linux
 * arch/x86/entry/syscalls/syscall_64.tbl) and how to read their arguments. */
#ifndef FT_CLONE_CALLS_H
#define FT_CLONE_CALLS_H

#include <stdint.h>

enum ft_call_kind {
	FT_CALL_OTHER,
	/* Book-keeping, on the live machine, too. */
	FT_CALL_EXEC,
	FT_CALL_FORK,
	FT_CALL_EXIT,
	FT_CALL_IDENTITY, /* returns the caller's process id */
	FT_CALL_DIRECTORY,
	FT_CALL_DIRECTORY_FD,
	FT_CALL_NAME,
	/* Clones only. */
	FT_CALL_THREAD_EXIT,
	FT_CALL_WAIT,
	FT_CALL_SIGNAL,
	FT_CALL_CONNECT,
	FT_CALL_BIND,
	FT_CALL_LISTEN,
	FT_CALL_FILE,
	FT_CALL_RING,    /* told, but a few times only: who uses a ring does so all the time */
	FT_CALL_NOTABLE, /* told always, as it is */
	FT_CALL_HOT      /* never told: too many, and they say nothing by themselves */
};

/* A call on files. Arguments by index; -1: there is none. A directory without a path is the descriptor of the file itself.
 * Of links, path is what they lead to and path2 their name. */
struct ft_call_file {
	uint16_t nr;
	uint8_t event; /* enum ft_event_type */
	int8_t directory, path, directory2, path2;
	int8_t value;   /* flags or mode */
	uint32_t fixed; /* instead, when value is -1 */
};

enum ft_call_kind ft_call_kind(uint64_t nr);
const struct ft_call_file *ft_call_file(uint64_t nr);

#endif
