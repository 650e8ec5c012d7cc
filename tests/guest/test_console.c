/* The console log: whole, bounded, and never in the guest's way. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "guest/console.h"

static struct ft_console console;

static int log_file(void)
{
	char path[] = "/tmp/foretaste-test-console-XXXXXX";
	int fd = mkostemp(path, O_APPEND);
	assert_true(fd >= 0);
	unlink(path);
	return fd;
}

static void what_the_guest_says_is_written_in_order(void **state)
{
	int fd = log_file();
	char back[64] = "";
	ft_console_open(&console, fd);
	ft_console_put(&console, "one ", 4);
	ft_console_put(&console, "two\n", 4);
	ft_console_flush(&console);
	ft_console_put(&console, "three", 5);
	ft_console_flush(&console);
	assert_int_equal(pread(fd, back, sizeof(back), 0), 13);
	assert_string_equal(back, "one two\nthree");
	close(fd);
}

static void a_flood_is_bounded(void **state)
{
	int fd = log_file();
	char line[1000];
	struct stat st;
	memset(line, 'x', sizeof(line));
	ft_console_open(&console, fd);
	for (int i = 0; i < 3 * (int)(FT_CONSOLE_BOUND / sizeof(line)); i++) {
		ft_console_put(&console, line, sizeof(line));
		assert_int_equal(fstat(fd, &st), 0);
		assert_true(st.st_size <= FT_CONSOLE_BOUND);
	}
	ft_console_flush(&console);
	assert_int_equal(console.lost, 0);
	close(fd);
}

static void a_log_of_an_earlier_run_counts(void **state)
{
	int fd = log_file();
	struct stat st;
	assert_int_equal(ftruncate(fd, FT_CONSOLE_BOUND), 0);
	ft_console_open(&console, fd);
	ft_console_put(&console, "x", 1);
	ft_console_flush(&console);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_size, 1);
	close(fd);
}

static void a_log_that_cannot_be_written_is_counted(void **state)
{
	int fd = open("/dev/full", O_WRONLY);
	ft_console_open(&console, fd);
	ft_console_put(&console, "lost", 4);
	ft_console_flush(&console);
	assert_int_equal(console.lost, 4);
	close(fd);
	ft_console_open(&console, -1);
	ft_console_put(&console, "lost", 4);
	ft_console_flush(&console);
	assert_int_equal(console.lost, 4);
}

static void it_goes_on_in_another_file(void **state)
{
	char bytes[8] = "";
	int fd = log_file(), other = log_file();
	int was = dup(fd), is = dup(other);
	ft_console_open(&console, fd);
	ft_console_put(&console, "old", 3);
	ft_console_reopen(&console, other);
	ft_console_put(&console, "new", 3);
	ft_console_flush(&console);
	assert_int_equal(pread(was, bytes, sizeof(bytes), 0), 3);
	assert_memory_equal(bytes, "old", 3);
	assert_int_equal(pread(is, bytes, sizeof(bytes), 0), 3);
	assert_memory_equal(bytes, "new", 3);
	assert_int_equal(fcntl(fd, F_GETFD), -1); /* the old one is not kept */
	assert_int_equal(console.written, 3);
	close(was);
	close(is);
	close(other);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(what_the_guest_says_is_written_in_order),
	    cmocka_unit_test(a_flood_is_bounded),
	    cmocka_unit_test(a_log_of_an_earlier_run_counts),
	    cmocka_unit_test(a_log_that_cannot_be_written_is_counted),
	    cmocka_unit_test(it_goes_on_in_another_file),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
