/* What one run (the trial, or its twin) showed, kept in bounds. Part of a case.
 *
 * Two lists: `kept` has each event that some rule looks at, whole and in order, for evaluation; `story` has what a
 * person wants to read, repeats of one thing counted in one entry. Two events are the same thing when their keys are
 * equal: type, process, and what was acted on. Numbers and random parts ("tmp.Xk29aQ") of arguments and paths are
 * blurred, since process ids, times and the names of temporary files differ between two runs; not so in the path of a
 * program that was started, nor in an address. Blurring cannot hide anything: what the trial did once more often than
 * the twin stays, whatever it was called. */
#ifndef FT_DETECT_TRACE_H
#define FT_DETECT_TRACE_H

#include "detect/eval.h"

/* Kept events, and bytes of strings of both lists together. The reserve is for events that convict by themselves: a flood
 * of harmless parts cannot push them out. */
#define FT_TRACE_EVENTS        4096u
#define FT_TRACE_BYTES         (4u << 20)
#define FT_TRACE_EVENT_RESERVE 1024u
#define FT_TRACE_BYTE_RESERVE  (1u << 20)
#define FT_TRACE_STORY         512u /* different things in a story */

struct ft_trace_event {
	struct ft_event event;
	char *strings[FT_EVENT_STRINGS];
	uint64_t key;
	uint64_t count; /* story: how often; kept: 1, or 0 once the twin has shown it too */
	bool relevant;
};

struct ft_trace_list {
	struct ft_trace_event *events;
	size_t count, room;
};

struct ft_trace {
	struct ft_trace_list kept, story;
	size_t bytes;
	uint64_t lost;    /* LOST records and memory shortages: events nobody has seen */
	uint64_t dropped; /* story events beyond the bound: only the telling lacks them */
	bool overflow;    /* events that a rule looks at went beyond the bound */
};

uint64_t ft_trace_key(const struct ft_event *event, const char *const *strings);

void ft_trace_add(struct ft_trace *trace, const struct ft_event *event, const char *const *strings,
		  enum ft_relevance relevance);
/* A LOST record, which says how many (0: at least one). Whatever a clone says, once something was lost `lost` is not 0. */
#define FT_TRACE_LOST (1ull << 40) /* it counts no further */
void ft_trace_lose(struct ft_trace *trace, const struct ft_event *event);
void ft_trace_free(struct ft_trace *trace); /* its contents */

/* Takes from the trial's kept events what the twin shows too: per key, and of several the nearest in time. */
void ft_trace_subtract(struct ft_trace *trial, const struct ft_trace *twin);

/* How often the story of this trace has the key. */
uint64_t ft_trace_told(const struct ft_trace *trace, uint64_t key);

#endif
