#include "dataplane/flow.h"

#include <errno.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>

#include <rte_common.h>
#include <rte_prefetch.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

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

#define PAGE (2u << 20) /* of both parts of the table, where the kernel has huge ones */

#define SLOT_BITS 21u
#define SLOT_MASK ((1u << SLOT_BITS) - 1)

/* The index: open addressing with linear probing, at most half full, no marks of what was removed. A place has a flow's slot
 * and, above SLOT_BITS, as many of its hash's highest bits as fit, so that other flows' lines are hardly ever read; 0: free. A
 * look-up seldom leaves the cache line that it begins in. */
struct ft_flows {
	struct ft_flow *list; /* from 1 on: flow 0 is none, and never used */
	uint32_t *index;
	uint32_t slots, places;
	uint8_t secret[XXH3_SECRET_SIZE_MIN]; /* of the hash */
	uint32_t touched; /* flows from here on were never used */
	uint32_t unused;  /* first of the others that are not, or 0 */
	uint32_t count, sweep_at;
	uint32_t share;
	uint32_t of_guest[UINT8_MAX + 1]; /* flows of each guest */
	uint32_t found[FOUND]; /* where keys looked up of late may be, by found_at() */
};

_Static_assert(sizeof(struct ft_flow_key) == 48, "no padding in what is hashed, and whole words");
_Static_assert(sizeof(struct ft_stream) == FT_FLOW_LINE && offsetof(struct ft_flow, stream) == FT_FLOW_LINE,
	       "a stream is a line");
_Static_assert(offsetof(struct ft_flow, inspect) == 3 * FT_FLOW_LINE, "what most packets need is three lines");

/* Zeroed as it is touched, and in huge pages: flows are looked up in no order, so that with small ones nearly each look-up
 * would wait for the page tables, too. */
static void *map(size_t bytes)
{
	bytes = RTE_ALIGN_CEIL(bytes, PAGE);
	void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (at == MAP_FAILED)
		return NULL;
	madvise(at, bytes, MADV_HUGEPAGE);
	return at;
}

static void unmap(void *at, size_t bytes)
{
	if (at)
		munmap(at, RTE_ALIGN_CEIL(bytes, PAGE));
}

static size_t list_bytes(const struct ft_flows *flows)
{
	return flows->slots * sizeof(*flows->list);
}

static size_t index_bytes(const struct ft_flows *flows)
{
	return flows->places * sizeof(*flows->index);
}

int ft_flows_new(uint32_t most, uint32_t share, struct ft_flows **flows, struct ft_error *err)
{
	if (!most || most >= SLOT_MASK)
		return ft_error_set(err, -EINVAL, "a flow table for %u flows", most);
	struct ft_flows *made = calloc(1, sizeof(*made));
	if (!made)
		return ft_error_set(err, -ENOMEM, "no memory for the flow table");
	made->share = share;
	made->slots = most + 1;
	made->touched = 1;
	made->places = rte_align32pow2(most) * 2;
	/* Nobody outside may choose flows that collide. */
	if (getrandom(made->secret, sizeof(made->secret), 0) != sizeof(made->secret)) {
		free(made);
		return ft_error_set(err, -EIO, "no random numbers for the flow table");
	}
	made->list = map(list_bytes(made));
	made->index = map(index_bytes(made));
	if (!made->list || !made->index) {
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
	for (uint32_t i = 1; flows->list && i < flows->touched; i++)
		if (flows->list[i].used)
			empty(&flows->list[i]);
	unmap(flows->list, list_bytes(flows));
	unmap(flows->index, index_bytes(flows));
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

static uint32_t hash_of(const struct ft_flows *flows, const struct ft_flow_key *key)
{
	return (uint32_t)XXH3_64bits_withSecret(key, sizeof(*key), flows->secret, sizeof(flows->secret));
}

static bool is_of(const struct ft_flow *flow, const struct ft_flow_key *key)
{
	return !memcmp(&flow->key, key, sizeof(*key));
}

/* The slot of the first flow whose hash looks like this one, from *place on; *place moves behind it. 0: there is none. */
static uint32_t next_like(const struct ft_flows *flows, uint32_t hash, uint32_t *place)
{
	for (;;) {
		uint32_t entry = flows->index[*place & (flows->places - 1)];
		if (!entry)
			return 0;
		++*place;
		if (!((entry ^ hash) >> SLOT_BITS))
			return entry & SLOT_MASK;
	}
}

struct ft_flow *ft_flows_find(const struct ft_flows *flows, const struct ft_flow_key *key)
{
	struct ft_flow *found = &flows->list[flows->found[found_at(key)]];
	if (found->used && is_of(found, key))
		return found;
	uint32_t hash = hash_of(flows, key), place = hash, at;
	while ((at = next_like(flows, hash, &place)))
		if (is_of(&flows->list[at], key))
			return &flows->list[at];
	return NULL;
}

void ft_flows_ahead(struct ft_flows *flows, const struct ft_flow_key *keys, unsigned count)
{
	uint32_t hashes[FT_FLOWS_AHEAD];
	if (count > FT_FLOWS_AHEAD)
		return;
	for (unsigned i = 0; i < count; i++) {
		hashes[i] = hash_of(flows, &keys[i]);
		rte_prefetch0(&flows->index[hashes[i] & (flows->places - 1)]);
	}
	for (unsigned i = 0; i < count; i++) {
		uint32_t place = hashes[i], at = next_like(flows, hashes[i], &place);
		if (!at)
			continue;
		flows->found[found_at(&keys[i])] = at;
		const uint8_t *flow = (const uint8_t *)&flows->list[at];
		for (size_t line = 0; line < offsetof(struct ft_flow, inspect); line += FT_FLOW_LINE)
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
		flows->sweep_at = flows->sweep_at + 1 < flows->touched ? flows->sweep_at + 1 : 1;
		struct ft_flow *flow = &flows->list[flows->sweep_at];
		if (dispensable(flow) && (guest < 0 || flow->key.guest == guest)) {
			ft_flows_remove(flows, flow);
			return true;
		}
	}
	return false;
}

/* A flow that is unused now, or 0. */
static uint32_t take_slot(struct ft_flows *flows)
{
	uint32_t at = flows->unused;
	if (at)
		flows->unused = flows->list[at].hash;
	else if (flows->touched < flows->slots)
		at = flows->touched++;
	return at;
}

struct ft_flow *ft_flows_add(struct ft_flows *flows, const struct ft_flow_key *key)
{
	if (flows->of_guest[key->guest] >= flows->share && !make_room(flows, key->guest))
		return NULL;
	uint32_t at = take_slot(flows), mask = flows->places - 1, place;
	if (!at && make_room(flows, -1))
		at = take_slot(flows);
	if (!at)
		return NULL;
	struct ft_flow *flow = &flows->list[at];
	*flow = (struct ft_flow){.key = *key, .used = true, .hash = hash_of(flows, key)};
	for (place = flow->hash; flows->index[place & mask]; place++)
		;
	flows->index[place & mask] = at | (flow->hash & ~SLOT_MASK);
	flows->count++;
	flows->of_guest[key->guest]++;
	return flow;
}

/* Takes the flow out of the index, and moves what stood behind it for want of a free place closer to where it belongs. */
static void take_out(struct ft_flows *flows, const struct ft_flow *flow)
{
	uint32_t mask = flows->places - 1, slot = (uint32_t)(flow - flows->list), hole = flow->hash;
	while ((flows->index[hole & mask] & SLOT_MASK) != slot)
		hole++;
	for (uint32_t at = hole + 1; flows->index[at & mask]; at++) {
		uint32_t entry = flows->index[at & mask], way = (at - flows->list[entry & SLOT_MASK].hash) & mask;
		if (way < at - hole)
			continue; /* the hole is before the first place that it may have */
		flows->index[hole & mask] = entry;
		hole = at;
	}
	flows->index[hole & mask] = 0;
}

void ft_flows_remove(struct ft_flows *flows, struct ft_flow *flow)
{
	take_out(flows, flow);
	flows->of_guest[flow->key.guest]--;
	empty(flow);
	*flow = (struct ft_flow){.hash = flows->unused};
	flows->unused = (uint32_t)(flow - flows->list);
	flows->count--;
}

void ft_flow_renew(struct ft_flow *flow)
{
	empty(flow);
	*flow = (struct ft_flow){.key = flow->key,
				 .hash = flow->hash,
				 .guest = flow->guest,
				 .used = true,
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
		flows->sweep_at = flows->sweep_at + 1 < flows->touched ? flows->sweep_at + 1 : 1;
		struct ft_flow *flow = &flows->list[flows->sweep_at];
		if (flow->used && !flow->hold && !flow->observing && now > flow->seen &&
		    now - flow->seen > age_of(flow))
			ft_flows_remove(flows, flow);
	}
}

void ft_flows_each(struct ft_flows *flows, void (*visit)(void *context, struct ft_flow *flow), void *context)
{
	for (uint32_t i = 1; i < flows->touched; i++)
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
