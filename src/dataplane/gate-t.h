/* The gate's inside, for the files that make it up: gate.c (which way a frame goes), tcp.c and udp.c (inspected
 * services), hold.c (what is kept back), batch.c and trial.c (what the vmm is asked), guest.c (links, rings and events of the guests). */
#ifndef FT_DATAPLANE_GATE_T_H
#define FT_DATAPLANE_GATE_T_H

#include "dataplane/batch-t.h"
#include "dataplane/canary.h"
#include "dataplane/decision.h"
#include "dataplane/early.h"
#include "dataplane/fdb.h"
#include "dataplane/flow.h"
#include "dataplane/frame.h"
#include "dataplane/gate.h"
#include "dataplane/hold-t.h"
#include "dataplane/rulebook.h"
#include "dataplane/reassembly.h"
#include "dataplane/screen.h"
#include "dataplane/service.h"
#include "dataplane/suppress.h"
#include "detect/rules.h"
#include "detect/watch.h"

struct ft_guest {
	char name[64];
	uint8_t index; /* in gate->guests */
	uint8_t uplink;
	uint16_t vlan; /* FT_FDB_UNTAGGED, its number, or FT_FDB_TRUNK */
	uint8_t mac[6];
	bool any_mac; /* none configured: every frame is for it */
	bool has_canary, has_canary6;
	struct ft_address canary, canary6; /* whom the self-test of its services comes from (dataplane/canary.h) */
	uint32_t mtu; /* largest IP packet that its network card takes */
	struct ft_profile *profile; /* what is normal for it, for the watch */
	struct ft_watch *watch;     /* correlation rules over its live events */
	struct ft_link link;
	bool up;   /* the link is there and has not lied */
	bool isolated; /* it runs, and has no link: nobody reaches it until it is attached */
	bool kick; /* frames were put since the last kick */
	bool kick_cmd;
	uint64_t lost_events;
	uint64_t findings_until; /* monotonic end of the stretch of time that findings counts */
	unsigned findings;
	uint64_t events_due; /* when to look at the events' socket again */
	uint64_t counts[FT_REASON_COUNT];
	uint64_t held;   /* bytes of its held frames, and of what came early */
	struct ft_earlies early;
	uint32_t clones; /* slots of its vmm in use */
	uint64_t began;    /* when its last batch did */
	uint64_t trial_ns; /* what batches that are clean at once take lately, from the beginning to the verdict; 0: not known yet */
	struct ft_batch *batches;
	struct ft_batch_counts batch_counts;
	struct ft_hold *releasing; /* decided, in the order in which their frames go into the ring */
	struct ft_late *late;      /* resets that go behind them */
	bool settling;             /* more will be released with those */
};

struct ft_gate {
	struct ft_gate_outlet outlet;
	uint64_t now, wall;
	uint64_t counts[FT_REASON_COUNT]; /* of what is about no guest */
	struct ft_guest *about;           /* whom the work at hand is for: what is counted counts as its own */
	const struct ft_link_stamp *stamp; /* of the guest's frame that is being dealt with; NULL: it has none */
	struct ft_guest *guests;
	unsigned guest_count;
	struct ft_fdb fdb;
	struct ft_rulebook *book;    /* in force; the next few are its own */
	struct ft_rulebook *retired; /* that something under way still needs */
	struct ft_services services;
	bool bypass; /* of all services */
	struct ft_suppressions suppressions;
	struct ft_budgets budgets;
	struct ft_rules *verdict_rules, *correlation_rules;
	struct ft_patterns *patterns;
	struct ft_inspect *inspect;
	struct ft_flows *flows;
	struct ft_holds holds;
	struct ft_decisions decisions;
	struct ft_canary canary;
	struct ft_reassembly *reassembly;
	uint64_t partial_checksums; /* completed by us */
	uint64_t urgent_cleared;
	uint64_t next_sweep;
	uint64_t early_due; /* nothing to do about what came early before this time */
	uint8_t scratch[4 * FT_RING_RECORD_MAX]; /* frames from a guest's ring */
	uint8_t piece[FT_FRAME_MOST]; /* of a frame that is cut for a guest */
};

static inline void ft_gate_note_many(struct ft_gate *gate, enum ft_reason reason, uint32_t count)
{
	(gate->about ? gate->about->counts : gate->counts)[reason] += count;
}

static inline void ft_gate_note(struct ft_gate *gate, enum ft_reason reason)
{
	ft_gate_note_many(gate, reason, 1);
}

/* A frame for a guest that has no link. */
static inline void ft_gate_note_absent(struct ft_gate *gate, const struct ft_guest *guest)
{
	ft_gate_note(gate, guest->isolated ? FT_REASON_DROP_ISOLATED : FT_REASON_DROP_GUEST_DOWN);
}

/* Puts one frame into the guest's ring, cut to the guest's MTU if need be (dataplane/cut.h): all of it or nothing. 0, or
 * -errno with the loss counted. */
int ft_gate_deliver(struct ft_gate *gate, struct ft_guest *guest, const void *frame, size_t length);

/* Is there room for a frame of this length? (Asked before inspection, so that bytes are not inspected twice.) */
bool ft_gate_has_room(struct ft_guest *guest, size_t length);

/* Sends one frame of our own making in the guest's name: to the wire, or to the guest beside it that it is for. A loss
 * is counted. */
void ft_gate_emit(struct ft_gate *gate, struct ft_guest *guest, const void *frame, size_t length);

/* Frames of the guest that ft_gate_outbound is about to be given: as ft_gate_ahead. */
void ft_gate_ahead_outbound(struct ft_gate *gate, const struct ft_guest *guest, uint8_t *const *frames,
			    const uint32_t *lengths, unsigned count);

/* One frame out of the guest's ring; there are 4 writable bytes before it. */
void ft_gate_outbound(struct ft_gate *gate, struct ft_guest *guest, uint8_t *data, size_t length);

/* An event for the feed; rule may be NULL. */
void ft_gate_record(struct ft_gate *gate, const struct ft_guest *guest, const char *type, const char *text,
		    const struct ft_rule *rule);

/* The link's peer did what no honest peer does. */
void ft_gate_link_broken(struct ft_gate *gate, struct ft_guest *guest, const char *why);

/* The guest is no more: what was held for it ends by policy, and its connections are over. */
void ft_gate_end_link(struct ft_gate *gate, struct ft_guest *guest, const char *why);

void ft_gate_log(struct ft_gate *gate, const char *level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
