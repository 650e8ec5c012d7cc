/* The door for what the dataplane says about a hold (src/log/hold.md). The dataplane reads packets and may be under an
 * attacker's control: nothing of its records is used before it passed here. */
#ifndef FT_LOG_RECORD_H
#define FT_LOG_RECORD_H

#include <jansson.h>

#include "base/error.h"

/* Checks a `hold` record: kinds, ranges, lengths, addresses. *record is a new object with the known keys only (the
 * caller's); what is optional and absent stays absent. -EINVAL with the place and the reason in err. */
int ft_record_check(const json_t *message, json_t **record, struct ft_error *err);

/* Makes a text from outside fit for a line: at most `most` bytes, cut between characters. New reference or NULL. */
json_t *ft_record_text(const json_t *text, size_t most);

#endif
