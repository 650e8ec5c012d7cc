/* An error as a value: what a person must read, and the errno that goes with it.
 *
 * Functions that can fail for a reason somebody has to understand return 0 or -errno and fill a struct ft_error.
 * Only main() turns one into an exit status. A NULL struct ft_error * is allowed everywhere: the text is dropped. */
#ifndef FT_BASE_ERROR_H
#define FT_BASE_ERROR_H

#include <stddef.h>

struct ft_error {
	int code;       /* -errno of the first failure, 0 while there is none */
	char text[512]; /* one clear sentence, no trailing newline */
};

/* Fills *err unless it already holds an earlier error (the first cause is the one worth reading).
 * Returns code, so that "return ft_error_set(err, -EINVAL, ...)" reads as one step. code < 0. */
int ft_error_set(struct ft_error *err, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Puts "context: " in front of the text, for callers that know where the failing thing came from. */
void ft_error_prefix(struct ft_error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
