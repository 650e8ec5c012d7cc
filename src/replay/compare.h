/* Are two records of one hold (src/log/hold.md) of equal runs? What a host's speed has a part in is left out. */
#ifndef FT_REPLAY_COMPARE_H
#define FT_REPLAY_COMPARE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

/* What the machines did (trials), what was seen of it (evidence), what was made of that (verdict), in this order. False: text says what
 * differs first, and how. */
bool ft_compare_records(const json_t *recorded, const json_t *again, char *text, size_t size);

/* Sentences of evidence that only one of them has, once each: new references. */
void ft_compare_evidence(const json_t *recorded, const json_t *again, json_t **gone, json_t **added);

#endif
