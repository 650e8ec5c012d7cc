/* A lane: the ports and the gate behind them. A burst is what the dataplane does again and again: frames of the ports, frames
 * and events of the guests, what time brings, and all that came of it sent. The process loops over it, and so does the
 * benchmark that times it (tests/bench/bench-path.c).
 *
 * One thread. Ports and gate are the caller's. A port's index is its uplink's number for the gate. */
#ifndef FT_DATAPLANE_LANE_H
#define FT_DATAPLANE_LANE_H

#include "dataplane/gate.h"
#include "dataplane/port.h"

struct ft_lane {
	struct ft_port *ports;
	unsigned port_count;
	struct ft_gate *gate;
	unsigned lost; /* frames that a port did not take, not yet counted */
};

/* What one burst did. */
struct ft_lane_burst {
	uint64_t now_ns; /* monotonic, when it began */
	uint64_t due_ns; /* when the gate has something to do next */
	unsigned work;   /* frames and events */
};

/* wire: take frames from the ports as well. */
void ft_lane_burst(struct ft_lane *lane, bool wire, struct ft_lane_burst *burst);

/* The gate's outlet for frames (struct ft_gate_outlet); context: the lane. */
int ft_lane_send(void *lane, unsigned uplink, const void *frame, size_t length);

#endif
