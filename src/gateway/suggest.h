/* "Did you mean": the closest of a few known words. */
#ifndef FT_GATEWAY_SUGGEST_H
#define FT_GATEWAY_SUGGEST_H

#include <stddef.h>

/* Changes (insert, delete, replace, swap of neighbours) that make a into b; words over 63 characters count as far. */
unsigned ft_suggest_distance(const char *a, const char *b);

/* The closest candidate when it is close enough to be meant (at most a third of the word wrong), or NULL. */
const char *ft_suggest(const char *word, const char *const *candidates, size_t count);

#endif
