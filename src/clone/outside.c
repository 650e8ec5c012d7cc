#include "clone/outside.h"

#include <arpa/inet.h>
#include <string.h>

#include "clone/packet.h"

/* Offsets and sizes: RFC 826 (ARP), 791 (IPv4), 9293 (TCP), 768 (UDP), 792 (ICMP), 8200 (IPv6), 4861 (NDP). */
#define ARP         28u
#define IP4         20u
#define IP6         40u
#define TCP         20u
#define UDP         8u
#define DNS         12u
#define TYPE_IP4    0x0800
#define TYPE_ARP    0x0806
#define TYPE_IP6    0x86dd
#define PROTO_ICMP  1
#define PROTO_TCP   6
#define PROTO_UDP   17
#define PROTO_ICMP6 58
#define FLAG_FIN    0x01
#define FLAG_SYN    0x02
#define FLAG_RST    0x04
#define FLAG_ACK    0x10

static uint16_t get16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

static uint32_t get32(const uint8_t *p)
{
	return (uint32_t)get16(p) << 16 | get16(p + 2);
}

static void put16(uint8_t *p, unsigned value)
{
	p[0] = (uint8_t)(value >> 8);
	p[1] = (uint8_t)value;
}

static void put32(uint8_t *p, uint32_t value)
{
	put16(p, value >> 16);
	put16(p + 2, value & 0xffff);
}

/* In front of each answer; both are padded to its size. length 0: nothing more before the end, the next is at the front. */
struct pending {
	uint64_t due_ns;
	uint64_t length;
};
_Static_assert(FT_OUTSIDE_PENDING % sizeof(struct pending) == 0, "there is always place for a header before the end");

static uint32_t padded(size_t length)
{
	return (uint32_t)((sizeof(struct pending) + length + sizeof(struct pending) - 1) & ~(sizeof(struct pending) - 1));
}

static struct pending *pending_at(const struct ft_outside *o, uint32_t at)
{
	return (struct pending *)(void *)((uintptr_t)o->pending + at);
}

/* A place for an answer of `length` bytes, zeroed; NULL when there is none. */
static uint8_t *answer(struct ft_outside *o, size_t length, uint64_t now_ns)
{
	uint32_t at = (o->first + o->used) % FT_OUTSIDE_PENDING, size = padded(length);
	uint32_t skipped = size > FT_OUTSIDE_PENDING - at ? FT_OUTSIDE_PENDING - at : 0;
	if (length > FT_OUTSIDE_FRAME || o->used + skipped + size > FT_OUTSIDE_PENDING) {
		o->overflow++;
		return NULL;
	}
	if (skipped)
		pending_at(o, at)->length = 0;
	struct pending *p = pending_at(o, skipped ? 0 : at);
	o->used += skipped + size;
	p->due_ns = now_ns + o->config.delay_ns;
	p->length = length;
	return memset(p + 1, 0, length);
}

/* From whom the guest wrote to, back to the guest, with the same tags. */
static void turn_ethernet(uint8_t *to, const struct ft_packet *from)
{
	memcpy(to, from->frame, from->ip);
	memcpy(to, from->frame + 6, 6);
	memcpy(to + 6, from->frame, 6);
}

static void turn_ip6(uint8_t *to, const uint8_t *from, unsigned protocol, size_t payload)
{
	to[0] = 0x60;
	put16(to + 4, (unsigned)payload);
	to[6] = (uint8_t)protocol;
	to[7] = 64;
	memcpy(to + 8, from + 24, 16);
	memcpy(to + 24, from + 8, 16);
}

static void turn_ip4(uint8_t *to, const uint8_t *from, unsigned protocol, size_t payload)
{
	to[0] = 0x45;
	put16(to + 2, (unsigned)(IP4 + payload));
	to[6] = 0x40; /* do not fragment; then the identification may be 0 (RFC 6864) */
	to[8] = 64;
	to[9] = (uint8_t)protocol;
	memcpy(to + 12, from + 16, 4);
	memcpy(to + 16, from + 12, 4);
	put16(to + 10, ft_packet_sum(to, IP4));
}

/* An answer with `payload` bytes of that protocol, headers filled in; the payload is zero. NULL when there is no place. */
static uint8_t *answer_ip(struct ft_outside *o, const struct ft_packet *from, unsigned protocol, size_t payload,
			  uint64_t now_ns, uint8_t **ip)
{
	size_t header = from->six ? IP6 : IP4;
	uint8_t *to = answer(o, from->ip + header + payload, now_ns);
	if (!to)
		return NULL;
	turn_ethernet(to, from);
	*ip = to + from->ip;
	(from->six ? turn_ip6 : turn_ip4)(*ip, from->frame + from->ip, protocol, payload);
	return *ip + header;
}

/* Whoever is at that address: the sender of a held flow, or somebody out there who shares the first one's hardware address, which
 * is the gateway's when the senders are far away. */
static const uint8_t *mac_of(const struct ft_outside *o, const struct ft_packet *asked, const struct ft_address *address)
{
	for (uint32_t i = 0; i < o->count; i++) {
		const struct ft_trial_flow *flow = o->senders[i].flow;
		if (ft_address_same(&flow->client_ip, address) && !memcmp(&flow->tags, &asked->tags, sizeof(flow->tags)))
			return flow->client_mac;
	}
	return o->mac;
}

static void take_arp(struct ft_outside *o, const struct ft_packet *p, uint64_t now_ns)
{
	const uint8_t *frame = p->frame;
	static const uint8_t request[8] = {0, 1, 8, 0, 6, 4, 0, 1};
	static const uint8_t nobody[4];
	if (p->length < p->ip + ARP || memcmp(frame + p->ip, request, sizeof(request)))
		return;
	const uint8_t *arp = frame + p->ip, *sender = arp + 14, *target = arp + 24;
	/* A probe for its own address (RFC 5227) must stay unanswered: an answer would mean a conflict. */
	if (!memcmp(target, &o->config.guest_ip, 4) || !memcmp(target, sender, 4) ||
	    !memcmp(sender, nobody, 4))
		return;
	uint8_t *to = answer(o, p->ip + ARP, now_ns);
	if (!to)
		return;
	/* Asked again by unicast, who was asked answers. */
	struct ft_address address = ft_address_v4(target);
	const uint8_t *mac = frame[0] & 1 ? mac_of(o, p, &address) : frame;
	turn_ethernet(to, p);
	memcpy(to + 6, mac, 6);
	uint8_t *arp_to = to + p->ip;
	memcpy(arp_to, request, sizeof(request));
	arp_to[7] = 2;
	memcpy(arp_to + 8, mac, 6);
	memcpy(arp_to + 14, target, 4);
	memcpy(arp_to + 18, arp + 8, 10);
}

/* RFC 4861 section 7.2: a solicitation with a source gets an advertisement. One without is a search for duplicates (RFC 4862)
 * and must stay unanswered, like one for an address of the guest's own. */
static void take_solicitation(struct ft_outside *o, const struct ft_packet *p, uint64_t now_ns)
{
	static const uint8_t nobody[16];
	const uint8_t *ip = p->frame + p->ip, *icmp = p->payload;
	if (p->size < 24 || !memcmp(ip + 8, nobody, 16) || !memcmp(ip + 8, icmp + 8, 16) ||
	    !memcmp(icmp + 8, o->config.guest_ip6.bytes, 16))
		return;
	uint8_t *ip_to, *icmp_to = answer_ip(o, p, PROTO_ICMP6, 24 + 8, now_ns, &ip_to);
	if (!icmp_to)
		return;
	/* As in ARP: who was asked by unicast answers. */
	struct ft_address address = ft_address_v6(icmp + 8);
	const uint8_t *mac = p->frame[0] & 1 ? mac_of(o, p, &address) : p->frame;
	memcpy(ip_to - p->ip + 6, mac, 6);
	ip_to[7] = 255; /* from this very link */
	memcpy(ip_to + 8, icmp + 8, 16);
	icmp_to[0] = 136;
	icmp_to[4] = 0x60; /* solicited, override */
	memcpy(icmp_to + 8, icmp + 8, 16);
	icmp_to[24] = 2; /* target link-layer address */
	icmp_to[25] = 1;
	memcpy(icmp_to + 26, mac, 6);
	put16(icmp_to + 2, ft_packet_transport_sum(ip_to, PROTO_ICMP6, icmp_to, 24 + 8));
}

static void take_echo(struct ft_outside *o, const struct ft_packet *p, uint64_t now_ns)
{
	uint8_t *ip_to, *icmp_to = answer_ip(o, p, p->protocol, p->size, now_ns, &ip_to);
	if (!icmp_to)
		return;
	memcpy(icmp_to, p->payload, p->size);
	icmp_to[0] = p->six ? 129 : 0;
	put16(icmp_to + 2, 0);
	put16(icmp_to + 2, p->six ? ft_packet_transport_sum(ip_to, PROTO_ICMP6, icmp_to, p->size)
				  : ft_packet_sum(icmp_to, p->size));
}

static void take_icmp(struct ft_outside *o, const struct ft_packet *p, uint64_t now_ns)
{
	bool group = p->frame[0] & 1;
	if (p->size < 8)
		return;
	if (p->six && p->payload[0] == 135)
		take_solicitation(o, p, now_ns);
	else if (!group && p->payload[0] == (p->six ? 128 : 8))
		take_echo(o, p, now_ns);
}

/* Length of the first question of a query, 0 when it is none that we understand (RFC 1035 section 4.1). */
static size_t dns_question(const uint8_t *dns, size_t size)
{
	if (size < DNS + 5 || dns[2] & 0xf8 || get16(dns + 4) != 1)
		return 0;
	size_t at = DNS;
	while (at < size && dns[at]) {
		if (dns[at] > 63 || at - DNS > 255)
			return 0;
		at += dns[at] + 1u;
	}
	return at + 5 <= size ? at + 5 - DNS : 0;
}

static void take_dns(struct ft_outside *o, const struct ft_packet *p, uint64_t now_ns)
{
	const uint8_t *udp = p->payload, *dns = udp + UDP;
	size_t question = dns_question(dns, p->size - UDP);
	if (!question)
		return;
	const uint8_t *type = dns + DNS + question - 4;
	bool address = o->config.dns_address && get16(type) == 1 && get16(type + 2) == 1;
	size_t answered = UDP + DNS + question + (address ? 16 : 0);
	uint8_t *ip_to, *udp_to = answer_ip(o, p, PROTO_UDP, answered, now_ns, &ip_to);
	if (!udp_to)
		return;
	uint8_t *dns_to = udp_to + UDP;
	memcpy(udp_to, udp + 2, 2);
	memcpy(udp_to + 2, udp, 2);
	put16(udp_to + 4, (unsigned)answered);
	memcpy(dns_to, dns, 2);
	dns_to[2] = (uint8_t)(0x80 | (dns[2] & 1));
	/* Recursion available; NOERROR (with no answer for other types than A) or REFUSED. */
	dns_to[3] = (uint8_t)(0x80 | (o->config.dns_address ? 0 : 5));
	put16(dns_to + 4, 1);
	put16(dns_to + 6, address);
	memcpy(dns_to + DNS, dns + DNS, question);
	if (address) {
		uint8_t *record = dns_to + DNS + question;
		put16(record, 0xc000 | DNS);
		put16(record + 2, 1);
		put16(record + 4, 1);
		put32(record + 6, 60);
		put16(record + 10, 4);
		memcpy(record + 12, &o->config.dns_address, 4);
	}
	uint16_t sum = ft_packet_transport_sum(ip_to, PROTO_UDP, udp_to, answered);
	put16(udp_to + 6, sum ? sum : 0xffff);
}

/* A guest's segment, taken apart. */
struct segment {
	const struct ft_packet *packet;
	const uint8_t *tcp;
	uint32_t sequence, acknowledged, length; /* length: payload and FIN */
	uint8_t flags;
	uint32_t echo_value, echo_reply; /* timestamps option (RFC 7323) */
	bool has_echo;
};

static void parse_options(struct segment *s, size_t header)
{
	for (size_t at = TCP; at < header;) {
		const uint8_t *option = s->tcp + at;
		if (option[0] == 0)
			return;
		if (option[0] == 1) {
			at++;
			continue;
		}
		if (at + 2 > header || option[1] < 2 || at + option[1] > header)
			return;
		if (option[0] == 8 && option[1] == 10) {
			s->has_echo = true;
			s->echo_value = get32(option + 2);
			s->echo_reply = get32(option + 6);
		}
		at += option[1];
	}
}

/* Sends a segment without payload back. A connection that uses timestamps gets back its own, and as ours the last one
 * it saw: never older, so never refused (RFC 7323 section 5.3). */
static void send_segment(struct ft_outside *o, const struct segment *s, uint8_t flags, uint32_t sequence,
			 uint32_t acknowledged, uint64_t now_ns)
{
	bool synchronise = flags & FLAG_SYN;
	size_t size = TCP + (synchronise ? 4u : s->has_echo ? 12u : 0u);
	uint8_t *ip_to, *tcp = answer_ip(o, s->packet, PROTO_TCP, size, now_ns, &ip_to);
	if (!tcp)
		return;
	memcpy(tcp, s->tcp + 2, 2);
	memcpy(tcp + 2, s->tcp, 2);
	put32(tcp + 4, sequence);
	put32(tcp + 8, acknowledged);
	tcp[12] = (uint8_t)(size << 2);
	tcp[13] = flags;
	put16(tcp + 14, flags & FLAG_RST ? 0 : 0xffff);
	if (synchronise) {
		tcp[TCP] = 2; /* MSS */
		tcp[TCP + 1] = 4;
		put16(tcp + TCP + 2, s->packet->six ? 1440 : 1460);
	} else if (s->has_echo) {
		tcp[TCP] = tcp[TCP + 1] = 1;
		tcp[TCP + 2] = 8;
		tcp[TCP + 3] = 10;
		put32(tcp + TCP + 4, s->echo_reply);
		put32(tcp + TCP + 8, s->echo_value);
	}
	put16(tcp + 16, ft_packet_transport_sum(ip_to, PROTO_TCP, tcp, size));
}

static bool later(uint32_t a, uint32_t b)
{
	return (int32_t)(a - b) > 0;
}

/* An outgoing connection. Its first sequence number on our side only has to be the same each time. */
static void take_connect(struct ft_outside *o, const struct segment *s, uint64_t now_ns)
{
	uint32_t next = s->sequence + 1;
	if (o->config.tcp == FT_SINK_REFUSE)
		send_segment(o, s, FLAG_RST | FLAG_ACK, 0, next + s->length, now_ns);
	else if (o->config.tcp == FT_SINK_ACCEPT)
		send_segment(o, s, FLAG_SYN | FLAG_ACK, ~s->sequence, next, now_ns);
}

static void note_answer(struct ft_outside_sender *sender, uint64_t now_ns)
{
	if (sender->delivered && sender->answered_ns == UINT64_MAX)
		sender->answered_ns = now_ns;
}

static void take_held(struct ft_outside *o, struct ft_outside_sender *sender, const struct segment *s, uint64_t now_ns)
{
	if (s->flags & FLAG_RST) {
		sender->reset = true;
		note_answer(sender, now_ns);
		return;
	}
	if ((s->flags & FLAG_ACK) && later(s->acknowledged, sender->taken) && !later(s->acknowledged, sender->sent))
		sender->taken = s->acknowledged;
	if (sender->reset)
		return;
	if (!s->length) {
		/* Keep-alive and window probes ask from one byte back (RFC 9293 section 3.8.4). */
		if (s->sequence == sender->received - 1)
			send_segment(o, s, FLAG_ACK, sender->sent, sender->received, now_ns);
		return;
	}
	/* What was under way at the fork has arrived, too: this wire loses nothing. */
	if (later(s->sequence + s->length, sender->received)) {
		sender->received = s->sequence + s->length;
		note_answer(sender, now_ns);
	}
	if ((s->flags & FLAG_FIN) && !sender->closed) {
		sender->closed = true;
		send_segment(o, s, FLAG_FIN | FLAG_ACK, sender->sent++, sender->received, now_ns);
	} else {
		send_segment(o, s, FLAG_ACK, sender->sent, sender->received, now_ns);
	}
}

/* Of the held flow that the guest's packet belongs to; NULL: of none. */
static struct ft_outside_sender *find_sender(struct ft_outside *o, const struct ft_packet *p)
{
	const uint8_t *ports = p->payload;
	for (uint32_t i = 0; i < o->count && p->size >= 4; i++) {
		const struct ft_trial_flow *flow = o->senders[i].flow;
		if (!memcmp(ports + 2, &flow->client_port, 2) && !memcmp(ports, &flow->server_port, 2) &&
		    flow->protocol == p->protocol && ft_address_same(&p->source, &flow->server_ip) &&
		    ft_address_same(&p->destination, &flow->client_ip) &&
		    !memcmp(&p->tags, &flow->tags, sizeof(flow->tags)))
			return &o->senders[i];
	}
	return NULL;
}

static void take_tcp(struct ft_outside *o, const struct ft_packet *p, uint64_t now_ns)
{
	const uint8_t *tcp = p->payload;
	size_t size = p->size;
	size_t header = size < TCP ? 0 : (size_t)(tcp[12] >> 4) * 4;
	if (header < TCP || header > size)
		return;
	struct segment s = {.packet = p,
			    .tcp = tcp,
			    .sequence = get32(tcp + 4),
			    .acknowledged = get32(tcp + 8),
			    .flags = tcp[13]};
	s.length = (uint32_t)(size - header) + !!(s.flags & FLAG_FIN);
	parse_options(&s, header);
	struct ft_outside_sender *sender = find_sender(o, p);
	if (sender) {
		take_held(o, sender, &s, now_ns);
	} else if (s.flags & FLAG_RST) {
		return;
	} else if ((s.flags & (FLAG_SYN | FLAG_ACK)) == FLAG_SYN) {
		take_connect(o, &s, now_ns);
	} else if (s.flags & FLAG_SYN) {
		send_segment(o, &s, FLAG_ACK, s.acknowledged, s.sequence + 1, now_ns);
	} else if (s.length) {
		uint8_t flags = s.flags & FLAG_FIN ? FLAG_FIN | FLAG_ACK : FLAG_ACK;
		send_segment(o, &s, flags, s.acknowledged, s.sequence + s.length, now_ns);
	}
}

static void take_ip(struct ft_outside *o, const struct ft_packet *p, uint64_t now_ns)
{
	bool group = p->frame[0] & 1;
	struct ft_outside_sender *sender = p->protocol == PROTO_UDP && !p->piece ? find_sender(o, p) : NULL;
	if (sender)
		note_answer(sender, now_ns);
	if (p->piece || p->more)
		return; /* fragments go nowhere */
	if (p->protocol == (p->six ? PROTO_ICMP6 : PROTO_ICMP))
		take_icmp(o, p, now_ns);
	else if (p->protocol == PROTO_TCP && !group)
		take_tcp(o, p, now_ns);
	else if (p->protocol == PROTO_UDP && !group && p->size > UDP && get16(p->payload + 2) == 53)
		take_dns(o, p, now_ns);
}

void ft_outside_begin(struct ft_outside *o, const struct ft_outside_config *config,
		      const struct ft_trial_flow *flows, uint32_t count)
{
	o->config = *config;
	o->mac = flows[0].client_mac;
	o->count = count;
	for (uint32_t i = 0; i < count; i++)
		o->senders[i] = (struct ft_outside_sender){.flow = &flows[i],
							   .sent = flows[i].first_sequence,
							   .taken = flows[i].first_sequence,
							   .received = flows[i].client_ack,
							   .answered_ns = UINT64_MAX};
	o->overflow = 0;
	o->first = o->used = 0;
}

void ft_outside_deliver(struct ft_outside *o, uint32_t flow, const void *data, size_t length)
{
	struct ft_outside_sender *sender = &o->senders[flow];
	struct ft_packet p;
	uint16_t type;
	if (sender->flow->protocol != PROTO_TCP || !ft_packet_open(&p, data, length, &type) || p.protocol != PROTO_TCP ||
	    p.piece || p.more || p.size < TCP)
		return;
	const uint8_t *tcp = p.payload;
	size_t size = p.size;
	size_t header = (size_t)(tcp[12] >> 4) * 4;
	if (header < TCP || header > size)
		return;
	bool fin = tcp[13] & FLAG_FIN;
	uint32_t end = get32(tcp + 4) + (uint32_t)(size - header) + fin;
	if (later(end, sender->sent))
		sender->sent = end;
	sender->closed |= fin;
	if ((tcp[13] & FLAG_ACK) && later(get32(tcp + 8), sender->received))
		sender->received = get32(tcp + 8);
}

void ft_outside_delivered(struct ft_outside *o, uint32_t flow)
{
	struct ft_outside_sender *sender = &o->senders[flow];
	sender->delivered = true;
	if (sender->flow->protocol == PROTO_TCP && later(sender->flow->next_sequence, sender->sent))
		sender->sent = sender->flow->next_sequence;
}

void ft_outside_take(struct ft_outside *o, const void *data, size_t length, uint64_t now_ns)
{
	struct ft_packet p;
	uint16_t type;
	if (ft_packet_open(&p, data, length, &type))
		take_ip(o, &p, now_ns);
	else if (type == TYPE_ARP)
		take_arp(o, &p, now_ns);
}

uint64_t ft_outside_due(const struct ft_outside *o)
{
	if (!o->used)
		return UINT64_MAX;
	const struct pending *p = pending_at(o, o->first);
	return (p->length ? p : pending_at(o, 0))->due_ns;
}

const uint8_t *ft_outside_next(struct ft_outside *o, uint64_t now_ns, size_t *length)
{
	if (ft_outside_due(o) > now_ns)
		return NULL;
	if (!pending_at(o, o->first)->length) {
		o->used -= FT_OUTSIDE_PENDING - o->first;
		o->first = 0;
	}
	const struct pending *p = pending_at(o, o->first);
	uint32_t size = padded(p->length);
	o->used -= size;
	/* Empty, it begins at the front again: only as many pages become memory as were ever in use at once. */
	o->first = o->used ? (o->first + size) % FT_OUTSIDE_PENDING : 0;
	*length = p->length;
	return (const uint8_t *)(p + 1);
}

uint32_t ft_outside_taken(const struct ft_outside *o, uint32_t flow)
{
	const struct ft_outside_sender *sender = &o->senders[flow];
	uint32_t first = sender->flow->first_sequence, held = sender->flow->next_sequence - first;
	uint32_t taken = sender->taken - first;
	return taken < held ? taken : held;
}

uint32_t ft_outside_answered(const struct ft_outside *o, uint64_t until_ns)
{
	for (uint32_t i = 0; i < o->count; i++)
		if (o->senders[i].answered_ns == UINT64_MAX || o->senders[i].answered_ns > until_ns)
			return i;
	return o->count;
}
