/* The state of the gateway as Prometheus reads it: text exposition format 0.0.4. The one place that knows metric names; the
 * HTTP endpoint and `foretaste metrics` both print it from the same answer of the supervisor. */
#ifndef FT_METRICS_EXPOSITION_H
#define FT_METRICS_EXPOSITION_H

#include <jansson.h>
#include <stdio.h>

#define FT_EXPOSITION_TYPE "text/plain; version=0.0.4; charset=utf-8"

/* state: the answer to the control request `metrics` (gateway/protocol.md). What is missing in it, because a process does
 * not answer, has no samples: its metrics are then absent, which is what an alert can look for. Every reason and every
 * bucket has a sample, also at 0, so that the first of its kind is an increase. */
void ft_exposition_print(FILE *file, const json_t *state);

#endif
