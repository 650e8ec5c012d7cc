/* Suppressions: triggers that operators have said to ignore, by rule, client network and service, until a time. What a
 * suppression lets pass is counted by it and has a reason of its own.
 *
 * Only what inspection finds in bytes can be suppressed (a rule, a risk, screen: all). Other bytes under passed numbers, and
 * what a connection sends after a trigger, are no findings. */
#ifndef FT_DATAPLANE_SUPPRESS_H
#define FT_DATAPLANE_SUPPRESS_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/address.h"
#include "base/error.h"

#define FT_SUPPRESSIONS 256u

struct ft_suppression {
	uint64_t id;
	uint32_t sid; /* 0: any finding */
	bool has_network;
	struct ft_address network;
	unsigned prefix;  /* of 128 bits */
	char service[64]; /* empty: any */
	uint64_t until;   /* wall clock, ns */
	uint64_t hits;
	json_t *entry; /* as it was given */
};

struct ft_suppressions {
	struct ft_suppression *list;
	size_t count;
};

/* entries: [{"id", "sid", "network", "service", "until_ns", ...}] as the supervisor keeps them. Those that were there before
 * keep their hits. On failure nothing changes. */
int ft_suppressions_load(struct ft_suppressions *suppressions, const json_t *entries, struct ft_error *err);
void ft_suppressions_free(struct ft_suppressions *suppressions);

/* The one that is in force at wall for this finding, or NULL. sid: 0 for what no rule found. */
struct ft_suppression *ft_suppressions_find(const struct ft_suppressions *suppressions, uint32_t sid,
					    const struct ft_address *client, const char *service,
					    uint64_t wall);

/* The entries with their "hits"; a new reference. */
json_t *ft_suppressions_list(const struct ft_suppressions *suppressions);

#endif
