/* The command line of foretaste-replay. */
#ifndef FT_REPLAY_OPTIONS_H
#define FT_REPLAY_OPTIONS_H

#include <stdio.h>
#include <sys/types.h>

#include "replay/directory.h"
#include "replay/peers.h"
#include "replay/replay.h"

#define FT_REPLAY_STEPS_MAX 100000u

struct ft_replay_options {
	const char *directory, *disk, *trace;
	const char *verdict, *rules; /* files: its record, and the rules that judged it */
	const char *kept;	     /* snapshot of its seed, where no journal has it */
	const char *against, *against_disk;
	const char *key, *credential; /* of all these, where they are encrypted */
	const char *peers[FT_REPLAY_PEERS];
	unsigned peer_count;
	struct ft_replay_place place;
	struct ft_replay_limits to;
	uint64_t wall_ns; /* --to a time; 0: none */
	uint64_t steps, go_live_ns, seed;
	uid_t uid;
	bool json, goes_live;
	bool to_verdict; /* to where its input was taken, and no further */
};

/* 0; -EINVAL: said why on stderr; 1: help was asked for and given. */
int ft_replay_options_read(struct ft_replay_options *o, int argc, char **argv);
void ft_replay_options_usage(FILE *to);

#endif
