#include "dataplane/trigger.h"

#include <netinet/in.h>
#include <string.h>

static uint64_t look_at(struct ft_gate *gate, struct ft_flow *flow, const struct ft_frame *frame)
{
	if (flow->inspected || !flow->service->risks)
		return 0;
	const uint8_t *packet = frame->data + frame->ip;
	uint32_t length = frame->payload + frame->payload_length - frame->ip;
	uint8_t plain[FT_FRAME_MOST];
	/* nDPI does not step over every header that a stack steps over. */
	if (frame->kind == FT_FRAME_IPV6 && frame->l4 != frame->ip + 40u) {
		length = frame->payload + frame->payload_length - frame->l4;
		if (length > sizeof(plain) - 40)
			return 0; /* a guest's own frame: the port's are shorter */
		memcpy(plain, packet, 40);
		memcpy(plain + 40, frame->data + frame->l4, length);
		ft_store16(plain + 4, (uint16_t)length);
		plain[6] = frame->protocol;
		packet = plain;
		length += 40;
	}
	uint64_t risks;
	flow->inspected = !ft_inspect_packet(gate->inspect, &flow->inspect, packet, length, gate->now / 1000000u, &risks);
	return risks & flow->service->risks;
}

/* One frame's findings, those that are suppressed left out. */
struct finding {
	struct ft_gate *gate;
	const struct ft_flow *flow;
	struct ft_suppression *by; /* the first that left something out */
};

static bool counts(struct finding *finding, uint32_t sid)
{
	struct ft_suppression *one =
	    ft_suppressions_find(&finding->gate->suppressions, sid, &finding->flow->key.client,
				 finding->flow->service->name, finding->gate->wall);
	if (one && !finding->by)
		finding->by = one;
	return !one;
}

static bool pattern_counts(void *context, const struct ft_pattern *pattern)
{
	return counts(context, pattern->sid);
}

static int match_patterns(struct ft_flow *flow, const struct ft_frame *frame, uint32_t fresh,
			  struct finding *finding, const struct ft_pattern **match)
{
	const struct ft_screen_filter filter = {pattern_counts, finding};
	*match = NULL;
	const uint8_t *bytes = frame->data + frame->payload + fresh;
	size_t length = frame->payload_length - fresh;
	if (!flow->service->screen || !length)
		return 0;
	return flow->key.protocol == IPPROTO_TCP
		   ? ft_screen_bytes(flow->service->screen, &flow->scan, bytes, length, &filter, match)
		   : ft_screen_datagram(flow->service->screen, bytes, length, &filter, match);
}

int ft_trigger_client(struct ft_gate *gate, struct ft_flow *flow, const struct ft_frame *frame,
		      uint32_t fresh, struct ft_trigger *trigger)
{
	*trigger = (struct ft_trigger){.reason = FT_REASON_COUNT};
	if (fresh == frame->payload_length)
		return 0;
	struct finding finding = {.gate = gate, .flow = flow};
	int error = match_patterns(flow, frame, fresh, &finding, &trigger->pattern);
	uint64_t risks = look_at(gate, flow, frame);
	if (error)
		return error;
	if (trigger->pattern) {
		trigger->reason = FT_REASON_HOLD_RULE;
	} else if (risks && counts(&finding, 0)) {
		trigger->reason = FT_REASON_HOLD_RISK;
		trigger->risk = (unsigned)__builtin_ctzll(risks);
	} else if (flow->service->screen_all && counts(&finding, 0)) {
		trigger->reason = FT_REASON_HOLD_ALL;
	} else if (flow->service->canary) {
		trigger->reason = FT_REASON_HOLD_CANARY;
	}
	if (trigger->reason == FT_REASON_COUNT && finding.by) {
		finding.by->hits++;
		trigger->suppressed = true;
	}
	return trigger->reason != FT_REASON_COUNT;
}

void ft_trigger_guest(struct ft_gate *gate, struct ft_flow *flow, const struct ft_frame *frame)
{
	if (frame->payload_length && !flow->suspect)
		look_at(gate, flow, frame);
}

bool ft_trigger_settled(const struct ft_flow *flow)
{
	const struct ft_service *service = flow->service;
	return !service->screen_all && !service->screen && (!service->risks || flow->inspected);
}
