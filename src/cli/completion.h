/* Completion of our command line in a shell, made from the tables that parse it. */
#ifndef FT_CLI_COMPLETION_H
#define FT_CLI_COMPLETION_H

#include <getopt.h>
#include <stddef.h>
#include <stdio.h>

struct ft_completion_command {
	const char *name;
	const char *rest; /* as the usage shows it: "", "ID", "[FILE]", "start|stop NAME" */
};

/* Writes a script for bash. options ends with a nameless one; paths lists the names of those whose argument is a path,
 * and ends with NULL. All borrowed. In rest FILE and PATH are completed as such, words in lower case as themselves. */
void ft_completion_bash(FILE *file, const struct ft_completion_command *commands, size_t count,
			const struct option *options, const char *const *paths);

#endif
