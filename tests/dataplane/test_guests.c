/* Several guests on several uplinks: each gets what is its own and no more; what one sends another is inspected like what
 * comes from the wire; one that lies or floods costs itself. The scene's guest "web" (untagged, 02:..:01) has the
 * inspected services; the scene's client frames, put into the ring of guest "near" (02:..:09), are that guest's own. */
#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <cmocka.h>

#include "dataplane/fdb.h"
#include "scene.h"

static struct scene s;

enum { NEAR, RED, BLUE, FAR, PEERS };

static const char *const names[PEERS] = {"near", "red", "blue", "far"};
static struct ft_link peers[PEERS];

/* red and blue have the same addresses in two VLANs, far those of web on another uplink. */
static const char guests[] =
    ", \"near\": {\"mac\": \"02:00:00:00:00:09\", \"uplink\": \"one\"}"
    ", \"red\": {\"mac\": \"02:00:00:00:00:22\", \"uplink\": \"one\", \"vlan\": 7}"
    ", \"blue\": {\"mac\": \"02:00:00:00:00:22\", \"uplink\": \"one\", \"vlan\": 8}"
    ", \"far\": {\"mac\": \"02:00:00:00:00:01\", \"uplink\": \"two\"}}, \"uplinks\": {\"one\": {}, \"two\": {}";

static const char services[] =
    ", \"red\": {\"guest\": \"red\", \"port\": 80, \"rules\": [1000001], \"risks\": \"none\", \"mode\": \"enforce\"}"
    ", \"blue\": {\"guest\": \"blue\", \"port\": 80, \"rules\": [1000001], \"risks\": \"none\", \"mode\": \"enforce\"}";

static void give_link(int peer)
{
	int ours[FT_LINK_FDS], theirs[FT_LINK_FDS];
	struct ft_error err = {0};
	assert_int_equal(ft_link_create(theirs, ours, &err), 0);
	assert_int_equal(ft_link_open(&peers[peer], FT_LINK_VMM, ours, &err), 0);
	assert_int_equal(ft_gate_link(s.gate, names[peer], theirs, &err), 0);
}

static int open_scene(void **state)
{
	scene_open_with(&s, "\"risks\": \"none\", \"mode\": \"enforce\"", guests, services);
	for (int i = 0; i < PEERS; i++)
		give_link(i);
	return 0;
}

static int close_scene(void **state)
{
	scene_close(&s);
	for (int i = 0; i < PEERS; i++)
		ft_link_close(&peers[i]);
	return 0;
}

static uint8_t frame[4096], got[FT_RING_RECORD_MAX];

/* The next frame that a guest was given; 0: none. */
static size_t next_of(int peer)
{
	uint32_t kind;
	long length = ft_ring_get(&peers[peer].rx, &kind, got, sizeof(got));
	return length > 0 ? (size_t)length : 0;
}

static void send_as(int peer, const void *data, size_t length)
{
	struct iovec part = {(void *)(uintptr_t)data, length};
	assert_int_equal(ft_ring_put(&peers[peer].tx, FT_LINK_FRAME, &part, 1), 0);
	scene_pass(&s, 0);
}

/* What the scene's client would send, sent by the guest beside web. */
static void near_sends(uint32_t sequence, uint32_t ack, unsigned flags, const char *text)
{
	send_as(NEAR, frame, scene_build(&s, true, sequence, ack, flags, text, strlen(text), frame));
}

static void near_connects(void)
{
	near_sends(0, 0, FT_TCP_SYN, "");
	scene_guest(&s, 0, 1, FT_TCP_SYN | FT_TCP_ACK, "", 0);
	near_sends(1, 1, FT_TCP_ACK, "");
}

static json_int_t count_of(const char *guest, enum ft_reason reason)
{
	json_t *counters = ft_gate_counters(s.gate);
	json_t *reasons = json_object_get(json_object_get(json_object_get(counters, "guests"), guest), "reasons");
	json_int_t count = json_integer_value(json_object_get(reasons, ft_reason_label(reason)));
	json_decref(counters);
	return count;
}

static json_int_t status_of(const char *guest, const char *key)
{
	json_t *status = ft_gate_status(s.gate, false);
	json_t *value = json_object_get(json_object_get(json_object_get(status, "guests"), guest), key);
	json_int_t number = json_is_boolean(value) ? json_is_true(value) : json_integer_value(value);
	json_decref(status);
	return number;
}

/* The scene's frame with a tag before its type, and another destination. */
static size_t tagged(unsigned vlan, uint8_t last, bool from_client, uint32_t sequence, uint32_t ack, unsigned flags,
		     const char *text)
{
	size_t length = scene_build(&s, from_client, sequence, ack, flags, text, strlen(text), frame);
	frame[from_client ? 5 : 11] = last;
	if (!vlan)
		return length;
	memmove(frame + 16, frame + 12, length - 12);
	ft_store16(frame + 12, 0x8100);
	ft_store16(frame + 14, (uint16_t)vlan);
	return length + 4;
}

/* ---- guest to guest ---- */

static void an_innocent_guest_reaches_the_one_beside_it(void **state)
{
	near_connects();
	near_sends(1, 1, FT_TCP_ACK | FT_TCP_PSH, "hello");
	scene_guest(&s, 1, 6, FT_TCP_ACK | FT_TCP_PSH, "welcome", 7);
	assert_string_equal(scene_taken(&s), "hello");
	assert_int_equal(s.client_count, 0); /* nothing of it went out */
	size_t length = next_of(NEAR);       /* SYN, ACK */
	assert_true(length && got[47] == (FT_TCP_SYN | FT_TCP_ACK));
	length = next_of(NEAR);
	assert_memory_equal(got + length - 7, "welcome", 7);
	assert_int_equal(next_of(NEAR), 0);
	assert_int_equal(count_of("web", FT_REASON_PASS_INSPECTED), 3);
	assert_int_equal(count_of("near", FT_REASON_PASS_OUTBOUND), 3);
}

static void an_attack_on_the_guest_beside_is_held_and_stopped(void **state)
{
	near_connects();
	s.strict = true;
	near_sends(1, 1, FT_TCP_ACK | FT_TCP_PSH, "EVIL");
	assert_int_equal(status_of("web", "holds"), 1);
	assert_int_equal(status_of("near", "holds"), 0);
	assert_string_equal(scene_taken(&s), "");
	scene_pass(&s, 5 * MS);
	assert_true(s.request.go);
	while (next_of(NEAR))
		;
	scene_answer(&s, true);
	assert_string_equal(scene_taken(&s), "");
	assert_false(s.violated);
	assert_string_equal(json_string_value(json_object_get(scene_record(&s, "hold"), "guest")), "web");
	assert_int_equal(count_of("web", FT_REASON_DROP_VERDICT), 1);
	/* The attacker is told, by its own ring and by no wire. */
	bool reset = false;
	while (next_of(NEAR))
		reset |= got[47] & FT_TCP_RST;
	assert_true(reset);
	assert_int_equal(s.client_count, 0);
	/* And what it sends on is answered, not passed. */
	near_sends(5, 1, FT_TCP_ACK | FT_TCP_PSH, "more");
	assert_string_equal(scene_taken(&s), "");
	assert_true(next_of(NEAR) && got[47] & FT_TCP_RST);
}

static void a_held_guest_is_released_what_its_clone_took(void **state)
{
	near_connects();
	s.strict = true;
	near_sends(1, 1, FT_TCP_ACK | FT_TCP_PSH, "EVIL but harmless");
	scene_pass(&s, 5 * MS);
	scene_answer(&s, false);
	assert_string_equal(scene_taken(&s), "EVIL but harmless");
	assert_false(s.violated);
}

static void a_group_frame_goes_to_all_of_its_vlan(void **state)
{
	static const uint8_t everybody[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
	size_t length = tagged(0, 1, true, 0, 0, FT_TCP_ACK, "");
	memcpy(frame, everybody, 6);
	frame[36] = 0x30; /* no service's port: 12288 + 80 */
	struct ft_frame parsed;
	enum ft_reason why;
	assert_int_equal(ft_frame_parse(&parsed, frame, length, &why), 0);
	ft_frame_seal(&parsed, frame);
	/* From near: out, to web, and to nobody else. */
	send_as(NEAR, frame, length);
	assert_int_equal(s.client_count, 1);
	assert_int_equal(s.guest_count, 1);
	for (int i = 0; i < PEERS; i++)
		assert_int_equal(next_of(i), 0);
	assert_int_equal(count_of("web", FT_REASON_PASS_UNINSPECTED), 1);
	/* From the wire: to each, and each copy counts. */
	scene_frame(&s, frame, length);
	assert_int_equal(s.guest_count, 2);
	assert_int_equal(next_of(NEAR), length);
	assert_int_equal(next_of(RED) + next_of(BLUE) + next_of(FAR), 0);
	assert_int_equal(count_of("near", FT_REASON_PASS_UNINSPECTED), 1);
	/* With a tag: web is a trunk and sees it, red does without. */
	memmove(frame + 16, frame + 12, length - 12);
	ft_store16(frame + 12, 0x8100);
	ft_store16(frame + 14, 7);
	scene_frame(&s, frame, length + 4);
	assert_int_equal(s.guest_count, 3);
	assert_int_equal(s.to_guest[2].length, length + 4);
	assert_int_equal(next_of(RED), length);
	assert_int_equal(ft_load16(got + 12), 0x0800);
	assert_int_equal(next_of(NEAR) + next_of(BLUE), 0);
}

/* ---- who may send what ---- */

static void a_guest_speaks_for_itself_alone(void **state)
{
	size_t length = tagged(0, 1, true, 0, 0, FT_TCP_SYN, "");
	frame[11] = 0x77; /* not near's */
	send_as(NEAR, frame, length);
	assert_int_equal(count_of("near", FT_REASON_DROP_SPOOFED), 1);
	length = tagged(7, 0x22, true, 0, 0, FT_TCP_SYN, "");
	send_as(NEAR, frame, length); /* into red's VLAN */
	assert_int_equal(count_of("near", FT_REASON_DROP_GUEST_TAG), 1);
	assert_int_equal(next_of(RED), 0);
	assert_int_equal(s.client_count + s.guest_count, 0);
	/* A priority is no VLAN. */
	length = tagged(0, 1, true, 0, 0, FT_TCP_SYN, "");
	memmove(frame + 16, frame + 12, length - 12);
	ft_store16(frame + 12, 0x8100);
	ft_store16(frame + 14, 5 << 13);
	send_as(NEAR, frame, length + 4);
	assert_int_equal(s.guest_count, 1);
	assert_int_equal(s.to_guest[0].length, length);
}

static void a_vlan_is_on_the_wire_and_not_in_the_guest(void **state)
{
	scene_frame(&s, frame, tagged(7, 0x22, true, 0, 0, FT_TCP_SYN, ""));
	assert_int_equal(count_of("red", FT_REASON_PASS_INSPECTED), 1);
	size_t length = next_of(RED);
	assert_int_equal(ft_load16(got + 12), 0x0800);
	assert_int_equal(next_of(BLUE), 0);
	length = tagged(0, 0x22, false, 0, 1, FT_TCP_SYN | FT_TCP_ACK, "");
	send_as(RED, frame, length);
	assert_int_equal(s.client_count, 1);
	assert_int_equal(s.to_client[0].length, length + 4);
	assert_int_equal(ft_load32(s.to_client[0].data + 12), 0x81000007u);
	/* So is what the gate says in the guest's name: here that there is no such connection. */
	s.client_port++;
	scene_frame(&s, frame, tagged(7, 0x22, true, 1, 1, FT_TCP_ACK, ""));
	assert_int_equal(s.client_count, 2);
	assert_int_equal(ft_load32(s.to_client[1].data + 12), 0x81000007u);
	assert_true(s.to_client[1].frame.flags & FT_TCP_RST);
	/* Without the tag, or with another one, it is for somebody else. */
	scene_frame(&s, frame, tagged(0, 0x22, true, 0, 0, FT_TCP_SYN, ""));
	scene_frame(&s, frame, tagged(9, 0x22, true, 0, 0, FT_TCP_SYN, ""));
	assert_int_equal(scene_count(&s, FT_REASON_DROP_NOT_OURS), 2);
}

static void connect_tagged(int peer, unsigned vlan)
{
	scene_frame(&s, frame, tagged(vlan, 0x22, true, 0, 0, FT_TCP_SYN, ""));
	send_as(peer, frame, tagged(0, 0x22, false, 0, 1, FT_TCP_SYN | FT_TCP_ACK, ""));
	scene_frame(&s, frame, tagged(vlan, 0x22, true, 1, 1, FT_TCP_ACK, ""));
	while (next_of(peer))
		;
}

static void the_same_addresses_in_two_vlans_are_two_flows(void **state)
{
	connect_tagged(RED, 7);
	connect_tagged(BLUE, 8);
	assert_int_equal(status_of("red", "flows"), 1);
	assert_int_equal(status_of("blue", "flows"), 1);
	scene_frame(&s, frame, tagged(7, 0x22, true, 1, 1, FT_TCP_ACK | FT_TCP_PSH, "EVIL"));
	assert_int_equal(status_of("red", "holds"), 1);
	assert_int_equal(next_of(RED), 0);
	scene_frame(&s, frame, tagged(8, 0x22, true, 1, 1, FT_TCP_ACK | FT_TCP_PSH, "good"));
	size_t length = next_of(BLUE);
	assert_true(length > 4);
	assert_memory_equal(got + length - 4, "good", 4);
	assert_int_equal(status_of("blue", "holds"), 0);
}

static void each_uplink_has_its_own_guests(void **state)
{
	size_t length = tagged(0, 1, true, 0, 0, FT_TCP_SYN, "");
	ft_gate_wire(s.gate, 1, frame, length);
	scene_pass(&s, 0);
	assert_int_equal(next_of(FAR), length); /* web's MAC, but here it is far's; and 80 is no service of it */
	assert_int_equal(count_of("far", FT_REASON_PASS_UNINSPECTED), 1);
	assert_int_equal(s.guest_count, 0);
	send_as(FAR, frame, tagged(0, 1, false, 0, 1, FT_TCP_ACK, ""));
	/* The client's MAC is near's, which is on the other uplink. */
	assert_int_equal(s.client_count, 1);
	assert_int_equal(s.to_client[0].uplink, 1);
	assert_int_equal(next_of(NEAR), 0);
}

/* ---- who misbehaves ---- */

static void a_liar_costs_itself(void **state)
{
	scene_connect(&s);
	scene_text(&s, 1, "EVIL");
	scene_pass(&s, 5 * MS);
	uint64_t hold = s.request.begin.trial;
	/* Another guest's process speaks of web's hold: a verdict is not its to give. */
	const struct {
		unsigned type, role, sequence;
		uint64_t a[6];
	} forged[] = {{FT_EVENT_SEED_READY, FT_ROLE_SEED, 0, {0}},
		      {FT_EVENT_TRIAL_HANDLED, FT_ROLE_TRIAL, 0, {4, 4, 1}},
		      {FT_EVENT_TRIAL_END, FT_ROLE_TRIAL, 1, {FT_TRIAL_END_HORIZON, 1, 2, 3, 1}},
		      {FT_EVENT_SEED_GONE, FT_ROLE_SEED, 1, {0}}};
	for (size_t i = 0; i < sizeof(forged) / sizeof(*forged); i++) {
		uint8_t buffer[FT_EVENT_MAX];
		struct ft_event event = {.type = (uint16_t)forged[i].type,
					 .role = (uint8_t)forged[i].role,
					 .sequence = forged[i].sequence,
					 .trial = hold,
					 .vtime_ns = s.now,
					 .pid = -1};
		memcpy(event.a, forged[i].a, sizeof(event.a));
		size_t length = ft_event_build(buffer, &event, "", NULL);
		assert_int_equal(send(peers[NEAR].events, buffer, length, 0), (ssize_t)length);
	}
	scene_pass(&s, 0);
	assert_int_equal(status_of("web", "holds"), 1);
	assert_string_equal(scene_taken(&s), "");
	/* Its ring is full of what is none. */
	memset(peers[NEAR].tx.shared->data, 0xa5, 4096);
	__atomic_store_n(&peers[NEAR].tx.shared->producer.index, 4096, __ATOMIC_RELEASE);
	scene_pass(&s, 0);
	assert_non_null(strstr(s.log, "the link to guest near is cut"));
	assert_int_equal(status_of("near", "up"), 0);
	for (int i = RED; i < PEERS; i++)
		assert_int_equal(status_of(names[i], "up"), 1);
	/* web's trial goes on to its end. */
	scene_answer(&s, false);
	assert_string_equal(scene_taken(&s), "EVIL");
	/* And the liar may come back. */
	ft_link_close(&peers[NEAR]);
	give_link(NEAR);
	assert_int_equal(status_of("near", "up"), 1);
}

static void a_guest_that_takes_nothing_costs_itself(void **state)
{
	size_t length = tagged(7, 0x22, true, 0, 0, FT_TCP_ACK, "");
	ft_store16(frame + 40, 81);
	struct ft_frame parsed;
	enum ft_reason why;
	assert_int_equal(ft_frame_parse(&parsed, frame, length, &why), 0);
	ft_frame_seal(&parsed, frame);
	static uint8_t copy[4096];
	for (unsigned i = 0; !count_of("red", FT_REASON_DROP_RING_FULL) && i < 200000; i++) {
		memcpy(copy, frame, length);
		ft_gate_wire(s.gate, 0, copy, length);
	}
	assert_int_equal(count_of("red", FT_REASON_DROP_RING_FULL), 1);
	scene_connect(&s);
	scene_text(&s, 1, "hello");
	assert_string_equal(scene_taken(&s), "hello");
	assert_int_equal(count_of("web", FT_REASON_DROP_RING_FULL), 0);
}

static void a_flood_towards_one_leaves_room_for_the_others(void **state)
{
	for (unsigned i = 0; i < 2000; i++) {
		s.client_port = (uint16_t)(1000 + i);
		ft_gate_wire(s.gate, 0, frame, tagged(7, 0x22, true, 0, 0, FT_TCP_SYN, ""));
		scene_pass(&s, 0);
	}
	assert_true(status_of("red", "flows") <= 256 / 5);
	s.client_port = 40000;
	scene_connect(&s);
	scene_text(&s, 1, "hello");
	assert_string_equal(scene_taken(&s), "hello");
}

static void clones_are_counted_for_each_guest(void **state)
{
	/* One clone at a time each ("max": 1): red's does not keep web waiting. */
	connect_tagged(RED, 7);
	scene_frame(&s, frame, tagged(7, 0x22, true, 1, 1, FT_TCP_ACK | FT_TCP_PSH, "EVIL"));
	scene_pass(&s, 5 * MS);
	assert_int_equal(status_of("red", "clones"), 1);
	s.client_port = 40001;
	scene_connect(&s);
	scene_text(&s, 1, "EVIL");
	scene_pass(&s, 5 * MS);
	assert_int_equal(status_of("web", "clones"), 1);
	assert_int_equal(s.requests, 1);
	scene_answer(&s, false);
	assert_string_equal(scene_taken(&s), "EVIL");
	assert_int_equal(status_of("red", "clones"), 1);
}

static void one_that_ends_takes_only_its_own_along(void **state)
{
	connect_tagged(RED, 7);
	scene_frame(&s, frame, tagged(7, 0x22, true, 1, 1, FT_TCP_ACK | FT_TCP_PSH, "EVIL"));
	scene_connect(&s);
	scene_text(&s, 1, "EVIL");
	scene_pass(&s, 5 * MS);
	ft_gate_guest_down(s.gate, "red", "it is stopped");
	scene_pass(&s, 0);
	assert_int_equal(status_of("red", "holds"), 0);
	assert_int_equal(status_of("web", "holds"), 1);
	assert_string_equal(json_string_value(json_object_get(scene_record(&s, "hold"), "guest")), "red");
	scene_answer(&s, false);
	assert_string_equal(scene_taken(&s), "EVIL");
	scene_text(&s, 5, "more");
	assert_int_equal(status_of("web", "holds"), 1); /* its connection goes on, and is looked at as before */
	scene_frame(&s, frame, tagged(7, 0x22, true, 5, 1, FT_TCP_ACK, ""));
	assert_int_equal(count_of("red", FT_REASON_DROP_GUEST_DOWN), 1);
	/* While one is down the gate still sleeps on the others, and wakes for each. */
	int fds[FT_GATE_WAKES];
	unsigned count;
	assert_true(ft_gate_sleep(s.gate, fds, &count));
	assert_int_equal(count, 10);
	unsigned wakes = 0;
	for (unsigned i = 0; i < count; i++)
		wakes += fds[i] >= 0;
	assert_int_equal(wakes, 8);
	for (int i = 0; i < PEERS; i++)
		if (i != RED)
			assert_int_equal(peers[i].tx.shared->consumer.sleeping, 1);
	ft_gate_awake(s.gate, (bool[FT_GATE_WAKES]){false});
	/* A frame of the last one keeps it awake, and the first ones are not left asleep. */
	struct iovec part = {frame, tagged(0, 1, false, 0, 1, FT_TCP_ACK, "")};
	assert_int_equal(ft_ring_put(&peers[FAR].tx, FT_LINK_FRAME, &part, 1), 0);
	assert_false(ft_gate_sleep(s.gate, fds, &count));
	for (int i = 0; i < PEERS; i++)
		assert_int_equal(peers[i].tx.shared->consumer.sleeping, 0);
}

/* ---- the table ---- */

static void the_table_refuses_what_is_ambiguous(void **state)
{
	static const uint8_t a[6] = {2, 0, 0, 0, 0, 1}, b[6] = {2, 0, 0, 0, 0, 2};
	struct ft_fdb fdb = {0};
	struct ft_error err = {0};
	assert_int_equal(ft_fdb_add(&fdb, 0, 0, a, &err), 0);
	assert_int_equal(ft_fdb_add(&fdb, 0, 0, a, &err), -EINVAL);
	assert_int_equal(ft_fdb_add(&fdb, 0, FT_FDB_TRUNK, a, &err), -EINVAL);
	assert_int_equal(ft_fdb_add(&fdb, 0, 0, NULL, &err), -EINVAL);
	assert_int_equal(ft_fdb_add(&fdb, 0, 5, NULL, &err), 0); /* alone in its VLAN */
	assert_int_equal(ft_fdb_add(&fdb, 0, 5, b, &err), -EINVAL);
	assert_int_equal(ft_fdb_add(&fdb, 0, FT_FDB_TRUNK, b, &err), -EINVAL);
	assert_int_equal(ft_fdb_add(&fdb, 0, 4095 - 1, b, &err), 0);
	assert_int_equal(ft_fdb_add(&fdb, FT_GATE_UPLINKS, 0, b, &err), -EINVAL);
	assert_int_equal(ft_fdb_find(&fdb, 0, 0, a), 0);
	assert_int_equal(ft_fdb_find(&fdb, 0, 0, b), -1);
	assert_int_equal(ft_fdb_find(&fdb, 0, 5, b), 1);
	assert_int_equal(ft_fdb_find(&fdb, 1, 0, a), -1);
	/* Stacks of tags and 802.1ad are for trunks alone. */
	uint8_t stacked[64] = {[12] = 0x81, [13] = 0, [15] = 5, [16] = 0x81, [17] = 0};
	assert_int_equal(ft_fdb_vlan(stacked, sizeof(stacked)), FT_FDB_TRUNK);
	assert_false(ft_fdb_member(&fdb, 1, 0, FT_FDB_TRUNK));
	assert_int_equal(ft_fdb_find(&fdb, 0, FT_FDB_TRUNK, a), -1);
	uint8_t provider[64] = {[12] = 0x88, [13] = 0xa8, [15] = 5};
	assert_int_equal(ft_fdb_vlan(provider, sizeof(provider)), FT_FDB_TRUNK);
	assert_int_equal(ft_fdb_vlan(stacked, 17), FT_FDB_UNTAGGED); /* cut before its type */
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, open_scene, close_scene)
	const struct CMUnitTest tests[] = {
	    T(an_innocent_guest_reaches_the_one_beside_it),
	    T(an_attack_on_the_guest_beside_is_held_and_stopped),
	    T(a_held_guest_is_released_what_its_clone_took),
	    T(a_group_frame_goes_to_all_of_its_vlan),
	    T(a_guest_speaks_for_itself_alone),
	    T(a_vlan_is_on_the_wire_and_not_in_the_guest),
	    T(the_same_addresses_in_two_vlans_are_two_flows),
	    T(each_uplink_has_its_own_guests),
	    T(a_liar_costs_itself),
	    T(a_guest_that_takes_nothing_costs_itself),
	    T(a_flood_towards_one_leaves_room_for_the_others),
	    T(clones_are_counted_for_each_guest),
	    T(one_that_ends_takes_only_its_own_along),
	    cmocka_unit_test(the_table_refuses_what_is_ambiguous),
	};
	if (scene_start_eal())
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
