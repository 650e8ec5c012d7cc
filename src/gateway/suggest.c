#include "gateway/suggest.h"

#include <string.h>

#define LONGEST 63u

static unsigned least(unsigned a, unsigned b)
{
	return a < b ? a : b;
}

unsigned ft_suggest_distance(const char *a, const char *b)
{
	size_t m = strlen(a), n = strlen(b);
	if (m > LONGEST || n > LONGEST)
		return LONGEST;
	unsigned cost[LONGEST + 1][LONGEST + 1];
	for (size_t i = 0; i <= m; i++)
		cost[i][0] = (unsigned)i;
	for (size_t j = 0; j <= n; j++)
		cost[0][j] = (unsigned)j;
	for (size_t i = 1; i <= m; i++)
		for (size_t j = 1; j <= n; j++) {
			unsigned best = cost[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
			best = least(best, least(cost[i - 1][j], cost[i][j - 1]) + 1);
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
				best = least(best, cost[i - 2][j - 2] + 1);
			cost[i][j] = best;
		}
	return cost[m][n];
}

const char *ft_suggest(const char *word, const char *const *candidates, size_t count)
{
	const char *closest = NULL;
	unsigned limit = (unsigned)(strlen(word) + 2) / 3, best = limit + 1;
	if (strlen(word) > LONGEST)
		return NULL;
	for (size_t i = 0; i < count; i++) {
		unsigned distance = ft_suggest_distance(word, candidates[i]);
		if (distance < best) {
			best = distance;
			closest = candidates[i];
		}
	}
	return closest;
}
