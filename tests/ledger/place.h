/* A directory of its own for a test, removed with all that is in it. */
#ifndef FT_TEST_LEDGER_PLACE_H
#define FT_TEST_LEDGER_PLACE_H

struct place {
	char path[64];
	int fd;
};

void place_open(struct place *place);
void place_close(struct place *place);

#endif
