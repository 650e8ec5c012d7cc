#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <errno.h>
#include <cmocka.h>

#include "base/ring.h"

#define SIZE 32768u

static struct ft_ring_shared *shared;
static struct ft_ring producer, consumer;

static int fresh(void **state)
{
	free(shared);
	shared = aligned_alloc(64, ft_ring_footprint(SIZE));
	memset(shared, 0, ft_ring_footprint(SIZE));
	return ft_ring_attach(&producer, shared, SIZE, -1) | ft_ring_attach(&consumer, shared, SIZE, -1);
}

static void records_arrive_whole_and_in_order(void **state)
{
	uint8_t out[FT_RING_RECORD_MAX], in[FT_RING_RECORD_MAX];
	unsigned seed = 1;
	uint32_t sent = 0, got = 0;
	for (int round = 0; round < 20000; round++) {
		size_t length = (size_t)rand_r(&seed) % (round % 10 ? 1500 : FT_RING_RECORD_MAX);
		memset(out, (int)(sent & 0xff), length);
		struct iovec parts[2] = {{out, length / 2}, {out + length / 2, length - length / 2}};
		int error = ft_ring_put(&producer, sent, parts, 2);
		assert_true(error == 0 || error == -ENOBUFS);
		sent += !error;
		for (int n = error ? 3 : rand_r(&seed) % 2; n > 0; n--) {
			uint32_t kind;
			long size = ft_ring_get(&consumer, &kind, in, sizeof(in));
			if (size == -EAGAIN)
				break;
			assert_true(size >= 0);
			assert_int_equal(kind, got);
			for (long i = 0; i < size; i++)
				assert_int_equal(in[i], got & 0xff);
			got++;
		}
	}
	assert_true(got > 10000);
	assert_true(producer.full > 0);
}

static void impossible_indices_end_the_link(void **state)
{
	uint32_t kind;
	uint8_t in[FT_RING_RECORD_MAX];
	shared->producer.index = SIZE + 8;
	assert_int_equal(ft_ring_get(&consumer, &kind, in, sizeof(in)), -EPROTO);
	shared->producer.index = 12;
	assert_int_equal(ft_ring_get(&consumer, &kind, in, sizeof(in)), -EPROTO);
	shared->consumer.index = 1ull << 40;
	assert_int_equal(ft_ring_room(&producer), 0);
	struct iovec part = {in, 16384};
	assert_int_equal(ft_ring_put(&producer, 1, &part, 1), 0);
	assert_int_equal(ft_ring_put(&producer, 1, &part, 1), -EPROTO);
}

static void garbage_lengths_are_refused(void **state)
{
	uint8_t in[FT_RING_RECORD_MAX];
	unsigned seed = 7;
	for (int round = 0; round < 50000; round++) {
		fresh(state);
		for (size_t i = 0; i < 4096; i++)
			shared->data[i] = (uint8_t)rand_r(&seed);
		if (round % 2)
			((uint32_t *)(void *)shared->data)[1] = 0xffffffffu;
		shared->producer.index = (uint64_t)(rand_r(&seed) % 512) * 8;
		for (int n = 0; n < 8; n++) {
			uint32_t kind;
			long size = ft_ring_get(&consumer, &kind, in, sizeof(in));
			assert_true(size == -EPROTO || size == -EAGAIN || (size >= 0 && size <= (long)sizeof(in)));
			assert_true(consumer.index <= shared->producer.index);
			if (size < 0)
				break;
		}
	}
}

static void room_is_what_put_accepts(void **state)
{
	static uint8_t out[FT_RING_RECORD_MAX];
	unsigned seed = 3;
	for (int round = 0; round < 20000; round++) {
		size_t room = ft_ring_room(&producer);
		if (room) {
			struct ft_ring copy = producer;
			struct iovec part = {out, room};
			assert_int_equal(ft_ring_put(&copy, 1, &part, 1), 0);
			shared->producer.index = producer.index;
		}
		struct iovec part = {out, (size_t)rand_r(&seed) % 3000};
		if (ft_ring_put(&producer, 1, &part, 1)) {
			uint32_t kind;
			uint8_t in[FT_RING_RECORD_MAX];
			while (ft_ring_get(&consumer, &kind, in, sizeof(in)) >= 0 && rand_r(&seed) % 8)
				;
		}
	}
}

static void a_sleeping_consumer_is_not_missed(void **state)
{
	struct iovec part = {"x", 1};
	assert_true(ft_ring_sleep(&consumer));
	assert_int_equal(shared->consumer.sleeping, 1);
	ft_ring_awake(&consumer);
	assert_int_equal(ft_ring_put(&producer, 1, &part, 1), 0);
	assert_false(ft_ring_sleep(&consumer));
	assert_int_equal(shared->consumer.sleeping, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(records_arrive_whole_and_in_order, fresh),
		cmocka_unit_test_setup(impossible_indices_end_the_link, fresh),
		cmocka_unit_test_setup(garbage_lengths_are_refused, fresh),
		cmocka_unit_test_setup(room_is_what_put_accepts, fresh),
		cmocka_unit_test_setup(a_sleeping_consumer_is_not_missed, fresh),
	};
	int failed = cmocka_run_group_tests(tests, NULL, NULL);
	free(shared);
	return failed;
}
