#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>
#include <errno.h>
#include <cmocka.h>

#include "base/units.h"

static void sizes_are_bytes(void **state)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} cases[] = {{"256 MiB", 256ull << 20},
		     {"256MiB", 256ull << 20},
		     {"1.5 GiB", 3ull << 29},
		     {"0", 0},
		     {"0 B", 0},
		     {"64 kB", 64000},
		     {" 12 B ", 12},
		     {"1 TiB", 1ull << 40}};
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		uint64_t bytes = 99;
		assert_int_equal(ft_units_size(cases[i].text, &bytes, NULL), 0);
		assert_int_equal(bytes, cases[i].bytes);
	}
}

static void durations_are_nanoseconds(void **state)
{
	static const struct {
		const char *text;
		uint64_t ns;
	} cases[] = {{"500 ms", 500000000},
		     {"2s", 2000000000},
		     {"2 min", 120000000000ull},
		     {"1.5 us", 1500},
		     {"7 ns", 7},
		     {"1 h", 3600000000000ull},
		     {"0", 0}};
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		uint64_t ns = 99;
		assert_int_equal(ft_units_duration(cases[i].text, &ns, NULL), 0);
		assert_int_equal(ns, cases[i].ns);
	}
}

static void nonsense_is_refused_with_a_sentence(void **state)
{
	static const struct {
		const char *text;
		int code;
		const char *says;
	} cases[] = {
	    {"", -EINVAL, "\"\" is not a duration, expected a number and a unit such as \"500 ms\""},
	    {"fast", -EINVAL, "\"fast\" is not a duration, expected a number and a unit such as \"500 ms\""},
	    {"-1 s", -EINVAL, "\"-1 s\" is not a duration, expected a number and a unit such as \"500 ms\""},
	    {"500", -EINVAL,
	     "\"500\" has no unit, expected a duration such as \"500 ms\" (units: h, min, s, ms, us, ns)"},
	    {"5 MiB", -EINVAL,
	     "\"5 MiB\" has an unknown unit, expected a duration such as \"500 ms\" (units: h, min, s, ms, "
	     "us, ns)"},
	    {"5 s x", -EINVAL,
	     "\"5 s x\" has an unknown unit, expected a duration such as \"500 ms\" (units: h, min, s, ms, "
	     "us, ns)"},
	    {"0.5 ns", -EINVAL, "\"0.5 ns\" is not a whole number of ns"},
	    {"0.1234567890 s", -EINVAL, "\"0.1234567890 s\" has too many digits after the point"},
	    {"9223372037 s", -ERANGE, "\"9223372037 s\" is too large for a duration"},
	    {"99999999999999999999999 s", -ERANGE,
	     "\"99999999999999999999999 s\" is too large for a duration"},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct ft_error err = {0};
		uint64_t ns = 99;
		assert_int_equal(ft_units_duration(cases[i].text, &ns, &err), cases[i].code);
		assert_string_equal(err.text, cases[i].says);
		assert_int_equal(ns, 99);
	}
}

static void formatted_values_read_back(void **state)
{
	char text[FT_UNITS_TEXT];
	assert_string_equal(ft_units_format_size(256ull << 20, text), "256 MiB");
	assert_string_equal(ft_units_format_size(1500, text), "1500 B");
	assert_string_equal(ft_units_format_size(0, text), "0 B");
	assert_string_equal(ft_units_format_duration(2000000, text), "2 ms");
	assert_string_equal(ft_units_format_duration(120000000000ull, text), "120 s");
	for (uint64_t value = 1; value < (uint64_t)1 << 62; value = value * 3 + 1) {
		uint64_t back = 0;
		assert_int_equal(ft_units_size(ft_units_format_size(value, text), &back, NULL), 0);
		assert_int_equal(back, value);
		assert_int_equal(ft_units_duration(ft_units_format_duration(value, text), &back, NULL), 0);
		assert_int_equal(back, value);
	}
	assert_string_equal(ft_units_round_duration(93212345, text), "93.2 ms");
	assert_string_equal(ft_units_round_duration(1250000000, text), "1.25 s");
	assert_string_equal(ft_units_round_duration(999, text), "999 ns");
	assert_string_equal(ft_units_round_duration(0, text), "0 ns");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(sizes_are_bytes),
	    cmocka_unit_test(durations_are_nanoseconds),
	    cmocka_unit_test(nonsense_is_refused_with_a_sentence),
	    cmocka_unit_test(formatted_values_read_back),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
