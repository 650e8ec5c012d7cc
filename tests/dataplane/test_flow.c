/* The flow table against a plain list: what was added is found until it is removed, and nothing else is, whatever the order,
 * with keys looked up ahead or not; what a full table gives up; whose share is whose. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "dataplane/flow.h"

#define MOST  256u
#define KEYS  400u
#define STEPS 20000u

static struct ft_flows *flows;
static unsigned seed;

static int begin(void **state)
{
	struct ft_error err;
	seed = 1;
	return ft_flows_new(MOST, MOST, &flows, &err);
}

static int end(void **state)
{
	ft_flows_free(flows);
	return 0;
}

static uint32_t below(uint32_t n)
{
	return (uint32_t)rand_r(&seed) % n;
}

/* Number n of the keys: they differ in one field here and in another there. */
static struct ft_flow_key key_of(uint32_t n)
{
	const uint8_t client[4] = {10, 0, (uint8_t)(n / 16), (uint8_t)(n % 2)}, server[4] = {10, 128, 0, (uint8_t)(n / 2 % 2)};
	return (struct ft_flow_key){.client = ft_address_v4(client),
				    .server = ft_address_v4(server),
				    .client_port = (uint16_t)(40000 + n / 4 % 2),
				    .server_port = 80,
				    .protocol = 6,
				    .guest = (uint8_t)(n / 8 % 2)};
}

static struct ft_flow *find(uint32_t n)
{
	struct ft_flow_key key = key_of(n);
	return ft_flows_find(flows, &key);
}

static struct ft_flow *add(uint32_t n)
{
	struct ft_flow_key key = key_of(n);
	struct ft_flow *flow = ft_flows_add(flows, &key);
	if (flow) {
		assert_true(flow->used && !flow->seen && !flow->hold && !flow->packets);
		/* Not one that a full table may give up. */
		flow->stream.state = FT_STREAM_OPEN;
	}
	return flow;
}

static void look_ahead(uint32_t from)
{
	struct ft_flow_key keys[FT_FLOWS_AHEAD];
	for (uint32_t i = 0; i < FT_FLOWS_AHEAD; i++)
		keys[i] = key_of((from + i) % KEYS);
	ft_flows_ahead(flows, keys, FT_FLOWS_AHEAD);
}

static void what_is_in_it_is_found_and_nothing_else(void **state)
{
	struct ft_flow *model[KEYS] = {0};
	uint32_t count = 0;
	for (uint32_t step = 0; step < STEPS; step++) {
		uint32_t n = below(KEYS);
		if (!below(3))
			look_ahead(below(KEYS));
		assert_ptr_equal(find(n), model[n]);
		if (model[n] && below(2)) {
			ft_flows_remove(flows, model[n]);
			model[n] = NULL;
			count--;
		} else if (!model[n]) {
			model[n] = add(n);
			assert_int_equal(!model[n], count == MOST);
			count += !!model[n];
		}
		assert_int_equal(ft_flows_count(flows), count);
		assert_ptr_equal(find(n), model[n]);
		for (uint32_t i = 0; step % 64 == 0 && i < KEYS; i++)
			assert_ptr_equal(find(i), model[i]);
	}
	assert_int_equal(ft_flows_of(flows, 0) + ft_flows_of(flows, 1), count);
}

static void a_flow_that_begins_again_is_found_as_before(void **state)
{
	for (uint32_t n = 0; n < MOST; n++)
		assert_non_null(add(n));
	struct ft_flow *flow = find(100);
	flow->packets = 7;
	ft_flow_renew(flow);
	assert_int_equal(flow->packets, 0);
	for (uint32_t n = 0; n < MOST; n++) {
		assert_ptr_equal(find(100), flow);
		if (n != 100)
			ft_flows_remove(flows, find(n));
	}
	ft_flows_remove(flows, flow);
	assert_null(find(100));
	assert_int_equal(ft_flows_count(flows), 0);
}

static void a_full_table_gives_up_what_nobody_answered(void **state)
{
	for (uint32_t n = 0; n < MOST; n++)
		assert_non_null(add(n));
	assert_null(add(MOST));
	find(17)->stream.state = FT_STREAM_SYN;
	struct ft_flow *flow = NULL;
	/* It looks at some at a time. */
	for (uint32_t i = 0; i < MOST && !flow; i++)
		flow = add(MOST);
	assert_non_null(flow);
	assert_null(find(17));
	assert_int_equal(ft_flows_count(flows), MOST);
	assert_null(add(17));
}

static void a_share_is_a_guests_own(void **state)
{
	struct ft_error err;
	ft_flows_free(flows);
	assert_int_equal(ft_flows_new(MOST, 4, &flows, &err), 0);
	uint32_t added[2] = {0};
	for (uint32_t n = 0; n < KEYS; n++)
		added[key_of(n).guest] += !!add(n);
	assert_int_equal(added[0], 4);
	assert_int_equal(added[1], 4);
}

static void count_one(void *context, struct ft_flow *flow)
{
	assert_true(flow->used);
	++*(uint32_t *)context;
	ft_flows_remove(flows, flow);
}

static void age_takes_those_that_nobody_needs(void **state)
{
	const uint64_t second = 1000000000u;
	uint32_t left = 0;
	for (uint32_t n = 0; n < 8; n++)
		add(n)->seen = second;
	find(3)->stream.state = FT_STREAM_SYN;
	find(4)->observing = 1;
	find(4)->stream.state = FT_STREAM_SYN;
	for (unsigned i = 0; i < 8; i++)
		ft_flows_sweep(flows, 12 * second);
	for (uint32_t n = 0; n < 8; n++)
		assert_int_equal(!find(n), n == 3);
	ft_flows_each(flows, count_one, &left);
	assert_int_equal(left, 7);
	assert_int_equal(ft_flows_count(flows), 0);
}

#define T(name) cmocka_unit_test_setup_teardown(name, begin, end)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    T(what_is_in_it_is_found_and_nothing_else),
	    T(a_flow_that_begins_again_is_found_as_before),
	    T(a_full_table_gives_up_what_nobody_answered),
	    T(a_share_is_a_guests_own),
	    T(age_takes_those_that_nobody_needs),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
