#include "dataplane/trial.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/random.h>

#include "dataplane/batch.h"
#include "dataplane/cut.h"

static int put(struct ft_guest *guest, uint32_t kind, const struct iovec *parts, int count)
{
	if (!guest->up)
		return -EPROTO;
	int error = ft_ring_put(&guest->link.cmd, kind, parts, count);
	guest->kick_cmd |= !error;
	return error == -ENOBUFS ? -EAGAIN : error;
}

int ft_trial_begin(struct ft_gate *gate, const struct ft_batch *batch)
{
	const struct ft_budgets *budgets = &gate->budgets;
	struct ft_trial_begin message = {
	    .trial = batch->number,
	    .rx_index = batch->guest->link.rx.index,
	    .flows = batch->count,
	    .handling_instructions = ft_batch_handling(gate, batch),
	    .horizon_ns = budgets->horizon_ns,
	    .horizon_instructions = budgets->horizon_instructions,
	    .wall_ns = ft_batch_wall(gate, batch),
	    .memory_pages = budgets->memory_pages,
	};
	for (unsigned i = 0; i < batch->count; i++)
		message.frames += batch->members[i]->pieces;
	/* Another one for each trial, and not guessable by a guest that wants to know whether it is a clone. */
	if (getrandom(&message.seed, sizeof(message.seed), 0) != sizeof(message.seed))
		message.seed = gate->now ^ batch->number;
	struct iovec part = {&message, sizeof(message)};
	return put(batch->guest, FT_TRIAL_BEGIN, &part, 1);
}

int ft_trial_flow(const struct ft_batch *batch, const struct ft_hold *hold)
{
	const struct ft_flow *flow = hold->flow;
	struct ft_trial_flow message = {
	    .trial = batch->number,
	    .frames = hold->pieces,
	    .bytes = hold->bytes,
	    .client_ip = flow->key.client,
	    .server_ip = flow->key.server,
	    .client_port = htons(flow->key.client_port),
	    .server_port = htons(flow->key.server_port),
	    .tags = flow->key.tags,
	    .protocol = flow->key.protocol,
	    .first_sequence = hold->first_sequence,
	    .next_sequence = hold->next_sequence,
	    .client_ack = flow->stream.client_ack,
	    .client_window = ft_stream_client_window(&flow->stream),
	};
	memcpy(message.client_mac, flow->ethernet + 6, 6);
	struct iovec part = {&message, sizeof(message)};
	return put(batch->guest, FT_TRIAL_FLOW, &part, 1);
}

int ft_trial_frame(struct ft_gate *gate, const struct ft_batch *batch, const struct ft_held *held, uint32_t piece)
{
	uint64_t number = batch->number;
	struct iovec parts[2] = {{&number, sizeof(number)}, {(void *)(uintptr_t)held->data, held->length}};
	if (held->pieces > 1)
		parts[1] = (struct iovec){
		    gate->piece, ft_cut_piece(held->data, held->length, batch->guest->mtu, piece, gate->piece)};
	return put(batch->guest, FT_TRIAL_FRAME, parts, 2);
}

int ft_trial_go(const struct ft_batch *batch)
{
	struct ft_trial_go message = {.trial = batch->number};
	struct iovec part = {&message, sizeof(message)};
	return put(batch->guest, FT_TRIAL_GO, &part, 1);
}

int ft_trial_run(const struct ft_batch *batch, unsigned flows, uint64_t until_vtime_ns)
{
	struct ft_trial_run message = {.trial = batch->number, .flows = flows, .until_vtime_ns = until_vtime_ns};
	struct iovec part = {&message, sizeof(message)};
	return put(batch->guest, FT_TRIAL_RUN, &part, 1);
}

int ft_trial_keep(const struct ft_batch *batch)
{
	struct ft_trial_keep message = {.trial = batch->number, .hold = batch->keep};
	struct iovec part = {&message, sizeof(message)};
	return put(batch->guest, FT_TRIAL_KEEP, &part, 1);
}

int ft_trial_finish(const struct ft_batch *batch)
{
	struct ft_trial_go message = {.trial = batch->number};
	struct iovec part = {&message, sizeof(message)};
	return put(batch->guest, FT_TRIAL_FINISH, &part, 1);
}
