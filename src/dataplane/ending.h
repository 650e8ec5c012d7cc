/* How holds end: by their verdict, by a policy, by an operator's word, or with their guest. What is done with their frames then, and
 * how they leave their flow and their batch. For hold.c; what the rest of the gate asks for is in hold.h. */
#ifndef FT_DATAPLANE_ENDING_H
#define FT_DATAPLANE_ENDING_H

#include "base/event.h"
#include "dataplane/gate-t.h"

/* The hold is decided and done: the flow goes on without it. Freed at the end of the next tick: callers up the stack may be
 * on their way through the list. */
void ft_hold_detach(struct ft_gate *gate, struct ft_hold *hold);

/* A member of a batch that is over, undecided: it is tried again. */
void ft_hold_wait_again(struct ft_gate *gate, struct ft_hold *hold);

/* Begins to release; goes on with ft_holds_release. */
void ft_hold_release(struct ft_gate *gate, struct ft_hold *hold, enum ft_reason reason);

/* Goes on with the releases of the guest, in the order in which they began, as its ring and the ledger allow. */
void ft_holds_release(struct ft_gate *gate, struct ft_guest *guest);

/* The hold's case becomes this one, which it owns from here on. */
void ft_hold_take_case(struct ft_hold *hold, struct ft_case *trial);

/* The case is judged: does what the verdict, and without one the service's policy, says. */
void ft_hold_conclude(struct ft_gate *gate, struct ft_hold *hold);

/* There will be no verdict, for this reason, or because of this limit, which is counted: the policy decides. */
void ft_hold_give_up(struct ft_gate *gate, struct ft_hold *hold, enum ft_exception exception, const char *why);
void ft_hold_give_up_at(struct ft_gate *gate, struct ft_hold *hold, enum ft_exception exception, enum ft_limit limit);

#endif
