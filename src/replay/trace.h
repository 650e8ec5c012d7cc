/* What a replayed guest does, a line an event: what nobody thought of logging when it happened. The events are those that are
 * evidence of clones (base/event.h). */
#ifndef FT_REPLAY_TRACE_H
#define FT_REPLAY_TRACE_H

#include <stdio.h>

#include "clone/witness.h"
#include "replay/replay.h"

enum ft_trace_kind { FT_TRACE_SYSCALLS = 1, FT_TRACE_NETWORK = 2, FT_TRACE_DISK = 4, FT_TRACE_CONSOLE = 8, FT_TRACE_INPUTS = 16 };

/* "syscalls,network": -EINVAL for a word that is none. */
int ft_trace_kinds(const char *words, unsigned *kinds);

struct ft_trace {
	unsigned kinds;
	FILE *to;
	struct ft_machine *m;
	struct ft_witness witness;
	struct ft_report report;
	uint64_t lines;
};

/* From here on; the machine is at the checkpoint. Nothing of it may move while the machine runs. book: what was known of its processes
 * there (clone/book.h), NULL: nothing. */
void ft_trace_begin(struct ft_trace *trace, struct ft_replay *r, unsigned kinds, FILE *to, const uint8_t *book, size_t book_length);
/* Tells what is only known when no more is to come. */
void ft_trace_end(struct ft_trace *trace);

/* For the callbacks of struct ft_replay. */
void ft_trace_record(struct ft_trace *trace, const struct ft_record *record);
void ft_trace_net_tx(struct ft_trace *trace, const void *frame, size_t length);

#endif
