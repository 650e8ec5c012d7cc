/* A trial once more: from a machine that stands where the seed of the first one was forked, with the same request, by the same code
 * (clone/seed.h). What it shows is judged as the dataplane judges it (detect/case.h).
 *
 * The process that has the machine forks the seed, which forks trial and twin; it never runs the machine itself meanwhile, so it can
 * do that as often as it is asked. */
#ifndef FT_REPLAY_RETRIAL_H
#define FT_REPLAY_RETRIAL_H

#include "clone/seed.h"
#include "detect/case.h"

struct ft_retrial {
	struct ft_hygiene hygiene;
	int events[2], control[2];
};

/* Before confinement. ft_hygiene_seed_rules must be among what the caller's filter allows. */
int ft_retrial_open(struct ft_retrial *r, struct ft_error *err);
void ft_retrial_close(struct ft_retrial *r);

struct ft_retrial_plan {
	struct ft_witness *witness;       /* on the machine, as at the fork */
	const struct ft_request *request; /* exactly the flows of the run. Its wall-clock budget is not looked at */
	const struct ft_outside_config *outside;
	struct ft_case_seed seed; /* for the record */
	const struct ft_rules *rules;
	const struct ft_profile *profile;
};

/* *c: judged; the caller's to free. It borrows rules and profile. */
int ft_retrial_run(struct ft_retrial *r, const struct ft_retrial_plan *plan, struct ft_case **c, struct ft_error *err);

#endif
