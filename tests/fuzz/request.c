/* Trial requests as a dataplane process that has been taken over would write them: what is passed on contradicts itself in
 * nothing. */
#include "request.h"

static struct ft_requests requests;

/* Hands over a copy of exactly this length. */
static void take(uint32_t kind, const uint8_t *record, size_t length)
{
	uint8_t *exact = malloc(length ? length : 1);
	uint64_t told = 99;
	struct ft_request *request = NULL;
	struct ft_trial_run run;
	memset(exact, 0x5a, length);
	memcpy(exact, record, length < 256 ? length : 256);
	enum ft_request_event event = ft_request_take(&requests, kind, exact, length, &request, &run, &told);
	free(exact);
	MUST((event == FT_REQUEST_READY) == (request != NULL));
	if (request) {
		request_check(request);
		ft_request_drop(request);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size};
	uint8_t *record = malloc(FT_REQUEST_FRAME + 64);
	unsigned budget = 3 * FT_TRIAL_FRAMES; /* of what is said again and again */
	while (in.left) {
		uint8_t what = input8(&in);
		uint32_t kind = what & 0x80 ? input32(&in) : FT_TRIAL_BEGIN + what % 6;
		size_t length = sizeof(struct ft_trial_go);
		uint64_t trial = input8(&in) & 7;
		unsigned times = 1;
		memset(record, 0, 256);
		if (kind == FT_TRIAL_BEGIN) {
			request_begin(&in, (struct ft_trial_begin *)(void *)record);
			length = sizeof(struct ft_trial_begin);
		} else if (kind == FT_TRIAL_FLOW) {
			request_flow(&in, (struct ft_trial_flow *)(void *)record);
			length = sizeof(struct ft_trial_flow);
		} else if (kind == FT_TRIAL_FRAME) {
			length = 8 + input16(&in) % (FT_REQUEST_FRAME + 32);
			times += what & 0x20 ? input16(&in) % (FT_TRIAL_FRAMES + 2) : 0;
		} else if (kind == FT_TRIAL_RUN) {
			length = sizeof(struct ft_trial_run);
		}
		memcpy(record, &trial, sizeof(trial)); /* each begins with it */
		if (what & 0x40)
			length = (length + input8(&in)) % (FT_REQUEST_FRAME + 48);
		for (; times && budget; times--, budget--)
			take(kind, record, length);
		for (unsigned i = 0; i < FT_REQUESTS; i++)
			MUST(requests.entries[i].flow_count <= FT_TRIAL_FLOWS && requests.entries[i].frames <= FT_TRIAL_FRAMES);
	}
	ft_requests_clear(&requests);
	for (unsigned i = 0; i < FT_REQUESTS; i++)
		MUST(!requests.entries[i].used && !requests.entries[i].bytes);
	free(record);
	return 0;
}
