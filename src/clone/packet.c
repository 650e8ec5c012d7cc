#include "clone/packet.h"

#define TYPE_IP4 0x0800
#define TYPE_IP6 0x86dd
#define IP4      20u
#define IP6      40u

/* RFC 8200 section 4: the headers that may be stepped over (dataplane/frame.c decides which a held frame may have). */
#define EXTENSIONS       8
#define NEXT_HOPS        0
#define NEXT_ROUTING     43
#define NEXT_FRAGMENT    44
#define NEXT_DESTINATION 60

static uint16_t get16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

static bool open_ip4(struct ft_packet *p)
{
	const uint8_t *ip = p->frame + p->ip;
	size_t room = p->length - p->ip;
	if (room < IP4 || ip[0] >> 4 != 4)
		return false;
	size_t header = (size_t)(ip[0] & 15) * 4, total = get16(ip + 2);
	if (header < IP4 || total < header || total > room)
		return false;
	p->piece = get16(ip + 6) & 0x1fff;
	p->more = ip[6] & 0x20;
	p->protocol = ip[9];
	p->source = ft_address_v4(ip + 12);
	p->destination = ft_address_v4(ip + 16);
	p->payload = ip + header;
	p->size = total - header;
	return true;
}

static bool open_ip6(struct ft_packet *p)
{
	const uint8_t *ip = p->frame + p->ip;
	size_t room = p->length - p->ip;
	if (room < IP6 || ip[0] >> 4 != 6 || get16(ip + 4) > room - IP6)
		return false;
	p->six = true;
	p->protocol = ip[6];
	p->source = ft_address_v6(ip + 8);
	p->destination = ft_address_v6(ip + 24);
	p->payload = ip + IP6;
	p->size = get16(ip + 4);
	for (int n = 0; n < EXTENSIONS && !p->piece; n++) {
		bool fragment = p->protocol == NEXT_FRAGMENT;
		if (!fragment && p->protocol != NEXT_HOPS && p->protocol != NEXT_ROUTING &&
		    p->protocol != NEXT_DESTINATION)
			return true;
		if (p->size < 8)
			return false;
		size_t length = fragment ? 8 : (p->payload[1] + 1u) * 8u;
		if (length > p->size)
			return false;
		if (fragment) {
			p->piece = get16(p->payload + 2) & 0xfff8;
			p->more = p->payload[3] & 1;
		}
		p->protocol = p->payload[0];
		p->payload += length;
		p->size -= length;
	}
	return p->piece;
}

bool ft_packet_open(struct ft_packet *p, const uint8_t *frame, size_t length, uint16_t *type)
{
	*p = (struct ft_packet){.frame = frame, .length = length};
	int header = ft_ethernet_open(frame, length, &p->tags, type);
	if (header < 0) {
		*type = 0;
		return false;
	}
	p->ip = (size_t)header;
	return *type == TYPE_IP4 ? open_ip4(p) : *type == TYPE_IP6 && open_ip6(p);
}

static uint32_t add_sum(uint32_t sum, const uint8_t *p, size_t n)
{
	for (; n > 1; p += 2, n -= 2)
		sum += get16(p);
	return n ? sum + ((uint32_t)p[0] << 8) : sum;
}

static uint16_t fold(uint32_t sum)
{
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~sum;
}

uint16_t ft_packet_sum(const uint8_t *p, size_t length)
{
	return fold(add_sum(0, p, length));
}

uint16_t ft_packet_transport_sum(const uint8_t *ip, unsigned protocol, const uint8_t *p, size_t length)
{
	bool six = ip[0] >> 4 == 6;
	uint32_t sum = add_sum(0, ip + (six ? 8 : 12), six ? 32 : 8) + protocol + (uint32_t)length;
	return fold(add_sum(sum, p, length));
}
