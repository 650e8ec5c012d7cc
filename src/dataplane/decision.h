/* Decisions that wait for the ledger: with log.commit before-release, no held frame goes on before the entry that says so is
 * durable. Where the ledger is gone, slow or broken for longer than log.timeout, log.on_failure decides, and that is counted.
 *
 * Drops wait for nobody, and neither does what an operator's bypass or the gateway's end lets go. */
#ifndef FT_DATAPLANE_DECISION_H
#define FT_DATAPLANE_DECISION_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/durable.h"
#include "base/error.h"

enum ft_on_failure { FT_ON_FAILURE_RELEASE, FT_ON_FAILURE_DROP, FT_ON_FAILURE_HOLD };

struct ft_decisions {
	const struct ft_durable *page; /* NULL: nothing waits */
	bool before_release;
	enum ft_on_failure on_failure;
	uint64_t timeout;
	uint64_t sequence; /* of the last one made */
	uint64_t made, again, failed, longest; /* longest: ns that one waited */
	bool failing;
};

/* Part of a hold; all zero: it waits for nothing. */
struct ft_decision {
	uint64_t sequence, run, made;
	bool told; /* the ledger knows of it */
	bool failed;
};

enum ft_decision_state { FT_DECISION_DURABLE, FT_DECISION_WAITS, FT_DECISION_FAILED };

struct ft_gate;
struct ft_hold;

/* Reads `log` {commit, on_failure, timeout} of the dataplane's configuration; what is absent: async, release, 2 s. */
int ft_decisions_load(struct ft_decisions *decisions, const json_t *config, struct ft_error *err);

/* A release was decided on: tells the ledger if it must be durable first. */
void ft_decision_make(struct ft_gate *gate, struct ft_hold *hold);

/* May it go on? While it waits gate->holds.due is set. */
enum ft_decision_state ft_decision_look(struct ft_gate *gate, struct ft_hold *hold);

/* Tells the outcome of a decision whose hold is not told otherwise. */
void ft_decision_done(struct ft_gate *gate, const struct ft_hold *hold, const char *disposition);

/* New reference: {"made", "again", "failed", "longest_ns", "failing"} */
json_t *ft_decisions_status(const struct ft_decisions *decisions);

#endif
