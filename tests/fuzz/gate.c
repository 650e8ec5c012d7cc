/* The whole gate between a hostile client, a hostile guest and a hostile vmm: any order of segments, datagrams, raw frames,
 * events, lies in the shared memory, and time.
 *
 * A service that screens everything under `enforce`, with exceptions dropped: no byte of its connections that the guest could
 * still take reaches its ring that was not in a run whose end at the horizon, with everything taken, had been reported, and for which no program
 * start was reported without a twin that showed one, too, and ended; of a run of several flows also, that each had been answered. The fuzzer keeps that list itself, from what it said as the vmm. */
#include "input.h"

#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../dataplane/scene.h"
#include "base/channel.h"

#define PORTS  4u
#define TRIALS 64u
#define SLOTS  65536u

struct trial {
	uint64_t number;
	bool used, ready, finished;
	struct ft_trial_flow flows[PORTS + 4];
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
	struct ft_link vmm;
	uint64_t now, sequence;
	struct scene maker; /* of frames alone */
	uint32_t client_next[PORTS], guest_next[PORTS], guest_has[PORTS], guest_acked[PORTS], syn[PORTS];
	unsigned sent;
	bool strict, lied;
	struct trial trials[TRIALS];
	unsigned trial_count;
	/* (port, sequence number, byte) of what a clean trial took */
	uint64_t cleared[SLOTS];
	unsigned cleared_count;
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

static void clear(struct trial *t)
{
	size_t at = 0;
	uint32_t frames = 0;
	for (uint32_t i = 0; i < t->run; i++)
		frames += t->flows[i].frames;
	for (uint32_t i = 0; i < t->frames && i < frames; at += t->lengths[i++]) {
		struct ft_frame f;
		enum ft_reason why;
		if (ft_frame_parse(&f, t->bytes + at, t->lengths[i], &why) || !screened(&f))
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

static void given(const uint8_t *bytes, size_t length)
{
	struct ft_frame f;
	enum ft_reason why;
	if (ft_frame_parse(&f, bytes, length, &why) || !screened(&f))
		return;
	unsigned port = port_of(&f);
	uint32_t first = f.sequence + (f.flags & FT_TCP_SYN ? 1 : 0);
	if ((f.flags & FT_TCP_SYN) && f.sequence != w.syn[port]) {
		w.syn[port] = f.sequence;
		w.guest_has[port] = w.guest_acked[port] = f.sequence + 1;
	}
	/* Of what it has acknowledged the guest can take nothing any more, nor of the SYN's number. */
	for (uint32_t n = 0; w.strict && n < f.payload_length; n++)
		if ((int32_t)(first + n - w.guest_acked[port]) >= 0)
			MUST(find(key(port, first + n, bytes[f.payload + n]), false));
	if (f.payload_length && (int32_t)(first + f.payload_length - w.guest_has[port]) > 0)
		w.guest_has[port] = first + f.payload_length;
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
		if (t->frames == 64 || t->filled + length > sizeof(t->bytes))
			return;
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
	for (size_t i = 0; i < length; i++)
		to[i] = (uint8_t)('a' + (sequence + i) % 26);
	if (length >= 4 && (how & 0x30) == 0x10)
		memcpy(to, "EVIL", 4);
	if (length && (how & 0x30) == 0x20)
		to[0] ^= (uint8_t)(how >> 6);
	return length;
}

/* An IPv4 packet in two fragments, in either order, the second perhaps twice or never. */
static void in_pieces(const uint8_t *frame, size_t n, uint8_t how)
{
	uint8_t piece[2][2048];
	size_t cut = 8 + (how & 8 ? 16 : 0), rest = n - 34 - cut;
	for (unsigned i = 0; i < 2; i++) {
		size_t length = i ? rest : cut;
		memcpy(piece[i], frame, 34);
		memcpy(piece[i] + 34, frame + 34 + (i ? cut : 0), length);
		uint8_t *ip = piece[i] + 14;
		ft_store16(ip + 2, (uint16_t)(20 + length));
		ft_store16(ip + 4, how);
		ft_store16(ip + 6, (uint16_t)(i ? cut / 8 : 0x2000));
		struct ft_frame f = {
		    .data = piece[i], .kind = FT_FRAME_IPV4, .fragment = true, .ip = 14, .l4 = 34};
		ft_frame_seal(&f, piece[i]);
	}
	bool turned = how & 0x10;
	ft_gate_wire(w.gate, 0, piece[turned], 34 + (turned ? rest : cut));
	if (how & 0x80)
		ft_gate_wire(w.gate, 0, piece[1], 34 + rest);
	if (!(how & 4))
		ft_gate_wire(w.gate, 0, piece[!turned], 34 + (turned ? cut : rest));
}

static void segment(struct input *in, bool client)
{
	uint8_t frame[2048], bytes[1500], how = input8(in), odd = input8(in);
	unsigned port = how & 3, flags = FT_TCP_ACK;
	uint32_t isn = client ? CLIENT_ISN : GUEST_ISN,
		 *next = client ? &w.client_next[port] : &w.guest_next[port];
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
	(void)isn;
	if (odd & 0x10) { /* something is wrong with it */
		uint16_t place = input16(in);
		frame[place % n] ^= input8(in);
		if (place & 0x8000)
			n = place % n;
	}
	if (client && (odd & 0x50) == 0x40 && n >= 34 + 24) {
		in_pieces(frame, n, how);
	} else if (client) {
		ft_gate_wire(w.gate, 0, frame, n);
	} else {
		from_guest(frame, n, odd & 0x20 ? FT_LINK_FRAME + (how & 1) : FT_LINK_FRAME);
	}
	pass(0);
}

static void datagram(struct input *in, bool client)
{
	uint8_t frame[2048] = {0}, how = input8(in), bytes[1500];
	static const uint8_t macs[2][6] = {{2, 0, 0, 0, 0, 1}, {2, 0, 0, 0, 0, 9}};
	size_t length = payload(in, bytes, how);
	memcpy(frame, macs[!client], 6);
	memcpy(frame + 6, macs[client], 6);
	ft_store16(frame + 12, 0x0800);
	uint8_t *ip = frame + 14, *udp = ip + 20;
	ip[0] = 0x45;
	ft_store16(ip + 2, (uint16_t)(28 + length));
	if (how & 0x40)
		ft_store16(ip + 6, input16(in)); /* a fragment */
	ip[8] = 64;
	ip[9] = how & 0x20 ? input8(in) : IPPROTO_UDP;
	ft_store32(ip + 12, client ? 0x0a000209 : 0x0a00020f);
	ft_store32(ip + 16, client ? 0x0a00020f : 0x0a000209);
	ft_store16(udp, client ? (uint16_t)(5000 + (how & 3)) : 53);
	ft_store16(udp + 2, client ? 53 : (uint16_t)(5000 + (how & 3)));
	ft_store16(udp + 4, (uint16_t)(8 + length));
	memcpy(udp + 8, bytes, length);
	struct ft_frame f = {.data = frame,
			     .kind = FT_FRAME_IPV4,
			     .transport = true,
			     .protocol = IPPROTO_UDP,
			     .ip = 14,
			     .l4 = 34,
			     .payload = 42,
			     .payload_length = (uint32_t)length};
	ft_frame_seal(&f, frame);
	if (client) {
		ft_gate_wire(w.gate, 0, frame, 42 + length);
	} else {
		from_guest(frame, 42 + length, FT_LINK_FRAME);
	}
	pass(0);
}

static void raw(struct input *in)
{
	uint8_t frame[256], how = input8(in);
	size_t n = input8(in);
	input_copy(in, frame, sizeof(frame));
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

/* Making one takes nDPI 30 ms, so there is one of each kind; what an input leaves behind, time takes away: see close_world. */
static struct ft_gate *gate_of(unsigned kind)
{
	static struct ft_gate *gates[4];
	struct ft_gate_outlet outlet = {
	    .send = on_send, .record = on_record, .log = on_log, .kernel_side = 1};
	struct ft_error err = {0};
	if (!gates[kind]) {
		scene_clones = "\"max\": 3, \"group\": 8, \"parallel\": 1";
		json_t *config = scene_config(services[kind], "", "");
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
	w.strict = false;
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

static void open_world(uint8_t how)
{
	w.gate = gate_of(how % 4);
	w.vmm = (struct ft_link){.wake_own = -1, .wake_peer = -1, .events = -1};
	w.sequence = 0;
	memset(&w.maker, 0, offsetof(struct scene, to_guest));
	memset(w.client_next, 0, sizeof(w.client_next));
	memset(w.guest_next, 0, sizeof(w.guest_next));
	memset(w.guest_has, 0, sizeof(w.guest_has));
	memset(w.guest_acked, 0, sizeof(w.guest_acked));
	memset(w.syn, 0, sizeof(w.syn));
	w.trial_count = w.cleared_count = 0;
	memset(w.cleared, 0, sizeof(w.cleared));
	w.strict = how % 4 == 0;
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
			datagram(&in, !(op & 0x80));
			break;
		case 8:
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
			answers();
			break;
		}
	}
	answers();
	close_world();
	return 0;
}
