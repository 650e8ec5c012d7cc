/* The self-test: for each service that holds input, a client of our own comes every now and then, through the very way of
 * frames from the wire, with input that has to be held, tried on a clone and judged. So a gateway that is active but does not
 * inspect does not stay unnoticed. Its failures are told over outlet.canary; who makes an alarm of them is the supervisor,
 * since the worst failure is that this file does not run any more.
 *
 * One test is: SYN from an address that is reserved for it, the guest's SYN-ACK (which never gets to a port), ACK with input that
 * the service's own pattern matcher has to find, hold, seed, trial, verdict. Expected is `clean` with every byte taken. Where the
 * operator knows input that has to be caught, a second connection brings that, and is expected to be. In the end the connection
 * is reset: nothing but the handshake and the reset ever reaches the live guest. A UDP service has no handshake; there a question for
 * the guest's own link address shows that it is alive, then one datagram brings the input, and the live guest gets nothing at all.
 * Where the guest has an IPv6 address and one is reserved for the test, all of it is done over IPv6, too: passed is what passed
 * over both.
 *
 * What universal input is: a line of text with a token that nobody else knows. A service that does not understand it may
 * say so or hang up; a clone takes its bytes in any case.
 *
 * In shadow mode nothing of a client is held, but the test's connections are: they use a copy of the service that enforces.
 * They have no alert, no record and no place in the lists and tallies of holds; the packets are counted as drop.canary.
 *
 * Costs, for each service, run and family: one handshake, one fork and one trial, and a slot of clone.max meanwhile. */
#ifndef FT_DATAPLANE_CANARY_H
#define FT_DATAPLANE_CANARY_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/canary.h"
#include "base/error.h"
#include "dataplane/frame.h"
#include "dataplane/service.h"

#define FT_CANARY_SID   4000099u /* of the pattern that is the token; among those of outcomes (detect/case.h) */
#define FT_CANARY_INPUT 1024u    /* most bytes of the operator's own input */

enum ft_canary_phase { FT_CANARY_IDLE, FT_CANARY_CONNECT, FT_CANARY_HELD };

/* The connections of one test, in order; those of which there is nothing to try are left out. */
#define FT_CANARY_ATTACKING 1u
#define FT_CANARY_SIX       2u
#define FT_CANARY_STEPS     4u

/* Of one service. */
struct ft_canary_test {
	const struct ft_service *service;
	struct ft_service as; /* a copy that enforces; pointers are the service's, but for the tally */
	struct ft_guest *guest;
	struct ft_address client, server;   /* whom it comes from, and the guest's address ... */
	struct ft_address client6, server6; /* ... of IPv6, where `six` */
	bool six;
	char *attack; /* what has to be caught, NULL: nothing is known */
	enum ft_canary_phase phase;
	unsigned step; /* of FT_CANARY_STEPS: the connection that is open, or comes next */
	uint16_t port; /* of the connection */
	uint32_t isn, guest_isn;
	bool answered, refused;
	uint64_t due;      /* idle: when the next test begins */
	uint64_t began;    /* the test */
	uint64_t again;    /* when it is called again */
	uint64_t deadline; /* of the phase */
	char wrong[128];   /* what was wrong before the verdict came; "" is nothing */
	enum ft_canary_result last;
};

struct ft_canary {
	struct ft_canary_test *tests;
	size_t count;
	uint64_t every_ns; /* 0: there is no self-test */
	uint64_t due;      /* nothing to do before this time */
	char token[64];
	const struct ft_canary_test *injecting; /* whose frame ft_gate_wire is at */
};

struct ft_gate;
struct ft_guest;
struct ft_hold;

/* The token as a pattern for ft_patterns_load; NULL when there is no self-test. To be called before the services' screens are
 * made. */
json_t *ft_canary_pattern(struct ft_canary *canary, const json_t *config);

/* When services and screens are there. */
int ft_canary_open(struct ft_gate *gate, const json_t *config, struct ft_error *err);
void ft_canary_close(struct ft_canary *canary);

/* At a reload, when the new services are in force: makes new tests, which go on when the old ones would have. Those stay, for the
 * connections that are under way, until they are closed. */
void ft_canary_reopen(struct ft_gate *gate, const struct ft_canary *old, const json_t *config);

/* What time brings. Sets canary.due. */
void ft_canary_tick(struct ft_gate *gate);

/* The service that a frame to this service is handled as. */
const struct ft_service *ft_canary_service(const struct ft_gate *gate, const struct ft_service *service);

/* Does somebody else come from the reserved address? */
bool ft_canary_is_forged(const struct ft_gate *gate, const struct ft_guest *guest, const struct ft_frame *frame);

/* Takes what the guest sends to the reserved address, or asks about it; true: it goes nowhere else. */
bool ft_canary_takes(struct ft_gate *gate, struct ft_guest *guest, const struct ft_frame *frame);

/* The hold of a test is judged. */
void ft_canary_judged(struct ft_gate *gate, const struct ft_hold *hold);

#endif
