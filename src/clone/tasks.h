/* The processes of a Linux guest, read out of its memory: for who was not told of them system call by system call. Where what lies in
 * the kernel's structures its own type information says (BTF: Linux Documentation/bpf/btf.rst), which stock kernels carry.
 *
 * All of it is the guest's word, as names and process ids are in any case; every offset, count and pointer is bounded. Reads, never
 * writes. */
#ifndef FT_CLONE_TASKS_H
#define FT_CLONE_TASKS_H

#include "clone/process.h"
#include "vmm/memory.h"

#define FT_TASKS_MOST 1024u /* that are looked at */

struct ft_tasks {
	bool found;
	uint64_t first; /* physical address of the first task, init_task */
	uint32_t list, group, name, memory, top; /* task_struct.tasks, .tgid, .comm, .mm; mm_struct.pgd: bytes */
};

/* Looks for the type information and the first task, from where system calls enter the kernel on (IA32_LSTAR): tens of milliseconds.
 * False: there is none that makes sense, or not yet. */
bool ft_tasks_find(struct ft_tasks *tasks, const struct ft_memory *ram, uint64_t cr3, uint64_t lstar);

/* Fills the table with the processes that there are: address space, name, process id. How many. */
unsigned ft_tasks_read(const struct ft_tasks *tasks, const struct ft_memory *ram, uint64_t cr3, struct ft_processes *table);

#endif
