/* How far the ledger is with what must be durable before input is released: one page in a memfd that the supervisor makes and
 * keeps, the ledger writes and the dataplane reads. Nothing else is said this way; the decisions themselves are records.
 *
 * A decision is durable when `run` is still what it was when the decision was sent, or was read before, and `sequence` is at
 * least its own. `run` changes whenever decisions may have been lost on the way: with each ledger process, and when one could not
 * take one. Then whoever waits sends his again. */
#ifndef FT_BASE_DURABLE_H
#define FT_BASE_DURABLE_H

#include <stdatomic.h>
#include <stdint.h>

struct ft_durable {
	_Atomic uint64_t run;
	_Atomic uint64_t sequence;
	_Atomic uint32_t working; /* 0: nothing becomes durable, there is nothing to wait for */
};

#endif
