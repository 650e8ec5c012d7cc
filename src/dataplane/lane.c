#include "dataplane/lane.h"

#include <time.h>

#define GUEST_BUDGET 128u

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec t;
	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

struct uplink {
	struct ft_gate *gate;
	unsigned index;
};

static void ahead_of_wire(void *context, uint8_t *const *data, const uint32_t *lengths, unsigned count)
{
	const struct uplink *uplink = context;
	_Static_assert(FT_PORT_BURST <= FT_GATE_AHEAD, "a burst is looked at as a whole");
	ft_gate_ahead(uplink->gate, uplink->index, data, lengths, count);
}

static void from_wire(void *context, uint8_t *data, size_t length)
{
	const struct uplink *uplink = context;
	ft_gate_wire(uplink->gate, uplink->index, data, length);
}

int ft_lane_send(void *lane, unsigned uplink, const void *frame, size_t length)
{
	struct ft_lane *here = lane;
	return ft_port_send(&here->ports[uplink], frame, length, &here->lost);
}

void ft_lane_burst(struct ft_lane *lane, bool wire, struct ft_lane_burst *burst)
{
	burst->now_ns = clock_ns(CLOCK_MONOTONIC);
	ft_gate_time(lane->gate, burst->now_ns, clock_ns(CLOCK_REALTIME));
	burst->work = 0;
	for (unsigned i = 0; wire && i < lane->port_count; i++)
		burst->work += ft_port_receive(&lane->ports[i], ahead_of_wire, from_wire,
					       &(struct uplink){lane->gate, i});
	burst->work += ft_gate_guest(lane->gate, GUEST_BUDGET);
	burst->due_ns = ft_gate_tick(lane->gate);
	for (unsigned i = 0; i < lane->port_count; i++)
		lane->lost += ft_port_flush(&lane->ports[i]);
	if (lane->lost) {
		ft_gate_lost(lane->gate, lane->lost);
		lane->lost = 0;
	}
}
