#include "scripted.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE_EVERY 1000u /* SCRIPT_DIRTY: instructions a page */

struct ft_engine {
	struct ft_machine *m;
};

void script_set(struct ft_machine *m, enum script script)
{
	uint32_t word = (uint32_t)script;
	ft_memory_write(&m->ram, ft_gpa_make(SCRIPT_AT), &word, sizeof(word));
}

static struct ft_engine *create(struct ft_machine *m, const struct ft_engine_options *options,
				struct ft_error *err)
{
	struct ft_engine *engine = calloc(1, sizeof(*engine));
	engine->m = m;
	return engine;
}

static void destroy(struct ft_engine *engine)
{
	free(engine);
}

static enum ft_exit dirty(struct ft_machine *m, uint64_t limit)
{
	while (m->icount + PAGE_EVERY <= limit) {
		uint64_t page = 16 + m->icount / PAGE_EVERY % (m->ram.size / FT_PAGE_SIZE - 16);
		m->icount += PAGE_EVERY;
		ft_memory_write(&m->ram, ft_gpa_make(page * FT_PAGE_SIZE), &m->icount, sizeof(m->icount));
	}
	m->icount = limit;
	return FT_EXIT_COUNT;
}

static enum ft_exit flood(struct ft_machine *m, uint64_t limit)
{
	for (; m->icount < limit; m->icount++)
		if (m->hooks.mask & FT_HOOK_CONSOLE)
			m->hooks.console(m->hooks.context, "again\n", 6);
	return FT_EXIT_COUNT;
}

static enum ft_exit run(struct ft_engine *engine, uint64_t until)
{
	struct ft_machine *m = engine->m;
	uint64_t limit = until < m->deadline ? until : m->deadline;
	uint32_t script;
	ft_memory_read(&m->ram, ft_gpa_make(SCRIPT_AT), &script, sizeof(script));
	if (m->icount >= limit)
		return FT_EXIT_COUNT;
	switch ((enum script)script) {
	case SCRIPT_IDLE:
		m->icount++;
		return FT_EXIT_HALT;
	case SCRIPT_SPIN:
		m->icount = limit;
		return FT_EXIT_COUNT;
	case SCRIPT_DIRTY:
		return dirty(m, limit);
	case SCRIPT_REBOOT:
		m->icount++;
		ft_machine_request_reset(m, FT_RESET_REBOOT);
		return FT_EXIT_STOPPED;
	case SCRIPT_TRIPLE:
		return FT_EXIT_SHUTDOWN;
	case SCRIPT_HANG:
		for (;;)
			__asm__ volatile("pause");
	case SCRIPT_CRASH:
		__builtin_trap();
	case SCRIPT_SOCKET:
		syscall(SYS_socket, AF_INET, SOCK_STREAM, 0);
		return FT_EXIT_HALT;
	case SCRIPT_FLOOD:
		return flood(m, limit);
	case SCRIPT_FAIL:
		ft_error_set(&m->error, -EIO, "the script says so");
		return FT_EXIT_ERROR;
	}
	return FT_EXIT_ERROR;
}

static void stop(struct ft_engine *engine)
{
}

static void get(struct ft_engine *engine, struct ft_cpu_state *state)
{
	memset(state, 0, sizeof(*state));
	state->icount = engine->m->icount;
}

static size_t peek_in(struct ft_engine *engine, uint64_t cr3, uint64_t va, void *to, size_t length)
{
	return 0;
}

static void nothing(struct ft_engine *engine)
{
}

const struct ft_engine_ops scripted_engine = {
    .name = "scripted",
    .create = create,
    .destroy = destroy,
    .run = run,
    .stop = stop,
    .get = get,
    .peek_in = peek_in,
    .observe = nothing,
    .part = nothing,
    .before_fork = nothing,
    .rest = nothing,
    .share = nothing,
    .flush = nothing,
};
