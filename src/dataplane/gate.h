/* The gate: what happens to each frame between the wires and the guests. It knows services, flows, holds and
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

#include "base/durable.h"
#include "base/error.h"
#include "base/link.h"
#include "base/reason.h"

#define FT_GATE_GUESTS  64u
#define FT_GATE_UPLINKS 16u

struct ft_gate;

/* guests.NAME.mtu: largest IP packet that a guest takes. Below 1280 there is no IPv6. */
#define FT_GUEST_MTU       1500u
#define FT_GUEST_MTU_LEAST 1280u
#define FT_GUEST_MTU_MOST  9000u

/* Where the gate's output goes. */
struct ft_gate_outlet {
	void *context;
	/* One frame to that uplink (copied by the callee). 0 or -errno: counted as lost. */
	int (*send)(void *context, unsigned uplink, const void *frame, size_t length);
	/* One record for the ledger (src/gateway/protocol.md); borrowed. */
	void (*record)(void *context, json_t *record);
	/* One line for the operator. level: error, warning, info. */
	void (*log)(void *context, const char *level, const char *text);
	/* What came of a self-test: service, result, why, took_ns (src/gateway/protocol.md); borrowed. May be NULL. */
	void (*canary)(void *context, json_t *result);
	unsigned kernel_side; /* a bit for each uplink whose frames may have partial checksums */
};

/* config: the dataplane's part (src/gateway/protocol.md); nothing of it is kept. Flow tables need a started
 * EAL. The caller frees *gate. */
int ft_gate_new(const json_t *config, const struct ft_gate_outlet *outlet, struct ft_gate **gate,
		struct ft_error *err);
void ft_gate_free(struct ft_gate *gate);

/* monotonic_ns never goes back; wall_ns is what records say. To be called before each round of work. */
void ft_gate_time(struct ft_gate *gate, uint64_t monotonic_ns, uint64_t wall_ns);

/* Where the ledger says what is durable: what log.commit: before-release waits for. Stays mapped as long as the gate. */
void ft_gate_durable(struct ft_gate *gate, const struct ft_durable *page);

/* A guest's new link: takes the descriptors over, also on failure. A link that was there before ends like
 * ft_gate_guest_down. */
int ft_gate_link(struct ft_gate *gate, const char *guest, const int fds[FT_LINK_FDS], struct ft_error *err);

/* The guest is gone: its holds end by policy, its flows are dead, its frames are counted as drop.guest-down.
 */
void ft_gate_guest_down(struct ft_gate *gate, const char *guest, const char *why);
/* It runs, restored from a snapshot, and gets its link when it is attached. Until then its frames are dropped under a reason of
 * their own. */
void ft_gate_guest_isolated(struct ft_gate *gate, const char *guest);

/* Frames that ft_gate_wire is about to be given, at most FT_GATE_AHEAD: what they will need is fetched. Changes nothing. */
#define FT_GATE_AHEAD 32u
void ft_gate_ahead(struct ft_gate *gate, unsigned uplink, uint8_t *const *frames, const uint32_t *lengths,
		   unsigned count);

/* One frame from an uplink (uplinks are counted from 0 in the order of the configuration). The bytes may be changed;
 * they are not kept. */
void ft_gate_wire(struct ft_gate *gate, unsigned uplink, void *data, size_t length);

/* Takes up to budget frames from the ring of each guest and up to budget events. Returns how many there were. */
unsigned ft_gate_guest(struct ft_gate *gate, unsigned budget);

/* What time brings: holds that gathered enough, trials out of time, flows that aged. Wakes the guests
 * for which frames were put. Returns the monotonic time of the next thing due (never later than a second ahead). */
uint64_t ft_gate_tick(struct ft_gate *gate);

/* Sleeping. fds gets the *count descriptors to poll for reading, -1 for none: of each guest its link's wake-up and its
 * events. False: there is work already, and nothing to be undone. After the sleep ft_gate_awake, with what was readable. */
#define FT_GATE_WAKES (2u * FT_GATE_GUESTS)
bool ft_gate_sleep(struct ft_gate *gate, int fds[FT_GATE_WAKES], unsigned *count);
void ft_gate_awake(struct ft_gate *gate, const bool readable[FT_GATE_WAKES]);

/* The gateway stops: every hold ends with release.shutdown or drop.shutdown. */
void ft_gate_stop(struct ft_gate *gate);

/* Answers to queries; new references. */
json_t *ft_gate_status(const struct ft_gate *gate, bool counters); /* counters: with those, as "counters" */
json_t *ft_gate_holds(const struct ft_gate *gate);
json_t *ft_gate_counters(const struct ft_gate *gate);

/* The port did not take that many frames. */
void ft_gate_lost(struct ft_gate *gate, unsigned frames);

/* How many packets had this reason, of all guests and of none. */
uint64_t ft_gate_count(const struct ft_gate *gate, enum ft_reason reason);

#endif
