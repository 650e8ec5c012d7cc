#include "dataplane/lane.h"

#include <time.h>

#define GUEST_BUDGET 128u

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec t;
	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void from_wire(void *context, uint8_t *data, size_t length)
{
	struct ft_lane *lane = context;
	ft_gate_wire(lane->gate, data, length);
}

int ft_lane_send(void *lane, const void *frame, size_t length)
{
	struct ft_lane *here = lane;
	return ft_port_send(here->port, frame, length, &here->lost);
}

void ft_lane_burst(struct ft_lane *lane, bool wire, struct ft_lane_burst *burst)
{
	burst->now_ns = clock_ns(CLOCK_MONOTONIC);
	ft_gate_time(lane->gate, burst->now_ns, clock_ns(CLOCK_REALTIME));
	burst->work = wire ? ft_port_receive(lane->port, from_wire, lane) : 0;
	burst->work += ft_gate_guest(lane->gate, GUEST_BUDGET);
	burst->due_ns = ft_gate_tick(lane->gate);
	lane->lost += ft_port_flush(lane->port);
	if (lane->lost) {
		ft_gate_lost(lane->gate, lane->lost);
		lane->lost = 0;
	}
}
