/* Pattern rules: Hyperscan expressions over what a client sends. Read here, matched by the dataplane.
 *
 *	sid, rev, name, text, severity   as in event rules
 *	pattern                          Hyperscan (PCRE) syntax, on the bytes as the client sent them
 *	flags                            any of: i (letters in either case), s (dot takes newlines too), m (^ and $ at
 *	                                 line ends too)
 *	where                            stream (default; the bytes of a flow, across packets) or packet (each alone) */
#ifndef FT_DETECT_PATTERN_H
#define FT_DETECT_PATTERN_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "detect/door.h"

#define FT_PATTERNS_MAX 4096u

struct ft_pattern {
	uint32_t sid, rev;
	unsigned severity;
	char *name, *text, *pattern;
	unsigned flags; /* HS_FLAG_* as written in the rule; whoever compiles adds what it needs */
	bool stream;
};

struct ft_patterns {
	struct ft_pattern *patterns;
	size_t count;
};

/* Reads a list, and asks Hyperscan whether each expression compiles. Errors as ft_rules_load. */
int ft_patterns_load(const json_t *json, struct ft_patterns **patterns, char *where, struct ft_error *err);
void ft_patterns_free(struct ft_patterns *patterns);

#endif
