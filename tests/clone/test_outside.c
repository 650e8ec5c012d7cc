#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <arpa/inet.h>
#include <cmocka.h>

#include "clone/outside.h"

#define FIN   1
#define SYN   2
#define RST   4
#define ACK   16
#define DELAY 1000u

static struct ft_outside outside;
static struct ft_trial_flow flow;
static const uint8_t guest_mac[6] = {0x02, 0, 0, 0, 0, 1}, client_mac[6] = {0x02, 0, 0, 0, 0, 9};
static uint8_t frame[1514];
static size_t frame_length;
static uint64_t now;

static uint32_t ip(const char *text)
{
	struct in_addr a;
	assert_int_equal(inet_pton(AF_INET, text, &a), 1);
	return a.s_addr;
}

/* How frames look on the wire. The tests speak untagged IPv4; dressed() and bare() translate. */
struct way {
	bool six;
	unsigned tags;
};
static struct way way;

static const uint8_t six_prefix[12] = {0xfd, 0, 0, 2};

static struct ft_address address(const char *text)
{
	uint32_t four = ip(text);
	struct ft_address a = ft_address_v4(&four);
	if (way.six)
		memcpy(a.bytes, six_prefix, 12);
	return a;
}

static int fresh(void **state)
{
	way = state && *state ? *(const struct way *)*state : (struct way){0};
	struct ft_outside_config config = {
	    .guest_ip = ip("10.0.2.15"), .tcp = FT_SINK_REFUSE, .delay_ns = DELAY};
	config.guest_ip6 = ft_address_v6((const uint8_t[16]){0xfd, 0, 0, 2, [12] = 10, 0, 2, 15});
	flow = (struct ft_trial_flow){.client_ip = address("10.0.2.9"),
				      .server_ip = address("10.0.2.15"),
				      .tags = {{way.tags == 2 ? 7 | FT_TAG_SERVICE : way.tags ? 5 : 0,
						way.tags == 2 ? 5 : 0}},
				      .client_port = htons(50000),
				      .server_port = htons(80),
				      .protocol = 6,
				      .first_sequence = 1000,
				      .next_sequence = 1100,
				      .client_ack = 7000};
	memcpy(flow.client_mac, client_mac, 6);
	memset(&outside, 0xee, sizeof(outside));
	ft_outside_begin(&outside, &config, &flow, 1);
	now = 5000;
	return 0;
}

static void put16(uint8_t *p, unsigned v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static void put32(uint8_t *p, uint32_t v)
{
	put16(p, v >> 16);
	put16(p + 2, v & 0xffff);
}

static unsigned get16(const uint8_t *p)
{
	return (unsigned)p[0] << 8 | p[1];
}

static uint32_t get32(const uint8_t *p)
{
	return (uint32_t)get16(p) << 16 | get16(p + 2);
}

static uint16_t sum(const uint8_t *p, size_t n, uint32_t start)
{
	uint32_t s = start;
	for (size_t i = 0; i < n; i++)
		s += i & 1 ? p[i] : (uint32_t)p[i] << 8;
	while (s >> 16)
		s = (s & 0xffff) + (s >> 16);
	return (uint16_t)s;
}

static void ip_header(const char *from, const char *to, uint8_t protocol, size_t payload)
{
	memset(frame, 0, sizeof(frame));
	memcpy(frame, client_mac, 6);
	memcpy(frame + 6, guest_mac, 6);
	put16(frame + 12, 0x0800);
	frame[14] = 0x45;
	put16(frame + 16, (unsigned)(20 + payload));
	frame[22] = 64;
	frame[23] = protocol;
	uint32_t a = ip(from), b = ip(to);
	memcpy(frame + 26, &a, 4);
	memcpy(frame + 30, &b, 4);
	frame_length = 34 + payload;
}

static void tcp(const char *from, unsigned sport, const char *to, unsigned dport, uint32_t seq, uint32_t ack,
		int flags, size_t payload)
{
	ip_header(from, to, 6, 20 + payload);
	put16(frame + 34, sport);
	put16(frame + 36, dport);
	put32(frame + 38, seq);
	put32(frame + 42, ack);
	frame[46] = 0x50;
	frame[47] = (uint8_t)flags;
}

static size_t put_tags(uint8_t *to)
{
	if (way.tags == 2)
		put32(to, 0x88a80000 | 7);
	if (way.tags)
		put32(to + 4 * (way.tags - 1), 0x81000000 | 5);
	return 4 * way.tags;
}

/* The frame as it is on the wire. The outside trusts the guest's checksums, so none are made. */
static const uint8_t *dressed(size_t *length)
{
	static uint8_t wire[2000];
	size_t at = 12 + (memcpy(wire, frame, 12), put_tags(wire + 12)), rest = frame_length - 14;
	if (!way.six || get16(frame + 12) != 0x0800) {
		memcpy(wire + at, frame + 12, rest + 2);
		*length = at + 2 + rest;
		return wire;
	}
	put16(wire + at, 0x86dd);
	uint8_t *six = wire + at + 2;
	memset(six, 0, 40);
	six[0] = 0x60;
	put16(six + 4, (unsigned)rest - 20);
	six[6] = frame[23] == 1 ? 58 : frame[23];
	six[7] = 64;
	memcpy(six + 8, six_prefix, 12);
	memcpy(six + 20, frame + 26, 4);
	memcpy(six + 24, six_prefix, 12);
	memcpy(six + 36, frame + 30, 4);
	memcpy(six + 40, frame + 34, rest - 20);
	if (frame[23] == 1)
		six[40] = 128;
	*length = at + 42 + rest - 20;
	return wire;
}

/* An answer as untagged IPv4 again; its tags and the IPv6 checksum are looked at on the way. */
static const uint8_t *bare(const uint8_t *wire, size_t *length)
{
	static uint8_t back[2000];
	uint8_t tags[8];
	assert_memory_equal(wire + 12, tags, put_tags(tags));
	const uint8_t *rest = wire + 12 + 4 * way.tags;
	size_t n = *length - 12 - 4 * way.tags;
	memcpy(back, wire, 12);
	memcpy(back + 12, rest, n);
	*length = 12 + n;
	if (get16(rest) != 0x86dd)
		return back;
	const uint8_t *six = rest + 2;
	n -= 42;
	assert_int_equal(get16(six + 4), n);
	assert_int_equal(sum(six + 40, n, sum(six + 8, 32, 0) + six[6] + (uint32_t)n), 0xffff);
	memset(back + 12, 0, 22);
	put16(back + 12, 0x86dd);
	back[14] = 0x45;
	back[23] = six[6];
	memcpy(back + 26, six + 20, 4);
	memcpy(back + 30, six + 36, 4);
	memcpy(back + 34, six + 40, n);
	*length = 34 + n;
	return back;
}

static void guest_takes_the_wire(void)
{
	size_t length;
	const uint8_t *wire = dressed(&length);
	/* Exactly its bytes, so that a sanitizer sees a read beyond. */
	uint8_t *exact = malloc(length);
	memcpy(exact, wire, length);
	ft_outside_take(&outside, exact, length, now);
	free(exact);
}

static void guest_sends(uint32_t seq, uint32_t ack, int flags, size_t payload)
{
	tcp("10.0.2.15", 80, "10.0.2.9", 50000, seq, ack, flags, payload);
	guest_takes_the_wire();
}

/* The next answer; also checks that it does not come before its delay and that its checksums are right. */
static const uint8_t *answered(size_t *length)
{
	assert_null(ft_outside_next(&outside, now + DELAY - 1, length));
	const uint8_t *f = ft_outside_next(&outside, now + DELAY, length);
	assert_non_null(f);
	f = bare(f, length);
	if (get16(f + 12) == 0x0800) {
		assert_int_equal(get16(f + 16), *length - 14);
		assert_int_equal(sum(f + 14, 20, 0), 0xffff);
		size_t n = *length - 34;
		if (f[23] == 6 || f[23] == 17)
			assert_int_equal(sum(f + 34, n, sum(f + 26, 8, 0) + f[23] + (uint32_t)n), 0xffff);
		else
			assert_int_equal(sum(f + 34, n, 0), 0xffff);
	}
	return f;
}

static void silent(void)
{
	size_t length;
	assert_null(ft_outside_next(&outside, UINT64_MAX - 1, &length));
	assert_true(ft_outside_due(&outside) == UINT64_MAX);
}

static void deliver_held(void)
{
	tcp("10.0.2.9", 50000, "10.0.2.15", 80, 1000, 7000, ACK, 100);
	size_t held_length;
	const uint8_t *held = dressed(&held_length);
	ft_outside_deliver(&outside, 0, held, held_length);
}

static void the_guests_acknowledgement_is_the_proof(void **state)
{
	deliver_held();
	assert_int_equal(ft_outside_taken(&outside, 0), 0);
	guest_sends(7000, 1040, ACK, 0);
	assert_int_equal(ft_outside_taken(&outside, 0), 40);
	guest_sends(7000, 1100, ACK, 0);
	assert_int_equal(ft_outside_taken(&outside, 0), 100);
	silent();
}

static void a_reset_or_an_impossible_acknowledgement_proves_nothing(void **state)
{
	deliver_held();
	guest_sends(7000, 1100, RST | ACK, 0);
	assert_int_equal(ft_outside_taken(&outside, 0), 0);
	fresh(NULL);
	deliver_held();
	guest_sends(7000, 5000, ACK, 0);
	assert_int_equal(ft_outside_taken(&outside, 0), 0);
	/* Not delivered yet: nothing to acknowledge. */
	fresh(NULL);
	guest_sends(7000, 1100, ACK, 0);
	assert_int_equal(ft_outside_taken(&outside, 0), 0);
}

/* Held frames that repeat bytes under earlier numbers: the guest acknowledges up to what it had been given before. */
static void what_was_sent_before_may_be_acknowledged_once_all_is_delivered(void **state)
{
	guest_sends(7000, 1100, ACK, 0);
	assert_int_equal(ft_outside_taken(&outside, 0), 0);
	ft_outside_delivered(&outside, 0);
	guest_sends(7000, 1101, ACK, 0);
	assert_int_equal(ft_outside_taken(&outside, 0), 0);
	guest_sends(7000, 1100, ACK, 0);
	assert_int_equal(ft_outside_taken(&outside, 0), 100);
}

static void what_the_guest_sends_is_acknowledged_after_the_delay(void **state)
{
	size_t length;
	deliver_held();
	guest_sends(7000, 1100, ACK, 500);
	assert_true(ft_outside_due(&outside) == now + DELAY);
	const uint8_t *f = answered(&length);
	assert_memory_equal(f, guest_mac, 6);
	assert_memory_equal(f + 6, client_mac, 6);
	assert_int_equal(get16(f + 34), 50000);
	assert_int_equal(get32(f + 38), 1100);
	assert_int_equal(get32(f + 42), 7500);
	assert_int_equal(f[47], ACK);
	assert_int_equal(get16(f + 48), 0xffff);
	silent();
}

static void bytes_in_flight_at_the_fork_count_as_received(void **state)
{
	size_t length;
	deliver_held();
	guest_sends(9000, 1100, ACK, 10);
	assert_int_equal(get32(answered(&length) + 42), 9010);
	/* An old segment again: still the newest acknowledgement. */
	guest_sends(7000, 1100, ACK, 10);
	assert_int_equal(get32(answered(&length) + 42), 9010);
}

static void a_closing_guest_gets_the_senders_fin_once(void **state)
{
	size_t length;
	deliver_held();
	guest_sends(7000, 1100, FIN | ACK, 5);
	const uint8_t *f = answered(&length);
	assert_int_equal(f[47], FIN | ACK);
	assert_int_equal(get32(f + 38), 1100);
	assert_int_equal(get32(f + 42), 7006);
	guest_sends(7006, 1101, ACK, 0);
	silent();
	assert_int_equal(ft_outside_taken(&outside, 0), 100);
	guest_sends(7000, 1100, FIN | ACK, 5);
	f = answered(&length);
	assert_int_equal(f[47], ACK);
	assert_int_equal(get32(f + 38), 1101);
}

static void a_held_fin_is_part_of_what_was_sent(void **state)
{
	size_t length;
	tcp("10.0.2.9", 50000, "10.0.2.15", 80, 1000, 7000, ACK | FIN, 100);
	size_t held_length;
	const uint8_t *held = dressed(&held_length);
	ft_outside_deliver(&outside, 0, held, held_length);
	guest_sends(7000, 1101, ACK, 0);
	assert_int_equal(ft_outside_taken(&outside, 0), 100);
	guest_sends(7000, 1101, FIN | ACK, 0);
	const uint8_t *f = answered(&length);
	assert_int_equal(f[47], ACK);
	assert_int_equal(get32(f + 38), 1101);
}

static void timestamps_are_echoed(void **state)
{
	size_t length;
	tcp("10.0.2.15", 80, "10.0.2.9", 50000, 7000, 1000, ACK, 12 + 10);
	frame[46] = 0x80;
	frame[54] = frame[55] = 1;
	frame[56] = 8;
	frame[57] = 10;
	put32(frame + 58, 0x11111111);
	put32(frame + 62, 0x22222222);
	guest_takes_the_wire();
	const uint8_t *f = answered(&length);
	assert_int_equal(length, 34 + 32);
	assert_int_equal(get32(f + 42), 7010);
	assert_int_equal(get32(f + 58), 0x22222222);
	assert_int_equal(get32(f + 62), 0x11111111);
}

static void keep_alive_probes_are_answered_and_pure_acknowledgements_are_not(void **state)
{
	size_t length;
	guest_sends(6999, 1000, ACK, 0);
	assert_int_equal(get32(answered(&length) + 42), 7000);
	guest_sends(7000, 1000, ACK, 0);
	silent();
}

static void outgoing_connections_meet_what_is_configured(void **state)
{
	size_t length;
	tcp("10.0.2.15", 40000, "192.0.2.1", 4444, 100, 0, SYN, 0);
	guest_takes_the_wire();
	const uint8_t *f = answered(&length);
	assert_int_equal(f[47], RST | ACK);
	assert_int_equal(get32(f + 42), 101);

	outside.config.tcp = FT_SINK_ACCEPT;
	tcp("10.0.2.15", 40000, "192.0.2.1", 4444, 100, 0, SYN, 0);
	guest_takes_the_wire();
	f = answered(&length);
	assert_int_equal(f[47], SYN | ACK);
	assert_int_equal(get32(f + 42), 101);
	uint32_t theirs = get32(f + 38) + 1;
	tcp("10.0.2.15", 40000, "192.0.2.1", 4444, 101, theirs, ACK, 64);
	guest_takes_the_wire();
	f = answered(&length);
	assert_int_equal(f[47], ACK);
	assert_int_equal(get32(f + 38), theirs);
	assert_int_equal(get32(f + 42), 165);

	outside.config.tcp = FT_SINK_SILENT;
	tcp("10.0.2.15", 40001, "192.0.2.1", 4444, 100, 0, SYN, 0);
	guest_takes_the_wire();
	silent();
}

#define SENDERS 3

static struct ft_trial_flow flows[SENDERS];
static void several(uint32_t count);

static void arp(const char *sender, const char *target, bool broadcast)
{
	memset(frame, 0, sizeof(frame));
	memset(frame, 0xff, 6);
	if (!broadcast)
		memcpy(frame, "\x02\x00\x00\x00\x00\x77", 6);
	memcpy(frame + 6, guest_mac, 6);
	put16(frame + 12, 0x0806);
	memcpy(frame + 14, "\0\1\x08\0\6\4\0\1", 8);
	memcpy(frame + 22, guest_mac, 6);
	uint32_t a = ip(sender), b = ip(target);
	memcpy(frame + 28, &a, 4);
	memcpy(frame + 38, &b, 4);
	frame_length = 42;
	guest_takes_the_wire();
}

static void arp_is_answered_for_others_and_never_for_the_guest(void **state)
{
	size_t length;
	uint32_t a = ip("10.0.2.1");
	arp("10.0.2.15", "10.0.2.1", true);
	const uint8_t *f = answered(&length);
	assert_int_equal(f[21], 2);
	assert_memory_equal(f + 22, client_mac, 6);
	assert_memory_equal(f + 28, &a, 4);
	assert_memory_equal(f, guest_mac, 6);
	arp("10.0.2.15", "10.0.2.1", false);
	assert_memory_equal(answered(&length) + 22, "\x02\x00\x00\x00\x00\x77", 6);
	/* A sender of a held flow is known by its own hardware address (IPv4 here alone), whoever else by the first one's. */
	if (!way.six) {
		several(SENDERS);
		arp("10.0.2.15", "10.0.2.8", true);
		assert_memory_equal(answered(&length) + 22, flows[2].client_mac, 6);
		several(2);
		arp("10.0.2.15", "10.0.2.8", true);
		assert_memory_equal(answered(&length) + 22, client_mac, 6);
	}
	arp("0.0.0.0", "10.0.2.15", true);
	arp("10.0.2.15", "10.0.2.15", true);
	arp("0.0.0.0", "10.0.2.20", true);
	silent();
}

static void dns(unsigned type)
{
	static const uint8_t name[] = "\3www\7example\3com";
	size_t n = 12 + sizeof(name) + 4;
	ip_header("10.0.2.15", "10.0.2.3", 17, 8 + n);
	put16(frame + 34, 33333);
	put16(frame + 36, 53);
	put16(frame + 38, (unsigned)(8 + n));
	put16(frame + 42, 0xabcd);
	frame[44] = 1;
	put16(frame + 46, 1);
	memcpy(frame + 54, name, sizeof(name));
	put16(frame + 54 + sizeof(name), type);
	put16(frame + 56 + sizeof(name), 1);
	guest_takes_the_wire();
}

static void dns_is_refused_or_answered_as_configured(void **state)
{
	size_t length;
	dns(1);
	const uint8_t *f = answered(&length);
	assert_int_equal(get16(f + 34), 53);
	assert_int_equal(get16(f + 42), 0xabcd);
	assert_int_equal(f[45] & 15, 5);
	assert_int_equal(get16(f + 48), 0);

	uint32_t address = outside.config.dns_address = ip("192.0.2.53");
	dns(1);
	f = answered(&length);
	assert_int_equal(f[45] & 15, 0);
	assert_int_equal(get16(f + 48), 1);
	assert_memory_equal(f + length - 4, &address, 4);
	dns(28);
	f = answered(&length);
	assert_int_equal(f[45] & 15, 0);
	assert_int_equal(get16(f + 48), 0);
}

static void echo_requests_are_answered(void **state)
{
	size_t length;
	ip_header("10.0.2.15", "10.0.2.1", 1, 64);
	frame[34] = 8;
	frame[38] = 0x42;
	guest_takes_the_wire();
	const uint8_t *f = answered(&length);
	assert_int_equal(f[34], way.six ? 129 : 0);
	assert_int_equal(f[38], 0x42);
	assert_int_equal(length, 34 + 64);
}

static void more_than_it_can_hold_is_counted_and_nothing_is_overwritten(void **state)
{
	size_t length;
	/* From three beginnings, so that the end of its memory falls into other places of the answers. */
	for (unsigned round = 0; round < 3; round++) {
		unsigned fits = 0, sent = 0, taken = 0;
		while (outside.overflow < 10) {
			unsigned before = (unsigned)outside.overflow;
			guest_sends(7000 + sent++, 1000, ACK, 1);
			fits += outside.overflow == before;
			/* Room comes free at the front, and is used again behind it. */
			if (round && sent % 7 == 0 && taken < 400 * round && !outside.overflow) {
				const uint8_t *f = ft_outside_next(&outside, now + DELAY, &length);
				f = bare(f, &length);
				assert_int_equal(get32(f + 42), 7001 + taken++);
			}
		}
		assert_int_equal(sent, fits + 10);
		/* An acknowledgement takes 16 bytes and its own, padded to 16. */
		size_t each = 16 + (14 + 4 * way.tags + (way.six ? 60 : 40) + 15) / 16 * 16;
		assert_true(fits - taken <= FT_OUTSIDE_PENDING / each);
		assert_true(fits - taken >= FT_OUTSIDE_PENDING / each - 1);
		assert_true(fits - taken >= 36 * FT_TRIAL_FLOWS);
		while (taken < fits) {
			const uint8_t *f = ft_outside_next(&outside, now + DELAY, &length);
			assert_non_null(f);
			f = bare(f, &length);
			assert_int_equal(get32(f + 42), 7001 + taken++);
		}
		silent();
		fresh(state);
	}
}

/* Answers of all sizes, taken now and then: each is whole, in its turn, and unharmed by what came in meanwhile. */
static void answers_of_all_sizes_come_back_whole_and_in_order(void **state)
{
	static struct {
		uint16_t size, number;
	} queue[16384];
	unsigned first = 0, last = 0, seed = 3;
	for (unsigned round = 0; round < 60000; round++) {
		/* It fills up, stays full for a while, and runs empty, by turns. */
		bool more = (unsigned)rand_r(&seed) % 100 < (round / 4000 % 4 == 0 ? 95u : round / 4000 % 4 < 3 ? 70u : 5u);
		if (more) {
			uint16_t size = (uint16_t)(8 + (unsigned)rand_r(&seed) % (rand_r(&seed) % 2 ? 1400 : 40));
			uint64_t before = outside.overflow;
			ip_header("10.0.2.15", "10.0.2.1", 1, size);
			frame[34] = 8;
			put16(frame + 38, round & 0xffff);
			memset(frame + 42, (int)(round & 0xff), size - 8u);
			guest_takes_the_wire();
			if (outside.overflow == before) {
				queue[last % 16384].size = size;
				queue[last++ % 16384].number = (uint16_t)round;
			}
			assert_true(last - first < 16384);
			continue;
		}
		size_t length;
		const uint8_t *f = ft_outside_next(&outside, now + DELAY, &length);
		assert_int_equal(f != NULL, last != first);
		if (!f)
			continue;
		f = bare(f, &length);
		assert_int_equal(length, 34 + queue[first % 16384].size);
		assert_int_equal(get16(f + 38), queue[first % 16384].number);
		for (size_t i = 42; i < length; i++)
			assert_int_equal(f[i], queue[first % 16384].number & 0xff);
		first++;
	}
	assert_true(outside.overflow > 0 && first > 10000);
}

/* ---- Several senders -------------------------------------------------------------------------------------------- */

/* The usual flow, and others of other senders that differ from it as little as flows can. */
static void several(uint32_t count)
{
	struct ft_outside_config config = outside.config;
	for (uint32_t i = 0; i < SENDERS; i++) {
		flows[i] = flow;
		flows[i].client_port = htons((uint16_t)(50000 + i));
		flows[i].first_sequence += 1000 * i;
		flows[i].next_sequence += 1000 * i;
		flows[i].client_ack += 100 * i;
	}
	flows[2].client_port = flow.client_port;
	flows[2].client_ip = address("10.0.2.8");
	flows[2].client_mac[5] = 8;
	ft_outside_begin(&outside, &config, flows, count);
}

static void deliver_all_of(uint32_t i)
{
	size_t length;
	tcp(i == 2 ? "10.0.2.8" : "10.0.2.9", ntohs(flows[i].client_port), "10.0.2.15", 80, flows[i].first_sequence,
	    flows[i].client_ack, ACK, 100);
	const uint8_t *held = dressed(&length);
	ft_outside_deliver(&outside, i, held, length);
	ft_outside_delivered(&outside, i);
}

/* The guest on flow i: so many bytes behind what the sender had of it, and so much of the held bytes acknowledged. */
static void guest_answers(uint32_t i, uint32_t taken, int flags, size_t payload)
{
	tcp("10.0.2.15", 80, i == 2 ? "10.0.2.8" : "10.0.2.9", ntohs(flows[i].client_port), flows[i].client_ack,
	    flows[i].first_sequence + taken, flags, payload);
	guest_takes_the_wire();
}

static void each_sender_has_a_state_of_its_own(void **state)
{
	size_t length;
	several(SENDERS);
	for (uint32_t i = 0; i < SENDERS; i++)
		deliver_all_of(i);
	guest_answers(1, 100, ACK, 500);
	guest_answers(2, 40, FIN | ACK, 7);
	guest_answers(0, 60, RST | ACK, 0);
	const uint32_t taken[SENDERS] = {0, 100, 40};
	for (uint32_t i = 0; i < SENDERS; i++)
		assert_int_equal(ft_outside_taken(&outside, i), taken[i]);
	/* The answers, each of its own sender, with its own numbers. */
	const uint8_t *f = answered(&length);
	assert_int_equal(get16(f + 34), 50001);
	assert_int_equal(get32(f + 38), 2100);
	assert_int_equal(get32(f + 42), 7100 + 500);
	assert_int_equal(f[47], ACK);
	f = answered(&length);
	assert_int_equal(get16(f + 34), 50000);
	assert_memory_equal(f + 26, &(uint32_t){ip("10.0.2.8")}, 4);
	assert_int_equal(get32(f + 38), 3100);
	assert_int_equal(get32(f + 42), 7200 + 8);
	assert_int_equal(f[47], FIN | ACK);
	silent();
	/* The reset one says nothing more, the others do. */
	guest_answers(0, 100, ACK, 10);
	silent();
	guest_answers(1, 100, ACK, 510);
	assert_int_equal(get32(answered(&length) + 42), 7100 + 510);
}

static void what_a_run_does_not_deliver_is_any_other_connection(void **state)
{
	size_t length;
	several(2);
	deliver_all_of(0);
	deliver_all_of(1);
	/* A held sender has more of the guest's than this segment; another connection's is answered by what it says. */
	guest_answers(1, 100, ACK, 500);
	guest_answers(1, 100, ACK, 10);
	answered(&length);
	assert_int_equal(get32(answered(&length) + 42), 7100 + 500);
	guest_answers(2, 100, ACK, 500);
	guest_answers(2, 100, ACK, 10);
	answered(&length);
	assert_int_equal(get32(answered(&length) + 42), 7200 + 10);
	guest_answers(0, 100, ACK, 1);
	answered(&length);
	assert_int_equal(ft_outside_answered(&outside, UINT64_MAX), 2);
	/* And for the twin each of them is. */
	several(0);
	guest_answers(0, 0, ACK, 500);
	guest_answers(0, 0, ACK, 10);
	answered(&length);
	assert_int_equal(get32(answered(&length) + 42), 7000 + 10);
	assert_int_equal(ft_outside_answered(&outside, UINT64_MAX), 0);
}

static void a_flow_is_answered_by_what_comes_after_all_of_it(void **state)
{
	several(SENDERS);
	/* Before all was delivered: the rest of an answer to something older. */
	guest_answers(0, 0, ACK, 20);
	for (uint32_t i = 0; i < SENDERS; i++)
		deliver_all_of(i);
	assert_int_equal(ft_outside_answered(&outside, UINT64_MAX), 0);
	/* Neither an acknowledgement, nor old data again, nor a probe says that anybody has looked at it. */
	guest_answers(0, 100, ACK, 0);
	guest_answers(0, 100, ACK, 20);
	tcp("10.0.2.15", 80, "10.0.2.9", 50000, 7019, 1100, ACK, 0);
	guest_takes_the_wire();
	assert_int_equal(ft_outside_answered(&outside, UINT64_MAX), 0);
	now = 6000;
	guest_answers(0, 100, ACK, 21);
	assert_int_equal(ft_outside_answered(&outside, 5999), 0);
	assert_int_equal(ft_outside_answered(&outside, 6000), 1);
	/* Only leading flows count. */
	now = 7000;
	guest_answers(2, 100, RST, 0);
	assert_int_equal(ft_outside_answered(&outside, 7000), 1);
	now = 8000;
	guest_answers(1, 100, FIN | ACK, 0);
	assert_int_equal(ft_outside_answered(&outside, 7000), 1);
	assert_int_equal(ft_outside_answered(&outside, 8000), SENDERS);
	/* It was answered once: what comes later does not make it later. */
	now = 9000;
	guest_answers(0, 100, ACK, 50);
	assert_int_equal(ft_outside_answered(&outside, 8000), SENDERS);
}

static void a_datagram_back_answers_a_datagram(void **state)
{
	size_t length;
	several(1);
	flows[0].protocol = 17;
	ip_header("10.0.2.9", "10.0.2.15", 17, 8 + 20);
	const uint8_t *held = dressed(&length);
	ft_outside_deliver(&outside, 0, held, length);
	for (int delivered = 0; delivered < 2; delivered++) {
		assert_int_equal(ft_outside_answered(&outside, UINT64_MAX), 0);
		guest_answers(0, 0, ACK, 5); /* TCP with the same ports */
		assert_int_equal(ft_outside_answered(&outside, UINT64_MAX), 0);
		ip_header("10.0.2.15", "10.0.2.9", 17, 8 + 20);
		put16(frame + 34, 80);
		put16(frame + 36, 50000);
		guest_takes_the_wire();
		assert_int_equal(ft_outside_answered(&outside, UINT64_MAX), delivered);
		ft_outside_delivered(&outside, 0);
	}
}

/* A neighbour solicitation of the guest for this address. */
static void solicit(const char *source, const char *target, bool group)
{
	memset(frame, 0, sizeof(frame));
	memcpy(frame, group ? "\x33\x33\xff\x00\x00\x01" : "\x02\x00\x00\x00\x00\x77", 6);
	memcpy(frame + 6, guest_mac, 6);
	put16(frame + 12, 0x86dd);
	frame[14] = 0x60;
	put16(frame + 18, 32);
	frame[20] = 58;
	frame[21] = 255;
	assert_int_equal(inet_pton(AF_INET6, source, frame + 22), 1);
	assert_int_equal(inet_pton(AF_INET6, "ff02::1:ff00:1", frame + 38), 1);
	frame[54] = 135;
	assert_int_equal(inet_pton(AF_INET6, target, frame + 62), 1);
	frame[78] = frame[79] = 1;
	memcpy(frame + 80, guest_mac, 6);
	frame_length = 86;
	guest_takes_the_wire();
}

static void neighbours_are_found_but_never_the_guest_itself(void **state)
{
	const uint8_t target[16] = {0xfd, 0, 0, 2, [15] = 1};
	for (int group = 0; group < 2; group++) {
		solicit("fd00:2::a00:20f", "fd00:2::1", group);
		const uint8_t *wire = ft_outside_next(&outside, now + DELAY, &(size_t){0});
		assert_non_null(wire);
		const uint8_t *six = wire + 14 + 4 * way.tags, *icmp = six + 40;
		uint8_t tags[8];
		assert_memory_equal(wire + 12, tags, put_tags(tags));
		assert_memory_equal(wire, guest_mac, 6);
		assert_int_equal(six[7], 255); /* or it would be ignored */
		assert_memory_equal(six + 8, target, 16);
		assert_int_equal(icmp[0], 136);
		assert_memory_equal(icmp + 8, target, 16);
		assert_memory_equal(icmp + 26, group ? client_mac : (const uint8_t *)"\x02\0\0\0\0\x77", 6);
		assert_memory_equal(wire + 6, icmp + 26, 6);
		assert_int_equal(sum(icmp, 32, sum(six + 8, 32, 0) + 58 + 32), 0xffff);
	}
	solicit("::", "fd00:2::1", true);                  /* a search for duplicates */
	solicit("fd00:2::1", "fd00:2::1", true);
	solicit("fe80::1", "fd00:2::a00:20f", true); /* the guest's own */
	silent();
}

static void a_held_segment_behind_extension_headers_is_what_was_sent(void **state)
{
	/* Destination options in front of it, and the fragment header that says "all of it". */
	size_t length;
	tcp("10.0.2.9", 50000, "10.0.2.15", 80, 1000, 7000, FIN | ACK, 99);
	uint8_t wire[300];
	const uint8_t *plain = dressed(&length);
	size_t ip6 = 14 + 4 * way.tags;
	memcpy(wire, plain, ip6 + 40);
	memcpy(wire + ip6 + 40, "\x2c\0\1\4\0\0\0\0\6\0\0\0\1\2\3\4", 16);
	memcpy(wire + ip6 + 56, plain + ip6 + 40, length - ip6 - 40);
	wire[ip6 + 6] = 60;
	put16(wire + ip6 + 4, (unsigned)(length - ip6 - 40 + 16));
	ft_outside_deliver(&outside, 0, wire, length + 16);
	/* The guest may acknowledge its FIN now, and gets no second one. */
	guest_sends(7000, 1100, FIN | ACK, 0);
	assert_int_equal(answered(&length)[47], ACK);
	assert_int_equal(ft_outside_taken(&outside, 0), 100);
}

static void the_same_ports_in_another_vlan_are_another_connection(void **state)
{
	deliver_held();
	struct way held = way;
	way.tags = held.tags == 1 ? 2 : 1;
	guest_sends(7000, 1100, ACK, 0);
	assert_int_equal(ft_outside_taken(&outside, 0), 0);
	way = held;
	guest_sends(7000, 1100, ACK, 0);
	assert_int_equal(ft_outside_taken(&outside, 0), 100);
}

/* Whatever bytes a guest sends: no access outside the frame (the sanitizers look), answers of possible sizes. */
static void garbage_is_survived(void **state)
{
	unsigned seed = 7;
	size_t length;
	for (int round = 0; round < 200000; round++) {
		size_t n = (size_t)rand_r(&seed) % 200;
		uint8_t *exact = malloc(n ? n : 1);
		for (size_t i = 0; i < n; i++)
			exact[i] = (uint8_t)rand_r(&seed);
		if (n > 24 && round % 4) {
			put16(exact + 12, round % 4 == 1 ? 0x0806 : round % 4 == 2 ? 0x86dd : 0x0800);
			exact[14] = round % 4 == 2 ? 0x60 : 0x45;
			exact[0] &= 0xfe;
			exact[20] = exact[21] = 0;
			exact[round % 4 == 2 ? 20 : 23] = (uint8_t[]){1, 6, 17, 58}[rand_r(&seed) % 4];
			put16(exact + 16, (unsigned)rand_r(&seed) % 220);
			if (n > 40 && rand_r(&seed) % 4 == 0) { /* behind one or two tags */
				memmove(exact + 16, exact + 12, n - 16);
				put16(exact + 12, rand_r(&seed) % 2 ? 0x8100 : 0x88a8);
			}
		}
		ft_outside_take(&outside, exact, n, now);
		ft_outside_deliver(&outside, 0, exact, n);
		free(exact);
		const uint8_t *f;
		while ((f = ft_outside_next(&outside, now + DELAY, &length)))
			assert_in_range(length, 42, FT_OUTSIDE_FRAME);
	}
}

static int in_six_ways(size_t count, const struct CMUnitTest *tests)
{
	static struct way ways[] = {{false, 0}, {false, 1}, {false, 2}, {true, 0}, {true, 1}, {true, 2}};
	struct CMUnitTest all[6 * 24];
	static char names[6 * 24][160];
	size_t n = 0;
	for (size_t i = 0; i < count; i++)
		for (int k = 0; k < 6; k++, n++) {
			all[n] = tests[i];
			snprintf(names[n], sizeof(names[n]), "%s (%s, %u tags)", tests[i].name,
				 ways[k].six ? "IPv6" : "IPv4", ways[k].tags);
			all[n].name = names[n];
			all[n].initial_state = &ways[k];
		}
	return _cmocka_run_group_tests("outside", all, n, NULL, NULL);
}

int main(void)
{
	const struct CMUnitTest every_way[] = {
	    cmocka_unit_test_setup(the_guests_acknowledgement_is_the_proof, fresh),
	    cmocka_unit_test_setup(a_reset_or_an_impossible_acknowledgement_proves_nothing, fresh),
	    cmocka_unit_test_setup(what_was_sent_before_may_be_acknowledged_once_all_is_delivered, fresh),
	    cmocka_unit_test_setup(what_the_guest_sends_is_acknowledged_after_the_delay, fresh),
	    cmocka_unit_test_setup(bytes_in_flight_at_the_fork_count_as_received, fresh),
	    cmocka_unit_test_setup(a_closing_guest_gets_the_senders_fin_once, fresh),
	    cmocka_unit_test_setup(a_held_fin_is_part_of_what_was_sent, fresh),
	    cmocka_unit_test_setup(timestamps_are_echoed, fresh),
	    cmocka_unit_test_setup(keep_alive_probes_are_answered_and_pure_acknowledgements_are_not, fresh),
	    cmocka_unit_test_setup(outgoing_connections_meet_what_is_configured, fresh),
	    cmocka_unit_test_setup(dns_is_refused_or_answered_as_configured, fresh),
	    cmocka_unit_test_setup(echo_requests_are_answered, fresh),
	    cmocka_unit_test_setup(more_than_it_can_hold_is_counted_and_nothing_is_overwritten, fresh),
	    cmocka_unit_test_setup(answers_of_all_sizes_come_back_whole_and_in_order, fresh),
	    cmocka_unit_test_setup(arp_is_answered_for_others_and_never_for_the_guest, fresh),
	    cmocka_unit_test_setup(each_sender_has_a_state_of_its_own, fresh),
	    cmocka_unit_test_setup(what_a_run_does_not_deliver_is_any_other_connection, fresh),
	    cmocka_unit_test_setup(a_flow_is_answered_by_what_comes_after_all_of_it, fresh),
	    cmocka_unit_test_setup(a_datagram_back_answers_a_datagram, fresh),
	    cmocka_unit_test_setup(the_same_ports_in_another_vlan_are_another_connection, fresh),
	};
	static struct way six[] = {{true, 0}, {true, 1}, {true, 2}};
	struct CMUnitTest others[7] = {cmocka_unit_test_setup(garbage_is_survived, fresh)};
	for (int i = 0; i < 3; i++) {
		others[1 + i] = (struct CMUnitTest)cmocka_unit_test_prestate_setup_teardown(
		    neighbours_are_found_but_never_the_guest_itself, fresh, NULL, &six[i]);
		others[4 + i] = (struct CMUnitTest)cmocka_unit_test_prestate_setup_teardown(
		    a_held_segment_behind_extension_headers_is_what_was_sent, fresh, NULL, &six[i]);
	}
	int failed = in_six_ways(sizeof(every_way) / sizeof(*every_way), every_way);
	return failed + cmocka_run_group_tests(others, NULL, NULL);
}
