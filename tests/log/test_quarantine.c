/* Shares of services in the quarantine. What it does with whole records and damaged ones: test_ledger.c. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "conversation.h"
#include "log/quarantine.h"

static char directory[64];
static int fd;
static struct ft_quarantine *q;

static int begin(void **state)
{
	struct ft_error err = {0};
	snprintf(directory, sizeof(directory), "/tmp/foretaste-quarantine-XXXXXX");
	if (!mkdtemp(directory) || (fd = open(directory, O_RDONLY | O_DIRECTORY)) < 0)
		return -1;
	return ft_quarantine_open(&q, fd, 0, &err);
}

static int end(void **state)
{
	char command[128];
	ft_quarantine_close(q);
	close(fd);
	snprintf(command, sizeof(command), "rm -r %s", directory);
	return system(command);
}

static void set_shares(uint64_t quota, json_t *shares)
{
	ft_quarantine_shares(q, quota, shares);
	json_decref(shares);
}

/* A hold of one packet of 1000 bytes: a file of 1040. */
static int keep(uint64_t hold, const char *service)
{
	struct ft_error err = {0};
	json_t *message = conversation_packets(hold, 1, 1000);
	json_object_set_new(message, "service", json_string(service));
	int status = ft_quarantine_packets(q, message, &err);
	json_decref(message);
	return status;
}

static bool exists(const char *name)
{
	return !faccessat(fd, name, F_OK, 0);
}

static json_int_t number(const char *service, const char *key)
{
	json_t *status = ft_quarantine_status(q);
	json_int_t value = json_integer_value(
	    json_object_get(json_object_get(json_object_get(status, "services"), service), key));
	json_decref(status);
	return value;
}

static void a_flood_at_one_service_costs_its_own_files(void **state)
{
	set_shares(0, json_pack("{s:i}", "http", 2500));
	assert_int_equal(keep(1, "mail"), 0);
	for (uint64_t hold = 2; hold < 7; hold++)
		assert_int_equal(keep(hold, "http"), 0);
	assert_true(exists("hold-1-mail.pcap"));
	assert_false(exists("hold-4-http.pcap"));
	assert_true(exists("hold-5-http.pcap") && exists("hold-6-http.pcap"));
	assert_int_equal(number("http", "removed"), 3);
	assert_int_equal(number("http", "bytes"), 2080);
}

static void the_whole_quota_holds_as_well(void **state)
{
	set_shares(3200, json_pack("{s:i}", "http", 2500));
	for (uint64_t hold = 1; hold < 3; hold++)
		assert_int_equal(keep(hold, "http"), 0);
	for (uint64_t hold = 3; hold < 6; hold++)
		assert_int_equal(keep(hold, "mail"), 0);
	assert_false(exists("hold-2-http.pcap"));
	assert_true(exists("hold-3-mail.pcap"));
	assert_int_equal(number("http", "removed"), 2);
}

static void shares_outlive_a_restart(void **state)
{
	struct ft_error err = {0};
	for (uint64_t hold = 1; hold < 4; hold++)
		assert_int_equal(keep(hold, "http"), 0);
	ft_quarantine_close(q);
	assert_int_equal(ft_quarantine_open(&q, fd, 0, &err), 0);
	set_shares(0, json_pack("{s:i}", "http", 2500));
	assert_int_equal(number("http", "bytes"), 3120);
	assert_int_equal(keep(4, "http"), 0);
	assert_false(exists("hold-2-http.pcap"));
	assert_true(exists("hold-3-http.pcap"));
}

static void what_is_larger_than_the_share_is_refused(void **state)
{
	set_shares(0, json_pack("{s:i}", "http", 1000));
	assert_int_equal(keep(1, "http"), -EFBIG);
	assert_int_equal(keep(2, "mail"), 0);
}

static void a_name_that_is_none_stays_out_of_the_file_name(void **state)
{
	assert_int_equal(keep(1, "../../etc/passwd"), 0);
	assert_int_equal(keep(2, "a.b"), 0);
	assert_true(exists("hold-1.pcap") && exists("hold-2.pcap"));
}

/* A character that is no ASCII is two bytes above 127 here. */
static void base64_is_ascii(void **state)
{
	struct ft_error err = {0};
	for (unsigned i = 0; i < 2; i++) {
		json_t *message = conversation_packets(1 + i, 1, 30), *frame = json_array_get(json_object_get(message, "frames"), 0);
		assert_true(json_is_object(frame));
		assert_int_equal(json_object_set_new(frame, "data", json_string(i ? "AA\xc3\xa4" : "AAAA")), 0);
		assert_int_equal(ft_quarantine_packets(q, message, &err), i ? -EINVAL : 0);
		json_decref(message);
	}
	assert_non_null(strstr(err.text, "is not valid base64"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(a_flood_at_one_service_costs_its_own_files, begin, end),
	    cmocka_unit_test_setup_teardown(the_whole_quota_holds_as_well, begin, end),
	    cmocka_unit_test_setup_teardown(shares_outlive_a_restart, begin, end),
	    cmocka_unit_test_setup_teardown(what_is_larger_than_the_share_is_refused, begin, end),
	    cmocka_unit_test_setup_teardown(a_name_that_is_none_stays_out_of_the_file_name, begin, end),
	    cmocka_unit_test_setup_teardown(base64_is_ascii, begin, end),
	};
	if (sodium_init() < 0)
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
