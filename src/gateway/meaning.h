/* What the table of keys cannot say: contradictions between keys, and the rule files. Used by config.c alone. */
#ifndef FT_GATEWAY_MEANING_H
#define FT_GATEWAY_MEANING_H

#include "gateway/config.h"

int ft_meaning_check(const struct ft_config *config, struct ft_error *err);

/* Reads all rule files and checks them with detect's own readers; fills config->rules and config->sids. */
int ft_meaning_load_rules(struct ft_config *config, struct ft_error *err);

#endif
