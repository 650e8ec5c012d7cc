/* The self-test, seen from both sides: what the guest gets of it, and what it makes of everything that can be wrong. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "dataplane/canary.h"
#include "dataplane/gate-t.h"
#include "dataplane/neighbour.h"
#include "dataplane/order.h"
#include "dataplane/reload.h"
#include "scene.h"

#define HOST  191u /* 10.0.2.200 and fd00:2::a00:2c8, from the client's address */
#define EVERY (1000 * MS)

static struct scene s;

static void open_scene(const char *service)
{
	scene_guest_keys = ", \"canary\": \"10.0.2.200\"";
	scene_keys = ", \"canary\": {\"every\": 1000000000}";
	scene_open(&s, service);
	s.client_host = HOST;
}

static void open_both(const char *service, const char *services)
{
	scene_guest_keys = ", \"canary\": \"10.0.2.200\", \"address6\": \"fd00:2::a00:20f\", \"canary6\": \"fd00:2::a00:2c8\"";
	scene_keys = ", \"canary\": {\"every\": 1000000000}";
	scene_open_with(&s, service, "", services);
	s.client_host = HOST;
}

/* The last result, "none" when there is none. */
static const char *result(void)
{
	const json_t *last = json_array_get(s.canary, json_array_size(s.canary) - 1);
	const char *text = json_string_value(json_object_get(last, "result"));
	return text ? text : "none";
}

static const char *why(void)
{
	const json_t *last = json_array_get(s.canary, json_array_size(s.canary) - 1);
	return json_string_value(json_object_get(last, "why"));
}

/* The frame that the guest got last with these flags; NULL: none. */
static const struct ft_frame *got(unsigned flags)
{
	for (unsigned i = s.guest_count; i-- > 0;)
		if (s.to_guest[i].frame.transport && s.to_guest[i].frame.flags == flags)
			return &s.to_guest[i].frame;
	return NULL;
}

/* Its SYN is there; the guest's side of the connection is the scene's from now on. */
static uint32_t connection(void)
{
	const struct ft_frame *syn = got(FT_TCP_SYN);
	assert_non_null(syn);
	assert_int_equal(syn->source.bytes[15], 200);
	assert_int_equal(syn->destination_port, 80);
	assert_int_equal(ft_frame_checksum(syn), FT_CHECKSUM_GOOD);
	s.client_port = syn->source_port;
	return syn->sequence + 1 - CLIENT_ISN;
}

/* Up to the request for a trial. */
static void until_tried(void)
{
	unsigned requests = s.requests;
	scene_pass(&s, 0);
	uint32_t next = connection();
	scene_guest(&s, 0, next, FT_TCP_SYN | FT_TCP_ACK, NULL, 0);
	scene_pass(&s, 0);
	assert_non_null(got(FT_TCP_ACK)); /* the handshake is over before the fork */
	scene_pass(&s, 10 * MS);
	assert_int_equal(s.requests, requests + 1);
}

static void nobody_else_noticed(void)
{
	assert_int_equal(s.client_count, 0);
	assert_string_equal(scene_taken(&s), "");
	for (unsigned i = 0; i < s.guest_count; i++)
		assert_int_equal(s.to_guest[i].frame.transport ? s.to_guest[i].frame.payload_length : 0, 0);
	assert_null(scene_record(&s, "hold"));
	assert_null(scene_record(&s, "packets"));
	json_t *holds = ft_gate_holds(s.gate), *status = ft_gate_status(s.gate, false);
	assert_int_equal(json_array_size(holds), 0);
	assert_int_equal(json_integer_value(json_object_get(status, "holds")), 0);
	json_t *service = json_object_get(json_object_get(status, "services"), "web");
	assert_int_equal(json_integer_value(json_object_get(service, "holds")), 0);
	assert_int_equal(json_integer_value(json_object_get(json_object_get(service, "dispositions"), "dropped")), 0);
	json_decref(holds);
	json_decref(status);
}

static void it_goes_the_whole_way_and_leaves_nothing(void **state)
{
	open_scene("\"mode\": \"enforce\"");
	until_tried();
	nobody_else_noticed();
	/* The vmm is given what a client would have sent. */
	assert_int_equal(s.request.frames, 1);
	assert_int_equal(scene_count(&s, FT_REASON_HOLD_RULE), 1);
	assert_string_equal(result(), "none");
	scene_answer(&s, false);
	assert_string_equal(result(), "ok");
	assert_non_null(got(FT_TCP_RST | FT_TCP_ACK));
	nobody_else_noticed();
	assert_int_equal(scene_count(&s, FT_REASON_RELEASE_CLEAN), 0);
	assert_true(scene_count(&s, FT_REASON_DROP_CANARY) > 0);
	/* And again when it is time, not before, from another port. */
	uint16_t port = s.client_port;
	scene_forget(&s);
	scene_pass(&s, EVERY - 100 * MS);
	assert_int_equal(s.guest_count, 0);
	scene_pass(&s, 100 * MS);
	until_tried();
	assert_int_not_equal(port, s.client_port);
	scene_answer(&s, false);
	assert_int_equal(json_array_size(s.canary), 2);
	scene_close(&s);
}

static void services_without_patterns_hold_it_for_its_own_sake(void **state)
{
	open_scene("\"mode\": \"enforce\", \"rules\": [], \"risks\": \"severe\"");
	until_tried();
	scene_answer(&s, false);
	assert_string_equal(result(), "ok");
	assert_int_equal(scene_count(&s, FT_REASON_HOLD_CANARY), 1);
	scene_close(&s);
}

static void in_shadow_mode_it_is_held_all_the_same(void **state)
{
	open_scene("\"mode\": \"shadow\"");
	until_tried();
	scene_answer(&s, false);
	assert_string_equal(result(), "ok");
	nobody_else_noticed();
	scene_close(&s);
}

static void a_verdict_that_is_wrong_fails_it(void **state)
{
	open_scene("\"mode\": \"enforce\"");
	until_tried();
	scene_answer(&s, true);
	assert_string_equal(result(), "failed");
	assert_non_null(strstr(why(), "its harmless input was judged malicious"));
	nobody_else_noticed();
	scene_close(&s);
}

static void what_has_to_be_caught_is(void **state)
{
	open_scene("\"mode\": \"enforce\", \"canary_attack\": \"EVIL\"");
	until_tried();
	scene_answer(&s, false);
	assert_string_equal(result(), "none"); /* half of it */
	until_tried();
	assert_int_equal(s.request.list[0].frame.payload_length, 4);
	scene_answer(&s, true);
	assert_string_equal(result(), "ok");
	nobody_else_noticed();
	scene_close(&s);

	open_scene("\"mode\": \"enforce\", \"canary_attack\": \"EVIL\"");
	until_tried();
	scene_answer(&s, false);
	until_tried();
	scene_answer(&s, false);
	assert_string_equal(result(), "failed");
	assert_non_null(strstr(why(), "its attack was judged clean"));
	nobody_else_noticed();
	scene_close(&s);
}

static void bytes_that_no_clone_took_fail_it(void **state)
{
	open_scene("\"mode\": \"enforce\"");
	until_tried();
	uint64_t hold = s.request.begin.trial;
	s.sequence = 0;
	scene_event(&s, hold, FT_EVENT_TRIAL_HANDLED, FT_ROLE_TRIAL, (uint64_t[6]){1, s.request.flow.bytes, 1}, NULL, NULL);
	scene_event(&s, hold, FT_EVENT_TRIAL_END, FT_ROLE_TRIAL, (uint64_t[6]){FT_TRIAL_END_HORIZON, 1, 2, 3, 0}, "", NULL);
	scene_pass(&s, 0);
	assert_string_equal(result(), "failed");
	assert_non_null(strstr(why(), "inconclusive"));
	scene_close(&s);
}

static void a_vmm_that_says_nothing_fails_it(void **state)
{
	open_scene("\"mode\": \"enforce\"");
	until_tried();
	for (int i = 0; i < 10 && !json_array_size(s.canary); i++)
		scene_pass(&s, 1000 * MS);
	assert_string_equal(result(), "failed");
	nobody_else_noticed();
	scene_close(&s);
}

static void a_guest_that_is_silent_and_one_that_refuses(void **state)
{
	open_scene("\"mode\": \"enforce\"");
	scene_pass(&s, 0);
	connection();
	scene_pass(&s, 999 * MS);
	assert_string_equal(result(), "none");
	scene_pass(&s, 1 * MS); /* clone.wall is 1 s */
	assert_string_equal(result(), "silent");
	scene_forget(&s);
	scene_pass(&s, EVERY);
	uint32_t next = connection();
	scene_guest(&s, (uint32_t)-GUEST_ISN, next, FT_TCP_RST | FT_TCP_ACK, NULL, 0);
	scene_pass(&s, 0);
	assert_string_equal(result(), "refused");
	/* Of another connection, it means nothing. */
	scene_pass(&s, EVERY);
	next = connection();
	scene_guest(&s, 0, next + 1, FT_TCP_RST | FT_TCP_ACK, NULL, 0);
	scene_guest(&s, 0, next + 1, FT_TCP_SYN | FT_TCP_ACK, NULL, 0);
	scene_pass(&s, 0);
	assert_int_equal(json_array_size(s.canary), 2);
	assert_int_equal(s.client_count, 0);
	scene_close(&s);
}

static void nothing_is_tested_where_nothing_is_held(void **state)
{
	open_scene("\"mode\": \"observe\"");
	for (int i = 0; i < 5; i++)
		scene_pass(&s, EVERY);
	assert_string_equal(result(), "off");
	assert_int_equal(json_array_size(s.canary), 1); /* said once */
	assert_int_equal(s.guest_count, 0);
	struct ft_refusal refusal;
	json_t *order = json_pack("{s:s, s:s, s:s}", "what", "mode", "service", "web", "mode", "enforce");
	json_decref(ft_order(s.gate, order, &refusal));
	json_decref(order);
	scene_pass(&s, EVERY);
	until_tried();
	scene_answer(&s, false);
	assert_string_equal(result(), "ok");
	/* Inspection is switched off: told at once, and its input does not go to the guest. */
	order = json_pack("{s:s, s:b}", "what", "bypass", "on", 1);
	json_decref(ft_order(s.gate, order, &refusal));
	json_decref(order);
	scene_pass(&s, EVERY);
	assert_string_equal(result(), "off");
	assert_int_equal(json_array_size(s.canary), 3);
	nobody_else_noticed();
	scene_close(&s);
}

static void a_guest_that_goes_down_ends_it(void **state)
{
	open_scene("\"mode\": \"enforce\"");
	until_tried();
	ft_gate_guest_down(s.gate, "web", "a test");
	scene_pass(&s, 0);
	scene_pass(&s, EVERY);
	scene_pass(&s, EVERY);
	assert_string_equal(result(), "down");
	scene_close(&s);
}

static void switched_off_for_a_service_it_is_silent(void **state)
{
	open_scene("\"mode\": \"enforce\", \"canary\": \"off\"");
	for (int i = 0; i < 5; i++)
		scene_pass(&s, EVERY);
	assert_int_equal(json_array_size(s.canary) + s.guest_count, 0);
	scene_close(&s);
}

static void its_address_is_its_own(void **state)
{
	open_scene("\"mode\": \"enforce\"");
	until_tried();
	scene_forget(&s);
	/* A client that knows the address, and even the port: nothing of it gets to the guest, nothing to the hold. */
	scene_client(&s, 0, 0, FT_TCP_SYN, NULL, 0);
	scene_client(&s, 1, 1, FT_TCP_ACK | FT_TCP_PSH, "EVIL", 4);
	scene_client(&s, 1, 1, FT_TCP_RST, NULL, 0);
	assert_int_equal(s.guest_count, 0);
	assert_int_equal(scene_count(&s, FT_REASON_DROP_CANARY_ADDRESS), 3);
	scene_answer(&s, false);
	assert_string_equal(result(), "ok");
	/* Others are served as ever. */
	s.client_host = 0;
	s.client_port = 40000;
	scene_connect(&s);
	scene_text(&s, 1, "hello");
	assert_string_equal(scene_taken(&s), "hello");
	scene_close(&s);
}

static void its_hold_is_no_operators(void **state)
{
	open_scene("\"mode\": \"enforce\"");
	until_tried();
	struct ft_refusal refusal;
	json_t *order =
	    json_pack("{s:s, s:I}", "what", "release", "hold", (json_int_t)s.request.begin.trial);
	assert_null(ft_order(s.gate, order, &refusal));
	json_decref(order);
	/* Nor is it when all holds are released for a bypass, or the gateway stops. */
	order = json_pack("{s:s, s:b}", "what", "bypass", "on", 1);
	json_decref(ft_order(s.gate, order, &refusal));
	json_decref(order);
	scene_pass(&s, 0);
	ft_gate_stop(s.gate);
	scene_pass(&s, 0);
	nobody_else_noticed();
	scene_close(&s);
}

static void the_guest_is_told_where_it_is(void **state)
{
	open_scene("\"mode\": \"enforce\"");
	uint8_t arp[42] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1,
			   2,    0,    0,    0,    0,    1,    10, 0, 2, 15};
	const uint8_t ours[4] = {10, 0, 2, 200}, others[4] = {10, 0, 2, 9};
	struct iovec part = {arp, sizeof(arp)};
	memcpy(arp + 38, others, 4);
	assert_int_equal(ft_ring_put(&s.vmm.tx, FT_LINK_FRAME, &part, 1), 0);
	scene_pass(&s, 0);
	assert_int_equal(s.client_count, 1); /* somebody else's */
	scene_forget(&s);
	memcpy(arp + 38, ours, 4);
	assert_int_equal(ft_ring_put(&s.vmm.tx, FT_LINK_FRAME, &part, 1), 0);
	scene_pass(&s, 0);
	scene_pass(&s, 0);
	assert_int_equal(s.client_count, 0);
	bool answered = false;
	for (unsigned i = 0; i < s.guest_count; i++)
		answered |= s.to_guest[i].frame.kind == FT_FRAME_ARP && s.to_guest[i].data[21] == 2 &&
			    !memcmp(s.to_guest[i].data + 28, ours, 4);
	assert_true(answered);
	scene_close(&s);
}

/* Whatever the guest sends to it, and to a neighbour of it. */
static void nothing_to_it_gets_to_a_wire(void **state)
{
	open_scene("\"mode\": \"enforce\"");
	scene_pass(&s, 0);
	connection();
	scene_guest(&s, 0, 0, FT_TCP_SYN, NULL, 0);
	scene_guest(&s, 7, 9, FT_TCP_ACK, "secret", 6);
	s.client_port = 4711;
	scene_guest(&s, 7, 9, FT_TCP_ACK, "secret", 6);
	assert_int_equal(s.client_count, 0);
	s.client_host++;
	scene_guest(&s, 7, 9, FT_TCP_ACK, "secret", 6);
	assert_int_equal(s.client_count, 1);
	scene_close(&s);
}

static int start(void **state)
{
	return scene_start_eal();
}

static void reload(const char *service)
{
	struct ft_rulebook *book = NULL;
	struct ft_error err = {0};
	json_t *config = scene_config(service, "", "");
	assert_int_equal(ft_rulebook_new(config, &book, &err), 0);
	json_decref(config);
	assert_int_equal(ft_gate_reload(s.gate, book, &err), 0);
}

/* One that is under way ends as it began; the next one is the new rulebook's, and tests its own token. */
static void a_reload_does_not_stop_the_self_test(void **state)
{
	open_scene("\"risks\": \"none\", \"mode\": \"enforce\"");
	until_tried();
	for (int i = 0; i < 3; i++) {
		reload("\"risks\": \"none\", \"mode\": \"enforce\"");
		scene_forget(&s);
		scene_pass(&s, 0);
	}
	assert_non_null(s.gate->retired);
	size_t told = json_array_size(s.canary);
	s.request.clone.next = s.request.flow.next_sequence;
	scene_answer(&s, false);
	assert_int_equal(json_array_size(s.canary), told + 1);
	assert_string_equal(result(), "ok");
	scene_pass(&s, 0);
	assert_null(s.gate->retired);
	s.live = (struct receiver){0};
	until_tried();
	s.request.clone.next = s.request.flow.next_sequence;
	scene_answer(&s, false);
	assert_int_equal(json_array_size(s.canary), told + 2);
	assert_string_equal(result(), "ok");
	reload("\"risks\": \"none\", \"mode\": \"observe\"");
	scene_pass(&s, EVERY);
	assert_string_equal(result(), "off");
	scene_close(&s);
}

/* ---- UDP ---- */

#define SIP ", \"sip\": {\"guest\": \"web\", \"protocol\": \"udp\", \"port\": 5060, \"rules\": [1000001], \"risks\": \"none\", %s}"

static void open_udp(const char *keys)
{
	char services[300];
	snprintf(services, sizeof(services), SIP, keys);
	scene_guest_keys = ", \"canary\": \"10.0.2.200\"";
	scene_keys = ", \"canary\": {\"every\": 1000000000}";
	scene_open_with(&s, "\"mode\": \"enforce\", \"canary\": \"off\"", "", services);
	s.client_host = HOST;
}

/* The guest was asked for its own address by the reserved one. */
static bool was_asked(void)
{
	static const uint8_t question[] = {8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 'c', 'a', 'n', 'r', 'y', 10, 0, 2, 200, 0, 0, 0, 0, 0, 0, 10, 0, 2, 15};
	for (unsigned i = 0; i < s.guest_count; i++)
		if (s.to_guest[i].length >= 42 && !memcmp(s.to_guest[i].data + 12, question, sizeof(question)))
			return true;
	return false;
}

static void guest_says_where_it_is(const uint8_t address[4])
{
	uint8_t frame[60] = {2, 'c', 'a', 'n', 'r', 'y', 2, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 2, 2, 0, 0, 0, 0, 1};
	memcpy(frame + 28, address, 4);
	memcpy(frame + 32, "\x02" "canry\x0a\x00\x02\xc8", 10);
	struct iovec part = {frame, sizeof(frame)};
	assert_int_equal(ft_ring_put(&s.vmm.tx, FT_LINK_FRAME, &part, 1), 0);
	scene_pass(&s, 0);
}

static const uint8_t guest_address[4] = {10, 0, 2, 15};

/* Up to the request for a trial. */
static void until_a_datagram_is_tried(void)
{
	unsigned requests = s.requests;
	scene_pass(&s, 0);
	assert_true(was_asked());
	guest_says_where_it_is(guest_address);
	scene_pass(&s, 10 * MS);
	assert_int_equal(s.requests, requests + 1);
	assert_int_equal(s.client_count, 0); /* the answer went to nobody */
}

static void a_datagram_goes_the_whole_way_and_leaves_nothing(void **state)
{
	open_udp("\"mode\": \"enforce\"");
	until_a_datagram_is_tried();
	assert_int_equal(s.request.frames, 1);
	assert_int_equal(s.request.flow.protocol, 17);
	assert_int_equal(s.request.list[0].frame.destination_port, 5060);
	assert_int_equal(ft_frame_checksum(&s.request.list[0].frame), FT_CHECKSUM_GOOD);
	assert_int_equal(scene_count(&s, FT_REASON_HOLD_RULE), 1);
	scene_answer(&s, false);
	assert_string_equal(result(), "ok");
	nobody_else_noticed();
	scene_forget(&s);
	scene_pass(&s, EVERY - 100 * MS);
	assert_false(was_asked());
	scene_pass(&s, 100 * MS);
	until_a_datagram_is_tried();
	scene_answer(&s, true);
	assert_string_equal(result(), "failed");
	scene_close(&s);
}

static void a_datagram_that_has_to_be_caught(void **state)
{
	open_udp("\"mode\": \"shadow\", \"canary_attack\": \"EVIL\"");
	until_a_datagram_is_tried();
	scene_forget(&s);
	scene_answer(&s, false);
	assert_string_equal(result(), "none");
	until_a_datagram_is_tried();
	scene_answer(&s, true);
	assert_string_equal(result(), "ok");
	nobody_else_noticed();
	scene_close(&s);
}

static void a_guest_that_is_not_there_gets_no_datagram(void **state)
{
	open_udp("\"mode\": \"enforce\"");
	scene_pass(&s, 0);
	assert_true(was_asked());
	/* Another address of its, or of somebody else, is no answer. */
	guest_says_where_it_is((uint8_t[]){10, 0, 2, 16});
	for (int i = 0; i < 15; i++)
		scene_pass(&s, 100 * MS);
	assert_string_equal(result(), "silent");
	assert_int_equal(s.requests, 0);
	scene_close(&s);
}

/* ---- IPv6 ---- */

static void tried_over(bool six)
{
	s.six = six;
	until_tried();
	assert_int_equal(ft_address_is_v4(&s.request.flow.client_ip), !six);
	nobody_else_noticed();
}

static void it_goes_the_whole_way_over_both_families(void **state)
{
	open_both("\"mode\": \"enforce\", \"canary_attack\": \"EVIL\"", "");
	for (int six = 0; six < 2; six++) {
		tried_over(six);
		assert_int_equal(s.request.list[0].frame.kind, six ? FT_FRAME_IPV6 : FT_FRAME_IPV4);
		scene_answer(&s, false);
		tried_over(six);
		assert_int_equal(s.request.list[0].frame.payload_length, 4);
		assert_string_equal(result(), "none");
		scene_answer(&s, true);
	}
	assert_string_equal(result(), "ok");
	assert_int_equal(json_array_size(s.canary), 1);
	assert_non_null(got(FT_TCP_RST | FT_TCP_ACK));
	assert_int_equal(got(FT_TCP_RST | FT_TCP_ACK)->kind, FT_FRAME_IPV6);
	nobody_else_noticed();
	scene_pass(&s, EVERY);
	tried_over(false); /* from the start again */
	scene_close(&s);
}

static void what_is_wrong_over_ipv6_fails_it(void **state)
{
	open_both("\"mode\": \"enforce\"", "");
	tried_over(false);
	scene_answer(&s, false);
	tried_over(true);
	scene_answer(&s, true);
	assert_string_equal(result(), "failed");
	assert_non_null(strstr(why(), "over IPv6: its harmless input was judged malicious"));
	/* Back where everything begins. */
	scene_pass(&s, EVERY);
	tried_over(false);
	scene_answer(&s, false);
	for (int i = 0; i < 15; i++)
		scene_pass(&s, 100 * MS);
	assert_string_equal(result(), "silent");
	assert_string_equal(why(), "over IPv6: the guest does not answer it");
	scene_close(&s);
}

static void its_ipv6_address_is_its_own(void **state)
{
	open_both("\"mode\": \"enforce\"", "");
	tried_over(false);
	scene_answer(&s, false);
	tried_over(true);
	scene_forget(&s);
	scene_client(&s, 0, 0, FT_TCP_SYN, NULL, 0);
	scene_client(&s, 1, 1, FT_TCP_ACK | FT_TCP_PSH, "EVIL", 4);
	assert_int_equal(s.guest_count, 0);
	assert_int_equal(scene_count(&s, FT_REASON_DROP_CANARY_ADDRESS), 2);
	/* What the guest sends to it, and to its neighbour. */
	scene_guest(&s, 7, 9, FT_TCP_ACK, "secret", 6);
	assert_int_equal(s.client_count, 0);
	s.client_host++;
	scene_guest(&s, 7, 9, FT_TCP_ACK, "secret", 6);
	assert_int_equal(s.client_count, 1);
	scene_close(&s);
}

static const struct ft_address reserved6 = {{0xfd, 0, 0, 2, [12] = 10, 0, 2, 200}}, guest6 = {{0xfd, 0, 0, 2, [12] = 10, 0, 2, 15}},
			       other6 = {{0xfd, 0, 0, 2, [12] = 10, 0, 2, 201}}, nobody6 = {{0}};
static const uint8_t guest_mac[6] = {2, 0, 0, 0, 0, 1};

/* The guest solicits as RFC 4861 4.3 has it: at first of the group of all that may have the address, later of the one it knows. */
static void guest_solicits(const struct ft_address *about, const struct ft_address *from, const struct ft_address *to)
{
	uint8_t frame[FT_NEIGHBOUR_LENGTH];
	const struct ft_neighbour question = {.about = *about, .from = *from};
	size_t length = ft_neighbour_make(&question, guest_mac, (const uint8_t[]){0x33, 0x33, 0xff, 0, 2, 200}, frame);
	memcpy(frame + 38, to->bytes, 16);
	struct iovec part = {frame, length};
	assert_int_equal(ft_ring_put(&s.vmm.tx, FT_LINK_FRAME, &part, 1), 0);
	scene_pass(&s, 0);
	scene_pass(&s, 0);
}

static const struct wire *advertisement(void)
{
	for (unsigned i = 0; i < s.guest_count; i++)
		if (s.to_guest[i].frame.kind == FT_FRAME_IPV6 && s.to_guest[i].frame.protocol == 58 && s.to_guest[i].data[54] == 136)
			return &s.to_guest[i];
	return NULL;
}

static void the_guest_is_told_where_it_is_over_ipv6(void **state)
{
	static const struct ft_address group = {{0xff, 2, [11] = 1, 0xff, 0, 2, 200}}, all = {{0xff, 2, [15] = 1}};
	/* Of RFC 4861 4.4: target, link address of the target, what the asker may make of it. */
	const struct { const struct ft_address *from, *to, *answered; uint8_t flags; } ways[] = {
	    {&guest6, &group, &guest6, 0x60}, {&guest6, &reserved6, &guest6, 0x60}, {&nobody6, &group, &all, 0x20}};
	open_both("\"mode\": \"enforce\"", "");
	for (size_t i = 0; i < 3; i++) {
		scene_forget(&s);
		guest_solicits(&reserved6, ways[i].from, ways[i].to);
		assert_int_equal(s.client_count, 0);
		const struct wire *told = advertisement();
		assert_non_null(told);
		assert_int_equal(told->length, 86);
		assert_memory_equal(told->data, "\x02\0\0\0\0\x01\x02" "canry\x86\xdd", 14);
		assert_int_equal(told->data[21], 255);
		assert_memory_equal(told->data + 22, &reserved6, 16);
		assert_memory_equal(told->data + 38, ways[i].answered, 16);
		assert_int_equal(told->data[58], ways[i].flags);
		assert_memory_equal(told->data + 62, &reserved6, 16);
		assert_memory_equal(told->data + 78, "\x02\x01\x02" "canry", 8);
		/* RFC 4443 2.3, summed up here by hand. */
		uint32_t sum = 58 + 32;
		for (size_t at = 22; at < 86; at += 2)
			sum += ft_load16(told->data + at);
		assert_int_equal((sum & 0xffff) + (sum >> 16), 0xffff);
	}
	/* About another address, or from beyond a router (RFC 4861 7.1.1): nothing for it. */
	scene_forget(&s);
	guest_solicits(&other6, &guest6, &group);
	assert_int_equal(s.client_count, 1);
	assert_null(advertisement());
	scene_close(&s);
}

static void guest_advertises(const struct ft_address *about, uint8_t hops)
{
	uint8_t frame[FT_NEIGHBOUR_LENGTH];
	const struct ft_neighbour answer = {.answer = true, .about = *about, .from = *about, .to = reserved6};
	size_t length = ft_neighbour_make(&answer, guest_mac, (const uint8_t[]){2, 'c', 'a', 'n', 'r', 'y'}, frame);
	frame[21] = hops;
	struct iovec part = {frame, length};
	assert_int_equal(ft_ring_put(&s.vmm.tx, FT_LINK_FRAME, &part, 1), 0);
	scene_pass(&s, 0);
	scene_pass(&s, 10 * MS);
}

/* The guest was asked for its own address by the reserved one. */
static bool was_solicited(void)
{
	for (unsigned i = 0; i < s.guest_count; i++) {
		const struct wire *w = &s.to_guest[i];
		if (w->length == 86 && w->data[54] == 135 && !memcmp(w->data + 22, &reserved6, 16) && !memcmp(w->data + 38, &guest6, 16) &&
		    !memcmp(w->data + 62, &guest6, 16) && !memcmp(w->data + 78, "\x01\x01\x02" "canry", 8))
			return true;
	}
	return false;
}

static void a_datagram_goes_the_whole_way_over_both_families(void **state)
{
	char services[300];
	snprintf(services, sizeof(services), SIP, "\"mode\": \"enforce\"");
	open_both("\"mode\": \"enforce\", \"canary\": \"off\"", services);
	until_a_datagram_is_tried();
	assert_false(was_solicited());
	scene_answer(&s, false);
	assert_string_equal(result(), "none");
	unsigned requests = s.requests;
	scene_pass(&s, 0);
	assert_true(was_solicited());
	/* Of the family before, about another address, from another network: no sign of life. */
	guest_says_where_it_is(guest_address);
	guest_advertises(&other6, 255);
	guest_advertises(&guest6, 64);
	assert_int_equal(s.requests, requests);
	guest_advertises(&guest6, 255);
	assert_int_equal(s.requests, requests + 1);
	assert_int_equal(s.request.list[0].frame.kind, FT_FRAME_IPV6);
	assert_int_equal(s.request.list[0].frame.destination_port, 5060);
	assert_int_equal(ft_frame_checksum(&s.request.list[0].frame), FT_CHECKSUM_GOOD);
	scene_answer(&s, false);
	assert_string_equal(result(), "ok");
	nobody_else_noticed();
	scene_close(&s);
}

static int end(void **state)
{
	s.six = false;
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(it_goes_the_whole_way_and_leaves_nothing),
	    cmocka_unit_test(services_without_patterns_hold_it_for_its_own_sake),
	    cmocka_unit_test(in_shadow_mode_it_is_held_all_the_same),
	    cmocka_unit_test(a_verdict_that_is_wrong_fails_it),
	    cmocka_unit_test(what_has_to_be_caught_is),
	    cmocka_unit_test(bytes_that_no_clone_took_fail_it),
	    cmocka_unit_test(a_vmm_that_says_nothing_fails_it),
	    cmocka_unit_test(a_guest_that_is_silent_and_one_that_refuses),
	    cmocka_unit_test(nothing_is_tested_where_nothing_is_held),
	    cmocka_unit_test(a_guest_that_goes_down_ends_it),
	    cmocka_unit_test(switched_off_for_a_service_it_is_silent),
	    cmocka_unit_test(its_address_is_its_own),
	    cmocka_unit_test(its_hold_is_no_operators),
	    cmocka_unit_test(the_guest_is_told_where_it_is),
	    cmocka_unit_test(nothing_to_it_gets_to_a_wire),
	    cmocka_unit_test(a_reload_does_not_stop_the_self_test),
	    cmocka_unit_test(a_datagram_goes_the_whole_way_and_leaves_nothing),
	    cmocka_unit_test(a_datagram_that_has_to_be_caught),
	    cmocka_unit_test(a_guest_that_is_not_there_gets_no_datagram),
	    cmocka_unit_test_teardown(it_goes_the_whole_way_over_both_families, end),
	    cmocka_unit_test_teardown(what_is_wrong_over_ipv6_fails_it, end),
	    cmocka_unit_test_teardown(its_ipv6_address_is_its_own, end),
	    cmocka_unit_test_teardown(the_guest_is_told_where_it_is_over_ipv6, end),
	    cmocka_unit_test_teardown(a_datagram_goes_the_whole_way_over_both_families, end),
	};
	return cmocka_run_group_tests(tests, start, NULL);
}
