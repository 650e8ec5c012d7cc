/* How the holds of one service ended, counted. */
#ifndef FT_DATAPLANE_OUTCOME_H
#define FT_DATAPLANE_OUTCOME_H

#include <jansson.h>
#include <stdint.h>

#include "base/histogram.h"
#include "detect/verdict.h"

/* X(NAME, "as in src/log/hold.md") */
#define FT_DISPOSITIONS(X)       \
	X(RELEASED, "released")  \
	X(DROPPED, "dropped")    \
	X(RESET, "reset")        \
	X(TEMPFAILED, "tempfailed") \
	X(OBSERVED, "observed")

enum ft_disposition {
#define X(name, label) FT_DISPOSITION_##name,
	FT_DISPOSITIONS(X)
#undef X
		FT_DISPOSITION_COUNT
};

struct ft_outcomes {
	uint64_t verdicts[FT_VERDICTS];
	uint64_t dispositions[FT_DISPOSITION_COUNT + 1]; /* the last one: of names that are not in the table */
	struct ft_histogram time;
};

/* A hold is over, ns after its first packet. disposition: its name in the record. */
void ft_outcome_note(struct ft_outcomes *outcomes, enum ft_verdict verdict, const char *disposition, uint64_t ns);

/* Sets "verdicts", "dispositions" and "hold_time" of an object. */
void ft_outcome_tell(const struct ft_outcomes *outcomes, json_t *object);

#endif
