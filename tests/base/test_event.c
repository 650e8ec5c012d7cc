#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>
#include <errno.h>
#include <cmocka.h>

#include "base/event.h"

static void a_record_survives_its_own_door(void **state)
{
	char buffer[FT_EVENT_MAX];
	struct ft_event event = {.type = FT_EVENT_EXEC, .role = FT_ROLE_TRIAL, .trial = 7, .pid = 42, .a = {0}};
	size_t n = ft_event_build(buffer, &event, "/bin/sh", "sh -c id");
	struct ft_event got;
	const char *strings[FT_EVENT_STRINGS];
	assert_int_equal(ft_event_check(buffer, n, &got, strings), 0);
	assert_int_equal(got.trial, 7);
	assert_string_equal(strings[0], "/bin/sh");
	assert_string_equal(strings[1], "sh -c id");
}

static void long_strings_are_cut_not_overrun(void **state)
{
	static char huge[3 * FT_EVENT_MAX];
	memset(huge, 'x', sizeof(huge) - 1);
	char buffer[FT_EVENT_MAX];
	struct ft_event event = {.type = FT_EVENT_EXEC, .role = FT_ROLE_TRIAL};
	size_t n = ft_event_build(buffer, &event, huge, huge);
	struct ft_event got;
	const char *strings[FT_EVENT_STRINGS];
	assert_int_equal(n, FT_EVENT_MAX);
	assert_int_equal(ft_event_check(buffer, n, &got, strings), 0);
	assert_string_equal(strings[1], "");
}

static void lies_are_refused(void **state)
{
	char buffer[FT_EVENT_MAX + 1], bad[FT_EVENT_MAX + 1];
	struct ft_event event = {.type = FT_EVENT_FILE_RENAME, .role = FT_ROLE_LIVE};
	size_t n = ft_event_build(buffer, &event, "a", "b");
	struct ft_event got;
	const char *strings[FT_EVENT_STRINGS];
	for (size_t cut = 0; cut < n; cut++)
		assert_int_equal(ft_event_check(buffer, cut, &got, strings), -EPROTO);
	memcpy(bad, buffer, n);
	bad[n - 1] = 'x';
	assert_int_equal(ft_event_check(bad, n, &got, strings), -EPROTO);
	for (unsigned value = 0; value < 256; value++) {
		memcpy(bad, buffer, n);
		((struct ft_event *)(void *)bad)->strings = (uint8_t)value;
		assert_int_equal(ft_event_check(bad, n, &got, strings), value == 2 ? 0 : -EPROTO);
		memcpy(bad, buffer, n);
		((struct ft_event *)(void *)bad)->role = (uint8_t)value;
		assert_int_equal(ft_event_check(bad, n, &got, strings), value < FT_ROLES ? 0 : -EPROTO);
	}
}

/* A message is whole records and nothing else: whatever its bytes say of their lengths, what is looked at lies in it, ends somewhere,
 * and a lie is refused. */
static void a_message_is_its_records(void **state)
{
	uint8_t message[FT_EVENTS_MAX], bad[FT_EVENTS_MAX];
	struct ft_event event = {.type = FT_EVENT_FILE_RENAME, .role = FT_ROLE_TRIAL}, got;
	const char *strings[FT_EVENT_STRINGS];
	size_t ends[3], n = 0;
	for (unsigned i = 0; i < 3; i++) {
		event.sequence = i;
		n += ft_event_build(message + n, &event, "from", i == 1 ? "somewhere else" : "to");
		ends[i] = n;
	}
	for (size_t i = 0, at = 0; i < 3; i++) {
		size_t length = ft_event_first(message + at, n - at);
		assert_int_equal(length, ends[i] - at);
		assert_int_equal(ft_event_check(message + at, length, &got, strings), 0);
		assert_int_equal(got.sequence, i);
		at += length;
	}
	for (size_t left = 0; left < n; left++) {
		size_t length = ft_event_first(message, left);
		assert_int_equal(length, left < ends[0] ? left : ends[0]);
		assert_int_equal(ft_event_check(message, length, &got, strings), left < ends[0] ? -EPROTO : 0);
	}
	static const uint32_t lies[] = {0, 1, sizeof(struct ft_event) - 1, FT_EVENTS_MAX, UINT32_MAX};
	for (size_t i = 0; i < sizeof(lies) / sizeof(*lies); i++) {
		memcpy(bad, message, n);
		memcpy(bad + offsetof(struct ft_event, length), &lies[i], sizeof(lies[i]));
		size_t length = ft_event_first(bad, n);
		assert_int_equal(length, n);
		assert_int_equal(ft_event_check(bad, length, &got, strings), -EPROTO);
	}
}

static void names_and_fields(void **state)
{
	assert_int_equal(ft_event_by_name("connect"), FT_EVENT_CONNECT);
	assert_int_equal(ft_event_by_name("nothing"), -1);
	assert_int_equal(ft_event_field(FT_EVENT_CONNECT, "port"), 2);
	assert_int_equal(ft_event_field(FT_EVENT_CONNECT, "text"), 8);
	assert_int_equal(ft_event_field(FT_EVENT_FILE_RENAME, "to"), 9);
	assert_int_equal(ft_event_field(FT_EVENT_CONNECT, "por"), -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_record_survives_its_own_door),
		cmocka_unit_test(long_strings_are_cut_not_overrun),
		cmocka_unit_test(lies_are_refused),
		cmocka_unit_test(a_message_is_its_records),
		cmocka_unit_test(names_and_fields),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
