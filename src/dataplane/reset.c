#include "dataplane/reset.h"

#include <netinet/in.h>
#include <string.h>

static size_t put_ethernet(const struct ft_reset *reset, uint8_t *to)
{
	memcpy(to, reset->ethernet, reset->ethernet_length);
	if (reset->turn) {
		memcpy(to, reset->ethernet + 6, 6);
		memcpy(to + 6, reset->ethernet, 6);
	}
	return reset->ethernet_length;
}

static size_t put_ipv4(const struct ft_reset *reset, uint8_t *ip)
{
	ip[0] = 0x45;
	ft_store16(ip + 2, 40);
	ft_store16(ip + 6, 0x4000); /* do not fragment: and so no identification is needed (RFC 6864) */
	ip[8] = 64;
	ip[9] = IPPROTO_TCP;
	memcpy(ip + 12, reset->source.bytes + 12, 4);
	memcpy(ip + 16, reset->destination.bytes + 12, 4);
	return 20;
}

static size_t put_ipv6(const struct ft_reset *reset, uint8_t *ip)
{
	ip[0] = 0x60;
	ft_store16(ip + 4, 20);
	ip[6] = IPPROTO_TCP;
	ip[7] = 64;
	memcpy(ip + 8, reset->source.bytes, 16);
	memcpy(ip + 24, reset->destination.bytes, 16);
	return 40;
}

size_t ft_reset_build(const struct ft_reset *reset, uint8_t to[FT_RESET_LENGTH])
{
	bool six = !ft_address_is_v4(&reset->source);
	memset(to, 0, FT_RESET_LENGTH);
	size_t at = put_ethernet(reset, to);
	struct ft_frame frame = {.data = to,
				 .kind = six ? FT_FRAME_IPV6 : FT_FRAME_IPV4,
				 .transport = true,
				 .protocol = IPPROTO_TCP,
				 .ip = (uint16_t)at};
	at += six ? put_ipv6(reset, to + at) : put_ipv4(reset, to + at);
	uint8_t *tcp = to + at;
	ft_store16(tcp, reset->source_port);
	ft_store16(tcp + 2, reset->destination_port);
	ft_store32(tcp + 4, reset->sequence);
	ft_store32(tcp + 8, reset->acknowledgement);
	tcp[12] = 5 << 4;
	tcp[13] = FT_TCP_RST | FT_TCP_ACK;
	frame.l4 = (uint16_t)at;
	frame.payload = frame.length = (uint32_t)at + 20;
	ft_frame_seal(&frame, to);
	return frame.length;
}

size_t ft_reset_answer(const struct ft_frame *frame, uint8_t to[FT_RESET_LENGTH])
{
	if (frame->flags & FT_TCP_RST || !(frame->flags & FT_TCP_ACK))
		return 0;
	struct ft_reset reset = {.ethernet = frame->data,
				 .ethernet_length = frame->ip,
				 .turn = true,
				 .source = frame->destination,
				 .destination = frame->source,
				 .source_port = frame->destination_port,
				 .destination_port = frame->source_port,
				 .sequence = frame->acknowledgement,
				 .acknowledgement = frame->sequence + ft_frame_span(frame)};
	return ft_reset_build(&reset, to);
}
