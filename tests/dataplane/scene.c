#include "scene.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <rte_eal.h>

#include "base/event.h"

static const uint8_t client_mac[6] = {2, 0, 0, 0, 0, 9}, guest_mac[6] = {2, 0, 0, 0, 0, 1};
#define CLIENT_IP 0x0a000209u
#define GUEST_IP  0x0a00020fu

static const char config_text[] =
    "{\"guests\": {\"web\": {\"mac\": \"02:00:00:00:00:01\", \"address\": \"10.0.2.15\","
    " \"vlan\": \"trunk\"%s}%s},"
    " \"services\": {\"web\": {\"guest\": \"web\", \"protocol\": \"tcp\", \"port\": 80, \"rules\": "
    "[1000001], %s},"
    "               \"dns\": {\"guest\": \"web\", \"protocol\": \"udp\", \"port\": 53, \"rules\": [1000001],"
    "                         \"risks\": \"none\", \"mode\": \"enforce\", \"canary\": \"off\"}%s},"
    " \"rules\": [{\"sid\": 1000001, \"name\": \"evil\", \"text\": \"an evil word\", \"severity\": 1,"
    "            \"pattern\": \"EVIL\"}],"
    " \"verdict_rules\": [{\"sid\": 3000001, \"name\": \"exec\", \"text\": \"it started a program\", "
    "\"severity\": 1,"
    "            \"verdict\": \"malicious\", \"any\": {\"event\": \"exec\"}},"
    "            {\"sid\": 3000003, \"name\": \"reset\", \"text\": \"it reset\", \"severity\": 2,"
    "            \"verdict\": \"suspicious\", \"any\": {\"event\": \"reset\"}}],"
    " \"correlation_rules\": [{\"sid\": 3000002, \"name\": \"panic\", \"text\": \"it panicked\", \"severity\": 1,"
    "            \"any\": {\"event\": \"panic\"}}],"
    " \"clone\": {\"wall\": 1000000000, \"group\": 1, \"parallel\": 32, %s}, \"flows\": 256%s}";

const char *scene_clones = "\"max\": 1";
void (*scene_vmm)(struct scene *scene);
const char *scene_guest_keys = "", *scene_keys = "";

int scene_start_eal(void)
{
	char *args[] = {"test", "--no-huge",    "--no-shconf",         "--no-pci", "--no-telemetry", "-m",
			"128",   "--lcores=0@0", "--log-level=*:error", NULL};
	/* A test has no business leaving DPDK's runtime directory anywhere but here. */
	setenv("RUNTIME_DIRECTORY", "/tmp", 1);
	return rte_eal_init(9, args) < 0 ? -1 : 0;
}

static int on_send(void *context, unsigned uplink, const void *frame, size_t length)
{
	struct scene *scene = context;
	if (scene->client_count == 512 || length > sizeof(scene->to_client[0].data))
		return -1;
	struct wire *wire = &scene->to_client[scene->client_count++];
	wire->length = length;
	wire->uplink = uplink;
	memcpy(wire->data, frame, length);
	enum ft_reason why;
	if (ft_frame_parse(&wire->frame, wire->data, length, &why) ||
	    ft_frame_checksum(&wire->frame) != FT_CHECKSUM_GOOD) {
		fprintf(stderr, "the gate sent a frame that is none\n");
		abort();
	}
	return 0;
}

static void on_record(void *context, json_t *record)
{
	struct scene *scene = context;
	if (!scene->deaf)
		json_array_append(scene->records, record);
}

static void on_canary(void *context, json_t *result)
{
	struct scene *scene = context;
	json_array_append(scene->canary, result);
}

static void on_log(void *context, const char *level, const char *text)
{
	struct scene *scene = context;
	snprintf(scene->log, sizeof(scene->log), "%s: %s", level, text);
}

static void link_up(struct scene *scene)
{
	int ours[FT_LINK_FDS], theirs[FT_LINK_FDS];
	struct ft_error err = {0};
	if (ft_link_create(theirs, ours, &err) || ft_link_open(&scene->vmm, FT_LINK_VMM, ours, &err) ||
	    ft_gate_link(scene->gate, "web", theirs, &err)) {
		fprintf(stderr, "link: %s\n", err.text);
		abort();
	}
}

json_t *scene_config(const char *service, const char *guests, const char *services)
{
	char text[4096];
	json_error_t why;
	snprintf(text, sizeof(text), config_text, scene_guest_keys, guests, service, services, scene_clones,
		 scene_keys);
	json_t *config = json_loads(text, 0, &why);
	if (!config) {
		fprintf(stderr, "configuration: %s\n", why.text);
		abort();
	}
	return config;
}

void scene_open(struct scene *scene, const char *service)
{
	scene_open_with(scene, service, "", "");
}

void scene_open_with(struct scene *scene, const char *service, const char *guests, const char *services)
{
	memset(scene, 0, sizeof(*scene));
	scene->records = json_array();
	scene->canary = json_array();
	scene->client_port = 40000;
	scene->now = 1000 * MS;
	json_t *config = scene_config(service, guests, services);
	struct ft_error err = {0};
	struct ft_gate_outlet outlet = {
	    .context = scene, .send = on_send, .record = on_record, .log = on_log, .canary = on_canary,
	    .kernel_side = true};
	if (ft_gate_new(config, &outlet, &scene->gate, &err)) {
		fprintf(stderr, "configuration: %s\n", err.text);
		abort();
	}
	json_decref(config);
	ft_gate_time(scene->gate, scene->now, scene->now);
	link_up(scene);
}

void scene_close(struct scene *scene)
{
	ft_gate_free(scene->gate);
	ft_link_close(&scene->vmm);
	json_decref(scene->records);
	json_decref(scene->canary);
	scene->gate = NULL;
}

/* A receiver in order, as the guest's stack is one: bytes that it has it does not take again. */
static void receive(struct receiver *receiver, const struct ft_frame *frame)
{
	if (!frame->transport || frame->protocol != IPPROTO_TCP || frame->destination_port != 80)
		return;
	uint32_t end = frame->sequence + ft_frame_span(frame);
	receiver->early |= ft_frame_span(frame) && !(frame->flags & FT_TCP_SYN) &&
			   (int32_t)(frame->sequence - receiver->given) > 0;
	if (frame->flags & FT_TCP_SYN || (int32_t)(end - receiver->given) > 0)
		receiver->given = end;
	if (frame->flags & FT_TCP_SYN) {
		receiver->next = frame->sequence + 1;
		receiver->has_recent = false;
		/* A stack with TCP Fast Open takes this. */
		memcpy(receiver->bytes + receiver->length, frame->data + frame->payload,
		       frame->payload_length);
		receiver->length += frame->payload_length;
		receiver->next += frame->payload_length;
		return;
	}
	/* RFC 9293 section 3.10.7.4: neither without an acknowledgement nor with one of what was never sent. */
	if (!(frame->flags & FT_TCP_ACK) || (int32_t)(frame->acknowledgement - receiver->sent) > 0)
		return;
	int32_t old = (int32_t)(receiver->next - frame->sequence);
	uint32_t tsval = frame->timestamp ? ft_load32(frame->data + frame->timestamp) : 0;
	if (frame->timestamp && receiver->has_recent && (int32_t)(tsval - receiver->recent) < 0) {
		receiver->stale = true;
		return;
	}
	if (frame->timestamp && old >= 0) {
		receiver->has_recent = true;
		receiver->recent = tsval;
	}
	if (old < 0 || (uint32_t)old > frame->payload_length || receiver->fin)
		return;
	uint32_t fresh = frame->payload_length - (uint32_t)old;
	memcpy(receiver->bytes + receiver->length, frame->data + frame->payload + old, fresh);
	receiver->length += fresh;
	receiver->next += fresh;
	if (frame->flags & FT_TCP_FIN) {
		receiver->fin = true;
		receiver->next++;
	}
}

static void take_rx(struct scene *scene, uint64_t until)
{
	static uint8_t buffer[FT_RING_RECORD_MAX];
	uint32_t kind;
	long length;
	while (scene->vmm.rx.index < until &&
	       (length = ft_ring_get(&scene->vmm.rx, &kind, buffer, sizeof(buffer))) >= 0) {
		if (scene->guest_count == 512 || (size_t)length > sizeof(scene->to_guest[0].data))
			abort();
		struct wire *wire = &scene->to_guest[scene->guest_count++];
		wire->length = (size_t)length;
		memcpy(wire->data, buffer, (size_t)length);
		enum ft_reason why;
		if (ft_frame_parse(&wire->frame, wire->data, wire->length, &why) ||
		    ft_frame_checksum(&wire->frame) != FT_CHECKSUM_GOOD) {
			fprintf(stderr, "the guest got a frame that is none: %s\n", ft_reason_label(why));
			abort();
		}
		receive(&scene->live, &wire->frame);
		if (scene->strict && (scene->live.length > scene->approved.length ||
				      memcmp(scene->live.bytes, scene->approved.bytes, scene->live.length)))
			scene->violated = true;
		if (!scene->strict)
			scene->approved = scene->live;
	}
}

static void fork_clone(struct scene *scene)
{
	struct request *request = &scene->request;
	take_rx(scene, request->begin.rx_index);
	request->clone = scene->live;
	for (uint32_t i = 0; i < request->frames; i++)
		receive(&request->clone, &request->list[i].frame);
	if (request->clone.length >= scene->approved.length)
		scene->approved = request->clone;
	request->go = true;
	scene->requests++;
}

/* Reads what the gate asked. Commands come before frames: see ft_gate_tick. */
static void take_cmd(struct scene *scene)
{
	static uint8_t buffer[FT_RING_RECORD_MAX];
	struct request *request = &scene->request;
	uint32_t kind;
	long length;
	while ((length = ft_ring_get(&scene->vmm.cmd, &kind, buffer, sizeof(buffer))) >= 0) {
		if (kind == FT_TRIAL_BEGIN) {
			memset(request, 0, sizeof(*request));
			memcpy(&request->begin, buffer, sizeof(request->begin));
		} else if (kind == FT_TRIAL_FLOW) {
			memcpy(&request->flow, buffer, sizeof(request->flow));
		} else if (kind == FT_TRIAL_FRAME) {
			if (request->frames == 128)
				abort();
			struct wire *wire = &request->list[request->frames++];
			enum ft_reason why;
			wire->length = (size_t)length - 8;
			memcpy(wire->data, buffer + 8, wire->length);
			ft_frame_parse(&wire->frame, wire->data, wire->length, &why);
		} else if (kind == FT_TRIAL_GO) {
			fork_clone(scene);
		} else if (kind == FT_TRIAL_RUN) {
			memcpy(&scene->twin_hold, buffer, 8);
			scene->twins++;
		} else if (kind == FT_TRIAL_FINISH) {
			scene->finishes++;
		}
	}
}

void scene_pass(struct scene *scene, uint64_t ns)
{
	scene->now += ns;
	ft_gate_time(scene->gate, scene->now, scene->now);
	bool readable[FT_GATE_WAKES];
	memset(readable, true, sizeof(readable));
	ft_gate_awake(scene->gate, readable);
	ft_gate_guest(scene->gate, 1000);
	ft_gate_tick(scene->gate);
	if (scene->vmm.memory && scene_vmm) {
		scene_vmm(scene);
	} else if (scene->vmm.memory) {
		take_cmd(scene);
		take_rx(scene, UINT64_MAX);
	}
}

/* Everything below the transport. Returns where that begins. */
static size_t build_headers(const struct scene *scene, bool from_client, uint8_t protocol, size_t length, uint8_t *to,
			    struct ft_frame *frame)
{
	memcpy(to, from_client ? guest_mac : client_mac, 6);
	memcpy(to + 6, from_client ? client_mac : guest_mac, 6);
	size_t at = 12;
	for (unsigned i = 0; i < scene->tags; i++, at += 4)
		ft_store32(to + at, scene->tags - i == 2 ? 0x88a80007u : 0x81000005u);
	ft_store16(to + at, scene->six ? 0x86dd : 0x0800);
	uint8_t *ip = to + at + 2;
	*frame = (struct ft_frame){.data = to,
				   .kind = scene->six ? FT_FRAME_IPV6 : FT_FRAME_IPV4,
				   .transport = true,
				   .protocol = protocol,
				   .ip = (uint16_t)(at + 2)};
	uint8_t addresses[2][4];
	ft_store32(addresses[0], from_client ? CLIENT_IP + scene->client_host : GUEST_IP);
	ft_store32(addresses[1], from_client ? GUEST_IP : CLIENT_IP + scene->client_host);
	if (!scene->six) {
		memset(ip, 0, 20);
		ip[0] = 0x45;
		ft_store16(ip + 2, (uint16_t)(20 + length));
		ip[8] = 64;
		ip[9] = protocol;
		memcpy(ip + 12, addresses, 8);
		return at + 22;
	}
	memset(ip, 0, 40 + scene->options);
	ip[0] = 0x60;
	ft_store16(ip + 4, (uint16_t)(scene->options + length));
	ip[6] = protocol;
	ip[7] = 64;
	for (int i = 0; i < 2; i++) {
		memcpy(ip + 8 + 16 * i, "\xfd\0\0\2", 4);
		memcpy(ip + 20 + 16 * i, addresses[i], 4);
	}
	if (scene->options) {
		ip[6] = IPPROTO_DSTOPTS;
		ip[40] = protocol;
		ip[41] = (uint8_t)(scene->options / 8 - 1);
		ip[42] = 1; /* PadN */
		ip[43] = (uint8_t)(scene->options - 4);
	}
	return at + 42 + scene->options;
}

size_t scene_build(const struct scene *scene, bool from_client, uint32_t sequence, uint32_t ack,
		   unsigned flags, const void *payload, size_t length, uint8_t *to)
{
	bool syn = flags & FT_TCP_SYN;
	size_t options = (syn ? 8u : 0u) + (scene->timestamps ? 12u : 0u) + (syn && scene->sack ? 4u : 0u);
	struct ft_frame frame;
	size_t at = build_headers(scene, from_client, IPPROTO_TCP, 20 + options + length, to, &frame);
	uint8_t *tcp = to + at;
	memset(tcp, 0, 20 + options);
	ft_store16(tcp, from_client ? scene->client_port : 80);
	ft_store16(tcp + 2, from_client ? 80 : scene->client_port);
	ft_store32(tcp + 4, sequence + (from_client ? CLIENT_ISN : GUEST_ISN));
	ft_store32(tcp + 8, flags & FT_TCP_ACK ? ack + (from_client ? GUEST_ISN : CLIENT_ISN) : 0);
	tcp[12] = (uint8_t)((5 + options / 4) << 4);
	tcp[13] = (uint8_t)flags;
	ft_store16(tcp + 14, !from_client && scene->closed ? 0 : 1000);
	uint8_t *option = tcp + 20;
	if (syn) {
		const uint8_t list[8] = {2, 4, 0x05, 0xb4, 1, 3, 3, 7};
		memcpy(option, list, 8);
		option += 8;
	}
	if (syn && scene->sack) {
		memcpy(option, (const uint8_t[]){1, 1, 4, 2}, 4);
		option += 4;
	}
	if (scene->timestamps) {
		option[0] = option[1] = 1;
		option[2] = 8;
		option[3] = 10;
		ft_store32(option + 4, scene->tsval);
	}
	if (length)
		memcpy(tcp + 20 + options, payload, length);
	frame.l4 = (uint16_t)at;
	frame.payload = (uint32_t)(at + 20 + options);
	frame.payload_length = (uint32_t)length;
	ft_frame_seal(&frame, to);
	return at + 20 + options + length;
}

size_t scene_datagram(const struct scene *scene, uint16_t port, const void *payload, size_t length, uint8_t *to)
{
	struct ft_frame frame;
	size_t at = build_headers(scene, true, IPPROTO_UDP, 8 + length, to, &frame);
	ft_store16(to + at, scene->client_port);
	ft_store16(to + at + 2, port);
	ft_store16(to + at + 4, (uint16_t)(8 + length));
	memcpy(to + at + 8, payload, length);
	frame.l4 = (uint16_t)at;
	frame.payload = (uint32_t)at + 8;
	frame.payload_length = (uint32_t)length;
	ft_frame_seal(&frame, to);
	return at + 8 + length;
}

size_t scene_piece(const struct scene *scene, const uint8_t *frame, size_t length, uint32_t from, uint32_t bytes, bool more,
		   uint8_t *to)
{
	uint32_t ip = 14 + 4 * scene->tags, header = ip + (scene->six ? 40 : 20), at = header;
	memcpy(to, frame, header);
	if (header + from + bytes > length)
		bytes = (uint32_t)length - header - from;
	if (scene->six) {
		to[at] = to[ip + 6];
		to[at + 1] = 0;
		ft_store16(to + at + 2, (uint16_t)(from | more));
		ft_store32(to + at + 4, scene->identification);
		to[ip + 6] = IPPROTO_FRAGMENT;
		at += 8;
		ft_store16(to + ip + 4, (uint16_t)(8 + bytes));
	} else {
		ft_store16(to + ip + 2, (uint16_t)(20 + bytes));
		ft_store16(to + ip + 4, (uint16_t)scene->identification);
		ft_store16(to + ip + 6, (uint16_t)(from / 8 | (more ? 0x2000 : 0)));
		struct ft_frame shape = {.kind = FT_FRAME_IPV4, .ip = (uint16_t)ip};
		ft_frame_seal(&shape, to);
	}
	memcpy(to + at, frame + header + from, bytes);
	return at + bytes;
}

/* As the client's network would cut it. */
static void send_cut(struct scene *scene, const uint8_t *frame, size_t length)
{
	uint8_t piece[FT_FRAME_MOST];
	uint32_t bytes = (uint32_t)length - 14 - 4 * scene->tags - (scene->six ? 40 : 20);
	uint32_t count = (bytes + scene->fragment - 1) / scene->fragment;
	scene->identification++;
	for (uint32_t i = 0; i < count; i++) {
		uint32_t n = scene->backwards ? count - 1 - i : i;
		size_t size = scene_piece(scene, frame, length, n * scene->fragment, scene->fragment, n + 1 < count, piece);
		ft_gate_wire(scene->gate, 0, piece, size);
	}
	scene_pass(scene, 0);
}

void scene_frame(struct scene *scene, void *frame, size_t length)
{
	ft_gate_ahead(scene->gate, 0, (uint8_t *[]){frame}, (uint32_t[]){(uint32_t)length}, 1);
	ft_gate_wire(scene->gate, 0, frame, length);
	scene_pass(scene, 0);
}

void scene_client(struct scene *scene, uint32_t sequence, uint32_t ack, unsigned flags, const void *payload,
		  size_t length)
{
	uint8_t frame[16384];
	scene->tsval++;
	size_t total = scene_build(scene, true, sequence, ack, flags, payload, length, frame);
	if (scene->fragment && !scene->options)
		send_cut(scene, frame, total);
	else
		scene_frame(scene, frame, total);
}

void scene_guest(struct scene *scene, uint32_t sequence, uint32_t ack, unsigned flags, const void *payload,
		 size_t length)
{
	uint8_t frame[16384];
	struct iovec part = {frame, scene_build(scene, false, sequence, ack, flags, payload, length, frame)};
	uint32_t end = GUEST_ISN + sequence + (uint32_t)length + !!(flags & (FT_TCP_SYN | FT_TCP_FIN));
	if (flags & FT_TCP_SYN || (int32_t)(end - scene->live.sent) > 0)
		scene->live.sent = end;
	ft_ring_put(&scene->vmm.tx, FT_LINK_FRAME, &part, 1);
	scene_pass(scene, 0);
}

void scene_text(struct scene *scene, uint32_t sequence, const char *text)
{
	scene_client(scene, sequence, 1, FT_TCP_ACK | FT_TCP_PSH, text, strlen(text));
}

void scene_forget(struct scene *scene)
{
	scene->guest_count = scene->client_count = 0;
}

void scene_connect(struct scene *scene)
{
	scene_client(scene, 0, 0, FT_TCP_SYN, "", 0);
	scene_guest(scene, 0, 1, FT_TCP_SYN | FT_TCP_ACK, "", 0);
	scene_client(scene, 1, 1, FT_TCP_ACK, "", 0);
	scene_forget(scene);
}

void scene_event(struct scene *scene, uint64_t hold, unsigned type, unsigned role, const uint64_t a[6],
		 const char *string0, const char *string1)
{
	uint8_t buffer[FT_EVENT_MAX];
	struct ft_event event = {.type = (uint16_t)type,
				 .role = (uint8_t)role,
				 .trial = hold,
				 .sequence = scene->sequence++,
				 .vtime_ns = scene->now,
				 .pid = -1};
	if (a)
		memcpy(event.a, a, sizeof(event.a));
	size_t length = ft_event_build(buffer, &event, string0, string1);
	if (send(scene->vmm.events, buffer, length, 0) != (ssize_t)length)
		abort();
}

void scene_gone(struct scene *scene, uint64_t hold)
{
	scene_event(scene, hold, FT_EVENT_SEED_GONE, FT_ROLE_SEED, NULL, "", NULL);
	scene_pass(scene, 0);
}

void scene_answer(struct scene *scene, bool evil)
{
	const struct ft_trial_flow *flow = &scene->request.flow;
	uint64_t held = flow->protocol == 6 ? flow->next_sequence - flow->first_sequence : flow->bytes;
	int32_t numbers = (int32_t)(scene->request.clone.next - flow->first_sequence);
	uint64_t taken = flow->protocol != 6 ? held : numbers < 0 ? 0 : (uint64_t)numbers;
	if (taken > held)
		taken = held;
	scene->sequence = 0;
	scene_event(scene, flow->trial, FT_EVENT_SEED_READY, FT_ROLE_SEED, NULL, NULL, NULL);
	scene->sequence = 0;
	scene_event(scene, flow->trial, FT_EVENT_TRIAL_HANDLED, FT_ROLE_TRIAL, (uint64_t[6]){taken, held, 1},
		    NULL, NULL);
	if (evil)
		scene_event(scene, flow->trial, FT_EVENT_EXEC, FT_ROLE_TRIAL, NULL, "/bin/sh", "sh -c id");
	scene_event(scene, flow->trial, FT_EVENT_TRIAL_END, FT_ROLE_TRIAL,
		    (uint64_t[6]){FT_TRIAL_END_HORIZON, 1, 2, 3, 1}, "", NULL);
	unsigned twins = scene->twins;
	scene_pass(scene, 0);
	if (scene->twins != twins) {
		scene->sequence = 0;
		scene_event(scene, flow->trial, FT_EVENT_TRIAL_END, FT_ROLE_TWIN,
			    (uint64_t[6]){FT_TRIAL_END_HORIZON, 1, 2, 3, 1}, "", NULL);
		scene_pass(scene, 0);
	}
	scene_gone(scene, flow->trial);
}

const char *scene_taken(struct scene *scene)
{
	scene->live.bytes[scene->live.length] = 0;
	return (const char *)scene->live.bytes;
}

uint64_t scene_count(const struct scene *scene, enum ft_reason reason)
{
	return ft_gate_count(scene->gate, reason);
}

json_t *scene_record(const struct scene *scene, const char *op)
{
	for (size_t i = json_array_size(scene->records); i-- > 0;) {
		json_t *record = json_array_get(scene->records, i);
		if (!strcmp(json_string_value(json_object_get(record, "op")), op))
			return record;
	}
	return NULL;
}
