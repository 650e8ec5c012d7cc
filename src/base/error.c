#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int ft_error_set(struct ft_error *err, int code, const char *format, ...)
{
	if (!err || err->code)
		return code;
	va_list args;
	va_start(args, format);
	vsnprintf(err->text, sizeof(err->text), format, args);
	va_end(args);
	err->code = code;
	return code;
}

void ft_error_prefix(struct ft_error *err, const char *format, ...)
{
	if (!err || !err->code)
		return;
	char old[sizeof(err->text)];
	memcpy(old, err->text, sizeof(old));
	va_list args;
	va_start(args, format);
	int n = vsnprintf(err->text, sizeof(err->text), format, args);
	va_end(args);
	if (n < 0 || (size_t)n >= sizeof(err->text))
		return;
	snprintf(err->text + n, sizeof(err->text) - (size_t)n, ": %s", old);
}
