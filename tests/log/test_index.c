/* The index of verdicts: the newest are there, byte for byte, in order, and never more than there is room for. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "log/index.h"

static uint64_t random_state = 88172645463325252ull;
static uint64_t draw(uint64_t n)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state % n;
}

/* Of `length` bytes and a few. */
static json_t *record(uint64_t hold, size_t length)
{
	char *text = malloc(length + 1);
	memset(text, 'a' + (int)(hold % 26), length);
	text[length] = 0;
	json_t *json = json_pack("{s:I, s:s, s:s}", "hold", (json_int_t)hold, "verdict", "clean", "text", text);
	free(text);
	return json;
}

static bool has(struct ft_index *index, uint64_t hold, size_t length)
{
	int known;
	json_t *got = ft_index_show(index, hold, &known), *told = record(hold, length);
	bool same = got && json_equal(got, told);
	assert_true(known || !got);
	assert_true(!got || same);
	json_decref(got);
	json_decref(told);
	return same;
}

static void add(struct ft_index *index, uint64_t hold, size_t length)
{
	json_t *json = record(hold, length);
	assert_int_equal(ft_index_add(index, json), 0);
	json_decref(json);
}

static void the_newest_are_there(void **state)
{
	enum { COUNT = 9000 };
	static size_t lengths[COUNT];
	struct ft_index *index = ft_index_new();
	for (uint64_t hold = 0; hold < COUNT; hold++) {
		lengths[hold] = draw(8) ? draw(20000) : draw(120000);
		add(index, hold, lengths[hold]);
		if (hold != 4503 && hold != COUNT - 1)
			continue;
		/* From the newest back: whole as long as they fit, then none. */
		size_t bytes = 0, whole = 0;
		bool gone = false;
		for (uint64_t back = hold; back != UINT64_MAX; back--) {
			bool there = has(index, back, lengths[back]);
			assert_false(there && gone);
			gone |= !there;
			whole += there;
			bytes += there ? lengths[back] : 0;
		}
		assert_true(whole && bytes <= FT_INDEX_BYTES);
		/* What is lost at the ring's end is less than the largest. */
		assert_true(whole == hold + 1 || bytes + 2 * 121000 + 100 * whole > FT_INDEX_BYTES);
	}
	ft_index_free(index);
}

static void summaries_are_there_in_order(void **state)
{
	struct ft_index *index = ft_index_new();
	uint64_t holds = FT_INDEX_HOLDS + 777;
	for (uint64_t hold = 1; hold <= holds; hold++)
		add(index, hold, 10);
	json_t *list = ft_index_list(index, UINT64_MAX, SIZE_MAX);
	assert_int_equal(json_array_size(list), FT_INDEX_HOLDS);
	for (size_t i = 0; i < FT_INDEX_HOLDS; i++)
		assert_int_equal(json_integer_value(json_object_get(json_array_get(list, i), "hold")), holds - FT_INDEX_HOLDS + 1 + i);
	json_decref(list);
	assert_true(has(index, holds, 10) && has(index, holds - FT_INDEX_HOLDS + 1, 10));
	assert_false(has(index, holds - FT_INDEX_HOLDS, 10));
	list = ft_index_list(index, 3, SIZE_MAX);
	assert_int_equal(json_array_size(list), 3);
	assert_int_equal(json_integer_value(json_object_get(json_array_get(list, 2), "hold")), holds);
	json_decref(list);
	ft_index_free(index);
}

static void one_that_cannot_fit_changes_nothing(void **state)
{
	struct ft_index *index = ft_index_new();
	add(index, 1, 100);
	json_t *json = record(2, FT_INDEX_BYTES);
	assert_true(ft_index_add(index, json) < 0);
	json_decref(json);
	assert_true(has(index, 1, 100));
	/* Nearly: it is alone then. */
	add(index, 3, FT_INDEX_BYTES - 100);
	assert_true(has(index, 3, FT_INDEX_BYTES - 100));
	assert_false(has(index, 1, 100));
	add(index, 4, 100);
	add(index, 5, 5000);
	assert_true(has(index, 4, 100) && has(index, 5, 5000));
	assert_false(has(index, 3, FT_INDEX_BYTES - 100));
	ft_index_free(index);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(the_newest_are_there),
	    cmocka_unit_test(summaries_are_there_in_order),
	    cmocka_unit_test(one_that_cannot_fit_changes_nothing),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
