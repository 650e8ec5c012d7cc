/* Requests of trials as a journal or the snapshot of a seed brings them, whose writer was in the hands of its guest: whole blocks, and
 * piece by piece. Held to be true: what is taken is a request as the dataplane could have made it, in an outside that can be, of the seed
 * that is wanted; packed and taken again it is the same, also when it is cut to its first flows; what is refused says why, keeps nothing,
 * and a sound request that comes after it is taken. */
#include <errno.h>

#include "request.h"

#include "clone/transcript.h"

#define BLOCK 300000u /* bytes that the input can make */
#define WANTED 3u

static uint8_t block[BLOCK + 1];
static size_t filled;
static struct ft_transcript taken, again;
static struct ft_request good;
static const struct ft_outside_config good_outside = {.guest_ip = 1, .tcp = FT_SINK_SILENT, .delay_ns = 1000000};

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	static uint8_t bytes[300];
	good = (struct ft_request){.begin = {.trial = 1, .flows = 2, .frames = 3}, .used = true, .bytes = bytes, .room = sizeof(bytes)};
	for (uint32_t i = 0; i < 2; i++)
		good.flows[good.flow_count++] = (struct ft_trial_flow){.trial = 1, .frames = 1 + i, .client_port = (uint16_t)i, .protocol = 17};
	for (uint32_t i = 0; i < 3; i++)
		good.filled += good.lengths[good.frames++] = 60 + i;
	for (size_t i = 0; i < good.filled; i++)
		bytes[i] = (uint8_t)i;
	return 0;
}

/* ---- What the input says --------------------------------------------------------------------------------------------- */

/* kind, length, data: a piece in a block. */
static void put(uint32_t kind, const void *data, size_t length)
{
	uint32_t head[2] = {kind, (uint32_t)length};
	if (BLOCK - filled < sizeof(head) + length)
		return;
	memcpy(block + filled, head, sizeof(head));
	memcpy(block + filled + sizeof(head), data, length);
	filled += sizeof(head) + length;
}

static void outside(struct input *in, struct ft_transcript_outside *o)
{
	uint8_t how = input8(in);
	o->tcp = how & 3;
	o->reserved = how & 4 ? input8(in) : 0;
	o->delay_ns = how & 8 ? input64(in) : how & 16 ? 10000000000ull + (how >> 5) : 1000;
	o->guest_ip = how;
}

/* At most 65536 bytes, which are the input's only in front. */
static void make_piece(struct input *in)
{
	static uint8_t data[65536];
	uint8_t what = input8(in);
	uint64_t trial = input8(in) & 3;
	uint32_t kind = FT_TRIAL_BEGIN + what % 5;
	size_t length = sizeof(uint64_t);
	unsigned times = 1;
	memset(data, 0, 256);
	switch (kind) {
	case FT_TRIAL_BEGIN:
		request_begin(in, (struct ft_trial_begin *)(void *)data);
		length = sizeof(struct ft_trial_begin);
		break;
	case FT_TRIAL_FLOW:
		request_flow(in, (struct ft_trial_flow *)(void *)data);
		length = sizeof(struct ft_trial_flow);
		break;
	case FT_TRIAL_FRAME:
		length = sizeof(uint64_t) + input16(in) % (FT_REQUEST_FRAME + 32);
		times += what & 0x20 ? input16(in) % (FT_TRIAL_FRAMES + 2) : 0;
		break;
	case FT_TRIAL_GO:
		length = sizeof(struct ft_transcript_go);
		data[sizeof(uint64_t)] = input8(in) & 7; /* which seed */
		break;
	default:
		kind = what & 0x80 ? input32(in) : FT_TRANSCRIPT_OUTSIDE;
		length = sizeof(struct ft_transcript_outside);
	}
	memcpy(data, &trial, sizeof(trial));
	if (kind == FT_TRANSCRIPT_OUTSIDE)
		outside(in, (struct ft_transcript_outside *)(void *)data);
	if (what & 0x40)
		length = (length + input8(in)) % sizeof(data);
	for (; times; times--)
		put(kind, data, length);
}

/* ---- What must be true ------------------------------------------------------------------------------------------------ */

static void same(const struct ft_transcript *a, const struct ft_transcript *b)
{
	const struct ft_request *x = a->request, *y = b->request;
	MUST(!memcmp(&x->begin, &y->begin, sizeof(x->begin)) && x->flow_count == y->flow_count && x->frames == y->frames);
	MUST(!memcmp(x->flows, y->flows, x->flow_count * sizeof(*x->flows)) && !memcmp(x->lengths, y->lengths, x->frames * sizeof(*x->lengths)));
	MUST(x->filled == y->filled && !memcmp(x->bytes, y->bytes, x->filled));
	MUST(a->seed == b->seed && !memcmp(&a->outside, &b->outside, sizeof(a->outside)));
}

/* In memory of exactly that size. */
static int take_copy(struct ft_transcript *t, const uint8_t *bytes, size_t length, struct ft_error *err)
{
	uint8_t *exact = malloc(length + !length);
	memcpy(exact, bytes, length);
	int status = ft_transcript_take_all(t, exact, length, err);
	free(exact);
	return status;
}

static void there_and_back(const struct ft_transcript *t)
{
	uint8_t *packed;
	size_t length, pieces, size = ft_transcript_size(t->request, &pieces);
	request_check(t->request);
	MUST(!ft_transcript_pack(t->request, &t->outside, t->seed, &packed, &length));
	MUST(length == size + pieces * 2 * sizeof(uint32_t));
	again.wanted = t->seed;
	MUST(take_copy(&again, packed, length, NULL) == 1);
	same(t, &again);
	ft_transcript_clear(&again);
	free(packed);
}

static void check_whole(struct ft_transcript *t, uint32_t flows)
{
	MUST(t->request && t->has_outside && t->outside.tcp <= FT_SINK_SILENT && t->outside.delay_ns <= 10000000000ull);
	MUST(!t->wanted || t->seed == t->wanted);
	there_and_back(t);
	flows = 1 + flows % t->request->flow_count;
	ft_transcript_cut(t, flows);
	MUST(t->request->flow_count == flows);
	there_and_back(t);
	/* Nothing comes behind it. */
	MUST(ft_transcript_take(t, FT_TRANSCRIPT_OUTSIDE, block, sizeof(struct ft_transcript_outside), NULL) == -EBADMSG);
}

static void next_piece(void *context, uint32_t kind, const void *data, size_t length)
{
	int *status = context;
	MUST(*status == 0);
	*status = ft_transcript_take(&taken, kind, data, length, NULL);
}

/* A journal's reader goes on behind what it could not take. */
static void take_pieces(uint32_t flows)
{
	uint32_t head[2];
	for (size_t at = 0; filled - at >= sizeof(head);) {
		struct ft_error err = {0};
		memcpy(head, block + at, sizeof(head));
		at += sizeof(head);
		size_t length = head[1] < filled - at ? head[1] : filled - at;
		uint8_t *exact = malloc(length + !length);
		memcpy(exact, block + at, length);
		int status = ft_transcript_take(&taken, head[0], exact, length, &err);
		free(exact);
		at += length;
		MUST((status == 1) == (taken.request != NULL) && (status >= 0 || (status == -EBADMSG && *err.text)));
		if (status == 1) {
			check_whole(&taken, flows);
			return;
		}
	}
	int status = 0;
	ft_transcript_tell(&good, &good_outside, WANTED, next_piece, &status);
	MUST(status == 1 && taken.seed == WANTED);
	check_whole(&taken, flows);
}

static void take_block(uint32_t flows)
{
	struct ft_error err = {0};
	int status = take_copy(&taken, block, filled, &err);
	MUST((status == 1) == (taken.request != NULL) && (status >= 0 || (status == -EBADMSG && *err.text)));
	MUST(status || taken.wanted);
	if (status != 1)
		return;
	check_whole(&taken, flows);
	again.wanted = taken.wanted;
	block[filled] = 0;
	MUST(take_copy(&again, block, filled + 1, NULL) == -EBADMSG && !again.request);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size};
	uint8_t how = input8(&in);
	uint32_t changes[4][2] = {{0}};
	size_t raw;
	filled = 0;
	for (unsigned i = 0; i < (how >> 2 & 3u); i++) {
		changes[i][0] = input16(&in);
		changes[i][1] = input8(&in);
	}
	if (how & 1) {
		const uint8_t *bytes = input_bytes(&in, BLOCK, &raw);
		memcpy(block, bytes, raw);
		filled = raw;
	}
	while (in.left)
		make_piece(&in);
	for (unsigned i = 0; filled && i < (how >> 2 & 3u); i++)
		block[changes[i][0] % filled] ^= (uint8_t)changes[i][1];
	if (how & 0x10 && filled)
		filled -= 1 + (how >> 5) * (filled - 1) / 8;
	taken.wanted = how & 0x20 ? WANTED : 0;
	(how & 2 ? take_pieces : take_block)(how >> 5);
	ft_transcript_clear(&taken);
	for (unsigned i = 0; i < FT_REQUESTS; i++)
		MUST(!taken.requests.entries[i].used && !taken.requests.entries[i].bytes);
	return 0;
}
