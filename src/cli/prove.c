#include "cli/prove.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ledger/entry.h"
#include "ledger/proof.h"

static int number(const char *text, uint64_t *n, struct ft_error *err)
{
	char *end;
	errno = 0;
	*n = strtoull(text, &end, 10);
	if (errno || end == text || *end || *text == '-' || *n > INT64_MAX)
		return ft_error_set(err, -EINVAL, "\"%.40s\" is no number", text);
	return 0;
}

static int print(struct ft_prover *prover, const char *what, struct ft_error *err)
{
	uint64_t n, index;
	char *text = NULL;
	size_t length;
	if (!strcmp(what, "checkpoint")) {
		const char *note = ft_prover_checkpoint(prover, &length);
		fwrite(note, 1, length, stdout);
		return 0;
	}
	const char *equals = strchr(what, '=');
	int error = number(equals ? equals + 1 : what, &n, err);
	if (error)
		return error;
	if (!strncmp(what, "from=", 5)) {
		error = ft_prover_consistency(prover, n, &text, err);
	} else if (!strncmp(what, "entry=", 6)) {
		error = ft_prover_inclusion(prover, n, &text, err);
	} else if (!equals) {
		error = ft_prover_find(prover, FT_ENTRY_DECIDED, n, &index);
		error = error ? ft_error_set(err, error, "the ledger has no decision on a hold with this number")
			      : ft_prover_inclusion(prover, index, &text, err);
	} else {
		error = ft_error_set(err, -EINVAL, "\"%.40s\": expected a hold's number, entry=NUMBER, from=SIZE or checkpoint", what);
	}
	if (!error)
		fputs(text, stdout);
	free(text);
	return error;
}

int ft_prove(const char *directory, const char *what, struct ft_error *err)
{
	int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return ft_error_set(err, -errno, "cannot open the ledger %s: %s", directory, strerror(errno));
	struct ft_prover *prover;
	int error = ft_prover_open(&prover, fd, err);
	if (!error)
		error = print(prover, what, err);
	ft_prover_close(prover);
	close(fd);
	return error;
}
