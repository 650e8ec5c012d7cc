#include "dataplane/made.h"

#include <netinet/in.h>
#include <string.h>

#include "dataplane/flow.h"

static size_t put_ethernet(const struct ft_made *made, uint8_t *to)
{
	memcpy(to, made->ethernet, made->ethernet_length);
	if (made->turn) {
		memcpy(to, made->ethernet + 6, 6);
		memcpy(to + 6, made->ethernet, 6);
	}
	return made->ethernet_length;
}

static size_t put_ipv4(const struct ft_made *made, size_t segment, uint8_t *ip)
{
	ip[0] = 0x45;
	ft_store16(ip + 2, (uint16_t)(20 + segment));
	ft_store16(ip + 6, 0x4000); /* do not fragment: and so no identification is needed (RFC 6864) */
	ip[8] = 64;
	ip[9] = IPPROTO_TCP;
	memcpy(ip + 12, made->source.bytes + 12, 4);
	memcpy(ip + 16, made->destination.bytes + 12, 4);
	return 20;
}

static size_t put_ipv6(const struct ft_made *made, size_t segment, uint8_t *ip)
{
	ip[0] = 0x60;
	ft_store16(ip + 4, (uint16_t)segment);
	ip[6] = IPPROTO_TCP;
	ip[7] = 64;
	memcpy(ip + 8, made->source.bytes, 16);
	memcpy(ip + 24, made->destination.bytes, 16);
	return 40;
}

struct ft_made ft_made_of(const struct ft_flow *flow, bool to_client)
{
	const struct ft_flow_key *key = &flow->key;
	return (struct ft_made){.ethernet = flow->ethernet,
				.ethernet_length = flow->ethernet_length,
				.turn = to_client,
				.source = to_client ? key->server : key->client,
				.destination = to_client ? key->client : key->server,
				.source_port = to_client ? key->server_port : key->client_port,
				.destination_port = to_client ? key->client_port : key->server_port};
}

size_t ft_made_build(const struct ft_made *made, uint8_t to[FT_MADE_LENGTH])
{
	bool six = !ft_address_is_v4(&made->source);
	size_t segment = 20 + made->options_length;
	memset(to, 0, FT_MADE_LENGTH);
	size_t at = put_ethernet(made, to);
	struct ft_frame frame = {.data = to,
				 .kind = six ? FT_FRAME_IPV6 : FT_FRAME_IPV4,
				 .transport = true,
				 .protocol = IPPROTO_TCP,
				 .ip = (uint16_t)at};
	at += six ? put_ipv6(made, segment, to + at) : put_ipv4(made, segment, to + at);
	uint8_t *tcp = to + at;
	ft_store16(tcp, made->source_port);
	ft_store16(tcp + 2, made->destination_port);
	ft_store32(tcp + 4, made->sequence);
	ft_store32(tcp + 8, made->acknowledgement);
	tcp[12] = (uint8_t)(segment / 4 << 4);
	tcp[13] = made->flags;
	ft_store16(tcp + 14, made->window);
	if (made->options_length)
		memcpy(tcp + 20, made->options, made->options_length);
	frame.l4 = (uint16_t)at;
	frame.payload = frame.length = (uint32_t)(at + segment);
	ft_frame_seal(&frame, to);
	return frame.length;
}

size_t ft_made_reset(const struct ft_frame *frame, uint8_t to[FT_MADE_LENGTH])
{
	if (frame->flags & FT_TCP_RST || !(frame->flags & FT_TCP_ACK))
		return 0;
	struct ft_made reset = {.ethernet = frame->data,
				.ethernet_length = frame->ip,
				.turn = true,
				.source = frame->destination,
				.destination = frame->source,
				.source_port = frame->destination_port,
				.destination_port = frame->source_port,
				.sequence = frame->acknowledgement,
				.acknowledgement = frame->sequence + ft_frame_span(frame),
				.flags = FT_TCP_RST | FT_TCP_ACK};
	return ft_made_build(&reset, to);
}
