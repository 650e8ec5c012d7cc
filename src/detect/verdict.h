/* What a trial proved about its input. */
#ifndef FT_DETECT_VERDICT_H
#define FT_DETECT_VERDICT_H

enum ft_verdict {
	FT_VERDICT_CLEAN, /* a clone took all of the input, ran through its horizon, and no rule objects */
	FT_VERDICT_INCONCLUSIVE, /* no proof either way: the service's exception policies decide */
	FT_VERDICT_SUSPICIOUS,   /* a rule objects, but an unlucky innocent input could do the same */
	FT_VERDICT_MALICIOUS,    /* a rule objects that no innocent input trips */
	FT_VERDICTS
};

const char *ft_verdict_name(enum ft_verdict verdict); /* "clean", ...; "unknown" when out of range */
int ft_verdict_by_name(const char *name);             /* -1 when there is none */

#endif
