#include "vmm/machine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "vmm/dev/devices.h"

/* A live machine that fell behind (the host was busy, the process was stopped) catches up in steps of this size, each
 * with a run in between, so that the guest sees no hole its watchdogs would complain about. */
#define STEP_MAX_NS 100000000u

/* How far translated code that runs faster than ns_per_1024insn says may come ahead of wall time before it has to wait. */
#define LEAD_MAX_NS 2000000u

static int create_clock(struct ft_machine *m, const struct ft_machine_config *config, struct ft_error *err)
{
	m->clock.mode = config->clock;
	m->clock.ns_per_1024insn =
	    config->ns_per_1024insn ? config->ns_per_1024insn : FT_DEFAULT_NS_PER_1024INSN;
	m->clock.tsc_khz = config->tsc_khz ? config->tsc_khz : FT_DEFAULT_TSC_KHZ;
	m->clock.epoch_ns = config->epoch_ns;
	m->clock.wall_base_ns = config->epoch_monotonic_ns;
	m->limit_ns = m->clock.lead_end_ns = UINT64_MAX;
	if (!ft_clock_possible(m->clock.tsc_khz))
		return ft_error_set(err, -EINVAL,
				    "a TSC of %llu kHz: it must be one of at most %u kHz",
				    (unsigned long long)m->clock.tsc_khz, FT_TSC_KHZ_MAX);
	if (m->clock.ns_per_1024insn > 1024 * 1024)
		return ft_error_set(err, -EINVAL,
				    "%u ns per 1024 instructions are more than 1 us an instruction",
				    m->clock.ns_per_1024insn);
	ft_timer_refresh(m);
	return 0;
}

static bool possible(const struct ft_model *model)
{
	struct ft_model known = *model;
	return ft_model_known(&known) && ft_model_same(&known, model);
}

struct ft_machine *ft_machine_create(const struct ft_machine_config *config, struct ft_error *err)
{
	struct ft_machine *m = calloc(1, sizeof(*m));
	if (!m) {
		ft_error_set(err, -ENOMEM, "no memory for a machine");
		return NULL;
	}
	m->hash = XXH3_createState();
	if (!m->hash) {
		ft_error_set(err, -ENOMEM, "no memory for a machine");
		ft_machine_destroy(m);
		return NULL;
	}
	m->vcpus = config->vcpus ? config->vcpus : 1;
	if (m->vcpus > FT_VCPUS_MOST) {
		ft_error_set(err, -EINVAL, "%u processors: a machine has at most %u", m->vcpus, FT_VCPUS_MOST);
		ft_machine_destroy(m);
		return NULL;
	}
	if (create_clock(m, config, err) || ft_memory_create(&m->ram, config->memory, err) ||
	    ft_devices_create(m, config, err)) {
		ft_machine_destroy(m);
		return NULL;
	}
	m->engine_ops = config->engine;
	m->native = config->engine_options.native;
	if (config->model && !possible(config->model)) {
		ft_error_set(err, -EINVAL, "no such CPU model");
		ft_machine_destroy(m);
		return NULL;
	}
	if (config->model)
		m->model = *config->model;
	else if (!m->engine_ops || !m->engine_ops->hosted) /* a host's engine finds out what its own is */
		m->model = FT_MODEL_SOFTWARE;
	if (m->native && (!m->engine_ops || !m->engine_ops->inherit)) {
		ft_error_set(err, -EINVAL, "only engine kvm has the host's own processor");
		ft_machine_destroy(m);
		return NULL;
	}
	/* Device tests build machines without an engine. */
	if (m->engine_ops && !(m->engine = m->engine_ops->create(m, &config->engine_options, err))) {
		ft_machine_destroy(m);
		return NULL;
	}
	return m;
}

void ft_machine_destroy(struct ft_machine *m)
{
	if (!m)
		return;
	if (m->engine)
		m->engine_ops->destroy(m->engine);
	if (m->standby)
		m->standby_ops->destroy(m->standby);
	ft_devices_destroy(m);
	ft_memory_destroy(&m->ram);
	XXH3_freeState(m->hash);
	free(m);
}

void ft_machine_request_reset(struct ft_machine *m, enum ft_reset reset)
{
	if (!m->reset)
		m->reset = (uint8_t)reset;
	m->leave = true;
}

void ft_machine_kick(struct ft_machine *m)
{
	__atomic_store_n(&m->kicked, 1, __ATOMIC_SEQ_CST);
	if (m->engine)
		m->engine_ops->stop(m->engine);
}

int ft_machine_stand_by(struct ft_machine *m, const struct ft_engine_ops *ops, const struct ft_engine_options *options,
			struct ft_error *err)
{
	if (m->native && (ops != m->engine_ops || !options->native))
		return ft_error_set(err, -EINVAL, "a guest that has the host's own processor goes on on the same alone");
	m->standby_ops = ops;
	m->standby_options = *options;
	if (ops->hosted)
		return 0;
	m->standby = ops->create(m, options, err);
	return m->standby ? 0 : err->code;
}

int ft_machine_take_over(struct ft_machine *m, struct ft_error *err)
{
	struct ft_cpu_state cpu;
	if (!m->standby_ops)
		return 0;
	const struct ft_engine *before = m->engine;
	bool alike = m->engine_ops == m->standby_ops;
	m->engine_ops->get(m->engine, &cpu);
	if (!m->standby)
		m->standby = m->standby_ops->create(m, &m->standby_options, err);
	if (!m->standby)
		return err->code;
	m->engine = m->standby;
	m->engine_ops = m->standby_ops;
	m->standby = NULL;
	m->standby_ops = NULL;
	int error = alike && m->engine_ops->inherit ? m->engine_ops->inherit(m->engine, before, err) : 0;
	if (!error)
		error = m->engine_ops->set(m->engine, &cpu, err);
	return error ? error : ft_machine_get_ready(m, err);
}

int ft_machine_get_ready(struct ft_machine *m, struct ft_error *err)
{
	return m->engine_ops->get_ready ? m->engine_ops->get_ready(m->engine, err) : 0;
}

void ft_machine_forget(struct ft_machine *m)
{
	if (m->engine)
		m->engine_ops->flush(m->engine);
}

/* The CPU is halted. Returns true when there is more to run. */
static bool pass_idle_time(struct ft_machine *m, const struct ft_run_limits *limits)
{
	uint64_t next = ft_timer_next(m);
	if (next <= ft_machine_vtime(m))
		return true;
	if (m->clock.mode == FT_CLOCK_LIVE || limits->stop_when_idle || next == UINT64_MAX)
		return false;
	ft_clock_jump(m, next < limits->vtime_ns ? next : limits->vtime_ns);
	return true;
}

enum ft_stop ft_machine_run(struct ft_machine *m, const struct ft_run_limits *limits, uint64_t *wake_ns)
{
	uint64_t lead_end = m->clock.mode == FT_CLOCK_LIVE ? m->clock.lead_end_ns : UINT64_MAX;
	m->limit_ns = limits->vtime_ns < lead_end ? limits->vtime_ns : lead_end;
	ft_timer_refresh(m);
	for (;;) {
		ft_timer_fire_due(m);
		if (m->error.code) /* RAM that cannot be fetched */
			return FT_STOP_ERROR;
		if (m->reset)
			return FT_STOP_RESET;
		if (__atomic_exchange_n(&m->kicked, 0, __ATOMIC_SEQ_CST))
			return FT_STOP_KICKED;
		if (m->icount >= limits->icount)
			return FT_STOP_COUNT;
		if (ft_machine_vtime(m) >= limits->vtime_ns)
			return FT_STOP_VTIME;
		if (ft_machine_vtime(m) >= lead_end) {
			if (wake_ns)
				*wake_ns = ft_machine_vtime(m);
			return FT_STOP_IDLE;
		}
		switch (m->engine_ops->run(m->engine, limits->icount)) {
		case FT_EXIT_COUNT:
			break;
		case FT_EXIT_STOPPED:
			m->leave = false;
			break;
		case FT_EXIT_SHUTDOWN:
			m->reset = FT_RESET_TRIPLE_FAULT;
			return FT_STOP_RESET;
		case FT_EXIT_ERROR:
			return FT_STOP_ERROR;
		case FT_EXIT_HALT:
			if (pass_idle_time(m, limits))
				break;
			if (wake_ns)
				*wake_ns = ft_timer_next(m);
			return FT_STOP_IDLE;
		}
	}
}

/* The engine's clock is the host's TSC, which is not corrected as CLOCK_MONOTONIC is, and has stood still before the first run: the
 * guest is not told, but when it asks its clock chip. */
static void follow_host(struct ft_machine *m, uint64_t wall_monotonic_ns)
{
	m->engine_ops->advance(m->engine);
	uint64_t base = wall_monotonic_ns - ft_machine_vtime(m);
	if (m->clock.wall_base_ns)
		m->clock.epoch_ns += base - m->clock.wall_base_ns;
	m->clock.wall_base_ns = base;
}

void ft_machine_sync(struct ft_machine *m, uint64_t wall_monotonic_ns)
{
	if (m->clock.mode != FT_CLOCK_LIVE)
		return;
	if (m->engine_ops && m->engine_ops->advance) {
		follow_host(m, wall_monotonic_ns);
		return;
	}
	if (!m->clock.wall_base_ns) /* the first call says when the machine's time began */
		m->clock.wall_base_ns = wall_monotonic_ns - ft_machine_vtime(m);
	if (wall_monotonic_ns < m->clock.wall_base_ns)
		return;
	uint64_t now = ft_machine_vtime(m), wall = wall_monotonic_ns - m->clock.wall_base_ns;
	m->clock.lead_end_ns = wall + LEAD_MAX_NS;
	if (wall <= now)
		return;
	uint64_t step = wall - now;
	if (step > STEP_MAX_NS)
		step = STEP_MAX_NS;
	ft_machine_input(m, FT_INPUT_CLOCK, now + step, NULL, 0);
}

uint64_t ft_machine_wall(const struct ft_machine *m, uint64_t vtime_ns)
{
	return vtime_ns > UINT64_MAX - m->clock.wall_base_ns ? UINT64_MAX : m->clock.wall_base_ns + vtime_ns;
}

size_t ft_machine_frames_waiting(const struct ft_machine *m)
{
	return m->devices->net.s.count;
}

bool ft_machine_quiet(const struct ft_machine *m)
{
	const struct ft_devices *d = m->devices;
	return !m->interrupt && !d->net.s.count && !d->rng.s.count && !d->blk.s.count;
}

static void hash_cpu(struct ft_machine *m)
{
	struct ft_cpu_state cpu;
	if (!m->engine)
		return;
	memset(&cpu, 0, sizeof(cpu));
	m->engine_ops->get(m->engine, &cpu);
	bool software = ft_model_same(&m->model, &FT_MODEL_SOFTWARE);
	size_t length = software ? offsetof(struct ft_cpu_state, spec_ctrl) : sizeof(cpu);
	if (!software)
		XXH3_128bits_update(m->hash, &m->model, sizeof(m->model));
	XXH3_128bits_update(m->hash, &cpu, length);
	for (unsigned i = 0; i + 1 < m->vcpus; i++) {
		const struct ft_processor *p = &m->devices->others[i];
		XXH3_128bits_update(m->hash, &p->cpu, length);
		XXH3_128bits_update(m->hash, &p->tsc_adjust, sizeof(p->tsc_adjust));
		XXH3_128bits_update(m->hash, &p->waits, sizeof(p->waits));
	}
}

/* The time, to its fraction of a nanosecond, and how it goes on; not how it is represented. And what waits for the CPU. */
static void hash_clock(struct ft_machine *m)
{
	uint64_t fraction = (m->icount - m->clock.base_icount) * m->clock.ns_per_1024insn & 1023;
	uint64_t clock[7] = {
	    m->icount,        ft_machine_vtime(m), fraction,         m->clock.ns_per_1024insn,
	    m->clock.tsc_khz, m->clock.tsc_adjust, m->clock.epoch_ns};
	XXH3_128bits_update(m->hash, clock, sizeof(clock));
	uint8_t pending[3] = {m->interrupt, m->nmi, m->reset};
	XXH3_128bits_update(m->hash, pending, sizeof(pending));
}

/* Everything but RAM; of the disk all, or what was written since the mark. */
static uint64_t finish_hash(struct ft_machine *m, bool written)
{
	hash_cpu(m);
	hash_clock(m);
	ft_devices_hash(m, written, m->hash);
	return XXH3_128bits_digest(m->hash).low64;
}

uint64_t ft_machine_hash(struct ft_machine *m)
{
	ft_memory_fetch_all(&m->ram);
	XXH3_128bits_reset(m->hash);
	for (uint64_t at = 0, n; at < m->ram.size; at += n) {
		n = m->ram.size - at;
		const void *bytes = ft_memory_span(&m->ram, ft_gpa_make(at), &n);
		XXH3_128bits_update(m->hash, bytes, n);
	}
	return finish_hash(m, false);
}

static void hash_ram_written(struct ft_machine *m)
{
	for (uint64_t page = 0; page < m->ram.size / FT_PAGE_SIZE; page++)
		if (m->ram.page_flags[page] & FT_PAGE_WRITTEN) {
			XXH3_128bits_update(m->hash, &page, sizeof(page));
			XXH3_128bits_update(m->hash, ft_memory_host(&m->ram, page * FT_PAGE_SIZE), FT_PAGE_SIZE);
		}
}

uint64_t ft_machine_hash_written(struct ft_machine *m)
{
	XXH3_128bits_reset(m->hash);
	hash_ram_written(m);
	return finish_hash(m, true);
}

void ft_machine_components(struct ft_machine *m, bool written, uint64_t hash[FT_COMPONENT_COUNT])
{
	for (unsigned i = 0; i < (written ? FT_COMPONENT_COUNT : FT_COMPONENT_LIGHT); i++) {
		XXH3_128bits_reset(m->hash);
		if (i == FT_COMPONENT_CPU)
			hash_cpu(m);
		else if (i == FT_COMPONENT_CLOCK)
			hash_clock(m);
		else if (i == FT_COMPONENT_RAM)
			hash_ram_written(m);
		else if (i == FT_COMPONENT_DISK && m->devices->has_disk)
			ft_disk_hash_written(&m->devices->blk.disk, &m->ram, m->hash);
		else
			ft_devices_hash_one(m, i, m->hash);
		hash[i] = XXH3_128bits_digest(m->hash).low64;
	}
}

const char *ft_component_name(unsigned component)
{
	static const char *const names[] = {
#define X(name, text) text,
	    FT_COMPONENTS(X)
#undef X
	};
	return component < FT_COMPONENT_COUNT ? names[component] : "unknown";
}

uint64_t ft_machine_disk_written(const struct ft_machine *m)
{
	const struct ft_devices *d = m->devices;
	return d->has_disk ? d->blk.disk.memory_blocks * FT_DISK_BLOCK : 0;
}
