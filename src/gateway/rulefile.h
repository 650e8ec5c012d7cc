/* The rules that verdicts come from, as they were: a file for each set of them that was in force, rules/SHA256.json below state, so that a
 * verdict can be come to again whatever the rules are now. The record of a verdict has its hash, and the ledger has that.
 *
 * A file's time of change is when it came into force last, so it was in force until that of the next one. When that was an hour before
 * the oldest part of a journal and the oldest kept seed that there are, no verdict that can be come to again needs it, and it goes, with
 * the next rules that come into force or the next start. The hour: a checkpoint is on disk some time after the moment that it holds, a
 * verdict comes some time after its seed. */
#ifndef FT_GATEWAY_RULEFILE_H
#define FT_GATEWAY_RULEFILE_H

#include "gateway/supervisor.h"

/* part: the dataplane's configuration, which comes into force, or goes on being that, and gets "rules_sha256" when the file is there. When it cannot be written it goes without, and
 * the log says so. */
void ft_rulefile_keep(struct ft_supervisor *s, json_t *part);

#endif
