#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "base/printable.h"

static void what_a_terminal_would_obey_is_spelled_out(void **state)
{
	static const struct {
		const char *from, *to;
	} cases[] = {
	    {"GET / HTTP/1.1", "GET / HTTP/1.1"},
	    {"\x1b[31mred\x07", "\\x1b[31mred\\x07"},
	    {"a\r\nb\tc\x7f", "a\\x0d\\x0ab\\x09c\\x7f"},
	    {"gr\xc3\xbc\xc3\x9f", "gr\xc3\xbc\xc3\x9f"},
	    {"\xc2\x9b"
	     "31m",
	     "\\xc2\\x9b31m"}, /* C1 control sequence introducer */
	    {"\xe2\x80\xae"
	     "gpj.exe",
	     "\\xe2\\x80\\xaegpj.exe"}, /* right-to-left override */
	    {"\xc0\xaf \xed\xa0\x80 \xff",
	     "\\xc0\\xaf \\xed\\xa0\\x80 \\xff"}, /* overlong, surrogate, no UTF-8 */
	    {"\xe2\x82", "\\xe2\\x82"},           /* cut short */
	};
	char text[100];
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
		assert_string_equal(ft_printable(text, sizeof(text), cases[i].from, strlen(cases[i].from)),
				    cases[i].to);
	assert_string_equal(ft_printable(text, sizeof(text), "a\0b", 3), "a\\x00b");
}

/* Any bytes into any room: terminated, and nothing that a terminal obeys. */
static void the_room_is_never_left(void **state)
{
	char from[256], text[64];
	for (int i = 0; i < 256; i++)
		from[i] = (char)i;
	for (size_t size = 1; size < sizeof(text) - 1; size++)
		for (size_t start = 0; start < sizeof(from); start += 7) {
			memset(text, '#', sizeof(text));
			ft_printable(text, size, from + start, sizeof(from) - start);
			assert_true(strlen(text) < size);
			assert_int_equal(text[size], '#');
			for (const char *p = text; *p; p++)
				assert_true((unsigned char)*p >= 0x20 && *p != 0x7f);
		}
	assert_string_equal(ft_printable(text, 8, "0123456789", 10), "0123...");
	assert_string_equal(ft_printable(text, 11, "0123456789", 10), "0123456789");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(what_a_terminal_would_obey_is_spelled_out),
	    cmocka_unit_test(the_room_is_never_left),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
