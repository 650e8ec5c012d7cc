/* The vmm's side of group tests: seeds of several flows that it plays; which inputs are bad, and which get no answer, is the
 * test's. It keeps the invariant in view: the live guest gets held bytes only as one run took them, all that it cleared and in
 * its order, with no held byte of others in between.
 *
 * Clients are named by their port, less 40000. */
#ifndef FT_TEST_SEEDS_H
#define FT_TEST_SEEDS_H

#include "dataplane/gate-t.h"
#include "scene.h"

#define ENFORCE "\"risks\": \"none\", \"mode\": \"enforce\", \"source_holds\": 500, \"holds\": 500"
#define GROUPS  "\"max\": 4, \"source\": 4, \"group\": 64, \"parallel\": 1"
#define PORTS   512u  /* client ports from 40001 on */
#define SEEDS   512u
#define FILLER  0x999u /* a record of no meaning */

struct held {
	unsigned flow;
	size_t length;
	uint8_t *data;
};

struct seed {
	struct ft_trial_begin begin;
	struct ft_trial_flow flows[FT_TRIAL_FLOWS];
	struct held list[FT_TRIAL_FRAMES];
	unsigned flow_count, frame_count;
	bool gone_told, go, ready_told, finished;
	bool running, twin;
	unsigned run; /* flows of it */
	unsigned runs, twins;
	unsigned approved; /* flows */
	unsigned given;    /* frames of them that the live guest has */
};

extern struct scene s;
extern struct seed *seeds[SEEDS];
extern unsigned seed_count;
extern struct seed *giving; /* whose frames the live guest is getting */

/* What is wrong with a client's input, by port. */
extern bool evil[PORTS], mute[PORTS];
extern unsigned together[2]; /* ports that are bad in one run, or one after the other */
extern bool by_policy[PORTS]; /* may go on without a run */
extern bool given_ports[PORTS];

extern unsigned order[4096]; /* of what the live guest got: ports; a reset is one, too, with RESET */
extern unsigned order_count;
#define RESET 0x10000u

extern unsigned commands_most, frames_most; /* taken at a time */
extern unsigned fillers;

/* ---- the runs ---- */

unsigned port_of(const struct ft_trial_flow *flow);
uint64_t held_of(const struct seed *seed);
void event(const struct seed *seed, unsigned type, unsigned role, const uint64_t a[6], const char *string0, const char *string1);
void end_run_with(struct seed *seed, unsigned end, uint64_t less, unsigned answers);
void end_run(struct seed *seed);
void say_gone(struct seed *seed, unsigned code);
/* Everything that runs ends, what begins then, too, until nothing happens any more. */
void play(void);

/* ---- the clients ---- */

void connect_from(unsigned port, unsigned host);
void send_from(unsigned port, unsigned host, const void *bytes, size_t length);
/* One more client with suspicious input, from an address of its own, or from this one. */
void hold_from(unsigned port, unsigned host);
/* Clients 1 to count, each from its own address, gathered at the same moment. */
void hold_many(unsigned count);
void datagram_from(unsigned port);

/* ---- what came of it ---- */

const json_t *record_of(unsigned port);
const char *reason_of(unsigned port);
json_int_t group_of(unsigned port);
json_int_t runs_of(unsigned port);
void expect(unsigned from, unsigned to, const char *reason);
json_int_t guest_number(const char *key, const char *below);
struct seed *last(void);

/* ---- a test's beginning and end ---- */

int open_groups(void **state);
int close_groups(void **state);
void reopen(const char *clones, const char *service);

#endif
