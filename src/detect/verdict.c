#include "detect/verdict.h"

#include <string.h>

static const char *const names[FT_VERDICTS] = {
    [FT_VERDICT_CLEAN] = "clean",
    [FT_VERDICT_INCONCLUSIVE] = "inconclusive",
    [FT_VERDICT_SUSPICIOUS] = "suspicious",
    [FT_VERDICT_MALICIOUS] = "malicious",
};

const char *ft_verdict_name(enum ft_verdict verdict)
{
	return (unsigned)verdict < FT_VERDICTS ? names[verdict] : "unknown";
}

int ft_verdict_by_name(const char *name)
{
	for (int i = 0; i < FT_VERDICTS; i++)
		if (!strcmp(names[i], name))
			return i;
	return -1;
}
