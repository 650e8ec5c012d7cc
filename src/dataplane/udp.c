#include "dataplane/udp.h"

#include <string.h>

#include "dataplane/hold.h"
#include "dataplane/trigger.h"

static struct ft_flow *flow_of(struct ft_gate *gate, struct ft_guest *guest, const struct ft_service *service,
			       const struct ft_frame *frame)
{
	struct ft_flow_key key;
	ft_flow_key_client(&key, guest->index, frame);
	struct ft_flow *flow = ft_flows_find(gate->flows, &key);
	if (!flow) {
		flow = ft_flows_add(gate->flows, &key);
		if (!flow)
			return NULL;
		flow->guest = guest;
		flow->service = service;
		flow->start_wall = gate->wall;
		ft_flow_note_ethernet(flow, frame);
	}
	flow->seen = gate->now;
	flow->packets++;
	flow->bytes += frame->length;
	return flow;
}

/* There is no room behind what is held of the flow, and a datagram does not come again by itself. */
static void refuse(struct ft_gate *gate, struct ft_flow *flow, const struct ft_frame *frame)
{
	enum ft_policy policy = flow->service->policies.on[FT_EXCEPTION_OVERLOAD];
	flow->service->tally->exceptions[FT_EXCEPTION_OVERLOAD]++;
	if (policy != FT_POLICY_RELEASE || !ft_gate_deliver(gate, flow->guest, frame->data, frame->length))
		ft_gate_note(gate, ft_policy_reason(FT_EXCEPTION_OVERLOAD, policy));
}

static void hold(struct ft_gate *gate, struct ft_flow *flow, const struct ft_frame *frame,
		 const struct ft_trigger *trigger)
{
	flow->suspect = true; /* also when there is no room for it now: inspection may say it only once */
	enum ft_reason refused = ft_hold_refuses(gate, flow, frame);
	if (refused != FT_REASON_COUNT)
		refuse(gate, flow, frame);
	else if (ft_hold_join(gate, flow, frame, 0, trigger))
		ft_gate_note(gate, FT_REASON_DROP_NO_MEMORY);
}

static void pass(struct ft_gate *gate, struct ft_guest *guest, const struct ft_frame *frame, enum ft_reason reason)
{
	if (!ft_gate_deliver(gate, guest, frame->data, frame->length))
		ft_gate_note(gate, reason);
}

/* A datagram that goes on at once, whatever it shows. */
static void observe(struct ft_gate *gate, struct ft_flow *flow, const struct ft_frame *frame,
		    const struct ft_trigger *trigger, bool found)
{
	bool shadow = flow->service->acting == FT_MODE_SHADOW;
	flow->suspect |= found && shadow;
	if (found && ft_gate_has_room(flow->guest, frame->length))
		ft_hold_observe(gate, flow, frame, 0, trigger);
	pass(gate, flow->guest, frame,
	     found && shadow              ? FT_REASON_PASS_SHADOW
	     : trigger->suppressed        ? FT_REASON_PASS_SUPPRESSED
	     : found                      ? FT_REASON_PASS_OBSERVED
	     : ft_trigger_settled(flow)   ? FT_REASON_PASS_SETTLED
					  : FT_REASON_PASS_INSPECTED);
}

void ft_udp_client(struct ft_gate *gate, struct ft_guest *guest, const struct ft_service *service,
		   const struct ft_frame *frame)
{
	struct ft_flow *flow = flow_of(gate, guest, service, frame);
	/* What is held stays in order and is decided as it began, whatever the mode is now. */
	bool enforce = service->acting == FT_MODE_ENFORCE || (flow && flow->hold);
	if (!enforce && service->acting == FT_MODE_BYPASS) {
		pass(gate, guest, frame, ft_service_unlooked(service));
		return;
	}
	if (!flow) {
		if (enforce)
			ft_gate_note(gate, FT_REASON_DROP_FLOW_TABLE);
		else
			pass(gate, guest, frame, FT_REASON_PASS_UNSEEN);
		return;
	}
	if (flow->dead) {
		ft_gate_note(gate, FT_REASON_DROP_FLOW_DEAD);
		return;
	}
	struct ft_trigger trigger = {.reason = FT_REASON_HOLD_JOIN};
	int found = 1;
	/* `suspect` is of no account where frames are only observed one by one. */
	if (!flow->suspect || service->acting == FT_MODE_OBSERVE)
		found = ft_trigger_client(gate, flow, frame, 0, &trigger);
	/* A datagram without payload shows nothing to inspection, but a service may act on it. */
	if (!found && service->screen_all && !trigger.suppressed) {
		trigger.reason = FT_REASON_HOLD_ALL;
		found = 1;
	}
	/* Behind what is held nothing may overtake it. */
	if (!found && flow->hold) {
		trigger = (struct ft_trigger){.reason = FT_REASON_HOLD_JOIN};
		found = 1;
	}
	if (!enforce)
		observe(gate, flow, frame, &trigger, found > 0);
	else if (found < 0)
		ft_gate_note(gate, FT_REASON_DROP_NO_MEMORY);
	else if (found)
		hold(gate, flow, frame, &trigger);
	else
		pass(gate, guest, frame,
		     trigger.suppressed         ? FT_REASON_PASS_SUPPRESSED
		     : ft_trigger_settled(flow) ? FT_REASON_PASS_SETTLED
						: FT_REASON_PASS_INSPECTED);
}

bool ft_udp_guest(struct ft_gate *gate, struct ft_guest *guest, const struct ft_frame *frame)
{
	struct ft_flow_key key;
	ft_flow_key_guest(&key, guest->index, frame);
	struct ft_flow *flow = ft_flows_find(gate->flows, &key);
	if (!flow)
		return true;
	flow->seen = gate->now;
	flow->packets_toclient++;
	flow->bytes_toclient += frame->length;
	if (flow->service->acting != FT_MODE_BYPASS)
		ft_trigger_guest(gate, flow, frame);
	return true;
}
