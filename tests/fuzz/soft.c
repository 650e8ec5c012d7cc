/* Ring-3 code of any bytes on the software engine: decoder, translator and the output verifier, which must accept whatever
 * the translator makes; then run, under settings that must not matter: registers, flags, FPU and memory end alike. */
#include "input.h"

#include <errno.h>
#include <sys/prctl.h>

#include "../vmm/bare.h"
#include "vmm/engine/mxcsr.h"
#include "signals.h"

static const struct ft_engine_options settings[] = {
    {.verify = true, .cache_bytes = 1 << 20},
    {.verify = true, .cache_bytes = 1 << 20, .block_limit = 1},
    {.verify = true, .cache_bytes = 1 << 20, .always_slow = true},
    {.verify = true, .cache_bytes = 1 << 20, .tlb_bits = 2},
};
#define SETTINGS (sizeof(settings) / sizeof(settings[0]))
#define MOST     400u

static struct ft_machine *machine[SETTINGS];

struct outcome {
	int error;
	struct user_state state;
	uint8_t data[CASE_DATA_SIZE];
};

static void open_machines(void)
{
	struct ft_error err = {0};
	prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
	signals_before();
	for (unsigned i = 0; i < SETTINGS; i++) {
		machine[i] = bare_open(&settings[i], &err);
		if (!machine[i]) {
			fprintf(stderr, "%s\n", err.text);
			abort();
		}
	}
	signals_after();
}

/* Addresses of the pages there are, mostly; the rest as it comes. */
static uint64_t value(struct input *in)
{
	uint8_t how = input8(in);
	switch (how & 7) {
	case 0:
		return input64(in);
	case 1:
		return CASE_CODE + input16(in) % CASE_CODE_SIZE;
	case 2:
		return CASE_CONST - 8 + input8(in) % 32;
	case 3:
		return (uint64_t)(int64_t)(int8_t)input8(in);
	case 4:
		return CASE_DATA + (uint64_t)(how >> 3) * 4096 + 4090 + (how >> 5);
	default:
		return CASE_DATA + input16(in) % CASE_DATA_SIZE;
	}
}

static void prepare(struct input *in, struct user_case *c)
{
	memset(c, 0, sizeof(*c));
	memset(c->code, 0xcc, sizeof(c->code));
	for (unsigned i = 0; i < CASE_DATA_SIZE; i++)
		c->data[i] = (uint8_t)(i * 37 >> 2);
	uint8_t how = input8(in);
	for (unsigned r = 0; r < 16; r++)
		c->start.gpr[r] = how & 1 ? value(in) : CASE_DATA + 0x800u + r * 0x300u;
	c->start.flags = 0x202 | (input16(in) & 0x8d5);
	c->start.fx[0] = 0x7f;
	c->start.fx[1] = 0x03;
	c->start.fx[24] = 0x80;
	c->start.fx[25] = 0x1f;
	if (how & 16)
		c->start.fx[26] = (uint8_t)((ft_mxcsr_host() & FT_MXCSR_MM) >> 16);
	if (how & 2)
		input_copy(in, c->start.fx + 32, 64);
	if (how & 4)
		input_copy(in, c->start.fx + 160, 64);
	/* Near the end of a page now and then: instructions that cross it. */
	unsigned at = how & 8 ? 4096 - input8(in) % 32u : 0;
	size_t length;
	const uint8_t *code = input_bytes(in, 1024, &length);
	memcpy(c->code + at, code, length);
	c->start.rip = CASE_CODE + at;
}

static void run(unsigned n, const struct user_case *c, struct outcome *o)
{
	enum ft_exit exit = FT_EXIT_ERROR;
	struct ft_machine *m = machine[n];
	m->engine_ops->flush(m->engine);
	m->error = (struct ft_error){0};
	/* Time is the instruction count, which code can read: the same for all. */
	m->icount = 0;
	m->clock.base_icount = m->clock.base_ns = 0;
	o->error = bare_run(m, c, MOST, &o->state, o->data, &exit);
	if (m->error.text[0] || exit == FT_EXIT_ERROR) {
		fprintf(stderr, "setting %u: %s\n", n, m->error.text);
		MUST(!m->error.text[0] && exit != FT_EXIT_ERROR);
	}
	MUST(!o->error || o->error == -ETIME || o->error == -EIO);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size};
	static struct user_case c;
	static struct outcome first, other;
	if (!machine[0])
		open_machines();
	prepare(&in, &c);
	run(0, &c, &first);
	for (unsigned n = 1; n < SETTINGS; n++) {
		run(n, &c, &other);
		MUST(other.error == first.error);
		if (first.error)
			continue; /* endless: stopped somewhere */
		MUST(other.state.vector == first.state.vector && other.state.rip == first.state.rip);
		MUST(other.state.flags == first.state.flags);
		MUST(!memcmp(other.state.gpr, first.state.gpr, sizeof(first.state.gpr)));
		MUST(!memcmp(other.state.fx + 32, first.state.fx + 32, 384));
		MUST(!memcmp(other.data, first.data, sizeof(first.data)));
	}
	return 0;
}
