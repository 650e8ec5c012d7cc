/* Frames that wait for a journal: in order, none before its place, none lost but where there is no room. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "guest/output.h"

struct sent {
	unsigned count;
	uint32_t next; /* each frame begins with its number */
};

static void send(void *context, uint32_t kind, const void *frame, size_t length)
{
	struct sent *s = context;
	uint32_t number;
	memcpy(&number, frame, sizeof(number));
	assert_int_equal(number, s->next);
	assert_int_equal(kind, 1 + number % 2);
	assert_int_equal(length, 60 + number % 1400);
	for (size_t i = 4; i < length; i++)
		assert_int_equal(((const uint8_t *)frame)[i], (uint8_t)number);
	s->next++;
	s->count++;
}

static bool put(struct ft_output *o, uint32_t number)
{
	uint8_t frame[1514];
	memset(frame, (uint8_t)number, sizeof(frame));
	memcpy(frame, &number, sizeof(number));
	return ft_output_put(o, 1 + number % 2, frame, 60 + number % 1400, number);
}

static void frames_leave_in_order_and_not_before_their_place(void **state)
{
	struct ft_output o;
	struct sent s = {0};
	assert_int_equal(ft_output_open(&o, NULL), 0);
	/* More than it has room for at a time: what is there moves. */
	for (uint32_t n = 0; n < 60000; n++) {
		assert_true(put(&o, n));
		assert_true(ft_output_unmarked(&o));
		if (n % 7 == 6)
			ft_output_mark(&o, n);
		if (n > 2000) {
			ft_output_release(&o, n - 2000, false, n, send, &s);
			assert_true(s.next <= n - 2000 + 1);
			assert_true(s.next + 7 > n - 2000);
		}
	}
	assert_false(ft_output_empty(&o));
	/* The last few do not know their place: they stay whatever is durable. */
	ft_output_release(&o, UINT64_MAX, false, 60000, send, &s);
	assert_int_equal(s.next, 60000 - 60000 % 7);
	ft_output_mark(&o, 0);
	ft_output_release(&o, 1, true, 60000, send, &s);
	assert_int_equal(s.next, 60000);
	assert_true(ft_output_empty(&o));
	assert_int_equal(o.frames, 60000);
	assert_int_equal(o.uncommitted, 60000 % 7);
	ft_output_close(&o);
}

static void what_there_is_no_room_for_is_refused_whole(void **state)
{
	struct ft_output o;
	struct sent s = {0};
	assert_int_equal(ft_output_open(&o, NULL), 0);
	uint32_t n = 0;
	for (; put(&o, n); n++)
		if (o.end - o.first <= FT_OUTPUT_SIZE - FT_OUTPUT_SPARE)
			assert_false(ft_output_full(&o));
	assert_true(ft_output_full(&o));
	assert_true(FT_OUTPUT_SIZE - o.end < 1600);
	ft_output_mark(&o, 5);
	assert_int_equal(ft_output_release(&o, 4, false, n, send, &s), 0);
	assert_int_equal(ft_output_release(&o, 5, false, n, send, &s), n);
	assert_true(put(&o, n));
	ft_output_close(&o);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(frames_leave_in_order_and_not_before_their_place),
					   cmocka_unit_test(what_there_is_no_room_for_is_refused_whole)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
