/* The case for or against the input of one trial: takes what the trial and its twin showed, and judges.
 *
 * Use, all from one thread: ft_case_new; ft_case_add for every event that names the trial; after the trial's TRIAL_END
 * (or SEED_GONE) ft_case_step says what to do next: ask for the twin, or the verdict is there. ft_case_record fills
 * the hold's record.
 *
 * What the twin shows too does not count. Events are matched by what they mean (type, process, path or address and
 * arguments, with numbers and random names blurred because these differ) and by how often: three trial events
 * against two of the twin leave one, and the two nearest in time are taken away.
 *
 * `clean` needs: the trial ended at its horizon, the guest took every held byte, nothing of its evidence was lost, and
 * no rule fires. A rule that fires makes the verdict malicious, suspicious or inconclusive, but only once the twin ran
 * as long as the trial; a twin that did not leaves the case inconclusive.
 *
 * The producer may be under the guest's control: what is kept is bounded; events beyond the bound are counted, and a
 * case that lost relevant ones cannot be clean. */
#ifndef FT_DETECT_CASE_H
#define FT_DETECT_CASE_H

#include "base/event.h"
#include "detect/rules.h"

#define FT_CASE_STORY 200u /* entries of the record's evidence list */

/* Outcomes that no rule file decides. X(NAME, sid, verdict, severity, "name", "text") */
#define FT_OUTCOMES(X)                                                                                       \
	X(CLEAN, 4000001, CLEAN, 4, "trial-clean",                                                           \
	  "a copy of the server took this input, ran on, and showed nothing wrong")                          \
	X(NOT_TAKEN, 4000002, INCONCLUSIVE, 3, "trial-not-taken",                                            \
	  "the copy of the server did not take all of the input, so nothing is proven")                      \
	X(LOST, 4000003, INCONCLUSIVE, 3, "trial-evidence-lost",                                             \
	  "part of what the copy did was not recorded, so nothing is proven")                                \
	X(OVERFLOW, 4000004, INCONCLUSIVE, 3, "trial-evidence-overflow",                                     \
	  "the copy did more suspicious things than can be kept, and the ones kept decide nothing")          \
	X(NO_TWIN, 4000005, INCONCLUSIVE, 2, "trial-no-comparison",                                          \
	  "the copy looked compromised, but the comparison run without the input failed, so it may be "      \
	  "routine")                                                                                         \
	X(WALL, 4000010, INCONCLUSIVE, 3, "trial-out-of-time",                                               \
	  "the trial ran out of wall-clock time before it proved anything")                                  \
	X(INSTRUCTIONS, 4000011, INCONCLUSIVE, 3, "trial-out-of-instructions",                               \
	  "the trial used up its instruction budget before it proved anything")                              \
	X(MEMORY, 4000012, INCONCLUSIVE, 3, "trial-out-of-memory",                                           \
	  "the copy wrote more memory than its budget allows, so the trial was stopped")                     \
	X(NEVER_IDLE, 4000013, INCONCLUSIVE, 3, "trial-never-idle",                                          \
	  "the copy did not come to rest after the input, so the trial was stopped")                         \
	X(RESET, 4000014, INCONCLUSIVE, 2, "trial-reset", "the copy of the server reset or powered off")     \
	X(TRIPLE_FAULT, 4000015, INCONCLUSIVE, 2, "trial-triple-fault",                                      \
	  "the copy of the server crashed so hard that the machine shut down")                               \
	X(KILLED, 4000016, INCONCLUSIVE, 2, "trial-killed", "the process that ran the copy died")            \
	X(ERROR, 4000017, INCONCLUSIVE, 3, "trial-error", "the copy of the server could not be made or run")

struct ft_judgement {
	enum ft_verdict verdict;
	uint32_t sid, rev;
	unsigned severity; /* 1 worst .. 4 clean */
	const char *name;  /* of the rule or outcome that decided; lives as long as the rules */
	const char *text;
};

enum ft_case_step {
	FT_CASE_RUNNING, /* the trial, or the twin that was asked for, still runs */
	FT_CASE_TWIN,    /* run the twin until ft_case_until(); said once */
	FT_CASE_JUDGED   /* ft_case_judge has the verdict */
};

struct ft_case;

/* trial: the number in its events. rules and profile (may be NULL) are borrowed until ft_case_free. NULL when there is no
 * memory. */
struct ft_case *ft_case_new(uint64_t trial, const struct ft_rules *rules, const struct ft_profile *profile);
/* The case of another trial run of the same seed. NULL when there is no memory. */
struct ft_case *ft_case_again(const struct ft_case *c);
/* One more who frees it: holds that were tried together share their case. */
struct ft_case *ft_case_share(struct ft_case *c);
void ft_case_free(struct ft_case *c);

/* event, strings as ft_event_check gave them. 0, -EPROTO (not of this trial, a live event, a second TRIAL_END, ...:
 * ignored) or -ENOMEM (counted as lost: the case cannot be clean any more). */
int ft_case_add(struct ft_case *c, const struct ft_event *event, const char *const *strings);

enum ft_case_step ft_case_step(struct ft_case *c);

/* The host's monotonic time: only for the record (how long a run took), nothing is decided by it. */
void ft_case_clock(struct ft_case *c, uint64_t now_ns);

/* Absolute virtual time at which the twin has to stop: a little after the trial's end. */
uint64_t ft_case_until(const struct ft_case *c);

/* The caller gives up (its own wall clock, the vmm died): the trial or twin that runs counts as ended like this. */
void ft_case_abandon(struct ft_case *c, enum ft_trial_end end, const char *detail);

/* How the run ended that kept the case from a verdict: the twin's end when it was the twin that failed. */
enum ft_trial_end ft_case_end(const struct ft_case *c);

/* From where its runs were forked, as the vmm said; false: it has not yet. */
struct ft_case_seed {
	uint64_t icount;
	uint32_t run;    /* of the guest's journal in which it is noted down; 0: none */
	uint64_t number; /* among the seeds of that vmm */
};
bool ft_case_seed(const struct ft_case *c, struct ft_case_seed *seed);

/* The verdict. Before FT_CASE_JUDGED it is what can be said now (inconclusive while the trial runs). */
void ft_case_judge(struct ft_case *c, struct ft_judgement *judgement);

/* Sets seed, trials, evidence, evidence_dropped, verdict, rule, rule_sid, rule_rev, rule_text and severity in record
 * (src/log/hold.md). 0 or -ENOMEM. */
int ft_case_record(struct ft_case *c, json_t *record);

#endif
