/* Virtual time, timers, and how ft_machine_run goes on when the CPU halts, stops or shuts down. The engine here is a
 * script: it "executes" nothing but the passing of instructions. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "pc.h"

struct ft_engine {
	struct ft_machine *m;
	enum ft_exit at_once; /* what run returns when it does not count */
	bool counts;
	unsigned stops;
};

static struct ft_engine *script_create(struct ft_machine *m, const struct ft_engine_options *options,
				       struct ft_error *err)
{
	struct ft_engine *engine = calloc(1, sizeof(*engine));
	engine->m = m;
	return engine;
}

static void script_destroy(struct ft_engine *engine)
{
	free(engine);
}

static enum ft_exit script_run(struct ft_engine *engine, uint64_t until)
{
	struct ft_machine *m = engine->m;
	if (!engine->counts)
		return engine->at_once;
	uint64_t end = until < m->deadline ? until : m->deadline;
	if (end > m->icount)
		m->icount = end;
	return FT_EXIT_COUNT;
}

static void script_stop(struct ft_engine *engine)
{
	engine->stops++;
}

static const struct ft_engine_ops script = {.name = "script",
					    .create = script_create,
					    .destroy = script_destroy,
					    .run = script_run,
					    .stop = script_stop};

static struct ft_machine *open_machine(enum ft_clock_mode mode, uint32_t ns_per_1024insn)
{
	struct ft_machine_config config = {.memory = FT_RAM_MIN,
					   .clock = mode,
					   .ns_per_1024insn = ns_per_1024insn,
					   .disk_fd = -1,
					   .engine = &script};
	struct ft_error err = {0};
	struct ft_machine *m = ft_machine_create(&config, &err);
	assert_non_null(m);
	return m;
}

struct shot {
	struct ft_machine *m;
	struct ft_timer timer;
	uint64_t icount, vtime;
	unsigned count, order;
	unsigned *sequence;
};

static void hit(void *context)
{
	struct shot *shot = context;
	shot->icount = shot->m->icount;
	shot->vtime = ft_machine_vtime(shot->m);
	shot->count++;
	shot->order = ++*shot->sequence;
}

static void fires_at_the_first_boundary_not_before(void **state)
{
	/* 0.25, 1, 3.37 and 0.001 ns an instruction */
	static const uint32_t rates[] = {256, 1024, 3451, 1};
	for (unsigned i = 0; i < 4; i++) {
		struct ft_machine *m = open_machine(FT_CLOCK_FREE, rates[i]);
		unsigned sequence = 0;
		struct shot shot = {.m = m, .sequence = &sequence};
		ft_timer_register(m, &shot.timer, hit, &shot);
		for (uint64_t ns = 1; ns < 2000; ns += 97) {
			uint64_t deadline = ft_machine_vtime(m) + ns;
			ft_timer_arm(m, &shot.timer, deadline);
			uint64_t due = m->deadline;
			m->icount = due - 1;
			assert_true(ft_machine_vtime(m) < deadline);
			m->icount = due;
			assert_true(ft_machine_vtime(m) >= deadline);
			ft_timer_disarm(m, &shot.timer);
			assert_true(m->deadline > due);
		}
		m->engine->counts = true;
		uint64_t deadline = ft_machine_vtime(m) + 12345;
		ft_timer_arm(m, &shot.timer, deadline);
		uint64_t due = m->deadline;
		struct ft_run_limits limits = {.icount = due + 1000, .vtime_ns = UINT64_MAX};
		assert_int_equal(ft_machine_run(m, &limits, NULL), FT_STOP_COUNT);
		assert_int_equal(m->icount, due + 1000);
		assert_int_equal(shot.icount, due);
		assert_int_equal(shot.count, 1);
		ft_machine_destroy(m);
	}
}

static void ties_fire_in_order_of_registration(void **state)
{
	struct ft_machine *m = open_machine(FT_CLOCK_FREE, 1024);
	unsigned sequence = 0;
	struct shot shots[3];
	for (unsigned i = 0; i < 3; i++) {
		shots[i] = (struct shot){.m = m, .sequence = &sequence};
		ft_timer_register(m, &shots[i].timer, hit, &shots[i]);
	}
	ft_timer_arm(m, &shots[2].timer, 500);
	ft_timer_arm(m, &shots[0].timer, 500);
	ft_timer_arm(m, &shots[1].timer, 400);
	m->icount = 1000;
	ft_timer_fire_due(m);
	assert_int_equal(shots[1].order, 1);
	assert_int_equal(shots[0].order, 2);
	assert_int_equal(shots[2].order, 3);
	ft_machine_destroy(m);
}

static void free_clock_jumps_over_idle_time(void **state)
{
	struct ft_machine *m = open_machine(FT_CLOCK_FREE, 1024);
	unsigned sequence = 0;
	struct shot shot = {.m = m, .sequence = &sequence};
	ft_timer_register(m, &shot.timer, hit, &shot);
	m->engine->at_once = FT_EXIT_HALT;
	struct ft_run_limits limits = {.icount = UINT64_MAX, .vtime_ns = 40000000000ull};
	uint64_t wake = 0;

	/* Nothing armed: idle for good. */
	assert_int_equal(ft_machine_run(m, &limits, &wake), FT_STOP_IDLE);
	assert_true(wake == UINT64_MAX);

	ft_timer_arm(m, &shot.timer, 30000000000ull);
	limits.stop_when_idle = true;
	assert_int_equal(ft_machine_run(m, &limits, &wake), FT_STOP_IDLE);
	assert_true(wake == 30000000000ull);
	assert_int_equal(shot.count, 0);

	limits.stop_when_idle = false;
	assert_int_equal(ft_machine_run(m, &limits, &wake), FT_STOP_IDLE);
	assert_int_equal(shot.count, 1);
	assert_true(shot.vtime == 30000000000ull);
	assert_int_equal(m->icount, 0);

	/* A timer behind the limit does not fire; time stops at the limit. */
	ft_timer_arm(m, &shot.timer, 50000000000ull);
	assert_int_equal(ft_machine_run(m, &limits, &wake), FT_STOP_VTIME);
	assert_true(ft_machine_vtime(m) == 40000000000ull);
	assert_int_equal(shot.count, 1);
	ft_machine_destroy(m);
}

static void vtime_limit_does_not_disturb_what_the_guest_sees(void **state)
{
	struct ft_machine *m = open_machine(FT_CLOCK_FREE, 256);
	m->engine->counts = true;
	struct ft_run_limits limits = {.icount = UINT64_MAX, .vtime_ns = 1000};
	assert_int_equal(ft_machine_run(m, &limits, NULL), FT_STOP_VTIME);
	assert_int_equal(m->icount, 4000);
	limits.vtime_ns = 1001;
	assert_int_equal(ft_machine_run(m, &limits, NULL), FT_STOP_VTIME);
	assert_int_equal(m->icount, 4004);
	ft_machine_destroy(m);
}

struct steps {
	unsigned count;
	uint64_t last, largest;
};

static void note_step(void *context, uint64_t icount, enum ft_input_kind kind, uint64_t value,
		      const void *data, size_t length)
{
	struct steps *steps = context;
	assert_int_equal(kind, FT_INPUT_CLOCK);
	assert_true(value > steps->last);
	if (value - steps->last > steps->largest)
		steps->largest = value - steps->last;
	steps->last = value;
	steps->count++;
}

static void live_clock_follows_in_bounded_steps_and_never_goes_back(void **state)
{
	struct ft_machine *m = open_machine(FT_CLOCK_LIVE, 1024);
	struct steps steps = {0};
	m->journal = note_step;
	m->journal_context = &steps;
	m->engine->at_once = FT_EXIT_HALT;
	uint64_t wall = 5000000000ull;
	ft_machine_sync(m, wall); /* time begins here */
	assert_int_equal(ft_machine_vtime(m), 0);
	ft_machine_sync(m, wall + 3000000);
	assert_int_equal(ft_machine_vtime(m), 3000000);
	ft_machine_sync(m, wall + 2000000); /* an older reading */
	assert_int_equal(ft_machine_vtime(m), 3000000);
	ft_machine_sync(m, wall + 3000000000ull); /* stopped for three seconds */
	unsigned rounds = 1;
	while (ft_machine_vtime(m) < 3000000000ull && rounds < 1000) {
		ft_machine_sync(m, wall + 3000000000ull);
		rounds++;
	}
	assert_true(ft_machine_vtime(m) == 3000000000ull);
	assert_true(steps.largest <= 100000000u);
	assert_int_equal(steps.count, 1 + rounds);
	/* Ahead of wall time by running fast: no step until wall time has caught up. */
	m->icount += 50000000;
	ft_machine_sync(m, wall + 3010000000ull);
	assert_true(ft_machine_vtime(m) == 3050000000ull);
	/* At HLT the caller sleeps. */
	uint64_t wake = 0;
	struct ft_run_limits limits = {.icount = UINT64_MAX, .vtime_ns = UINT64_MAX};
	assert_int_equal(ft_machine_run(m, &limits, &wake), FT_STOP_IDLE);
	assert_true(ft_machine_vtime(m) == 3050000000ull);
	ft_machine_destroy(m);
}

static void fast_code_waits_for_wall_time(void **state)
{
	struct ft_machine *m = open_machine(FT_CLOCK_LIVE, 1024);
	m->engine->counts = true;
	uint64_t wall = 7000000000ull, wake = 0;
	ft_machine_sync(m, wall);
	struct ft_run_limits limits = {.icount = UINT64_MAX, .vtime_ns = UINT64_MAX};
	/* A second's worth of instructions in no time: it stops 2 ms ahead and says when to go on. */
	assert_int_equal(ft_machine_run(m, &limits, &wake), FT_STOP_IDLE);
	assert_int_equal(ft_machine_vtime(m), 2000000);
	assert_true(ft_machine_wall(m, wake) == wall + 2000000);
	assert_int_equal(ft_machine_run(m, &limits, &wake), FT_STOP_IDLE);
	assert_int_equal(m->icount, 2000000);
	ft_machine_sync(m, ft_machine_wall(m, wake));
	assert_int_equal(ft_machine_run(m, &limits, &wake), FT_STOP_IDLE);
	assert_int_equal(ft_machine_vtime(m), 4000000);
	/* A clone leaves this behind. */
	m->clock.mode = FT_CLOCK_FREE;
	limits.icount = 100000000;
	assert_int_equal(ft_machine_run(m, &limits, &wake), FT_STOP_COUNT);
	ft_machine_destroy(m);
}

static void kick_reset_and_shutdown_end_a_run(void **state)
{
	struct ft_machine *m = open_machine(FT_CLOCK_FREE, 1024);
	struct ft_run_limits limits = {.icount = UINT64_MAX, .vtime_ns = UINT64_MAX};
	m->engine->at_once = FT_EXIT_STOPPED;
	ft_machine_kick(m);
	assert_int_equal(m->engine->stops, 1);
	assert_int_equal(ft_machine_run(m, &limits, NULL), FT_STOP_KICKED);
	ft_bus_write(m, FT_SPACE_IO, 0x604, 2, 5 << 10 | 1 << 13);
	assert_true(m->leave);
	assert_int_equal(ft_machine_run(m, &limits, NULL), FT_STOP_RESET);
	assert_int_equal(m->reset, FT_RESET_POWEROFF);
	m->reset = FT_RESET_NONE;
	ft_bus_write(m, FT_SPACE_IO, 0xcf9, 1, 6);
	assert_int_equal(ft_machine_run(m, &limits, NULL), FT_STOP_RESET);
	assert_int_equal(m->reset, FT_RESET_REBOOT);
	m->reset = FT_RESET_NONE;
	ft_bus_write(m, FT_SPACE_IO, 0x64, 1, 0xfe);
	assert_int_equal(m->reset, FT_RESET_REBOOT);
	m->reset = FT_RESET_NONE;
	m->engine->at_once = FT_EXIT_SHUTDOWN;
	assert_int_equal(ft_machine_run(m, &limits, NULL), FT_STOP_RESET);
	assert_int_equal(m->reset, FT_RESET_TRIPLE_FAULT);
	ft_machine_destroy(m);
}

static void tsc_is_a_function_of_virtual_time(void **state)
{
	struct ft_machine *m = open_machine(FT_CLOCK_FREE, 1024);
	m->clock.tsc_khz = 2500000;
	m->icount = 1234567891;
	assert_true(ft_machine_tsc(m) == 1234567891ull * 5 / 2);
	/* The deadline that is computed for a TSC value is the first moment at which it is reached. */
	for (uint64_t tsc = 1; tsc < 1ull << 62; tsc = tsc * 3 + 1) {
		uint64_t ns = ft_clock_tsc_to_ns(m, tsc);
		m->clock.base_ns = ns;
		m->clock.base_icount = m->icount;
		assert_true(ft_machine_tsc(m) >= tsc);
		m->clock.base_ns = ns - 1;
		assert_true(ft_machine_tsc(m) < tsc);
	}
	m->clock.tsc_khz = 25000; /* such a TSC would be reached after the end of time */
	assert_true(ft_clock_tsc_to_ns(m, UINT64_MAX) == UINT64_MAX);
	ft_machine_destroy(m);
}

/* Two hashes that could not be made would be equal: with no memory left they are made all the same. */
static void a_hash_needs_no_memory(void **state)
{
	struct ft_machine *m = open_machine(FT_CLOCK_FREE, 1024), *other = open_machine(FT_CLOCK_FREE, 1024);
	m->engine_ops = other->engine_ops = NULL;
	struct ft_engine *engines[2] = {m->engine, other->engine};
	m->engine = other->engine = NULL; /* a script has no state */
	other->icount = 1;
	uint64_t hash = ft_machine_hash(m), second = ft_machine_hash(other);
	assert_true(hash != second);
	pid_t child = fork();
	if (child == 0) {
		struct rlimit none = {0, 0};
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) /* theirs do not fail */
		setrlimit(RLIMIT_AS, &none);
		for (size_t size = 1 << 20; size >= 16; size /= 2)
			while (malloc(size))
				;
		if (malloc(64))
			_exit(2);
#else
		(void)none;
#endif
		_exit(ft_machine_hash(m) != hash || ft_machine_hash(other) != second ||
		      ft_machine_hash_written(m) == ft_machine_hash_written(other));
	}
	int status = 0;
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
	m->engine_ops = other->engine_ops = &script;
	m->engine = engines[0];
	other->engine = engines[1];
	ft_machine_destroy(m);
	ft_machine_destroy(other);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(fires_at_the_first_boundary_not_before),
	    cmocka_unit_test(ties_fire_in_order_of_registration),
	    cmocka_unit_test(free_clock_jumps_over_idle_time),
	    cmocka_unit_test(vtime_limit_does_not_disturb_what_the_guest_sees),
	    cmocka_unit_test(live_clock_follows_in_bounded_steps_and_never_goes_back),
	    cmocka_unit_test(fast_code_waits_for_wall_time),
		cmocka_unit_test(kick_reset_and_shutdown_end_a_run),
	    cmocka_unit_test(tsc_is_a_function_of_virtual_time),
	    cmocka_unit_test(a_hash_needs_no_memory),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
