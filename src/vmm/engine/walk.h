/* A guest's page tables, walked from outside: 4-level paging, SDM Vol. 3A 4.5. Leaves no trace: no accessed bits are set. */
#ifndef FT_VMM_ENGINE_WALK_H
#define FT_VMM_ENGINE_WALK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm/memory.h"

/* Physical address of va in address space cr3; user: only if user code may read it. */
bool ft_walk(const struct ft_memory *ram, uint64_t cr3, uint64_t va, bool user, uint64_t *gpa);

/* Copies out of it: bytes before the first that are not there. */
size_t ft_walk_read(const struct ft_memory *ram, uint64_t cr3, uint64_t va, bool user, void *to, size_t length);

/* Kernels that isolate their page tables from user code (Linux's PTI) have two for each process, side by side: the kernel's, with all of it,
 * in the even page, and in the odd page that which user code runs on, with the same user memory and next to nothing of the kernel. Does
 * cr3 name one of such a pair? The even one then serves for both, and for the process's identity. */
bool ft_walk_isolated(const struct ft_memory *ram, uint64_t cr3);
#define FT_WALK_PAIR 0x1fffull

#endif
