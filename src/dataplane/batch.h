/* What is done with batches: what the vmm is asked over the link's command ring (base/trial.h), and what its answers come to.
 * Of what becomes of the members' frames it knows nothing: that is hold.c's.
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

/* The guest's batch with this number, or NULL. */
struct ft_batch *ft_batch_find(const struct ft_guest *guest, uint64_t number);

enum ft_batch_step {
	FT_BATCH_RUNS,  /* nothing to do */
	FT_BATCH_JUDGED /* the case has its verdict */
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

#endif
