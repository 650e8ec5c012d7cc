/* What is known of the guest's processes, seen from outside: an address space (CR3) with the name of the program that
 * runs in it, its process id and its working directory, as far as its system calls told.
 *
 * A guess that is kept honest: an address space may be reused after its process died, and a process that was there
 * before we looked has no name. A bounded table; the least recently used entry of a bucket makes room. */
#ifndef FT_CLONE_PROCESS_H
#define FT_CLONE_PROCESS_H

#include <stdbool.h>
#include <stdint.h>

#define FT_PROCESS_NAME    16u
#define FT_PROCESS_PATH    256u
#define FT_PROCESS_BUCKETS 64u
#define FT_PROCESS_WAYS    8u

struct ft_process {
	uint64_t cr3; /* 0: free */
	uint64_t used;
	uint64_t born_of; /* the address space that called execve, until the process id is known */
	int64_t pid;      /* -1: unknown */
	char name[FT_PROCESS_NAME];
	char directory[FT_PROCESS_PATH]; /* absolute; empty: unknown */
	/* The last exception of user code after which it was not seen to run again. */
	bool faulted;
	uint8_t fault_vector;
	uint32_t fault_error;
	uint64_t fault_address, fault_rip, fault_icount, fault_ns;
};

struct ft_processes {
	uint64_t clock;
	struct ft_process entries[FT_PROCESS_BUCKETS * FT_PROCESS_WAYS];
};

void ft_processes_clear(struct ft_processes *table);
struct ft_process *ft_process_find(struct ft_processes *table, uint64_t cr3);
struct ft_process *ft_process_find_pid(struct ft_processes *table, int64_t pid);

/* The entry of cr3, made anew (unknown pid, name and directory) when there was none. Never NULL. */
struct ft_process *ft_process_get(struct ft_processes *table, uint64_t cr3);

/* cr3 is a copy of from (may be NULL) now: fork, or the new image of execve. Whatever cr3 was before is forgotten. */
struct ft_process *ft_process_copy(struct ft_processes *table, uint64_t cr3, const struct ft_process *from);

/* The last component of path, as the kernel names a process after execve. */
void ft_process_set_name(struct ft_process *process, const char *path);

/* Puts the absolute form of path, as process sees it, into to. A path that cannot be made absolute stays as it is. */
void ft_process_resolve(const struct ft_process *process, const char *path, char *to, uint32_t size);

#endif
