/* The gate: what happens to each frame between the wire and the guest. It knows services, flows, holds and
 * trials; of DPDK it knows only the function that sends a frame, so tests run it without a port.
 *
 * One thread. Time is what ft_gate_time was told last: nothing in here looks at a clock.
 *
 * The invariant that everything here serves: a frame of a held flow reaches the live guest only if a clone of
 * that guest has taken the same frames in the same order. */
#ifndef FT_DATAPLANE_GATE_H
#define FT_DATAPLANE_GATE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/link.h"
#include "base/reason.h"

struct ft_gate;

/* Where the gate's output goes. */
struct ft_gate_outlet {
	void *context;
	/* One frame to the wire (copied by the callee). 0 or -errno: counted as lost. */
	int (*send)(void *context, const void *frame, size_t length);
	/* One record for the ledger (src/gateway/protocol.md); borrowed. */
	void (*record)(void *context, json_t *record);
	/* One line for the operator. level: error, warning, info. */
	void (*log)(void *context, const char *level, const char *text);
	bool kernel_side; /* frames from the wire may have partial checksums */
};

/* config: the dataplane's part (src/gateway/protocol.md); nothing of it is kept. Flow tables need a started
 * EAL. The caller frees *gate. */
int ft_gate_new(const json_t *config, const struct ft_gate_outlet *outlet, struct ft_gate **gate,
		struct ft_error *err);
void ft_gate_free(struct ft_gate *gate);

/* monotonic_ns never goes back; wall_ns is what records say. To be called before each round of work. */
void ft_gate_time(struct ft_gate *gate, uint64_t monotonic_ns, uint64_t wall_ns);

/* A guest's new link: takes the descriptors over, also on failure. A link that was there before ends like
 * ft_gate_guest_down. */
int ft_gate_link(struct ft_gate *gate, const char *guest, const int fds[FT_LINK_FDS], struct ft_error *err);

/* The guest is gone: its holds end by policy, its flows are dead, its frames are counted as drop.guest-down.
 */
void ft_gate_guest_down(struct ft_gate *gate, const char *guest, const char *why);

/* One frame from the wire. The bytes may be changed; they are not kept. */
void ft_gate_wire(struct ft_gate *gate, void *data, size_t length);

/* Takes up to budget frames from the guest's ring and up to budget events. Returns how many there were. */
unsigned ft_gate_guest(struct ft_gate *gate, unsigned budget);

/* What time brings: holds that gathered enough, trials out of time, flows that aged. Wakes the guest if
 * frames were put. Returns the monotonic time of the next thing due (never later than a second ahead). */
uint64_t ft_gate_tick(struct ft_gate *gate);

/* Sleeping. fds gets the descriptors to poll for reading: the link's wake-up and its events (-1 for none). False: there
 * is work already. After the sleep ft_gate_awake, with what was readable. */
bool ft_gate_sleep(struct ft_gate *gate, int fds[2]);
void ft_gate_awake(struct ft_gate *gate, const bool readable[2]);

/* The gateway stops: every hold ends with release.shutdown or drop.shutdown. */
void ft_gate_stop(struct ft_gate *gate);

/* Answers to queries; new references. */
json_t *ft_gate_status(const struct ft_gate *gate);
json_t *ft_gate_holds(const struct ft_gate *gate);
json_t *ft_gate_counters(const struct ft_gate *gate);

/* The port did not take that many frames. */
void ft_gate_lost(struct ft_gate *gate, unsigned frames);

/* How many packets had this reason. */
uint64_t ft_gate_count(const struct ft_gate *gate, enum ft_reason reason);

#endif
