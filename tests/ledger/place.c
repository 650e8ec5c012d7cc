#include "tests/ledger/place.h"

#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

void place_open(struct place *place)
{
	snprintf(place->path, sizeof(place->path), "/tmp/foretaste-test-ledger-XXXXXX");
	if (!mkdtemp(place->path))
		abort();
	place->fd = open(place->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	return remove(path);
}

void place_close(struct place *place)
{
	close(place->fd);
	nftw(place->path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}
