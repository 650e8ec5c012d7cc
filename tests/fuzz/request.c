/* Trial requests as a dataplane process that has been taken over would write them: what is passed on contradicts itself in
 * nothing. */
#include "input.h"

#include "clone/request.h"

/* Mostly what could belong together: small numbers, so that requests become whole. */
static void begin(struct input *in, struct ft_trial_begin *b)
{
	uint8_t how = input8(in);
	input_copy(in, b, how & 1 ? sizeof(*b) : 4);
	if (!(how & 2)) {
		b->flows = 1 + (how >> 2 & 3);
		b->frames = b->flows + (how >> 6);
		if (how & 0x20) {
			static const uint32_t many[] = {FT_TRIAL_FRAMES - 1, FT_TRIAL_FRAMES, FT_TRIAL_FRAMES + 1,
							FT_REQUEST_BYTES / FT_REQUEST_FRAME + 1};
			b->frames = many[how >> 6];
		}
		b->horizon_ns = 1;
	}
}

static void flow(struct input *in, struct ft_trial_flow *f)
{
	uint8_t how = input8(in);
	input_copy(in, f, how & 1 ? sizeof(*f) : 4);
	if (!(how & 2)) {
		f->frames = how & 0x20 ? input16(in) : 1 + (how >> 6);
		f->bytes = input16(in);
		f->protocol = how & 4 ? 6 : 17;
		f->client_port = how >> 3 & 7;
		f->next_sequence = f->first_sequence + f->bytes;
	}
}

static void check_flows(const struct ft_request *r)
{
	uint32_t frames = 0;
	MUST(r->flow_count == r->begin.flows && r->flow_count && r->flow_count <= FT_TRIAL_FLOWS);
	for (uint32_t i = 0; i < r->flow_count; i++) {
		const struct ft_trial_flow *f = &r->flows[i];
		MUST(f->trial == r->begin.trial && f->frames && f->frames <= r->frames);
		MUST(f->protocol == 6 || f->protocol == 17);
		MUST(f->bytes <= FT_REQUEST_BYTES);
		MUST(f->protocol == 17 || f->next_sequence - f->first_sequence <= FT_REQUEST_BYTES);
		frames += f->frames;
		for (uint32_t j = 0; j < i; j++) {
			const struct ft_trial_flow *g = &r->flows[j];
			MUST(f->protocol != g->protocol || f->client_port != g->client_port ||
			     f->server_port != g->server_port || memcmp(&f->client_ip, &g->client_ip, 16) ||
			     memcmp(&f->server_ip, &g->server_ip, 16) || memcmp(&f->tags, &g->tags, sizeof(f->tags)));
		}
	}
	MUST(frames == r->frames);
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
	MUST(sum == r->filled && r->filled <= r->room && r->room <= FT_REQUEST_BYTES);
	check_flows(r);
	volatile uint8_t last = r->bytes[r->filled - 1];
	(void)last;
}

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
		check(request);
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
			begin(&in, (struct ft_trial_begin *)(void *)record);
			length = sizeof(struct ft_trial_begin);
		} else if (kind == FT_TRIAL_FLOW) {
			flow(&in, (struct ft_trial_flow *)(void *)record);
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
