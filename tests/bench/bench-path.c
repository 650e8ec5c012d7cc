/* bench-path: what the gateway adds to a frame's way. The product's burst (dataplane/lane.h) moves frames between DPDK's
 * null port and a guest's rings; the guest's end is played here. 64-byte frames (with FCS) of 100,000 connections of an
 * inspected service that have settled, each direction a half: TCP segments with six bytes, numbers and checksums right, so
 * flow lookup, stream bookkeeping, reasons and counters are all that the product does for real ones.
 *
 * The floor, burst by burst in turn with it: the same port, the same rings, the same copies, nothing looked at. What a
 * null port does not have, frames, a receive callback copies into its buffers: part of the floor, too. Rounds of either are
 * interleaved, so that other work on the machine meets both.
 *
 * On stderr: frames of a service that nobody inspects, and the reasons as the gate counted them. */
#include <errno.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <rte_cycles.h>
#include <rte_ethdev.h>

#include "dataplane/frame.h"
#include "dataplane/lane.h"
#include "samples.h"

#define FLOWS   100000u
#define BURST   FT_PORT_BURST /* frames each way */
#define ROUND   200u          /* bursts */
#define ROUNDS  151
#define WARM    (FLOWS / (ROUND * BURST) + 1)
#define BEHIND  4096u /* connections until the guest answers one: a millisecond or two at the rates seen */
#define PAYLOAD 6u    /* 60 bytes, 64 with FCS */

#define SERVICE   80u
#define UNKNOWN   8080u
#define CLIENT_IP 0x0a000000u
#define GUEST_IP  0x0a800001u

static const uint8_t client_mac[6] = {2, 0, 0, 0, 0, 9}, guest_mac[6] = {2, 0, 0, 0, 0, 1};

static const char config_text[] = "{\"uplinks\": {\"null\": {\"port\": \"net_null0\"}},"
				  " \"guests\": {\"web\": {\"uplink\": \"null\", \"mac\": "
				  "\"02:00:00:00:00:01\", \"address\": \"10.128.0.1\"}},"
				  " \"services\": {\"http\": {\"guest\": \"web\", \"protocol\": \"tcp\", "
				  "\"port\": 80, \"mode\": \"enforce\","
				  "                          \"screen\": \"suspicious\"}},"
				  " \"flows\": 131072}";

struct connection {
	uint32_t client_next, guest_next;
};

struct staged {
	uint32_t length;
	uint8_t data[1514];
};

struct bench {
	struct ft_port port;
	struct ft_gate *gate;
	struct ft_lane lane;
	struct ft_link guest; /* the vmm's end */
	struct ft_link floor_dataplane, floor_guest;
	struct connection *connections;
	uint32_t *order; /* connections in no order that a cache could follow */
	uint32_t at;
	struct staged to_port[BURST];
	unsigned staged, taken; /* frames for the port's next burst */
	uint16_t server_port;
	uint64_t lost;
};

/* ---- Frames ---------------------------------------------------------------------------------------------------- */

static uint32_t client_address(uint32_t n)
{
	return CLIENT_IP + 1 + n % 50000;
}

static uint16_t client_port(uint32_t n)
{
	return (uint16_t)(20000 + n / 50000 * 977 + n % 251);
}

static size_t build(const struct bench *b, uint32_t n, bool from_client, unsigned flags, const char *text,
		    size_t length, uint8_t *to)
{
	const struct connection *c = &b->connections[n];
	bool syn = flags & FT_TCP_SYN;
	memset(to, 0, 54);
	memcpy(to, from_client ? guest_mac : client_mac, 6);
	memcpy(to + 6, from_client ? client_mac : guest_mac, 6);
	ft_store16(to + 12, 0x0800);
	uint8_t *ip = to + 14, *tcp = ip + 20;
	ip[0] = 0x45;
	ft_store16(ip + 2, (uint16_t)(40 + length));
	ip[8] = 64;
	ip[9] = IPPROTO_TCP;
	ft_store32(ip + 12, from_client ? client_address(n) : GUEST_IP);
	ft_store32(ip + 16, from_client ? GUEST_IP : client_address(n));
	ft_store16(tcp, from_client ? client_port(n) : b->server_port);
	ft_store16(tcp + 2, from_client ? b->server_port : client_port(n));
	ft_store32(tcp + 4, from_client ? c->client_next : c->guest_next);
	ft_store32(tcp + 8, !(flags & FT_TCP_ACK) ? 0 : from_client ? c->guest_next : c->client_next);
	tcp[12] = 5 << 4;
	tcp[13] = (uint8_t)flags;
	ft_store16(tcp + 14, 60000);
	memcpy(tcp + 20, text, length);
	struct ft_frame frame = {.data = to,
				 .kind = FT_FRAME_IPV4,
				 .transport = true,
				 .protocol = IPPROTO_TCP,
				 .ip = 14,
				 .l4 = 34,
				 .payload = 54,
				 .payload_length = (uint32_t)length};
	ft_frame_seal(&frame, to);
	uint32_t *next = from_client ? &b->connections[n].client_next : &b->connections[n].guest_next;
	*next += (uint32_t)length + syn;
	return 54 + length;
}

/* ---- Both neighbours ------------------------------------------------------------------------------------------- */

/* The null port's frames are empty: these are what came. */
static uint16_t fill(uint16_t port, uint16_t queue, struct rte_mbuf *mbufs[], uint16_t count, uint16_t most,
		     void *context)
{
	struct bench *b = context;
	uint16_t n = 0;
	for (; n < count && b->taken < b->staged; n++, b->taken++) {
		const struct staged *from = &b->to_port[b->taken];
		memcpy(rte_pktmbuf_mtod(mbufs[n], void *), from->data, from->length);
		mbufs[n]->data_len = (uint16_t)from->length;
		mbufs[n]->pkt_len = from->length;
	}
	for (uint16_t i = n; i < count; i++)
		rte_pktmbuf_free(mbufs[i]);
	return n;
}

static void stage_client(struct bench *b, uint32_t n, unsigned flags, const char *text, size_t length)
{
	struct staged *to = &b->to_port[b->staged++];
	to->length = (uint32_t)build(b, n, true, flags, text, length, to->data);
}

static void stage_guest(struct bench *b, struct ft_link *link, uint32_t n, unsigned flags, const char *text,
			size_t length)
{
	uint8_t frame[1514];
	struct iovec part = {frame, build(b, n, false, flags, text, length, frame)};
	b->lost += ft_ring_put(&link->tx, FT_LINK_FRAME, &part, 1) != 0;
}

/* The guest takes all that is for it. */
static unsigned drain(struct ft_link *link)
{
	static uint8_t buffer[FT_RING_RECORD_MAX];
	uint32_t kind;
	unsigned count = 0;
	while (ft_ring_get(&link->rx, &kind, buffer, sizeof(buffer)) >= 0)
		count++;
	return count;
}

static void burst(struct bench *b)
{
	struct ft_lane_burst did;
	ft_lane_burst(&b->lane, true, &did);
	b->staged = b->taken = 0;
}

/* ---- The floor --------------------------------------------------------------------------------------------------- */

static void floor_wire(void *context, uint8_t *data, size_t length)
{
	struct bench *b = context;
	struct iovec part = {data, length};
	b->lost += ft_ring_put(&b->floor_dataplane.rx, FT_LINK_FRAME, &part, 1) != 0;
}

static void floor_burst(struct bench *b)
{
	static uint8_t buffer[FT_RING_RECORD_MAX];
	uint32_t kind;
	long length;
	unsigned lost = 0;
	ft_port_receive(&b->port, NULL, floor_wire, b);
	while ((length = ft_ring_get(&b->floor_dataplane.tx, &kind, buffer, sizeof(buffer))) >= 0)
		b->lost += ft_port_send(&b->port, buffer, (size_t)length, &lost) != 0;
	ft_ring_kick(&b->floor_dataplane.rx);
	b->lost += lost + ft_port_flush(&b->port);
	b->staged = b->taken = 0;
}

/* ---- The run ------------------------------------------------------------------------------------------------------- */

/* A round of bursts; cycles of each go to `took`. */
static void round_of(struct bench *b, bool floor, uint64_t took[ROUND])
{
	struct ft_link *guest = floor ? &b->floor_guest : &b->guest;
	for (unsigned i = 0; i < ROUND; i++) {
		for (unsigned n = 0; n < BURST; n++) {
			uint32_t flow = b->order[b->at++ % FLOWS],
				 other = b->order[(b->at + FLOWS - BEHIND) % FLOWS];
			stage_client(b, flow, FT_TCP_ACK | FT_TCP_PSH, "client", PAYLOAD);
			stage_guest(b, guest, other, FT_TCP_ACK | FT_TCP_PSH, "server", PAYLOAD);
		}
		uint64_t began = rte_rdtsc_precise();
		if (floor)
			floor_burst(b);
		else
			burst(b);
		took[i] = rte_rdtsc_precise() - began;
		unsigned came = drain(guest);
		b->lost += came < BURST ? BURST - came : 0;
	}
}

/* Nanoseconds a frame: the mean of all bursts but the slowest twentieth, in which the machine did something else. What the
 * gate does now and then (events every 50 us, a sweep every 10 ms) is in the rest, too. */
static double frame_ns(uint64_t *took, size_t bursts)
{
	double sum = 0;
	size_t kept = bursts - bursts / 20;
	samples_sort(took, bursts);
	for (size_t i = 0; i < kept; i++)
		sum += (double)took[i];
	return sum / (double)kept * 1e9 / (double)rte_get_tsc_hz() / (BURST * 2);
}

struct figures {
	double pass, io, added;
};

static struct figures measure(struct bench *b)
{
	static uint64_t pass[ROUNDS][ROUND], io[ROUNDS][ROUND];
	/* Sequence numbers go on with each frame, and the gate sees none of the floor's: each has its own. */
	struct connection *gates = b->connections, *floors = malloc(FLOWS * sizeof(*floors));
	if (!floors)
		return (struct figures){0};
	memcpy(floors, gates, FLOWS * sizeof(*floors));
	/* Once over all connections first. */
	for (unsigned i = 0; i < WARM; i++)
		round_of(b, false, pass[0]);
	for (unsigned i = 0; i < ROUNDS; i++) {
		round_of(b, false, pass[i]);
		b->connections = floors;
		round_of(b, true, io[i]);
		b->connections = gates;
	}
	free(floors);
	struct figures f = {frame_ns(pass[0], ROUNDS * ROUND), frame_ns(io[0], ROUNDS * ROUND), 0};
	f.added = f.pass - f.io;
	return f;
}

/* ---- Making ------------------------------------------------------------------------------------------------------- */

/* Opens each connection and lets it settle: a request and its answer in as many packets as inspection looks at. */
static void settle_all(struct bench *b)
{
	static const char request[] =
	    "GET /index.html HTTP/1.1\r\nHost: www.example.org\r\nUser-Agent: curl/8\r\nAccept: */*\r\n\r\n",
			  answer[] =
			      "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 4\r\n\r\ngood";
	for (uint32_t n = 0; n < FLOWS; n++) {
		b->connections[n] = (struct connection){1000 + n, 5000 + n};
		stage_client(b, n, FT_TCP_SYN, "", 0);
		burst(b);
		stage_guest(b, &b->guest, n, FT_TCP_SYN | FT_TCP_ACK, "", 0);
		burst(b);
		for (int i = 0; i < 6; i++) {
			stage_client(b, n, FT_TCP_ACK | FT_TCP_PSH, request, sizeof(request) - 1);
			burst(b);
			stage_guest(b, &b->guest, n, FT_TCP_ACK | FT_TCP_PSH, answer, sizeof(answer) - 1);
			burst(b);
		}
		drain(&b->guest);
		if (n % 20000 == 19999)
			fprintf(stderr, "%u connections\n", n + 1);
	}
}

static void no_record(void *context, json_t *record)
{
}

static void log_line(void *context, const char *level, const char *text)
{
	fprintf(stderr, "%s: %s\n", level, text);
}

static int link_both(struct ft_link *dataplane, struct ft_link *guest, struct ft_gate *gate,
		     struct ft_error *err)
{
	int ours[FT_LINK_FDS], theirs[FT_LINK_FDS];
	int error = ft_link_create(theirs, ours, err);
	if (!error)
		error = ft_link_open(guest, FT_LINK_VMM, ours, err);
	if (!error)
		error = gate ? ft_gate_link(gate, "web", theirs, err)
			     : ft_link_open(dataplane, FT_LINK_DATAPLANE, theirs, err);
	return error;
}

static int open_all(struct bench *b, struct ft_error *err)
{
	struct ft_port_config how = {.name = "null", .devargs = "net_null0,size=64", .huge = true};
	int error = ft_ports_open(&b->port, &how, 1, NULL, err);
	if (error)
		return error;
	if (!rte_eth_add_rx_callback(b->port.id, 0, fill, b))
		return ft_error_set(err, -ENOTSUP, "this DPDK has no receive callbacks");
	struct ft_gate_outlet outlet = {
	    .context = &b->lane, .send = ft_lane_send, .record = no_record, .log = log_line};
	json_t *config = json_loads(config_text, 0, NULL);
	error = ft_gate_new(config, &outlet, &b->gate, err);
	json_decref(config);
	if (error)
		return error;
	b->lane = (struct ft_lane){.ports = &b->port, .port_count = 1, .gate = b->gate};
	error = link_both(NULL, &b->guest, b->gate, err);
	if (!error)
		error = link_both(&b->floor_dataplane, &b->floor_guest, NULL, err);
	b->connections = calloc(FLOWS, sizeof(*b->connections));
	b->order = calloc(FLOWS, sizeof(*b->order));
	if (!error && (!b->connections || !b->order))
		return ft_error_set(err, -ENOMEM, "no memory");
	uint32_t random = 1;
	for (uint32_t i = 0; i < FLOWS && !error; i++) {
		random = random * 1664525 + 1013904223;
		uint32_t j = (uint32_t)((uint64_t)random * (i + 1) >> 32);
		b->order[i] = b->order[j];
		b->order[j] = i;
	}
	return error;
}

static void print_reasons(const struct bench *b)
{
	for (int i = 0; i < FT_REASON_COUNT; i++)
		if (ft_gate_count(b->gate, (enum ft_reason)i))
			fprintf(stderr, "%s %llu\n", ft_reason_label((enum ft_reason)i),
				(unsigned long long)ft_gate_count(b->gate, (enum ft_reason)i));
}

static uint64_t passed(const struct bench *b)
{
	return ft_gate_count(b->gate, FT_REASON_PASS_SETTLED) +
	       ft_gate_count(b->gate, FT_REASON_PASS_OUTBOUND);
}

int main(void)
{
	static struct bench b = {.server_port = SERVICE};
	struct ft_error err = {0};
	struct figures settled = {0}, uninspected = {0};
	bool good = !open_all(&b, &err);
	if (!good)
		fprintf(stderr, "bench-path: %s\n", err.text);
	if (good) {
		settle_all(&b);
		uint64_t before = passed(&b);
		settled = measure(&b);
		uint64_t frames = (uint64_t)(WARM + ROUNDS) * ROUND * BURST * 2;
		good = passed(&b) - before == frames && !b.lost;
		if (!good)
			fprintf(
			    stderr,
			    "not what was to be measured: %llu of %llu frames passed settled, %llu lost\n",
			    (unsigned long long)(passed(&b) - before), (unsigned long long)frames,
			    (unsigned long long)b.lost);
		b.server_port = UNKNOWN;
		uninspected = measure(&b);
		print_reasons(&b);
		fprintf(stderr, "uninspected service: pass %.1f ns, io %.1f ns, added %.1f ns\n",
			uninspected.pass, uninspected.io, uninspected.added);
	}
	ft_gate_free(b.gate);
	if (b.port.pool)
		ft_ports_close(&b.port, 1);
	printf("{\"pass_ns\":%.1f,\"io_ns\":%.1f,\"added_ns\":%.1f,\"mpps\":%.2f}\n", settled.pass,
	       settled.io, settled.added, settled.pass > 0 ? 1000 / settled.pass : 0);
	return good ? 0 : 1;
}
