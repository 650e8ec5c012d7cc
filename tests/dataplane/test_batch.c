/* Group tests, seen from the vmm's side. A vmm of the test's own plays seeds of several flows; which inputs are bad, and which
 * get no answer, is the test's. It keeps the invariant in view: the live guest gets held bytes only as one run took them, all
 * that it cleared and in its order, with no held byte of others in between. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <cmocka.h>

#include "dataplane/gate-t.h"
#include "dataplane/order.h"
#include "dataplane/reload.h"
#include "scene.h"

#define ENFORCE "\"risks\": \"none\", \"mode\": \"enforce\", \"source_holds\": 500"
#define GROUPS  "\"max\": 4, \"source\": 4, \"group\": 64, \"parallel\": 1"
#define PORTS   256u  /* client ports from 40001 on */
#define SEEDS   512u
#define FILLER  0x999u /* a record of no meaning */

struct held {
	unsigned flow;
	size_t length;
	uint8_t *data;
};

struct seed {
	struct ft_trial_begin begin;
	struct ft_trial_flow flows[FT_TRIAL_FLOWS];
	struct held list[FT_TRIAL_FRAMES];
	unsigned flow_count, frame_count;
	bool gone_told, go, ready_told, finished;
	bool running, twin;
	unsigned run; /* flows of it */
	unsigned runs, twins;
	unsigned approved; /* flows */
	unsigned given;    /* frames of them that the live guest has */
};

static struct scene s;
static struct seed *seeds[SEEDS];
static unsigned seed_count;
static struct seed *giving; /* whose frames the live guest is getting */

/* What is wrong with a client's input, by port. */
static bool evil[PORTS], mute[PORTS];
static unsigned together[2]; /* ports that are bad in one run, or one after the other */
static bool by_policy[PORTS]; /* may go on without a run */
static bool given_ports[PORTS];

static unsigned order[4096]; /* of what the live guest got: ports; a reset is one, too, with RESET */
static unsigned order_count;
#define RESET 0x10000u

static unsigned commands_most, frames_most; /* taken at a time */
static unsigned fillers;

static unsigned port_of(const struct ft_trial_flow *flow)
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

static void event(const struct seed *seed, unsigned type, unsigned role, const uint64_t a[6], const char *string0, const char *string1)
{
	scene_event(&s, seed->begin.trial, type, role, a, string0, string1);
}

static uint64_t held_of(const struct seed *seed)
{
	uint64_t held = 0;
	for (unsigned i = 0; i < seed->run; i++) {
		const struct ft_trial_flow *flow = &seed->flows[i];
		held += flow->protocol == 6 ? flow->next_sequence - flow->first_sequence : flow->bytes;
	}
	return held;
}

static void end_run_with(struct seed *seed, unsigned end, uint64_t less, unsigned answers)
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

static void end_run(struct seed *seed)
{
	end_run_with(seed, FT_TRIAL_END_HORIZON, 0, answered(seed));
}

static void say_gone(struct seed *seed, unsigned code)
{
	seed->gone_told = true;
	event(seed, FT_EVENT_SEED_GONE, FT_ROLE_SEED, (uint64_t[6]){code}, "", NULL);
	scene_pass(&s, 0);
}

/* Everything that runs ends, what begins then, too, until nothing happens any more. */
static void play(void)
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

static void connect_from(unsigned port, unsigned host)
{
	s.client_port = (uint16_t)(40000 + port);
	s.client_host = host;
	scene_connect(&s);
}

static void send_from(unsigned port, unsigned host, const void *bytes, size_t length)
{
	s.client_port = (uint16_t)(40000 + port);
	s.client_host = host;
	scene_client(&s, 1, 1, FT_TCP_ACK | FT_TCP_PSH, bytes, length);
}

/* One more client with suspicious input, from an address of its own, or from this one. */
static void hold_from(unsigned port, unsigned host)
{
	connect_from(port, host);
	send_from(port, host, "EVIL", 4);
}

/* Clients 1 to count, each from its own address, gathered at the same moment. */
static void hold_many(unsigned count)
{
	for (unsigned port = 1; port <= count; port++)
		hold_from(port, port);
	scene_pass(&s, 3 * MS);
}

static void datagram_from(unsigned port)
{
	uint8_t bytes[128];
	s.client_port = (uint16_t)(40000 + port);
	s.client_host = port;
	size_t length = scene_datagram(&s, 53, "EVIL", 4, bytes);
	scene_frame(&s, bytes, length);
}

/* ---- what came of it ---- */

static const json_t *record_of(unsigned port)
{
	for (size_t i = 0; i < json_array_size(s.records); i++) {
		const json_t *record = json_array_get(s.records, i);
		const json_t *flow = json_object_get(record, "flow");
		if (flow && json_integer_value(json_object_get(flow, "client_port")) == 40000 + (json_int_t)port)
			return record;
	}
	return NULL;
}

static const char *reason_of(unsigned port)
{
	const json_t *record = record_of(port);
	return record ? json_string_value(json_object_get(record, "disposition_reason")) : "none";
}

static json_int_t group_of(unsigned port)
{
	return json_integer_value(json_object_get(json_object_get(record_of(port), "group"), "size"));
}

static json_int_t runs_of(unsigned port)
{
	return json_integer_value(json_object_get(json_object_get(record_of(port), "group"), "runs"));
}

static void expect(unsigned from, unsigned to, const char *reason)
{
	for (unsigned port = from; port <= to; port++)
		assert_string_equal(reason_of(port), reason);
}

static json_int_t guest_number(const char *key, const char *below)
{
	json_t *status = ft_gate_status(s.gate, false);
	json_t *of = json_object_get(json_object_get(json_object_get(status, "guests"), "web"), key);
	json_int_t value = json_integer_value(below ? json_object_get(of, below) : of);
	json_decref(status);
	return value;
}

static struct seed *last(void)
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

static int open_groups(void **state)
{
	open_with(GROUPS, ENFORCE);
	return 0;
}

static int close_groups(void **state)
{
	scene_close(&s);
	forget_seeds();
	scene_vmm = NULL;
	return 0;
}

static void reopen(const char *clones, const char *service)
{
	close_groups(NULL);
	open_with(clones, service);
}

/* ---- clean groups, and searches ---- */

static void a_clean_group_is_released_in_its_order(void **state)
{
	hold_many(9);
	assert_int_equal(seed_count, 1);
	assert_int_equal(last()->flow_count, 9);
	assert_int_equal(order_count, 0);
	play();
	assert_int_equal(seed_count, 1);
	assert_int_equal(last()->runs, 1);
	assert_true(last()->finished);
	expect(1, 9, "release.clean");
	for (unsigned i = 0; i < 9; i++) {
		assert_int_equal(order[i], i + 1);
		assert_int_equal(group_of(i + 1), 9);
		assert_int_equal(runs_of(i + 1), 1);
	}
	assert_int_equal(order_count, 9);
	assert_int_equal(guest_number("batches", "16"), 1);
	assert_int_equal(guest_number("runs", NULL), 1);
	assert_int_equal(guest_number("searches", NULL), 0);
	assert_int_equal(guest_number("clones", NULL), 0);
}

static void one_that_waits_alone_is_no_group(void **state)
{
	hold_many(1);
	play();
	expect(1, 1, "release.clean");
	assert_null(json_object_get(record_of(1), "group"));
	assert_int_equal(guest_number("batches", "1"), 1);
}

static void a_group_of_one_is_none(void **state)
{
	reopen("\"max\": 4, \"source\": 4, \"group\": 1, \"parallel\": 32", ENFORCE);
	hold_many(4);
	assert_int_equal(seed_count, 4);
	play();
	assert_int_equal(seed_count, 4);
	expect(1, 4, "release.clean");
}

static void one_bad_input_is_found_wherever_it_is(void **state)
{
	for (unsigned bad = 1; bad <= 9; bad++) {
		reopen(GROUPS, ENFORCE);
		hold_many(9);
		evil[bad] = true;
		play();
		for (unsigned port = 1; port <= 9; port++)
			assert_string_equal(reason_of(port), port == bad ? "drop.verdict" : "release.clean");
		assert_false(given_ports[bad]);
		/* The verdict is of a trial of its own, and those before it were cleared without it. */
		assert_null(json_object_get(record_of(bad), "group"));
		const struct seed *first = seeds[0];
		assert_int_equal(first->approved, bad - 1);
		for (unsigned port = 1; port < bad; port++)
			assert_int_equal(group_of(port), bad - 1);
		assert_in_range(first->runs, 2, 5);
		bool alone = false;
		for (unsigned i = 1; i < seed_count; i++)
			alone |= seeds[i]->flow_count == 1 && port_of(&seeds[i]->flows[0]) == bad && i == 1;
		assert_true(alone); /* and it is the next one */
		assert_int_equal(guest_number("searches", NULL), 1);
		assert_int_equal(order_count, 8 + 1 /* the reset of the bad one */);
	}
}

static void two_bad_inputs_are_found(void **state)
{
	static const unsigned pairs[][2] = {{1, 2}, {1, 9}, {4, 5}, {3, 7}, {8, 9}};
	for (size_t i = 0; i < sizeof(pairs) / sizeof(*pairs); i++) {
		reopen(GROUPS, ENFORCE);
		hold_many(9);
		evil[pairs[i][0]] = evil[pairs[i][1]] = true;
		play();
		for (unsigned port = 1; port <= 9; port++)
			assert_string_equal(reason_of(port), evil[port] ? "drop.verdict" : "release.clean");
	}
}

/* Neither is bad without the other having come before it. The first goes through, the second is tried after it has. */
static void what_is_bad_after_another_is_found(void **state)
{
	hold_many(9);
	together[0] = 3;
	together[1] = 7;
	play();
	for (unsigned port = 1; port <= 9; port++)
		assert_string_equal(reason_of(port), port == 7 ? "drop.verdict" : "release.clean");
	assert_int_equal(seeds[0]->approved, 6);
}

/* Bad together in any order of release, harmless each by itself and after the other: clean in the end, never together. */
static void what_only_a_group_shows_costs_nobody_anything(void **state)
{
	hold_many(9);
	for (unsigned n = 0; n < 6 && seeds[0]->running; n++) {
		unsigned flows = seeds[0]->run;
		evil[7] = flows >= 7;
		end_run(seeds[0]);
		if (seeds[0]->twin)
			end_run(seeds[0]);
	}
	evil[7] = false;
	play();
	expect(1, 9, "release.clean");
	assert_int_equal(group_of(6), 6);
	assert_null(json_object_get(record_of(7), "group"));
	assert_int_equal(group_of(8), 2);
}

static void who_gets_no_answer_is_tried_alone(void **state)
{
	for (unsigned silent = 1; silent <= 9; silent++) {
		reopen(GROUPS, ENFORCE);
		hold_many(9);
		mute[silent] = true;
		play();
		expect(1, 9, "release.clean");
		assert_int_equal(seeds[0]->approved, silent - 1);
		/* The run that showed it, and the proof that those before it are clean without it. */
		assert_int_equal(seeds[0]->runs, silent == 1 ? 1 : 2);
		assert_null(json_object_get(record_of(silent), "group"));
	}
}

/* Its guest's old data would pass for an answer. */
static void who_has_not_received_everything_is_tried_alone(void **state)
{
	hold_from(1, 1);
	connect_from(2, 2);
	scene_guest(&s, 1, 1, FT_TCP_ACK | FT_TCP_PSH, "older", 5);
	send_from(2, 2, "EVIL", 4);
	hold_from(3, 3);
	scene_pass(&s, 3 * MS);
	play();
	expect(1, 3, "release.clean");
	assert_int_equal(group_of(1), 2);
	assert_null(json_object_get(record_of(2), "group"));
	assert_int_equal(group_of(3), 2);
}

static void a_server_that_handles_the_first_alone_clears_the_first_alone(void **state)
{
	hold_many(4);
	mute[2] = mute[3] = mute[4] = true;
	end_run(seeds[0]);
	end_run(seeds[0]);
	assert_true(given_ports[1]);
	assert_false(given_ports[2] || given_ports[3] || given_ports[4]);
	play();
	expect(1, 4, "release.clean");
}

static void bytes_that_a_group_did_not_take_clear_nobody(void **state)
{
	hold_many(4);
	end_run_with(seeds[0], FT_TRIAL_END_HORIZON, 1, 4);
	assert_int_equal(order_count, 0);
	assert_int_equal(seeds[0]->run, 2);
	play();
	expect(1, 4, "release.clean");
}

static void a_lie_about_how_much_a_group_took_clears_nobody(void **state)
{
	hold_many(4);
	struct seed *seed = seeds[0];
	seed->running = false;
	event(seed, FT_EVENT_TRIAL_HANDLED, FT_ROLE_TRIAL, (uint64_t[6]){16, 4, 1}, NULL, NULL); /* 4: that is one */
	event(seed, FT_EVENT_TRIAL_ANSWERED, FT_ROLE_TRIAL, (uint64_t[6]){4, 4}, NULL, NULL);
	event(seed, FT_EVENT_TRIAL_END, FT_ROLE_TRIAL, (uint64_t[6]){FT_TRIAL_END_HORIZON, 1, 2, 3, 1}, "", NULL);
	scene_pass(&s, 0);
	assert_int_equal(order_count, 0);
	play();
	expect(1, 4, "release.clean");
}

/* What is said of another number of flows than was run, or without being said at all, is no answer. */
static void answers_have_to_be_about_the_run(void **state)
{
	for (unsigned how = 0; how < 3; how++) {
		reopen(GROUPS, ENFORCE);
		hold_many(4);
		struct seed *seed = seeds[0];
		uint64_t held = held_of(seed);
		seed->running = false;
		event(seed, FT_EVENT_SEED_READY, FT_ROLE_SEED, NULL, NULL, NULL);
		event(seed, FT_EVENT_TRIAL_HANDLED, FT_ROLE_TRIAL, (uint64_t[6]){held, held, 1}, NULL, NULL);
		if (how)
			event(seed, FT_EVENT_TRIAL_ANSWERED, FT_ROLE_TRIAL, (uint64_t[6]){how == 1 ? 3 : 4, how == 1 ? 3 : 5},
			      NULL, NULL);
		event(seed, FT_EVENT_TRIAL_END, FT_ROLE_TRIAL, (uint64_t[6]){FT_TRIAL_END_HORIZON, 1, 2, 3, 1}, "", NULL);
		scene_pass(&s, 0);
		assert_int_equal(order_count, 0);
		play();
		expect(1, 4, "release.clean");
	}
}

/* Nor is what was said of the run before. */
static void answers_of_a_run_are_not_those_of_the_next(void **state)
{
	hold_many(4);
	evil[4] = true;
	end_run(seeds[0]);
	end_run(seeds[0]); /* twin */
	struct seed *seed = seeds[0];
	assert_int_equal(seed->run, 2);
	uint64_t held = held_of(seed);
	seed->running = false;
	event(seed, FT_EVENT_TRIAL_HANDLED, FT_ROLE_TRIAL, (uint64_t[6]){held, held, 1}, NULL, NULL);
	event(seed, FT_EVENT_TRIAL_END, FT_ROLE_TRIAL, (uint64_t[6]){FT_TRIAL_END_HORIZON, 1, 2, 3, 1}, "", NULL);
	scene_pass(&s, 0);
	assert_true(seed->finished);
	assert_int_equal(order_count, 0);
	play();
	expect(1, 3, "release.clean");
}

/* ---- groups that decide nothing ---- */

static void a_group_out_of_its_budget_is_tried_in_smaller_ones(void **state)
{
	static const unsigned ends[] = {FT_TRIAL_END_WALL, FT_TRIAL_END_MEMORY, FT_TRIAL_END_NEVER_IDLE,
					FT_TRIAL_END_INSTRUCTIONS, FT_TRIAL_END_ERROR};
	for (size_t i = 0; i < sizeof(ends) / sizeof(*ends); i++) {
		reopen(GROUPS, ENFORCE ", \"trials_per_flow\": 1");
		hold_many(16);
		assert_int_equal(seeds[0]->begin.wall_ns, 250 * MS);
		assert_int_equal(seeds[0]->begin.handling_instructions, 8 * 20000000000ull);
		assert_int_equal(seeds[0]->begin.memory_pages, (128u << 20) / 4096);
		end_run_with(seeds[0], ends[i], 0, 16);
		assert_true(seeds[0]->finished);
		assert_int_equal(order_count, 0);
		say_gone(seeds[0], FT_SEED_FINISHED);
		assert_int_equal(last()->flow_count, 4);
		/* That one, too; and who is alone is judged as ever. It was the only trial that counts. */
		end_run_with(last(), ends[i], 0, 4);
		assert_int_equal(order_count, 0);
		play();
		expect(1, 16, "release.clean");
		assert_int_equal(guest_number("dissolved", NULL), 2);
	}
}

static void one_that_uses_up_the_time_alone_has_its_policy(void **state)
{
	reopen(GROUPS, ENFORCE ", \"on_timeout\": \"release\"");
	hold_many(2);
	end_run_with(seeds[0], FT_TRIAL_END_WALL, 0, 2);
	say_gone(seeds[0], FT_SEED_FINISHED);
	assert_int_equal(last()->flow_count, 1);
	assert_int_equal(last()->begin.wall_ns, 1000 * MS);
	by_policy[1] = true;
	end_run_with(last(), FT_TRIAL_END_WALL, 0, 1);
	expect(1, 1, "release.timeout");
	play();
	expect(2, 2, "release.clean");
}

static void a_seed_that_dies_decides_nothing_about_a_group(void **state)
{
	for (unsigned code = 0; code < 6; code++) {
		reopen(GROUPS, ENFORCE);
		hold_many(9);
		seeds[0]->running = false;
		say_gone(seeds[0], code);
		assert_int_equal(order_count, 0);
		assert_int_equal(last()->flow_count, 2);
		play();
		expect(1, 9, "release.clean");
	}
}

static void what_a_search_has_cleared_stays_so_when_its_seed_dies(void **state)
{
	hold_many(8);
	evil[8] = true;
	end_run(seeds[0]);
	end_run(seeds[0]); /* twin */
	assert_int_equal(seeds[0]->run, 4);
	end_run(seeds[0]);
	seeds[0]->running = false;
	say_gone(seeds[0], FT_SEED_DIED);
	expect(1, 4, "release.clean");
	assert_int_equal(order_count, 4);
	play();
	expect(5, 7, "release.clean");
	expect(8, 8, "drop.verdict");
}

static void silence_of_a_group_is_no_verdict(void **state)
{
	hold_many(4);
	seeds[0]->running = false;
	scene_pass(&s, 3251 * MS);
	assert_true(seeds[0]->finished);
	assert_int_equal(order_count, 0);
	/* Late words of the seed are nobody's. */
	uint64_t held = held_of(seeds[0]);
	event(seeds[0], FT_EVENT_TRIAL_HANDLED, FT_ROLE_TRIAL, (uint64_t[6]){held, held, 1}, NULL, NULL);
	event(seeds[0], FT_EVENT_TRIAL_ANSWERED, FT_ROLE_TRIAL, (uint64_t[6]){4, 4}, NULL, NULL);
	event(seeds[0], FT_EVENT_TRIAL_END, FT_ROLE_TRIAL, (uint64_t[6]){FT_TRIAL_END_HORIZON, 1, 2, 3, 1}, "", NULL);
	scene_pass(&s, 0);
	assert_int_equal(order_count, 0);
	play();
	expect(1, 4, "release.clean");
}

static void groups_shrink_and_grow_with_what_they_decide(void **state)
{
	unsigned port = 1;
	static const unsigned sizes[] = {8, 4, 2};
	reopen("\"max\": 4, \"source\": 4, \"group\": 8, \"parallel\": 1", ENFORCE);
	for (unsigned round = 0; round < 3; round++) {
		unsigned first = port;
		for (; port < first + 8; port++)
			hold_from(port, port);
		unsigned before = seed_count;
		scene_pass(&s, 3 * MS);
		assert_int_equal(seeds[before]->flow_count, sizes[round]);
		mute[first] = true;
		play();
		expect(first, port - 1, "release.clean");
		mute[first] = false;
	}
	unsigned largest = 0;
	for (unsigned round = 0; round < 20 && port + 8 < PORTS; round++) {
		unsigned first = port, before = seed_count;
		for (; port < first + 8; port++)
			hold_from(port, port);
		scene_pass(&s, 3 * MS);
		play();
		for (unsigned i = before; i < seed_count; i++)
			if (seeds[i]->flow_count > largest)
				largest = seeds[i]->flow_count;
	}
	assert_int_equal(largest, 8);
}

/* ---- members that leave ---- */

static void order_hold(unsigned port, const char *what)
{
	json_t *holds = ft_gate_holds(s.gate), *hold;
	size_t i;
	json_int_t number = 0;
	json_array_foreach(holds, i, hold)
		if (json_integer_value(json_object_get(json_object_get(hold, "flow"), "client_port")) == 40000 + (json_int_t)port)
			number = json_integer_value(json_object_get(hold, "hold"));
	json_decref(holds);
	json_t *message = json_pack("{s:s, s:I}", "what", what, "hold", number);
	struct ft_refusal refusal = {0};
	json_t *result = ft_order(s.gate, message, &refusal);
	assert_non_null(result);
	json_decref(result);
	json_decref(message);
}

static void a_member_that_an_operator_decides_on_leaves_the_others_untried(void **state)
{
	for (unsigned port = 1; port <= 5; port++)
		for (unsigned drop = 0; drop < 2; drop++) {
			reopen(GROUPS, ENFORCE);
			hold_many(5);
			by_policy[port] = true;
			order_hold(port, drop ? "drop" : "release");
			scene_pass(&s, 0);
			assert_string_equal(reason_of(port), drop ? "drop.operator" : "release.operator");
			assert_true(seeds[0]->finished);
			assert_int_equal(order_count, 1);
			/* Nobody believes that run any more. */
			uint64_t held = 20;
			event(seeds[0], FT_EVENT_TRIAL_HANDLED, FT_ROLE_TRIAL, (uint64_t[6]){held, held, 1}, NULL, NULL);
			event(seeds[0], FT_EVENT_TRIAL_ANSWERED, FT_ROLE_TRIAL, (uint64_t[6]){5, 5}, NULL, NULL);
			event(seeds[0], FT_EVENT_TRIAL_END, FT_ROLE_TRIAL, (uint64_t[6]){FT_TRIAL_END_HORIZON, 1, 2, 3, 1}, "",
			      NULL);
			scene_pass(&s, 0);
			assert_int_equal(order_count, 1);
			play();
			for (unsigned other = 1; other <= 5; other++)
				if (other != port)
					assert_string_equal(reason_of(other), "release.clean");
			assert_int_equal(guest_number("dissolved", NULL), 1);
		}
}

static void a_member_whose_time_is_over_leaves(void **state)
{
	reopen(GROUPS, ENFORCE ", \"hold_time\": 600000000");
	hold_many(1);
	hold_from(2, 2);
	scene_pass(&s, 60 * MS);
	hold_from(3, 3);
	scene_pass(&s, 3 * MS);
	assert_int_equal(seed_count, 1); /* keeps the others waiting */
	end_run(seeds[0]);
	scene_pass(&s, 200 * MS);
	struct seed *pair = last();
	assert_int_equal(pair->flow_count, 2);
	scene_pass(&s, 336 * MS);
	assert_string_equal(reason_of(2), "none");
	scene_pass(&s, 2 * MS);
	/* The older one's time is over, the younger one has some left. */
	assert_string_equal(reason_of(2), "drop.timeout");
	assert_true(pair->finished);
	scene_pass(&s, 0);
	assert_int_equal(last()->flow_count, 1);
	play();
	expect(3, 3, "release.clean");
	assert_null(json_object_get(record_of(3), "group"));
}

static void a_bypass_releases_a_group_by_policy(void **state)
{
	hold_many(5);
	for (unsigned port = 1; port <= 5; port++)
		by_policy[port] = true;
	json_t *message = json_pack("{s:s, s:b}", "what", "bypass", "on", 1);
	struct ft_refusal refusal = {0};
	json_t *result = ft_order(s.gate, message, &refusal);
	assert_int_equal(json_integer_value(json_object_get(result, "released")), 5);
	json_decref(result);
	json_decref(message);
	scene_pass(&s, 0);
	expect(1, 5, "release.bypass");
	assert_int_equal(order_count, 5);
	assert_true(seeds[0]->finished);
	play();
	assert_int_equal(seed_count, 1);
}

/* A reset among the frames of a group would be a group that no run took. */
static void resets_of_clients_go_behind_the_group(void **state)
{
	hold_many(4);
	for (unsigned port = 1; port <= 3; port += 2) {
		s.client_port = (uint16_t)(40000 + port);
		s.client_host = port;
		scene_client(&s, 5, 1, FT_TCP_RST | FT_TCP_ACK, "", 0);
	}
	assert_int_equal(order_count, 0);
	play();
	static const unsigned right[] = {1, 2, 3, 4, 1 | RESET, 3 | RESET};
	assert_int_equal(order_count, 6);
	for (unsigned i = 0; i < 6; i++)
		assert_int_equal(order[i], right[i]);
}

static void a_lost_guest_ends_a_group_by_policy(void **state)
{
	hold_many(5);
	ft_gate_guest_down(s.gate, "web", "killed");
	scene_pass(&s, 0);
	expect(1, 5, "drop.error");
	assert_int_equal(order_count, 0);
	assert_int_equal(guest_number("clones", NULL), 0);
	assert_int_equal(guest_number("held_bytes", NULL), 0);
}

static void another_link_ends_a_group_by_policy(void **state)
{
	int ours[FT_LINK_FDS], theirs[FT_LINK_FDS];
	struct ft_error err = {0};
	hold_many(5);
	ft_link_close(&s.vmm);
	assert_int_equal(ft_link_create(theirs, ours, &err), 0);
	assert_int_equal(ft_link_open(&s.vmm, FT_LINK_VMM, ours, &err), 0);
	assert_int_equal(ft_gate_link(s.gate, "web", theirs, &err), 0);
	expect(1, 5, "drop.error");
	/* The new link has numbers of its own, and words about the old ones mean nothing. */
	for (unsigned port = 11; port <= 13; port++)
		hold_from(port, port);
	scene_pass(&s, 3 * MS);
	assert_int_equal(seed_count, 2);
	assert_true(last()->begin.trial > seeds[0]->begin.trial);
	end_run(seeds[0]);
	assert_int_equal(order_count, 0);
	play();
	expect(11, 13, "release.clean");
}

static void a_stop_ends_a_group_by_policy(void **state)
{
	reopen(GROUPS, ENFORCE ", \"on_error\": \"release\"");
	hold_many(5);
	for (unsigned port = 1; port <= 5; port++)
		by_policy[port] = true;
	ft_gate_stop(s.gate);
	scene_pass(&s, 0);
	expect(1, 5, "release.shutdown");
	assert_int_equal(order_count, 5);
}

/* The rules that judge a hold are those in force when it began; a group has one set of them. */
static void a_reload_parts_groups(void **state)
{
	struct ft_rulebook *book = NULL;
	struct ft_error err = {0};
	hold_from(1, 1);
	hold_from(2, 2);
	json_t *config = scene_config(ENFORCE, "", "");
	assert_int_equal(ft_rulebook_new(config, &book, &err), 0);
	assert_int_equal(ft_gate_reload(s.gate, book, &err), 0);
	json_decref(config);
	hold_from(3, 3);
	hold_from(4, 4);
	scene_pass(&s, 3 * MS);
	assert_int_equal(last()->flow_count, 2);
	assert_int_equal(port_of(&last()->flows[0]), 1);
	assert_non_null(s.gate->retired);
	play();
	expect(1, 4, "release.clean");
	assert_int_equal(seed_count, 2);
	assert_int_equal(group_of(3), 2);
	scene_pass(&s, 1000 * MS);
	assert_null(s.gate->retired);
}

/* In the middle of a run: it is judged by the book that it began with. */
static void a_reload_leaves_a_group_as_it_is(void **state)
{
	struct ft_rulebook *book = NULL;
	struct ft_error err = {0};
	hold_many(4);
	evil[3] = true;
	json_t *config = scene_config(ENFORCE, "", "");
	assert_int_equal(ft_rulebook_new(config, &book, &err), 0);
	assert_int_equal(ft_gate_reload(s.gate, book, &err), 0);
	json_decref(config);
	play();
	expect(1, 2, "release.clean");
	expect(3, 3, "drop.verdict");
	expect(4, 4, "release.clean");
	scene_pass(&s, 1000 * MS);
	assert_null(s.gate->retired);
}

/* ---- full rings ---- */

static void fill(struct ft_ring *ring)
{
	uint8_t bytes[8] = {0};
	struct iovec part = {bytes, sizeof(bytes)};
	while (!ft_ring_put(ring, FILLER, &part, 1))
		fillers++;
}

/* Each word of the request meets a ring without room for it, and goes when there is some: none twice, none left out. */
static void a_full_command_ring_repeats_and_forgets_nothing(void **state)
{
	for (unsigned port = 1; port <= 3; port++)
		hold_from(port, port);
	evil[2] = true;
	struct ft_ring *ring = &s.gate->guests[0].link.cmd;
	fill(ring);
	assert_true(fillers > 1000);
	commands_most = 1;
	uint64_t full = ring->full;
	unsigned passes = 0;
	scene_pass(&s, 3 * MS);
	/* Fillers are in the way: the words get in one by one as these get out, and are read when all of these are. */
	while (ring->index - ring->other > 0 && passes < 200) {
		scene_pass(&s, 0);
		passes++;
	}
	assert_true(ring->full - full > 20);
	assert_int_equal(seed_count, 0);
	commands_most = UINT32_MAX;
	scene_pass(&s, 0);
	assert_int_equal(seed_count, 1);
	assert_int_equal(last()->flow_count, 3);
	assert_true(last()->go);
	/* The same for the order of another run, and for the end. */
	fill(ring);
	commands_most = 0;
	end_run(seeds[0]);
	assert_false(seeds[0]->running);
	scene_pass(&s, 0);
	commands_most = UINT32_MAX;
	scene_pass(&s, 0);
	scene_pass(&s, 0);
	assert_true(seeds[0]->running && seeds[0]->twin);
	while (seeds[0]->running) {
		fill(ring);
		commands_most = 0;
		end_run(seeds[0]);
		commands_most = UINT32_MAX;
		scene_pass(&s, 0);
		scene_pass(&s, 0);
	}
	assert_true(seeds[0]->finished);
	play();
	expect(1, 1, "release.clean");
	expect(2, 2, "drop.verdict");
	expect(3, 3, "release.clean");
}

/* A member that leaves before the whole request is said: the vmm hears of its end, and of nothing else. */
static void a_request_that_is_not_all_said_is_ended(void **state)
{
	for (unsigned taken = 1; taken < 80; taken += 6) {
		reopen(GROUPS, ENFORCE);
		for (unsigned port = 1; port <= 3; port++)
			hold_from(port, port);
		struct ft_ring *ring = &s.gate->guests[0].link.cmd;
		fill(ring);
		commands_most = 1;
		scene_pass(&s, 3 * MS);
		for (unsigned i = 0; i < taken; i++)
			scene_pass(&s, 0);
		by_policy[2] = true;
		fill(ring); /* the end does not fit either */
		commands_most = 0;
		order_hold(2, "release");
		scene_pass(&s, 0);
		commands_most = UINT32_MAX;
		for (unsigned i = 0; i < 4; i++)
			scene_pass(&s, 0);
		play();
		expect(1, 1, "release.clean");
		expect(2, 2, "release.operator");
		expect(3, 3, "release.clean");
		unsigned ended = 0;
		for (unsigned i = 0; i < seed_count; i++)
			ended += seeds[i]->finished;
		assert_int_equal(ended, seed_count);
	}
}

/* Small frames do not overtake a large one that does not fit yet. */
static void a_full_receive_ring_does_not_change_the_order(void **state)
{
	uint8_t large[1400];
	memset(large, 'x', sizeof(large));
	memcpy(large, "EVIL", 4);
	connect_from(1, 1);
	send_from(1, 1, large, sizeof(large));
	for (unsigned port = 2; port <= 5; port++)
		hold_from(port, port);
	scene_pass(&s, 3 * MS);
	assert_int_equal(last()->flow_count, 5);
	s.client_port = 40002;
	s.client_host = 2;
	scene_client(&s, 5, 1, FT_TCP_RST | FT_TCP_ACK, "", 0);
	fill(&s.gate->guests[0].link.rx);
	frames_most = 0;
	end_run(seeds[0]);
	frames_most = 15; /* fillers, of 16 bytes */
	scene_pass(&s, 0);
	frames_most = 0;
	for (unsigned i = 0; i < 10; i++) {
		scene_pass(&s, 10 * MS);
		assert_string_equal(reason_of(2), "none");
	}
	frames_most = UINT32_MAX;
	play();
	expect(1, 5, "release.clean");
	assert_int_equal(order_count, 6);
	for (unsigned i = 0; i < 5; i++)
		assert_int_equal(order[i], i + 1);
	assert_int_equal(order[5], 2 | RESET);
}

/* At the end what does not fit is lost, and what was to go behind it with it. */
static void a_stop_with_a_full_ring_releases_no_part_of_a_group_out_of_order(void **state)
{
	uint8_t large[1400];
	memset(large, 'x', sizeof(large));
	memcpy(large, "EVIL", 4);
	reopen(GROUPS, ENFORCE ", \"on_error\": \"release\"");
	hold_from(9, 9); /* waits, and is released by policy when all is over */
	connect_from(1, 1);
	send_from(1, 1, large, sizeof(large));
	connect_from(2, 2);
	send_from(2, 2, "EVIL", 4);
	scene_pass(&s, 3 * MS);
	struct seed *seed = seeds[0];
	assert_int_equal(seed->flow_count, 3);
	hold_from(10, 10);
	scene_pass(&s, 3 * MS);
	fill(&s.gate->guests[0].link.rx);
	frames_most = 0;
	end_run(seed);
	frames_most = 10;
	scene_pass(&s, 0); /* room for the first and the third, not for the second */
	frames_most = 0;
	by_policy[10] = true;
	ft_gate_stop(s.gate);
	frames_most = UINT32_MAX;
	scene_pass(&s, 0);
	assert_string_equal(reason_of(9), "release.clean");
	assert_string_equal(reason_of(1), "drop.ring-full");
	assert_string_equal(reason_of(2), "drop.ring-full");
	assert_false(given_ports[2]);
	giving = NULL;
}

/* ---- who goes with whom ---- */

static void each_address_has_its_turn_in_a_group(void **state)
{
	reopen("\"max\": 4, \"source\": 4, \"group\": 4, \"parallel\": 1", ENFORCE);
	for (unsigned port = 1; port <= 20; port++)
		hold_from(port, 1);
	hold_from(31, 2);
	hold_from(32, 3);
	scene_pass(&s, 3 * MS);
	assert_int_equal(last()->flow_count, 4);
	static const unsigned right[] = {1, 2, 31, 32};
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(port_of(&last()->flows[i]), right[i]);
	play();
	expect(1, 20, "release.clean");
	expect(31, 32, "release.clean");
}

/* Whom a group test points at comes before those that wait longer: it has cost a run already. */
static void who_is_pointed_at_is_the_next_one(void **state)
{
	reopen("\"max\": 4, \"source\": 4, \"group\": 4, \"parallel\": 1", ENFORCE);
	hold_many(9);
	assert_int_equal(seeds[0]->flow_count, 4);
	evil[3] = true;
	while (seed_count == 1)
		end_run(seeds[0]);
	assert_int_equal(seeds[1]->flow_count, 1);
	assert_int_equal(port_of(&seeds[1]->flows[0]), 3);
	play();
	for (unsigned port = 1; port <= 9; port++)
		assert_string_equal(reason_of(port), port == 3 ? "drop.verdict" : "release.clean");
}

static void services_are_not_mixed(void **state)
{
	hold_from(1, 1);
	datagram_from(51);
	hold_from(2, 2);
	datagram_from(52);
	scene_pass(&s, 3 * MS);
	play();
	assert_int_equal(seed_count, 2);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(seeds[i]->flow_count, 2);
		assert_int_equal(seeds[i]->flows[0].protocol, seeds[i]->flows[1].protocol);
	}
}

static void datagrams_are_grouped_as_well(void **state)
{
	for (unsigned port = 51; port <= 55; port++)
		datagram_from(port);
	scene_pass(&s, 3 * MS);
	assert_int_equal(last()->flow_count, 5);
	evil[53] = true;
	play();
	for (unsigned port = 51; port <= 55; port++)
		assert_string_equal(reason_of(port), port == 53 ? "drop.verdict" : "release.clean");
	assert_false(given_ports[53]);
}

static void who_sent_what_is_bad_is_tried_alone_for_a_minute(void **state)
{
	hold_many(1);
	evil[1] = true;
	play();
	expect(1, 1, "drop.verdict");
	for (unsigned minute = 0; minute < 2; minute++) {
		unsigned port = 10 + 10 * minute, before = seed_count;
		hold_from(port, 1);
		hold_from(port + 1, 21);
		hold_from(port + 2, 22);
		hold_from(port + 3, 1);
		scene_pass(&s, 3 * MS);
		play();
		expect(port, port + 3, "release.clean");
		assert_int_equal(seed_count - before, minute ? 1 : 3);
		for (unsigned i = before; i < seed_count && !minute; i++)
			for (unsigned k = 0; k < seeds[i]->flow_count; k++)
				assert_true(seeds[i]->flow_count == 1 ||
					    (port_of(&seeds[i]->flows[k]) != port && port_of(&seeds[i]->flows[k]) != port + 3));
		scene_pass(&s, 60000 * MS);
	}
}

/* What a group shows is nobody's fault until he is tried alone. */
static void a_search_makes_nobody_suspect(void **state)
{
	hold_many(4);
	mute[2] = true;
	play();
	unsigned before = seed_count;
	for (unsigned port = 11; port <= 14; port++)
		hold_from(port, port - 10);
	scene_pass(&s, 3 * MS);
	assert_int_equal(seed_count, before + 1);
	assert_int_equal(last()->flow_count, 4);
}

static void later_bytes_of_a_member_are_the_next_trial(void **state)
{
	hold_many(3);
	s.client_port = 40002;
	s.client_host = 2;
	scene_client(&s, 5, 1, FT_TCP_ACK | FT_TCP_PSH, "more", 4);
	scene_pass(&s, 3 * MS);
	assert_int_equal(seed_count, 1);
	end_run(seeds[0]);
	assert_int_equal(order_count, 3);
	scene_pass(&s, 10 * MS);
	assert_int_equal(seed_count, 2);
	assert_int_equal(last()->flow_count, 1);
	assert_int_equal(last()->flows[0].first_sequence, CLIENT_ISN + 5);
	play();
	assert_int_equal(order_count, 4);
}

/* One that goes back to wait may gather more; the bytes of its next trial are all of them. */
static void a_member_that_waits_again_gathers_on(void **state)
{
	hold_many(3);
	mute[1] = true;
	end_run(seeds[0]); /* 1 is to be tried alone, 2 and 3 wait */
	assert_int_equal(last()->flow_count, 1);
	s.client_port = 40002;
	s.client_host = 2;
	scene_client(&s, 5, 1, FT_TCP_ACK | FT_TCP_PSH, "more", 4);
	play();
	expect(1, 3, "release.clean");
	assert_int_equal(last()->flow_count, 2);
	assert_int_equal(last()->flows[0].bytes, 8);
	assert_int_equal(order_count, 4);
}

static void few_begin_at_a_time_and_the_old_keep_nobody_waiting(void **state)
{
	reopen("\"max\": 4, \"source\": 4, \"group\": 64, \"parallel\": 2", ENFORCE);
	for (unsigned port = 1; port <= 6; port++) {
		hold_from(port, port);
		scene_pass(&s, 3 * MS);
	}
	/* 1 and 2 had a clone each; the rest waits, and is a group when one of these ends. */
	assert_int_equal(seed_count, 2);
	end_run(seeds[0]);
	scene_pass(&s, 40 * MS);
	assert_int_equal(seed_count, 3);
	assert_int_equal(last()->flow_count, 4);
	for (unsigned port = 7; port <= 9; port++)
		hold_from(port, port);
	scene_pass(&s, 3 * MS);
	assert_int_equal(seed_count, 3);
	scene_pass(&s, 180 * MS);
	assert_int_equal(seed_count, 3);
	say_gone(seeds[0], FT_SEED_FINISHED);
	assert_int_equal(seed_count, 3);
	scene_pass(&s, 50 * MS); /* 2 is no longer young */
	assert_int_equal(seed_count, 4);
	assert_int_equal(last()->flow_count, 3);
	/* The hard limit stays: 4 clones. */
	hold_from(10, 10);
	scene_pass(&s, 300 * MS);
	assert_int_equal(seed_count, 5);
	hold_from(11, 11);
	scene_pass(&s, 300 * MS);
	assert_int_equal(seed_count, 5);
	play();
	expect(1, 11, "release.clean");
}

/* Each trial costs the same, however many are in it: while they come one after the other, the next one waits for company. */
static void clones_rest_while_a_group_grows(void **state)
{
	reopen("\"max\": 4, \"source\": 4, \"group\": 4, \"parallel\": 2", ENFORCE);
	hold_from(1, 1);
	scene_pass(&s, 3 * MS);
	assert_int_equal(seed_count, 1); /* nobody knows yet what a trial takes */
	scene_pass(&s, 97 * MS);
	end_run(seeds[0]); /* about 100 ms */
	/* Two that wait have a rest of as long before them, counted from there. */
	hold_from(2, 2);
	hold_from(3, 3);
	scene_pass(&s, 80 * MS);
	assert_int_equal(seed_count, 1);
	scene_pass(&s, 30 * MS);
	assert_int_equal(seed_count, 2);
	assert_int_equal(last()->flow_count, 2);
	/* One alone may go when the one before has had its time; what is full, at once. */
	hold_from(4, 4);
	scene_pass(&s, 80 * MS);
	assert_int_equal(seed_count, 2);
	for (unsigned port = 5; port <= 7; port++)
		hold_from(port, port);
	scene_pass(&s, 3 * MS);
	assert_int_equal(seed_count, 3);
	assert_int_equal(last()->flow_count, 4);
	end_run(seeds[1]);
	end_run(seeds[2]);
	hold_from(8, 8);
	scene_pass(&s, 50 * MS);
	assert_int_equal(seed_count, 3);
	scene_pass(&s, 90 * MS);
	assert_int_equal(seed_count, 4);
	play();
	/* After a quiet time nobody waits. */
	scene_pass(&s, 1000 * MS);
	hold_from(9, 9);
	scene_pass(&s, 3 * MS);
	assert_int_equal(seed_count, 5);
	play();
	expect(1, 9, "release.clean");
}

static void a_group_counts_as_a_clone_of_each_address_in_it(void **state)
{
	reopen("\"max\": 3, \"source\": 1, \"group\": 64, \"parallel\": 32", ENFORCE);
	for (unsigned port = 1; port <= 3; port++)
		hold_from(port, port);
	scene_pass(&s, 3 * MS);
	hold_from(11, 1);
	hold_from(12, 2);
	hold_from(13, 7);
	scene_pass(&s, 3 * MS);
	assert_int_equal(seed_count, 2);
	assert_int_equal(last()->flow_count, 1);
	assert_int_equal(port_of(&last()->flows[0]), 13);
	play();
	expect(1, 3, "release.clean");
	expect(11, 13, "release.clean");
	assert_int_equal(seed_count, 3);
}

static void a_group_is_as_large_as_a_request_may_be(void **state)
{
	reopen("\"max\": 4, \"source\": 4, \"group\": 128, \"parallel\": 1", ENFORCE);
	for (unsigned port = 1; port <= 140; port++)
		hold_from(port, port);
	scene_pass(&s, 3 * MS);
	assert_int_equal(last()->flow_count, 128);
	play();
	expect(1, 140, "release.clean");
	assert_int_equal(seed_count, 2);
}

static void a_group_has_no_more_frames_than_a_request(void **state)
{
	for (unsigned port = 1; port <= 5; port++) {
		connect_from(port, port);
		send_from(port, port, "EVIL", 4);
		for (unsigned i = 0; i < 299; i++)
			scene_client(&s, 5 + i, 1, FT_TCP_ACK, "x", 1);
	}
	scene_pass(&s, 60 * MS);
	assert_int_equal(last()->flow_count, 3);
	assert_int_equal(last()->frame_count, 900);
	play();
	expect(1, 5, "release.clean");
	assert_int_equal(seed_count, 2);
}

static void who_only_observes_is_tried_alone(void **state)
{
	reopen("\"max\": 4, \"source\": 4, \"group\": 64, \"parallel\": 1", "\"risks\": \"none\", \"mode\": \"observe\"");
	for (unsigned port = 1; port <= 3; port++) {
		by_policy[port] = true;
		hold_from(port, port);
	}
	assert_int_equal(seed_count, 3);
	/* And they keep nobody else waiting. */
	datagram_from(51);
	scene_pass(&s, 3 * MS);
	assert_int_equal(seed_count, 4);
	play();
	expect(51, 51, "release.clean");
}

/* [PATTERN]: of the tests' names, as cmocka matches them. */
int main(int argc, char **argv)
{
#define T(name) cmocka_unit_test_setup_teardown(name, open_groups, close_groups)
	const struct CMUnitTest tests[] = {
	    T(a_clean_group_is_released_in_its_order),
	    T(one_that_waits_alone_is_no_group),
	    T(a_group_of_one_is_none),
	    T(one_bad_input_is_found_wherever_it_is),
	    T(two_bad_inputs_are_found),
	    T(what_is_bad_after_another_is_found),
	    T(what_only_a_group_shows_costs_nobody_anything),
	    T(who_gets_no_answer_is_tried_alone),
	    T(who_has_not_received_everything_is_tried_alone),
	    T(a_server_that_handles_the_first_alone_clears_the_first_alone),
	    T(bytes_that_a_group_did_not_take_clear_nobody),
	    T(a_lie_about_how_much_a_group_took_clears_nobody),
	    T(answers_have_to_be_about_the_run),
	    T(answers_of_a_run_are_not_those_of_the_next),
	    T(a_group_out_of_its_budget_is_tried_in_smaller_ones),
	    T(one_that_uses_up_the_time_alone_has_its_policy),
	    T(a_seed_that_dies_decides_nothing_about_a_group),
	    T(what_a_search_has_cleared_stays_so_when_its_seed_dies),
	    T(silence_of_a_group_is_no_verdict),
	    T(groups_shrink_and_grow_with_what_they_decide),
	    T(a_member_that_an_operator_decides_on_leaves_the_others_untried),
	    T(a_member_whose_time_is_over_leaves),
	    T(a_bypass_releases_a_group_by_policy),
	    T(resets_of_clients_go_behind_the_group),
	    T(a_lost_guest_ends_a_group_by_policy),
	    T(another_link_ends_a_group_by_policy),
	    T(a_stop_ends_a_group_by_policy),
	    T(a_reload_parts_groups),
	    T(a_reload_leaves_a_group_as_it_is),
	    T(a_full_command_ring_repeats_and_forgets_nothing),
	    T(a_request_that_is_not_all_said_is_ended),
	    T(a_full_receive_ring_does_not_change_the_order),
	    T(a_stop_with_a_full_ring_releases_no_part_of_a_group_out_of_order),
	    T(each_address_has_its_turn_in_a_group),
	    T(who_is_pointed_at_is_the_next_one),
	    T(services_are_not_mixed),
	    T(datagrams_are_grouped_as_well),
	    T(who_sent_what_is_bad_is_tried_alone_for_a_minute),
	    T(a_search_makes_nobody_suspect),
	    T(later_bytes_of_a_member_are_the_next_trial),
	    T(a_member_that_waits_again_gathers_on),
	    T(few_begin_at_a_time_and_the_old_keep_nobody_waiting),
	    T(clones_rest_while_a_group_grows),
	    T(a_group_counts_as_a_clone_of_each_address_in_it),
	    T(a_group_is_as_large_as_a_request_may_be),
	    T(a_group_has_no_more_frames_than_a_request),
	    T(who_only_observes_is_tried_alone),
	};
	if (scene_start_eal())
		return 1;
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
