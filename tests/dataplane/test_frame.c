/* The parser's door: what passes, what is refused and why, and that no input at all reads outside its bytes. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <netinet/in.h>
#include <cmocka.h>

#include "dataplane/frame.h"
#include "dataplane/made.h"

static uint8_t frame[4096];
static struct ft_frame parsed;
static enum ft_reason why;

/* A TCP frame with options of this many bytes (multiple of 4) and payload; returns its length. */
static size_t tcp(const uint8_t *options, size_t option_length, size_t payload)
{
	memset(frame, 0, sizeof(frame));
	ft_store16(frame + 12, 0x0800);
	uint8_t *ip = frame + 14;
	ip[0] = 0x45;
	ft_store16(ip + 2, (uint16_t)(40 + option_length + payload));
	ip[8] = 64;
	ip[9] = IPPROTO_TCP;
	ft_store32(ip + 12, 0x0a000209);
	ft_store32(ip + 16, 0x0a00020f);
	uint8_t *t = ip + 20;
	ft_store16(t, 1234);
	ft_store16(t + 2, 80);
	ft_store32(t + 4, 77);
	t[12] = (uint8_t)((5 + option_length / 4) << 4);
	t[13] = FT_TCP_ACK;
	if (option_length)
		memcpy(t + 20, options, option_length);
	for (size_t i = 0; i < payload; i++)
		t[20 + option_length + i] = (uint8_t)i;
	struct ft_frame shape = {.kind = FT_FRAME_IPV4,
				 .transport = true,
				 .protocol = IPPROTO_TCP,
				 .ip = 14,
				 .l4 = 34,
				 .payload = (uint32_t)(54 + option_length),
				 .payload_length = (uint32_t)payload};
	ft_frame_seal(&shape, frame);
	return 54 + option_length + payload;
}

/* Parses a copy of exactly that many bytes, so that a sanitizer sees a read beyond. */
static int parse(size_t length)
{
	static uint8_t *copy;
	free(copy);
	copy = malloc(length ? length : 1);
	memcpy(copy, frame, length);
	why = FT_REASON_COUNT;
	int error = ft_frame_parse(&parsed, copy, length, &why);
	if (!error && parsed.kind == FT_FRAME_IPV4)
		ft_frame_checksum(&parsed);
	return error;
}

static void seal_ip(void)
{
	struct ft_frame shape = {.kind = FT_FRAME_IPV4, .ip = 14};
	ft_frame_seal(&shape, frame);
}

static void refused(size_t length, enum ft_reason reason)
{
	assert_int_not_equal(parse(length), 0);
	assert_string_equal(ft_reason_label(why), ft_reason_label(reason));
}

static void a_segment_is_taken_apart(void **state)
{
	const uint8_t options[24] = {2, 4, 5, 180, 1, 3, 3, 9, 1, 1, 8, 10, 0, 0, 0, 42};
	size_t length = tcp(options, 24, 10);
	assert_int_equal(parse(length + 6), 0); /* padding of short frames is no payload */
	assert_true(parsed.transport);
	assert_int_equal(parsed.source_port, 1234);
	assert_int_equal(parsed.destination_port, 80);
	assert_int_equal(parsed.sequence, 77);
	assert_int_equal(parsed.payload_length, 10);
	assert_int_equal(parsed.window_scale, 9);
	assert_int_equal(ft_load32(parsed.data + parsed.timestamp), 42);
	assert_int_equal(ft_frame_checksum(&parsed), FT_CHECKSUM_GOOD);
}

static void lengths_that_contradict_are_refused(void **state)
{
	size_t length = tcp(NULL, 0, 10);
	refused(13, FT_REASON_DROP_RUNT);
	refused(33, FT_REASON_DROP_RUNT);
	refused(length - 1, FT_REASON_DROP_RUNT);
	frame[14] = 0x44;
	refused(length, FT_REASON_DROP_MALFORMED);
	frame[14] = 0x65;
	refused(length, FT_REASON_DROP_MALFORMED);
	tcp(NULL, 0, 10);
	ft_store16(frame + 16, 19);
	refused(length, FT_REASON_DROP_MALFORMED);
	tcp(NULL, 0, 10);
	frame[46] = 4 << 4;
	refused(length, FT_REASON_DROP_MALFORMED);
	frame[46] = 15 << 4;
	refused(length, FT_REASON_DROP_MALFORMED);
	tcp(NULL, 0, 10);
	ft_store16(frame + 16, 39);
	seal_ip();
	refused(length, FT_REASON_DROP_RUNT);
	tcp(NULL, 0, 10);
	frame[24] ^= 1;
	refused(length, FT_REASON_DROP_CHECKSUM);
	tcp(NULL, 0, 10);
	frame[23] = IPPROTO_UDP;
	ft_store16(frame + 38, 7);
	seal_ip();
	refused(length, FT_REASON_DROP_MALFORMED);
	ft_store16(frame + 38, 31);
	refused(length, FT_REASON_DROP_MALFORMED);
	ft_store16(frame + 38, 30);
	assert_int_equal(parse(length), 0);
	assert_int_equal(parsed.payload_length, 22);
}

static void options_that_run_over_are_seen_and_not_read(void **state)
{
	const uint8_t bad[][8] = {{8, 10, 0, 0}, {3, 1, 0, 0}, {3, 0, 0, 0}, {1, 1, 1, 8}, {3, 3, 7, 3}};
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		assert_int_equal(parse(tcp(bad[i], 4, 4)), 0);
		assert_true(parsed.odd_options && parsed.transport);
		assert_int_equal(parsed.window_scale, -1);
		assert_int_equal(parsed.payload_length, 4);
	}
	const uint8_t ends[4] = {1, 0, 99, 99};
	assert_int_equal(parse(tcp(ends, 4, 4)), 0);
}

static void fragments_and_tags_are_seen(void **state)
{
	size_t length = tcp(NULL, 0, 12);
	ft_store16(frame + 20, 0x2000);
	seal_ip();
	assert_int_equal(parse(length), 0);
	assert_true(parsed.fragment);
	assert_false(parsed.transport);
	ft_store16(frame + 20, 5);
	seal_ip();
	assert_int_equal(parse(length), 0);
	assert_true(parsed.fragment);
	/* A piece that is no whole units of 8 bytes, but says that there is more; one that ends where no packet can. */
	length = tcp(NULL, 0, 10);
	ft_store16(frame + 20, 0x2000);
	seal_ip();
	refused(length, FT_REASON_DROP_MALFORMED);
	ft_store16(frame + 20, 0x1fff);
	seal_ip();
	refused(length, FT_REASON_DROP_MALFORMED);
	length = tcp(NULL, 0, 10);
	memmove(frame + 16, frame + 12, length - 12);
	ft_store16(frame + 12, 0x8100);
	ft_store16(frame + 14, 5);
	assert_int_equal(parse(length + 4), 0);
	assert_int_equal(parsed.tags.list[0], 5);
	assert_int_equal(parsed.tags.list[1], 0);
	assert_int_equal(parsed.destination_port, 80);
}

/* The frame made IPv6, behind that many bytes of destination options. */
static size_t as_ipv6(size_t length, size_t options)
{
	static uint8_t old[sizeof(frame)];
	memcpy(old, frame, length);
	size_t l4 = length - 34;
	ft_store16(frame + 12, 0x86dd);
	memset(frame + 14, 0, 40 + options);
	frame[14] = 0x60;
	ft_store16(frame + 18, (uint16_t)(options + l4));
	frame[20] = options ? IPPROTO_DSTOPTS : old[23];
	frame[22] = frame[38] = 0xfd;
	frame[37] = 9;
	frame[53] = 15;
	if (options) {
		frame[54] = old[23];
		frame[55] = (uint8_t)(options / 8 - 1);
		frame[56] = 1;
		frame[57] = (uint8_t)(options - 4);
	}
	memcpy(frame + 54 + options, old + 34, l4);
	struct ft_frame shape = {.kind = FT_FRAME_IPV6,
				 .transport = true,
				 .protocol = old[23],
				 .ip = 14,
				 .l4 = (uint16_t)(54 + options),
				 .payload = (uint32_t)(54 + options + (old[46] >> 4) * 4u)};
	shape.payload_length = (uint32_t)(54 + options + l4) - shape.payload;
	ft_frame_seal(&shape, frame);
	return 54 + options + l4;
}

static void ipv6_is_taken_apart_and_made_like_ipv4(void **state)
{
	const uint8_t options[12] = {1, 1, 8, 10, 0, 0, 0, 42};
	for (size_t extra = 0; extra <= 32; extra += 16) {
		uint8_t copy[256], kept[256];
		size_t length = as_ipv6(tcp(options, 12, 50), extra);
		assert_int_equal(parse(length), 0);
		assert_true(parsed.transport);
		assert_int_equal(parsed.destination_port, 80);
		assert_int_equal(parsed.payload_length, 50);
		assert_int_equal(ft_frame_checksum(&parsed), FT_CHECKSUM_GOOD);
		memcpy(kept, frame, length);
		struct ft_frame_bare change = {.sequence = 9, .flags = FT_TCP_ACK, .set_timestamp = true, .timestamp = 7};
		size_t bare = ft_frame_bare(&parsed, &change, copy);
		assert_int_equal(bare, length - 50);
		memcpy(frame, copy, bare);
		assert_int_equal(parse(bare), 0);
		assert_int_equal(parsed.sequence, 9);
		assert_int_equal(ft_frame_checksum(&parsed), FT_CHECKSUM_GOOD);
		memcpy(frame, kept, length);
		assert_int_equal(parse(length), 0);
		struct ft_frame rest;
		ft_frame_slice(&parsed, 20, parsed.payload_length, false, copy, &rest);
		memcpy(frame, copy, rest.length);
		assert_int_equal(parse(rest.length), 0);
		assert_int_equal(parsed.sequence, 97);
		assert_int_equal(parsed.payload_length, 30);
		assert_int_equal(ft_frame_checksum(&parsed), FT_CHECKSUM_GOOD);
		/* Without a checksum at all: allowed to UDP over IPv4 only. */
		frame[54 + extra + 16] ^= 1;
		assert_int_equal(parse(rest.length), 0);
		assert_int_equal(ft_frame_checksum(&parsed), FT_CHECKSUM_BAD);
	}
}

static void a_cut_giant_is_no_runt(void **state)
{
	tcp(NULL, 0, 3000);
	refused(2000, FT_REASON_DROP_OVERSIZE);
	refused(1000, FT_REASON_DROP_RUNT);
}

static void a_partial_checksum_is_known_and_completed(void **state)
{
	size_t length = tcp(NULL, 0, 11);
	uint16_t right = ft_load16(frame + 50);
	uint32_t sum = 0x0a00 + 0x0209 + 0x0a00 + 0x020f + IPPROTO_TCP + 31;
	ft_store16(frame + 50, (uint16_t)sum);
	assert_int_equal(parse(length), 0);
	assert_int_equal(ft_frame_checksum(&parsed), FT_CHECKSUM_PARTIAL);
	ft_frame_seal(&parsed, frame);
	assert_int_equal(ft_load16(frame + 50), right);
	frame[50] ^= 0xff;
	assert_int_equal(parse(length), 0);
	assert_int_equal(ft_frame_checksum(&parsed), FT_CHECKSUM_BAD);
}

static void a_bare_copy_has_no_payload_and_right_sums(void **state)
{
	const uint8_t options[12] = {1, 1, 8, 10, 0, 0, 0, 42};
	uint8_t bare[128];
	assert_int_equal(parse(tcp(options, 12, 50)), 0);
	struct ft_frame_bare change = {
	    .sequence = 9, .flags = FT_TCP_ACK, .set_timestamp = true, .timestamp = 7};
	size_t length = ft_frame_bare(&parsed, &change, bare);
	memcpy(frame, bare, length);
	assert_int_equal(parse(length), 0);
	assert_int_equal(parsed.payload_length, 0);
	assert_int_equal(parsed.sequence, 9);
	assert_int_equal(ft_load32(parsed.data + parsed.timestamp), 7);
	assert_int_equal(ft_frame_checksum(&parsed), FT_CHECKSUM_GOOD);
}

static void resets_answer_with_the_senders_number(void **state)
{
	uint8_t reset[FT_MADE_LENGTH];
	size_t length = tcp(NULL, 0, 10);
	ft_store32(frame + 42, 4711);
	assert_int_equal(parse(length), 0);
	assert_int_equal(ft_made_reset(&parsed, reset), 54);
	memcpy(frame, reset, sizeof(reset));
	assert_int_equal(parse(54), 0);
	assert_int_equal(ft_frame_checksum(&parsed), FT_CHECKSUM_GOOD);
	assert_int_equal(parsed.sequence, 4711);
	assert_int_equal(parsed.acknowledgement, 87);
	assert_int_equal(parsed.source_port, 80);
	/* A reset is never answered. */
	assert_int_equal(ft_made_reset(&parsed, reset), 0);
}

/* Truncated and mutated frames: only the sanitizers and the asserted bounds judge. */
static void no_input_reads_outside_its_bytes(void **state)
{
	unsigned seed = 11;
	const uint8_t options[12] = {1, 1, 8, 10, 0, 0, 0, 42};
	for (int round = 0; round < 200000; round++) {
		size_t length = tcp(options, 12, (size_t)rand_r(&seed) % 40);
		for (int n = rand_r(&seed) % 4; n > 0; n--)
			frame[12 + (size_t)rand_r(&seed) % 60] = (uint8_t)rand_r(&seed);
		if (rand_r(&seed) % 3 == 0)
			ft_store16(frame + 12,
				   (uint16_t[]){0x0806, 0x86dd, 0x8100, 0x88a8}[rand_r(&seed) % 4]);
		if (rand_r(&seed) % 2)
			seal_ip();
		if (rand_r(&seed) % 2) {
			length = as_ipv6(tcp(options, 12, (size_t)rand_r(&seed) % 40), 8 * (size_t)(rand_r(&seed) % 5));
			for (int n = rand_r(&seed) % 4; n > 0; n--)
				frame[12 + (size_t)rand_r(&seed) % 100] = (uint8_t)rand_r(&seed);
			frame[rand_r(&seed) % 2 ? 20 : 54] = (uint8_t[]){0, 43, 44, 60, 50, 51, 58, 6}[rand_r(&seed) % 8];
		}
		if (rand_r(&seed) % 4 == 0)
			length = (size_t)rand_r(&seed) % (length + 1);
		if (parse(length)) {
			assert_true(why < FT_REASON_COUNT);
			continue;
		}
		assert_true(parsed.payload + parsed.payload_length <= length);
		struct ft_frame_quote quote;
		ft_frame_is_error(&parsed, &quote);
		assert_true(!parsed.timestamp || parsed.timestamp + 4u <= parsed.payload);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_segment_is_taken_apart),
	    cmocka_unit_test(lengths_that_contradict_are_refused),
	    cmocka_unit_test(options_that_run_over_are_seen_and_not_read),
	    cmocka_unit_test(fragments_and_tags_are_seen),
	    cmocka_unit_test(ipv6_is_taken_apart_and_made_like_ipv4),
	    cmocka_unit_test(a_cut_giant_is_no_runt),
	    cmocka_unit_test(a_partial_checksum_is_known_and_completed),
	    cmocka_unit_test(a_bare_copy_has_no_payload_and_right_sums),
	    cmocka_unit_test(resets_answer_with_the_senders_number),
	    cmocka_unit_test(no_input_reads_outside_its_bytes),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
