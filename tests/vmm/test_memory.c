/* The door into guest memory: the account of who wrote what, and pages that have been copied. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "vmm/memory.h"

#define PAGE 5u

static bool user_wrote(const struct ft_memory *memory, unsigned offset)
{
	return ft_memory_user_wrote(memory, ft_gpa_make(PAGE * FT_PAGE_SIZE + offset));
}

static void device(struct ft_memory *memory, unsigned offset, unsigned length)
{
	assert_non_null(ft_memory_span_writable(memory, ft_gpa_make(PAGE * FT_PAGE_SIZE + offset), &(uint64_t){length}));
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

/* ---- Forks ---- */

#define PAGES 16u

static struct ft_memory forked;
static uint8_t model[PAGES * FT_PAGE_SIZE];
static unsigned told[PAGES];

static void moved(void *engine, uint64_t page)
{
	assert_ptr_equal(engine, told);
	told[page]++;
}

static void make(void)
{
	struct ft_error err = {0};
	assert_int_equal(ft_memory_create(&forked, FT_RAM_MIN, &err), 0);
	forked.moved = moved;
	forked.engine = told;
	for (unsigned i = 0; i < sizeof(model); i++)
		model[i] = (uint8_t)(i * 7 + i / 4096);
	assert_true(ft_memory_write(&forked, ft_gpa_make(0), model, sizeof(model)));
	memset(told, 0, sizeof(told));
}

static void put(uint64_t at, uint64_t length, int value)
{
	static uint8_t bytes[sizeof(model)];
	memset(bytes, value, length);
	memset(model + at, value, length);
	assert_true(ft_memory_write(&forked, ft_gpa_make(at), bytes, length));
}

static void is_as_the_model_says(void)
{
	uint8_t bytes[sizeof(model)];
	assert_true(ft_memory_read(&forked, ft_gpa_make(0), bytes, sizeof(bytes)));
	assert_memory_equal(bytes, model, sizeof(bytes));
	/* The same, piece by piece: whole pages, none left out, none twice. */
	uint64_t n;
	for (uint64_t at = 100; at < sizeof(model) - 100; at += n) {
		n = sizeof(model) - 100 - at;
		const uint8_t *piece = ft_memory_span(&forked, ft_gpa_make(at), &n);
		assert_true(n > 0 && n <= sizeof(model) - 100 - at);
		assert_true((at + n) % FT_PAGE_SIZE == 0 || at + n == sizeof(model) - 100);
		assert_memory_equal(piece, model + at, n);
	}
}

static uint64_t piece(uint64_t at, uint64_t length)
{
	assert_non_null(ft_memory_span(&forked, ft_gpa_make(at), &length));
	return length;
}

static void the_first_write_copies_a_page(void **state)
{
	make();
	const uint8_t *before = forked.base;
	static uint8_t old[sizeof(model)];
	memcpy(old, model, sizeof(model));
	assert_int_equal(piece(0, sizeof(model)), sizeof(model));
	ft_memory_part(&forked);
	assert_non_null(forked.where);
	is_as_the_model_says();
	assert_int_equal(piece(0, sizeof(model)), sizeof(model));

	put(5 * FT_PAGE_SIZE + 17, 1, 0xee);
	put(5 * FT_PAGE_SIZE + 18, 1, 0xef);
	assert_int_equal(told[5], 1);
	/* Two neighbours, of which neither has moved yet: side by side again. */
	put(9 * FT_PAGE_SIZE - 3, 6, 0xdd);
	assert_int_equal(told[8] + told[9], 2);
	put(4 * FT_PAGE_SIZE + 100, 2 * FT_PAGE_SIZE, 0xcc); /* 4 and 6 move, 5 has */
	is_as_the_model_says();
	assert_int_equal(piece(0, sizeof(model)), 4 * FT_PAGE_SIZE);
	assert_int_equal(piece(3 * FT_PAGE_SIZE + 1, 2 * FT_PAGE_SIZE), FT_PAGE_SIZE - 1);
	assert_int_equal(piece(4 * FT_PAGE_SIZE, 4096), 4096);
	assert_int_equal(piece(8 * FT_PAGE_SIZE + 1, 2 * FT_PAGE_SIZE), 2 * FT_PAGE_SIZE - 1);
	assert_int_equal(piece(10 * FT_PAGE_SIZE, 6 * FT_PAGE_SIZE), 6 * FT_PAGE_SIZE);
	for (unsigned page = 0; page < PAGES; page++)
		assert_int_equal(told[page], page == 4 || page == 5 || page == 6 || page == 8 || page == 9);
	/* What was there is there for whoever shares it. */
	assert_memory_equal(before, old, sizeof(old));

	/* A writable span is announced page by page, as far as it goes. */
	uint64_t n = 3 * FT_PAGE_SIZE;
	uint8_t *to = ft_memory_span_writable(&forked, ft_gpa_make(3 * FT_PAGE_SIZE + 8), &n);
	assert_int_equal(n, FT_PAGE_SIZE - 8);
	memset(to, 0xbb, n);
	memset(model + 3 * FT_PAGE_SIZE + 8, 0xbb, n);
	is_as_the_model_says();
	assert_memory_equal(before, old, sizeof(old));
	/* Out of RAM: nothing is moved, nothing written. */
	memset(told, 0, sizeof(told));
	n = FT_RAM_MIN;
	assert_null(ft_memory_span_writable(&forked, ft_gpa_make(FT_PAGE_SIZE), &n));
	assert_false(ft_memory_write(&forked, ft_gpa_make(FT_RAM_MIN - 4), "12345678", 8));
	assert_false(forked.page_flags[1] & FT_PAGE_USER_WRITTEN);
	assert_int_equal(told[1], 0);
	n = 0;
	assert_null(ft_memory_span(&forked, ft_gpa_make(0), &n));
	ft_memory_destroy(&forked);
}

static void the_account_goes_on_in_a_fork(void **state)
{
	make();
	ft_memory_mark(&forked);
	ft_memory_grant(&forked, 2, true);
	forked.page_flags[3] |= FT_PAGE_CODE;
	ft_memory_part(&forked);
	assert_int_equal(forked.page_flags[2], FT_PAGE_WRITTEN | FT_PAGE_USER_WRITTEN);
	assert_int_equal(forked.page_flags[3], FT_PAGE_CODE);
	assert_int_equal(forked.written, 1);
	ft_memory_mark(&forked);
	assert_int_equal(forked.page_flags[2] | forked.written, 0);
	assert_int_equal(forked.page_flags[3], FT_PAGE_CODE);
	put(2 * FT_PAGE_SIZE, 1, 1);
	put(2 * FT_PAGE_SIZE, FT_PAGE_SIZE + 1, 1);
	assert_int_equal(forked.written, 2);
	is_as_the_model_says();
	ft_memory_destroy(&forked);
}

/* Forks of forks, in real ones: each finds what its parent left, and what a child writes no parent sees. */
static void generation(unsigned depth, unsigned *random)
{
	ft_memory_part(&forked);
	for (unsigned i = 0; i < 40; i++) {
		*random = *random * 1103515245 + 12345;
		unsigned at = *random / 65536 % (sizeof(model) - 3 * FT_PAGE_SIZE), length = *random / 7 % (2 * FT_PAGE_SIZE) + 1;
		put(at, length, (int)(*random / 256));
	}
	is_as_the_model_says();
	if (depth == 4)
		return;
	int status = 0;
	pid_t child = fork();
	if (child == 0) {
		generation(depth + 1, random);
		_exit(0);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	is_as_the_model_says();
	/* And goes on itself. */
	put(depth * FT_PAGE_SIZE + 1, 5, (int)depth);
	ft_memory_part(&forked);
	put(depth * FT_PAGE_SIZE + 2, FT_PAGE_SIZE, (int)depth + 1);
	is_as_the_model_says();
}

static void forks_of_forks(void **state)
{
	unsigned random = 1;
	make();
	generation(0, &random);
	ft_memory_destroy(&forked);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(what_a_device_fills_is_no_longer_what_a_user_wrote),
	    cmocka_unit_test(the_first_write_copies_a_page),
	    cmocka_unit_test(the_account_goes_on_in_a_fork),
	    cmocka_unit_test(forks_of_forks),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
