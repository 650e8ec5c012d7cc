/* Who wrote what: the account of each page of guest memory. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "vmm/memory.h"

#define PAGE 5u

static bool user_wrote(const struct ft_memory *memory, unsigned offset)
{
	return ft_memory_user_wrote(memory, ft_gpa_make(PAGE * FT_PAGE_SIZE + offset));
}

static void device(struct ft_memory *memory, unsigned offset, unsigned length)
{
	assert_non_null(ft_memory_span_writable(memory, ft_gpa_make(PAGE * FT_PAGE_SIZE + offset), length));
}

static void what_a_device_fills_is_no_longer_what_a_user_wrote(void **state)
{
	struct ft_memory memory;
	struct ft_error err = {0};
	assert_int_equal(ft_memory_create(&memory, FT_RAM_MIN, &err), 0);
	assert_false(user_wrote(&memory, 0));
	ft_memory_grant(&memory, PAGE, false);
	assert_false(user_wrote(&memory, 0));
	ft_memory_grant(&memory, PAGE, true);
	assert_true(user_wrote(&memory, 0));
	assert_true(user_wrote(&memory, FT_PAGE_SIZE - 1));

	/* The first half of a file's last page; the rest is the kernel's zeros, which no device brings. */
	device(&memory, 0, 2048);
	assert_false(user_wrote(&memory, 0));
	assert_false(user_wrote(&memory, 2047));
	assert_true(user_wrote(&memory, 2048));
	assert_true(memory.page_flags[PAGE] & FT_PAGE_USER_WRITTEN);
	/* Less than a sector, or the ends of two: neither is filled. */
	device(&memory, 2560, 511);
	device(&memory, 3583, 2);
	assert_true(user_wrote(&memory, 2560));
	assert_true(user_wrote(&memory, 3583));
	assert_true(user_wrote(&memory, 3584));
	/* One user store, and all of it is the user's again. */
	ft_memory_grant(&memory, PAGE, true);
	assert_true(user_wrote(&memory, 0));

	for (unsigned at = 0; at < FT_PAGE_SIZE; at += 512)
		device(&memory, at, 512);
	assert_false(user_wrote(&memory, 0));
	assert_false(memory.page_flags[PAGE] & FT_PAGE_USER_WRITTEN);
	/* A mark forgets. */
	ft_memory_grant(&memory, PAGE, true);
	ft_memory_mark(&memory);
	assert_false(user_wrote(&memory, 0));
	ft_memory_destroy(&memory);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(what_a_device_fills_is_no_longer_what_a_user_wrote),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
