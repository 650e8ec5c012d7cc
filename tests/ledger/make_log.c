/* make_log DIR ENTRIES [EVOLVE]: adds entries to the ledger in DIR, a commit after every 50, the end of an epoch after every
 * EVOLVE. For tests in other languages. */
#include <fcntl.h>
#include <inttypes.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>

#include "ledger/writer.h"

int main(int argc, char **argv)
{
	struct ft_error err = {0};
	struct ft_writer *w;
	if (argc < 3 || sodium_init() < 0)
		return 2;
	struct ft_writer_config config = {
	    .io = &ft_io_system, .directory = open(argv[1], O_RDONLY | O_DIRECTORY), .origin = "example.com/made", .depth = 4};
	unsigned evolve = argc > 3 ? (unsigned)atoi(argv[3]) : 0;
	int error = ft_writer_open(&w, &config, &err);
	for (int i = 0; i < atoi(argv[2]) && !error; i++) {
		char body[64];
		int n = snprintf(body, sizeof(body), "{\"hold\":%" PRIu64 "}", ft_writer_size(w));
		error = ft_writer_append(w, FT_ENTRY_DECIDED, 1790000000000000000u, body, (size_t)n, NULL);
		if (!error && i % 50 == 49)
			error = ft_writer_commit(w);
		if (!error && evolve && (unsigned)i % evolve == evolve - 1)
			error = ft_writer_evolve(w, 1790000000000000000u);
	}
	if (!error)
		error = ft_writer_commit(w);
	if (error)
		fprintf(stderr, "%d: %s\n", error, err.text);
	else
		ft_writer_close(w);
	return error ? 1 : 0;
}
