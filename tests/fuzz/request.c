/* Trial requests as a dataplane process that has been taken over would write them: what is passed on contradicts itself in
 * nothing. */
#include "input.h"

#include "clone/request.h"

static void begin(struct input *in, struct ft_trial_begin *b)
{
	uint8_t how = input8(in);
	input_copy(in, b, how & 1 ? sizeof(*b) : 4);
	b->hold = input8(in) & 7;
	if (!(how & 2)) {
		b->frames = 1 + (how >> 4);
		b->bytes = input16(in);
		b->protocol = how & 4 ? 6 : 17;
		b->next_sequence = b->first_sequence + b->bytes;
	}
}

static void check(const struct ft_request *r)
{
	size_t sum = 0;
	const struct ft_trial_begin *b = &r->begin;
	MUST(r->used && !r->bad && r->frames == b->frames && r->frames && r->frames <= FT_TRIAL_FRAMES);
	for (uint32_t i = 0; i < r->frames; i++) {
		MUST(r->lengths[i] >= 14 && r->lengths[i] <= FT_REQUEST_FRAME);
		sum += r->lengths[i];
	}
	MUST(sum == r->filled && r->filled <= r->room && r->filled <= FT_REQUEST_BYTES);
	MUST(b->protocol == 6 || b->protocol == 17);
	MUST(b->bytes <= FT_REQUEST_BYTES);
	volatile uint8_t last = r->bytes[r->filled - 1];
	(void)last;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size};
	static struct ft_requests requests;
	uint8_t *record = malloc(FT_REQUEST_FRAME + 64);
	while (in.left) {
		uint8_t what = input8(&in);
		uint32_t kind = what & 0x80 ? input32(&in) : FT_TRIAL_BEGIN + what % 5;
		size_t length = sizeof(struct ft_trial_go);
		uint64_t hold = input8(&in) & 7, told = 99;
		memset(record, 0, 64);
		if (kind == FT_TRIAL_BEGIN) {
			begin(&in, (struct ft_trial_begin *)(void *)record);
			length = sizeof(struct ft_trial_begin);
		} else {
			memcpy(record, &hold, sizeof(hold));
			if (kind == FT_TRIAL_FRAME)
				length = 8 + input16(&in) % (FT_REQUEST_FRAME + 32);
			else if (kind == FT_TRIAL_TWIN)
				length = sizeof(struct ft_trial_twin);
		}
		if (what & 0x40)
			length = (length + input8(&in)) % (FT_REQUEST_FRAME + 48);
		uint8_t *exact = malloc(length ? length : 1);
		memset(exact, 0x5a, length);
		memcpy(exact, record, length < 200 ? length : 200);
		struct ft_request *request = NULL;
		struct ft_trial_twin twin;
		enum ft_request_event event =
		    ft_request_take(&requests, kind, exact, length, &request, &twin, &told);
		free(exact);
		MUST((event == FT_REQUEST_READY) == (request != NULL));
		if (request) {
			check(request);
			ft_request_drop(request);
		}
	}
	ft_requests_clear(&requests);
	for (unsigned i = 0; i < FT_REQUESTS; i++)
		MUST(!requests.entries[i].used && !requests.entries[i].bytes);
	free(record);
	return 0;
}
