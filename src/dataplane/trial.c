#include "dataplane/trial.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/random.h>

#include "base/trial.h"
#include "dataplane/cut.h"

static int put(struct ft_guest *guest, uint32_t kind, const struct iovec *parts, int count)
{
	if (!guest->up)
		return -EPROTO;
	int error = ft_ring_put(&guest->link.cmd, kind, parts, count);
	guest->kick_cmd |= !error;
	return error == -ENOBUFS ? -EAGAIN : error;
}

static int begin(struct ft_gate *gate, struct ft_hold *hold)
{
	const struct ft_flow *flow = hold->flow;
	const struct ft_budgets *budgets = &gate->budgets;
	struct ft_trial_begin message = {
	    .trial = hold->id,
	    .rx_index = hold->guest->link.rx.index,
	    .flows = 1,
	    .frames = hold->pieces,
	    .handling_instructions = budgets->handling_instructions,
	    .horizon_ns = budgets->horizon_ns,
	    .horizon_instructions = budgets->horizon_instructions,
	    .wall_ns = budgets->wall_ns,
	    .memory_pages = budgets->memory_pages,
	};
	struct ft_trial_flow held = {
	    .trial = hold->id,
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
	memcpy(held.client_mac, flow->ethernet + 6, 6);
	/* Another one for each trial, and not guessable by a guest that wants to know whether it is a clone. */
	if (getrandom(&message.seed, sizeof(message.seed), 0) != sizeof(message.seed))
		message.seed = gate->now ^ hold->id;
	struct iovec part = {&message, sizeof(message)};
	int error = put(hold->guest, FT_TRIAL_BEGIN, &part, 1);
	if (!error)
		hold->rx_index = message.rx_index;
	part = (struct iovec){&held, sizeof(held)};
	return error ? error : put(hold->guest, FT_TRIAL_FLOW, &part, 1);
}

int ft_trial_send(struct ft_gate *gate, struct ft_hold *hold)
{
	if (!hold->begun) {
		int error = begin(gate, hold);
		if (error)
			return error;
		hold->begun = true;
		hold->to_send = hold->first;
	}
	uint64_t id = hold->id;
	for (; hold->to_send; hold->to_send = hold->to_send->next) {
		struct ft_held *held = hold->to_send;
		/* The clone gets the very frames that a release gives to the live guest. */
		for (; hold->to_send_piece < held->pieces; hold->to_send_piece++) {
			struct iovec parts[2] = {{&id, sizeof(id)}, {held->data, held->length}};
			if (held->pieces > 1)
				parts[1] = (struct iovec){gate->piece,
							  ft_cut_piece(held->data, held->length, hold->guest->mtu,
								       hold->to_send_piece, gate->piece)};
			int error = put(hold->guest, FT_TRIAL_FRAME, parts, 2);
			if (error)
				return error;
		}
		hold->to_send_piece = 0;
	}
	struct ft_trial_go go = {.trial = id};
	struct iovec part = {&go, sizeof(go)};
	return put(hold->guest, FT_TRIAL_GO, &part, 1);
}

int ft_trial_twin(struct ft_hold *hold, uint64_t until_vtime_ns)
{
	struct ft_trial_run message = {.trial = hold->id, .until_vtime_ns = until_vtime_ns};
	struct iovec part = {&message, sizeof(message)};
	return put(hold->guest, FT_TRIAL_RUN, &part, 1);
}

int ft_trial_finish(struct ft_hold *hold)
{
	struct ft_trial_go message = {.trial = hold->id};
	struct iovec part = {&message, sizeof(message)};
	return put(hold->guest, FT_TRIAL_FINISH, &part, 1);
}
