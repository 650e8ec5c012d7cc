#include "clone/transcript.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define DELAY_MAX_NS 10000000000ull /* as guest/settings.c lets it be configured */

/* What is written to files and read from them elsewhere. */
_Static_assert(sizeof(struct ft_transcript_outside) == 40 && sizeof(struct ft_transcript_machine) == 16 &&
		   sizeof(struct ft_transcript_go) == 16 && sizeof(struct ft_trial_begin) == 72 && sizeof(struct ft_trial_flow) == 80,
	       "no holes");

void ft_transcript_tell(const struct ft_request *r, const struct ft_outside_config *o, uint64_t seed, ft_transcript_piece *piece,
			void *context)
{
	struct ft_transcript_outside outside = {
	    .guest_ip = o->guest_ip, .dns_address = o->dns_address, .tcp = (uint32_t)o->tcp, .delay_ns = o->delay_ns};
	struct ft_transcript_go go = {.trial = r->begin.trial, .seed = seed};
	uint8_t frame[sizeof(uint64_t) + FT_REQUEST_FRAME];
	size_t at = 0;
	memcpy(outside.guest_ip6, o->guest_ip6.bytes, sizeof(outside.guest_ip6));
	piece(context, FT_TRANSCRIPT_OUTSIDE, &outside, sizeof(outside));
	piece(context, FT_TRIAL_BEGIN, &r->begin, sizeof(r->begin));
	for (uint32_t i = 0; i < r->flow_count; i++)
		piece(context, FT_TRIAL_FLOW, &r->flows[i], sizeof(r->flows[i]));
	memcpy(frame, &r->begin.trial, sizeof(uint64_t));
	for (uint32_t i = 0; i < r->frames; at += r->lengths[i++]) {
		memcpy(frame + sizeof(uint64_t), r->bytes + at, r->lengths[i]);
		piece(context, FT_TRIAL_FRAME, frame, sizeof(uint64_t) + r->lengths[i]);
	}
	piece(context, FT_TRIAL_GO, &go, sizeof(go));
}

size_t ft_transcript_size(const struct ft_request *r, size_t *pieces)
{
	*pieces = 3 + (size_t)r->flow_count + r->frames;
	return sizeof(struct ft_transcript_outside) + sizeof(r->begin) + r->flow_count * sizeof(*r->flows) + r->filled +
	       r->frames * sizeof(uint64_t) + sizeof(struct ft_transcript_go);
}

static int refuse(struct ft_error *err, const char *what)
{
	return ft_error_set(err, -EBADMSG, "a kept request: %s", what);
}

static int take_outside(struct ft_transcript *t, const void *data, size_t length, struct ft_error *err)
{
	struct ft_transcript_outside o;
	if (length != sizeof(o))
		return refuse(err, "the outside's length");
	memcpy(&o, data, sizeof(o));
	if (o.tcp > FT_SINK_SILENT || o.reserved || o.delay_ns > DELAY_MAX_NS)
		return refuse(err, "the outside cannot be");
	t->outside = (struct ft_outside_config){
	    .guest_ip = o.guest_ip, .dns_address = o.dns_address, .tcp = (enum ft_outside_sink)o.tcp, .delay_ns = o.delay_ns};
	memcpy(t->outside.guest_ip6.bytes, o.guest_ip6, sizeof(o.guest_ip6));
	t->has_outside = true;
	return 0;
}

static int take_go(struct ft_transcript *t, const void *data, size_t length, struct ft_error *err)
{
	struct ft_transcript_go go;
	struct ft_request *request = NULL;
	struct ft_trial_run run;
	uint64_t trial;
	if (length != sizeof(go))
		return refuse(err, "its end's length");
	memcpy(&go, data, sizeof(go));
	struct ft_trial_go said = {.trial = go.trial};
	if (!t->has_outside ||
	    ft_request_take(&t->requests, FT_TRIAL_GO, &said, sizeof(said), &request, &run, &trial) != FT_REQUEST_READY)
		return refuse(err, "it contradicts itself");
	t->seed = go.seed;
	if (t->wanted && go.seed != t->wanted) {
		ft_request_drop(request);
		return 0;
	}
	t->request = request;
	return 1;
}

int ft_transcript_take(struct ft_transcript *t, uint32_t kind, const void *data, size_t length, struct ft_error *err)
{
	struct ft_request *request;
	struct ft_trial_run run;
	uint64_t trial;
	if (t->request)
		return refuse(err, "there is more behind its end");
	switch (kind) {
	case FT_TRANSCRIPT_OUTSIDE:
		/* One at a time; a vmm that was killed while it wrote one left a piece of it. */
		ft_requests_clear(&t->requests);
		return take_outside(t, data, length, err);
	case FT_TRIAL_BEGIN:
	case FT_TRIAL_FLOW:
	case FT_TRIAL_FRAME:
		return ft_request_take(&t->requests, kind, data, length, &request, &run, &trial) == FT_REQUEST_NONE
			   ? 0
			   : refuse(err, "one of its pieces cannot be");
	case FT_TRIAL_GO:
		return take_go(t, data, length, err);
	default:
		return refuse(err, "an unknown piece");
	}
}

static int take_all(struct ft_transcript *t, const uint8_t *bytes, size_t length, struct ft_error *err)
{
	uint32_t head[2];
	int status = 0;
	while (!status && length) {
		if (length < sizeof(head))
			return refuse(err, "it was cut");
		memcpy(head, bytes, sizeof(head));
		bytes += sizeof(head);
		length -= sizeof(head);
		if (head[1] > length)
			return refuse(err, "it was cut");
		status = ft_transcript_take(t, head[0], bytes, head[1], err);
		bytes += head[1];
		length -= head[1];
	}
	bool ended = status == 1 || (!status && t->seed);
	return status < 0 ? status : ended && !length ? status : refuse(err, "it has no end, or more behind it");
}

int ft_transcript_take_all(struct ft_transcript *t, const uint8_t *bytes, size_t length, struct ft_error *err)
{
	int status = take_all(t, bytes, length, err);
	if (status < 0)
		ft_transcript_clear(t); /* a request with something behind it is none */
	return status;
}

void ft_transcript_clear(struct ft_transcript *t)
{
	ft_requests_clear(&t->requests);
	*t = (struct ft_transcript){.wanted = t->wanted};
}

void ft_transcript_cut(struct ft_transcript *t, uint32_t flows)
{
	struct ft_request *r = t->request;
	uint32_t frames = 0;
	if (flows >= r->flow_count)
		return;
	for (uint32_t i = 0; i < flows; i++)
		frames += r->flows[i].frames;
	r->flow_count = r->begin.flows = flows;
	r->frames = r->begin.frames = frames;
	r->filled = 0;
	for (uint32_t i = 0; i < frames; i++)
		r->filled += r->lengths[i];
}

struct packing {
	uint8_t *to;
	size_t length;
};

static void pack_piece(void *context, uint32_t kind, const void *data, size_t length)
{
	struct packing *p = context;
	uint32_t head[2] = {kind, (uint32_t)length};
	memcpy(p->to + p->length, head, sizeof(head));
	memcpy(p->to + p->length + sizeof(head), data, length);
	p->length += sizeof(head) + length;
}

int ft_transcript_pack(const struct ft_request *request, const struct ft_outside_config *outside, uint64_t seed, uint8_t **bytes,
		       size_t *length)
{
	size_t pieces, size = ft_transcript_size(request, &pieces);
	struct packing p = {.to = malloc(size + pieces * 2 * sizeof(uint32_t))};
	if (!p.to)
		return -ENOMEM;
	ft_transcript_tell(request, outside, seed, pack_piece, &p);
	*bytes = p.to;
	*length = p.length;
	return 0;
}
