/* Correlation rules over the live guest's events. A reader only: nothing here can touch the guest.
 *
 * One per guest, used from one thread. A rule that fired stays quiet until its window has passed in event time, so that
 * a burst is one finding and not thousands. */
#ifndef FT_DETECT_WATCH_H
#define FT_DETECT_WATCH_H

#include "detect/eval.h"

struct ft_watch;

/* rules and profile (may be NULL) are borrowed until ft_watch_free. */
struct ft_watch *ft_watch_new(const struct ft_rules *rules, const struct ft_profile *profile);
void ft_watch_free(struct ft_watch *watch);

/* Events of other roles than live are ignored. found is called for each finding. 0 or -ENOMEM. */
int ft_watch_event(struct ft_watch *watch, const struct ft_event *event, const char *const *strings,
		   ft_eval_found *found, void *context);

#endif
