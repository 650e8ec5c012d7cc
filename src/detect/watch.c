#include "detect/watch.h"

#include <stdlib.h>

/* How long a rule without a window of its own stays quiet. */
#define QUIET_NS 60000000000ull

struct ft_watch {
	const struct ft_rules *rules;
	struct ft_eval *eval;
	uint64_t *quiet_until; /* one a rule, event time */
	ft_eval_found *found;
	void *context;
};

struct ft_watch *ft_watch_new(const struct ft_rules *rules, const struct ft_profile *profile)
{
	struct ft_watch *watch = calloc(1, sizeof(*watch));
	if (!watch)
		return NULL;
	watch->rules = rules;
	watch->eval = ft_eval_new(rules, profile);
	watch->quiet_until = calloc(rules->count ? rules->count : 1, sizeof(*watch->quiet_until));
	if (!watch->eval || !watch->quiet_until) {
		ft_watch_free(watch);
		return NULL;
	}
	return watch;
}

void ft_watch_free(struct ft_watch *watch)
{
	if (!watch)
		return;
	ft_eval_free(watch->eval);
	free(watch->quiet_until);
	free(watch);
}

static void fired(void *context, const struct ft_rule *rule, const struct ft_event *event,
		  const char *const *strings, uint64_t since_ns)
{
	struct ft_watch *watch = context;
	uint64_t *quiet_until = &watch->quiet_until[rule - watch->rules->rules];
	if (event->vtime_ns < *quiet_until)
		return;
	*quiet_until = event->vtime_ns + (rule->window_ns ? rule->window_ns : QUIET_NS);
	watch->found(watch->context, rule, event, strings, since_ns);
}

int ft_watch_event(struct ft_watch *watch, const struct ft_event *event, const char *const *strings,
		   ft_eval_found *found, void *context)
{
	if (event->role != FT_ROLE_LIVE)
		return 0;
	watch->found = found;
	watch->context = context;
	return ft_eval_event(watch->eval, event, strings, fired, watch);
}
