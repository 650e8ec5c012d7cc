#include "dataplane/sack.h"

#include <string.h>

#include "dataplane/gate-t.h"
#include "dataplane/made.h"

struct found {
	struct ft_sack_block block;
	uint32_t arrival;
};

/* Keeps the `most` latest, sorted. */
static unsigned note(struct found *list, unsigned count, unsigned most, const struct found *one)
{
	unsigned at = count;
	while (at && (int32_t)(one->arrival - list[at - 1].arrival) > 0)
		at--;
	if (at == most)
		return count;
	count += count < most;
	memmove(list + at + 1, list + at, (count - at - 1) * sizeof(*list));
	list[at] = *one;
	return count;
}

unsigned ft_sack_blocks(const struct ft_flow *flow, unsigned most, struct ft_sack_block to[FT_SACK_BLOCKS])
{
	struct found list[FT_SACK_BLOCKS];
	unsigned count = 0;
	const struct ft_early_segment *at = flow->early ? flow->early->first : NULL;
	while (at) {
		struct found one = {{at->start, at->end}, at->arrival};
		while ((at = at->next) && at->start == one.block.end) {
			one.block.end = at->end;
			if ((int32_t)(at->arrival - one.arrival) > 0)
				one.arrival = at->arrival;
		}
		count = note(list, count, most, &one);
	}
	for (unsigned i = 0; i < count; i++)
		to[i] = list[i].block;
	return count;
}

/* As RFC 7323 appendix A and RFC 2018 section 3 lay them out: padded in front. */
static size_t put_options(const struct ft_flow *flow, uint8_t *to)
{
	const struct ft_stream *stream = &flow->stream;
	struct ft_sack_block blocks[FT_SACK_BLOCKS];
	size_t length = 0;
	if (stream->guest_has_timestamp) {
		memcpy(to, (const uint8_t[]){1, 1, 8, 10}, 4);
		ft_store32(to + 4, stream->guest_timestamp);
		ft_store32(to + 8, stream->guest_echo);
		length = 12;
	}
	unsigned most = stream->guest_has_timestamp ? FT_SACK_BLOCKS - 1 : FT_SACK_BLOCKS;
	unsigned count = stream->sack ? ft_sack_blocks(flow, most, blocks) : 0;
	if (!count)
		return length;
	memcpy(to + length, (const uint8_t[]){1, 1, 5, (uint8_t)(2 + 8 * count)}, 4);
	length += 4;
	for (unsigned i = 0; i < count; i++, length += 8) {
		ft_store32(to + length, blocks[i].start);
		ft_store32(to + length + 4, blocks[i].end);
	}
	return length;
}

void ft_sack_send(struct ft_gate *gate, struct ft_flow *flow)
{
	const struct ft_stream *stream = &flow->stream;
	uint8_t options[FT_MADE_OPTIONS], frame[FT_MADE_LENGTH];
	/* Of a connection that was picked up in its middle the window is known once the guest has sent something. */
	if (!stream->shaken && !stream->guest_spoke)
		return;
	struct ft_made made = ft_made_of(flow, true);
	made.sequence = stream->guest_next;
	made.acknowledgement = stream->guest_ack;
	made.flags = FT_TCP_ACK;
	made.window = stream->guest_window;
	made.options = options;
	made.options_length = put_options(flow, options);
	ft_gate_emit(gate, flow->guest, frame, ft_made_build(&made, frame));
	ft_gate_note(gate, FT_REASON_PASS_SACK);
}
