/* The outside of a clone: a small model of the network, inside the clone's own process. Frames in, frames out, a fixed
 * virtual delay between them; no socket, no host time, no randomness. What it answers is a function of what the guest
 * sent and of its configuration, so the same clone meets the same outside.
 *
 *  - ARP and IPv6 neighbour solicitations: somebody is there (never for the guest's own addresses). No router advertises
 *    itself: what the guest knows of routers is in its memory, and an advertisement could only change it
 *  - the held flow: the sender's side of it. Takes whatever the guest sends, acknowledges it, keeps the window open and
 *    closes when the guest closes. It also watches how much of the held bytes the guest acknowledged: the proof that
 *    a clean verdict needs
 *  - other TCP flows: acknowledged the same way, without memory of them (they belong to the live guest's clients)
 *  - new outgoing TCP connections: refused, accepted (a sink), or not answered, as configured
 *  - DNS queries: refused or answered with one address; ICMP and ICMPv6 echo: answered
 *
 * All over IPv4 and IPv6, and with the VLAN tags that the guest's frame had. Every other frame goes nowhere. Nothing here trusts a length in a frame. One thread. */
#ifndef FT_CLONE_OUTSIDE_H
#define FT_CLONE_OUTSIDE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/trial.h"

#define FT_OUTSIDE_FRAME   1522u /* of an answer: 1500 bytes of IP behind two VLAN tags */
#define FT_OUTSIDE_PENDING 128u

enum ft_outside_sink { FT_SINK_REFUSE, FT_SINK_ACCEPT, FT_SINK_SILENT };

/* The configured part. */
struct ft_outside_config {
	uint32_t guest_ip;    /* network byte order */
	struct ft_address guest_ip6; /* all zero: not told */
	uint32_t dns_address; /* network byte order; 0: refuse */
	enum ft_outside_sink tcp;
	uint64_t delay_ns;
};

struct ft_outside {
	struct ft_outside_config config;
	/* The held flow; protocol 0: there is none. */
	struct ft_address client_ip, server_ip;
	struct ft_tags tags;
	uint16_t client_port, server_port;
	uint8_t protocol, client_mac[6];
	uint32_t held_from, held_to; /* sequence numbers of the held bytes */
	uint32_t sent;               /* the sender's next sequence number */
	uint32_t taken;              /* what the guest acknowledged, at least held_from */
	uint32_t received;           /* what the sender has received of the guest's side */
	bool closed;                 /* the sender has sent its FIN */
	bool reset;                  /* the guest reset the held flow */

	uint64_t overflow; /* answers that found no place */
	unsigned first, count;
	struct ft_outside_answer {
		uint64_t due_ns;
		uint16_t length;
		uint8_t frame[FT_OUTSIDE_FRAME];
	} pending[FT_OUTSIDE_PENDING];
};

/* flow: what is held. */
void ft_outside_begin(struct ft_outside *o, const struct ft_outside_config *config,
		      const struct ft_trial_flow *flow);

/* A held frame goes to the guest now: the sender has sent these bytes, and perhaps its FIN. */
void ft_outside_deliver(struct ft_outside *o, const void *frame, size_t length);

/* All held frames went to the guest: the sender has sent everything up to the end of what is held, also what the live
 * guest was given before. */
void ft_outside_delivered(struct ft_outside *o);

/* The guest sent a frame at now_ns. */
void ft_outside_take(struct ft_outside *o, const void *frame, size_t length, uint64_t now_ns);

/* When the next answer is due; UINT64_MAX: none is pending. */
uint64_t ft_outside_due(const struct ft_outside *o);

/* The next answer that is due by now_ns, in order; NULL when there is none. Valid until the next ft_outside_take. */
const uint8_t *ft_outside_next(struct ft_outside *o, uint64_t now_ns, size_t *length);

/* TCP: how many of the held bytes the guest has acknowledged. */
uint32_t ft_outside_taken(const struct ft_outside *o);

#endif
