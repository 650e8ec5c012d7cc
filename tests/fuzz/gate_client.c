/* What the client of the gate's fuzzer sends, and what an operator orders meanwhile: segments, datagrams, ICMP, ARP and neighbour
 * discovery, anything. */
#include "gate.h"

#include <errno.h>
#include <netinet/in.h>

#include "dataplane/order.h"

static size_t payload(struct input *in, uint8_t *to, uint32_t sequence)
{
	uint8_t how = input8(in);
	size_t length = how & 15;
	if (how == 0xff)
		length = 1400;
	else if (how == 0xfe)
		length = 1400 + input16(in) % (JUMBO - 1400);
	for (size_t i = 0; i < length; i++)
		to[i] = (uint8_t)('a' + (sequence + i) % 26);
	if (length >= 4 && (how & 0x30) == 0x10)
		memcpy(to, "EVIL", 4);
	if (length && (how & 0x30) == 0x20)
		to[0] ^= (uint8_t)(how >> 6);
	return length;
}

/* A client's frame in fragments of equal size (the last but for what is left), in one of four orders; perhaps one is doubled,
 * missing, moved over its neighbour, cut short, or other than it was. */
static void in_pieces(struct input *in, const uint8_t *frame, size_t n)
{
	static uint8_t piece[FT_FRAME_MOST];
	uint8_t plan = input8(in), odd = plan & 0x80 ? input8(in) : 0;
	uint32_t header = 14 + 4 * w.maker.tags + (w.maker.six ? 40 : 20), body = (uint32_t)n - header;
	uint32_t size = 8u + 8u * (plan & 7);
	if (plan & 8)
		size *= 20;
	if (body / size > 11)
		size = (body / 11 + 8) & ~7u;
	uint32_t count = (body + size - 1) / size;
	w.maker.identification++;
	for (uint32_t i = 0; i < count; i++) {
		uint32_t k = plan & 0x10 ? count - 1 - i : i;
		if (plan & 0x20)
			k = (k + count / 2) % count;
		uint32_t from = k * size, bytes = size;
		bool more = k + 1 < count, marked = odd && k == (odd & 7) % count;
		if (marked && odd & 0x08 && from >= 8)
			from -= 8;
		if (marked && odd & 0x10)
			more = !more;
		if (marked && odd & 0x20)
			bytes = 1 + input8(in) % 8u;
		size_t length = scene_piece(&w.maker, frame, n, from, bytes, more, piece);
		if (marked && odd & 0x40)
			piece[length - 1] ^= 1;
		if (marked && (odd & 0xf8) == 0)
			continue;
		ft_gate_wire(w.gate, 0, piece, length);
		if (marked && odd & 0x80)
			ft_gate_wire(w.gate, 0, piece, length);
	}
}

/* Puts bytes between the IP header and what it carries: IPv6 extension headers of any kind, IPv4 options. */
static size_t extend(struct input *in, uint8_t *frame, size_t n)
{
	static const uint8_t kinds[] = {0, 60, 43, 44, 60, 51, 50, 135, 139, 253, 59, 41};
	uint32_t ip = 14 + 4 * w.maker.tags, header = w.maker.six ? 40 : (frame[ip] & 15u) * 4u;
	uint8_t how = input8(in), chain[9 * 24];
	size_t length = 0;
	if (!w.maker.six) {
		length = 4u * (1 + how % 10);
		memset(chain, how & 0x80 ? 0x44 : 1, length);
		frame[ip] = (uint8_t)(0x40 + (header + length) / 4);
		ft_store16(frame + ip + 2, (uint16_t)(ft_load16(frame + ip + 2) + length));
	} else {
		uint8_t *name = frame + ip + 6, last = *name;
		for (unsigned i = 0; i <= how % 9u; i++) {
			uint8_t what = input8(in), *at = chain + length;
			*name = kinds[what % sizeof(kinds)];
			memset(at, 0, 24);
			name = at;
			at[1] = *at == 44 ? 0 : what >> 4 & 2;
			at[3] = what & 0x10;
			if (what >= 0xf0)
				input_copy(in, at + 1, 7);
			length += at[1] == 2 ? 24 : 8;
		}
		*name = last;
		ft_store16(frame + ip + 4, (uint16_t)(ft_load16(frame + ip + 4) + length));
	}
	memmove(frame + ip + header + length, frame + ip + header, n - ip - header);
	memcpy(frame + ip + header, chain, length);
	struct ft_frame shape = {.kind = w.maker.six ? FT_FRAME_IPV6 : FT_FRAME_IPV4, .ip = (uint16_t)ip};
	ft_frame_seal(&shape, frame);
	return n + length;
}

/* A client's frame goes to the gate in one of the ways there are. */
static void send_client(struct input *in, uint8_t *frame, size_t n)
{
	uint8_t way = input8(in);
	if (way & 1)
		n = extend(in, frame, n);
	if (way & 2)
		in_pieces(in, frame, n);
	else
		ft_gate_wire(w.gate, 0, frame, n);
}

void segment(struct input *in, bool client)
{
	static uint8_t frame[JUMBO + HEADER], bytes[JUMBO];
	uint8_t how = input8(in), odd = input8(in);
	unsigned port = how & 3, flags = FT_TCP_ACK;
	uint32_t *next = client ? &w.client_next[port] : &w.guest_next[port];
	uint32_t sequence = *next;
	if (odd & 0x80)
		sequence += (uint32_t)(int32_t)(int8_t)input8(in);
	if ((odd & 0x70) == 0x70)
		sequence = input32(in);
	size_t length = payload(in, bytes, sequence);
	if (how & 0x40)
		flags = input8(in);
	if (how & 0x20 && !(how & 0x40)) { /* a new connection */
		sequence = 0;
		length = 0;
		flags = client ? FT_TCP_SYN : FT_TCP_SYN | FT_TCP_ACK;
		*next = 0;
	}
	w.maker.client_port = (uint16_t)(40000 + port);
	w.maker.timestamps = odd & 1;
	w.maker.sack = !(how & 0x80);
	w.maker.tsval++;
	uint32_t ack = client ? w.guest_next[port] : w.client_next[port];
	if (!client)
		ack = odd & 2 ? w.client_next[port] : w.guest_has[port] - CLIENT_ISN;
	if (odd & 4)
		ack += (uint32_t)(int32_t)(int8_t)input8(in);
	size_t n = scene_build(&w.maker, client, sequence, ack, flags, bytes, length, frame);
	uint32_t span = (uint32_t)length + (flags & FT_TCP_SYN ? 1 : 0) + (flags & FT_TCP_FIN ? 1 : 0);
	if (!(odd & 8))
		*next = sequence + span;
	if (odd & 0x10) { /* something is wrong with it */
		uint16_t place = input16(in);
		frame[place % n] ^= input8(in);
		if (place & 0x8000)
			n = place % n;
	}
	if (client && (odd & 0x50) == 0x40) {
		send_client(in, frame, n);
	} else if (client) {
		ft_gate_wire(w.gate, 0, frame, n);
	} else {
		from_guest(frame, n, odd & 0x20 ? FT_LINK_FRAME + (how & 1) : FT_LINK_FRAME);
	}
	pass(0);
}

void datagram(struct input *in, bool client)
{
	static uint8_t frame[JUMBO + HEADER], bytes[JUMBO];
	uint8_t how = input8(in);
	size_t length = payload(in, bytes, how);
	w.maker.client_port = (uint16_t)(5000 + (how & 3));
	size_t n = scene_datagram(&w.maker, how & 4 ? 54 : 53, bytes, length, frame);
	uint32_t ip = 14 + 4 * w.maker.tags, udp = (uint32_t)(n - length - 8);
	if (!client) { /* back the same way */
		uint32_t size = w.maker.six ? 16 : 4, at = ip + (w.maker.six ? 8 : 12);
		uint8_t other[16];
		memcpy(other, frame, 6);
		memcpy(frame, frame + 6, 6);
		memcpy(frame + 6, other, 6);
		memcpy(other, frame + at, size);
		memcpy(frame + at, frame + at + size, size);
		memcpy(frame + at + size, other, size);
		memcpy(other, frame + udp, 2);
		memcpy(frame + udp, frame + udp + 2, 2);
		memcpy(frame + udp + 2, other, 2);
	}
	if (how & 0x20) { /* another protocol */
		struct ft_frame shape = {.kind = w.maker.six ? FT_FRAME_IPV6 : FT_FRAME_IPV4, .ip = (uint16_t)ip};
		frame[ip + (w.maker.six ? 6 : 9)] = input8(in);
		ft_frame_seal(&shape, frame);
	}
	if (client && how & 0x40)
		send_client(in, frame, n);
	else if (client)
		ft_gate_wire(w.gate, 0, frame, n);
	else
		from_guest(frame, n, FT_LINK_FRAME);
	pass(0);
}

/* An ICMP error (or what looks like one) about something that the guest has sent, or says to have; from the client or from
 * a router in between. */
void icmp(struct input *in)
{
	static const uint8_t four[] = {3, 3, 3, 4, 5, 11, 12, 8}, six[] = {2, 1, 1, 3, 4, 100, 128, 135};
	static uint8_t frame[JUMBO + HEADER], quoted[JUMBO + HEADER];
	uint8_t how = input8(in), odd = input8(in);
	unsigned port = how & 3;
	uint32_t sequence = w.guest_next[port], ip = 14 + 4 * w.maker.tags;
	w.maker.client_port = (uint16_t)(40000 + port);
	if (odd & 1)
		sequence += (uint32_t)(int32_t)(int8_t)input8(in);
	size_t n = scene_build(&w.maker, false, sequence, w.client_next[port], FT_TCP_ACK, "abcd", odd >> 1 & 3, quoted);
	if (odd & 0x08) { /* quoted otherwise than it was */
		uint16_t place = input16(in);
		quoted[ip + place % (n - ip)] ^= input8(in);
	}
	n -= ip;
	if (odd & 0x10)
		n = input8(in) % (n + 1);
	size_t whole = scene_datagram(&w.maker, 0, quoted + ip, n, frame);
	uint8_t *head = frame + whole - n - 8;
	struct ft_frame shape = {.kind = w.maker.six ? FT_FRAME_IPV6 : FT_FRAME_IPV4, .ip = (uint16_t)ip};
	memset(head, 0, 8);
	head[0] = (w.maker.six ? six : four)[how >> 5];
	head[1] = how & 4 ? 4 : how >> 3 & 3;
	/* Behind destination options where there are some. */
	frame[w.maker.six ? ip + (w.maker.options ? 40 : 6) : ip + 9] = w.maker.six ? IPPROTO_ICMPV6 : IPPROTO_ICMP;
	if (odd & 0x20)
		frame[ip + (w.maker.six ? 23 : 15)] = 77; /* the router's address */
	ft_frame_seal(&shape, frame);
	if (odd & 0x40)
		send_client(in, frame, whole);
	else if (odd & 0x80)
		from_guest(frame, whole, FT_LINK_FRAME);
	else
		ft_gate_wire(w.gate, 0, frame, whole);
	pass(0);
}

/* Who has which address: ARP and neighbour discovery, from either side. */
void neighbour(struct input *in)
{
	uint8_t frame[128] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 9}, how = input8(in);
	size_t n = 14 + 28;
	ft_store16(frame + 12, 0x0806);
	memcpy(frame + 14, "\0\1\x08\0\6\4\0\1", 8);
	frame[21] = how & 1 ? 2 : 1;
	input_copy(in, frame + 22, 20);
	if (how & 2)
		memcpy(frame, "\2\0\0\0\0\1", 6);
	if (how & 4)
		frame[11] = 1;
	if (how & 8)
		from_guest(frame, n, FT_LINK_FRAME);
	else
		ft_gate_wire(w.gate, 0, frame, n);
	pass(0);
}

/* What an operator may say. A release lets pass what no clone has taken, a mode other than enforce all that follows. */
void order(struct input *in)
{
	static const char *const whats[] = {"drop", "drop", "release", "mode", "bypass", "shadow", "suppress", "suppressions"};
	static const char *const modes[] = {"enforce", "observe", "shadow", "x"};
	uint8_t how = input8(in), more = input8(in);
	const char *what = whats[how & 7];
	uint64_t hold = w.trial_count ? w.trials[w.trial_count - 1 - more % w.trial_count].number : more;
	struct ft_refusal refusal;
	json_t *message = json_pack("{s:s, s:I, s:s, s:s, s:b, s:[{s:i, s:i, s:s, s:I}]}", "what", what, "hold", (json_int_t)hold,
				    "service", how & 8 ? "web" : how & 16 ? "dns" : "none", "mode", modes[how >> 6], "on",
				    how >> 5 & 1, "list", "id", 1, "sid", how & 32 ? 1000001 : 0, "network",
				    w.maker.six ? "fd00:2::/32" : "10.0.0.0/8", "until_ns",
				    (json_int_t)(w.now + more * 1000 * MS));
	MUST(message);
	if (how & 0x80 && !strcmp(what, "bypass"))
		json_object_del(message, "service");
	if (strcmp(what, "drop") && strcmp(what, "shadow") && strcmp(what, "suppressions"))
		w.strict = w.ordered = false;
	json_t *result = ft_order(w.gate, message, &refusal);
	MUST(result || (refusal.code && refusal.text[0]));
	json_decref(result);
	json_decref(message);
	pass(0);
}

/* As it is configured again. */
void undo_orders(void)
{
	static const char *const texts[] = {"{\"what\": \"bypass\", \"on\": false}",
					    "{\"what\": \"bypass\", \"on\": false, \"service\": \"web\"}",
					    "{\"what\": \"bypass\", \"on\": false, \"service\": \"dns\"}",
					    "{\"what\": \"suppress\", \"list\": []}",
					    "{\"what\": \"mode\", \"service\": \"dns\", \"mode\": \"enforce\"}",
					    "{\"what\": \"mode\", \"service\": \"web\", \"mode\": \"enforce\"}",
					    "{\"what\": \"mode\", \"service\": \"web\", \"mode\": \"observe\"}"};
	struct ft_refusal refusal;
	for (unsigned i = 0; i < sizeof(texts) / sizeof(texts[0]) - (w.kind % 4 != 2); i++) {
		json_t *message = json_loads(texts[i], 0, NULL), *result = ft_order(w.gate, message, &refusal);
		MUST(result);
		json_decref(result);
		json_decref(message);
	}
}

void raw(struct input *in)
{
	uint8_t frame[256], how = input8(in);
	size_t n = input8(in);
	input_copy(in, frame, sizeof(frame));
	if (how & 2)
		memcpy(frame, how & 1 ? "\2\0\0\0\0\1\2\0\0\0\0\x09" : "\2\0\0\0\0\x09\2\0\0\0\0\1", 12);
	if (how & 1) {
		ft_gate_wire(w.gate, 0, frame, n);
	} else {
		from_guest(frame, n, FT_LINK_FRAME);
	}
	pass(0);
}
