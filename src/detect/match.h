/* One condition on one event: its type, who speaks, and what its fields hold. Part of a rule.
 *
 *	event: exec                     which type (base/event.h)
 *	role: trial                     optional
 *	where: {result: 0, path: ...}   all have to hold
 *	unless: {path: {in: may_exec}}  if all of these hold the event does not count (a list: any of them)
 *
 * A field is one of the event's own, or process, pid, cr3. What it may be compared with:
 *
 *	7   "text"   [7, 8]             equal to one of them (signals and ends of trials by name: SIGSEGV, horizon)
 *	{min: 1, max: 9}                in a range, both ends included
 *	{mask: 0o111}                   any of these bits
 *	{prefix: T} {suffix: T}         T: one string or a list, any of them
 *	{glob: T}                       as in the shell, `*` also across `/`
 *	{regex: T}                      POSIX extended, anywhere in the text; no back-references
 *	{in: may_exec}                  in a list of the service's profile
 *	{not: any of the above}
 *
 * Numbers compare unsigned, except the fields named "result", which are what a system call returned. */
#ifndef FT_DETECT_MATCH_H
#define FT_DETECT_MATCH_H

#include "base/event.h"
#include "detect/door.h"
#include "detect/profile.h"

struct ft_match;

int ft_match_load(const json_t *json, struct ft_match **match, struct ft_door *door,
		  const struct ft_place *place);
void ft_match_free(struct ft_match *match);

/* strings as ft_event_check gave them. */
bool ft_match_test(const struct ft_match *match, const struct ft_event *event, const char *const *strings,
		   const struct ft_profile *profile);
unsigned ft_match_event(const struct ft_match *match); /* the event type it looks at */

/* Index of a field of the event type, the ones every event has included; -1 when there is none. */
int ft_match_field(unsigned type, const char *name);
/* A number that is equal for equal values of that field. */
uint64_t ft_match_value(const struct ft_event *event, const char *const *strings, int field);

#endif
