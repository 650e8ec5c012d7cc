/* Processes read out of a guest's memory: a kernel that is nothing but type information and a list of tasks, and kernels that lie. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "clone/tasks.h"
#include "vmm/engine/walk.h"

#define KERNEL 0xffff888000000000ull /* where its memory is mapped, in two steps of 1 GiB */
#define USER   0x400000ull		/* a page of user code, and one that only the kernel may read behind it */
#define TOP    0x1000ull
#define CODE   0x3d00000ull
#define TYPES  0x3d10604ull
#define FIRST  0x3e00000ull
#define LIST   0x20u
#define GROUP  0x40u
#define NAME   0x61u
#define MM     0x48u
#define PGD    0x50u

static struct ft_memory ram;
static uint8_t types[1024];
static size_t types_length;
static char strings[256];
static size_t strings_length;

static void put64(uint64_t gpa, uint64_t value)
{
	assert_true(ft_memory_write(&ram, ft_gpa_make(gpa), &value, sizeof(value)));
}

static void words(unsigned count, ...)
{
	va_list list;
	va_start(list, count);
	for (unsigned i = 0; i < count; i++) {
		uint32_t word = va_arg(list, uint32_t);
		memcpy(types + types_length, &word, 4);
		types_length += 4;
	}
	va_end(list);
}

static uint32_t name(const char *text)
{
	uint32_t at = (uint32_t)strings_length;
	memcpy(strings + at, text, strlen(text) + 1);
	strings_length += strlen(text) + 1;
	return at;
}

#define INFO(kind, entries) ((uint32_t)(kind) << 24 | (entries))

/* Members that matter are in structures without a name; offsets have the widths of bit fields with them (the kind flag). */
static void build_types(void)
{
	types_length = strings_length = 0;
	name("");
	words(4, name("int"), INFO(1, 0), 4u, 32u);
	words(3 + 3, name("mm_struct"), INFO(4, 1), 128u, 0u, 3u, 0u);
	words(3 + 6, 0u, INFO(4, 2) | 1u << 31, 128u, name("flags"), 1u, 3u | 1u << 24, name("pgd"), 1u, PGD * 8 | 64u << 24);
	words(3 + 6, name("task_struct"), INFO(4, 2), 256u, name("state"), 1u, 0u, 0u, 5u, 0x10u * 8);
	words(3 + 12, 0u, INFO(5, 4), 200u, name("tasks"), 1u, (LIST - 0x10) * 8, name("tgid"), 1u, (GROUP - 0x10) * 8, name("comm"), 1u,
	      (NAME - 0x10) * 8, name("mm"), 1u, (MM - 0x10) * 8);
	const uint32_t header[6] = {0x0001eb9f, 24, 0, (uint32_t)types_length, (uint32_t)types_length, (uint32_t)strings_length};
	assert_true(ft_memory_write(&ram, ft_gpa_make(TYPES), header, sizeof(header)));
	assert_true(ft_memory_write(&ram, ft_gpa_make(TYPES + 24), types, types_length));
	assert_true(ft_memory_write(&ram, ft_gpa_make(TYPES + 24 + types_length), strings, strings_length));
}

/* top: physical, 0: a thread of the kernel's. */
static void put_task(uint64_t at, uint64_t before, uint64_t next, const char *comm, uint32_t group, uint64_t top)
{
	char text[16] = {0};
	memcpy(text, comm, strnlen(comm, 16));
	put64(at + LIST, KERNEL + next + LIST);
	put64(at + LIST + 8, KERNEL + before + LIST);
	put64(at + GROUP, group);
	put64(at + MM, top ? KERNEL + at + 0x100 : 0);
	put64(at + 0x100 + PGD, KERNEL + top);
	assert_true(ft_memory_write(&ram, ft_gpa_make(at + NAME), text, sizeof(text)));
}

static int build(void **state)
{
	struct ft_error err;
	assert_int_equal(ft_memory_create(&ram, 64u << 20, &err), 0);
	put64(TOP + 8 * (KERNEL >> 39 & 511), 0x2000 | 3);
	put64(0x2000, 0x83); /* P, W, PS */
	put64(TOP, 0x3000 | 7);
	put64(0x3000, 0x4000 | 7);
	put64(0x4000 + 8 * 2, 0x5000 | 7);
	put64(0x5000, 0x700000 | 7);
	put64(0x5000 + 8, 0x701000 | 3);
	build_types();
	/* A text that is no task before it. */
	assert_true(ft_memory_write(&ram, ft_gpa_make(0x3d80000), "swapper/0", 10));
	put_task(FIRST, FIRST + 0x3000, FIRST + 0x1000, "swapper/0", 0, 0);
	put_task(FIRST + 0x1000, FIRST, FIRST + 0x2000, "init", 1, 0x900000);
	put_task(FIRST + 0x2000, FIRST + 0x1000, FIRST + 0x3000, "kthreadd", 2, 0);
	put_task(FIRST + 0x3000, FIRST + 0x2000, FIRST, "ngi\x1bnx", 77, 0x901000);
	return 0;
}

static int drop(void **state)
{
	ft_memory_destroy(&ram);
	return 0;
}

static void rights_and_ends_of_pages(void **state)
{
	uint64_t gpa;
	char text[8192];
	assert_true(ft_walk(&ram, TOP, USER + 5, true, &gpa));
	assert_int_equal(gpa, 0x700005);
	assert_false(ft_walk(&ram, TOP, USER + 0x1000, true, &gpa));
	assert_true(ft_walk(&ram, TOP, USER + 0x1000, false, &gpa));
	assert_false(ft_walk(&ram, TOP, USER + 0x2000, false, &gpa));
	assert_false(ft_walk(&ram, TOP, KERNEL, true, &gpa));
	assert_true(ft_walk(&ram, TOP, KERNEL + 0x12345, false, &gpa));
	assert_int_equal(gpa, 0x12345);
	assert_false(ft_walk(&ram, TOP, 1ull << 47, false, &gpa));
	assert_false(ft_walk(&ram, 0xfffffff000, USER, false, &gpa));
	assert_int_equal(ft_walk_read(&ram, TOP, USER + 0xff0, true, text, sizeof(text)), 16);
	assert_int_equal(ft_walk_read(&ram, TOP, USER + 0xff0, false, text, sizeof(text)), 16 + 4096);
	/* What RAM does not have. */
	assert_int_equal(ft_walk_read(&ram, TOP, KERNEL + ram.size - 8, false, text, 100), 8);
}

static void processes_are_found_with_names_and_ids(void **state)
{
	static struct ft_processes table;
	struct ft_tasks tasks;
	ft_processes_clear(&table);
	assert_true(ft_tasks_find(&tasks, &ram, TOP, KERNEL + CODE));
	assert_int_equal(tasks.first, FIRST);
	assert_int_equal(tasks.list, LIST);
	assert_int_equal(tasks.name, NAME);
	assert_int_equal(tasks.top, PGD);
	assert_int_equal(ft_tasks_read(&tasks, &ram, TOP, &table), 2);
	assert_string_equal(ft_process_find(&table, 0x900000)->name, "init");
	assert_int_equal(ft_process_find(&table, 0x900000)->pid, 1);
	assert_string_equal(ft_process_find(&table, 0x901000)->name, "ngi\\x1bnx");
	assert_int_equal(ft_process_find(&table, 0x901000)->pid, 77);
}

static void where_there_is_no_kernel_nothing_is_found(void **state)
{
	static struct ft_processes table;
	struct ft_tasks tasks;
	assert_false(ft_tasks_find(&tasks, &ram, TOP, 0));
	assert_false(ft_tasks_find(&tasks, &ram, TOP, KERNEL + FIRST + 0x100000));
	assert_int_equal(ft_tasks_read(&tasks, &ram, TOP, &table), 0);
	put64(FIRST + 0x1000 + LIST + 8, KERNEL + FIRST + LIST + 8); /* the next one does not know the first */
	assert_false(ft_tasks_find(&tasks, &ram, TOP, KERNEL + CODE));
}

static void a_list_without_end_ends(void **state)
{
	static struct ft_processes table;
	struct ft_tasks tasks;
	assert_true(ft_tasks_find(&tasks, &ram, TOP, KERNEL + CODE));
	put64(FIRST + 0x3000 + LIST, KERNEL + FIRST + 0x1000 + LIST);
	assert_in_range(ft_tasks_read(&tasks, &ram, TOP, &table), 2, FT_TASKS_MOST);
	put64(FIRST + 0x3000 + LIST, 0xdeadbeefdeadbeef);
	assert_int_equal(ft_tasks_read(&tasks, &ram, TOP, &table), 2);
}

/* Every word of it wrong, one after the other: whatever is found, nothing outside of it is read (with sanitizers) and it ends. */
static void types_that_lie_do_no_harm(void **state)
{
	static const uint32_t lies[] = {0, 1, 0xffff, 0x0400ffff, 0x7fffffff, 0xffffffff, 0x84000002, 5, 0x80000000};
	static struct ft_processes table;
	size_t length = 24 + types_length;
	unsigned found = 0;
	for (size_t at = 0; at < length; at += 4)
		for (unsigned i = 0; i < sizeof(lies) / sizeof(*lies); i++) {
			struct ft_tasks tasks;
			uint32_t was;
			assert_true(ft_memory_read(&ram, ft_gpa_make(TYPES + at), &was, 4));
			assert_true(ft_memory_write(&ram, ft_gpa_make(TYPES + at), &lies[i], 4));
			found += ft_tasks_find(&tasks, &ram, TOP, KERNEL + CODE);
			ft_tasks_read(&tasks, &ram, TOP, &table);
			assert_true(ft_memory_write(&ram, ft_gpa_make(TYPES + at), &was, 4));
		}
	assert_in_range(found, 1, length / 4 * 9 - 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(rights_and_ends_of_pages, build, drop),
	    cmocka_unit_test_setup_teardown(processes_are_found_with_names_and_ids, build, drop),
	    cmocka_unit_test_setup_teardown(where_there_is_no_kernel_nothing_is_found, build, drop),
	    cmocka_unit_test_setup_teardown(a_list_without_end_ends, build, drop),
	    cmocka_unit_test_setup_teardown(types_that_lie_do_no_harm, build, drop),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
