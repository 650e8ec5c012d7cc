/* A guest whose kernel isolates its page tables from user code (the CPU model admits to Meltdown): observers tell of the same processes and
 * programs as of one whose kernel does not. Skips when the image has not been built. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <fcntl.h>
#include <unistd.h>
#include <cmocka.h>

#include "clone/witness.h"
#include "guest_run.h"
#include "vmm/engine/walk.h"

#define BEGIN_NS  150000000u  /* virtual: the kernel starts its first programs about then */
#define BOOTED_NS 2500000000u /* and all of them run */
#define STEP      100003u
#define LINES     512u
#define ENTRIES   (FT_PROCESS_BUCKETS * FT_PROCESS_WAYS)

static const struct ft_model haswell = {.vendor = FT_MODEL_INTEL, .signature = 0x000306c3, .leaf7_edx = 1u << 10 | 1u << 26 | 1u << 27 | 1u << 31},
			     software = FT_MODEL_SOFTWARE_IS;

struct told {
	char line[LINES][160];
	unsigned lines;
	unsigned files, unknown; /* unknown: by a process that nobody knows */
};

static bool has(const struct told *told, const char *line)
{
	for (unsigned i = 0; i < told->lines; i++)
		if (!strcmp(told->line[i], line))
			return true;
	return false;
}

/* "name: program arguments", each once. */
static void add(struct told *told, const char *name, const char *path, const char *arguments)
{
	char line[160];
	snprintf(line, sizeof(line), "%.16s: %.60s %.60s", name, path, arguments);
	if (has(told, line))
		return;
	assert_true(told->lines < LINES);
	memcpy(told->line[told->lines++], line, sizeof(line));
}

static void take(void *context, const void *record, size_t length)
{
	struct told *told = context;
	struct ft_event event;
	const char *strings[FT_EVENT_STRINGS];
	assert_int_equal(ft_event_check(record, length, &event, strings), 0);
	if (event.type == FT_EVENT_EXEC && !event.a[0])
		add(told, event.process, strings[0], strings[1]);
	told->files += event.type == FT_EVENT_FILE_WRITE;
	told->unknown += event.type == FT_EVENT_FILE_WRITE && event.pid < 0;
}

static unsigned processes(const struct ft_processes *table, const char *name)
{
	unsigned n = 0;
	for (unsigned i = 0; i < ENTRIES; i++)
		n += table->entries[i].cr3 && table->entries[i].pid > 0 && (!name || !strcmp(table->entries[i].name, name));
	return n;
}

static struct ft_machine *boot(const struct ft_model *model)
{
	char image[512], path[600];
	struct ft_error err = {0};
	struct ft_machine_config config = {.memory = 256u << 20,
					   .clock = FT_CLOCK_FREE,
					   .epoch_ns = 1767225600ull * 1000000000u,
					   .mac = {0x52, 0x54, 0, 0, 2, 15},
					   .engine = &ft_engine_soft,
					   .model = model,
					   .cmdline = "console=ttyS0 root=/dev/vda rw"};
	assert_true(guest_image("web", image, sizeof(image)));
	snprintf(path, sizeof(path), "%s/vmlinuz", image);
	void *kernel = guest_file(path, &config.kernel_length, &err);
	snprintf(path, sizeof(path), "%s/initrd.img", image);
	void *initrd = guest_file(path, &config.initrd_length, &err);
	snprintf(path, sizeof(path), "%s/root.ext4", image);
	config.kernel = kernel;
	config.initrd = initrd;
	config.disk_fd = open(path, O_RDONLY | O_CLOEXEC);
	struct ft_machine *m = ft_machine_create(&config, &err);
	if (!m || ft_machine_boot(m, &config, &err))
		fail_msg("%s", err.text);
	free(kernel);
	free(initrd);
	close(config.disk_fd);
	return m;
}

static void run(struct ft_machine *m, uint64_t vtime_ns)
{
	struct ft_run_limits limits = {.icount = UINT64_MAX, .vtime_ns = vtime_ns};
	enum ft_stop stop = ft_machine_run(m, &limits, NULL);
	if (stop != FT_STOP_VTIME)
		fail_msg("the machine stopped (%d): %s", stop, m->error.text);
}

/* To a place in user code. */
static struct ft_cpu_state user(struct ft_machine *m)
{
	struct ft_cpu_state cpu;
	for (unsigned i = 0; i < 200000; i++) {
		struct ft_run_limits limits = {.icount = m->icount + STEP, .vtime_ns = UINT64_MAX};
		assert_int_equal(ft_machine_run(m, &limits, NULL), FT_STOP_COUNT);
		m->engine_ops->get(m->engine, &cpu);
		if ((cpu.segment[FT_CS].selector & 3) == 3)
			return cpu;
	}
	fail_msg("no user code runs");
	return cpu;
}

/* As a fork of a hosted engine's does, which has been told nothing: out of memory. All of them are those that were told of. */
static void meet(struct ft_machine *m, struct ft_witness *late, const struct ft_processes *table)
{
	static struct ft_report nobody = {.fd = -1};
	struct ft_engine_ops hosted = *m->engine_ops;
	const struct ft_hooks hooks = m->hooks;
	hosted.hosted = true;
	memset(late, 0, sizeof(*late));
	ft_witness_live(late, m, &nobody, 0);
	m->engine_ops = &hosted;
	ft_witness_learn(late);
	ft_witness_meet(late);
	m->engine_ops = &ft_engine_soft;
	m->hooks = hooks;
	m->engine_ops->observe(m->engine);
	assert_true(late->tasks.found);
	for (unsigned i = 0; i < ENTRIES; i++)
		if (late->observer.processes.entries[i].cr3)
			assert_non_null(ft_process_find((struct ft_processes *)table, late->observer.processes.entries[i].cr3));
}

static void observe(const struct ft_model *model, struct told *told)
{
	static struct ft_witness witness, late;
	static struct ft_report report, nobody = {.fd = -1};
	bool isolates = model == &haswell;
	struct ft_machine *m = boot(model);
	ft_report_begin(&report, 0, FT_ROLE_TRIAL, 1);
	report.take = take;
	report.context = told;
	memset(&witness, 0, sizeof(witness));
	ft_witness_live(&witness, m, &nobody, 0);
	run(m, BEGIN_NS);
	ft_witness_clone(&witness, &report);
	/* Stopped in user code, where a kernel that isolates its tables cannot be seen; then where it rests. */
	struct ft_cpu_state cpu = user(m);
	const struct ft_processes *table = &witness.observer.processes;
	assert_int_equal(witness.observer.isolation, isolates ? FT_OBSERVE_ISOLATED : FT_OBSERVE_SHARED);
	assert_int_equal(witness.observer.cr3, cpu.cr3 & ~(isolates ? 0x1fffull : 0xfffull));
	assert_int_equal(ft_walk_isolated(&m->ram, cpu.cr3), isolates);
	meet(m, &late, table);
	assert_non_null(ft_process_find(&late.observer.processes, witness.observer.cr3));
	run(m, BOOTED_NS);
	meet(m, &late, table);
	assert_int_equal(processes(&late.observer.processes, "nginx"), 2);
	assert_int_equal(processes(table, "nginx"), 2);
	ft_machine_destroy(m);
}

static void told_alike(void **state)
{
	static struct told one, other;
	observe(&software, &one);
	observe(&haswell, &other);
	printf("%u programs and %u writes to files\n", one.lines, one.files);
	assert_true(one.lines >= 40 && one.files >= 40);
	assert_int_equal(one.lines, other.lines);
	for (unsigned i = 0; i < one.lines; i++)
		if (!has(&other, one.line[i]))
			fail_msg("not told of the one that isolates its tables: %s", one.line[i]);
	assert_int_equal(one.files, other.files);
	assert_int_equal(one.unknown + other.unknown, 0);
}

int main(void)
{
	char image[512];
	if (!guest_image("web", image, sizeof(image)))
		return 77;
	const struct CMUnitTest tests[] = {cmocka_unit_test(told_alike)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
