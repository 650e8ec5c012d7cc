#include "replay/connect.h"

#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "clone/packet.h"

#define PATIENCE_NS    10000000000ull /* virtual: SYNs that are lost are sent by nobody again */
#define INSTRUCTIONS   20000000000ull
#define SLICE	       400000u
#define TCP	       20u
#define SYN_OPTIONS    4u
#define FLAG_SYN       0x02
#define FLAG_RST       0x04
#define FLAG_ACK       0x10

struct opening {
	struct ft_machine *m;
	struct ft_request *request;
	struct ft_outside outside;
	bool open[FT_TRIAL_FLOWS], refused;
	uint32_t answer[FT_TRIAL_FLOWS]; /* the guest's first sequence number */
	uint8_t key[crypto_stream_chacha20_KEYBYTES];
	uint64_t nonce;
};

static uint32_t get32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
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

/* ---- What is around the machine ------------------------------------------------------------------------------------ */

/* Of which flow is the guest's segment? */
static uint32_t flow_of(const struct opening *o, const struct ft_packet *p)
{
	uint32_t i = 0;
	for (; i < o->request->flow_count; i++) {
		const struct ft_trial_flow *f = &o->request->flows[i];
		if (f->protocol == p->protocol && !memcmp(p->payload, &f->server_port, 2) && !memcmp(p->payload + 2, &f->client_port, 2) &&
		    ft_address_same(&p->source, &f->server_ip) && ft_address_same(&p->destination, &f->client_ip))
			break;
	}
	return i;
}

static void net_tx(void *context, const void *frame, size_t length)
{
	struct opening *o = context;
	struct ft_packet p;
	uint16_t type;
	if (ft_packet_open(&p, frame, length, &type) && p.protocol == 6 && !p.piece && p.size >= TCP) {
		uint32_t i = flow_of(o, &p);
		uint8_t flags = p.payload[13];
		if (i < o->request->flow_count && flags & FLAG_RST) {
			o->refused = true;
		} else if (i < o->request->flow_count && (flags & (FLAG_SYN | FLAG_ACK)) == (FLAG_SYN | FLAG_ACK)) {
			o->open[i] = true;
			o->answer[i] = get32(p.payload + 4);
		}
	}
	/* It says what the client would have: that there is somebody, and the acknowledgement that ends the handshake. */
	ft_outside_take(&o->outside, frame, length, ft_machine_vtime(o->m));
}

static void console(void *context, const char *bytes, size_t length)
{
}

static void entropy(void *context, size_t wanted)
{
	struct opening *o = context;
	uint8_t bytes[256], nonce[crypto_stream_chacha20_NONCEBYTES];
	_Static_assert(sizeof(nonce) == sizeof(o->nonce), "64-bit nonce");
	while (wanted) {
		size_t n = wanted < sizeof(bytes) ? wanted : sizeof(bytes);
		memcpy(nonce, &o->nonce, sizeof(nonce));
		o->nonce++;
		crypto_stream_chacha20(bytes, n, nonce, o->key);
		if (ft_machine_input(o->m, FT_INPUT_ENTROPY, 0, bytes, n))
			return;
		wanted -= n;
	}
}

/* ---- The handshakes -------------------------------------------------------------------------------------------------- */

/* A SYN with the addresses of that held frame. */
static int send_syn(struct opening *o, const struct ft_trial_flow *flow, const uint8_t *frame, size_t length)
{
	uint8_t syn[FT_REQUEST_FRAME];
	struct ft_packet p;
	uint16_t type;
	if (!ft_packet_open(&p, frame, length, &type) || p.protocol != 6 || p.piece || p.size < TCP)
		return -EINVAL;
	size_t header = (size_t)(p.payload - frame), total = header + TCP + SYN_OPTIONS;
	if (total > sizeof(syn))
		return -EINVAL;
	memset(syn, 0, total);
	memcpy(syn, frame, header + 4); /* and both ports */
	uint8_t *ip = syn + p.ip, *tcp = syn + header;
	if (p.six) {
		put16(ip + 4, (unsigned)(total - p.ip - 40));
	} else {
		put16(ip + 2, (unsigned)(total - p.ip));
		put16(ip + 10, 0);
		put16(ip + 10, ft_packet_sum(ip, (ip[0] & 15u) * 4));
	}
	put32(tcp + 4, flow->first_sequence - 1);
	tcp[12] = (TCP + SYN_OPTIONS) << 2;
	tcp[13] = FLAG_SYN;
	put16(tcp + 14, 0xffff);
	tcp[TCP] = 2; /* MSS, RFC 9293 section 3.7.1; no other option: what the held segments have of them is not looked at then */
	tcp[TCP + 1] = 4;
	put16(tcp + TCP + 2, p.six ? 1440 : 1460);
	put16(tcp + 16, ft_packet_transport_sum(ip, 6, tcp, TCP + SYN_OPTIONS));
	return ft_machine_input(o->m, FT_INPUT_FRAME, 0, syn, total);
}

static int send_syns(struct opening *o, struct ft_error *err)
{
	const struct ft_request *r = o->request;
	size_t at = 0;
	uint32_t frame = 0;
	for (uint32_t i = 0; i < r->flow_count; i++) {
		if (r->flows[i].protocol == 6 && send_syn(o, &r->flows[i], r->bytes + at, r->lengths[frame]))
			return ft_error_set(err, -EINVAL, "the guest's card takes no connection");
		o->open[i] = r->flows[i].protocol != 6;
		for (uint32_t n = 0; n < r->flows[i].frames; n++)
			at += r->lengths[frame++];
	}
	return 0;
}

static bool all_open(const struct opening *o)
{
	for (uint32_t i = 0; i < o->request->flow_count; i++)
		if (!o->open[i])
			return false;
	return true;
}

static int run(struct opening *o, struct ft_error *err)
{
	struct ft_machine *m = o->m;
	uint64_t end_ns = ft_machine_vtime(m) + PATIENCE_NS, end = m->icount + INSTRUCTIONS, wake = 0;
	bool skip = false; /* idle, up to wake */
	for (;;) {
		const uint8_t *frame;
		size_t length;
		while ((frame = ft_outside_next(&o->outside, ft_machine_vtime(m), &length)))
			ft_machine_input(m, FT_INPUT_FRAME, 0, frame, length);
		if (o->refused)
			return ft_error_set(err, -ECONNREFUSED, "the guest refuses the connection");
		if (ft_machine_vtime(m) >= end_ns || m->icount >= end)
			return ft_error_set(err, -ETIMEDOUT, "the guest takes no connection within 10 s of its time");
		uint64_t due = ft_outside_due(&o->outside);
		struct ft_run_limits limits = {.icount = m->icount + SLICE, .vtime_ns = due < end_ns ? due : end_ns, .stop_when_idle = !skip};
		if (skip && wake < limits.vtime_ns)
			limits.vtime_ns = wake;
		skip = false;
		switch (ft_machine_run(m, &limits, &wake)) {
		case FT_STOP_IDLE:
			if (all_open(o) && ft_machine_quiet(m) && due == UINT64_MAX)
				return 0;
			skip = true;
			wake = wake == UINT64_MAX ? wake : wake + 1;
			break;
		case FT_STOP_RESET:
			return ft_error_set(err, -EIO, "the guest resets itself");
		case FT_STOP_ERROR:
			return ft_error_set(err, -EIO, "the engine stopped: %s", m->error.text);
		default:
			break;
		}
	}
}

/* ---- The held segments ------------------------------------------------------------------------------------------------ */

static void fit(const struct opening *o)
{
	struct ft_request *r = o->request;
	uint8_t *frame = r->bytes;
	uint32_t n = 0;
	for (uint32_t i = 0; i < r->flow_count; i++) {
		struct ft_trial_flow *f = &r->flows[i];
		for (uint32_t k = 0; k < f->frames; k++, frame += r->lengths[n++]) {
			struct ft_packet p;
			uint16_t type;
			if (f->protocol != 6 || !ft_packet_open(&p, frame, r->lengths[n], &type) || p.protocol != 6 || p.piece || p.size < TCP)
				continue;
			uint8_t *tcp = frame + (p.payload - frame);
			put32(tcp + 8, o->answer[i] + 1);
			put16(tcp + 14, 0xffff); /* there is no scale */
			put16(tcp + 16, 0);
			put16(tcp + 16, ft_packet_transport_sum(frame + p.ip, 6, tcp, p.size));
		}
		if (f->protocol == 6) {
			f->client_ack = o->answer[i] + 1;
			f->client_window = 0xffff;
		}
	}
}

int ft_connect_flows(struct ft_machine *m, struct ft_request *request, const struct ft_outside_config *outside, struct ft_error *err)
{
	struct opening *o = calloc(1, sizeof(*o));
	if (!o)
		return ft_error_set(err, -ENOMEM, "no memory to connect");
	o->m = m;
	o->request = request;
	crypto_generichash(o->key, sizeof(o->key), (const uint8_t *)&request->begin.seed, sizeof(request->begin.seed), NULL, 0);
	ft_outside_begin(&o->outside, outside, request->flows, 0);
	m->backend = (struct ft_backend){.context = o, .net_tx = net_tx, .console = console, .entropy = entropy};
	m->clock.mode = FT_CLOCK_FREE;
	int error = send_syns(o, err);
	if (!error)
		error = run(o, err);
	if (!error)
		fit(o);
	m->backend = (struct ft_backend){0};
	free(o);
	return error;
}
