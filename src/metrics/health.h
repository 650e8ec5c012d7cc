/* Is the gateway alive, and does it do its work? What /healthz and /readyz say, and the metrics of these names. */
#ifndef FT_METRICS_HEALTH_H
#define FT_METRICS_HEALTH_H

#include <jansson.h>
#include <stdbool.h>

/* state: the answer to the control request `metrics`, NULL when the supervisor gave none. problems (may be NULL): array that
 * gets one sentence for each thing that is wrong. */

/* Alive: the supervisor answers, and every one of its processes is ready and answers. */
bool ft_health_live(const json_t *state, json_t *problems);

/* Ready: alive besides, every guest is up, and the self-test of every service has passed lately. */
bool ft_health_ready(const json_t *state, json_t *problems);

/* {"status": "ok"} or {"status": "failing", "problems": [...]}; a new reference. */
json_t *ft_health_json(bool (*check)(const json_t *state, json_t *problems), const json_t *state, bool *ok);

#endif
