/* Records of one writer: numbered without gaps, in order, none twice and none left out, however they are put into messages. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#include "clone/report.h"

static int pair[2];
static struct ft_report report;
static uint8_t room[FT_EVENTS_MAX];
static uint64_t expected; /* sequence of the next record */
static unsigned messages;

static int fresh(void **state)
{
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
	ft_report_begin(&report, pair[0], FT_ROLE_TRIAL, 42);
	expected = messages = 0;
	return 0;
}

static int done(void **state)
{
	close(pair[0]);
	close(pair[1]);
	return 0;
}

static void tell(enum ft_event_type type, const char *string)
{
	struct ft_event event = {.type = (uint16_t)type, .pid = -1, .a = {report.sequence}};
	ft_report_send(&report, &event, string, NULL);
}

/* Records that are there; all are what they should be. */
static unsigned hear(void)
{
	uint8_t message[FT_EVENTS_MAX + 1];
	struct ft_event event;
	const char *strings[FT_EVENT_STRINGS];
	unsigned count = 0;
	ssize_t n;
	while ((n = recv(pair[1], message, sizeof(message), MSG_DONTWAIT)) > 0) {
		assert_in_range(n, 1, FT_EVENTS_MAX);
		messages++;
		for (size_t at = 0, length; at < (size_t)n; at += length, count++) {
			length = ft_event_first(message + at, (size_t)n - at);
			assert_int_equal(ft_event_check(message + at, length, &event, strings), 0);
			assert_int_equal(event.trial, 42);
			assert_int_equal(event.sequence, expected);
			assert_int_equal(event.a[0], expected++);
		}
	}
	return count;
}

static void each_record_is_a_message_unless_gathered(void **state)
{
	for (unsigned i = 0; i < 10; i++)
		tell(FT_EVENT_CR3, NULL);
	assert_int_equal(hear(), 10);
	assert_int_equal(messages, 10);
}

static void gathered_ones_wait_until_flushed(void **state)
{
	ft_report_gather(&report, room);
	for (unsigned i = 0; i < 10; i++)
		tell(FT_EVENT_CR3, NULL);
	assert_int_equal(hear(), 0);
	ft_report_flush(&report);
	assert_int_equal(hear(), 10);
	assert_int_equal(messages, 1);
	ft_report_flush(&report);
	assert_int_equal(hear(), 0);
	assert_int_equal(messages, 1);
}

static void the_end_of_a_trial_waits_for_nothing(void **state)
{
	ft_report_gather(&report, room);
	tell(FT_EVENT_CR3, NULL);
	tell(FT_EVENT_TRIAL_END, "detail");
	assert_int_equal(hear(), 2);
}

/* Sizes up to the largest: a record that does not fit any more goes into the next message. */
static void none_is_lost_where_messages_end(void **state)
{
	static char text[FT_EVENT_MAX];
	unsigned told = 0, heard = 0;
	ft_report_gather(&report, room);
	for (unsigned size = 0; size < sizeof(text) - 1; size += 37, told++) {
		memset(text, 'x', size);
		text[size] = 0;
		tell(FT_EVENT_CONSOLE, text);
		heard += hear();
	}
	ft_report_flush(&report);
	heard += hear();
	assert_int_equal(heard, told);
	assert_true(messages < told);
}

static void beyond_the_limit_is_counted_before_the_end(void **state)
{
	uint8_t message[FT_EVENTS_MAX];
	struct ft_event event;
	const char *strings[FT_EVENT_STRINGS];
	ft_report_gather(&report, room);
	report.limit = 5;
	for (unsigned i = 0; i < 12; i++)
		tell(FT_EVENT_CR3, NULL);
	tell(FT_EVENT_TRIAL_END, NULL);
	size_t n = (size_t)recv(pair[1], message, sizeof(message), MSG_DONTWAIT);
	unsigned count = 0;
	for (size_t at = 0, length; at < n; at += length, count++) {
		length = ft_event_first(message + at, n - at);
		assert_int_equal(ft_event_check(message + at, length, &event, strings), 0);
		if (count == 5) {
			assert_int_equal(event.type, FT_EVENT_LOST);
			assert_int_equal(event.a[0], 7);
		}
	}
	assert_int_equal(count, 7);
	assert_int_equal(event.type, FT_EVENT_TRIAL_END);
}

static void who_hears_nothing_is_found_out(void **state)
{
	ft_report_gather(&report, room);
	close(pair[1]);
	pair[1] = -1;
	tell(FT_EVENT_CR3, NULL);
	assert_false(report.dead);
	ft_report_flush(&report);
	assert_true(report.dead);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, fresh, done)
	const struct CMUnitTest tests[] = {
	    TEST(each_record_is_a_message_unless_gathered),
	    TEST(gathered_ones_wait_until_flushed),
	    TEST(the_end_of_a_trial_waits_for_nothing),
	    TEST(none_is_lost_where_messages_end),
	    TEST(beyond_the_limit_is_counted_before_the_end),
	    TEST(who_hears_nothing_is_found_out),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
