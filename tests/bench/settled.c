#include "settled.h"

#include <stdlib.h>
#include <string.h>

int settled_option(int argc, char **argv, int from)
{
	if (argc == from)
		return SETTLED_S;
	int seconds = argc == from + 2 && !strcmp(argv[from], "--settle") ? atoi(argv[from + 1]) : -1;
	return seconds <= 3600 ? seconds : -1;
}

bool settled(struct stand *s, struct peer *idle, uint16_t port, int seconds)
{
	peer_open(idle, s, port);
	if (!stand_wait_console(s, "foretaste-guest: services up", peer_meanwhile, idle))
		return false;
	for (int i = 0; i < seconds; i++)
		peer_run(idle, 1000, NULL);
	return true;
}
