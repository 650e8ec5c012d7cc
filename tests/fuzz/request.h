/* Requests of trials, for the fuzzers of who takes them: made of an input, and what one that is whole must be. */
#ifndef FT_FUZZ_REQUEST_H
#define FT_FUZZ_REQUEST_H

#include "input.h"

#include "clone/request.h"

/* Mostly what could belong together: small numbers, so that requests become whole. */
static inline void request_begin(struct input *in, struct ft_trial_begin *b)
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

static inline void request_flow(struct input *in, struct ft_trial_flow *f)
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

static inline void request_check_flows(const struct ft_request *r)
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

static inline void request_check(const struct ft_request *r)
{
	size_t sum = 0;
	const struct ft_trial_begin *b = &r->begin;
	MUST(r->used && !r->bad && r->frames == b->frames && r->frames && r->frames <= FT_TRIAL_FRAMES);
	for (uint32_t i = 0; i < r->frames; i++) {
		MUST(r->lengths[i] >= 14 && r->lengths[i] <= FT_REQUEST_FRAME);
		sum += r->lengths[i];
	}
	MUST(sum == r->filled && r->filled <= r->room && r->room <= FT_REQUEST_BYTES);
	request_check_flows(r);
	volatile uint8_t last = r->bytes[r->filled - 1];
	(void)last;
}

#endif
