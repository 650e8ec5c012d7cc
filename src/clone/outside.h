/* The outside of a clone: a small model of the network, inside the clone's own process. Frames in, frames out, a fixed
 * virtual delay between them; no socket, no host time, no randomness. What it answers is a function of what the guest
 * sent and of its configuration, so the same clone meets the same outside.
 *
 *  - ARP and IPv6 neighbour solicitations: somebody is there (never for the guest's own addresses). No router advertises
 *    itself: what the guest knows of routers is in its memory, and an advertisement could only change it
 *  - each held flow of the run: the sender's side of it. Takes whatever the guest sends, acknowledges it, keeps the window open
 *    and closes when the guest closes. It also watches how much of the held bytes the guest acknowledged, the proof that
 *    a clean verdict needs, and when it first answered them
 *  - other TCP flows: acknowledged the same way, without memory of them (they belong to the live guest's clients)
 *  - new outgoing TCP connections: refused, accepted (a sink), or not answered, as configured
 *  - DNS queries: refused or answered with one address; ICMP and ICMPv6 echo: answered
 *
 * All over IPv4 and IPv6, and with the VLAN tags that the guest's frame had. Every other frame goes nowhere. Nothing here trusts
 * a length in a frame. One thread. */
#ifndef FT_CLONE_OUTSIDE_H
#define FT_CLONE_OUTSIDE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/trial.h"

#define FT_OUTSIDE_FRAME 1522u /* of an answer: 1500 bytes of IP behind two VLAN tags */
/* Bytes of answers that are not due yet. Nearly all are acknowledgements, at most 112 bytes here: there is place for 36 of each
 * of FT_TRIAL_FLOWS flows, where a server that begins to answer has ten segments under way (RFC 6928). */
#define FT_OUTSIDE_PENDING (1u << 20)

enum ft_outside_sink { FT_SINK_REFUSE, FT_SINK_ACCEPT, FT_SINK_SILENT };

/* The configured part. */
struct ft_outside_config {
	uint32_t guest_ip;    /* network byte order */
	struct ft_address guest_ip6; /* all zero: not told */
	uint32_t dns_address; /* network byte order; 0: refuse */
	enum ft_outside_sink tcp;
	uint64_t delay_ns;
};

/* Who sent what is held of one flow. */
struct ft_outside_sender {
	const struct ft_trial_flow *flow;
	uint32_t sent;     /* its next sequence number */
	uint32_t taken;    /* what the guest acknowledged, at least the first held byte's */
	uint32_t received; /* what it has received of the guest's side */
	bool closed;       /* it has sent its FIN */
	bool reset;        /* the guest reset the flow */
	bool delivered;    /* all that is held of it went to the guest */
	uint64_t answered_ns; /* when the guest first sent something new on it after that; UINT64_MAX: it has not */
};

struct ft_outside {
	struct ft_outside_config config;
	const uint8_t *mac; /* of whoever is no sender of a held flow */
	uint32_t count;     /* of senders */
	struct ft_outside_sender senders[FT_TRIAL_FLOWS];
	uint64_t overflow; /* answers that found no place */
	/* Answers under way, in order: each a header and the frame, one behind the other; what does not fit before the end begins
	 * at the front. */
	uint32_t first, used; /* bytes; used: with what was left free at the end */
	_Alignas(16) uint8_t pending[FT_OUTSIDE_PENDING];
};

/* flows: those whose frames the run delivers are the first `count`, in 0..FT_TRIAL_FLOWS; borrowed for the run. There is at
 * least one even when count is 0: its sender's hardware address is everybody's who has no other. */
void ft_outside_begin(struct ft_outside *o, const struct ft_outside_config *config,
		      const struct ft_trial_flow *flows, uint32_t count);

/* A held frame of that flow goes to the guest now: the sender has sent these bytes, and perhaps its FIN. */
void ft_outside_deliver(struct ft_outside *o, uint32_t flow, const void *frame, size_t length);

/* All held frames of that flow went to the guest: the sender has sent everything up to the end of what is held, also what the
 * live guest was given before. */
void ft_outside_delivered(struct ft_outside *o, uint32_t flow);

/* The guest sent a frame at now_ns. */
void ft_outside_take(struct ft_outside *o, const void *frame, size_t length, uint64_t now_ns);

/* When the next answer is due; UINT64_MAX: none is pending. */
uint64_t ft_outside_due(const struct ft_outside *o);

/* The next answer that is due by now_ns, in order; NULL when there is none. Valid until the next ft_outside_take. */
const uint8_t *ft_outside_next(struct ft_outside *o, uint64_t now_ns, size_t *length);

/* TCP: how many of the held bytes of that flow the guest has acknowledged. */
uint32_t ft_outside_taken(const struct ft_outside *o, uint32_t flow);

/* How many flows, counted from the first up to one that was not, the guest had answered by until_ns: after all that is held of
 * it was delivered it sent new data, a FIN or a reset, or of UDP a datagram. */
uint32_t ft_outside_answered(const struct ft_outside *o, uint64_t until_ns);

#endif
