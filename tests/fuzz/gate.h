/* The world of the gate's fuzzer (gate.c): the gate, what is remembered of it, and what the client does (gate_client.c). */
#ifndef FT_FUZZ_GATE_H
#define FT_FUZZ_GATE_H

#include "input.h"

#include "../dataplane/scene.h"

#define PORTS  4u
#define TRIALS 64u
#define SLOTS  65536u
#define HEADER 512u  /* in front of a frame's payload, at most, and room for what an input adds */
#define JUMBO  8900u /* bytes of the largest payload */

/* A datagram that the gate has cut, as far as its pieces are there. */
struct gathered {
	bool used;
	uint32_t identification, header, filled;
	uint8_t bytes[FT_FRAME_MOST];
};

struct trial {
	uint64_t number;
	bool used, ready, finished;
	struct ft_trial_flow flows[FT_TRIAL_FLOWS];
	uint32_t expected, flow_count;
	/* the run */
	uint32_t run; /* flows that it gets the frames of */
	bool twin, horizon, evil, excused, answered, twin_ended, cleared;
	uint32_t frames, lengths[64];
	uint8_t bytes[64 * 1600];
	size_t filled;
};

struct world {
	struct ft_gate *gate;
	unsigned kind; /* of gate */
	struct ft_link vmm;
	uint64_t now, sequence;
	struct scene maker; /* of frames alone */
	uint32_t client_next[PORTS], guest_next[PORTS], guest_has[PORTS], guest_acked[PORTS], syn[PORTS];
	unsigned sent;
	bool strict, ordered, lied;
	bool again[PORTS]; /* a second SYN: which connection a number is of only the guest could tell */
	struct trial trials[TRIALS];
	unsigned trial_count;
	/* (port, sequence number, byte) of what a clean trial took */
	uint64_t cleared[SLOTS];
	unsigned cleared_count;
	struct gathered given; /* to the guest */
};

extern struct world w;

/* A record of the guest's for the gate; a round of the gate when so much time has passed, and a look at what it put out. */
void from_guest(void *bytes, size_t length, uint32_t kind);
void pass(uint64_t ns);

/* What the client and an operator may do, with what the input says. */
void segment(struct input *in, bool client);
void datagram(struct input *in, bool client);
void icmp(struct input *in);
void neighbour(struct input *in);
void order(struct input *in);
void undo_orders(void);
void raw(struct input *in);

#endif
