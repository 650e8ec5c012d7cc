/* The rulebook: all of the gate's configuration that can be another one while it runs. Services with their compiled
 * patterns, verdict and correlation rules, budgets. One is in force; at a reload another takes its place at once, between two
 * frames.
 *
 * What is under way goes on: connections belong to the service of the same name, guest, protocol and port in the new book, and
 * with it under its patterns, policies and limits (a pattern that began to match in the old book's does not end in the new
 * one's). A hold is judged by the rules under which it was opened, and then by the policies in force. A service that is gone
 * keeps the connections that have holds until these are decided; its other connections are no longer inspected.
 *
 * Making one compiles patterns, which takes the better part of a second: it reads nothing but config, so that another thread
 * can do it. Everything else happens in the gate's thread. */
#ifndef FT_DATAPLANE_RULEBOOK_H
#define FT_DATAPLANE_RULEBOOK_H

#include <jansson.h>

#include "base/error.h"
#include "dataplane/canary.h"
#include "dataplane/gate.h"
#include "dataplane/service.h"
#include "detect/pattern.h"
#include "detect/rules.h"
#include "detect/watch.h"

struct ft_rulebook {
	struct ft_rulebook *next; /* of those that are not in force any more */
	uint64_t holds;           /* that were opened under it and may still read it */
	struct ft_services services;
	struct ft_budgets budgets;
	struct ft_patterns *patterns;
	struct ft_rules *verdict_rules, *correlation_rules;
	char rules_sha256[65]; /* of the file that has them; "": not told */
	struct ft_canary canary; /* its token; when it is not in force any more, its tests, too */
	json_t *canary_config;   /* what these are made from */
	unsigned guest_count;
	char *guests[FT_GATE_GUESTS]; /* names, in the order of the configuration */
	struct ft_profile *profiles[FT_GATE_GUESTS];
	struct ft_watch *watches[FT_GATE_GUESTS];
};

/* config: the dataplane's part (gateway/protocol.md); nothing of it is kept. */
int ft_rulebook_new(const json_t *config, struct ft_rulebook **book, struct ft_error *err);
void ft_rulebook_free(struct ft_rulebook *book);

#endif
