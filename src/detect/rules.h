/* Event rules: what they look like and how they are read. How they are evaluated: detect/eval.h.
 *
 * A rule has sid, rev, name, text, severity (1 worst .. 3), for verdict rules `verdict` (malicious, suspicious or
 * inconclusive), and exactly one of
 *
 *	any:       MATCH, or a list of them      one such event
 *	threshold: {of: MATCH(es), count: N, within: "10 s"}
 *	sequence:  {steps: [MATCH, MATCH, ...], within: "10 s", same: FIELD}
 *	set:       {of: MATCH(es), field: FIELD, distinct: N, within: "10 s"}
 *	absence:   {during: MATCH, of: MATCH(es), for: "60 s"}
 *
 * MATCH: detect/match.h. `within` may be left out in verdict rules: the whole trial. `same`: all steps have the same
 * value there. `absence` fires when `during` keeps holding for that long and nothing of `of` happens; an event of the
 * type of `during` that does not match it ends the stretch. Time is the machine's virtual time when the event
 * happened, never the time of evaluation. */
#ifndef FT_DETECT_RULES_H
#define FT_DETECT_RULES_H

#include "detect/door.h"
#include "detect/match.h"
#include "detect/verdict.h"

#define FT_RULES_MAX   512u /* rules of one list */
#define FT_RULES_PARTS 32u  /* matches of one rule */
#define FT_RULES_COUNT 4096 /* most of a threshold or set */

enum ft_rules_use { FT_RULES_VERDICT, FT_RULES_CORRELATION };

enum ft_rule_kind { FT_RULE_ANY, FT_RULE_THRESHOLD, FT_RULE_SEQUENCE, FT_RULE_SET, FT_RULE_ABSENCE };

struct ft_rule {
	uint32_t sid, rev;
	char *name; /* lower case, digits, dashes */
	char *text; /* what happened, as a sentence for people */
	unsigned severity;
	enum ft_verdict verdict; /* correlation rules: FT_VERDICT_SUSPICIOUS */
	enum ft_rule_kind kind;
	struct ft_match
	    *parts[FT_RULES_PARTS]; /* alternatives; sequence: the steps; absence: [0] is `during` */
	int fields[FT_RULES_PARTS]; /* set, sequence with `same`: field index of that part; else -1 */
	unsigned count;             /* parts */
	uint32_t least;             /* threshold, set: how many */
	uint64_t window_ns;         /* 0: no bound */
};

struct ft_rules {
	struct ft_rule *rules;
	size_t count;
};

/* Reads a list of rules. Nothing of json is kept. On failure err says what is wrong and where (FT_DOOR_WHERE bytes or
 * NULL) gets the JSON pointer relative to json. The caller frees *rules; it is immutable and may be shared. */
int ft_rules_load(const json_t *json, enum ft_rules_use use, struct ft_rules **rules, char *where,
		  struct ft_error *err);
void ft_rules_free(struct ft_rules *rules);

/* The same without keeping anything: for `foretaste check`. */
int ft_rules_check(const json_t *json, enum ft_rules_use use, char *where, struct ft_error *err);

/* A whole rule file: an object with any of the keys `patterns` (detect/pattern.h), `verdicts`, `correlations`, each a
 * list. Also checks that no sid occurs twice in the file. Over several files: ft_rules_check_sids. */
int ft_rules_check_file(const json_t *file, char *where, struct ft_error *err);

/* Adds file's lists to merged (an object {"patterns": [], "verdicts": [], "correlations": []}); refuses a sid that
 * merged has already. file has passed ft_rules_check_file. */
int ft_rules_merge(json_t *merged, const json_t *file, char *where, struct ft_error *err);

#endif
