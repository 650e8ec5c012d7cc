#include "dataplane/flow.h"

#include <errno.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>

#include <rte_errno.h>
#include <rte_hash.h>
#include <rte_jhash.h>
#include <rte_prefetch.h>

#include "dataplane/early.h"

#define SECOND 1000000000ull

/* How long a flow is remembered after its last packet. An open TCP connection outlives a night's idle keep-alive
 * interval (2 h, RFC 1122 4.2.3.6); a SYN without answer must not fill the table; a dead flow is remembered until a
 * sender has given up on it. */
#define AGE_SYN    (10 * SECOND)
#define AGE_OPEN   (9000 * SECOND)
#define AGE_CLOSED (60 * SECOND)
#define AGE_DEAD   (120 * SECOND)
#define AGE_UDP    (60 * SECOND)

#define SWEEP 64u /* entries looked at in one go */

/* Places for what a burst looks up: with 256, one key in sixteen of a burst lost its place to another and was looked up twice. */
#define FOUND 1024u

struct ft_flows {
	struct rte_hash *hash;
	struct ft_flow *list;
	uint32_t slots, count, sweep_at;
	uint32_t share;
	uint32_t of_guest[UINT8_MAX + 1]; /* flows of each guest */
	uint32_t found[FOUND]; /* slots of flows looked up of late, by found_at() of their keys */
};

_Static_assert(sizeof(struct ft_flow_key) == 48, "no padding in what is hashed, and a length that rte_hash compares fast");

int ft_flows_new(uint32_t most, uint32_t share, struct ft_flows **flows, struct ft_error *err)
{
	struct ft_flows *made = calloc(1, sizeof(*made));
	if (!made)
		return ft_error_set(err, -ENOMEM, "no memory for the flow table");
	made->share = share;
	uint32_t secret = 0;
	/* Nobody outside may choose flows that collide. */
	if (getrandom(&secret, sizeof(secret), 0) != sizeof(secret))
		secret = (uint32_t)(uintptr_t)made;
	char name[RTE_HASH_NAMESIZE];
	snprintf(name, sizeof(name), "flows%08x", secret);
	struct rte_hash_parameters parameters = {
	    .name = name,
	    .entries = most,
	    .key_len = sizeof(struct ft_flow_key),
	    .hash_func = rte_jhash,
	    .hash_func_init_val = secret,
	    .socket_id = SOCKET_ID_ANY,
	    .extra_flag = RTE_HASH_EXTRA_FLAGS_EXT_TABLE, /* a full bucket is no reason to refuse */
	};
	made->hash = rte_hash_create(&parameters);
	if (!made->hash) {
		int error = -rte_errno;
		free(made);
		return ft_error_set(err, error, "cannot make a flow table for %u flows: %s", most,
				    rte_strerror(-error));
	}
	made->slots = (uint32_t)rte_hash_max_key_id(made->hash) + 1;
	/* Zeroed as it is touched, and in huge pages where the kernel has some: a table's flows are looked up in no order. */
	void *list = mmap(NULL, made->slots * sizeof(*made->list), PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (list != MAP_FAILED) {
		made->list = list;
		madvise(list, made->slots * sizeof(*made->list), MADV_HUGEPAGE);
	}
	if (!made->list) {
		ft_flows_free(made);
		return ft_error_set(err, -ENOMEM, "no memory for %u flows", most);
	}
	*flows = made;
	return 0;
}

static void empty(struct ft_flow *flow)
{
	ft_stream_free(&flow->stream);
	ft_stream_free(&flow->renewed);
	if (flow->scan)
		ft_screen_end(flow->service->screen, &flow->scan);
	ft_inspect_end(&flow->inspect);
	free(flow->reset);
	ft_early_free(flow, FT_REASON_DROP_EARLY_END);
}

void ft_flows_free(struct ft_flows *flows)
{
	if (!flows)
		return;
	for (uint32_t i = 0; flows->list && i < flows->slots; i++)
		if (flows->list[i].used)
			empty(&flows->list[i]);
	rte_hash_free(flows->hash);
	if (flows->list)
		munmap(flows->list, flows->slots * sizeof(*flows->list));
	free(flows);
}

/* Where a key's flow is remembered. Whoever chooses keys that share a place gains nothing but the lookup. */
static unsigned found_at(const struct ft_flow_key *key)
{
	uint64_t client, server, rest;
	memcpy(&client, key->client.bytes + 8, sizeof(client)); /* of IPv6 what tells hosts apart */
	memcpy(&server, key->server.bytes + 8, sizeof(server));
	memcpy(&rest, &key->client_port, sizeof(rest));
	return (unsigned)(((client ^ server * 3) * 0x9e3779b97f4a7c15ull ^ rest * 0xd6e8feb86659fd93ull) >> 40) % FOUND;
}

struct ft_flow *ft_flows_find(const struct ft_flows *flows, const struct ft_flow_key *key)
{
	struct ft_flow *found = &flows->list[flows->found[found_at(key)]];
	if (found->used && !memcmp(&found->key, key, sizeof(*key)))
		return found;
	int32_t at = rte_hash_lookup(flows->hash, key);
	return at < 0 ? NULL : &flows->list[at];
}

void ft_flows_ahead(struct ft_flows *flows, const struct ft_flow_key *keys, unsigned count)
{
	const void *list[FT_FLOWS_AHEAD];
	int32_t at[FT_FLOWS_AHEAD];
	if (!count || count > FT_FLOWS_AHEAD)
		return;
	for (unsigned i = 0; i < count; i++)
		list[i] = &keys[i];
	if (rte_hash_lookup_bulk(flows->hash, list, count, at))
		return;
	for (unsigned i = 0; i < count; i++) {
		if (at[i] < 0)
			continue;
		flows->found[found_at(&keys[i])] = (uint32_t)at[i];
		const uint8_t *flow = (const uint8_t *)&flows->list[at[i]];
		for (size_t line = 0; line < offsetof(struct ft_flow, ethernet); line += FT_FLOW_LINE)
			rte_prefetch0(flow + line);
	}
}

/* What is lost with it: its client has to begin again, which a flood's sender never does. */
static bool dispensable(const struct ft_flow *flow)
{
	if (!flow->used || flow->hold || flow->observing || flow->dead || flow->suspect)
		return false;
	return flow->key.protocol != 6 || flow->stream.state == FT_STREAM_SYN;
}

/* guest: whose flows may go; -1: anybody's. */
static bool make_room(struct ft_flows *flows, int guest)
{
	for (uint32_t n = 0; n < SWEEP; n++) {
		flows->sweep_at = flows->sweep_at + 1 < flows->slots ? flows->sweep_at + 1 : 0;
		struct ft_flow *flow = &flows->list[flows->sweep_at];
		if (dispensable(flow) && (guest < 0 || flow->key.guest == guest)) {
			ft_flows_remove(flows, flow);
			return true;
		}
	}
	return false;
}

struct ft_flow *ft_flows_add(struct ft_flows *flows, const struct ft_flow_key *key)
{
	if (flows->of_guest[key->guest] >= flows->share && !make_room(flows, key->guest))
		return NULL;
	int32_t at = rte_hash_add_key(flows->hash, key);
	if (at < 0 && make_room(flows, -1))
		at = rte_hash_add_key(flows->hash, key);
	if (at < 0 || (uint32_t)at >= flows->slots)
		return NULL;
	struct ft_flow *flow = &flows->list[at];
	*flow = (struct ft_flow){.key = *key, .used = true, .slot = (uint32_t)at};
	flows->count++;
	flows->of_guest[key->guest]++;
	return flow;
}

void ft_flows_remove(struct ft_flows *flows, struct ft_flow *flow)
{
	rte_hash_del_key(flows->hash, &flow->key);
	flows->of_guest[flow->key.guest]--;
	empty(flow);
	*flow = (struct ft_flow){0};
	flows->count--;
}

void ft_flow_renew(struct ft_flow *flow)
{
	empty(flow);
	*flow = (struct ft_flow){.key = flow->key,
				 .guest = flow->guest,
				 .used = true,
				 .slot = flow->slot,
				 .service = flow->service,
				 .observing = flow->observing};
}

static uint64_t age_of(const struct ft_flow *flow)
{
	if (flow->dead)
		return AGE_DEAD;
	if (flow->key.protocol != 6)
		return AGE_UDP;
	return flow->stream.state == FT_STREAM_OPEN     ? AGE_OPEN
	       : flow->stream.state == FT_STREAM_CLOSED ? AGE_CLOSED
							: AGE_SYN;
}

void ft_flows_sweep(struct ft_flows *flows, uint64_t now)
{
	for (uint32_t n = 0; n < SWEEP && flows->count; n++) {
		flows->sweep_at = flows->sweep_at + 1 < flows->slots ? flows->sweep_at + 1 : 0;
		struct ft_flow *flow = &flows->list[flows->sweep_at];
		if (flow->used && !flow->hold && !flow->observing && now > flow->seen &&
		    now - flow->seen > age_of(flow))
			ft_flows_remove(flows, flow);
	}
}

void ft_flows_each(struct ft_flows *flows, void (*visit)(void *context, struct ft_flow *flow), void *context)
{
	for (uint32_t i = 0; i < flows->slots; i++)
		if (flows->list[i].used)
			visit(context, &flows->list[i]);
}

uint32_t ft_flows_count(const struct ft_flows *flows)
{
	return flows->count;
}

uint32_t ft_flows_of(const struct ft_flows *flows, uint8_t guest)
{
	return flows->of_guest[guest];
}

void ft_flow_note_ethernet(struct ft_flow *flow, const struct ft_frame *frame)
{
	flow->ethernet_length = (uint8_t)frame->ip;
	memcpy(flow->ethernet, frame->data, frame->ip);
}

bool ft_flow_key_guess(struct ft_flow_key *key, uint8_t guest, const uint8_t *frame, size_t length,
		       bool from_client)
{
	const uint8_t *ip = frame + FT_FRAME_HEADER, *ports = ip + 20;
	if (length < FT_FRAME_HEADER + 28 || ft_load16(frame + 12) != 0x0800 || ip[0] != 0x45 ||
	    (ip[9] != IPPROTO_TCP && ip[9] != IPPROTO_UDP))
		return false;
	*key = (struct ft_flow_key){.client = ft_address_v4(ip + (from_client ? 12 : 16)),
				    .server = ft_address_v4(ip + (from_client ? 16 : 12)),
				    .client_port = ft_load16(ports + (from_client ? 0 : 2)),
				    .server_port = ft_load16(ports + (from_client ? 2 : 0)),
				    .protocol = ip[9],
				    .guest = guest};
	return true;
}

void ft_flow_key_client(struct ft_flow_key *key, uint8_t guest, const struct ft_frame *frame)
{
	*key = (struct ft_flow_key){.client = frame->source,
				    .server = frame->destination,
				    .client_port = frame->source_port,
				    .server_port = frame->destination_port,
				    .tags = frame->tags,
				    .protocol = frame->protocol,
				    .guest = guest};
}

void ft_flow_key_guest(struct ft_flow_key *key, uint8_t guest, const struct ft_frame *frame)
{
	*key = (struct ft_flow_key){.client = frame->destination,
				    .server = frame->source,
				    .client_port = frame->destination_port,
				    .server_port = frame->source_port,
				    .tags = frame->tags,
				    .protocol = frame->protocol,
				    .guest = guest};
}
