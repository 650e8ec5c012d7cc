#include "clone/request.h"

#include <stdlib.h>
#include <string.h>

static struct ft_request *find(struct ft_requests *requests, uint64_t trial)
{
	for (unsigned i = 0; i < FT_REQUESTS; i++)
		if (requests->entries[i].used && requests->entries[i].begin.trial == trial)
			return &requests->entries[i];
	return NULL;
}

void ft_request_drop(struct ft_request *request)
{
	free(request->bytes);
	request->used = request->bad = false;
	request->flow_count = request->frames = 0;
	request->filled = request->room = 0;
	request->bytes = NULL;
}

void ft_requests_clear(struct ft_requests *requests)
{
	for (unsigned i = 0; i < FT_REQUESTS; i++)
		ft_request_drop(&requests->entries[i]);
}

static bool is_sound(const struct ft_trial_begin *begin)
{
	return begin->flows && begin->flows <= FT_TRIAL_FLOWS && begin->frames <= FT_TRIAL_FRAMES &&
	       begin->horizon_ns < UINT64_MAX / 4;
}

static bool is_sound_flow(const struct ft_trial_flow *flow)
{
	if (!flow->frames || flow->frames > FT_TRIAL_FRAMES || flow->bytes > FT_REQUEST_BYTES)
		return false;
	if (flow->protocol == 6)
		return flow->next_sequence - flow->first_sequence <= FT_REQUEST_BYTES;
	return flow->protocol == 17;
}

static bool is_same_flow(const struct ft_trial_flow *a, const struct ft_trial_flow *b)
{
	return a->protocol == b->protocol && a->client_port == b->client_port && a->server_port == b->server_port &&
	       ft_address_same(&a->client_ip, &b->client_ip) && ft_address_same(&a->server_ip, &b->server_ip) &&
	       !memcmp(&a->tags, &b->tags, sizeof(a->tags));
}

static enum ft_request_event take_begin(struct ft_requests *requests, const void *data, size_t length,
					uint64_t *trial)
{
	struct ft_trial_begin begin;
	if (length != sizeof(begin))
		return FT_REQUEST_UNKNOWN;
	memcpy(&begin, data, sizeof(begin));
	*trial = begin.trial;
	struct ft_request *r = find(requests, begin.trial);
	if (r) {
		/* The same number twice: neither is to be believed. */
		r->bad = true;
		return FT_REQUEST_NONE;
	}
	for (unsigned i = 0; i < FT_REQUESTS && !r; i++)
		if (!requests->entries[i].used)
			r = &requests->entries[i];
	if (!r)
		return FT_REQUEST_FULL;
	r->begin = begin;
	r->used = true;
	r->bad = !is_sound(&begin);
	return FT_REQUEST_NONE;
}

static enum ft_request_event take_flow(struct ft_requests *requests, const void *data, size_t length)
{
	struct ft_trial_flow flow;
	if (length != sizeof(flow))
		return FT_REQUEST_UNKNOWN;
	memcpy(&flow, data, sizeof(flow));
	struct ft_request *r = find(requests, flow.trial);
	if (!r || r->bad)
		return FT_REQUEST_NONE;
	r->bad = r->flow_count >= r->begin.flows || !is_sound_flow(&flow);
	for (uint32_t i = 0; i < r->flow_count && !r->bad; i++)
		r->bad = is_same_flow(&r->flows[i], &flow);
	if (!r->bad)
		r->flows[r->flow_count++] = flow;
	return FT_REQUEST_NONE;
}

static bool grow(struct ft_request *r, size_t length)
{
	if (r->filled + length <= r->room)
		return true;
	size_t room = r->room ? r->room : 16384;
	while (room < r->filled + length)
		room *= 2;
	uint8_t *bytes = realloc(r->bytes, room);
	if (!bytes)
		return false;
	r->bytes = bytes;
	r->room = room;
	return true;
}

static enum ft_request_event take_frame(struct ft_requests *requests, const uint8_t *data, size_t length)
{
	uint64_t trial;
	if (length < sizeof(trial))
		return FT_REQUEST_UNKNOWN;
	memcpy(&trial, data, sizeof(trial));
	data += sizeof(trial);
	length -= sizeof(trial);
	struct ft_request *r = find(requests, trial);
	/* A frame of a request that was refused for want of room: its BEGIN was answered. */
	if (!r || r->bad)
		return FT_REQUEST_NONE;
	/* Every flow comes before the first frame: which frames are whose follows from the flows alone. */
	if (r->flow_count != r->begin.flows || r->frames >= r->begin.frames || length < 14 ||
	    length > FT_REQUEST_FRAME || r->filled + length > FT_REQUEST_BYTES || !grow(r, length)) {
		r->bad = true;
		return FT_REQUEST_NONE;
	}
	memcpy(r->bytes + r->filled, data, length);
	r->filled += length;
	r->lengths[r->frames++] = (uint32_t)length;
	return FT_REQUEST_NONE;
}

/* All flows are there when a frame is. */
static bool is_whole(const struct ft_request *r)
{
	uint32_t frames = 0;
	for (uint32_t i = 0; i < r->flow_count; i++)
		frames += r->flows[i].frames;
	return !r->bad && frames && frames == r->begin.frames && r->frames == frames;
}

static enum ft_request_event take_go(struct ft_requests *requests, uint64_t trial, struct ft_request **request)
{
	struct ft_request *r = find(requests, trial);
	if (!r)
		return FT_REQUEST_NONE;
	if (!is_whole(r)) {
		ft_request_drop(r);
		return FT_REQUEST_BAD;
	}
	*request = r;
	return FT_REQUEST_READY;
}

enum ft_request_event ft_request_take(struct ft_requests *requests, uint32_t kind, const void *data,
				      size_t length, struct ft_request **request, struct ft_trial_run *run,
				      uint64_t *trial)
{
	struct ft_trial_go go;
	switch (kind) {
	case FT_TRIAL_BEGIN:
		return take_begin(requests, data, length, trial);
	case FT_TRIAL_FLOW:
		return take_flow(requests, data, length);
	case FT_TRIAL_FRAME:
		return take_frame(requests, data, length);
	case FT_TRIAL_GO:
	case FT_TRIAL_FINISH:
		if (length != sizeof(go))
			return FT_REQUEST_UNKNOWN;
		memcpy(&go, data, sizeof(go));
		*trial = go.trial;
		return kind == FT_TRIAL_GO ? take_go(requests, go.trial, request) : FT_REQUEST_FINISH;
	case FT_TRIAL_RUN:
		if (length != sizeof(*run))
			return FT_REQUEST_UNKNOWN;
		memcpy(run, data, sizeof(*run));
		*trial = run->trial;
		return FT_REQUEST_RUN;
	default:
		return FT_REQUEST_UNKNOWN;
	}
}
