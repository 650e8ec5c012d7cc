/* The invariant against arbitrary behaviour of both ends: whatever a client sends, a guest answers and a vmm reports, a
 * service that screens everything never gives its guest a byte that no clone has taken. The scene keeps watch. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "scene.h"

static struct scene s;
static unsigned seed;

static uint32_t below(uint32_t n)
{
	return (uint32_t)rand_r(&seed) % n;
}

/* A segment somewhere around what the guest expects; now and then with other bytes than the stream's. */
static void client_segment(uint32_t *guest_sent)
{
	uint8_t payload[16];
	uint32_t expected = s.live.next - CLIENT_ISN, length = below(10) ? below(sizeof(payload)) : 0;
	uint32_t sequence = expected + below(24) - below(12);
	for (uint32_t i = 0; i < length; i++)
		payload[i] = (uint8_t)('a' + (sequence + i) % 26);
	if (length && !below(5))
		payload[below(length)] = 'X';
	unsigned flags = FT_TCP_ACK;
	flags |= below(40) ? 0 : FT_TCP_FIN;
	flags |= below(60) ? 0 : FT_TCP_RST;
	flags |= below(60) ? 0 : FT_TCP_SYN;
	flags &= below(40) ? ~0u : ~FT_TCP_ACK;
	/* Now and then it acknowledges what the guest will only send later. */
	scene_client(&s, sequence, 1 + below(*guest_sent + 1 + (below(8) ? 0 : 8)), flags, payload, length);
}

static void guest_segment(uint32_t *guest_sent)
{
	/* Mostly true, now and then a lie: acknowledges what it has not been given, sends what it will. */
	uint32_t acknowledges = s.live.next - CLIENT_ISN + (below(10) ? 0 : below(40));
	uint32_t length = below(4);
	scene_guest(&s, 1 + *guest_sent - (below(10) ? 0 : below(3)), acknowledges,
		    FT_TCP_ACK | (below(60) ? 0 : FT_TCP_FIN), "yes", length);
	*guest_sent += length;
}

static void vmm_says(void)
{
	if (!s.request.go)
		return;
	uint64_t hold = s.request.begin.trial;
	s.request.go = false;
	switch (below(12)) {
	case 0:
		scene_answer(&s, true);
		break;
	case 1:
		scene_gone(&s, hold);
		break;
	case 2: /* silence */
		s.request.go = below(2);
		break;
	case 3: /* the middle of a story */
		scene_event(&s, hold, FT_EVENT_TRIAL_END, FT_ROLE_TRIAL, (uint64_t[6]){below(9), 1, 2, 3, 1},
			    "", NULL);
		scene_pass(&s, 0);
		break;
	case 4: /* about a hold that is none */
		scene_event(&s, hold + 1 + below(3), FT_EVENT_TRIAL_HANDLED, below(4),
			    (uint64_t[6]){99, 99, 1}, NULL, NULL);
		s.request.go = true;
		scene_pass(&s, 0);
		break;
	default:
		scene_answer(&s, false);
	}
}

static void begin(void)
{
	scene_forget(&s);
	s.client_port++;
	s.strict = false;
	memset(&s.live, 0, sizeof(s.live));
	memset(&s.request, 0, sizeof(s.request));
	scene_connect(&s);
	s.approved = s.live;
	s.strict = true;
}

/* A round's frames: IPv4 or IPv6, without tags, with one or two, behind destination options, in fragments. */
static void dress(unsigned round)
{
	s.timestamps = round % 2;
	s.sack = round % 3;
	s.six = round / 2 % 2;
	s.tags = round / 4 % 3;
	s.options = s.six && below(3) == 0 ? 8 * (1 + below(4)) : 0;
	s.fragment = below(3) ? 0 : 8 * (3 + below(4));
	s.backwards = below(2);
}

static void nothing_untried_reaches_the_guest(void **state)
{
	uint64_t released = 0, dropped = 0, overlaps = 0, fragments = 0, early = 0;
	for (unsigned round = 0; round < 150; round++) {
		seed = round;
		scene_open(&s, "\"risks\": \"none\", \"mode\": \"enforce\", \"screen\": \"all\", "
			       "\"trials_per_flow\": 500");
		for (int connection = 0; connection < 3; connection++) {
			uint32_t guest_sent = 0;
			dress(round);
			begin();
			for (int i = 0; i < 150 && !s.violated; i++) {
				uint32_t dice = below(10);
				dress(round);
				if (dice < 5)
					client_segment(&guest_sent);
				else if (dice < 7)
					guest_segment(&guest_sent);
				else if (dice < 9)
					vmm_says();
				else
					scene_pass(&s, below(10) ? below(8) * MS : 3000 * MS);
				scene_forget(&s);
			}
		}
		released += scene_count(&s, FT_REASON_RELEASE_CLEAN);
		dropped += scene_count(&s, FT_REASON_DROP_VERDICT);
		overlaps += scene_count(&s, FT_REASON_HOLD_OVERLAP);
		fragments += scene_count(&s, FT_REASON_HOLD_FRAGMENT);
		early += scene_count(&s, FT_REASON_HOLD_EARLY);
		if (s.violated || s.live.early || s.live.stale)
			fprintf(stderr, "seed %u\n", round);
		assert_false(s.violated);
		assert_false(s.live.early);
		assert_false(s.live.stale);
		assert_int_equal(scene_count(&s, FT_REASON_RELEASE_ERROR), 0);
		scene_close(&s);
	}
	/* The dice did reach what this is about. */
	assert_true(released > 200);
	assert_true(dropped > 20);
	assert_true(overlaps > 20);
	assert_true(fragments > 1000);
	assert_true(early > 1000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(nothing_untried_reaches_the_guest)};
	if (scene_start_eal())
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
