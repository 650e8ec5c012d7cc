/* `foretaste guest console`: the log of a guest's serial console, and what is added to it. The guest writes it, so its
 * lines are cleaned of control characters before they reach a terminal. */
#ifndef FT_CLI_CONSOLE_H
#define FT_CLI_CONSOLE_H

#include <stdio.h>

#include "base/error.h"

/* Prints the last lines of the file, then what comes until nobody reads. A sysexits number. */
int ft_console_show(FILE *out, const char *path, unsigned last, struct ft_error *err);

#endif
