#include "dataplane/cut.h"

#define DO_NOT_FRAGMENT 0x4000u
#define MORE_FRAGMENTS  0x2000u

struct shape {
	struct ft_frame frame;
	uint32_t header; /* bytes in front of each piece */
	uint32_t bytes;  /* to be cut */
	uint32_t step;   /* of them in all pieces but the last: a multiple of 8 */
};

static bool shape_of(struct shape *shape, const void *data, size_t length, uint32_t mtu)
{
	enum ft_reason why;
	struct ft_frame *frame = &shape->frame;
	if (ft_frame_parse(frame, data, length, &why) || frame->fragment)
		return false;
	if (frame->kind == FT_FRAME_IPV6 && frame->fragment_header)
		shape->header = frame->fragment_header + 8u;
	else if (frame->kind == FT_FRAME_IPV4 && !(ft_load16(frame->data + frame->ip + 6) & DO_NOT_FRAGMENT))
		shape->header = frame->l4;
	else
		return false;
	uint32_t end = frame->kind == FT_FRAME_IPV6 ? frame->ip + 40u + ft_load16(frame->data + frame->ip + 4)
						    : frame->ip + ft_load16(frame->data + frame->ip + 2);
	if (mtu < shape->header - frame->ip + 8)
		return false;
	shape->bytes = end - shape->header;
	shape->step = (mtu - (shape->header - frame->ip)) & ~7u;
	return true;
}

unsigned ft_cut_pieces(const void *data, size_t length, uint32_t mtu)
{
	struct shape shape;
	if (length <= mtu + FT_ETHERNET_HEADER)
		return 1;
	struct ft_tags tags;
	uint16_t type;
	int ethernet = ft_ethernet_open(data, length, &tags, &type);
	if (ethernet > 0 && length <= mtu + (uint32_t)ethernet)
		return 1;
	if (!shape_of(&shape, data, length, mtu))
		return 0;
	unsigned pieces = (shape.bytes + shape.step - 1) / shape.step;
	return pieces > FT_CUT_PIECES ? 0 : pieces;
}

size_t ft_cut_piece(const void *data, size_t length, uint32_t mtu, unsigned n, uint8_t *to)
{
	struct shape shape;
	if (!shape_of(&shape, data, length, mtu))
		return 0;
	uint32_t from = n * shape.step;
	if (from >= shape.bytes)
		return 0;
	bool last = shape.bytes - from <= shape.step;
	uint32_t bytes = last ? shape.bytes - from : shape.step;
	const struct ft_frame *frame = &shape.frame;
	memcpy(to, frame->data, shape.header);
	memcpy(to + shape.header, frame->data + shape.header + from, bytes);
	uint8_t *ip = to + frame->ip;
	if (frame->kind == FT_FRAME_IPV6) {
		ft_store16(ip + 4, (uint16_t)(shape.header - frame->ip - 40 + bytes));
		ft_store16(to + frame->fragment_header + 2, (uint16_t)(from | !last));
	} else {
		struct ft_frame header = {.kind = FT_FRAME_IPV4, .ip = frame->ip};
		ft_store16(ip + 2, (uint16_t)(shape.header - frame->ip + bytes));
		ft_store16(ip + 6, (uint16_t)(from / 8 | (last ? 0 : MORE_FRAGMENTS)));
		ft_frame_seal(&header, to);
	}
	return shape.header + bytes;
}
