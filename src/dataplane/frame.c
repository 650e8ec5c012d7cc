#include "dataplane/frame.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>

#define ETHERTYPE_IPV4 0x0800u
#define ETHERTYPE_ARP  0x0806u
#define ETHERTYPE_IPV6 0x86ddu

#define PROTOCOL_MOBILITY 135u
#define PROTOCOL_HIP      139u
#define PROTOCOL_SHIM6    140u
#define PROTOCOL_TEST     253u /* and 254: RFC 3692 */

#define IPV4_HEADER 20u
#define IPV6_HEADER 40u
#define TCP_HEADER  20u
#define UDP_HEADER  8u
#define ARP_LENGTH  28u

#define IPV4_MORE_FRAGMENTS  0x2000u
#define IPV4_FRAGMENT_OFFSET 0x1fffu

static int refuse(enum ft_reason *why, enum ft_reason reason)
{
	*why = reason;
	return -EPROTO;
}

/* Ones' complement sum of RFC 1071 over big-endian 16-bit words; fold() ends it. */
static uint64_t sum(const uint8_t *p, size_t length, uint64_t start)
{
	uint64_t total = start;
	for (; length >= 8; length -= 8, p += 8) {
		uint64_t eight;
		memcpy(&eight, p, sizeof(eight));
		eight = __builtin_bswap64(eight);
		total += (eight >> 32) + (uint32_t)eight;
	}
	for (; length >= 4; length -= 4, p += 4)
		total += ft_load32(p);
	if (length >= 2) {
		total += ft_load16(p);
		length -= 2;
		p += 2;
	}
	if (length)
		total += (uint64_t)*p << 8;
	return total;
}

static uint16_t fold(uint64_t total)
{
	/* 2^16 is congruent to 1, so a sum of 32-bit words folds to the sum of their halves. */
	while (total >> 16)
		total = (total & 0xffff) + (total >> 16);
	return (uint16_t)total;
}

static uint32_t transport_length(const struct ft_frame *frame)
{
	return frame->payload + frame->payload_length - frame->l4;
}

static uint64_t pseudo_header(const struct ft_frame *frame)
{
	/* RFC 8200 8.1. With a routing header that still has a way to go the last address would be another one; such a
	 * packet is not looked behind. */
	uint64_t total = frame->kind == FT_FRAME_IPV6 ? sum(frame->data + frame->ip + 8, 32, 0)
						      : sum(frame->data + frame->ip + 12, 8, 0);
	return total + frame->protocol + transport_length(frame);
}

/* The IP packet now ends at this offset. */
static void set_end(const struct ft_frame *frame, uint8_t *data, uint32_t end)
{
	uint8_t *ip = data + frame->ip;
	if (frame->kind == FT_FRAME_IPV6)
		ft_store16(ip + 4, (uint16_t)(end - frame->ip - IPV6_HEADER));
	else
		ft_store16(ip + 2, (uint16_t)(end - frame->ip));
}

static int parse_tcp_options(struct ft_frame *frame, uint32_t end)
{
	uint32_t at = frame->l4 + TCP_HEADER;
	while (at < end) {
		uint8_t kind = frame->data[at];
		if (kind == 0)
			break;
		if (kind == 1) {
			at++;
			continue;
		}
		if (end - at < 2)
			return -EPROTO;
		uint8_t length = frame->data[at + 1];
		if (length < 2 || length > end - at)
			return -EPROTO;
		if (kind == 3 && length == 3)
			/* RFC 7323 2.3: more than 14 counts as 14. */
			frame->window_scale = (int8_t)(frame->data[at + 2] > 14 ? 14 : frame->data[at + 2]);
		if (kind == 4 && length == 2)
			frame->sack_permitted = true;
		if (kind == 8 && length == 10)
			frame->timestamp = (uint16_t)(at + 2);
		at += length;
	}
	return 0;
}

/* end: offset behind the last byte of the IP packet. */
static int parse_transport(struct ft_frame *frame, uint32_t end, enum ft_reason *why)
{
	const uint8_t *p = frame->data + frame->l4;
	uint32_t length = end - frame->l4;
	if (frame->protocol == IPPROTO_TCP) {
		if (length < TCP_HEADER)
			return refuse(why, FT_REASON_DROP_RUNT);
		uint32_t header = (p[12] >> 4) * 4u;
		if (header < TCP_HEADER || header > length)
			return refuse(why, FT_REASON_DROP_MALFORMED);
		frame->sequence = ft_load32(p + 4);
		frame->acknowledgement = ft_load32(p + 8);
		frame->flags = p[13];
		frame->window = ft_load16(p + 14);
		frame->payload = frame->l4 + header;
		frame->payload_length = length - header;
		frame->odd_options = frame->payload > FT_FRAME_HEADERS || parse_tcp_options(frame, frame->payload);
		if (frame->odd_options) {
			frame->window_scale = -1;
			frame->sack_permitted = false;
			frame->timestamp = 0;
		}
	} else if (frame->protocol == IPPROTO_UDP) {
		if (length < UDP_HEADER)
			return refuse(why, FT_REASON_DROP_RUNT);
		uint32_t datagram = ft_load16(p + 4);
		if (datagram < UDP_HEADER || datagram > length)
			return refuse(why, FT_REASON_DROP_MALFORMED);
		frame->payload = frame->l4 + UDP_HEADER;
		frame->payload_length = datagram - UDP_HEADER;
	} else {
		frame->payload = frame->l4;
		frame->payload_length = length;
		return 0;
	}
	frame->source_port = ft_load16(p);
	frame->destination_port = ft_load16(p + 2);
	frame->transport = true;
	return 0;
}

/* A packet that says to be longer than what is there: a port with small buffers cuts what is longer, and then that is a
 * jumbo frame and not the sender's mistake. */
static int refuse_short(const struct ft_frame *frame, uint32_t end, enum ft_reason *why)
{
	bool cut = end > FT_FRAME_USUAL && frame->length >= FT_FRAME_USUAL;
	return refuse(why, cut ? FT_REASON_DROP_OVERSIZE : FT_REASON_DROP_RUNT);
}

/* frame->payload and the fragment's place are set. */
static int check_fragment(const struct ft_frame *frame, enum ft_reason *why)
{
	/* All but the last are whole units of 8 bytes, and none ends behind what a packet can be (RFC 8200 4.5). */
	if ((frame->more_fragments && (frame->payload_length % 8 || !frame->payload_length)) ||
	    frame->fragment_offset + frame->payload_length > 65535)
		return refuse(why, FT_REASON_DROP_MALFORMED);
	return 0;
}

static int parse_ipv4(struct ft_frame *frame, enum ft_reason *why)
{
	const uint8_t *p = frame->data + frame->ip;
	uint32_t room = frame->length - frame->ip;
	if (room < IPV4_HEADER)
		return refuse(why, FT_REASON_DROP_RUNT);
	uint32_t header = (p[0] & 15u) * 4u;
	uint32_t total = ft_load16(p + 2);
	if (p[0] >> 4 != 4 || header < IPV4_HEADER || total < header)
		return refuse(why, FT_REASON_DROP_MALFORMED);
	if (total > room)
		return refuse_short(frame, frame->ip + total, why);
	if (fold(sum(p, header, 0)) != 0xffff)
		return refuse(why, FT_REASON_DROP_CHECKSUM);
	frame->protocol = p[9];
	frame->ipsec = frame->protocol == IPPROTO_AH || frame->protocol == IPPROTO_ESP;
	frame->source = ft_address_v4(p + 12);
	frame->destination = ft_address_v4(p + 16);
	frame->l4 = (uint16_t)(frame->ip + header);
	frame->payload = frame->l4;
	frame->payload_length = total - header;
	uint16_t place = ft_load16(p + 6);
	if (!(place & (IPV4_MORE_FRAGMENTS | IPV4_FRAGMENT_OFFSET)))
		return parse_transport(frame, frame->ip + total, why);
	frame->fragment = true;
	frame->more_fragments = place & IPV4_MORE_FRAGMENTS;
	frame->fragment_offset = (uint16_t)((place & IPV4_FRAGMENT_OFFSET) * 8u);
	frame->identification = ft_load16(p + 4);
	return check_fragment(frame, why);
}

enum chain {
	CHAIN_END,    /* frame->protocol is what follows, at frame->l4 */
	CHAIN_PIECE,  /* a fragment: its bytes begin at frame->l4 */
	CHAIN_BLIND,  /* something that cannot be looked behind */
	CHAIN_SHORT,  /* longer than the packet */
	CHAIN_BROKEN
};

static enum chain fragment_header(struct ft_frame *frame, uint32_t at)
{
	const uint8_t *p = frame->data + at;
	uint16_t place = ft_load16(p + 2);
	if (frame->fragment_header)
		return CHAIN_BROKEN; /* fragments of fragments */
	frame->fragment_header = (uint16_t)at;
	frame->fragment_offset = place & 0xfff8u;
	frame->more_fragments = place & 1;
	frame->identification = ft_load32(p + 4);
	frame->fragment = frame->fragment_offset || frame->more_fragments;
	return frame->fragment ? CHAIN_PIECE : CHAIN_END;
}

/* Follows the chain of RFC 8200 section 4 from the header `next` at frame->l4 to end. Which of the headers that a stack
 * steps over are stepped over here has to be the same, or somebody could hide a port behind one. */
static enum chain follow_chain(struct ft_frame *frame, uint8_t next, uint32_t end)
{
	for (unsigned count = 0;; count++) {
		const uint8_t *p = frame->data + frame->l4;
		frame->protocol = next;
		switch (next) {
		case IPPROTO_HOPOPTS:
		case IPPROTO_ROUTING:
		case IPPROTO_DSTOPTS:
		case IPPROTO_FRAGMENT:
			break;
		case IPPROTO_AH:
		case IPPROTO_ESP:
			frame->ipsec = true;
			return CHAIN_END;
		case PROTOCOL_MOBILITY:
		case PROTOCOL_HIP:
		case PROTOCOL_SHIM6:
		case PROTOCOL_TEST:
		case PROTOCOL_TEST + 1:
			return CHAIN_BLIND;
		default:
			return CHAIN_END; /* no extension header: a stack has a protocol behind that number, or none */
		}
		if (next == IPPROTO_HOPOPTS && count)
			return CHAIN_BROKEN; /* it can only be the first */
		if (count == FT_FRAME_EXTENSIONS)
			return CHAIN_BLIND;
		if (end - frame->l4 < 8)
			return CHAIN_SHORT;
		/* The rest of the way is the routing header's business, and then it is not for this guest. */
		if (next == IPPROTO_ROUTING && p[3])
			return CHAIN_BLIND;
		uint32_t length = 8;
		if (next == IPPROTO_FRAGMENT) {
			enum chain what = fragment_header(frame, frame->l4);
			if (what == CHAIN_BROKEN)
				return what;
			if (what == CHAIN_PIECE) {
				frame->protocol = p[0];
				frame->l4 = (uint16_t)(frame->l4 + 8);
				return what;
			}
		} else {
			length = (p[1] + 1u) * 8u;
		}
		if (length > end - frame->l4)
			return CHAIN_SHORT;
		frame->l4 = (uint16_t)(frame->l4 + length);
		next = p[0];
	}
}

static int parse_ipv6(struct ft_frame *frame, enum ft_reason *why)
{
	const uint8_t *p = frame->data + frame->ip;
	uint32_t room = frame->length - frame->ip;
	if (room < IPV6_HEADER)
		return refuse(why, FT_REASON_DROP_RUNT);
	uint32_t length = ft_load16(p + 4), end = frame->ip + IPV6_HEADER + length;
	if (p[0] >> 4 != 6)
		return refuse(why, FT_REASON_DROP_MALFORMED);
	if (length > room - IPV6_HEADER)
		return refuse_short(frame, end, why);
	frame->source = ft_address_v6(p + 8);
	frame->destination = ft_address_v6(p + 24);
	/* See base/address.h. */
	if (ft_address_is_v4(&frame->source) || ft_address_is_v4(&frame->destination))
		return refuse(why, FT_REASON_DROP_MALFORMED);
	frame->l4 = (uint16_t)(frame->ip + IPV6_HEADER);
	enum chain chain = follow_chain(frame, p[6], end);
	frame->payload = frame->l4;
	frame->payload_length = end - frame->l4;
	switch (chain) {
	case CHAIN_END:
		return parse_transport(frame, end, why);
	case CHAIN_PIECE:
		return check_fragment(frame, why);
	case CHAIN_BLIND:
		frame->extension = true;
		return 0;
	case CHAIN_SHORT:
		return refuse(why, FT_REASON_DROP_RUNT);
	default:
		return refuse(why, FT_REASON_DROP_MALFORMED);
	}
}

int ft_frame_parse(struct ft_frame *frame, const void *data, size_t length, enum ft_reason *why)
{
	*frame = (struct ft_frame){.data = data, .length = (uint32_t)length, .window_scale = -1};
	if (length < FT_FRAME_HEADER)
		return refuse(why, FT_REASON_DROP_RUNT);
	if (length > 65535u)
		return refuse(why, FT_REASON_DROP_OVERSIZE);
	uint16_t type;
	int header = ft_ethernet_open(data, length, &frame->tags, &type);
	if (header < 0)
		return refuse(why, header == -EPROTO ? FT_REASON_DROP_MALFORMED : FT_REASON_DROP_RUNT);
	frame->ip = (uint16_t)header;
	switch (type) {
	case ETHERTYPE_ARP:
		frame->kind = FT_FRAME_ARP;
		return length - frame->ip < ARP_LENGTH ? refuse(why, FT_REASON_DROP_RUNT) : 0;
	case ETHERTYPE_IPV4:
		frame->kind = FT_FRAME_IPV4;
		return parse_ipv4(frame, why);
	case ETHERTYPE_IPV6:
		frame->kind = FT_FRAME_IPV6;
		return parse_ipv6(frame, why);
	default:
		frame->kind = FT_FRAME_OTHER;
		return 0;
	}
}

/* ---- ICMP errors ---- */

bool ft_frame_is_too_big(const struct ft_frame *frame)
{
	const uint8_t *icmp = frame->data + frame->payload;
	if (frame->fragment || frame->payload_length < 8)
		return false;
	return frame->kind == FT_FRAME_IPV4 ? frame->protocol == IPPROTO_ICMP && icmp[0] == 3 && icmp[1] == 4
					    : frame->protocol == IPPROTO_ICMPV6 && icmp[0] == 2;
}

static bool is_error(const struct ft_frame *frame)
{
	uint8_t type = frame->data[frame->payload];
	/* Unreachable, source quench, redirect, time exceeded, parameter problem; RFC 4443: everything below 128. */
	if (frame->kind == FT_FRAME_IPV4 && frame->protocol == IPPROTO_ICMP)
		return type == 3 || type == 4 || type == 5 || type == 11 || type == 12;
	return frame->kind == FT_FRAME_IPV6 && frame->protocol == IPPROTO_ICMPV6 && type < 128;
}

bool ft_frame_is_error(const struct ft_frame *frame, struct ft_frame_quote *quote)
{
	*quote = (struct ft_frame_quote){0};
	if (frame->fragment || !frame->payload_length || !is_error(frame))
		return false;
	/* The quote is a packet whose end is missing: its lengths are not to be believed. */
	uint32_t end = frame->payload + frame->payload_length;
	struct ft_frame inner = {.data = frame->data, .kind = frame->kind, .ip = (uint16_t)(frame->payload + 8)};
	bool six = frame->kind == FT_FRAME_IPV6;
	uint32_t least = six ? IPV6_HEADER : IPV4_HEADER;
	if (frame->payload_length < 8 + least)
		return true;
	const uint8_t *p = frame->data + inner.ip;
	if (six) {
		inner.l4 = (uint16_t)(inner.ip + IPV6_HEADER);
		enum chain chain = p[0] >> 4 == 6 ? follow_chain(&inner, p[6], end) : CHAIN_BROKEN;
		if (chain > CHAIN_PIECE || (chain == CHAIN_PIECE && inner.fragment_offset))
			return true;
		quote->source = ft_address_v6(p + 8);
		quote->destination = ft_address_v6(p + 24);
	} else {
		inner.l4 = (uint16_t)(inner.ip + (p[0] & 15u) * 4u);
		if (p[0] >> 4 != 4 || (p[0] & 15u) < 5 || inner.l4 > end || ft_load16(p + 6) & IPV4_FRAGMENT_OFFSET)
			return true;
		inner.protocol = p[9];
		quote->source = ft_address_v4(p + 12);
		quote->destination = ft_address_v4(p + 16);
	}
	quote->protocol = inner.protocol;
	/* RFC 792: at least 8 bytes of what is behind the header. */
	if ((inner.protocol != IPPROTO_TCP && inner.protocol != IPPROTO_UDP) || end - inner.l4 < 8)
		return true;
	const uint8_t *l4 = frame->data + inner.l4;
	quote->ports = true;
	quote->source_port = ft_load16(l4);
	quote->destination_port = ft_load16(l4 + 2);
	quote->sequence = ft_load32(l4 + 4);
	return true;
}

uint32_t ft_frame_span(const struct ft_frame *frame)
{
	return frame->payload_length + !!(frame->flags & FT_TCP_SYN) + !!(frame->flags & FT_TCP_FIN);
}

static uint32_t checksum_offset(const struct ft_frame *frame)
{
	return frame->l4 + (frame->protocol == IPPROTO_TCP ? 16u : 6u);
}

enum ft_frame_checksum ft_frame_checksum(const struct ft_frame *frame)
{
	if (!frame->transport)
		return FT_CHECKSUM_GOOD;
	uint16_t field = ft_load16(frame->data + checksum_offset(frame));
	/* RFC 768; over IPv6 it has to be there (RFC 8200 8.1). */
	if (frame->protocol == IPPROTO_UDP && !field)
		return frame->kind == FT_FRAME_IPV6 ? FT_CHECKSUM_BAD : FT_CHECKSUM_GOOD;
	uint64_t pseudo = pseudo_header(frame);
	if (fold(sum(frame->data + frame->l4, transport_length(frame), pseudo)) == 0xffff)
		return FT_CHECKSUM_GOOD;
	return field == fold(pseudo) ? FT_CHECKSUM_PARTIAL : FT_CHECKSUM_BAD;
}

void ft_frame_seal(const struct ft_frame *frame, uint8_t *data)
{
	uint8_t *ip = data + frame->ip;
	if (frame->kind == FT_FRAME_IPV4) {
		ft_store16(ip + 10, 0);
		ft_store16(ip + 10, (uint16_t)~fold(sum(ip, (ip[0] & 15u) * 4u, 0)));
	}
	if (!frame->transport)
		return;
	struct ft_frame here = *frame;
	here.data = data;
	uint8_t *field = data + checksum_offset(frame);
	ft_store16(field, 0);
	uint16_t value =
	    (uint16_t)~fold(sum(data + frame->l4, transport_length(frame), pseudo_header(&here)));
	/* RFC 768: zero would mean that there is none. */
	ft_store16(field, !value && frame->protocol == IPPROTO_UDP ? 0xffff : value);
}

void ft_frame_seal_icmp6(const struct ft_frame *frame, uint8_t *data)
{
	struct ft_frame here = *frame;
	here.data = data;
	uint8_t *field = data + frame->l4 + 2;
	ft_store16(field, 0);
	ft_store16(field, (uint16_t)~fold(sum(data + frame->l4, transport_length(frame), pseudo_header(&here))));
}

size_t ft_frame_bare(const struct ft_frame *frame, const struct ft_frame_bare *change, uint8_t *to)
{
	struct ft_frame bare = *frame;
	memcpy(to, frame->data, frame->payload);
	bare.data = to;
	bare.length = frame->payload;
	bare.payload_length = 0;
	set_end(frame, to, frame->payload);
	uint8_t *tcp = to + frame->l4;
	ft_store32(tcp + 4, change->sequence);
	tcp[13] = change->flags;
	ft_store16(tcp + 18, 0);
	if (change->set_timestamp && frame->timestamp)
		ft_store32(to + frame->timestamp, change->timestamp);
	ft_frame_seal(&bare, to);
	return bare.length;
}

void ft_frame_slice(const struct ft_frame *frame, uint32_t from, uint32_t end, bool fin, uint8_t *to, struct ft_frame *slice)
{
	uint32_t length = end - from;
	memcpy(to, frame->data, frame->payload);
	memcpy(to + frame->payload, frame->data + frame->payload + from, length);
	*slice = *frame;
	slice->data = to;
	slice->length = frame->payload + length;
	slice->payload_length = length;
	slice->sequence += from;
	if (!fin)
		slice->flags &= (uint8_t)~FT_TCP_FIN;
	set_end(frame, to, slice->length);
	ft_store32(to + frame->l4 + 4, slice->sequence);
	to[frame->l4 + 13] = slice->flags;
	ft_frame_seal(slice, to);
}

/* The options were walked when the frame was parsed: see parse_tcp_options. */
static void blank_sack(const struct ft_frame *frame, uint8_t *data)
{
	if (frame->odd_options)
		return;
	for (uint32_t at = frame->l4 + TCP_HEADER; at < frame->payload && data[at];) {
		uint8_t length = data[at] == 1 ? 1 : data[at + 1];
		if (data[at] == 5)
			memset(data + at, 1, length);
		at += length;
	}
}

void ft_frame_refresh(struct ft_frame *frame, uint8_t *data, const struct ft_frame_news *news)
{
	uint8_t *tcp = data + frame->l4;
	if (frame->acknowledgement != news->acknowledgement)
		blank_sack(frame, data);
	frame->acknowledgement = news->acknowledgement;
	frame->window = news->window;
	ft_store32(tcp + 8, news->acknowledgement);
	ft_store16(tcp + 14, news->window);
	if (frame->timestamp && news->has_timestamp &&
	    (int32_t)(ft_load32(data + frame->timestamp) - news->timestamp) < 0)
		ft_store32(data + frame->timestamp, news->timestamp);
	ft_frame_seal(frame, data);
}

bool ft_frame_calm(struct ft_frame *frame, uint8_t *data)
{
	if (!frame->transport || frame->protocol != IPPROTO_TCP || !(frame->flags & FT_TCP_URG))
		return false;
	frame->flags &= (uint8_t)~FT_TCP_URG;
	data[frame->l4 + 13] = frame->flags;
	ft_store16(data + frame->l4 + 18, 0);
	ft_frame_seal(frame, data);
	return true;
}
