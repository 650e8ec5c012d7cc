/* The guests' ends of the gate: links, rings, events, and sleeping on all of them. A guest or a vmm that lies, floods or
 * dies costs that guest alone. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/event.h"
#include "dataplane/gate-t.h"
#include "dataplane/hold.h"

/* Rules keep quiet by the guest's time, and that is what its process says it is: so no more findings than this in ten seconds
 * of ours, or a lying one could fill the feed. */
#define FINDINGS_MOST 16u
#define FINDINGS_NS   10000000000ull

/* Between two looks at the events' socket while frames flow. A trial waits for what its clone says; what the live guest says
 * waits for nobody, and its socket holds some hundred events. A look costs as much as ten frames. */
#define EVENTS_TRIAL_NS 50000u
#define EVENTS_LIVE_NS  500000u
#define SLEEP_NS        900000u /* a little less than the longest sleep of the process */

/* ---- frames and events ---- */

#define TAG_ROOM 64u /* before each frame: 4 bytes for a VLAN tag, and a cache line's beginning kept */

/* Frames that were taken off the ring together. */
struct batch {
	uint8_t *frames[FT_GATE_AHEAD];
	uint32_t lengths[FT_GATE_AHEAD];
	struct ft_link_stamp stamps[FT_GATE_AHEAD];
	bool stamped[FT_GATE_AHEAD];
	unsigned count;
	const char *broken; /* what is wrong behind them, or NULL */
};

/* What a frame says of its place in its guest's journal; whose it is we know. */
static void take_stamp(const struct ft_guest *guest, const uint8_t *from, struct ft_link_stamp *stamp)
{
	memcpy(stamp, from, sizeof(*stamp));
	memset(stamp->guest, 0, sizeof(stamp->guest));
	memcpy(stamp->guest, guest->name, strnlen(guest->name, sizeof(stamp->guest) - 1));
}

static void take_batch(struct ft_gate *gate, struct ft_guest *guest, unsigned most, struct batch *batch)
{
	uint8_t *to = gate->scratch + TAG_ROOM, *end = gate->scratch + sizeof(gate->scratch);
	batch->count = 0;
	batch->broken = NULL;
	while (batch->count < most && batch->count < FT_GATE_AHEAD && end - to >= FT_RING_RECORD_MAX) {
		uint32_t kind;
		long length = ft_ring_get(&guest->link.tx, &kind, to, FT_RING_RECORD_MAX);
		if (length == -EAGAIN)
			return;
		if (length < 0)
			batch->broken = "its transmit ring has an impossible index or record";
		else if (kind != FT_LINK_FRAME && kind != FT_LINK_FRAME_STAMPED)
			batch->broken = "its transmit ring has a record of an unknown kind";
		else if (kind == FT_LINK_FRAME_STAMPED && length < (long)sizeof(struct ft_link_stamp))
			batch->broken = "its transmit ring has a frame without its stamp";
		if (batch->broken)
			return;
		size_t skip = kind == FT_LINK_FRAME_STAMPED ? sizeof(struct ft_link_stamp) : 0;
		batch->stamped[batch->count] = skip != 0;
		if (skip)
			take_stamp(guest, to, &batch->stamps[batch->count]);
		batch->frames[batch->count] = to + skip;
		batch->lengths[batch->count++] = (uint32_t)(length - (long)skip);
		to += (length + 63) / 64 * 64 + TAG_ROOM;
	}
}

static unsigned take_frames(struct ft_gate *gate, struct ft_guest *guest, unsigned budget)
{
	unsigned count = 0;
	while (count < budget && guest->up) {
		struct batch batch;
		take_batch(gate, guest, budget - count, &batch);
		ft_gate_ahead_outbound(gate, guest, batch.frames, batch.lengths, batch.count);
		/* An answer to one of them may find the link broken: the rest is lost with it. */
		for (unsigned i = 0; i < batch.count; i++)
			if (guest->up) {
				gate->stamp = batch.stamped[i] ? &batch.stamps[i] : NULL;
				ft_gate_outbound(gate, guest, batch.frames[i], batch.lengths[i]);
				gate->stamp = NULL;
			} else {
				ft_gate_note(gate, FT_REASON_DROP_GUEST_DOWN);
			}
		count += batch.count;
		if (batch.broken) {
			ft_gate_link_broken(gate, guest, batch.broken);
			return count + 1;
		}
		if (!batch.count)
			break;
	}
	return count;
}

static void on_correlation(void *context, const struct ft_rule *rule, const struct ft_event *event,
			   const char *const *strings, uint64_t since_ns)
{
	struct ft_gate *gate = context;
	struct ft_guest *guest = gate->about;
	if (gate->now >= guest->findings_until) {
		guest->findings_until = gate->now + FINDINGS_NS;
		guest->findings = 0;
	}
	if (guest->findings++ < FINDINGS_MOST)
		ft_gate_record(gate, guest, "correlation", rule->text, rule);
	else if (guest->findings == FINDINGS_MOST + 1)
		ft_gate_log(gate, "warning", "guest %s: more findings than %u in %llu s, the rest is not told",
			    guest->name, FINDINGS_MOST, FINDINGS_NS / 1000000000u);
}

static void take_event(struct ft_gate *gate, struct ft_guest *guest, const uint8_t *record, size_t length)
{
	struct ft_event event;
	const char *strings[FT_EVENT_STRINGS];
	if (ft_event_check(record, length, &event, strings)) {
		ft_gate_link_broken(gate, guest, "it sent an event that is none");
		return;
	}
	if (event.type == FT_EVENT_LOST)
		guest->lost_events += event.a[0];
	if (event.trial)
		ft_hold_event(gate, guest, &event, strings);
	else if (event.role == FT_ROLE_LIVE)
		ft_watch_event(guest->watch, &event, strings, on_correlation, gate);
}

static unsigned take_events(struct ft_gate *gate, struct ft_guest *guest, unsigned budget)
{
	uint8_t message[FT_EVENTS_MAX + 1];
	unsigned count = 0;
	/* Whole messages: nothing is left over for the next time. */
	while (count < budget && guest->up) {
		ssize_t n = recv(guest->link.events, message, sizeof(message), MSG_DONTWAIT);
		if (n < 0)
			break;
		if (n == 0) {
			/* Every writer has closed its end: the vmm and all its children are gone. */
			ft_gate_link_broken(gate, guest, "its processes are gone");
			break;
		}
		for (size_t at = 0, length; at < (size_t)n && guest->up; at += length, count++) {
			length = ft_event_first(message + at, (size_t)n - at);
			take_event(gate, guest, message + at, length);
		}
	}
	return count;
}

static unsigned take(struct ft_gate *gate, struct ft_guest *guest, unsigned budget)
{
	if (!guest->up)
		return 0;
	gate->about = guest;
	unsigned frames = take_frames(gate, guest, budget), events = 0;
	/* A look costs a system call, so while frames flow it is taken now and then; a sleeper is woken by it. */
	if (guest->up && gate->now >= guest->events_due) {
		events = take_events(gate, guest, budget);
		guest->events_due = events ? 0 : gate->now + (guest->clones ? EVENTS_TRIAL_NS : EVENTS_LIVE_NS);
	}
	gate->about = NULL;
	return frames + events;
}

unsigned ft_gate_guest(struct ft_gate *gate, unsigned budget)
{
	unsigned count = 0;
	for (unsigned i = 0; i < gate->guest_count; i++)
		count += take(gate, &gate->guests[i], budget);
	return count;
}

/* ---- links ---- */

static struct ft_guest *find(struct ft_gate *gate, const char *name)
{
	for (unsigned i = 0; name && i < gate->guest_count; i++)
		if (!strcmp(gate->guests[i].name, name))
			return &gate->guests[i];
	return NULL;
}

static void kill_flow(void *context, struct ft_flow *flow)
{
	struct ft_gate *gate = context;
	if (!flow->dead && flow->guest == gate->about)
		ft_flow_kill(gate, flow);
}

void ft_gate_end_link(struct ft_gate *gate, struct ft_guest *guest, const char *why)
{
	if (!guest->up)
		return;
	struct ft_guest *before = gate->about;
	gate->about = guest;
	guest->up = false;
	ft_holds_end(gate, guest, true, why);
	ft_flows_each(gate->flows, kill_flow, gate);
	ft_link_close(&guest->link);
	gate->about = before;
}

void ft_gate_link_broken(struct ft_gate *gate, struct ft_guest *guest, const char *why)
{
	if (!guest->up)
		return;
	char text[256];
	snprintf(text, sizeof(text), "the link to guest %s is cut: %s", guest->name, why);
	ft_gate_log(gate, "error", "%s", text);
	ft_gate_record(gate, guest, "error", text, NULL);
	ft_gate_end_link(gate, guest, text);
}

int ft_gate_link(struct ft_gate *gate, const char *name, const int fds[FT_LINK_FDS], struct ft_error *err)
{
	struct ft_link link;
	struct ft_guest *guest = find(gate, name);
	int error = ft_link_open(&link, FT_LINK_DATAPLANE, fds, err);
	if (error)
		return error;
	if (!guest) {
		ft_link_close(&link);
		return ft_error_set(err, -ENOENT, "a link for guest \"%.60s\", which is not configured",
				    name);
	}
	ft_gate_end_link(gate, guest, "the guest was started again");
	guest->link = link;
	guest->up = true;
	guest->isolated = false;
	return 0;
}

void ft_gate_guest_down(struct ft_gate *gate, const char *name, const char *why)
{
	struct ft_guest *guest = find(gate, name);
	if (!guest)
		return;
	ft_gate_end_link(gate, guest, why ? why : "the guest is down");
	guest->isolated = false;
}

void ft_gate_guest_isolated(struct ft_gate *gate, const char *name)
{
	struct ft_guest *guest = find(gate, name);
	if (!guest)
		return;
	ft_gate_end_link(gate, guest, "the guest was started from a snapshot, its network isolated");
	guest->isolated = true;
}

/* ---- sleep ---- */

bool ft_gate_sleep(struct ft_gate *gate, int fds[FT_GATE_WAKES], unsigned *count)
{
	*count = 2 * gate->guest_count;
	for (unsigned i = 0; i < gate->guest_count; i++) {
		struct ft_guest *guest = &gate->guests[i];
		fds[2 * i] = guest->up ? guest->link.wake_own : -1;
		fds[2 * i + 1] = guest->up ? guest->link.events : -1;
		if (!guest->up || ft_ring_sleep(&guest->link.tx))
			continue;
		while (i-- > 0)
			if (gate->guests[i].up)
				ft_ring_awake(&gate->guests[i].link.tx);
		return false;
	}
	return true;
}

void ft_gate_awake(struct ft_gate *gate, const bool readable[FT_GATE_WAKES])
{
	for (unsigned i = 0; i < gate->guest_count; i++) {
		struct ft_guest *guest = &gate->guests[i];
		uint64_t kicks;
		if (!guest->up)
			continue;
		ft_ring_awake(&guest->link.tx);
		if (readable[2 * i] && read(guest->link.wake_own, &kicks, sizeof(kicks)) < 0 &&
		    errno != EAGAIN)
			ft_gate_link_broken(gate, guest, "its eventfd is broken");
		/* While it sleeps, the poll tells about events; without a word from it there are none. */
		guest->events_due = readable[2 * i + 1] ? 0 : gate->now + SLEEP_NS;
	}
}
