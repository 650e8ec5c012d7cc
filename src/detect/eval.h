/* Runs rules over one ordered stream of events: a trial's, or a live guest's.
 *
 * Time is event time. Memory is bounded: per rule at most FT_RULES_COUNT times or values. Events whose time goes
 * backwards (a hostile producer) are taken as happening at the latest time seen. */
#ifndef FT_DETECT_EVAL_H
#define FT_DETECT_EVAL_H

#include "detect/rules.h"

struct ft_eval;

/* Called for each rule that fires. since_ns: event time of the first event that counted. */
typedef void ft_eval_found(void *context, const struct ft_rule *rule, const struct ft_event *event,
			   const char *const *strings, uint64_t since_ns);

/* rules and profile (may be NULL) are borrowed until ft_eval_free. */
struct ft_eval *ft_eval_new(const struct ft_rules *rules, const struct ft_profile *profile);
void ft_eval_free(struct ft_eval *eval);

/* 0 or -ENOMEM (the rule concerned forgets what it had collected). */
int ft_eval_event(struct ft_eval *eval, const struct ft_event *event, const char *const *strings,
		  ft_eval_found *found, void *context);

/* How much an event matters: not at all, as a part of a rule that combines events, or by itself (an `any` rule). */
enum ft_relevance { FT_RELEVANCE_NONE, FT_RELEVANCE_PART, FT_RELEVANCE_DECIDES };

enum ft_relevance ft_eval_relevance(const struct ft_rules *rules, const struct ft_profile *profile,
				    const struct ft_event *event, const char *const *strings);

#endif
