/* Which way frames go that are no held input: refused with their reason to inspected services, passed to others. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <cmocka.h>

#include "scene.h"

static struct scene s;

static int open_scene(void **state)
{
	scene_open(&s, "\"risks\": \"none\", \"mode\": \"enforce\"");
	return 0;
}

static int open_observing(void **state)
{
	scene_open(&s, "\"risks\": \"none\", \"mode\": \"observe\"");
	return 0;
}

static int close_scene(void **state)
{
	scene_close(&s);
	return 0;
}

static uint8_t frame[4096];

/* A client's segment to this port. */
static size_t segment(uint16_t port, size_t payload)
{
	static const uint8_t bytes[3000];
	size_t length = scene_build(&s, true, 1, 1, FT_TCP_ACK, bytes, payload, frame);
	struct ft_frame parsed;
	enum ft_reason why;
	ft_store16(frame + 36, port);
	assert_int_equal(ft_frame_parse(&parsed, frame, length, &why), 0);
	ft_frame_seal(&parsed, frame);
	return length;
}

/* The scene's buffers end at 2048 bytes, so what passes is only counted. */
static void expect(size_t length, enum ft_reason reason)
{
	uint64_t before = scene_count(&s, reason);
	ft_gate_wire(s.gate, 0, frame, length);
	assert_int_equal(scene_count(&s, reason), before + 1);
	bool passed = reason == FT_REASON_PASS_UNINSPECTED || reason == FT_REASON_PASS_UNSEEN;
	assert_int_equal(ft_ring_waiting(&s.vmm.rx), passed);
	static uint8_t buffer[FT_RING_RECORD_MAX];
	uint32_t kind;
	if (passed)
		assert_int_equal(ft_ring_get(&s.vmm.rx, &kind, buffer, sizeof(buffer)), (long)length);
}

static void fragments_to_inspected_protocols_are_refused(void **state)
{
	size_t length = segment(80, 20);
	struct ft_frame shape = {.kind = FT_FRAME_IPV4, .ip = 14};
	ft_store16(frame + 20, 0x2000);
	ft_frame_seal(&shape, frame);
	expect(length, FT_REASON_REFUSE_FRAGMENT);
	ft_store16(frame + 20, 0x0003);
	ft_frame_seal(&shape, frame);
	expect(length, FT_REASON_REFUSE_FRAGMENT);
	frame[23] = IPPROTO_ICMP; /* no inspected service speaks it */
	ft_frame_seal(&shape, frame);
	expect(length, FT_REASON_PASS_UNINSPECTED);
}

static void tagged_frames_to_inspected_services_are_refused(void **state)
{
	for (int other = 0; other < 2; other++) {
		size_t length = segment(other ? 81 : 80, 20);
		memmove(frame + 16, frame + 12, length - 12);
		ft_store16(frame + 12, 0x8100);
		ft_store16(frame + 14, 7);
		expect(length + 4, other ? FT_REASON_PASS_UNINSPECTED : FT_REASON_REFUSE_VLAN);
	}
}

static void jumbo_frames_to_inspected_services_are_refused(void **state)
{
	expect(segment(80, 2000), FT_REASON_REFUSE_JUMBO);
	expect(segment(81, 2000), FT_REASON_PASS_UNINSPECTED);
}

static void ipv6_to_inspected_services_is_refused(void **state)
{
	memset(frame, 0, sizeof(frame));
	memcpy(frame, (uint8_t[]){2, 0, 0, 0, 0, 1}, 6);
	ft_store16(frame + 12, 0x86dd);
	frame[14] = 0x60;
	ft_store16(frame + 18, 20);
	frame[20] = IPPROTO_TCP;
	frame[54 + 12] = 5 << 4;
	ft_store16(frame + 56, 80);
	expect(74, FT_REASON_REFUSE_IPV6);
	ft_store16(frame + 56, 81);
	expect(74, FT_REASON_PASS_UNINSPECTED);
	frame[20] = IPPROTO_FRAGMENT; /* the port may be anything */
	expect(74, FT_REASON_REFUSE_IPV6);
	frame[20] = IPPROTO_ICMPV6;
	expect(74, FT_REASON_PASS_UNINSPECTED);
}

static void observing_breaks_no_traffic(void **state)
{
	expect(segment(80, 2000), FT_REASON_PASS_UNSEEN); /* jumbo */
	size_t length = segment(80, 20);
	struct ft_frame shape = {.kind = FT_FRAME_IPV4, .ip = 14};
	ft_store16(frame + 20, 0x2000);
	ft_frame_seal(&shape, frame);
	expect(length, FT_REASON_PASS_UNSEEN);
	frame[23] = IPPROTO_UDP; /* the scene's other service enforces */
	ft_frame_seal(&shape, frame);
	expect(length, FT_REASON_REFUSE_FRAGMENT);
	length = segment(80, 20);
	memmove(frame + 16, frame + 12, length - 12);
	ft_store16(frame + 12, 0x8100);
	ft_store16(frame + 14, 7);
	expect(length + 4, FT_REASON_PASS_UNSEEN);
	/* Nor does a full flow table. */
	for (unsigned i = 0; i < 600; i++) {
		s.client_port = (uint16_t)(1000 + i);
		scene_client(&s, 1, 1, FT_TCP_ACK, "hello", 5);
		assert_int_equal(s.guest_count, 1);
		scene_forget(&s);
	}
	assert_int_equal(scene_count(&s, FT_REASON_DROP_FLOW_TABLE), 0);
	assert_true(scene_count(&s, FT_REASON_PASS_UNSEEN) > 100);
}

static void another_address_of_the_guest_is_no_way_around(void **state)
{
	size_t length = segment(80, 4);
	ft_store32(frame + 30, 0x0a0002ffu);
	struct ft_frame shape = {.kind = FT_FRAME_IPV4,
				 .transport = true,
				 .protocol = IPPROTO_TCP,
				 .ip = 14,
				 .l4 = 34,
				 .payload = 54,
				 .payload_length = 4};
	ft_frame_seal(&shape, frame);
	expect(length, FT_REASON_DROP_NO_FLOW);
}

static void frames_for_others_are_not_delivered(void **state)
{
	size_t length = segment(81, 4);
	frame[5] = 99;
	expect(length, FT_REASON_DROP_NOT_OURS);
	memset(frame, 0xff, 6);
	expect(length, FT_REASON_PASS_UNINSPECTED);
}

static void broken_frames_have_their_reasons(void **state)
{
	size_t length = segment(81, 20);
	expect(30, FT_REASON_DROP_RUNT);
	frame[24] ^= 1;
	expect(length, FT_REASON_DROP_CHECKSUM);
	segment(81, 20);
	frame[46] = 1 << 4;
	expect(length, FT_REASON_DROP_MALFORMED);
}

static void a_guest_that_does_not_take_frames_costs_only_itself(void **state)
{
	size_t length = segment(81, 1000);
	unsigned sent = 0;
	for (; !scene_count(&s, FT_REASON_DROP_RING_FULL) && sent < 10000; sent++)
		ft_gate_wire(s.gate, 0, frame, length);
	assert_true(sent > 1000 && sent < 10000);
	assert_int_equal(scene_count(&s, FT_REASON_PASS_UNINSPECTED), sent - 1);
	/* The other way still works. */
	struct iovec part = {frame, scene_build(&s, false, 1, 1, FT_TCP_ACK, "x", 1, frame)};
	assert_int_equal(ft_ring_put(&s.vmm.tx, FT_LINK_FRAME, &part, 1), 0);
	assert_int_equal(ft_gate_guest(s.gate, 10), 1);
	assert_int_equal(s.client_count, 1);
}

static void a_flooding_guest_is_taken_in_portions(void **state)
{
	uint8_t out[2048];
	struct iovec part = {out, scene_build(&s, false, 1, 1, FT_TCP_ACK, "x", 1, out)};
	for (int i = 0; i < 200; i++)
		assert_int_equal(ft_ring_put(&s.vmm.tx, FT_LINK_FRAME, &part, 1), 0);
	/* Between two portions the wire, time and the channel have their turn. */
	assert_int_equal(ft_gate_guest(s.gate, 50), 50);
	assert_int_equal(s.client_count, 50);
}

static void syn(uint16_t port)
{
	s.client_port = port;
	ft_gate_wire(s.gate, 0, frame, scene_build(&s, true, 0, 0, FT_TCP_SYN, "", 0, frame));
	scene_pass(&s, 0);
	scene_forget(&s);
}

/* A flood of connections that nobody means to use fills the flow table; who is connected stays so, and who comes meanwhile
 * gets in. */
static void a_flood_of_connections_shuts_nobody_out(void **state)
{
	s.client_port = 40000;
	scene_connect(&s);
	for (unsigned i = 0; i < 2000; i++)
		syn((uint16_t)(1000 + i));
	s.client_port = 50000;
	scene_connect(&s);
	scene_text(&s, 1, "hello");
	assert_string_equal(scene_taken(&s), "hello");
	for (unsigned i = 0; i < 2000; i++)
		syn((uint16_t)(10000 + i));
	for (uint16_t port = 40000; port <= 50000; port += 10000) {
		s.client_port = port;
		scene_client(&s, port == 40000 ? 1 : 6, 1, FT_TCP_ACK, "more", 4);
		assert_int_equal(s.guest_count, 1);
		scene_forget(&s);
	}
	assert_int_equal(scene_count(&s, FT_REASON_DROP_FLOW_TABLE), 0);
	assert_int_equal(scene_count(&s, FT_REASON_DROP_NO_FLOW), 0);
}

/* Connections in use are not given up for new ones: these are refused until there is room. */
static void a_table_of_open_connections_takes_no_more(void **state)
{
	for (unsigned i = 0; i < 256 && !scene_count(&s, FT_REASON_DROP_FLOW_TABLE); i++) {
		s.client_port = (uint16_t)(1000 + i);
		scene_connect(&s);
	}
	for (unsigned i = 0; i < 600; i++)
		syn((uint16_t)(20000 + i));
	assert_true(scene_count(&s, FT_REASON_DROP_FLOW_TABLE) > 100);
	s.client_port = 1000;
	scene_text(&s, 1, "hello");
	assert_string_equal(scene_taken(&s), "hello");
}

static size_t findings(void)
{
	size_t count = 0, i;
	json_t *record;
	json_array_foreach(s.records, i, record)
	    count += !strcmp(json_string_value(json_object_get(record, "op")), "event");
	return count;
}

/* A guest's process that says hours pass between its events does not fill the feed. */
static void findings_are_bounded_by_our_time(void **state)
{
	for (int round = 1; round <= 2; round++) {
		for (uint64_t hour = 1; hour <= 200; hour++) {
			uint8_t buffer[FT_EVENT_MAX];
			struct ft_event event = {.type = FT_EVENT_PANIC,
						 .role = FT_ROLE_LIVE,
						 .vtime_ns = ((uint64_t)round * 1000 + hour) * 3600000 * MS,
						 .pid = -1};
			size_t length = ft_event_build(buffer, &event, "not syncing", NULL);
			assert_int_equal(send(s.vmm.events, buffer, length, 0), (int)length);
			scene_pass(&s, 0);
		}
		assert_int_equal(findings(), round * 16);
		assert_non_null(strstr(s.log, "more findings"));
		scene_pass(&s, 10000 * MS);
	}
}

static void a_port_can_be_used_again(void **state)
{
	scene_connect(&s);
	scene_text(&s, 1, "first");
	/* The client forgot the connection and begins another from the same port; the guest answers the new one. */
	uint8_t syn[128];
	size_t length = scene_build(&s, true, 70000, 0, FT_TCP_SYN, "", 0, syn);
	scene_frame(&s, syn, length);
	scene_guest(&s, 0, 70001, FT_TCP_SYN | FT_TCP_ACK, "", 0);
	s.live.length = 0;
	scene_client(&s, 70001, 1, FT_TCP_ACK, "second", 6);
	assert_string_equal(scene_taken(&s), "second");
	/* And the old numbers mean nothing any more. */
	scene_text(&s, 6, "EVIL");
	assert_string_equal(scene_taken(&s), "second");
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, open_scene, close_scene)
	const struct CMUnitTest tests[] = {
	    T(fragments_to_inspected_protocols_are_refused),
	    T(tagged_frames_to_inspected_services_are_refused),
	    T(jumbo_frames_to_inspected_services_are_refused),
	    T(ipv6_to_inspected_services_is_refused),
	    cmocka_unit_test_setup_teardown(observing_breaks_no_traffic, open_observing, close_scene),
	    T(another_address_of_the_guest_is_no_way_around),
	    T(frames_for_others_are_not_delivered),
	    T(broken_frames_have_their_reasons),
	    T(a_guest_that_does_not_take_frames_costs_only_itself),
	    T(a_flooding_guest_is_taken_in_portions),
	    T(a_flood_of_connections_shuts_nobody_out),
	    T(a_table_of_open_connections_takes_no_more),
	    T(findings_are_bounded_by_our_time),
	    T(a_port_can_be_used_again),
	};
	if (scene_start_eal())
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
