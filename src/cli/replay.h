/* `foretaste replay`: the command line of foretaste-replay, made of what the gateway knows. */
#ifndef FT_CLI_REPLAY_H
#define FT_CLI_REPLAY_H

#include <jansson.h>

#include "base/error.h"

#define FT_CLI_REPLAY_WORDS 96

struct ft_cli_replay {
	/* Asks the gateway; a sysexits number. request is taken over, *result is the caller's. */
	int (*ask)(const void *context, json_t *request, json_t **result, struct ft_error *err);
	const void *context;
	/* What came out: words behind the program's name, NULL at the end. They live as long as the process. */
	const char *words[FT_CLI_REPLAY_WORDS + 1];
	size_t count;
};

/* words: what stands behind the command. GUEST becomes its directory and disk; what has a slash in it is a directory itself. `--verdict
 * ID` and `--to verdict:ID` become the files of that verdict: its record, in a file that only this process and its like have, the
 * rules, the guest's journal or the kept seed. --against NAME is a snapshot of the gateway's. 0, or a sysexits number. */
int ft_cli_replay(struct ft_cli_replay *r, char **words, int count, struct ft_error *err);

#endif
