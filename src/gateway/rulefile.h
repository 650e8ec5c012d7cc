/* The rules that verdicts come from, as they were: a file for each set of them that was ever in force, rules/SHA256.json below state, so
 * that a verdict can be come to again whatever the rules are now. The record of a verdict has its hash, and the ledger has that. */
#ifndef FT_GATEWAY_RULEFILE_H
#define FT_GATEWAY_RULEFILE_H

#include "gateway/supervisor.h"

/* part: the dataplane's configuration, which gets "rules_sha256" when the file is there. When it cannot be written it goes without, and
 * the log says so. */
void ft_rulefile_keep(struct ft_supervisor *s, json_t *part);

#endif
