#include "dataplane/neighbour.h"

#include <netinet/in.h>
#include <string.h>

#define TYPE_ARP  0x0806u
#define TYPE_IPV6 0x86ddu

#define ARP_LENGTH     28u
#define MESSAGE_LENGTH 24u /* without options */
#define SOLICITATION   135u
#define ADVERTISEMENT  136u
#define SOLICITED      0x40000000u
#define OVERRIDE       0x20000000u
#define SOURCE_LINK    1u /* options */
#define TARGET_LINK    2u
#define HOPS           255u /* with fewer it may come from another network */

/* Ethernet, IPv4. */
static const uint8_t arp_request[8] = {0, 1, 8, 0, 6, 4, 0, 1}, arp_reply[8] = {0, 1, 8, 0, 6, 4, 0, 2};

static const struct ft_address unspecified;

static bool read_arp(const struct ft_frame *frame, struct ft_neighbour *n)
{
	const uint8_t *arp = frame->data + FT_FRAME_HEADER;
	n->answer = !memcmp(arp, arp_reply, sizeof(arp_reply));
	if (!n->answer && memcmp(arp, arp_request, sizeof(arp_request)))
		return false;
	n->from = ft_address_v4(arp + 14);
	n->to = ft_address_v4(arp + 24);
	n->about = n->answer ? n->from : n->to;
	return true;
}

static bool read_discovery(const struct ft_frame *frame, struct ft_neighbour *n)
{
	const uint8_t *message = frame->data + frame->payload;
	if (frame->fragment || frame->extension || frame->protocol != IPPROTO_ICMPV6 || frame->payload_length < MESSAGE_LENGTH ||
	    (message[0] != SOLICITATION && message[0] != ADVERTISEMENT) || message[1] || frame->data[frame->ip + 7] != HOPS)
		return false;
	n->answer = message[0] == ADVERTISEMENT;
	n->about = ft_address_v6(message + 8);
	n->from = frame->source;
	n->to = frame->destination.bytes[0] == 0xff ? unspecified : frame->destination;
	return true;
}

bool ft_neighbour_read(const struct ft_frame *frame, struct ft_neighbour *neighbour)
{
	if (frame->ip != FT_FRAME_HEADER)
		return false;
	if (frame->kind == FT_FRAME_ARP)
		return read_arp(frame, neighbour);
	return frame->kind == FT_FRAME_IPV6 && read_discovery(frame, neighbour);
}

static size_t make_arp(const struct ft_neighbour *n, const uint8_t mac[6], const uint8_t mac_to[6], uint8_t *frame)
{
	uint8_t *arp = frame + FT_FRAME_HEADER;
	ft_store16(frame + 12, TYPE_ARP);
	memcpy(arp, n->answer ? arp_reply : arp_request, sizeof(arp_request));
	memcpy(arp + 8, mac, 6);
	memcpy(arp + 14, (n->answer ? &n->about : &n->from)->bytes + 12, 4);
	if (n->answer)
		memcpy(arp + 18, mac_to, 6);
	memcpy(arp + 24, (n->answer ? &n->to : &n->about)->bytes + 12, 4);
	return FT_FRAME_HEADER + ARP_LENGTH;
}

static size_t make_discovery(const struct ft_neighbour *n, const uint8_t mac[6], uint8_t *frame)
{
	/* To an asker without an address the answer goes by way of everybody (RFC 4861 7.2.4). */
	static const uint8_t all_nodes[16] = {0xff, 2, [15] = 1};
	uint8_t *ip = frame + FT_FRAME_HEADER, *message = ip + 40, *option = message + MESSAGE_LENGTH;
	bool solicited = !ft_address_same(&n->to, &unspecified);
	ft_store16(frame + 12, TYPE_IPV6);
	ip[0] = 0x60;
	ft_store16(ip + 4, MESSAGE_LENGTH + 8);
	ip[6] = IPPROTO_ICMPV6;
	ip[7] = HOPS;
	memcpy(ip + 8, n->from.bytes, 16);
	memcpy(ip + 24, !n->answer ? n->about.bytes : solicited ? n->to.bytes : all_nodes, 16);
	message[0] = n->answer ? ADVERTISEMENT : SOLICITATION;
	if (n->answer)
		ft_store32(message + 4, OVERRIDE | (solicited ? SOLICITED : 0));
	memcpy(message + 8, n->about.bytes, 16);
	option[0] = n->answer ? TARGET_LINK : SOURCE_LINK;
	option[1] = 1; /* times 8 bytes */
	memcpy(option + 2, mac, 6);
	struct ft_frame made = {.data = frame,
				.kind = FT_FRAME_IPV6,
				.protocol = IPPROTO_ICMPV6,
				.ip = FT_FRAME_HEADER,
				.l4 = FT_FRAME_HEADER + 40,
				.payload = FT_FRAME_HEADER + 40,
				.payload_length = MESSAGE_LENGTH + 8};
	ft_frame_seal_icmp6(&made, frame);
	return FT_NEIGHBOUR_LENGTH;
}

size_t ft_neighbour_make(const struct ft_neighbour *neighbour, const uint8_t mac[6], const uint8_t mac_to[6],
			 uint8_t frame[FT_NEIGHBOUR_LENGTH])
{
	memset(frame, 0, FT_NEIGHBOUR_LENGTH);
	memcpy(frame, mac_to, 6);
	memcpy(frame + 6, mac, 6);
	return ft_address_is_v4(&neighbour->about) ? make_arp(neighbour, mac, mac_to, frame)
						   : make_discovery(neighbour, mac, frame);
}
