/* The whole gate between a hostile client, a hostile guest and a hostile vmm: any order of segments, datagrams, raw frames,
 * events, lies in the shared memory, operators' orders, and time. The first byte of an input says how the frames look: IPv4 or
 * IPv6, with options or extension headers, up to two VLAN tags, whole or as jumbo frames; each of them may come in fragments.
 *
 * A service that screens everything under `enforce`, with exceptions dropped: no byte of its connections that the guest could
 * still take reaches its ring that was not in a run whose end at the horizon, with everything taken, had been reported, and for
 * which no program start was reported without a twin that showed one, too, and ended; of a run of several flows also, that each
 * had been answered. The fuzzer keeps that list itself, from what it said as the vmm. */
#include "gate.h"

#include <errno.h>
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "base/channel.h"

struct world w = {.now = 1000 * MS + 1};

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
void from_guest(void *bytes, size_t length, uint32_t kind)
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

void pass(uint64_t ns)
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
