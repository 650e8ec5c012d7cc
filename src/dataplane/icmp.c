#include "dataplane/icmp.h"

#include <netinet/in.h>

/* Is the number one that the guest has sent and the client has not acknowledged? */
static bool under_way(const struct ft_stream *stream, uint32_t sequence)
{
	return stream->state != FT_STREAM_SYN && ft_sequence_diff(sequence, stream->client_ack) >= 0 &&
	       ft_sequence_diff(sequence, stream->guest_next) <= 0;
}

enum ft_reason ft_icmp_judge(const struct ft_gate *gate, const struct ft_guest *guest,
			     const struct ft_frame *frame, const struct ft_frame_quote *quote)
{
	bool too_big = ft_frame_is_too_big(frame);
	if (!quote->ports) {
		bool other = quote->protocol && quote->protocol != IPPROTO_TCP && quote->protocol != IPPROTO_UDP;
		if (other || !ft_services_have(&gate->services, guest->index, quote->protocol, FT_MODE_ENFORCE))
			return FT_REASON_COUNT;
		/* The guest may have sent fragments itself, of which only the first names ports. */
		return too_big ? FT_REASON_PASS_ICMP : FT_REASON_DROP_ICMP_NO_FLOW;
	}
	const struct ft_service *service =
	    ft_services_find(&gate->services, guest->index, quote->protocol, quote->source_port);
	if (!service || service->acting != FT_MODE_ENFORCE)
		return FT_REASON_COUNT;
	struct ft_flow_key key = {.client = quote->destination,
				  .server = quote->source,
				  .client_port = quote->destination_port,
				  .server_port = quote->source_port,
				  .tags = frame->tags,
				  .protocol = quote->protocol,
				  .guest = guest->index};
	const struct ft_flow *flow = ft_flows_find(gate->flows, &key);
	if (!flow)
		return FT_REASON_DROP_ICMP_NO_FLOW;
	if (flow->dead)
		return FT_REASON_DROP_FLOW_DEAD;
	if (quote->protocol == IPPROTO_TCP && !under_way(&flow->stream, quote->sequence))
		return FT_REASON_DROP_ICMP_NO_FLOW;
	return flow->hold && !too_big ? FT_REASON_DROP_ICMP_HELD : FT_REASON_PASS_ICMP;
}
