/* The frame parser on any bytes: what it says lies inside of the frame, and what is built from it parses again. */
#include "input.h"

#include <netinet/in.h>

#include "dataplane/frame.h"
#include "dataplane/neighbour.h"

static void check_places(const struct ft_frame *f, size_t length)
{
	MUST(f->length <= length);
	if (f->kind == FT_FRAME_IPV4 || f->kind == FT_FRAME_IPV6)
		MUST(f->payload >= f->l4 && f->payload <= f->length && f->payload_length <= f->length - f->payload);
	if (f->fragment) {
		MUST(!f->transport && f->fragment_offset % 8 == 0 && f->fragment_offset + f->payload_length <= 65535);
		MUST(!f->more_fragments || (f->payload_length && f->payload_length % 8 == 0));
	}
	MUST(!f->fragment_header || (f->kind == FT_FRAME_IPV6 && f->fragment_header >= f->ip + 40 &&
				     f->fragment_header + 8u <= f->l4));
	if (f->kind == FT_FRAME_IPV4 || f->kind == FT_FRAME_IPV6)
		MUST(f->ip >= FT_FRAME_HEADER && f->ip <= f->length && f->l4 >= f->ip && f->l4 <= f->length);
	if (!f->transport)
		return;
	MUST(f->protocol == IPPROTO_TCP || f->protocol == IPPROTO_UDP);
	MUST(f->protocol != IPPROTO_TCP || f->odd_options || f->payload <= FT_FRAME_HEADERS);
	MUST(!f->odd_options || (f->protocol == IPPROTO_TCP && !f->timestamp && f->window_scale == -1));
	MUST(f->payload > f->l4 && f->payload <= f->length && f->payload_length <= f->length - f->payload);
	if (f->timestamp)
		MUST(f->timestamp > f->l4 && f->timestamp + 8u <= f->payload);
	MUST(ft_frame_span(f) >= f->payload_length);
}

/* Sealed: the checksums are good, and nothing else has changed. */
static void check_seal(const struct ft_frame *f, const uint8_t *data, size_t length)
{
	enum ft_reason why;
	struct ft_frame again;
	uint8_t *copy = malloc(length);
	memcpy(copy, data, length);
	ft_frame_seal(f, copy);
	MUST(!ft_frame_parse(&again, copy, length, &why));
	MUST(ft_frame_checksum(&again) == FT_CHECKSUM_GOOD);
	MUST(again.payload == f->payload && again.payload_length == f->payload_length &&
	     again.sequence == f->sequence && again.flags == f->flags);
	MUST(!memcmp(copy + f->payload, data + f->payload, f->payload_length));
	free(copy);
}

static void check_bare(const struct ft_frame *f, struct ft_frame_bare change)
{
	enum ft_reason why;
	struct ft_frame bare;
	uint8_t *to = malloc(f->payload);
	size_t length = ft_frame_bare(f, &change, to);
	MUST(length == f->payload);
	MUST(!ft_frame_parse(&bare, to, length, &why));
	MUST(ft_frame_checksum(&bare) == FT_CHECKSUM_GOOD);
	MUST(bare.transport && !bare.payload_length && bare.sequence == change.sequence &&
	     bare.flags == change.flags && bare.source_port == f->source_port);
	free(to);
}

/* Said again in our own words it means the same. */
static void check_neighbour(const struct ft_frame *f)
{
	static const uint8_t mac[6] = {2}, mac_to[6] = {4};
	enum ft_reason why;
	struct ft_frame made;
	struct ft_neighbour said, again;
	uint8_t to[FT_NEIGHBOUR_LENGTH];
	if (!ft_neighbour_read(f, &said))
		return;
	size_t length = ft_neighbour_make(&said, mac, mac_to, to);
	MUST(length <= sizeof(to) && !ft_frame_parse(&made, to, length, &why) && made.kind == f->kind);
	MUST(ft_neighbour_read(&made, &again) && again.answer == said.answer && ft_address_same(&again.about, &said.about) &&
	     ft_address_same(&again.from, &said.from));
	MUST(!said.answer || ft_address_same(&again.to, &said.to));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct ft_frame frame;
	enum ft_reason why = FT_REASON_COUNT;
	/* A copy of exactly this length: one byte read behind it is seen. */
	uint8_t *copy = malloc(size ? size : 1);
	memcpy(copy, data, size);
	if (ft_frame_parse(&frame, copy, size, &why)) {
		MUST(why == FT_REASON_DROP_RUNT || why == FT_REASON_DROP_MALFORMED ||
		     why == FT_REASON_DROP_CHECKSUM || why == FT_REASON_DROP_OVERSIZE);
	} else {
		check_places(&frame, size);
		ft_frame_checksum(&frame);
		if (frame.transport)
			check_seal(&frame, copy, size);
		struct ft_frame_quote quote;
		if (ft_frame_is_error(&frame, &quote))
			MUST(!quote.ports || quote.protocol == IPPROTO_TCP || quote.protocol == IPPROTO_UDP);
		ft_frame_is_too_big(&frame);
		check_neighbour(&frame);
		if (frame.transport && frame.protocol == IPPROTO_TCP)
			check_bare(&frame, (struct ft_frame_bare){.sequence = frame.sequence + 77,
								  .flags = FT_TCP_ACK,
								  .set_timestamp = frame.timestamp,
								  .timestamp = 7});
	}
	free(copy);
	return 0;
}

/* Random bytes rarely have the right header checksum, which would hide all that lies behind it. */
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t most);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned seed);

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned seed)
{
	size = LLVMFuzzerMutate(data, size, most);
	if (seed % 16 == 0)
		return size;
	for (size_t ip = 14; ip + 20 <= size && ip <= 22; ip += 4) {
		size_t header = (data[ip] & 15) * 4u;
		if (data[ip] >> 4 != 4 || header < 20 || ip + header > size)
			continue;
		uint32_t sum = 0;
		ft_store16(data + ip + 10, 0);
		for (size_t i = 0; i < header; i += 2)
			sum += ft_load16(data + ip + i);
		sum = (sum & 0xffff) + (sum >> 16);
		ft_store16(data + ip + 10, (uint16_t) ~((sum & 0xffff) + (sum >> 16)));
		break;
	}
	return size;
}
