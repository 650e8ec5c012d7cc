#include "dataplane/canary.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "dataplane/gate-t.h"
#include "dataplane/hold.h"
#include "dataplane/neighbour.h"

#define AGAIN_NS    1000000000ull  /* until a call without an answer is sent again */
#define SOON_NS     5000000000ull  /* until the next test after one that did not pass */
#define LOOK_NS     1000000000ull  /* while there is nothing to test */
#define GRACE_NS    10000000000ull /* after everything that bounds a hold */
#define FIRST_PORT  1024u
#define TCP_MSS_LEN 4u
#define UDP_LENGTH  8u
#define TYPE_IPV4   0x0800u
#define TYPE_IPV6   0x86ddu
#define IP_MOST     40u
#define FRAME_MOST  (FT_FRAME_HEADER + IP_MOST + 20u + TCP_MSS_LEN + FT_CANARY_INPUT)

static const uint8_t own_mac[6] = {0x02, 'c', 'a', 'n', 'r', 'y'}; /* locally administered */

/* ---- Making ----------------------------------------------------------------------------------------------------- */

json_t *ft_canary_pattern(struct ft_canary *canary, const json_t *config)
{
	json_int_t every = json_integer_value(json_object_get(json_object_get(config, "canary"), "every"));
	uint8_t secret[16];
	if (every <= 0 || getrandom(secret, sizeof(secret), 0) != sizeof(secret))
		return NULL;
	canary->every_ns = (uint64_t)every;
	size_t at = (size_t)snprintf(canary->token, sizeof(canary->token), "foretaste-canary-");
	for (size_t i = 0; i < sizeof(secret); i++)
		at += (size_t)snprintf(canary->token + at, sizeof(canary->token) - at, "%02x", secret[i]);
	return json_pack("{s:i, s:s, s:s, s:i, s:s}", "sid", (int)FT_CANARY_SID, "name", "canary", "text",
			 "input of the gateway's self-test", "severity", 3, "pattern", canary->token);
}

static bool load_address(const json_t *json, struct ft_address *address)
{
	struct in_addr in;
	const char *text = json_string_value(json);
	if (!text || inet_pton(AF_INET, text, &in) != 1)
		return false;
	*address = ft_address_v4(&in);
	return true;
}

static bool load_address6(const json_t *json, struct ft_address *address)
{
	struct in6_addr in;
	const char *text = json_string_value(json);
	if (!text || inet_pton(AF_INET6, text, &in) != 1 || IN6_IS_ADDR_UNSPECIFIED(&in) || IN6_IS_ADDR_MULTICAST(&in) ||
	    IN6_IS_ADDR_V4MAPPED(&in))
		return false;
	*address = ft_address_v6(&in);
	return true;
}

static int load_addresses(struct ft_canary_test *test, const json_t *guest, const char *name, struct ft_error *err)
{
	const json_t *client6 = json_object_get(guest, "canary6");
	if (!load_address(json_object_get(guest, "canary"), &test->client))
		return ft_error_set(err, -EINVAL, "guest %s: canary: no IPv4 address", name);
	if (!load_address(json_object_get(guest, "address"), &test->server) || ft_address_same(&test->server, &test->client))
		return ft_error_set(err, -EINVAL, "guest %s: address: no IPv4 address, or that of canary", name);
	test->guest->canary = test->client;
	test->guest->has_canary = true;
	if (!client6)
		return 0;
	if (!load_address6(client6, &test->client6))
		return ft_error_set(err, -EINVAL, "guest %s: canary6: no IPv6 address of a host", name);
	if (!load_address6(json_object_get(guest, "address6"), &test->server6) ||
	    ft_address_same(&test->server6, &test->client6))
		return ft_error_set(err, -EINVAL, "guest %s: address6: no IPv6 address of a host, or that of canary6", name);
	test->six = test->guest->has_canary6 = true;
	test->guest->canary6 = test->client6;
	return 0;
}

static int open_test(struct ft_gate *gate, struct ft_canary_test *test, const struct ft_service *service,
		     const json_t *config, struct ft_error *err)
{
	const json_t *own = json_object_get(json_object_get(config, "services"), service->name);
	const char *attack = json_string_value(json_object_get(own, "canary_attack"));
	if (attack && (!*attack || strlen(attack) > FT_CANARY_INPUT))
		return ft_error_set(err, -EINVAL, "service %s: canary_attack: not between 1 and %u bytes", service->name,
				    FT_CANARY_INPUT);
	test->service = service;
	test->guest = &gate->guests[service->guest_index];
	int error = load_addresses(test, json_object_get(json_object_get(config, "guests"), service->guest), service->guest, err);
	if (error)
		return error;
	test->as = *service;
	test->as.mode = test->as.acting = FT_MODE_ENFORCE;
	test->as.canary = test;
	test->as.tally = calloc(1, sizeof(*test->as.tally));
	test->attack = attack ? strdup(attack) : NULL;
	if (!test->as.tally || (attack && !test->attack))
		return -ENOMEM;
	test->last = FT_CANARY_RESULT_COUNT;
	/* Not where an earlier process left off: the guest may still have its connections. */
	if (getrandom(&test->port, sizeof(test->port), GRND_NONBLOCK) != sizeof(test->port))
		test->port = 0;
	return 0;
}

int ft_canary_open(struct ft_gate *gate, const json_t *config, struct ft_error *err)
{
	struct ft_canary *canary = &gate->canary;
	canary->due = canary->every_ns ? 0 : UINT64_MAX;
	if (!canary->every_ns)
		return 0;
	canary->tests = calloc(gate->services.count + 1, sizeof(*canary->tests));
	if (!canary->tests)
		return ft_error_set(err, -ENOMEM, "no memory for the self-test");
	for (size_t i = 0; i < gate->services.count; i++) {
		const struct ft_service *service = &gate->services.list[i];
		const char *wanted = json_string_value(json_object_get(
		    json_object_get(json_object_get(config, "services"), service->name), "canary"));
		/* A guest that has no MAC gets every frame, so it is not known under which one it would take ours. */
		if ((wanted && !strcmp(wanted, "off")) || gate->guests[service->guest_index].any_mac)
			continue;
		int error = open_test(gate, &canary->tests[canary->count++], service, config, err);
		if (error)
			return error;
	}
	return 0;
}

void ft_canary_reopen(struct ft_gate *gate, const struct ft_canary *old, const json_t *config)
{
	struct ft_error err = {0};
	if (ft_canary_open(gate, config, &err))
		ft_gate_log(gate, "error", "the self-test does not go on: %s", err.text);
	for (size_t i = 0; i < gate->canary.count; i++)
		for (size_t k = 0; k < old->count; k++) {
			struct ft_canary_test *test = &gate->canary.tests[i];
			const struct ft_canary_test *before = &old->tests[k];
			if (strcmp(test->service->name, before->service->name))
				continue;
			/* One that was under way ends unheard: the next one begins at once. */
			test->due = before->phase == FT_CANARY_IDLE ? before->due : 0;
			test->last = before->last;
			test->port = before->port;
		}
}

void ft_canary_close(struct ft_canary *canary)
{
	for (size_t i = 0; i < canary->count; i++) {
		free(canary->tests[i].as.tally);
		free(canary->tests[i].attack);
	}
	free(canary->tests);
	*canary = (struct ft_canary){.due = UINT64_MAX};
}

/* ---- Its frames ------------------------------------------------------------------------------------------------- */

/* Is this connection over IPv6? */
static bool over_six(const struct ft_canary_test *test)
{
	return test->step & FT_CANARY_SIX;
}

static const struct ft_address *client_of(const struct ft_canary_test *test)
{
	return over_six(test) ? &test->client6 : &test->client;
}

static const struct ft_address *server_of(const struct ft_canary_test *test)
{
	return over_six(test) ? &test->server6 : &test->server;
}

static size_t ip_length(const struct ft_canary_test *test)
{
	return over_six(test) ? 40 : 20;
}

/* A whole frame (4 bytes are free in front of it) comes as if from the guest's uplink. */
static void arrive(struct ft_gate *gate, struct ft_canary_test *test, uint8_t *data, size_t all)
{
	uint16_t vlan = test->guest->vlan;
	if (vlan != FT_FDB_UNTAGGED && vlan != FT_FDB_TRUNK)
		data = ft_fdb_tag(data, &all, vlan);
	gate->canary.injecting = test;
	ft_gate_wire(gate, test->guest->uplink, data, all);
	gate->canary.injecting = NULL;
}

static void put_ip(const struct ft_canary_test *test, size_t length, uint8_t *ip)
{
	bool six = over_six(test);
	if (six) {
		ip[0] = 0x60;
		ft_store16(ip + 4, (uint16_t)length);
		ip[6] = test->service->protocol;
		ip[7] = 64;
	} else {
		ip[0] = 0x45;
		ft_store16(ip + 2, (uint16_t)(20 + length));
		ft_store16(ip + 6, 0x4000); /* do not fragment: and so no identification is needed (RFC 6864) */
		ip[8] = 64;
		ip[9] = test->service->protocol;
	}
	memcpy(ip + (six ? 8 : 12), client_of(test)->bytes + (six ? 0 : 12), six ? 16 : 4);
	memcpy(ip + (six ? 24 : 16), server_of(test)->bytes + (six ? 0 : 12), six ? 16 : 4);
}

/* A packet whose transport header, of this length, is filled in behind ip_length() bytes but for ports and checksum. */
static void inject(struct ft_gate *gate, struct ft_canary_test *test, uint8_t *data, size_t header, const void *payload,
		   size_t length)
{
	size_t l4 = FT_FRAME_HEADER + ip_length(test), all = l4 + header + length;
	memcpy(data, test->guest->mac, 6);
	memcpy(data + 6, own_mac, 6);
	ft_store16(data + 12, over_six(test) ? TYPE_IPV6 : TYPE_IPV4);
	put_ip(test, header + length, data + FT_FRAME_HEADER);
	ft_store16(data + l4, test->port);
	ft_store16(data + l4 + 2, test->service->port);
	if (length)
		memcpy(data + l4 + header, payload, length);
	struct ft_frame frame = {.data = data,
				 .length = (uint32_t)all,
				 .kind = over_six(test) ? FT_FRAME_IPV6 : FT_FRAME_IPV4,
				 .transport = true,
				 .protocol = test->service->protocol,
				 .ip = FT_FRAME_HEADER,
				 .l4 = (uint16_t)l4,
				 .payload = (uint32_t)(all - length),
				 .payload_length = (uint32_t)length};
	ft_frame_seal(&frame, data);
	arrive(gate, test, data, all);
}

static void send_segment(struct ft_gate *gate, struct ft_canary_test *test, unsigned flags, const void *payload, size_t length)
{
	uint8_t room[4 + FRAME_MOST] = {0}, *tcp = room + 4 + FT_FRAME_HEADER + ip_length(test);
	size_t options = flags & FT_TCP_SYN ? TCP_MSS_LEN : 0, header = 20 + options;
	ft_store32(tcp + 4, test->isn + !(flags & FT_TCP_SYN));
	ft_store32(tcp + 8, flags & FT_TCP_ACK ? test->guest_isn + 1 : 0);
	tcp[12] = (uint8_t)(header << 2);
	tcp[13] = (uint8_t)flags;
	ft_store16(tcp + 14, 0xffff);
	if (options) {
		tcp[20] = 2;
		tcp[21] = 4;
		ft_store16(tcp + 22, over_six(test) ? 1440 : 1460);
	}
	inject(gate, test, room + 4, header, payload, length);
}

static void send_datagram(struct ft_gate *gate, struct ft_canary_test *test, const void *payload, size_t length)
{
	uint8_t room[4 + FRAME_MOST] = {0};
	ft_store16(room + 4 + FT_FRAME_HEADER + ip_length(test) + 4, (uint16_t)(UDP_LENGTH + length));
	inject(gate, test, room + 4, UDP_LENGTH, payload, length);
}

/* Asks the guest for its own link address: who answers is there, though a datagram would have no answer. */
static void ask(struct ft_gate *gate, struct ft_canary_test *test)
{
	uint8_t room[4 + FT_NEIGHBOUR_LENGTH];
	const struct ft_neighbour question = {.about = *server_of(test), .from = *client_of(test)};
	arrive(gate, test, room + 4, ft_neighbour_make(&question, own_mac, test->guest->mac, room + 4));
}

static bool is_udp(const struct ft_canary_test *test)
{
	return test->service->protocol == IPPROTO_UDP;
}

/* What the guest answers, where it is alive: a SYN, or, where the service itself has no handshake, a question for its address. */
static void call(struct ft_gate *gate, struct ft_canary_test *test)
{
	test->again = gate->now + AGAIN_NS;
	if (is_udp(test))
		ask(gate, test);
	else
		send_segment(gate, test, FT_TCP_SYN, NULL, 0);
}

const struct ft_service *ft_canary_service(const struct ft_gate *gate, const struct ft_service *service)
{
	const struct ft_canary_test *test = gate->canary.injecting;
	return test && test->service == service ? &test->as : service;
}

/* Each frame is asked, so this is no search. */
static bool is_reserved(const struct ft_guest *guest, const struct ft_address *address)
{
	return (guest->has_canary && ft_address_same(&guest->canary, address)) ||
	       (guest->has_canary6 && ft_address_same(&guest->canary6, address));
}

static bool is_ip(const struct ft_frame *frame)
{
	return frame->kind == FT_FRAME_IPV4 || frame->kind == FT_FRAME_IPV6;
}

bool ft_canary_is_forged(const struct ft_gate *gate, const struct ft_guest *guest, const struct ft_frame *frame)
{
	return is_ip(frame) && is_reserved(guest, &frame->source) && !gate->canary.injecting;
}

/* ---- What the guest sends to it --------------------------------------------------------------------------------- */

/* The guest says where it is: it answers. */
static void hear_where(struct ft_gate *gate, const struct ft_guest *guest, const struct ft_address *about)
{
	for (size_t i = 0; i < gate->canary.count; i++) {
		struct ft_canary_test *test = &gate->canary.tests[i];
		if (test->guest != guest || !is_udp(test) || test->phase != FT_CANARY_CONNECT || !ft_address_same(about, server_of(test)))
			continue;
		test->answered = true;
		gate->canary.due = 0;
	}
}

/* "Who has the reserved address?" gets its answer from us, and what it gets as an answer is for us. */
static bool takes_neighbour(struct ft_gate *gate, struct ft_guest *guest, const struct ft_frame *frame)
{
	struct ft_neighbour said;
	if (!ft_neighbour_read(frame, &said) || !is_reserved(guest, said.answer ? &said.to : &said.about))
		return false;
	if (said.answer) {
		ft_gate_note(gate, FT_REASON_DROP_CANARY);
		hear_where(gate, guest, &said.about);
		return true;
	}
	uint8_t answer[FT_NEIGHBOUR_LENGTH];
	const struct ft_neighbour say = {.answer = true, .about = said.about, .from = said.about, .to = said.from};
	ft_gate_deliver(gate, guest, answer, ft_neighbour_make(&say, own_mac, frame->data + 6, answer));
	return true;
}

static void hear(struct ft_gate *gate, struct ft_canary_test *test, const struct ft_frame *frame)
{
	const unsigned both = FT_TCP_SYN | FT_TCP_ACK;
	if (test->phase != FT_CANARY_CONNECT || frame->acknowledgement != test->isn + 1)
		return;
	if (frame->flags & FT_TCP_RST) {
		test->refused = true;
	} else if ((frame->flags & both) == both) {
		test->guest_isn = frame->sequence;
		test->answered = true;
	}
	gate->canary.due = 0;
}

bool ft_canary_takes(struct ft_gate *gate, struct ft_guest *guest, const struct ft_frame *frame)
{
	if (!guest->has_canary)
		return false;
	if (takes_neighbour(gate, guest, frame))
		return true;
	if (!is_ip(frame) || !is_reserved(guest, &frame->destination))
		return false;
	ft_gate_note(gate, FT_REASON_DROP_CANARY);
	for (size_t i = 0; i < gate->canary.count && frame->transport && frame->protocol == IPPROTO_TCP; i++) {
		struct ft_canary_test *test = &gate->canary.tests[i];
		if (test->guest == guest && test->service->port == frame->source_port &&
		    test->port == frame->destination_port && ft_address_same(&frame->destination, client_of(test)))
			hear(gate, test, frame);
	}
	return true;
}

/* ---- A test ----------------------------------------------------------------------------------------------------- */

static void tell(struct ft_gate *gate, const struct ft_canary_test *test, enum ft_canary_result result, const char *why)
{
	if (!gate->outlet.canary)
		return;
	json_t *message = json_pack("{s:s, s:s, s:s, s:I}", "service", test->service->name, "result", ft_canary_results[result], "why",
				    why, "took_ns", (json_int_t)(gate->now - test->began));
	if (message)
		gate->outlet.canary(gate->outlet.context, message);
	json_decref(message);
}

static void finish(struct ft_gate *gate, struct ft_canary_test *test, enum ft_canary_result result, const char *format,
		   ...) __attribute__((format(printf, 4, 5)));

static void finish(struct ft_gate *gate, struct ft_canary_test *test, enum ft_canary_result result, const char *format,
		   ...)
{
	char why[256];
	int at = snprintf(why, sizeof(why), "%s", over_six(test) && *format ? "over IPv6: " : "");
	va_list args;
	va_start(args, format);
	vsnprintf(why + at, sizeof(why) - (size_t)at, format, args);
	va_end(args);
	uint64_t every = gate->canary.every_ns;
	test->phase = FT_CANARY_IDLE;
	test->step = 0;
	test->due = gate->now + (result == FT_CANARY_OK || every < SOON_NS ? every : SOON_NS);
	gate->canary.due = 0;
	test->last = result;
	tell(gate, test, result, why);
}

static struct ft_flow *flow_of(const struct ft_gate *gate, const struct ft_canary_test *test)
{
	struct ft_flow_key key = {.client = *client_of(test),
				  .server = *server_of(test),
				  .client_port = test->port,
				  .server_port = test->service->port,
				  .protocol = test->service->protocol,
				  .guest = test->guest->index};
	return ft_flows_find(gate->flows, &key);
}

static bool is_attacking(const struct ft_canary_test *test)
{
	return test->step & FT_CANARY_ATTACKING;
}

/* Goes on to the next connection of the test; false: that was all. */
static bool next_step(struct ft_canary_test *test)
{
	do
		test->step++;
	while ((is_attacking(test) && !test->attack) || (over_six(test) && !test->six));
	return test->step < FT_CANARY_STEPS;
}

static void connect_again(struct ft_gate *gate, struct ft_canary_test *test)
{
	if (getrandom(&test->isn, sizeof(test->isn), GRND_NONBLOCK) != sizeof(test->isn))
		test->isn = (uint32_t)gate->now;
	test->port = test->port < FIRST_PORT || test->port == UINT16_MAX ? FIRST_PORT : (uint16_t)(test->port + 1);
	test->answered = test->refused = false;
	test->wrong[0] = 0;
	test->phase = FT_CANARY_CONNECT;
	test->deadline = gate->now + gate->budgets.wall_ns;
	call(gate, test);
}

/* Anything to test? Only changes are told. */
static bool is_wanted(struct ft_gate *gate, struct ft_canary_test *test)
{
	enum ft_service_mode mode = test->service->acting;
	enum ft_canary_result result = !test->guest->up ? FT_CANARY_DOWN : FT_CANARY_OFF;
	if (test->guest->up && (mode == FT_MODE_ENFORCE || mode == FT_MODE_SHADOW))
		return true;
	if (test->last != result) {
		test->began = gate->now;
		tell(gate, test, result, result == FT_CANARY_DOWN ? "the guest is down" : "the service holds nothing");
	}
	test->last = result;
	test->step = 0;
	test->due = gate->now + LOOK_NS;
	return false;
}

/* The way from the pattern matcher to the hold. */
static void check_hold(struct ft_gate *gate, struct ft_canary_test *test)
{
	struct ft_flow *flow = flow_of(gate, test);
	const struct ft_hold *hold = flow ? flow->hold : NULL;
	if (!hold) {
		/* Whatever it was, the guest shall not keep the connection. */
		if (flow && !flow->dead)
			ft_flow_kill(gate, flow);
		finish(gate, test, FT_CANARY_FAILED, "its input was not held");
		return;
	}
	const struct ft_pattern *pattern = hold->trigger.pattern;
	if (!is_attacking(test) && test->as.screen && (!pattern || pattern->sid != FT_CANARY_SID))
		snprintf(test->wrong, sizeof(test->wrong), "the patterns did not find its input");
	test->phase = FT_CANARY_HELD;
	test->deadline = gate->now + test->as.quotas.hold_time_ns + 2 * gate->budgets.wall_ns + GRACE_NS;
}

static void send_input(struct ft_gate *gate, struct ft_canary_test *test)
{
	char text[128];
	size_t length = (size_t)snprintf(text, sizeof(text), "%s\r\n\r\n", gate->canary.token);
	const char *input = is_attacking(test) ? test->attack : text;
	if (is_attacking(test))
		length = strlen(input);
	if (is_udp(test)) {
		send_datagram(gate, test, input, length);
	} else {
		send_segment(gate, test, FT_TCP_ACK, NULL, 0);
		send_segment(gate, test, FT_TCP_ACK | FT_TCP_PSH, input, length);
	}
	if (test->phase == FT_CANARY_CONNECT)
		check_hold(gate, test);
}

static void tick(struct ft_gate *gate, struct ft_canary_test *test)
{
	if (test->phase == FT_CANARY_IDLE) {
		if (gate->now < test->due || !is_wanted(gate, test))
			return;
		if (!test->step)
			test->began = gate->now;
		connect_again(gate, test);
	} else if (!test->guest->up) {
		finish(gate, test, FT_CANARY_DOWN, "the guest went down");
	} else if (test->phase == FT_CANARY_HELD) {
		if (gate->now >= test->deadline)
			finish(gate, test, FT_CANARY_FAILED, "no decision about its input came");
	} else if (test->answered) {
		send_input(gate, test);
	} else if (test->refused) {
		finish(gate, test, FT_CANARY_REFUSED, "nobody listens in the guest");
	} else if (gate->now >= test->deadline) {
		finish(gate, test, FT_CANARY_SILENT, "the guest does not answer it");
	} else if (gate->now >= test->again) {
		call(gate, test);
	}
}

static uint64_t due_of(const struct ft_canary_test *test)
{
	if (test->phase == FT_CANARY_IDLE)
		return test->due;
	return test->phase == FT_CANARY_CONNECT && test->again < test->deadline ? test->again : test->deadline;
}

void ft_canary_tick(struct ft_gate *gate)
{
	struct ft_canary *canary = &gate->canary;
	canary->due = UINT64_MAX;
	for (size_t i = 0; i < canary->count; i++) {
		struct ft_canary_test *test = &canary->tests[i];
		struct ft_guest *about = gate->about;
		gate->about = test->guest;
		tick(gate, test);
		gate->about = about;
		if (due_of(test) < canary->due)
			canary->due = due_of(test);
	}
}

void ft_canary_judged(struct ft_gate *gate, const struct ft_hold *hold)
{
	struct ft_canary_test *test = hold->flow->service->canary;
	struct ft_judgement judgement;
	ft_case_judge(hold->trial, &judgement);
	/* The end of an older one, of which nothing was expected any more. */
	if (test->phase != FT_CANARY_HELD || test->port != hold->flow->key.client_port)
		return;
	bool objected = judgement.verdict == FT_VERDICT_MALICIOUS || judgement.verdict == FT_VERDICT_SUSPICIOUS;
	if (*test->wrong)
		finish(gate, test, FT_CANARY_FAILED, "%s", test->wrong);
	else if (is_attacking(test) ? objected : judgement.verdict == FT_VERDICT_CLEAN) {
		if (next_step(test)) {
			/* In the next tick: the reset of this connection is still to come. */
			test->phase = FT_CANARY_IDLE;
			test->due = 0;
		} else {
			finish(gate, test, FT_CANARY_OK, "%s", "");
		}
		gate->canary.due = 0;
	} else if (hold->exception == FT_EXCEPTION_OVERLOAD)
		finish(gate, test, FT_CANARY_BUSY, "no clone was free for it: %s", judgement.text);
	else
		finish(gate, test, FT_CANARY_FAILED, "%s was judged %s: %s", is_attacking(test) ? "its attack" : "its harmless input",
		       ft_verdict_name(judgement.verdict), judgement.text);
}
