/* Output commit: frames of the guest that wait until its journal is durable up to where they were sent, so that nobody has seen what
 * a replay could not show after a power cut. First in, first out; a guest that sends more than there is room for waits itself.
 *
 * In memory that no fork has. One thread. */
#ifndef FT_GUEST_OUTPUT_H
#define FT_GUEST_OUTPUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/histogram.h"

#define FT_OUTPUT_SIZE  (8u << 20)
#define FT_OUTPUT_SPARE (4u << 20) /* more than a guest sends between two looks at the room */

struct ft_output {
	uint8_t *bytes; /* NULL: frames do not wait */
	size_t first, marked, end; /* frames that wait; those from marked on do not know for what yet */
	uint64_t frames, uncommitted; /* that waited; that left while the journal could not be written */
	struct ft_histogram waits; /* FT_HISTOGRAM_PAUSE */
};

int ft_output_open(struct ft_output *output, struct ft_error *err);
void ft_output_close(struct ft_output *output);

static inline bool ft_output_empty(const struct ft_output *output)
{
	return output->first == output->end;
}

/* Has the guest to wait? */
bool ft_output_full(const struct ft_output *output);

/* kind, frame: as for the link's ring (base/link.h). now: monotonic ns. False: there is no room. */
bool ft_output_put(struct ft_output *output, uint32_t kind, const void *frame, size_t length, uint64_t now);

/* Frames since the last call wait for this position of the journal to be durable; 0: for nothing. */
void ft_output_mark(struct ft_output *output, uint64_t position);
/* Is there one that does not know for what? */
static inline bool ft_output_unmarked(const struct ft_output *output)
{
	return output->marked != output->end;
}

/* Gives what need not wait any more to send. durable: of the journal; UINT64_MAX: nothing waits, because (failing) the journal cannot
 * be written. Returns how many. */
unsigned ft_output_release(struct ft_output *output, uint64_t durable, bool failing, uint64_t now,
			   void (*send)(void *context, uint32_t kind, const void *frame, size_t length), void *context);

#endif
