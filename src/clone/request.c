#include "clone/request.h"

#include <stdlib.h>
#include <string.h>

static struct ft_request *find(struct ft_requests *requests, uint64_t hold)
{
	for (unsigned i = 0; i < FT_REQUESTS; i++)
		if (requests->entries[i].used && requests->entries[i].begin.hold == hold)
			return &requests->entries[i];
	return NULL;
}

void ft_request_drop(struct ft_request *request)
{
	free(request->bytes);
	memset(request, 0, offsetof(struct ft_request, lengths));
}

void ft_requests_clear(struct ft_requests *requests)
{
	for (unsigned i = 0; i < FT_REQUESTS; i++)
		ft_request_drop(&requests->entries[i]);
}

static bool sound(const struct ft_trial_begin *begin)
{
	if (begin->frames == 0 || begin->frames > FT_TRIAL_FRAMES || begin->bytes > FT_REQUEST_BYTES)
		return false;
	if (begin->protocol == 6 && begin->next_sequence - begin->first_sequence > FT_REQUEST_BYTES)
		return false;
	return (begin->protocol == 6 || begin->protocol == 17) && begin->horizon_ns < UINT64_MAX / 4;
}

static enum ft_request_event take_begin(struct ft_requests *requests, const void *data, size_t length,
					uint64_t *hold)
{
	struct ft_trial_begin begin;
	if (length != sizeof(begin))
		return FT_REQUEST_UNKNOWN;
	memcpy(&begin, data, sizeof(begin));
	*hold = begin.hold;
	struct ft_request *r = find(requests, begin.hold);
	if (r) {
		/* The same hold twice: neither is to be believed. */
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
	r->bad = !sound(&begin);
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
	uint64_t hold;
	if (length < sizeof(hold))
		return FT_REQUEST_UNKNOWN;
	memcpy(&hold, data, sizeof(hold));
	data += sizeof(hold);
	length -= sizeof(hold);
	struct ft_request *r = find(requests, hold);
	/* A frame of a request that was refused for want of room: its BEGIN was answered. */
	if (!r || r->bad)
		return FT_REQUEST_NONE;
	if (r->frames >= r->begin.frames || length < 14 || length > FT_REQUEST_FRAME ||
	    r->filled + length > FT_REQUEST_BYTES || !grow(r, length)) {
		r->bad = true;
		return FT_REQUEST_NONE;
	}
	memcpy(r->bytes + r->filled, data, length);
	r->filled += length;
	r->lengths[r->frames++] = (uint32_t)length;
	return FT_REQUEST_NONE;
}

static enum ft_request_event take_go(struct ft_requests *requests, uint64_t hold, struct ft_request **request)
{
	struct ft_request *r = find(requests, hold);
	if (!r)
		return FT_REQUEST_NONE;
	if (r->bad || r->frames != r->begin.frames) {
		ft_request_drop(r);
		return FT_REQUEST_BAD;
	}
	*request = r;
	return FT_REQUEST_READY;
}

enum ft_request_event ft_request_take(struct ft_requests *requests, uint32_t kind, const void *data,
				      size_t length, struct ft_request **request, struct ft_trial_twin *twin,
				      uint64_t *hold)
{
	struct ft_trial_go go;
	switch (kind) {
	case FT_TRIAL_BEGIN:
		return take_begin(requests, data, length, hold);
	case FT_TRIAL_FRAME:
		return take_frame(requests, data, length);
	case FT_TRIAL_GO:
	case FT_TRIAL_FINISH:
		if (length != sizeof(go))
			return FT_REQUEST_UNKNOWN;
		memcpy(&go, data, sizeof(go));
		*hold = go.hold;
		return kind == FT_TRIAL_GO ? take_go(requests, go.hold, request) : FT_REQUEST_FINISH;
	case FT_TRIAL_TWIN:
		if (length != sizeof(*twin))
			return FT_REQUEST_UNKNOWN;
		memcpy(twin, data, sizeof(*twin));
		*hold = twin->hold;
		return FT_REQUEST_TWIN;
	default:
		return FT_REQUEST_UNKNOWN;
	}
}
