#include "dataplane/frame.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>

#define ETHERTYPE_IPV4 0x0800u
#define ETHERTYPE_ARP  0x0806u
#define ETHERTYPE_IPV6 0x86ddu
#define ETHERTYPE_VLAN 0x8100u
#define ETHERTYPE_QINQ 0x88a8u

#define VLAN_TAGS 2 /* 802.1ad allows two; more is somebody hiding something */

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
	uint64_t total = sum(frame->data + frame->ip + 12, 8, 0);
	return total + frame->protocol + transport_length(frame);
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
		if (parse_tcp_options(frame, frame->payload))
			return refuse(why, FT_REASON_DROP_MALFORMED);
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
		/* A port with small buffers cuts what is longer: that is a jumbo frame and not the sender's
		 * mistake. */
		return refuse(why, total + frame->ip > FT_FRAME_USUAL && frame->length >= FT_FRAME_USUAL
				       ? FT_REASON_REFUSE_JUMBO
				       : FT_REASON_DROP_RUNT);
	if (fold(sum(p, header, 0)) != 0xffff)
		return refuse(why, FT_REASON_DROP_CHECKSUM);
	frame->protocol = p[9];
	memcpy(&frame->source, p + 12, 4);
	memcpy(&frame->destination, p + 16, 4);
	frame->l4 = (uint16_t)(frame->ip + header);
	frame->fragment = ft_load16(p + 6) & (IPV4_MORE_FRAGMENTS | IPV4_FRAGMENT_OFFSET);
	frame->payload = frame->l4;
	frame->payload_length = total - header;
	return frame->fragment ? 0 : parse_transport(frame, frame->ip + total, why);
}

static int parse_ipv6(struct ft_frame *frame, enum ft_reason *why)
{
	const uint8_t *p = frame->data + frame->ip;
	uint32_t room = frame->length - frame->ip;
	if (room < IPV6_HEADER)
		return refuse(why, FT_REASON_DROP_RUNT);
	uint32_t length = ft_load16(p + 4);
	if (p[0] >> 4 != 6)
		return refuse(why, FT_REASON_DROP_MALFORMED);
	if (length > room - IPV6_HEADER)
		return refuse(why, FT_REASON_DROP_RUNT);
	frame->protocol = p[6];
	frame->l4 = (uint16_t)(frame->ip + IPV6_HEADER);
	frame->payload = frame->l4;
	frame->payload_length = length;
	if (frame->protocol != IPPROTO_TCP && frame->protocol != IPPROTO_UDP) {
		frame->extension = frame->protocol != IPPROTO_ICMPV6 && frame->protocol != IPPROTO_NONE;
		return 0;
	}
	return parse_transport(frame, frame->l4 + length, why);
}

int ft_frame_parse(struct ft_frame *frame, const void *data, size_t length, enum ft_reason *why)
{
	*frame = (struct ft_frame){.data = data, .length = (uint32_t)length, .window_scale = -1};
	if (length < FT_FRAME_HEADER)
		return refuse(why, FT_REASON_DROP_RUNT);
	if (length > 65535u + FT_FRAME_HEADER)
		return refuse(why, FT_REASON_DROP_OVERSIZE);
	uint32_t at = 12;
	uint16_t type = ft_load16(frame->data + at);
	for (int tags = 0; type == ETHERTYPE_VLAN || type == ETHERTYPE_QINQ; tags++) {
		if (tags == VLAN_TAGS)
			return refuse(why, FT_REASON_DROP_MALFORMED);
		if (length < at + 6)
			return refuse(why, FT_REASON_DROP_RUNT);
		frame->vlan = true;
		at += 4;
		type = ft_load16(frame->data + at);
	}
	frame->ip = (uint16_t)(at + 2);
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
	if (!frame->transport || frame->kind != FT_FRAME_IPV4)
		return FT_CHECKSUM_GOOD;
	uint16_t field = ft_load16(frame->data + checksum_offset(frame));
	if (frame->protocol == IPPROTO_UDP && !field)
		return FT_CHECKSUM_GOOD;
	uint64_t pseudo = pseudo_header(frame);
	if (fold(sum(frame->data + frame->l4, transport_length(frame), pseudo)) == 0xffff)
		return FT_CHECKSUM_GOOD;
	return field == fold(pseudo) ? FT_CHECKSUM_PARTIAL : FT_CHECKSUM_BAD;
}

void ft_frame_seal(const struct ft_frame *frame, uint8_t *data)
{
	if (frame->kind != FT_FRAME_IPV4)
		return;
	uint8_t *ip = data + frame->ip;
	ft_store16(ip + 10, 0);
	ft_store16(ip + 10, (uint16_t)~fold(sum(ip, (ip[0] & 15u) * 4u, 0)));
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

size_t ft_frame_bare(const struct ft_frame *frame, const struct ft_frame_bare *change, uint8_t *to)
{
	struct ft_frame bare = *frame;
	memcpy(to, frame->data, frame->payload);
	bare.data = to;
	bare.length = frame->payload;
	bare.payload_length = 0;
	ft_store16(to + frame->ip + 2, (uint16_t)(frame->payload - frame->ip));
	uint8_t *tcp = to + frame->l4;
	ft_store32(tcp + 4, change->sequence);
	tcp[13] = change->flags;
	ft_store16(tcp + 18, 0);
	if (change->set_timestamp && frame->timestamp)
		ft_store32(to + frame->timestamp, change->timestamp);
	ft_frame_seal(&bare, to);
	return bare.length;
}

void ft_frame_rest(const struct ft_frame *frame, uint32_t bytes, uint8_t *to, struct ft_frame *rest)
{
	uint32_t length = frame->payload_length - bytes;
	memcpy(to, frame->data, frame->payload);
	memcpy(to + frame->payload, frame->data + frame->payload + bytes, length);
	*rest = *frame;
	rest->data = to;
	rest->length = frame->payload + length;
	rest->payload_length = length;
	rest->sequence += bytes;
	ft_store16(to + frame->ip + 2, (uint16_t)(rest->length - frame->ip));
	ft_store32(to + frame->l4 + 4, rest->sequence);
	ft_frame_seal(rest, to);
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
