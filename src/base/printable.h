/* Text from strangers (a guest's process names, a child's last words, bytes of a request) for a person's terminal or a
 * log: no control characters, no escape sequences, always valid UTF-8 and one line. */
#ifndef FT_BASE_PRINTABLE_H
#define FT_BASE_PRINTABLE_H

#include <stddef.h>

/* Copies length bytes of from, at most size - 1 bytes of result, NUL-terminated. Control characters (C0, DEL, C1),
 * bidirectional overrides, line separators and bytes that are no UTF-8 become \xNN. What does not fit ends with
 * "...". Returns to. */
char *ft_printable(char *to, size_t size, const char *from, size_t length);

#endif
