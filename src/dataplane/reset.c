#include "dataplane/reset.h"

#include <netinet/in.h>
#include <string.h>

size_t ft_reset_build(const struct ft_reset *reset, uint8_t to[FT_RESET_LENGTH])
{
	memset(to, 0, FT_RESET_LENGTH);
	memcpy(to, reset->destination_mac, 6);
	memcpy(to + 6, reset->source_mac, 6);
	ft_store16(to + 12, 0x0800);
	uint8_t *ip = to + FT_FRAME_HEADER;
	ip[0] = 0x45;
	ft_store16(ip + 2, FT_RESET_LENGTH - FT_FRAME_HEADER);
	ft_store16(ip + 6, 0x4000); /* do not fragment: and so no identification is needed (RFC 6864) */
	ip[8] = 64;
	ip[9] = IPPROTO_TCP;
	memcpy(ip + 12, &reset->source, 4);
	memcpy(ip + 16, &reset->destination, 4);
	uint8_t *tcp = ip + 20;
	ft_store16(tcp, reset->source_port);
	ft_store16(tcp + 2, reset->destination_port);
	ft_store32(tcp + 4, reset->sequence);
	ft_store32(tcp + 8, reset->acknowledgement);
	tcp[12] = 5 << 4;
	tcp[13] = FT_TCP_RST | FT_TCP_ACK;
	struct ft_frame frame = {.data = to,
				 .length = FT_RESET_LENGTH,
				 .kind = FT_FRAME_IPV4,
				 .transport = true,
				 .protocol = IPPROTO_TCP,
				 .ip = FT_FRAME_HEADER,
				 .l4 = FT_FRAME_HEADER + 20,
				 .payload = FT_RESET_LENGTH};
	ft_frame_seal(&frame, to);
	return FT_RESET_LENGTH;
}

size_t ft_reset_answer(const struct ft_frame *frame, uint8_t to[FT_RESET_LENGTH])
{
	if (frame->flags & FT_TCP_RST || !(frame->flags & FT_TCP_ACK))
		return 0;
	struct ft_reset reset = {.source = frame->destination,
				 .destination = frame->source,
				 .source_port = frame->destination_port,
				 .destination_port = frame->source_port,
				 .sequence = frame->acknowledgement,
				 .acknowledgement = frame->sequence + ft_frame_span(frame)};
	memcpy(reset.source_mac, frame->data, 6);
	memcpy(reset.destination_mac, frame->data + 6, 6);
	return ft_reset_build(&reset, to);
}
