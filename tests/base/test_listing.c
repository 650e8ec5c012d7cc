#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/listing.h"

#define FILES 200u /* more than the list has room for at first */

static char path[] = "/tmp/foretaste-listing-XXXXXX";
static int directory;

static bool kept(const char *name)
{
	return !strncmp(name, "kept-", 5);
}

static void put(const char *name, size_t bytes, time_t s, long ns)
{
	const struct timespec times[2] = {{s, ns}, {s, ns}};
	int fd = openat(directory, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
	assert_int_equal(futimens(fd, times), 0);
	close(fd);
}

static void files_of_a_kind_oldest_first(void **state)
{
	struct ft_listing_file *files;
	assert_int_equal(ft_listing(directory, kept, &files), 0);
	assert_null(files);
	put("kept-late", 7, 2000, 5);
	put("kept-b", 1, 2000, 4);
	put("kept-a", 2, 2000, 4);
	put("kept-first", 3, 1999, 999999999);
	put("other", 9, 1, 0);
	/* Neither of these is a file, whatever its name. */
	assert_int_equal(mkdirat(directory, "kept-directory", 0700), 0);
	assert_int_equal(symlinkat("kept-a", directory, "kept-link"), 0);
	static const char *const names[] = {"kept-first", "kept-a", "kept-b", "kept-late"};
	static const uint64_t bytes[] = {3, 2, 1, 7};
	/* As often as it is asked for: the descriptor stays where it was. */
	for (unsigned n = 0; n < 2; n++) {
		assert_int_equal(ft_listing(directory, kept, &files), 4);
		for (unsigned i = 0; i < 4; i++) {
			assert_string_equal(files[i].name, names[i]);
			assert_int_equal(files[i].bytes, bytes[i]);
		}
		assert_int_equal(files[3].changed.tv_sec, 2000);
		assert_int_equal(files[3].changed.tv_nsec, 5);
		free(files);
	}
}

static void many_files(void **state)
{
	struct ft_listing_file *files;
	char name[NAME_MAX + 1];
	for (unsigned i = 0; i < FILES; i++) {
		/* Names as long as there are. */
		snprintf(name, sizeof(name), "kept-%0*u", NAME_MAX - 5, i);
		put(name, i, 1000000 - i, 0);
	}
	assert_int_equal(ft_listing(directory, kept, &files), FILES);
	for (unsigned i = 0; i < FILES; i++) {
		assert_int_equal(files[i].bytes, FILES - 1 - i);
		assert_int_equal(strlen(files[i].name), NAME_MAX);
	}
	free(files);
}

static void what_is_no_directory_has_none(void **state)
{
	struct ft_listing_file *files;
	assert_int_equal(ft_listing(-1, kept, &files), 0);
	assert_null(files);
}

static int make(void **state)
{
	strcpy(path + sizeof(path) - 7, "XXXXXX");
	directory = mkdtemp(path) ? open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
	return directory < 0 ? -1 : 0;
}

static bool any(const char *name)
{
	return true;
}

static int unmake(void **state)
{
	struct ft_listing_file *files;
	size_t count = ft_listing(directory, any, &files);
	for (size_t i = 0; i < count; i++)
		unlinkat(directory, files[i].name, 0);
	free(files);
	unlinkat(directory, "kept-link", 0);
	unlinkat(directory, "kept-directory", AT_REMOVEDIR);
	close(directory);
	return rmdir(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(files_of_a_kind_oldest_first, make, unmake),
	    cmocka_unit_test_setup_teardown(many_files, make, unmake),
	    cmocka_unit_test(what_is_no_directory_has_none),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
