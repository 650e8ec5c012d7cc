/* Ring-0 code of any bytes: it may write its own page tables, descriptor tables and MSRs, and speak to every device. The
 * machine stops in one of the ways it has, never in an error, and nothing outside of it is touched. */
#include "input.h"

#include <sys/prctl.h>

#include "../vmm/bare.h"
#include "signals.h"

#define MOST 600u
/* The bare machine's: bare.c. */
#define KERNEL 0xffff800000000000ull
#define CODE   0x40000u
#define DATA   0x60000u

static void start(struct input *in, struct ft_machine *m)
{
	/* One case of bare.c first, so that its state (tables, ring 3) is there; then ring 0. */
	static struct user_case c;
	static struct user_state end;
	static uint8_t data[CASE_DATA_SIZE];
	enum ft_exit exit;
	struct ft_cpu_state s;
	memset(c.code, 0xcc, sizeof(c.code));
	c.start.rip = CASE_CODE;
	c.start.flags = 0x202;
	c.start.fx[0] = 0x7f;
	c.start.fx[1] = 0x03;
	c.start.fx[24] = 0x80;
	c.start.fx[25] = 0x1f;
	MUST(!bare_run(m, &c, 10, &end, data, &exit) && end.vector == 3);
	memset(&s, 0, sizeof(s));
	m->engine_ops->get(m->engine, &s);
	MUST(!(s.segment[FT_CS].attributes & 0x60)); /* the halting handler: ring 0 */
	uint8_t how = input8(in), code[1024];
	for (unsigned r = 0; r < 16; r++) {
		s.gpr[r] = KERNEL + DATA + 0x100u * r;
		if (how & 1)
			s.gpr[r] = input8(in) & 1 ? KERNEL + input16(in) * 16u : input64(in);
	}
	s.gpr[FT_RSP] = KERNEL + 0x1f000;
	s.rip = KERNEL + CODE + (how & 2 ? 4080 : 0);
	s.rflags = how & 4 ? 0x202 : 2;
	s.halted = false;
	size_t length;
	const uint8_t *bytes = input_bytes(in, sizeof(code), &length);
	memcpy(code, bytes, length);
	/* Behind the code, and where registers point: HLT. Zeros would be code that writes itself, each instruction
	 * translated and verified alone. */
	static uint8_t halts[0x2000];
	memset(halts, 0xf4, sizeof(halts));
	MUST(ft_memory_write(&m->ram, ft_gpa_make(CODE), halts, sizeof(halts)));
	MUST(ft_memory_write(&m->ram, ft_gpa_make(DATA), halts, sizeof(halts)));
	MUST(!length || ft_memory_write(&m->ram, ft_gpa_make(s.rip - KERNEL), code, length));
	struct ft_error err = {0};
	MUST(!m->engine_ops->set(m->engine, &s, &err));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct ft_engine_options options = {.verify = true, .cache_bytes = 1 << 20};
	static bool ready;
	struct input in = {data, size};
	struct ft_error err = {0};
	if (!ready) {
		prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
		signals_before();
	}
	struct ft_machine *m = bare_open(&options, &err);
	MUST(m);
	signals_after();
	ready = true;
	start(&in, m);
	struct ft_run_limits limits = {
	    .icount = m->icount + MOST, .vtime_ns = UINT64_MAX, .stop_when_idle = true};
	enum ft_stop stop = ft_machine_run(m, &limits, NULL);
	if (m->error.text[0] || stop == FT_STOP_ERROR) {
		fprintf(stderr, "stop %d: %s\n", stop, m->error.text);
		MUST(!m->error.text[0] && stop != FT_STOP_ERROR);
	}
	MUST(m->icount <= limits.icount);
	bare_close(m);
	return 0;
}
