/* What can come of one self-test of a service (dataplane/canary.h), in the words that the dataplane tells the supervisor. */
#ifndef FT_BASE_CANARY_H
#define FT_BASE_CANARY_H

/* X(NAME, "name") */
#define FT_CANARY_RESULTS(X)                                                                                        \
	X(OK, "ok")                                                                                                 \
	X(FAILED, "failed")   /* it was not held, or judged otherwise than it had to be, or no decision came */     \
	X(SILENT, "silent")   /* the guest does not answer at all */                                                \
	X(REFUSED, "refused") /* the guest answers that nobody listens: there is no service to protect */           \
	X(BUSY, "busy")       /* a limit was reached, as is told of clients, too: others had the clones */          \
	X(DOWN, "down")       /* there is no guest; nothing was tried */                                            \
	X(OFF, "off")         /* the service holds nothing (observe, bypass); nothing was tried */

enum ft_canary_result {
#define X(name, label) FT_CANARY_##name,
	FT_CANARY_RESULTS(X)
#undef X
		FT_CANARY_RESULT_COUNT
};

static const char *const ft_canary_results[] = {
#define X(name, label) label,
    FT_CANARY_RESULTS(X)
#undef X
};

#endif
