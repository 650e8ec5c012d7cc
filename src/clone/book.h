/* What an observer on a live machine knows at a moment, as bytes: who runs in which address space, and which system calls are under
 * way (clone/observe.h). It is no part of the machine's state, since nothing that the guest does depends on it; but what a clone's
 * evidence says does. So it is kept beside the state, in checkpoints and in the snapshots of seeds.
 *
 * Bytes, little endian: u32 version, u32 flags (1: user code has been seen), u64 cr3, u64 and u64 the clocks of processes and calls,
 * u32 processes, u32 calls; then of each process u16 its place in the table, u8 and u16 lengths of name and directory, u64 cr3, used,
 * born_of, i64 pid, and the two texts; of each call u16 place, u16 number, u8 flags (1: has strings, 2: the child ran, 4: the parent
 * did), u16 and u16 lengths of its strings, u64 cr3, rsp, rip, began, args[6], child_cr3, flags, i64 child_pid, and the two strings.
 * Places ascend. */
#ifndef FT_CLONE_BOOK_H
#define FT_CLONE_BOOK_H

#include "base/error.h"
#include "clone/observe.h"

/* *bytes is the caller's to free. 0 or -ENOMEM. */
int ft_book_save(const struct ft_observer *o, uint8_t **bytes, size_t *length);

/* Into an observer that has just begun (ft_observe_begin, ft_witness_live). -EBADMSG: these are none; the observer knows nothing then. */
int ft_book_load(struct ft_observer *o, const uint8_t *bytes, size_t length, struct ft_error *err);

#endif
