/* The output verifier against host code that the translator never made: blocks with bytes changed. It reads nothing outside of
 * the block; and what it accepts is run: it must do no harm, that is raise no page fault of the host's and change no page of
 * guest memory but those that ring 3 may write. */
#include "input.h"

#include <errno.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../vmm/bare.h"
#include "signals.h"
#include "vmm/engine/soft/run.h"
#include "vmm/engine/soft/verify.h"

#define PAGES_CODE 0x200000u /* as in bare.c: where CASE_CODE and CASE_DATA lie in RAM */
#define PAGES_DATA 0x210000u
#define TABLES     0x1000u
#define TABLES_END 0x8000u
#define STACK      0x1f000u
#define MOST       200u

static struct ft_machine *m;
static uint64_t untouched;

static uint64_t sum(void)
{
	/* Without the pages of ring 3, and the kernel's stack on which the ending exception's frame lies. */
	uint64_t hash = 0;
	const uint64_t *at = (const uint64_t *)(const void *)m->ram.base;
	for (uint64_t i = 0; i < (PAGES_DATA + CASE_DATA_SIZE + CASE_CONST_SIZE + 0x10000u) / 8; i++)
		if ((i * 8 < STACK || i * 8 >= STACK + 0x1000) &&
		    (i * 8 < PAGES_CODE || i * 8 >= PAGES_DATA + CASE_DATA_SIZE)) {
			/* Page walks set accessed and dirty. */
			uint64_t mask = i * 8 >= TABLES && i * 8 < TABLES_END ? ~0x60ull : ~0ull;
			hash = (hash ^ (at[i] & mask)) * 0x9e3779b97f4a7c15ull;
		}
	return hash;
}

static void begin(const struct user_case *c)
{
	static struct user_case plain;
	static struct user_state end;
	static uint8_t data[CASE_DATA_SIZE];
	enum ft_exit exit;
	if (m)
		return;
	static const struct ft_engine_options options = {.verify = false, .cache_bytes = 1 << 20};
	struct ft_error err = {0};
	prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
	signals_before();
	m = bare_open(&options, &err);
	MUST(m);
	signals_after();
	plain = *c;
	memset(plain.code, 0xcc, sizeof(plain.code));
	plain.start.rip = CASE_CODE;
	MUST(!bare_run(m, &plain, 10, &end, data, &exit));
	untouched = sum();
}

static void prepare(struct input *in, struct user_case *c)
{
	memset(c, 0, sizeof(*c));
	memset(c->code, 0xcc, sizeof(c->code));
	for (unsigned r = 0; r < 16; r++)
		c->start.gpr[r] = CASE_DATA + 0x800u + r * 0x300u;
	c->start.flags = 0x202;
	c->start.rip = CASE_CODE;
	c->start.fx[0] = 0x7f;
	c->start.fx[1] = 0x03;
	c->start.fx[24] = 0x80;
	c->start.fx[25] = 0x1f;
	size_t length;
	const uint8_t *code = input_bytes(in, input8(in) % 32u, &length);
	memcpy(c->code, code, length);
}

/* The block at CASE_CODE, as the engine would find it. */
static struct soft_block *translate(const struct user_case *c)
{
	static struct user_state end;
	static uint8_t data[CASE_DATA_SIZE];
	enum ft_exit exit;
	m->engine_ops->flush(m->engine);
	m->error = (struct ft_error){0};
	bare_run(m, c, MOST, &end, data, &exit);
	MUST(!m->error.text[0]);
	struct soft_blocks *b = m->engine->blocks;
	for (uint32_t i = 0; i < b->block_used; i++)
		if (b->block[i].rip == CASE_CODE && b->block[i].mode == SOFT_MODE_USER &&
		    !b->block[i].dropped)
			return &b->block[i];
	return NULL;
}

/* Through the very block: RAM is as it was, so nothing is translated anew. */
static void run_accepted(const struct user_case *c)
{
	struct ft_error err = {0};
	struct ft_cpu_state s;
	memset(&s, 0, sizeof(s));
	m->engine_ops->get(m->engine, &s);
	memcpy(s.gpr, c->start.gpr, sizeof(s.gpr));
	s.rip = CASE_CODE;
	s.rflags = 0x202;
	s.halted = false;
	s.segment[FT_CS] =
	    (struct ft_segment){.limit = 0xffffffff, .selector = CASE_CS, .attributes = 0xa0fb};
	s.segment[FT_SS] =
	    (struct ft_segment){.limit = 0xffffffff, .selector = CASE_SS, .attributes = 0xc0f3};
	m->error = (struct ft_error){0};
	MUST(!m->engine_ops->set(m->engine, &s, &err));
	enum ft_exit exit = m->engine_ops->run(m->engine, m->icount + MOST);
	if (m->error.text[0])
		fprintf(stderr, "accepted, and then: %s\n", m->error.text);
	MUST(!m->error.text[0] && exit != FT_EXIT_ERROR && sum() == untouched);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size};
	static struct user_case c;
	prepare(&in, &c);
	begin(&c);
	struct soft_block *block = translate(&c);
	if (!block)
		return 0;
	struct ft_error err = {0};
	uint8_t *code = m->engine->blocks->code + block->entry - SOFT_RESUME;
	while (in.left) {
		uint16_t place = input16(&in);
		code[(place & 0xfff) % block->size] ^= (uint8_t)(input8(&in) | (place >> 15));
	}
	/* Redzones around: a byte read outside is seen. (Where it runs is part of what is verified, so both.) */
	uint8_t *exact = malloc(block->size);
	memcpy(exact, code, block->size);
	soft_verify(m->engine->cpu, exact, block->size, SOFT_RESUME, block->mode, &err);
	free(exact);
	err = (struct ft_error){0};
	if (soft_verify(m->engine->cpu, code, block->size, SOFT_RESUME, block->mode, &err)) {
		MUST(err.text[0]);
		return 0;
	}
	/* In a child: nothing promises that what is accepted ends. The budget is an addition in the block like any other. */
	pid_t child = fork();
	MUST(child >= 0);
	if (!child) {
		struct itimerval most = {.it_value.tv_usec = 50000};
		signal(SIGVTALRM, SIG_DFL);
		setitimer(ITIMER_VIRTUAL, &most, NULL);
		run_accepted(&c);
		_exit(0);
	}
	int status;
	while (waitpid(child, &status, 0) != child)
		MUST(errno == EINTR);
	MUST(WIFSIGNALED(status) ? WTERMSIG(status) == SIGVTALRM : WEXITSTATUS(status) == 0);
	return 0;
}
