#include "replayed.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static char *slurp(FILE *file)
{
	rewind(file);
	char *text = NULL;
	size_t room = 0;
	if (getdelim(&text, &room, 0, file) < 0) {
		free(text);
		text = strdup("");
	}
	fclose(file);
	return text;
}

struct replayed replayed_run(const char *const *arguments, const char *report)
{
	struct replayed p = {0};
	FILE *out = tmpfile(), *err = tmpfile();
	int status;
	pid_t child = fork();
	if (child == 0) {
		dup2(fileno(out), 1);
		dup2(fileno(err), 2);
		execv(arguments[0], (char *const *)arguments);
		_exit(127);
	}
	waitpid(child, &status, 0);
	p.status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
	p.out = slurp(out);
	p.err = slurp(err);
	const char *line = strstr(p.out, report);
	p.report = line ? json_loads(line, 0, NULL) : NULL;
	return p;
}

void replayed_free(struct replayed *replayed)
{
	free(replayed->out);
	free(replayed->err);
	json_decref(replayed->report);
}
