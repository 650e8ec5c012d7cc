/* The whole gate between a hostile client, a hostile guest and a hostile vmm: any order of segments, datagrams, raw frames,
 * events, lies in the shared memory, operators' orders, and time. The first byte of an input says how the frames look: IPv4 or
 * IPv6, with options or extension headers, up to two VLAN tags, whole or as jumbo frames; each of them may come in fragments.
 *
 * A service that screens everything under `enforce`, with exceptions dropped: no byte of its connections that the guest could
 * still take reaches its ring that was not in a run whose end at the horizon, with everything taken, had been reported, and for
 * which no program start was reported without a twin that showed one, too, and ended; of a run of several flows also, that each
 * had been answered. The fuzzer keeps that list itself, from what it said as the vmm. */
#include "input.h"

#include <errno.h>
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../dataplane/scene.h"
#include "base/channel.h"
#include "dataplane/order.h"

#define PORTS  4u
#define TRIALS 64u
#define SLOTS  65536u
#define HEADER 512u  /* in front of a frame's payload, at most, and room for what an input adds */
#define JUMBO  8900u /* bytes of the largest payload */

/* A datagram that the gate has cut, as far as its pieces are there. */
struct gathered {
	bool used;
	uint32_t identification, header, filled;
	uint8_t bytes[FT_FRAME_MOST];
};

struct trial {
	uint64_t number;
	bool used, ready, finished;
	struct ft_trial_flow flows[FT_TRIAL_FLOWS];
	uint32_t expected, flow_count;
	/* the run */
	uint32_t run; /* flows that it gets the frames of */
	bool twin, horizon, evil, excused, answered, twin_ended, cleared;
	uint32_t frames, lengths[64];
	uint8_t bytes[64 * 1600];
	size_t filled;
};

struct world {
	struct ft_gate *gate;
	unsigned kind; /* of gate */
	struct ft_link vmm;
	uint64_t now, sequence;
	struct scene maker; /* of frames alone */
	uint32_t client_next[PORTS], guest_next[PORTS], guest_has[PORTS], guest_acked[PORTS], syn[PORTS];
	unsigned sent;
	bool strict, ordered, lied;
	bool again[PORTS]; /* a second SYN: which connection a number is of only the guest could tell */
	struct trial trials[TRIALS];
	unsigned trial_count;
	/* (port, sequence number, byte) of what a clean trial took */
	uint64_t cleared[SLOTS];
	unsigned cleared_count;
	struct gathered given; /* to the guest */
};

static struct world w = {.now = 1000 * MS + 1};

static const char *const services[] = {
    "\"risks\": \"none\", \"mode\": \"enforce\", \"screen\": \"all\", \"trials_per_flow\": 500",
    "\"risks\": \"none\", \"mode\": \"enforce\"",
    "\"risks\": \"none\", \"mode\": \"observe\", \"screen\": \"all\"",
    "\"mode\": \"enforce\", \"on_exception\": \"release\"",
};

/* ---- What clones have taken ---- */

static uint64_t key(unsigned port, uint32_t sequence, uint8_t byte)
{
	return 1ull << 63 | (uint64_t)port << 40 | (uint64_t)sequence << 8 | byte;
}

static bool find(uint64_t k, bool add)
{
	for (uint64_t at = k * 0x9e3779b97f4a7c15ull >> 48;; at = (at + 1) % SLOTS) {
		if (w.cleared[at] == k)
			return true;
		if (w.cleared[at])
			continue;
		if (add && w.cleared_count < SLOTS / 2) {
			w.cleared[at] = k;
			w.cleared_count++;
		} else if (add) {
			w.strict = false; /* more than can be remembered */
		}
		return false;
	}
}

static unsigned port_of(const struct ft_frame *f)
{
	return (uint16_t)(f->source_port - 40000u);
}

static bool screened(const struct ft_frame *f)
{
	return f->transport && f->protocol == IPPROTO_TCP && f->destination_port == 80 && port_of(f) < PORTS;
}

/* The frame that the bytes are, or the last piece of: the gate cuts what is larger than the guest takes, and puts the pieces one
 * behind the other in their order. NULL: nothing whole yet. What comes in another order is no service's: a sender's own
 * fragments. */
static const uint8_t *whole(struct gathered *g, const uint8_t *bytes, size_t length, struct ft_frame *f)
{
	enum ft_reason why;
	if (ft_frame_parse(f, bytes, length, &why))
		return NULL;
	if (!f->fragment)
		return bytes;
	bool six = f->kind == FT_FRAME_IPV6;
	if (!f->fragment_offset) {
		/* Without the fragment header, which is the last one and which the header in front of it names: here IPv6's own. */
		*g = (struct gathered){.used = !six || f->fragment_header == f->ip + 40,
				       .identification = f->identification,
				       .header = f->payload - (six ? 8 : 0)};
		memcpy(g->bytes, f->data, g->header);
		if (six)
			g->bytes[f->ip + 6] = f->data[f->fragment_header];
	}
	if (!g->used || g->identification != f->identification || g->filled != f->fragment_offset ||
	    g->header + g->filled + f->payload_length > sizeof(g->bytes)) {
		g->used = false;
		return NULL;
	}
	memcpy(g->bytes + g->header + g->filled, f->data + f->payload, f->payload_length);
	g->filled += f->payload_length;
	if (f->more_fragments)
		return NULL;
	g->used = false;
	uint32_t ip = f->ip, end = g->header + g->filled;
	if (six) {
		ft_store16(g->bytes + ip + 4, (uint16_t)(end - ip - 40));
	} else {
		struct ft_frame shape = {.kind = FT_FRAME_IPV4, .ip = (uint16_t)ip};
		ft_store16(g->bytes + ip + 2, (uint16_t)(end - ip));
		ft_store16(g->bytes + ip + 6, 0);
		ft_frame_seal(&shape, g->bytes);
	}
	return ft_frame_parse(f, g->bytes, end, &why) ? NULL : g->bytes;
}

static void clear(struct trial *t)
{
	static struct gathered gathered;
	size_t at = 0;
	uint32_t frames = 0;
	gathered.used = false;
	for (uint32_t i = 0; i < t->run; i++)
		frames += t->flows[i].frames;
	for (uint32_t i = 0; i < t->frames && i < frames; at += t->lengths[i++]) {
		struct ft_frame f;
		if (!whole(&gathered, t->bytes + at, t->lengths[i], &f) || !screened(&f))
			continue;
		uint32_t first = f.sequence + (f.flags & FT_TCP_SYN ? 1 : 0);
		for (uint32_t n = 0; n < f.payload_length; n++)
			find(key(port_of(&f), first + n, f.data[f.payload + n]), true);
	}
}

/* ---- What comes out ---- */

static int on_send(void *context, unsigned uplink, const void *frame, size_t length)
{
	MUST(length <= FT_RING_RECORD_MAX);
	volatile uint8_t last = ((const uint8_t *)frame)[length - 1];
	(void)last;
	return w.now % 7 ? 0 : -ENOBUFS;
}

static void on_record(void *context, json_t *record)
{
	char *dump = json_dumps(record, JSON_COMPACT);
	MUST(dump && strlen(dump) <= FT_CHANNEL_MESSAGE);
	MUST(json_is_string(json_object_get(record, "op")));
	free(dump);
}

static void on_log(void *context, const char *level, const char *text)
{
	MUST(*level && *text);
}

static void given_whole(const uint8_t *bytes, const struct ft_frame *frame)
{
	struct ft_frame f = *frame;
	if (!screened(&f))
		return;
	unsigned port = port_of(&f);
	uint32_t first = f.sequence + (f.flags & FT_TCP_SYN ? 1 : 0);
	if ((f.flags & FT_TCP_SYN) && f.sequence != w.syn[port]) {
		w.again[port] = w.syn[port];
		w.syn[port] = f.sequence;
		w.guest_has[port] = w.guest_acked[port] = f.sequence + 1;
	}
	/* What came early was given to nobody before what was missing. */
	if (w.ordered && f.payload_length && w.syn[port] && !w.again[port])
		MUST((int32_t)(first - w.guest_has[port]) <= 0);
	/* Of what it has acknowledged the guest can take nothing any more, nor of the SYN's number. */
	for (uint32_t n = 0; w.strict && n < f.payload_length; n++)
		if ((int32_t)(first + n - w.guest_acked[port]) >= 0)
			MUST(find(key(port, first + n, bytes[f.payload + n]), false));
	if (f.payload_length && (int32_t)(first + f.payload_length - w.guest_has[port]) > 0)
		w.guest_has[port] = first + f.payload_length;
}

/* While a connection's input is held nothing tells the guest that its client is gone. Called when the gate has done its work:
 * what is held now was held when the error came. */
static void given_error(const struct ft_frame *f)
{
	struct ft_frame_quote quote;
	if (!w.strict || !ft_frame_is_error(f, &quote) || !quote.ports || quote.protocol != IPPROTO_TCP ||
	    quote.source_port != 80 || ft_frame_is_too_big(f))
		return;
	json_t *holds = ft_gate_holds(w.gate), *hold;
	size_t i;
	json_array_foreach(holds, i, hold)
	{
		const json_t *flow = json_object_get(hold, "flow");
		const char *client = json_string_value(json_object_get(flow, "client"));
		struct ft_address of = {0};
		uint8_t four[4];
		if (client && inet_pton(AF_INET, client, four) == 1)
			of = ft_address_v4(four);
		else if (client)
			inet_pton(AF_INET6, client, of.bytes);
		MUST(json_integer_value(json_object_get(flow, "client_port")) != quote.destination_port ||
		     !ft_address_same(&of, &quote.destination));
	}
	json_decref(holds);
}

static void given(const uint8_t *bytes, size_t length)
{
	struct ft_frame f;
	if (!(bytes = whole(&w.given, bytes, length, &f)))
		return;
	given_whole(bytes, &f);
	given_error(&f);
}

/* The guest sends: what it acknowledges of what it was given, it has. */
static void from_guest(void *bytes, size_t length, uint32_t kind)
{
	struct ft_frame f;
	enum ft_reason why;
	struct iovec part = {bytes, length};
	if (!w.vmm.memory)
		return;
	if (!ft_frame_parse(&f, bytes, length, &why) && f.transport && f.protocol == IPPROTO_TCP &&
	    f.source_port == 80 && (f.flags & FT_TCP_ACK) &&
	    (uint16_t)(f.destination_port - 40000u) < PORTS) {
		unsigned port = (uint16_t)(f.destination_port - 40000u);
		uint32_t acked = f.acknowledgement;
		if ((int32_t)(acked - w.guest_has[port]) > 0)
			acked = w.guest_has[port];
		if ((int32_t)(acked - w.guest_acked[port]) > 0)
			w.guest_acked[port] = acked;
	}
	ft_ring_put(&w.vmm.tx, kind, &part, 1);
}

static struct trial *trial_of(uint64_t number)
{
	for (unsigned i = 0; i < w.trial_count; i++)
		if (w.trials[i].used && w.trials[i].number == number)
			return &w.trials[i];
	return NULL;
}

static void begin_run(struct trial *t, uint32_t flows)
{
	t->run = flows;
	t->twin = t->horizon = t->evil = t->excused = t->answered = t->twin_ended = t->cleared = false;
}

/* Bytes, or TCP's numbers, of the run. */
static uint64_t held_of(const struct trial *t)
{
	uint64_t held = 0;
	for (uint32_t i = 0; i < t->run; i++)
		held += t->flows[i].protocol == IPPROTO_TCP ? t->flows[i].next_sequence - t->flows[i].first_sequence
							    : t->flows[i].bytes;
	return held;
}

static void command(uint32_t kind, const uint8_t *bytes, size_t length)
{
	uint64_t number;
	MUST(length >= sizeof(number));
	memcpy(&number, bytes, sizeof(number));
	struct trial *t = trial_of(number);
	MUST(!t || !t->finished);
	if (kind == FT_TRIAL_BEGIN) {
		MUST(length == sizeof(struct ft_trial_begin) && !t);
		if (w.trial_count == TRIALS)
			return;
		t = &w.trials[w.trial_count++];
		struct ft_trial_begin begin;
		memcpy(&begin, bytes, sizeof(begin));
		t->used = true;
		t->number = number;
		t->expected = begin.flows;
		t->flow_count = t->frames = 0;
		t->filled = 0;
		t->ready = t->finished = false;
		MUST(begin.flows && begin.flows <= sizeof(t->flows) / sizeof(*t->flows));
		begin_run(t, begin.flows);
	} else if (kind == FT_TRIAL_FLOW && t) {
		MUST(!t->ready && length == sizeof(*t->flows) && t->flow_count < t->expected);
		memcpy(&t->flows[t->flow_count++], bytes, length);
	} else if (kind == FT_TRIAL_RUN && t) {
		struct ft_trial_run run;
		MUST(t->ready && length == sizeof(run));
		memcpy(&run, bytes, sizeof(run));
		MUST(run.flows < t->expected);
		if (run.flows)
			begin_run(t, run.flows);
		else
			t->twin = true;
	} else if (kind == FT_TRIAL_FINISH && t) {
		t->finished = true;
	} else if (kind == FT_TRIAL_FRAME && t) {
		length -= sizeof(number);
		MUST(!t->ready && t->flow_count == t->expected);
		if (t->frames == 64 || t->filled + length > sizeof(t->bytes)) {
			w.strict = false; /* more than can be remembered */
			return;
		}
		memcpy(t->bytes + t->filled, bytes + sizeof(number), length);
		t->lengths[t->frames++] = (uint32_t)length;
		t->filled += length;
	} else if (kind == FT_TRIAL_GO && t) {
		t->ready = true;
	}
}

static void drain(void)
{
	static uint8_t buffer[FT_RING_RECORD_MAX];
	uint32_t kind;
	long length;
	if (!w.vmm.memory)
		return;
	while ((length = ft_ring_get(&w.vmm.cmd, &kind, buffer, sizeof(buffer))) >= 0)
		command(kind, buffer, (size_t)length);
	while ((length = ft_ring_get(&w.vmm.rx, &kind, buffer, sizeof(buffer))) >= 0)
		given(buffer, (size_t)length);
}

static void pass(uint64_t ns)
{
	w.now += ns;
	ft_gate_time(w.gate, w.now, w.now);
	ft_gate_awake(w.gate, (bool[FT_GATE_WAKES]){true, true});
	ft_gate_guest(w.gate, 1000);
	ft_gate_tick(w.gate);
	drain();
}

static void link_up(void)
{
	int ours[FT_LINK_FDS], theirs[FT_LINK_FDS];
	struct ft_error err = {0};
	ft_link_close(&w.vmm);
	MUST(!ft_link_create(theirs, ours, &err) && !ft_link_open(&w.vmm, FT_LINK_VMM, ours, &err));
	MUST(!ft_gate_link(w.gate, "web", theirs, &err));
	w.lied = false;
}

/* ---- The client ---- */

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

static void segment(struct input *in, bool client)
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

static void datagram(struct input *in, bool client)
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
static void icmp(struct input *in)
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
static void neighbour(struct input *in)
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
static void order(struct input *in)
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
static void undo_orders(void)
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

static void raw(struct input *in)
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

/* ---- The vmm ---- */

static void say(uint64_t number, unsigned type, unsigned role, const uint64_t a[6], const char *string0,
		bool counted)
{
	uint8_t buffer[FT_EVENT_MAX];
	struct ft_event event = {.type = (uint16_t)type,
				 .role = (uint8_t)role,
				 .trial = number,
				 .sequence = w.sequence,
				 .vtime_ns = w.now,
				 .pid = -1};
	w.sequence += counted;
	if (a)
		memcpy(event.a, a, sizeof(event.a));
	size_t length = ft_event_build(buffer, &event, string0, "x");
	if (w.vmm.memory)
		send(w.vmm.events, buffer, length, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* The fuzzer believes that a trial may be released from here on. */
static void consider(struct trial *t)
{
	if (!t->cleared && t->ready && t->horizon && (t->answered || t->expected == 1) && (!t->evil || (t->twin_ended && t->excused))) {
		t->cleared = true;
		clear(t);
	}
}

static void story(struct trial *t, uint8_t how)
{
	uint64_t held = held_of(t), run = t->run;
	if (how & 1) {
		say(t->number, FT_EVENT_EXEC, FT_ROLE_TRIAL, NULL, "/bin/sh", true);
		t->evil |= !t->horizon;
	}
	say(t->number, FT_EVENT_SEED_READY, FT_ROLE_SEED, NULL, NULL, true);
	say(t->number, FT_EVENT_TRIAL_HANDLED, FT_ROLE_TRIAL, (uint64_t[6]){held, how & 2 ? held + 1 : held, 1},
	    NULL, true);
	bool horizon = (how & 0xc) != 4, handled = (how & 0x30) != 0x10, answered = (how & 0x30) != 0x20;
	say(t->number, FT_EVENT_TRIAL_ANSWERED, FT_ROLE_TRIAL, (uint64_t[6]){run, answered ? run : run - 1}, NULL, true);
	t->answered |= answered;
	uint64_t end = horizon ? FT_TRIAL_END_HORIZON : 1u + (how & 2) + (how >> 7) * 3u;
	say(t->number, FT_EVENT_TRIAL_END, FT_ROLE_TRIAL, (uint64_t[6]){end, 1, 2, 3, handled}, "", true);
	if (horizon && handled && !(how & 2))
		t->horizon = true;
	consider(t);
	pass(0);
	if (how & 0x40) {
		say(t->number, FT_EVENT_TRIAL_END, FT_ROLE_TWIN,
		    (uint64_t[6]){FT_TRIAL_END_HORIZON, 1, 2, 3, 1}, "", true);
		t->twin_ended |= t->twin;
		consider(t);
		pass(0);
	}
	if (!(how & 0x80)) {
		say(t->number, FT_EVENT_SEED_GONE, FT_ROLE_SEED, (uint64_t[6]){how % 7u}, "", true);
		pass(0);
	}
}

static void vmm(struct input *in)
{
	uint8_t what = input8(in), how = input8(in);
	struct trial *t = w.trial_count ? &w.trials[w.trial_count - 1 - (what >> 5) % w.trial_count] : NULL;
	if (!t)
		return;
	switch (what & 7) {
	case 0:
	case 1:
	case 2:
		story(t, 0x40);
		break;
	case 3:
		story(t, how);
		break;
	case 4: { /* one event of any kind, about some hold */
		unsigned type = how % FT_EVENT_TYPES, role = input8(in) % FT_ROLES;
		uint64_t a[6], number = t->number + (what & 8 ? input8(in) % 3u : 0);
		for (unsigned i = 0; i < 6; i++)
			a[i] = input8(in) % 5u;
		if (type == FT_EVENT_EXEC && role == FT_ROLE_TRIAL && !t->horizon && number == t->number)
			t->evil = true;
		struct trial *about = trial_of(number);
		if (about && type == FT_EVENT_EXEC && role == FT_ROLE_TWIN)
			about->excused |= about->twin;
		if (about && type == FT_EVENT_TRIAL_ANSWERED && role == FT_ROLE_TRIAL)
			about->answered |= a[0] == about->run && a[1] == about->run;
		if (about && type == FT_EVENT_TRIAL_END && role == FT_ROLE_TRIAL && !a[0] && a[4] == 1)
			about->horizon = true;
		if (about && type == FT_EVENT_TRIAL_END && role == FT_ROLE_TWIN)
			about->twin_ended |= about->twin;
		if (about)
			consider(about);
		say(number, type, role, a, "/x", !(what & 16));
		pass(0);
		break;
	}
	case 5: { /* no record at all */
		uint8_t bytes[300];
		input_copy(in, bytes, 32);
		memset(bytes + 32, how, sizeof(bytes) - 32);
		if (w.vmm.memory)
			send(w.vmm.events, bytes, how, MSG_DONTWAIT | MSG_NOSIGNAL);
		pass(0);
		break;
	}
	case 6: /* a lie in the shared memory */
		if (how >= 0x80 && w.vmm.memory) {
			struct ft_ring *ring = how & 1 ? &w.vmm.tx : how & 2 ? &w.vmm.rx : &w.vmm.cmd;
			uint64_t *index =
			    ring == &w.vmm.tx ? &ring->shared->producer.index : &ring->shared->consumer.index;
			*index = how & 4 ? input64(in) : *index + input16(in);
			w.lied = true;
			pass(0);
		}
		break;
	case 7:
		if (how >= 0xf0) {
			ft_gate_guest_down(w.gate, "web", "it died");
			drain();
			ft_link_close(&w.vmm);
		} else if (how >= 0xe0) {
			drain();
			link_up();
		}
		break;
	}
}

/* ---- */

/* Making one takes nDPI 30 ms, so there is one of each kind (four services, with a guest for usual frames and one for jumbo
 * frames); what an input leaves behind, time takes away: see close_world. */
static struct ft_gate *gate_of(unsigned kind)
{
	static struct ft_gate *gates[8];
	struct ft_gate_outlet outlet = {
	    .send = on_send, .record = on_record, .log = on_log, .kernel_side = 1};
	struct ft_error err = {0};
	if (!gates[kind]) {
		scene_clones = "\"max\": 3, \"group\": 8, \"parallel\": 1";
		scene_guest_keys = kind & 4 ? ", \"mtu\": 9000" : "";
		json_t *config = scene_config(services[kind % 4], "", "");
		int error = ft_gate_new(config, &outlet, &gates[kind], &err);
		if (error)
			fprintf(stderr, "%s\n", err.text);
		MUST(!error);
		json_decref(config);
	}
	return gates[kind];
}

/* The guest goes, its holds end, its flows age: nothing is kept. */
static void close_world(void)
{
	ft_gate_stop(w.gate);
	drain();
	w.strict = w.ordered = false;
	undo_orders();
	ft_gate_guest_down(w.gate, "web", "the input is over");
	for (unsigned i = 0; i < 40; i++)
		pass(3600000 * MS);
	json_t *holds = ft_gate_holds(w.gate), *status = ft_gate_status(w.gate, true);
	MUST(json_array_size(json_is_array(holds) ? holds : json_object_get(holds, "holds")) == 0);
	MUST(json_integer_value(json_object_get(status, "flows")) == 0);
	json_decref(holds);
	json_decref(status);
	ft_link_close(&w.vmm);
}

/* how: service in bits 0 and 1, IPv6, VLAN tags (none, one, two, one), options or extension headers, jumbo frames; with 0x80
 * there are no connections yet. */
static void open_world(uint8_t how)
{
	w.kind = how % 4 + (how & 0x40 ? 4 : 0);
	w.gate = gate_of(w.kind);
	w.vmm = (struct ft_link){.wake_own = -1, .wake_peer = -1, .events = -1};
	w.sequence = 0;
	memset(&w.maker, 0, offsetof(struct scene, to_guest));
	w.maker.six = how & 4;
	w.maker.tags = (unsigned[]){0, 1, 2, 1}[how >> 3 & 3];
	w.maker.options = how & 0x20 && w.maker.six ? 16 : 0;
	w.maker.timestamps = false;
	w.maker.tsval = w.maker.identification = 0;
	w.given.used = false;
	memset(w.client_next, 0, sizeof(w.client_next));
	memset(w.guest_next, 0, sizeof(w.guest_next));
	memset(w.guest_has, 0, sizeof(w.guest_has));
	memset(w.guest_acked, 0, sizeof(w.guest_acked));
	memset(w.syn, 0, sizeof(w.syn));
	w.trial_count = w.cleared_count = 0;
	memset(w.cleared, 0, sizeof(w.cleared));
	memset(w.again, 0, sizeof(w.again));
	w.strict = how % 4 == 0;
	w.ordered = how % 4 != 2;
	ft_gate_time(w.gate, w.now, w.now);
	link_up();
}

static void answers(void)
{
	json_t *list[] = {ft_gate_status(w.gate, true), ft_gate_holds(w.gate), ft_gate_counters(w.gate)};
	for (unsigned i = 0; i < 3; i++) {
		MUST(list[i]);
		json_decref(list[i]);
	}
}

static void connect_all(void)
{
	uint8_t frame[256];
	for (unsigned port = 0; port < PORTS; port++) {
		w.maker.client_port = (uint16_t)(40000 + port);
		ft_gate_wire(w.gate, 0, frame, scene_build(&w.maker, true, 0, 0, FT_TCP_SYN, "", 0, frame));
		pass(0);
		struct iovec part = {
		    frame, scene_build(&w.maker, false, 0, 1, FT_TCP_SYN | FT_TCP_ACK, "", 0, frame)};
		ft_ring_put(&w.vmm.tx, FT_LINK_FRAME, &part, 1);
		pass(0);
		ft_gate_wire(w.gate, 0, frame, scene_build(&w.maker, true, 1, 1, FT_TCP_ACK, "", 0, frame));
		w.client_next[port] = w.guest_next[port] = 1;
		w.guest_has[port] = w.guest_acked[port] = CLIENT_ISN + 1;
		pass(0);
	}
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	return scene_start_eal();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size < 1500 ? size : 1500};
	uint8_t how = input8(&in);
	open_world(how);
	if (!(how & 0x80))
		connect_all();
	for (unsigned steps = 0; in.left && steps < 250; steps++) {
		uint8_t op = input8(&in);
		switch (op % 16) {
		case 0:
		case 1:
		case 2:
		case 3:
		case 4:
			segment(&in, true);
			break;
		case 5:
		case 6:
			segment(&in, false);
			break;
		case 7:
			if (op & 0x40)
				icmp(&in);
			else
				datagram(&in, !(op & 0x80));
			break;
		case 8:
			if (op & 0x80)
				neighbour(&in);
			else
				raw(&in);
			break;
		case 9:
		case 10:
		case 11:
			vmm(&in);
			break;
		case 12:
		case 13:
			pass((op >> 4) * MS);
			break;
		case 14:
			pass(op & 0x80 ? 40000 * MS : 1100 * MS);
			break;
		case 15:
			if (op & 0x80)
				order(&in);
			else
				answers();
			break;
		}
	}
	answers();
	close_world();
	return 0;
}
