/* Replays a recorded machine: restores it from a checkpoint, gives it the journal's inputs where they came, and compares its
 * state with each hash that was recorded. Everything else is the machine's own doing, so it does the same again.
 *
 * The journal and the checkpoint may have been written by somebody else than a vmm of ours. */
#ifndef FT_REPLAY_REPLAY_H
#define FT_REPLAY_REPLAY_H

#include "journal/reader.h"
#include "snapshot/machine.h"

enum ft_replay_end {
	FT_REPLAY_LIMIT,   /* where it was to go */
	FT_REPLAY_OVER,    /* the journal has no more, and nothing is known to have run beyond it */
	FT_REPLAY_RESET,   /* the guest was reset or switched off: m->reset */
	FT_REPLAY_DIVERGED,/* err says where, and in what */
	FT_REPLAY_FAILED   /* err: the journal is none, or the engine cannot go on */
};

struct ft_replay_limits {
	uint64_t icount, vtime_ns; /* UINT64_MAX: none */
};

struct ft_replay {
	/* Set by the caller. net_tx and console (may be NULL) are what the guest does, at the count where it did. */
	void *context;
	void (*net_tx)(void *context, const void *frame, size_t length);
	void (*console)(void *context, const char *bytes, size_t length);
	void (*record)(void *context, const struct ft_record *record); /* before it takes effect; may be NULL */
	/* A frame that the journal has by reference; *bytes until the machine has it. NULL: there is none. */
	int (*fetch)(void *context, const struct ft_record_peer *peer, uint64_t number, const uint8_t **bytes, size_t *length, struct ft_error *err);
	void *fetch_context;
	/* A piece of a trial's request. True: this is as far as it is to go; the record is done with. May be NULL. */
	bool (*trial)(void *context, const struct ft_record *record);
	void (*before)(void *context); /* around each run of the machine; may be NULL, both */
	void (*after)(void *context, enum ft_stop stop, uint64_t wake);
	const struct ft_snapshot_seal *seal; /* of the checkpoint; NULL: it is not encrypted, or there is no key */
	bool trusting; /* states are not compared: to see what that costs */

	struct ft_machine *m;
	struct ft_snapshot_load load; /* m NULL: all of RAM is here */
	struct ft_journal *journal;
	struct ft_error *err; /* where a callback finds fault */
	uint64_t slice_end;   /* where the recorded machine's run ended, if nothing else ended it */
	uint64_t inputs, checks, frames_in;
	uint64_t checked; /* count of the last check that was as recorded: the beginning of the interval that differs */
	bool over;     /* its end has been seen */
	struct ft_record_peer peers[FT_RECORD_PEERS]; /* what numbers stand for in this segment */
	uint32_t segment; /* that it is in, and frames sent since its checkpoint */
	uint64_t sent;
	uint32_t wanted_segment; /* 0: none; else it stops when this frame was sent */
	uint64_t wanted_number;
	bool reached; /* it stopped there, before the next record, which belongs where it is */
};

/* Makes the machine that the journal's header describes: everything that needs a file or executable memory. disk: -1: none. Both
 * are the caller's and may be closed afterwards. journal: its first segment is the checkpoint's. config: engine and options, the rest is
 * filled here. */
int ft_replay_create(struct ft_replay *r, struct ft_machine_config *config, struct ft_journal *journal, int disk, struct ft_error *err);
/* The same for what a snapshot alone says of its machine: a kept seed (its `origin`, clone/transcript.h), where journal stays NULL. */
int ft_replay_create_kept(struct ft_replay *r, struct ft_machine_config *config, int snapshot, int disk, struct ft_error *err);
/* Puts it into the state of the checkpoint: the caller should be confined. Refused by name: another base image, another CPU
 * model, another guest's checkpoint or another one than the journal's. */
int ft_replay_restore(struct ft_replay *r, int checkpoint, struct ft_error *err);
/* All of RAM comes now; the checkpoint's file is let go of. -EIO: a part of it cannot be had. */
int ft_replay_fill(struct ft_replay *r, struct ft_error *err);
void ft_replay_close(struct ft_replay *r);

enum ft_replay_end ft_replay_run(struct ft_replay *r, const struct ft_replay_limits *limits, struct ft_error *err);

/* The journal is left: the machine goes on by itself with the free clock and random numbers made of `seed`, its network ends
 * here. */
enum ft_replay_end ft_replay_go_live(struct ft_replay *r, uint64_t seed, const struct ft_replay_limits *limits, struct ft_error *err);

#endif
