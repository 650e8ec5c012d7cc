/* What is done with held input when there is no verdict on it: the four exceptions and the policy for each. */
#ifndef FT_DATAPLANE_POLICY_H
#define FT_DATAPLANE_POLICY_H

#include <jansson.h>

#include "base/error.h"
#include "base/event.h"
#include "base/reason.h"

/* X(NAME, "name", "what happened") */
#define FT_EXCEPTIONS(X)                                                                                     \
	X(TIMEOUT, "timeout", "a budget of the trial or the time of the hold was used up")                   \
	X(ERROR, "error", "the trial failed or proved nothing, or what ran it is gone")                      \
	X(OVERLOAD, "overload", "a limit on holds, held bytes, clones or trials was reached")                \
	X(OVERSIZE, "oversize", "more input than hold_limit or input_limit lets be tried")

enum ft_exception {
#define X(name, label, text) FT_EXCEPTION_##name,
	FT_EXCEPTIONS(X)
#undef X
	    FT_EXCEPTION_COUNT /* none */
};

enum ft_policy {
	FT_POLICY_DROP,    /* it never reaches the guest, and its connection is reset at both ends */
	FT_POLICY_RELEASE, /* it goes on untried */
	/* As if the network had lost it: nothing is acknowledged, so the sender's TCP sends it again and it is tried
	 * again. Where another try of this connection cannot help, both ends are reset, so that the client connects anew.
	 * A datagram is just not delivered. */
	FT_POLICY_TEMPFAIL,
	FT_POLICY_COUNT
};

struct ft_policies {
	enum ft_policy on[FT_EXCEPTION_COUNT];
	enum ft_policy on_suspicious; /* drop or release */
};

/* Reads on_timeout, on_error, on_overload, on_oversize, those that are absent or null as on_exception says (drop when that
 * is absent, too), and on_suspicious (drop). */
int ft_policies_load(const json_t *service, struct ft_policies *to, struct ft_error *err);

/* What is counted and told of a frame that the policy decided on. */
enum ft_reason ft_policy_reason(enum ft_exception exception, enum ft_policy policy);

/* The exception that a run which ended like this is, when it proved nothing. */
enum ft_exception ft_exception_of(enum ft_trial_end end);

const char *ft_exception_name(enum ft_exception exception); /* "none" when there is none */
const char *ft_policy_name(enum ft_policy policy);

#endif
