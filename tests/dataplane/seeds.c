#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "seeds.h"

struct scene s;
struct seed *seeds[SEEDS];
unsigned seed_count;
struct seed *giving;
bool evil[PORTS], mute[PORTS];
unsigned together[2];
bool by_policy[PORTS];
bool given_ports[PORTS];
unsigned order[4096];
unsigned order_count;
unsigned commands_most, frames_most;
unsigned fillers;

unsigned port_of(const struct ft_trial_flow *flow)
{
	return __builtin_bswap16(flow->client_port) - 40000u;
}

/* ---- the rings ---- */

static struct seed *seed_of(uint64_t number)
{
	for (unsigned i = 0; i < seed_count; i++)
		if (seeds[i]->begin.trial == number)
			return seeds[i];
	return NULL;
}

static unsigned frames_of(const struct seed *seed, unsigned flows)
{
	unsigned frames = 0;
	for (unsigned i = 0; i < flows; i++)
		frames += seed->flows[i].frames;
	return frames;
}

static void command(uint32_t kind, const uint8_t *bytes, size_t length)
{
	uint64_t number;
	memcpy(&number, bytes, sizeof(number));
	struct seed *seed = seed_of(number);
	if (kind == FT_TRIAL_BEGIN) {
		assert_null(seed);
		assert_true(seed_count < SEEDS);
		seed = seeds[seed_count++] = calloc(1, sizeof(*seed));
		memcpy(&seed->begin, bytes, sizeof(seed->begin));
		assert_in_range(seed->begin.flows, 1, FT_TRIAL_FLOWS);
		assert_in_range(seed->begin.frames, seed->begin.flows, FT_TRIAL_FRAMES);
		return;
	}
	assert_non_null(seed);
	assert_false(seed->finished);
	if (kind == FT_TRIAL_FLOW) {
		assert_true(seed->flow_count < seed->begin.flows && !seed->frame_count && !seed->go);
		memcpy(&seed->flows[seed->flow_count], bytes, sizeof(*seed->flows));
		for (unsigned i = 0; i < seed->flow_count; i++)
			assert_int_not_equal(seed->flows[i].client_port, seed->flows[seed->flow_count].client_port);
		seed->flow_count++;
	} else if (kind == FT_TRIAL_FRAME) {
		assert_true(seed->flow_count == seed->begin.flows && seed->frame_count < seed->begin.frames && !seed->go);
		unsigned flow = 0;
		while (frames_of(seed, flow + 1) <= seed->frame_count)
			flow++;
		struct held *held = &seed->list[seed->frame_count++];
		*held = (struct held){flow, length - 8, malloc(length - 8)};
		memcpy(held->data, bytes + 8, length - 8);
	} else if (kind == FT_TRIAL_GO) {
		assert_true(seed->frame_count == seed->begin.frames && !seed->go);
		assert_int_equal(frames_of(seed, seed->flow_count), seed->frame_count);
		seed->go = seed->running = true;
		seed->run = seed->flow_count;
		seed->runs++;
	} else if (kind == FT_TRIAL_RUN) {
		struct ft_trial_run run;
		memcpy(&run, bytes, sizeof(run));
		assert_true(seed->go && !seed->running && run.flows < seed->flow_count);
		seed->running = true;
		seed->twin = !run.flows;
		seed->run = run.flows;
		seed->runs += !seed->twin;
		seed->twins += seed->twin;
	} else if (kind == FT_TRIAL_KEEP) {
		/* One flow, whose verdict is there. */
		assert_true(seed->go && !seed->running && seed->flow_count == 1);
	} else if (kind == FT_TRIAL_FINISH) {
		seed->finished = true;
		seed->running = false;
		if (!seed->go)
			seed->approved = 0;
	} else {
		fail();
	}
}

/* The live guest takes a frame of a held flow: it is the next one of the group that is being given, or the first of one. */
static void give(const struct wire *wire, unsigned port)
{
	if (by_policy[port])
		return;
	if (!giving) {
		for (unsigned i = 0; i < seed_count && !giving; i++)
			if (seeds[i]->approved && !seeds[i]->given && seeds[i]->list[0].length == wire->length &&
			    !memcmp(seeds[i]->list[0].data, wire->data, wire->length))
				giving = seeds[i];
		assert_non_null(giving);
	}
	const struct held *next = &giving->list[giving->given++];
	assert_int_equal(next->length, wire->length);
	assert_memory_equal(next->data, wire->data, wire->length);
	if (giving->given == frames_of(giving, giving->approved))
		giving = NULL;
}

static void frame(const uint8_t *bytes, size_t length)
{
	struct wire wire = {.length = length};
	enum ft_reason why;
	memcpy(wire.data, bytes, length);
	assert_int_equal(ft_frame_parse(&wire.frame, wire.data, length, &why), 0);
	unsigned port = wire.frame.source_port - 40000u;
	bool tcp = wire.frame.protocol == IPPROTO_TCP;
	if (port >= PORTS || (!wire.frame.payload_length && !(tcp && wire.frame.flags & FT_TCP_RST)))
		return;
	assert_true(order_count < 4096);
	order[order_count++] = port | (wire.frame.payload_length ? 0 : RESET);
	given_ports[port] |= wire.frame.payload_length > 0;
	if (wire.frame.payload_length)
		give(&wire, port);
}

static void vmm(struct scene *scene)
{
	static uint8_t buffer[FT_RING_RECORD_MAX];
	uint32_t kind;
	long length;
	for (unsigned i = 0; i < commands_most && (length = ft_ring_get(&scene->vmm.cmd, &kind, buffer, sizeof(buffer))) >= 0; i++)
		if (kind != FILLER)
			command(kind, buffer, (size_t)length);
	for (unsigned i = 0; i < frames_most && (length = ft_ring_get(&scene->vmm.rx, &kind, buffer, sizeof(buffer))) >= 0; i++)
		if (kind != FILLER)
			frame(buffer, (size_t)length);
}

/* ---- the runs ---- */

static bool is_bad(const struct seed *seed, unsigned flows)
{
	unsigned found = 0;
	for (unsigned i = 0; i < flows; i++) {
		unsigned port = port_of(&seed->flows[i]);
		if (evil[port])
			return true;
		found += port == together[0] || port == together[1];
	}
	if (found && together[0])
		found += given_ports[together[0]] + given_ports[together[1]];
	return found >= 2;
}

static unsigned answered(const struct seed *seed)
{
	unsigned n = 0;
	while (n < seed->run && !mute[port_of(&seed->flows[n])])
		n++;
	return n;
}

void event(const struct seed *seed, unsigned type, unsigned role, const uint64_t a[6], const char *string0, const char *string1)
{
	scene_event(&s, seed->begin.trial, type, role, a, string0, string1);
}

uint64_t held_of(const struct seed *seed)
{
	uint64_t held = 0;
	for (unsigned i = 0; i < seed->run; i++) {
		const struct ft_trial_flow *flow = &seed->flows[i];
		held += flow->protocol == 6 ? flow->next_sequence - flow->first_sequence : flow->bytes;
	}
	return held;
}

void end_run_with(struct seed *seed, unsigned end, uint64_t less, unsigned answers)
{
	bool twin = seed->twin, bad = !twin && is_bad(seed, seed->run);
	unsigned role = twin ? FT_ROLE_TWIN : FT_ROLE_TRIAL;
	assert_true(seed->running);
	if (!seed->ready_told)
		event(seed, FT_EVENT_SEED_READY, FT_ROLE_SEED, NULL, NULL, NULL);
	seed->ready_told = true;
	seed->running = seed->twin = false;
	uint64_t held = held_of(seed);
	event(seed, FT_EVENT_TRIAL_HANDLED, role, (uint64_t[6]){held - less, held, 1}, NULL, NULL);
	if (bad)
		event(seed, FT_EVENT_EXEC, role, NULL, "/bin/sh", "sh -c id");
	if (!twin)
		event(seed, FT_EVENT_TRIAL_ANSWERED, role, (uint64_t[6]){seed->run, answers}, NULL, NULL);
	if (!twin && !bad && end == FT_TRIAL_END_HORIZON && !less && (answers == seed->run || seed->flow_count == 1))
		seed->approved = seed->run;
	event(seed, FT_EVENT_TRIAL_END, role, (uint64_t[6]){end, 1, 2, 3, 1}, "", NULL);
	scene_pass(&s, 0);
}

void end_run(struct seed *seed)
{
	end_run_with(seed, FT_TRIAL_END_HORIZON, 0, answered(seed));
}

void say_gone(struct seed *seed, unsigned code)
{
	seed->gone_told = true;
	event(seed, FT_EVENT_SEED_GONE, FT_ROLE_SEED, (uint64_t[6]){code}, "", NULL);
	scene_pass(&s, 0);
}

void play(void)
{
	unsigned rounds = 0;
	/* Clones rest between groups, here for a few milliseconds. */
	for (unsigned quiet = 0; quiet < 8;) {
		bool more = false;
		assert_true(rounds++ < 1000);
		for (unsigned i = 0; i < seed_count; i++) {
			struct seed *seed = seeds[i];
			if (seed->running) {
				end_run(seed);
				more = true;
			} else if (seed->finished && !seed->gone_told) {
				say_gone(seed, FT_SEED_FINISHED);
				more = true;
			}
		}
		quiet = more ? 0 : quiet + 1;
		scene_pass(&s, more ? 0 : 3 * MS);
	}
	assert_null(giving);
}

/* ---- the clients ---- */

void connect_from(unsigned port, unsigned host)
{
	s.client_port = (uint16_t)(40000 + port);
	s.client_host = host;
	scene_connect(&s);
}

void send_from(unsigned port, unsigned host, const void *bytes, size_t length)
{
	s.client_port = (uint16_t)(40000 + port);
	s.client_host = host;
	scene_client(&s, 1, 1, FT_TCP_ACK | FT_TCP_PSH, bytes, length);
}

void hold_from(unsigned port, unsigned host)
{
	connect_from(port, host);
	send_from(port, host, "EVIL", 4);
}

void hold_many(unsigned count)
{
	for (unsigned port = 1; port <= count; port++)
		hold_from(port, port);
	scene_pass(&s, 3 * MS);
}

void datagram_from(unsigned port)
{
	uint8_t bytes[128];
	s.client_port = (uint16_t)(40000 + port);
	s.client_host = port;
	size_t length = scene_datagram(&s, 53, "EVIL", 4, bytes);
	scene_frame(&s, bytes, length);
}

/* ---- what came of it ---- */

const json_t *record_of(unsigned port)
{
	for (size_t i = 0; i < json_array_size(s.records); i++) {
		const json_t *record = json_array_get(s.records, i);
		const json_t *flow = json_object_get(record, "flow");
		if (flow && json_integer_value(json_object_get(flow, "client_port")) == 40000 + (json_int_t)port)
			return record;
	}
	return NULL;
}

const char *reason_of(unsigned port)
{
	const json_t *record = record_of(port);
	return record ? json_string_value(json_object_get(record, "disposition_reason")) : "none";
}

json_int_t group_of(unsigned port)
{
	return json_integer_value(json_object_get(json_object_get(record_of(port), "group"), "size"));
}

json_int_t runs_of(unsigned port)
{
	return json_integer_value(json_object_get(json_object_get(record_of(port), "group"), "runs"));
}

void expect(unsigned from, unsigned to, const char *reason)
{
	for (unsigned port = from; port <= to; port++)
		assert_string_equal(reason_of(port), reason);
}

json_int_t guest_number(const char *key, const char *below)
{
	json_t *status = ft_gate_status(s.gate, false);
	json_t *of = json_object_get(json_object_get(json_object_get(status, "guests"), "web"), key);
	json_int_t value = json_integer_value(below ? json_object_get(of, below) : of);
	json_decref(status);
	return value;
}

struct seed *last(void)
{
	return seeds[seed_count - 1];
}

static void open_with(const char *clones, const char *service)
{
	memset(evil, 0, sizeof(evil));
	memset(mute, 0, sizeof(mute));
	memset(together, 0, sizeof(together));
	memset(by_policy, 0, sizeof(by_policy));
	memset(given_ports, 0, sizeof(given_ports));
	order_count = fillers = 0;
	giving = NULL;
	commands_most = frames_most = UINT32_MAX;
	scene_clones = clones;
	scene_vmm = vmm;
	scene_open(&s, service);
}

static void forget_seeds(void)
{
	for (unsigned i = 0; i < seed_count; i++) {
		for (unsigned k = 0; k < seeds[i]->frame_count; k++)
			free(seeds[i]->list[k].data);
		free(seeds[i]);
	}
	seed_count = 0;
}

int open_groups(void **state)
{
	open_with(GROUPS, ENFORCE);
	return 0;
}

int close_groups(void **state)
{
	scene_close(&s);
	forget_seeds();
	scene_vmm = NULL;
	return 0;
}

void reopen(const char *clones, const char *service)
{
	close_groups(NULL);
	open_with(clones, service);
}
