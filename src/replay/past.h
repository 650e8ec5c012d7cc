/* A verdict that was recorded, and whatever it takes to come to it again: its record (src/log/hold.md), the rules that judged it, and
 * the request of its trial. */
#ifndef FT_REPLAY_PAST_H
#define FT_REPLAY_PAST_H

#include <jansson.h>
#include <stdio.h>

#include "clone/transcript.h"
#include "replay/retrial.h"

struct ft_past {
	json_t *record;
	char guest[64];
	struct ft_case_seed seed;
	uint32_t flows; /* of its run: those of a group, or one */
	char *rules_text;
	size_t rules_length;
	struct ft_rules *rules;
	struct ft_profile *profile;
	struct ft_transcript transcript;
	struct ft_retrial retrial;
};

/* Before confinement. record: a file with the record, as `foretaste show ID --json` prints it, or with a line of the feed. rules: the
 * file that the record's rules_sha256 is of; NULL: nothing is to be judged. */
int ft_past_open(struct ft_past *v, const char *record, const char *rules, struct ft_error *err);
/* After it. -EINVAL: these are not the rules that judged it. */
int ft_past_prepare(struct ft_past *v, struct ft_error *err);
void ft_past_close(struct ft_past *v);

/* The request is whole: is it the one of the record? Takes the flows of its run alone. */
int ft_past_request(struct ft_past *v, struct ft_error *err);

/* The same input for another guest's machine, under witness, that does not know its connections (replay/connect.h). Not before the trial
 * itself was made again: the request changes. */
int ft_past_try_elsewhere(struct ft_past *v, struct ft_witness *witness, json_t **record, struct ft_error *err);

/* The trial again, on the machine under witness. *record: as the dataplane would have recorded it, a new reference. */
int ft_past_try(struct ft_past *v, struct ft_witness *witness, json_t **record, struct ft_error *err);

/* "malicious by service-exec (sid 2000001): run 1 horizon, ...": one record in a line. */
void ft_past_print(FILE *to, const char *who, const json_t *record);

#endif
