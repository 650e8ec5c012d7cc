#define ALLOW_EXPERIMENTAL_API /* rte_ip_frag_table_del_expired_entries: in DPDK since 18.08, still called that in 22.11 */
#include "dataplane/reassembly.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

#include <rte_errno.h>
#include <rte_ip.h>
#include <rte_ip_frag.h>
#include <rte_mbuf.h>

#define IPV4_HEADER 20u
#define IPV6_HEADER 40u
#define FRAGMENT_HEADER 8u

/* What makes two fragments of one datagram. Linux keeps IPv4's by protocol (RFC 791) and IPv6's without (RFC 8200 4.5). */
struct key {
	struct ft_address source, destination;
	struct ft_tags tags;
	uint8_t guest;
	uint32_t identification;
	uint8_t protocol; /* 0 for IPv6 */
};

struct piece {
	struct ft_fragment frame;
	uint32_t from, to; /* of the datagram's bytes */
	uint32_t header;   /* bytes of the frame before them */
};

struct pending {
	bool used;
	bool spoilt; /* given up, but remembered: what still comes of it goes the same way */
	enum ft_reason why;
	struct key key;
	uint64_t since;
	uint64_t serial; /* its name for rte_ip_frag */
	struct piece list[FT_REASSEMBLY_FRAGMENTS];
	unsigned count;
	uint32_t bytes; /* of the datagram */
	uint32_t end;   /* of the datagram, 0: not known yet */
};

struct ft_reassembly {
	struct pending list[FT_REASSEMBLY_DATAGRAMS];
	unsigned count;
	uint64_t serial;
	uint32_t bytes;          /* frames kept */
	uint32_t identification; /* of the next whole datagram */
	struct pending whole;    /* the last one that was given out */
	struct rte_mempool *pool;
	struct rte_ip_frag_tbl *table;
	struct rte_ip_frag_death_row dead;
	uint8_t data[FT_FRAME_MOST];
};

int ft_reassembly_new(struct ft_reassembly **reassembly, struct ft_error *err)
{
	struct ft_reassembly *made = calloc(1, sizeof(*made));
	if (!made)
		return ft_error_set(err, -ENOMEM, "no memory for fragments");
	uint32_t name = 0;
	char text[RTE_MEMPOOL_NAMESIZE];
	/* Not to be guessed: see identification. */
	if (getrandom(&name, sizeof(name), 0) != sizeof(name) ||
	    getrandom(&made->identification, sizeof(made->identification), 0) != sizeof(made->identification)) {
		free(made);
		return ft_error_set(err, -EIO, "no random numbers for fragments");
	}
	snprintf(text, sizeof(text), "fragments%08x", name);
	/* One bucket as large as the table: which datagrams there are can never make another one find no place. */
	made->table = rte_ip_frag_table_create(1, FT_REASSEMBLY_DATAGRAMS, FT_REASSEMBLY_DATAGRAMS, FT_REASSEMBLY_NS,
					       SOCKET_ID_ANY);
	made->pool = rte_pktmbuf_pool_create(text, FT_REASSEMBLY_DATAGRAMS * FT_REASSEMBLY_FRAGMENTS - 1, 0, 0,
					     FT_FRAME_MOST + RTE_PKTMBUF_HEADROOM, SOCKET_ID_ANY);
	if (!made->table || !made->pool) {
		ft_reassembly_free(made);
		return ft_error_set(err, -ENOMEM, "no memory for fragments: %s", rte_strerror(rte_errno));
	}
	*reassembly = made;
	return 0;
}

static void bury(struct ft_reassembly *reassembly)
{
	rte_ip_frag_free_death_row(&reassembly->dead, 0);
}

/* Frees the frames; returns how many there were. */
static unsigned empty(struct ft_reassembly *reassembly, struct pending *pending)
{
	unsigned count = pending->count;
	for (unsigned i = 0; i < count; i++) {
		reassembly->bytes -= pending->list[i].frame.length;
		free(pending->list[i].frame.data);
	}
	pending->count = 0;
	return count;
}

static void forget(struct ft_reassembly *reassembly, struct pending *pending)
{
	pending->used = false;
	reassembly->count--;
}

void ft_reassembly_free(struct ft_reassembly *reassembly)
{
	if (!reassembly)
		return;
	for (unsigned i = 0; i < FT_REASSEMBLY_DATAGRAMS; i++)
		empty(reassembly, &reassembly->list[i]);
	empty(reassembly, &reassembly->whole);
	if (reassembly->table)
		rte_ip_frag_table_destroy(reassembly->table);
	rte_mempool_free(reassembly->pool);
	free(reassembly);
}

/* ---- finding the datagram ---- */

static void make_key(struct key *key, uint8_t guest, const struct ft_frame *frame)
{
	memset(key, 0, sizeof(*key)); /* it is compared byte by byte, padding included */
	key->source = frame->source;
	key->destination = frame->destination;
	key->tags = frame->tags;
	key->guest = guest;
	key->identification = frame->identification;
	key->protocol = frame->kind == FT_FRAME_IPV4 ? frame->protocol : 0;
}

/* One sender: an IPv4 address, or an IPv6 network, of which a single host has as many addresses as it likes. */
static bool same_source(const struct key *a, const struct key *b)
{
	if (ft_address_is_v4(&a->source) || ft_address_is_v4(&b->source))
		return ft_address_same(&a->source, &b->source);
	return !memcmp(a->source.bytes, b->source.bytes, 8);
}

/* *full: there is no place for another one of this source. */
static struct pending *find(struct ft_reassembly *reassembly, const struct key *key, bool *full)
{
	unsigned of_source = 0, seen = 0;
	for (unsigned i = 0; seen < reassembly->count; i++) {
		struct pending *pending = &reassembly->list[i];
		if (!pending->used)
			continue;
		seen++;
		if (!memcmp(&pending->key, key, sizeof(*key)))
			return pending;
		of_source += same_source(&pending->key, key);
	}
	*full = of_source >= FT_REASSEMBLY_SOURCE || reassembly->count == FT_REASSEMBLY_DATAGRAMS;
	return NULL;
}

static struct pending *begin(struct ft_reassembly *reassembly, const struct key *key, uint64_t now)
{
	struct pending *pending = reassembly->list;
	while (pending->used)
		pending++;
	*pending = (struct pending){.used = true, .key = *key, .since = now, .serial = ++reassembly->serial};
	reassembly->count++;
	return pending;
}

/* ---- what a fragment may be ---- */

/* Networks do double packets; the same bytes at the same place contradict nothing (RFC 8200 4.5). */
static bool is_double(const struct pending *pending, const struct ft_frame *frame)
{
	for (unsigned i = 0; i < pending->count; i++) {
		const struct piece *piece = &pending->list[i];
		bool last = pending->end == piece->to;
		if (piece->from == frame->fragment_offset && piece->to - piece->from == frame->payload_length &&
		    last == !frame->more_fragments &&
		    !memcmp(piece->frame.data + piece->header, frame->data + frame->payload, frame->payload_length))
			return true;
	}
	return false;
}

/* Everything about this fragment and those before it that makes the datagram none. FT_REASON_COUNT: nothing. */
static enum ft_reason judge(const struct ft_reassembly *reassembly, const struct pending *pending,
			    const struct ft_frame *frame)
{
	uint32_t from = frame->fragment_offset, to = from + frame->payload_length;
	if (!frame->payload_length)
		return FT_REASON_DROP_MALFORMED;
	for (unsigned i = 0; i < pending->count; i++)
		if (from < pending->list[i].to && pending->list[i].from < to)
			return FT_REASON_DROP_FRAGMENT_OVERLAP;
	/* Two ends, or bytes behind the end. */
	if (pending->end && (!frame->more_fragments || to > pending->end))
		return FT_REASON_DROP_FRAGMENT_OVERLAP;
	for (unsigned i = 0; !frame->more_fragments && i < pending->count; i++)
		if (pending->list[i].to > to)
			return FT_REASON_DROP_FRAGMENT_OVERLAP;
	/* RFC 1858, RFC 7112: the first one says for whom it is, or somebody wants to hide that. */
	uint32_t least = frame->protocol == IPPROTO_TCP ? 20 : 8;
	if (!from && frame->payload_length < least)
		return FT_REASON_DROP_FRAGMENT_TINY;
	if (pending->count == FT_REASSEMBLY_FRAGMENTS || frame->length > FT_FRAME_MOST ||
	    to + FT_FRAME_HEADERS > FT_FRAME_MOST || reassembly->bytes + frame->length > FT_REASSEMBLY_BYTES)
		return FT_REASON_DROP_FRAGMENT_LIMIT;
	return FT_REASON_COUNT;
}

/* ---- putting together ---- */

/* rte_ip_frag gets each datagram under a name of our own in a plain IPv4 header: a sender's addresses and numbers mean
 * nothing to it, VLANs cannot be mixed, IPv6 needs no second way, and nobody outside chooses what it hashes. */
static struct rte_mbuf *join(struct ft_reassembly *reassembly, const struct pending *pending,
			     const struct ft_frame *frame, uint64_t now)
{
	struct rte_mbuf *mbuf = rte_pktmbuf_alloc(reassembly->pool);
	if (!mbuf)
		return NULL;
	struct rte_ipv4_hdr *ip = (struct rte_ipv4_hdr *)rte_pktmbuf_append(
	    mbuf, (uint16_t)(IPV4_HEADER + frame->payload_length));
	if (!ip) {
		rte_pktmbuf_free(mbuf);
		return NULL;
	}
	*ip = (struct rte_ipv4_hdr){
	    .version_ihl = 0x45,
	    .total_length = rte_cpu_to_be_16((uint16_t)(IPV4_HEADER + frame->payload_length)),
	    .fragment_offset = rte_cpu_to_be_16(
		(uint16_t)(frame->fragment_offset / 8u | (frame->more_fragments ? RTE_IPV4_HDR_MF_FLAG : 0))),
	    .src_addr = (uint32_t)pending->serial,
	    .dst_addr = (uint32_t)(pending->serial >> 32),
	};
	memcpy(ip + 1, frame->data + frame->payload, frame->payload_length);
	mbuf->l2_len = 0;
	mbuf->l3_len = IPV4_HEADER;
	return rte_ipv4_frag_reassemble_packet(reassembly->table, &reassembly->dead, mbuf, now, ip);
}

/* The first fragment's headers in front of the bytes of all. IPv6 keeps a fragment header that says "all of it" (RFC 6946):
 * the headers before it name it, and a cut needs it. Returns the length. */
static size_t write_whole(struct ft_reassembly *reassembly, const struct piece *first, const struct ft_frame *shape,
			  const struct rte_mbuf *mbuf)
{
	uint8_t *to = reassembly->data;
	uint32_t at = first->header;
	memcpy(to, first->frame.data, at);
	uint32_t skip = IPV4_HEADER;
	for (; mbuf; mbuf = mbuf->next) {
		uint32_t length = rte_pktmbuf_data_len(mbuf) - skip;
		memcpy(to + at, rte_pktmbuf_mtod(mbuf, const uint8_t *) + skip, length);
		at += length;
		skip = 0;
	}
	uint32_t identification = reassembly->identification++;
	uint8_t *ip = to + shape->ip;
	if (shape->kind == FT_FRAME_IPV6) {
		ft_store16(ip + 4, (uint16_t)(at - shape->ip - IPV6_HEADER));
		ft_store16(to + first->header - 6, 0);
		ft_store32(to + first->header - 4, identification);
	} else {
		ft_store16(ip + 2, (uint16_t)(at - shape->ip));
		ft_store16(ip + 4, (uint16_t)identification);
		ft_store16(ip + 6, 0);
		struct ft_frame header = {.kind = FT_FRAME_IPV4, .ip = shape->ip};
		ft_frame_seal(&header, to);
	}
	return at;
}

static bool finish(struct ft_reassembly *reassembly, struct pending *pending, const struct ft_frame *shape,
		   struct rte_mbuf *mbuf, struct ft_datagram *datagram)
{
	const struct piece *first = pending->list;
	while (first->from)
		first++; /* without gaps and overlaps there is one */
	/* Fits: judge() allows no end beyond FT_FRAME_MOST less FT_FRAME_HEADERS. */
	bool fits = first->header <= FT_FRAME_HEADERS && rte_pktmbuf_pkt_len(mbuf) == IPV4_HEADER + pending->end;
	if (fits) {
		datagram->data = reassembly->data;
		datagram->length = write_whole(reassembly, first, shape, mbuf);
	}
	rte_pktmbuf_free(mbuf);
	if (!fits)
		return false;
	datagram->count = pending->count;
	for (unsigned i = 0; i < pending->count; i++)
		datagram->list[i] = pending->list[i].frame;
	reassembly->whole = *pending; /* with its frames, until the next call */
	pending->count = 0;
	forget(reassembly, pending);
	return true;
}

/* Nothing more of this datagram is taken while it is remembered. */
static enum ft_reason spoil(struct ft_reassembly *reassembly, struct pending *pending, enum ft_reason why, unsigned *lost)
{
	*lost = empty(reassembly, pending);
	pending->spoilt = true;
	pending->why = why;
	return why;
}

enum ft_reason ft_reassembly_take(struct ft_reassembly *reassembly, uint8_t guest, const struct ft_frame *frame,
				  uint64_t now, struct ft_datagram *datagram, unsigned *lost)
{
	struct key key;
	bool full;
	*lost = 0;
	empty(reassembly, &reassembly->whole);
	make_key(&key, guest, frame);
	struct pending *pending = find(reassembly, &key, &full);
	if (!pending && full)
		return FT_REASON_DROP_FRAGMENT_LIMIT;
	if (!pending)
		pending = begin(reassembly, &key, now);
	if (pending->spoilt)
		return pending->why;
	if (is_double(pending, frame))
		return FT_REASON_DROP_HOLD_DUPLICATE;
	enum ft_reason why = judge(reassembly, pending, frame);
	if (why != FT_REASON_COUNT)
		return spoil(reassembly, pending, why, lost);
	struct piece *piece = &pending->list[pending->count];
	*piece = (struct piece){.frame = {frame->length, malloc(frame->length)},
				.from = frame->fragment_offset,
				.to = frame->fragment_offset + frame->payload_length,
				.header = frame->payload};
	if (!piece->frame.data)
		return spoil(reassembly, pending, FT_REASON_DROP_NO_MEMORY, lost);
	memcpy(piece->frame.data, frame->data, frame->length);
	pending->count++;
	reassembly->bytes += frame->length;
	pending->bytes += frame->payload_length;
	if (!frame->more_fragments)
		pending->end = piece->to;
	bool complete = pending->bytes == pending->end;
	struct rte_mbuf *mbuf = join(reassembly, pending, frame, now);
	bury(reassembly);
	if (!complete && !mbuf)
		return FT_REASON_HOLD_FRAGMENT;
	/* rte_ip_frag and we count the same bytes; where one says whole and the other does not, there was no buffer. */
	if (!complete || !mbuf || !finish(reassembly, pending, frame, mbuf, datagram)) {
		why = spoil(reassembly, pending, FT_REASON_DROP_NO_MEMORY, lost);
		*lost -= 1; /* this one is counted by who called */
		return why;
	}
	return FT_REASON_COUNT;
}

void ft_reassembly_rename(struct ft_reassembly *reassembly, const struct ft_frame *frame, uint8_t *data)
{
	uint32_t identification = reassembly->identification++;
	if (frame->kind == FT_FRAME_IPV6) {
		ft_store32(data + frame->fragment_header + 4, identification);
		return;
	}
	struct ft_frame header = {.kind = FT_FRAME_IPV4, .ip = frame->ip};
	ft_store16(data + frame->ip + 4, (uint16_t)identification);
	ft_frame_seal(&header, data);
}

unsigned ft_reassembly_expire(struct ft_reassembly *reassembly, uint64_t now)
{
	unsigned lost = 0;
	if (!reassembly->count)
		return 0;
	for (unsigned i = 0; i < FT_REASSEMBLY_DATAGRAMS; i++) {
		struct pending *pending = &reassembly->list[i];
		if (!pending->used || now - pending->since <= FT_REASSEMBLY_NS)
			continue;
		lost += empty(reassembly, pending);
		forget(reassembly, pending);
	}
	rte_ip_frag_table_del_expired_entries(reassembly->table, &reassembly->dead, now);
	bury(reassembly);
	return lost;
}

unsigned ft_reassembly_count(const struct ft_reassembly *reassembly)
{
	return reassembly->count;
}
