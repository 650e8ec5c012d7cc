/* The guest's console log: gathered while the guest runs, written between runs, bounded. A guest that floods its console
 * loses the beginning of its log, not the host's disk. */
#ifndef FT_GUEST_CONSOLE_H
#define FT_GUEST_CONSOLE_H

#include <stddef.h>
#include <stdint.h>

#define FT_CONSOLE_BOUND (16u << 20) /* bytes of log; then it starts again */

struct ft_console {
	int fd;           /* append mode; -1: none */
	uint64_t written; /* since the file was empty, as far as we know */
	uint64_t lost;    /* bytes that could not be written */
	size_t filled;
	char buffer[8192];
};

void ft_console_open(struct ft_console *console, int fd);
/* Goes on in another file, as after a rotation; the old one is closed. */
void ft_console_reopen(struct ft_console *console, int fd);
void ft_console_put(struct ft_console *console, const char *bytes, size_t length);
void ft_console_flush(struct ft_console *console);

#endif
