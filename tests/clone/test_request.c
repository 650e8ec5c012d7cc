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
static struct ft_trial_run run;
static uint64_t told;

static int fresh(void **state)
{
	ft_requests_clear(&requests);
	ready = NULL;
	told = 0;
	return 0;
}

static enum ft_request_event take(uint32_t kind, const void *data, size_t length)
{
	ready = NULL;
	return ft_request_take(&requests, kind, data, length, &ready, &run, &told);
}

static enum ft_request_event begin(uint64_t number, uint32_t flows, uint32_t frames)
{
	struct ft_trial_begin b = {.trial = number, .flows = flows, .frames = frames};
	return take(FT_TRIAL_BEGIN, &b, sizeof(b));
}

static struct ft_trial_flow usual(uint64_t number, uint16_t port, uint32_t frames)
{
	return (struct ft_trial_flow){.trial = number,
				      .frames = frames,
				      .bytes = 10,
				      .client_port = port,
				      .protocol = 6,
				      .first_sequence = 5,
				      .next_sequence = 15};
}

static void flow(uint64_t number, uint16_t port, uint32_t frames)
{
	struct ft_trial_flow f = usual(number, port, frames);
	assert_int_equal(take(FT_TRIAL_FLOW, &f, sizeof(f)), FT_REQUEST_NONE);
}

static enum ft_request_event frame(uint64_t number, uint8_t fill, size_t length)
{
	uint8_t record[sizeof(number) + 12000];
	memcpy(record, &number, sizeof(number));
	memset(record + sizeof(number), fill, length);
	return take(FT_TRIAL_FRAME, record, sizeof(number) + length);
}

static enum ft_request_event go(uint64_t number)
{
	struct ft_trial_go g = {.trial = number};
	return take(FT_TRIAL_GO, &g, sizeof(g));
}

static void requests_that_come_in_mixed_stay_apart_and_in_order(void **state)
{
	begin(1, 2, 3);
	begin(2, 1, 1);
	flow(1, 11, 2);
	flow(2, 21, 1);
	flow(1, 12, 1);
	frame(1, 0xaa, 60);
	frame(2, 0xbb, 61);
	frame(1, 0xcc, 62);
	frame(1, 0xdd, 63);
	assert_int_equal(go(1), FT_REQUEST_READY);
	assert_int_equal(ready->begin.trial, 1);
	assert_int_equal(ready->flow_count, 2);
	assert_int_equal(ready->flows[0].client_port, 11);
	assert_int_equal(ready->flows[1].client_port, 12);
	assert_int_equal(ready->frames, 3);
	assert_int_equal(ready->lengths[0], 60);
	assert_int_equal(ready->lengths[1], 62);
	assert_int_equal(ready->lengths[2], 63);
	assert_int_equal(ready->filled, 60 + 62 + 63);
	assert_int_equal(ready->bytes[59], 0xaa);
	assert_int_equal(ready->bytes[60], 0xcc);
	assert_int_equal(ready->bytes[122], 0xdd);
	ft_request_drop(ready);
	assert_int_equal(go(2), FT_REQUEST_READY);
	assert_int_equal(ready->flows[0].client_port, 21);
	assert_int_equal(ready->bytes[0], 0xbb);
}

/* A request of so many flows and frames, which gets flows with so many frames each and then that many frames. */
static enum ft_request_event try(uint32_t flows, uint32_t frames, uint32_t got, const uint32_t *each, uint32_t came)
{
	begin(1, flows, frames);
	for (uint32_t i = 0; i < got; i++)
		flow(1, (uint16_t)(100 + i), each[i]);
	for (uint32_t i = 0; i < came; i++)
		frame(1, 1, 60);
	enum ft_request_event event = go(1);
	assert_int_equal(event == FT_REQUEST_READY ? ready->begin.trial : told, 1);
	/* Whatever it was, it is gone then. */
	if (event == FT_REQUEST_READY)
		ft_request_drop(ready);
	assert_int_equal(go(1), FT_REQUEST_NONE);
	return event;
}

static void numbers_that_contradict_each_other_are_refused(void **state)
{
	assert_int_equal((try(2, 3, 2, (uint32_t[]){1, 2}, 3)), FT_REQUEST_READY);
	assert_int_equal((try(1, 2, 1, (uint32_t[]){2}, 1)), FT_REQUEST_BAD); /* fewer frames than announced */
	assert_int_equal((try(1, 1, 1, (uint32_t[]){1}, 2)), FT_REQUEST_BAD); /* more */
	assert_int_equal((try(2, 3, 1, (uint32_t[]){3}, 3)), FT_REQUEST_BAD); /* fewer flows */
	assert_int_equal((try(1, 3, 2, (uint32_t[]){1, 2}, 3)), FT_REQUEST_BAD); /* more */
	assert_int_equal((try(2, 4, 2, (uint32_t[]){1, 2}, 4)), FT_REQUEST_BAD); /* the flows' frames are too few, */
	assert_int_equal((try(2, 3, 2, (uint32_t[]){2, 2}, 3)), FT_REQUEST_BAD); /* and too many */
	assert_int_equal((try(2, 3, 2, (uint32_t[]){3, 0}, 3)), FT_REQUEST_BAD);
	assert_int_equal((try(2, 3, 2, (uint32_t[]){4, UINT32_MAX}, 3)), FT_REQUEST_BAD);
	assert_int_equal((try(2, 1, 2, (uint32_t[]){1, 1}, 1)), FT_REQUEST_BAD); /* a flow without a frame */
	assert_int_equal((try(0, 1, 0, NULL, 1)), FT_REQUEST_BAD);
	assert_int_equal((try(1, 0, 0, NULL, 0)), FT_REQUEST_BAD);
	assert_int_equal((try(1, FT_TRIAL_FRAMES + 1, 1, (uint32_t[]){FT_TRIAL_FRAMES + 1}, 1)), FT_REQUEST_BAD);
}

static void the_most_flows_and_frames_are_taken_and_one_more_is_not(void **state)
{
	uint32_t each[FT_TRIAL_FLOWS + 1];
	for (unsigned i = 0; i <= FT_TRIAL_FLOWS; i++)
		each[i] = FT_TRIAL_FRAMES / FT_TRIAL_FLOWS;
	assert_int_equal((try(FT_TRIAL_FLOWS, FT_TRIAL_FRAMES, FT_TRIAL_FLOWS, each, FT_TRIAL_FRAMES)), FT_REQUEST_READY);
	for (unsigned i = 0; i <= FT_TRIAL_FLOWS; i++)
		each[i] = 1;
	assert_int_equal(try(FT_TRIAL_FLOWS + 1, FT_TRIAL_FLOWS + 1, FT_TRIAL_FLOWS + 1, each, FT_TRIAL_FLOWS + 1),
			 FT_REQUEST_BAD);
	assert_int_equal((try(FT_TRIAL_FLOWS, FT_TRIAL_FLOWS, FT_TRIAL_FLOWS + 1, each, FT_TRIAL_FLOWS)), FT_REQUEST_BAD);
	assert_int_equal((try(FT_TRIAL_FLOWS, FT_TRIAL_FRAMES, FT_TRIAL_FLOWS + 1, each, FT_TRIAL_FRAMES)), FT_REQUEST_BAD);
	assert_int_equal((try(2, 3, 3, each, 3)), FT_REQUEST_BAD);
}

static enum ft_request_event two_flows(const struct ft_trial_flow *second)
{
	begin(1, 2, 2);
	flow(1, 100, 1);
	take(FT_TRIAL_FLOW, second, sizeof(*second));
	frame(1, 1, 60);
	frame(1, 1, 60);
	enum ft_request_event event = go(1);
	if (event == FT_REQUEST_READY)
		ft_request_drop(ready);
	return event;
}

static void one_flow_comes_once(void **state)
{
	struct ft_trial_flow second = usual(1, 100, 1);
	assert_int_equal(two_flows(&second), FT_REQUEST_BAD);
	/* Other numbers of the same connection do not make it another one; each part of its name does. */
	second.first_sequence = second.next_sequence = 77;
	assert_int_equal(two_flows(&second), FT_REQUEST_BAD);
	second.server_port = 1;
	assert_int_equal(two_flows(&second), FT_REQUEST_READY);
	second = usual(1, 100, 1);
	second.protocol = 17;
	assert_int_equal(two_flows(&second), FT_REQUEST_READY);
	second = usual(1, 100, 1);
	second.client_ip.bytes[15] = 1;
	assert_int_equal(two_flows(&second), FT_REQUEST_READY);
	second = usual(1, 100, 1);
	second.server_ip.bytes[0] = 1;
	assert_int_equal(two_flows(&second), FT_REQUEST_READY);
	second = usual(1, 100, 1);
	second.tags.list[0] = 5;
	assert_int_equal(two_flows(&second), FT_REQUEST_READY);
}

static void impossible_flows_are_refused(void **state)
{
	struct ft_trial_flow f = usual(1, 101, 1);
	f.protocol = 1;
	assert_int_equal(two_flows(&f), FT_REQUEST_BAD);
	f = usual(1, 101, 1);
	f.bytes = FT_REQUEST_BYTES + 1;
	assert_int_equal(two_flows(&f), FT_REQUEST_BAD);
	f = usual(1, 101, 1);
	f.next_sequence = f.first_sequence - 1;
	assert_int_equal(two_flows(&f), FT_REQUEST_BAD);
	/* A datagram has no sequence number. */
	f.protocol = 17;
	assert_int_equal(two_flows(&f), FT_REQUEST_READY);
}

static void a_flow_after_the_first_frame_is_refused(void **state)
{
	begin(1, 2, 2);
	flow(1, 100, 1);
	frame(1, 1, 60);
	flow(1, 101, 1);
	frame(1, 1, 60);
	assert_int_equal(go(1), FT_REQUEST_BAD);
}

static void impossible_frames_and_numbers_are_refused(void **state)
{
	begin(1, 1, 1);
	flow(1, 100, 1);
	frame(1, 1, 13);
	assert_int_equal(go(1), FT_REQUEST_BAD);
	begin(1, 1, 1);
	flow(1, 100, 1);
	frame(1, 1, FT_REQUEST_FRAME + 1);
	assert_int_equal(go(1), FT_REQUEST_BAD);
	begin(1, 1, 1);
	flow(1, 100, 1);
	begin(1, 1, 1);
	frame(1, 1, 60);
	assert_int_equal(go(1), FT_REQUEST_BAD);
	/* Flows, frames and orders for what was never begun change nothing. */
	flow(9, 100, 1);
	assert_int_equal(frame(9, 1, 60), FT_REQUEST_NONE);
	assert_int_equal(go(9), FT_REQUEST_NONE);
}

static void memory_is_bounded(void **state)
{
	begin(1, 1, FT_TRIAL_FRAMES);
	flow(1, 100, FT_TRIAL_FRAMES);
	for (unsigned i = 0; i < FT_TRIAL_FRAMES; i++)
		frame(1, 1, FT_REQUEST_FRAME);
	assert_true(requests.entries[0].room > 0 && requests.entries[0].room <= FT_REQUEST_BYTES);
	assert_int_equal(go(1), FT_REQUEST_BAD);
	for (unsigned i = 0; i < FT_REQUESTS; i++)
		assert_int_equal(begin(100 + i, 1, 1), FT_REQUEST_NONE);
	assert_int_equal(begin(7, 1, 1), FT_REQUEST_FULL);
	assert_int_equal(told, 7);
}

static void records_of_a_wrong_size_or_kind_are_told(void **state)
{
	uint8_t bytes[4096] = {0};
	for (uint32_t kind = 0; kind < 40; kind++)
		assert_int_equal(take(kind, bytes, 5), FT_REQUEST_UNKNOWN);
	for (int more = -1; more <= 1; more += 2) {
		assert_int_equal(take(FT_TRIAL_BEGIN, bytes, sizeof(struct ft_trial_begin) + (size_t)more),
				 FT_REQUEST_UNKNOWN);
		assert_int_equal(take(FT_TRIAL_FLOW, bytes, sizeof(struct ft_trial_flow) + (size_t)more),
				 FT_REQUEST_UNKNOWN);
		assert_int_equal(take(FT_TRIAL_RUN, bytes, sizeof(struct ft_trial_run) + (size_t)more),
				 FT_REQUEST_UNKNOWN);
	}
}

static void orders_name_their_request(void **state)
{
	struct ft_trial_run r = {.trial = 5, .flows = 3, .until_vtime_ns = 77};
	struct ft_trial_go g = {.trial = 6};
	assert_int_equal(take(FT_TRIAL_RUN, &r, sizeof(r)), FT_REQUEST_RUN);
	assert_int_equal(told, 5);
	assert_int_equal(run.flows, 3);
	assert_int_equal(run.until_vtime_ns, 77);
	assert_int_equal(take(FT_TRIAL_FINISH, &g, sizeof(g)), FT_REQUEST_FINISH);
	assert_int_equal(told, 6);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(requests_that_come_in_mixed_stay_apart_and_in_order, fresh, fresh),
	    cmocka_unit_test_setup_teardown(numbers_that_contradict_each_other_are_refused, fresh, fresh),
	    cmocka_unit_test_setup_teardown(the_most_flows_and_frames_are_taken_and_one_more_is_not, fresh, fresh),
	    cmocka_unit_test_setup_teardown(one_flow_comes_once, fresh, fresh),
	    cmocka_unit_test_setup_teardown(impossible_flows_are_refused, fresh, fresh),
	    cmocka_unit_test_setup_teardown(a_flow_after_the_first_frame_is_refused, fresh, fresh),
	    cmocka_unit_test_setup_teardown(impossible_frames_and_numbers_are_refused, fresh, fresh),
	    cmocka_unit_test_setup_teardown(memory_is_bounded, fresh, fresh),
	    cmocka_unit_test_setup_teardown(records_of_a_wrong_size_or_kind_are_told, fresh, fresh),
	    cmocka_unit_test_setup_teardown(orders_name_their_request, fresh, fresh),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
