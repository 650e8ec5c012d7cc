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

/* The same with a timestamp option that says to be longer than the header. */
static size_t odd_segment(uint16_t port, size_t payload)
{
	struct ft_frame parsed;
	enum ft_reason why;
	s.timestamps = true;
	size_t length = segment(port, payload);
	s.timestamps = false;
	assert_int_equal(ft_frame_parse(&parsed, frame, length, &why), 0);
	assert_true(parsed.timestamp);
	frame[parsed.timestamp - 1] = 41;
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

static void odd_options_are_the_guests_business_where_nothing_is_inspected(void **state)
{
	expect(odd_segment(8080, 100), FT_REASON_PASS_UNINSPECTED);
	expect(odd_segment(80, 100), FT_REASON_DROP_MALFORMED);
	expect(odd_segment(80, 0), FT_REASON_DROP_MALFORMED);
	/* On a connection: neither the client's bytes nor the guest's. */
	scene_connect(&s);
	scene_text(&s, 1, "hello");
	expect(odd_segment(80, 100), FT_REASON_DROP_MALFORMED);
	struct ft_frame parsed;
	enum ft_reason why;
	s.timestamps = true;
	size_t length = scene_build(&s, false, 1, 6, FT_TCP_ACK, "hi", 2, frame);
	s.timestamps = false;
	assert_int_equal(ft_frame_parse(&parsed, frame, length, &why), 0);
	frame[parsed.timestamp - 1] = 41;
	struct iovec part = {frame, length};
	uint64_t before = scene_count(&s, FT_REASON_DROP_MALFORMED);
	ft_ring_put(&s.vmm.tx, FT_LINK_FRAME, &part, 1);
	scene_pass(&s, 0);
	assert_int_equal(scene_count(&s, FT_REASON_DROP_MALFORMED), before + 1);
	ft_store16(frame + 34, 8080);
	assert_int_equal(ft_frame_parse(&parsed, frame, length, &why), 0);
	ft_frame_seal(&parsed, frame);
	before = scene_count(&s, FT_REASON_PASS_OUTBOUND);
	ft_ring_put(&s.vmm.tx, FT_LINK_FRAME, &part, 1);
	scene_pass(&s, 0);
	assert_int_equal(scene_count(&s, FT_REASON_PASS_OUTBOUND), before + 1);
}

static void count_wire(size_t length, enum ft_reason reason)
{
	uint64_t before = scene_count(&s, reason);
	ft_gate_wire(s.gate, 0, frame, length);
	if (scene_count(&s, reason) != before + 1)
		fail_msg("%s was not counted", ft_reason_label(reason));
}

static void every_dress(void (*check)(void))
{
	for (unsigned i = 0; i < 6; i++) {
		s.six = i / 3;
		s.tags = i % 3;
		s.client_port++;
		s.live.length = 0;
		scene_forget(&s);
		check();
	}
	s.six = false;
	s.tags = 0;
}

static void held_dropped_and_reset(void)
{
	scene_connect(&s);
	scene_text(&s, 1, "hello");
	assert_string_equal(scene_taken(&s), "hello");
	scene_guest(&s, 1, 6, FT_TCP_ACK, "hi", 2);
	scene_client(&s, 6, 3, FT_TCP_ACK, "", 0);
	scene_forget(&s);
	scene_text(&s, 6, "EVIL");
	scene_pass(&s, 10 * MS);
	assert_true(s.request.go);
	/* The trial names the flow as it is. */
	assert_int_equal(ft_address_is_v4(&s.request.flow.client_ip), !s.six);
	assert_int_equal(s.request.flow.tags.list[0], s.tags == 2 ? 7 | FT_TAG_SERVICE : s.tags ? 5 : 0);
	assert_int_equal(s.request.flow.tags.list[1], s.tags == 2 ? 5 : 0);
	scene_answer(&s, true);
	assert_string_equal(scene_taken(&s), "hello");
	/* Both ends get a reset at exactly the number that they expect, with the flow's tags. */
	const struct wire *to_guest = &s.to_guest[s.guest_count - 1], *to_client = &s.to_client[s.client_count - 1];
	assert_true(to_guest->frame.flags & FT_TCP_RST);
	assert_int_equal(to_guest->frame.sequence, CLIENT_ISN + 6);
	assert_true(to_client->frame.flags & FT_TCP_RST);
	assert_int_equal(to_client->frame.sequence, GUEST_ISN + 3);
	assert_int_equal(to_client->frame.ip, 14 + 4 * s.tags);
	assert_memory_equal(&to_client->frame.tags, &s.request.flow.tags, sizeof(struct ft_tags));
	assert_memory_equal(&to_guest->frame.tags, &s.request.flow.tags, sizeof(struct ft_tags));
	assert_memory_equal(to_client->data, "\2\0\0\0\0\x09", 6);
	assert_int_equal(to_client->frame.kind, s.six ? FT_FRAME_IPV6 : FT_FRAME_IPV4);
	const char *client = json_string_value(json_object_get(json_object_get(scene_record(&s, "hold"), "flow"), "client"));
	assert_string_equal(client, s.six ? "fd00:2::a00:209" : "10.0.2.9");
	assert_int_equal(json_integer_value(json_object_get(json_object_get(scene_record(&s, "hold"), "flow"), "vlan")),
			 s.tags == 2 ? 7 : s.tags ? 5 : 0);
}

static void every_family_and_tag_is_inspected_held_and_reset(void **state)
{
	every_dress(held_dropped_and_reset);
}

static void another_vlan_is_another_flow(void **state)
{
	s.tags = 1;
	scene_connect(&s);
	s.tags = 2;
	uint64_t before = scene_count(&s, FT_REASON_DROP_NO_FLOW);
	scene_text(&s, 1, "hello");
	assert_int_equal(scene_count(&s, FT_REASON_DROP_NO_FLOW), before + 1);
	/* A tag that only says a priority names no VLAN: a guest takes it off, so it is the same flow. */
	s.tags = 0;
	s.client_port++;
	scene_connect(&s);
	size_t length = scene_build(&s, true, 1, 1, FT_TCP_ACK, "hello", 5, frame);
	memmove(frame + 16, frame + 12, length - 12);
	ft_store32(frame + 12, 0x8100a000);
	scene_frame(&s, frame, length + 4);
	assert_string_equal(scene_taken(&s), "hello");
}

static void attack_in_fragments(void)
{
	scene_connect(&s);
	s.fragment = 24;
	scene_text(&s, 1, "a harmless start, then EVIL at the end of it");
	s.fragment = 0;
	scene_pass(&s, 10 * MS);
	assert_true(s.request.go);
	assert_int_equal(s.request.frames, 1); /* it fits, so it goes as one */
	scene_answer(&s, true);
	assert_string_equal(scene_taken(&s), "");
}

static void an_attack_in_fragments_is_held_whole(void **state)
{
	every_dress(attack_in_fragments);
	s.backwards = true;
	every_dress(attack_in_fragments);
}

/* A piece of a segment with these bytes. */
static size_t piece_of(const char *text, uint32_t from, uint32_t bytes, bool more)
{
	uint8_t whole[512];
	size_t length = scene_build(&s, true, 1, 1, FT_TCP_ACK, text, strlen(text), whole);
	return scene_piece(&s, whole, length, from, bytes, more, frame);
}

static void overlaps(void)
{
	const char *good = "twenty bytes and then some more of them", *evil = "EVIL bytes! and then some more of them";
	scene_connect(&s);
	uint64_t passed = scene_count(&s, FT_REASON_PASS_INSPECTED);
	s.identification++;
	count_wire(piece_of(good, 0, 32, true), FT_REASON_HOLD_FRAGMENT);
	count_wire(piece_of(good, 0, 32, true), FT_REASON_DROP_HOLD_DUPLICATE);
	uint64_t before = scene_count(&s, FT_REASON_DROP_FRAGMENT_OVERLAP);
	ft_gate_wire(s.gate, 0, frame, piece_of(evil, 16, 16, true));
	assert_int_equal(scene_count(&s, FT_REASON_DROP_FRAGMENT_OVERLAP), before + 2); /* with what was kept */
	/* And so all that still comes of it, until it is forgotten. */
	count_wire(piece_of(good, 32, 32, false), FT_REASON_DROP_FRAGMENT_OVERLAP);
	count_wire(piece_of(good, 0, 56, true), FT_REASON_DROP_FRAGMENT_OVERLAP);
	scene_pass(&s, 6000 * MS);
	assert_int_equal(scene_count(&s, FT_REASON_PASS_INSPECTED), passed);
	assert_string_equal(scene_taken(&s), "");
	/* Bytes behind the end. */
	s.identification++;
	count_wire(piece_of(good, 24, 8, false), FT_REASON_HOLD_FRAGMENT);
	before = scene_count(&s, FT_REASON_DROP_FRAGMENT_OVERLAP);
	ft_gate_wire(s.gate, 0, frame, piece_of(good, 32, 8, true));
	assert_int_equal(scene_count(&s, FT_REASON_DROP_FRAGMENT_OVERLAP), before + 2);
}

static void overlapping_fragments_give_the_datagram_up(void **state)
{
	every_dress(overlaps);
}

static void tiny_and_late_fragments(void)
{
	s.identification++;
	count_wire(piece_of("hello, world", 0, 16, true), FT_REASON_DROP_FRAGMENT_TINY);
	s.identification++;
	count_wire(piece_of("hello, world", 0, 24, true), FT_REASON_HOLD_FRAGMENT);
	uint64_t late = scene_count(&s, FT_REASON_DROP_FRAGMENT_TIMEOUT);
	scene_pass(&s, 6000 * MS);
	assert_int_equal(scene_count(&s, FT_REASON_DROP_FRAGMENT_TIMEOUT), late + 1);
	count_wire(piece_of("hello, world", 24, 8, false), FT_REASON_HOLD_FRAGMENT);
	scene_pass(&s, 6000 * MS);
}

static void tiny_and_late_fragments_have_their_reasons(void **state)
{
	every_dress(tiny_and_late_fragments);
}

static void one_sender_cannot_use_the_fragment_table_up(void **state)
{
	for (int six = 0; six < 2; six++) {
		s.six = six;
		for (unsigned i = 0; i < 100; i++) {
			s.identification++;
			size_t length = piece_of("0123456789abcdef", 0, 24, true);
			if (six) /* a host has a whole network of addresses */
				frame[14 + 23] = (uint8_t)i;
			ft_gate_wire(s.gate, 0, frame, length);
		}
		assert_int_equal(scene_count(&s, FT_REASON_HOLD_FRAGMENT), 16 + 16 * six);
		assert_int_equal(scene_count(&s, FT_REASON_DROP_FRAGMENT_LIMIT), 84 + 84 * six);
	}
	/* There is room for somebody else. */
	s.six = true;
	s.identification++;
	size_t length = piece_of("0123456789abcdef", 0, 24, true);
	frame[14 + 15] = 77;
	count_wire(length, FT_REASON_HOLD_FRAGMENT);
	s.six = false;
	/* More pieces than a datagram may have. */
	scene_pass(&s, 6000 * MS);
	s.identification++;
	char text[200];
	memset(text, 'x', sizeof(text));
	text[199] = 0;
	for (uint32_t i = 0; i < 8; i++)
		count_wire(piece_of(text, i ? 16 + 8 * i : 0, i ? 8 : 24, true), FT_REASON_HOLD_FRAGMENT);
	uint64_t before = scene_count(&s, FT_REASON_DROP_FRAGMENT_LIMIT);
	ft_gate_wire(s.gate, 0, frame, piece_of(text, 80, 8, true));
	assert_int_equal(scene_count(&s, FT_REASON_DROP_FRAGMENT_LIMIT), before + 9);
}

static void fragments_of_what_is_not_inspected_pass_unchanged(void)
{
	uint8_t whole[4096], first[4096], second[4096];
	static const uint8_t bytes[2500];
	s.identification++;
	size_t length = scene_datagram(&s, 54, bytes, sizeof(bytes), whole);
	size_t one = scene_piece(&s, whole, length, 0, 1400, true, first);
	size_t two = scene_piece(&s, whole, length, 1400, 1400, false, second);
	/* In the order in which they came, byte for byte. */
	memcpy(frame, second, two);
	count_wire(two, FT_REASON_HOLD_FRAGMENT);
	uint64_t passed = scene_count(&s, FT_REASON_PASS_UNINSPECTED);
	memcpy(frame, first, one);
	ft_gate_wire(s.gate, 0, frame, one);
	scene_pass(&s, 0);
	assert_int_equal(scene_count(&s, FT_REASON_PASS_UNINSPECTED), passed + 2);
	assert_int_equal(s.guest_count, 2);
	assert_int_equal(s.to_guest[0].length, two);
	assert_memory_equal(s.to_guest[0].data, second, two);
	assert_int_equal(s.to_guest[1].length, one);
	assert_memory_equal(s.to_guest[1].data, first, one);
}

static void uninspected_fragments(void **state)
{
	every_dress(fragments_of_what_is_not_inspected_pass_unchanged);
}

/* A datagram larger than the guest's MTU: tried and released in the same pieces, which are not the sender's. */
static void a_large_datagram(void)
{
	uint8_t whole[4096], pieces[2][FT_FRAME_MOST], joined[4096];
	size_t lengths[2], at = 0;
	char bytes[2800];
	memset(bytes, 'x', sizeof(bytes));
	memcpy(bytes + 2790, "EVIL", 4);
	s.identification++;
	size_t length = scene_datagram(&s, 53, bytes, sizeof(bytes), whole);
	for (uint32_t from = 0; from < sizeof(bytes) + 8; from += 512) {
		size_t n = scene_piece(&s, whole, length, from, 512, from + 512 < sizeof(bytes) + 8, frame);
		ft_gate_wire(s.gate, 0, frame, n);
	}
	scene_pass(&s, 10 * MS);
	assert_true(s.request.go);
	assert_int_equal(s.request.flow.bytes, sizeof(bytes));
	assert_int_equal(s.request.begin.frames, 2);
	assert_int_equal(s.request.frames, 2);
	for (int i = 0; i < 2; i++) {
		lengths[i] = s.request.list[i].length;
		memcpy(pieces[i], s.request.list[i].data, lengths[i]);
		const struct ft_frame *piece = &s.request.list[i].frame;
		assert_true(piece->fragment);
		assert_int_equal(piece->fragment_offset, at);
		assert_true(lengths[i] <= 1500u + piece->ip);
		memcpy(joined + at, pieces[i] + piece->payload, piece->payload_length);
		at += piece->payload_length;
		/* No sender chooses this number. */
		assert_int_not_equal(piece->identification, s.identification);
	}
	assert_int_equal(at, sizeof(bytes) + 8);
	assert_memory_equal(joined + 8, bytes, sizeof(bytes));
	scene_answer(&s, false);
	assert_int_equal(s.guest_count, 2);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(s.to_guest[i].length, lengths[i]);
		assert_memory_equal(s.to_guest[i].data, pieces[i], lengths[i]);
	}
}

static void large_datagrams_are_tried_as_they_are_released(void **state)
{
	every_dress(a_large_datagram);
}

static void headers_that_hide_the_port_are_refused(void **state)
{
	static const struct {
		uint8_t next, bytes[2][8];
		int count;
		enum ft_reason reason;
	} cases[] = {
	    {IPPROTO_DSTOPTS, {{IPPROTO_TCP, 0, 1, 4}}, 1, FT_REASON_DROP_NO_FLOW},
	    {IPPROTO_HOPOPTS, {{IPPROTO_DSTOPTS, 0, 1, 4}, {IPPROTO_TCP, 0, 1, 4}}, 2, FT_REASON_DROP_NO_FLOW},
	    {IPPROTO_ROUTING, {{IPPROTO_TCP, 0, 4, 0}}, 1, FT_REASON_DROP_NO_FLOW},
	    {IPPROTO_ROUTING, {{IPPROTO_TCP, 0, 4, 1}}, 1, FT_REASON_REFUSE_EXTENSION},
	    {IPPROTO_FRAGMENT, {{IPPROTO_TCP, 0, 0, 0}}, 1, FT_REASON_DROP_NO_FLOW},
	    {IPPROTO_FRAGMENT, {{IPPROTO_FRAGMENT}, {IPPROTO_TCP}}, 2, FT_REASON_DROP_MALFORMED},
	    {IPPROTO_DSTOPTS, {{IPPROTO_HOPOPTS, 0, 1, 4}, {IPPROTO_TCP, 0, 1, 4}}, 2, FT_REASON_DROP_MALFORMED},
	    {IPPROTO_DSTOPTS, {{IPPROTO_TCP, 9, 1, 4}}, 1, FT_REASON_DROP_RUNT},
	    {135, {{IPPROTO_TCP}}, 1, FT_REASON_REFUSE_EXTENSION},
	    {253, {{IPPROTO_TCP}}, 1, FT_REASON_REFUSE_EXTENSION},
	    {IPPROTO_ESP, {{IPPROTO_TCP}}, 1, FT_REASON_PASS_IPSEC},
	    {IPPROTO_DSTOPTS, {{IPPROTO_AH, 0, 1, 4}, {IPPROTO_TCP}}, 2, FT_REASON_PASS_IPSEC},
	};
	s.six = true;
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		size_t extra = 8 * (size_t)cases[i].count, length = scene_build(&s, true, 1, 1, FT_TCP_ACK, "EVIL", 4, frame);
		memmove(frame + 54 + extra, frame + 54, length - 54);
		memcpy(frame + 54, cases[i].bytes, extra);
		frame[20] = cases[i].next;
		ft_store16(frame + 18, (uint16_t)(length - 54 + extra));
		count_wire(length + extra, cases[i].reason);
	}
	/* More headers than anybody needs. */
	size_t length = scene_build(&s, true, 1, 1, FT_TCP_ACK, "EVIL", 4, frame);
	memmove(frame + 54 + 72, frame + 54, length - 54);
	for (int i = 0; i < 9; i++)
		memcpy(frame + 54 + 8 * i, (uint8_t[8]){i == 8 ? IPPROTO_TCP : IPPROTO_DSTOPTS, 0, 1, 4}, 8);
	frame[20] = IPPROTO_DSTOPTS;
	ft_store16(frame + 18, (uint16_t)(length - 54 + 72));
	count_wire(length + 72, FT_REASON_REFUSE_EXTENSION);
	/* An IPv4 connection's name in an IPv6 packet. */
	length = scene_build(&s, true, 1, 1, FT_TCP_ACK, "EVIL", 4, frame);
	memcpy(frame + 22, ft_address_mapped, 12);
	count_wire(length, FT_REASON_DROP_MALFORMED);
	s.six = false;
}

/* An ICMP error that quotes the guest's segment with this number. */
static size_t icmp_error(uint8_t type, uint8_t code, uint32_t sequence)
{
	uint8_t quoted[256];
	size_t ip = 14 + 4 * s.tags, header = s.six ? 40 : 20;
	scene_build(&s, false, sequence, 1, FT_TCP_ACK, "", 0, quoted);
	scene_build(&s, true, 0, 0, FT_TCP_ACK, "", 0, frame);
	uint8_t *icmp = frame + ip + header;
	memset(icmp, 0, 8);
	icmp[0] = type;
	icmp[1] = code;
	memcpy(icmp + 8, quoted + ip, header + 8);
	size_t length = 8 + header + 8;
	struct ft_frame shape = {.kind = s.six ? FT_FRAME_IPV6 : FT_FRAME_IPV4, .ip = (uint16_t)ip};
	if (s.six) {
		frame[ip + 6] = IPPROTO_ICMPV6;
		ft_store16(frame + ip + 4, (uint16_t)length);
	} else {
		frame[ip + 9] = IPPROTO_ICMP;
		ft_store16(frame + ip + 2, (uint16_t)(20 + length));
		ft_frame_seal(&shape, frame);
	}
	return ip + header + length;
}

static void icmp_errors(void)
{
	const uint8_t unreachable = s.six ? 1 : 3, port = s.six ? 4 : 3, big = s.six ? 2 : 3, big_code = s.six ? 0 : 4;
	count_wire(icmp_error(unreachable, port, 1), FT_REASON_DROP_ICMP_NO_FLOW);
	count_wire(icmp_error(big, big_code, 1), FT_REASON_DROP_ICMP_NO_FLOW);
	scene_connect(&s);
	scene_guest(&s, 1, 1, FT_TCP_ACK, "hello", 5);
	count_wire(icmp_error(unreachable, port, 1), FT_REASON_PASS_ICMP);
	count_wire(icmp_error(big, big_code, 1), FT_REASON_PASS_ICMP);
	/* Numbers that are not under way: somebody guesses. */
	count_wire(icmp_error(unreachable, port, 7), FT_REASON_DROP_ICMP_NO_FLOW);
	count_wire(icmp_error(big, big_code, 7), FT_REASON_DROP_ICMP_NO_FLOW);
	scene_text(&s, 1, "EVIL");
	/* A client that waits for us is not gone; a path that has become narrow is narrow all the same. */
	count_wire(icmp_error(unreachable, port, 1), FT_REASON_DROP_ICMP_HELD);
	count_wire(icmp_error(s.six ? 3 : 11, 0, 1), FT_REASON_DROP_ICMP_HELD);
	count_wire(icmp_error(big, big_code, 1), FT_REASON_PASS_ICMP);
	scene_pass(&s, 10 * MS);
	scene_answer(&s, false);
	assert_string_equal(scene_taken(&s), "EVIL");
	/* Not about an inspected service, and no error at all. */
	size_t length = icmp_error(unreachable, port, 1);
	ft_store16(frame + 14 + 4 * s.tags + 2 * (s.six ? 40 : 20) + 8, 81);
	count_wire(length, FT_REASON_PASS_UNINSPECTED);
	count_wire(icmp_error(s.six ? 135 : 8, 0, 1), FT_REASON_PASS_UNINSPECTED);
}

static void icmp_errors_pass_where_they_are_true(void **state)
{
	every_dress(icmp_errors);
}

static void frames_above_the_guests_mtu_are_refused(void **state)
{
	const struct ft_frame shape = {.kind = FT_FRAME_IPV4, .ip = 14};
	for (uint16_t port = 80; port < 82; port++) {
		size_t length = segment(port, 2000);
		ft_store16(frame + 20, 0x4000); /* do not fragment */
		ft_frame_seal(&shape, frame);
		expect(length, FT_REASON_DROP_OVERSIZE);
	}
	expect(segment(81, 1460), FT_REASON_PASS_UNINSPECTED);
	/* What a router may cut is cut, under a number that the sender does not choose. */
	size_t length = segment(81, 2000);
	uint64_t passed = scene_count(&s, FT_REASON_PASS_UNINSPECTED);
	ft_gate_wire(s.gate, 0, frame, length);
	scene_pass(&s, 0);
	assert_int_equal(scene_count(&s, FT_REASON_PASS_UNINSPECTED), passed + 1);
	assert_int_equal(s.guest_count, 2);
	assert_true(s.to_guest[0].frame.fragment && s.to_guest[0].frame.more_fragments);
	assert_int_equal(s.to_guest[0].frame.identification, s.to_guest[1].frame.identification);
	s.six = true;
	uint8_t six[4096];
	length = scene_build(&s, true, 1, 1, FT_TCP_ACK, frame, 2000, six);
	memcpy(frame, six, length);
	count_wire(length, FT_REASON_DROP_OVERSIZE);
}

static void observing_breaks_no_traffic(void **state)
{
	size_t length = segment(80, 20);
	struct ft_frame shape = {.kind = FT_FRAME_IPV4, .ip = 14};
	ft_store16(frame + 20, 0x2000);
	ft_frame_seal(&shape, frame);
	expect(length, FT_REASON_PASS_UNSEEN);
	frame[23] = IPPROTO_UDP; /* the scene's other service enforces */
	ft_frame_seal(&shape, frame);
	expect(length, FT_REASON_HOLD_FRAGMENT);
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
	    T(every_family_and_tag_is_inspected_held_and_reset),
	    T(another_vlan_is_another_flow),
	    T(an_attack_in_fragments_is_held_whole),
	    T(overlapping_fragments_give_the_datagram_up),
	    T(tiny_and_late_fragments_have_their_reasons),
	    T(one_sender_cannot_use_the_fragment_table_up),
	    T(uninspected_fragments),
	    T(large_datagrams_are_tried_as_they_are_released),
	    T(headers_that_hide_the_port_are_refused),
	    T(icmp_errors_pass_where_they_are_true),
	    T(frames_above_the_guests_mtu_are_refused),
	    cmocka_unit_test_setup_teardown(observing_breaks_no_traffic, open_observing, close_scene),
	    T(another_address_of_the_guest_is_no_way_around),
	    T(frames_for_others_are_not_delivered),
	    T(broken_frames_have_their_reasons),
	    T(odd_options_are_the_guests_business_where_nothing_is_inspected),
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
