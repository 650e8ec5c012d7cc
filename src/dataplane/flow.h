/* The flow table: connections with inspected services; entries age.
 *
 * A table of its own in place of DPDK's rte_hash, because what a packet costs is the cache lines that it waits for, and there
 * are more flows than the cache holds: rte_hash keeps the keys a second time, in memory of small pages. Here a packet needs one
 * line of an index and the flow's first three, all in huge pages, and a burst fetches them together.
 *
 * A flow is named from the client's side: client is who is not the guest. Pointers to a flow are valid until
 * ft_flows_remove or ft_flows_sweep took it. */
#ifndef FT_DATAPLANE_FLOW_H
#define FT_DATAPLANE_FLOW_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "dataplane/frame.h"
#include "dataplane/inspect.h"
#include "dataplane/screen.h"
#include "dataplane/service.h"
#include "dataplane/stream.h"

/* What makes two packets of one flow. The VLANs are part of it: the same addresses in another network are another flow. */
struct ft_flow_key {
	struct ft_address client, server;
	uint16_t client_port, server_port;
	struct ft_tags tags;
	uint8_t protocol;
	uint8_t guest; /* its index: addresses may be the same in two VLANs */
	uint8_t zero[6];
} __attribute__((aligned(8)));

struct ft_hold;
struct ft_early;
struct ft_guest;

/* What each packet of a settled flow reads or writes is in the first three lines, which ft_flows_ahead fetches. */
#define FT_FLOW_LINE 64u
struct ft_flow {
	struct ft_flow_key key;
	uint32_t hash; /* of the key; of an unused one: the next unused one */
	bool used;
	bool dead;      /* dropped by verdict or policy: nothing of it passes any more */
	bool suspect;   /* had a trigger: everything it still sends is tried first, so that an attack cut in two
			 * is not let through by its innocent second half */
	bool inspected; /* protocol inspection has seen its start */
	const struct ft_service *service;

	struct ft_stream stream; /* TCP */

	struct ft_guest *guest;
	struct ft_hold *hold;   /* the one being tried, or the only one */
	struct ft_early *early; /* what came before its time */
	uint64_t seen;          /* monotonic time of the last packet */
	uint64_t packets, bytes; /* of the client */
	uint64_t packets_toclient, bytes_toclient;

	/* The rest is for some packets only. */
	struct ft_inspect_flow inspect;
	struct hs_stream *scan;
	struct ft_stream renewed; /* a SYN came while the connection was open: the guest's answer decides */
	struct ft_hold *later;    /* what arrived since */
	uint8_t *reset;           /* the client's RST, waiting behind its holds */
	uint32_t reset_length;
	uint32_t answered_from; /* guest_next at the last release: has the guest answered since? */
	uint32_t observing;     /* trials in the background that still name this flow */
	uint32_t trials;
	uint64_t tried; /* bytes of its holds that were tried */
	uint64_t shadow_until; /* when its would-be holds would have ended so far */
	uint64_t start_wall;
	bool shadow_dead; /* it would have been dropped */
	uint8_t ethernet_length;
	uint8_t ethernet[FT_ETHERNET_MOST]; /* header of the client's first frame, tags included */
} __attribute__((aligned(FT_FLOW_LINE)));

struct ft_flows;

/* most: largest number of flows, at least 1; share: most of one guest, so that a flood towards one leaves room for the
 * others. */
int ft_flows_new(uint32_t most, uint32_t share, struct ft_flows **flows, struct ft_error *err);
void ft_flows_free(struct ft_flows *flows);

struct ft_flow *ft_flows_find(const struct ft_flows *flows, const struct ft_flow_key *key);
/* Has the processor fetch all together what the keys lead to, so that ft_flows_find soon after does not wait for memory: at
 * 100,000 flows that is most of a lookup. Promises nothing: flows may come and go in between. */
#define FT_FLOWS_AHEAD 32u
void ft_flows_ahead(struct ft_flows *flows, const struct ft_flow_key *keys, unsigned count);

/* A new, zeroed flow for a key that is not there. A full table gives up what a flood fills it with: TCP connections that
 * nobody answered yet, UDP flows that nothing was found in. NULL when there are none of these nearby, or when the share of
 * its guest is full. */
struct ft_flow *ft_flows_add(struct ft_flows *flows, const struct ft_flow_key *key);
/* Frees what the flow has, too, except holds, of which it must have none. */
void ft_flows_remove(struct ft_flows *flows, struct ft_flow *flow);

/* Starts the flow over (a new connection under the same addresses): the holds must be gone. */
void ft_flow_renew(struct ft_flow *flow);

/* Looks at the next few entries and removes those that have aged; flows with holds stay. */
void ft_flows_sweep(struct ft_flows *flows, uint64_t now);

/* For each flow, in no order. visit may remove the flow it is given. */
void ft_flows_each(struct ft_flows *flows, void (*visit)(void *context, struct ft_flow *flow), void *context);

uint32_t ft_flows_count(const struct ft_flows *flows);
uint32_t ft_flows_of(const struct ft_flows *flows, uint8_t guest);

/* Remembers the Ethernet header of the client's frame, for what is made on behalf of either end. */
void ft_flow_note_ethernet(struct ft_flow *flow, const struct ft_frame *frame);
/* The key of a frame as most are (IPv4 without options or tags, TCP or UDP), not parsed and not checked: good for
 * ft_flows_ahead alone. False: another kind of frame. */
bool ft_flow_key_guess(struct ft_flow_key *key, uint8_t guest, const uint8_t *frame, size_t length,
		       bool from_client);

/* guest: its index. The frame was sent by the client, or by the guest. */
void ft_flow_key_client(struct ft_flow_key *key, uint8_t guest, const struct ft_frame *frame);
void ft_flow_key_guest(struct ft_flow_key *key, uint8_t guest, const struct ft_frame *frame);

#endif
