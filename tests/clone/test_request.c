#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "clone/request.h"

static struct ft_requests requests;
static struct ft_request *ready;
static struct ft_trial_twin twin;
static uint64_t hold;

static int fresh(void **state)
{
	ft_requests_clear(&requests);
	ready = NULL;
	hold = 0;
	return 0;
}

static enum ft_request_event begin(uint64_t id, uint32_t frames)
{
	struct ft_trial_begin b = {.hold = id,
				   .frames = frames,
				   .bytes = 10,
				   .protocol = 6,
				   .first_sequence = 5,
				   .next_sequence = 15};
	return ft_request_take(&requests, FT_TRIAL_BEGIN, &b, sizeof(b), &ready, &twin, &hold);
}

static enum ft_request_event frame(uint64_t id, uint8_t fill, size_t length)
{
	uint8_t record[sizeof(id) + 12000];
	memcpy(record, &id, sizeof(id));
	memset(record + sizeof(id), fill, length);
	return ft_request_take(&requests, FT_TRIAL_FRAME, record, sizeof(id) + length, &ready, &twin, &hold);
}

static enum ft_request_event go(uint64_t id)
{
	struct ft_trial_go g = {.hold = id};
	return ft_request_take(&requests, FT_TRIAL_GO, &g, sizeof(g), &ready, &twin, &hold);
}

static void frames_stay_in_order_and_apart(void **state)
{
	assert_int_equal(begin(1, 2), FT_REQUEST_NONE);
	assert_int_equal(begin(2, 1), FT_REQUEST_NONE);
	frame(1, 0xaa, 60);
	frame(2, 0xbb, 61);
	frame(1, 0xcc, 62);
	assert_int_equal(go(1), FT_REQUEST_READY);
	assert_int_equal(ready->begin.hold, 1);
	assert_int_equal(ready->frames, 2);
	assert_int_equal(ready->lengths[0], 60);
	assert_int_equal(ready->lengths[1], 62);
	assert_int_equal(ready->bytes[59], 0xaa);
	assert_int_equal(ready->bytes[60], 0xcc);
	ft_request_drop(ready);
	assert_int_equal(go(2), FT_REQUEST_READY);
	assert_int_equal(ready->bytes[0], 0xbb);
}

static void go_with_other_frames_than_announced_is_refused(void **state)
{
	begin(1, 2);
	frame(1, 1, 60);
	assert_int_equal(go(1), FT_REQUEST_BAD);
	assert_int_equal(hold, 1);
	assert_int_equal(go(1), FT_REQUEST_NONE);
	begin(1, 1);
	frame(1, 1, 60);
	frame(1, 1, 60);
	assert_int_equal(go(1), FT_REQUEST_BAD);
}

static void impossible_requests_are_refused(void **state)
{
	begin(1, 0);
	assert_int_equal(go(1), FT_REQUEST_BAD);
	begin(1, FT_TRIAL_FRAMES + 1);
	assert_int_equal(go(1), FT_REQUEST_BAD);
	begin(1, 1);
	frame(1, 1, 13);
	assert_int_equal(go(1), FT_REQUEST_BAD);
	begin(1, 1);
	frame(1, 1, FT_REQUEST_FRAME + 1);
	assert_int_equal(go(1), FT_REQUEST_BAD);
	begin(1, 1);
	begin(1, 1);
	frame(1, 1, 60);
	assert_int_equal(go(1), FT_REQUEST_BAD);
	/* Frames and orders for what was never begun change nothing. */
	assert_int_equal(frame(9, 1, 60), FT_REQUEST_NONE);
	assert_int_equal(go(9), FT_REQUEST_NONE);
}

static void memory_is_bounded(void **state)
{
	begin(1, FT_TRIAL_FRAMES);
	for (unsigned i = 0; i < FT_TRIAL_FRAMES; i++)
		frame(1, 1, FT_REQUEST_FRAME);
	assert_true(requests.entries[0].filled <= FT_REQUEST_BYTES);
	assert_int_equal(go(1), FT_REQUEST_BAD);
	for (unsigned i = 0; i < FT_REQUESTS; i++)
		assert_int_equal(begin(100 + i, 1), FT_REQUEST_NONE);
	assert_int_equal(begin(7, 1), FT_REQUEST_FULL);
	assert_int_equal(hold, 7);
}

static void records_of_a_wrong_size_or_kind_are_told(void **state)
{
	uint8_t bytes[4096] = {0};
	for (uint32_t kind = 0; kind < 40; kind++)
		assert_int_equal(ft_request_take(&requests, kind, bytes, 5, &ready, &twin, &hold),
				 FT_REQUEST_UNKNOWN);
	assert_int_equal(ft_request_take(&requests, FT_TRIAL_BEGIN, bytes, sizeof(struct ft_trial_begin) + 1,
					 &ready, &twin, &hold),
			 FT_REQUEST_UNKNOWN);
}

static void orders_name_their_hold(void **state)
{
	struct ft_trial_twin t = {.hold = 5, .until_vtime_ns = 77};
	struct ft_trial_go g = {.hold = 6};
	assert_int_equal(ft_request_take(&requests, FT_TRIAL_TWIN, &t, sizeof(t), &ready, &twin, &hold),
			 FT_REQUEST_TWIN);
	assert_int_equal(hold, 5);
	assert_int_equal(twin.until_vtime_ns, 77);
	assert_int_equal(ft_request_take(&requests, FT_TRIAL_FINISH, &g, sizeof(g), &ready, &twin, &hold),
			 FT_REQUEST_FINISH);
	assert_int_equal(hold, 6);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(frames_stay_in_order_and_apart, fresh, fresh),
	    cmocka_unit_test_setup_teardown(go_with_other_frames_than_announced_is_refused, fresh, fresh),
	    cmocka_unit_test_setup_teardown(impossible_requests_are_refused, fresh, fresh),
	    cmocka_unit_test_setup_teardown(memory_is_bounded, fresh, fresh),
	    cmocka_unit_test_setup_teardown(records_of_a_wrong_size_or_kind_are_told, fresh, fresh),
	    cmocka_unit_test_setup_teardown(orders_name_their_hold, fresh, fresh),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
