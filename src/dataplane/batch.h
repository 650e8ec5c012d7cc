/* What is done with batches: what the vmm is asked over the link's command ring (base/trial.h), and what its answers come to.
 * Of what becomes of the members' frames it knows nothing: that is hold.c's.
 *
 * A batch of several holds is a group test. Its first run tries all members together. When that is clean, all are cleared; when
 * not, further runs of the same seed look for the fewest members, from the first on, with which it is not. What is cleared is
 * always exactly what one run took together, in that order: a run is clean when its case is, and the guest has answered each of
 * its flows (a server with one worker may acknowledge them all and handle the first alone). The member that made the difference
 * is not judged by that: it is tried alone, on a seed of its own. A budget that a group uses up decides nothing about anybody.
 *
 * A batch goes through FT_BATCH_ASK and FT_BATCH_RUN with its members, and then ends: the members leave it, and what is left
 * waits for its seed to be gone. */
#ifndef FT_DATAPLANE_BATCH_H
#define FT_DATAPLANE_BATCH_H

#include "base/event.h"
#include "dataplane/gate-t.h"

/* The vmm keeps the wall-clock budget; this much later we stop believing that it will answer. */
#define FT_BATCH_GRACE_NS 3000000000ull

/* A batch of these holds (1 to FT_TRIAL_FLOWS, all of one service and rulebook), which gets a clone of its own: they are its
 * members from here on. NULL: no memory, and nothing changed. */
struct ft_batch *ft_batch_open(struct ft_gate *gate, struct ft_hold *const *members, unsigned count);

/* Says as much as there is room for of what there is to say. 0 when all is said, -EAGAIN when the ring is full (call again),
 * -EPROTO when the link is dead. */
int ft_batch_say(struct ft_gate *gate, struct ft_batch *batch);

/* Budgets of each of its runs. A group's run has a quarter of the wall time, since a member that uses it up keeps all the
 * others waiting; and instructions to handle its inputs in proportion to their number, within bounds. The memory is the same: it
 * is what the operator has said that a clone may cost. */
uint64_t ft_batch_wall(const struct ft_gate *gate, const struct ft_batch *batch);
uint64_t ft_batch_handling(const struct ft_gate *gate, const struct ft_batch *batch);

/* The guest's batch with this number, or NULL. */
struct ft_batch *ft_batch_find(const struct ft_guest *guest, uint64_t number);

enum ft_batch_step {
	FT_BATCH_RUNS,   /* nothing to do */
	FT_BATCH_JUDGED, /* one member: its case has the verdict. Several: the first batch->cleared of them are clean, says
			  * batch->clean, and if there is one behind them, it is the one that made the difference */
	FT_BATCH_FAILED  /* of several: the first batch->cleared are clean, and of the others nothing will be known */
};

/* An event of its seed or of a run of it. */
enum ft_batch_step ft_batch_event(struct ft_gate *gate, struct ft_batch *batch, struct ft_event *event,
				  const char *const *strings);

/* Its members leave it, and its seed is no longer needed. */
void ft_batch_end(struct ft_gate *gate, struct ft_batch *batch);

/* Its seed is gone, or will not be waited for any longer. For a batch without members. */
void ft_batch_over(struct ft_gate *gate, struct ft_batch *batch);

/* Frees those that are over. */
void ft_batch_collect(struct ft_gate *gate);

/* Sets "batches" (by size), "runs", "searches" and "dissolved" of an object. */
void ft_batch_tell(const struct ft_batch_counts *counts, json_t *object);

#endif
