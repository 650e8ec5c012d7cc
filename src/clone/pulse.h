/* What the live guest tells all the time: little, and never more than a bounded number of records a second. New
 * destinations it talks to, that packets and keys came in, how busy its CPU was. One thread. */
#ifndef FT_CLONE_PULSE_H
#define FT_CLONE_PULSE_H

#include "clone/observe.h"

#define FT_PULSE_WINDOW_NS 1000000000ull
#define FT_PULSE_SEEN      256u /* different records of a kind in one window */
#define FT_PULSE_PEERS     256u /* places for who sent datagrams; 2^n */

struct ft_pulse {
	struct ft_observer *observer;
	uint64_t window_ns; /* wall time at which the window began */
	uint64_t busy_ns;   /* of it */
	uint64_t missed;    /* records that the window had no room for */
	unsigned seen_count;
	uint64_t seen[FT_PULSE_SEEN];
	/* Address, port and the guest's port of who sent it a datagram: what goes back there is an answer and opens nothing. Each
	 * has one place, and the last one there counts: a peer that is forgotten makes an answer look like an opening, as all
	 * did without this; never the reverse. */
	uint64_t peers[FT_PULSE_PEERS];
};

void ft_pulse_begin(struct ft_pulse *pulse, struct ft_observer *observer, uint64_t wall_ns);
void ft_pulse_frame(struct ft_pulse *pulse, const void *frame, size_t length, bool received);
void ft_pulse_key(struct ft_pulse *pulse, uint8_t scancode);

/* The guest ran for busy_ns until wall_ns. At the end of a window the summary is told. */
void ft_pulse_ran(struct ft_pulse *pulse, uint64_t busy_ns, uint64_t wall_ns);

#endif
