/* The `kvm` engine: a virtual machine of the kernel's, its run loop, and its place in the machine. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <x86intrin.h>

#include "vmm/engine/kvm/host.h"
#include "vmm/engine/kvm/kvm.h"
#include "vmm/engine/model.h"
#include "vmm/engine/walk.h"

#define TSS_ADDRESS  0xfffbd000u /* three pages that Intel's processors may need, below the firmware that there is not */
#define LATEST_NS    1000000000u /* a run looks around at least this often */
#define HALTED_NS    100000u     /* whether the CPU has halted is looked at so long after it was last known to run ... */
#define HALTED_MOST  4000000u    /* ... then after twice that and so on, up to this */
#define SETTLE_TRIES 64u
#define SETTLE_NS    20000u /* and longer each time: an entry may take more than that where it is emulated */

int ft_kvm_signal(void)
{
	return SIGRTMIN;
}

/* ---- Time ------------------------------------------------------------------------------------------------------- */

uint64_t ft_kvm_host_tsc(void)
{
	return __rdtsc();
}

uint64_t ft_kvm_now(const struct ft_engine *engine)
{
	uint64_t ticks = ft_kvm_host_tsc() - engine->host_tsc, khz = engine->host_khz;
	return engine->vtime_ns + ticks / khz * 1000000u + ticks % khz * 1000000u / khz;
}

void ft_kvm_advance(struct ft_engine *engine)
{
	uint64_t count = ft_clock_icount_at(engine->m, ft_kvm_now(engine));
	if (count > engine->m->icount)
		engine->m->icount = count;
}

static void woken(void *context)
{
}

/* A signal at the virtual time; at once if that has passed. */
static int arm(struct ft_engine *engine, uint64_t vtime_ns, struct ft_error *err)
{
	uint64_t now = ft_kvm_now(engine), ns = vtime_ns > now ? vtime_ns - now : 1;
	if (ns > LATEST_NS)
		ns = LATEST_NS;
	struct itimerspec when = {.it_value = {.tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u)}};
	if (timer_settime(engine->timer, 0, &when, NULL))
		return ft_kvm_failed(err, "timer_settime");
	return 0;
}

static void ignore(int number)
{
}

/* The timer and stop() reach the thread that runs now. The signal has a handler all the same: whoever unblocks it must not die of it. */
static int take_thread(struct ft_engine *engine, struct ft_error *err)
{
	pid_t self = (pid_t)syscall(SYS_gettid);
	if (engine->thread == self)
		return 0;
	struct sigaction action = {.sa_handler = ignore};
	if (sigaction(ft_kvm_signal(), &action, NULL))
		return ft_kvm_failed(err, "sigaction");
	sigset_t own;
	sigemptyset(&own);
	sigaddset(&own, ft_kvm_signal());
	int error = pthread_sigmask(SIG_BLOCK, &own, NULL);
	if (error)
		return ft_error_set(err, -error, "kvm: pthread_sigmask: %s", strerror(error));
	if (engine->has_timer)
		timer_delete(engine->timer);
	engine->has_timer = false;
	struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = ft_kvm_signal()};
	event._sigev_un._tid = self;
	if (timer_create(CLOCK_MONOTONIC, &event, &engine->timer))
		return ft_kvm_failed(err, "timer_create");
	engine->has_timer = true;
	__atomic_store_n(&engine->thread, self, __ATOMIC_SEQ_CST);
	return 0;
}

static void swallow_signals(void)
{
	static const struct timespec none;
	sigset_t own;
	sigemptyset(&own);
	sigaddset(&own, ft_kvm_signal());
	while (sigtimedwait(&own, NULL, &none) > 0)
		;
}

/* ---- Interrupts -------------------------------------------------------------------------------------------------- */

static bool message(struct ft_engine *engine, uint64_t address, uint32_t data, bool *accepted)
{
	if (engine->ours || engine->vm < 0)
		return false;
	engine->fresh = false;
	struct kvm_msi msi = {.address_lo = (uint32_t)address, .address_hi = (uint32_t)(address >> 32), .data = data};
	*accepted = ioctl(engine->vm, KVM_SIGNAL_MSI, &msi) > 0;
	return true;
}

/* The kernel has to know which vectors come from level-triggered pins of the I/O APIC, to tell us of their end. */
static int route(struct ft_engine *engine, struct ft_error *err)
{
	const uint64_t *entries = engine->m->devices->ioapic.s.entry;
	struct kvm_irq_routing *r = engine->routing;
	if (r->nr && !memcmp(entries, engine->routes, sizeof(engine->routes)))
		return 0;
	for (uint32_t pin = 0; pin < FT_IOAPIC_PINS; pin++) {
		uint64_t e = entries[pin];
		/* Vector, delivery mode, trigger mode lie alike in an entry and in a message's data: 82093AA 3.2.4, SDM 11.11.2. */
		r->entries[pin] = (struct kvm_irq_routing_entry){
		    .gsi = pin,
		    .type = KVM_IRQ_ROUTING_MSI,
		    .u.msi = {.address_lo = FT_LAPIC_BASE | (uint32_t)(e >> 56) << 12 | (uint32_t)(e >> 11 & 1) << 2,
			      .data = (uint32_t)(e & 0x87ff) | 1u << 14}};
	}
	r->nr = FT_IOAPIC_PINS;
	if (ioctl(engine->vm, KVM_SET_GSI_ROUTING, r))
		return ft_kvm_failed(err, "KVM_SET_GSI_ROUTING");
	memcpy(engine->routes, entries, sizeof(engine->routes));
	return 0;
}

/* The PIC's interrupt, when the CPU can take one; else we are told when. */
static int offer_pic(struct ft_engine *engine, struct ft_error *err)
{
	struct ft_pic *pic = &engine->m->devices->pic;
	bool wants = ft_pic_asserted(pic);
	if (wants && engine->run->ready_for_interrupt_injection) {
		struct kvm_interrupt interrupt = {.irq = (uint32_t)ft_pic_acknowledge(pic)};
		if (ioctl(engine->vcpu, KVM_INTERRUPT, &interrupt))
			return ft_kvm_failed(err, "KVM_INTERRUPT");
		engine->run->ready_for_interrupt_injection = 0;
		wants = ft_pic_asserted(pic);
	}
	engine->run->request_interrupt_window = wants;
	return 0;
}

/* ---- Exits ------------------------------------------------------------------------------------------------------- */

static void access_io(struct ft_engine *engine)
{
	struct kvm_run *run = engine->run;
	uint8_t *at = (uint8_t *)run + run->io.data_offset;
	for (uint32_t i = 0; i < run->io.count; i++, at += run->io.size) {
		uint64_t value = 0;
		if (run->io.direction == KVM_EXIT_IO_OUT) {
			memcpy(&value, at, run->io.size);
			ft_bus_write(engine->m, FT_SPACE_IO, run->io.port, run->io.size, value);
		} else {
			value = ft_bus_read(engine->m, FT_SPACE_IO, run->io.port, run->io.size);
			memcpy(at, &value, run->io.size);
		}
	}
}

/* What is no 1, 2, 4 or 8 bytes long (an access that was cut at a page's end) goes byte by byte. */
static void access_memory(struct ft_engine *engine)
{
	struct kvm_run *run = engine->run;
	uint32_t length = run->mmio.len <= 8 ? run->mmio.len : 8, step = length & (length - 1) ? 1 : length;
	for (uint32_t done = 0; done < length; done += step) {
		uint64_t value = 0;
		if (run->mmio.is_write) {
			memcpy(&value, run->mmio.data + done, step);
			ft_bus_write(engine->m, FT_SPACE_MEMORY, run->mmio.phys_addr + done, step, value);
		} else {
			value = ft_bus_read(engine->m, FT_SPACE_MEMORY, run->mmio.phys_addr + done, step);
			memcpy(run->mmio.data + done, &value, step);
		}
	}
}

enum outcome { GO_ON, INTERRUPTED, SHUT_DOWN, BROKEN };

static enum outcome broken(struct ft_engine *engine, const char *what, uint64_t detail)
{
	ft_error_set(&engine->m->error, -EIO, "kvm: %s (%llu)", what, (unsigned long long)detail);
	return BROKEN;
}

static enum outcome enter(struct ft_engine *engine)
{
	struct kvm_run *run = engine->run;
	int result = ioctl(engine->vcpu, KVM_RUN, 0);
	int error = errno;
	engine->unfinished = false;
	ft_kvm_advance(engine);
	if (result && error != EINTR && error != EAGAIN) {
		errno = error;
		ft_kvm_failed(&engine->m->error, "KVM_RUN");
		return BROKEN;
	}
	if (result)
		return INTERRUPTED;
	switch (run->exit_reason) {
	case KVM_EXIT_IO:
		access_io(engine);
		engine->unfinished = true;
		return GO_ON;
	case KVM_EXIT_MMIO:
		access_memory(engine);
		engine->unfinished = true;
		return GO_ON;
	case KVM_EXIT_X86_RDMSR:
		run->msr.error = !ft_model_msr(run->msr.index, (uint64_t *)&run->msr.data);
		engine->unfinished = true;
		return GO_ON;
	case KVM_EXIT_X86_WRMSR:
		run->msr.error = !ft_model_set_msr(run->msr.index, run->msr.data);
		engine->unfinished = true;
		return GO_ON;
	case KVM_EXIT_IOAPIC_EOI:
		ft_ioapic_end(&engine->m->devices->ioapic, run->eoi.vector);
		return GO_ON;
	case KVM_EXIT_INTR:
		return INTERRUPTED;
	case KVM_EXIT_IRQ_WINDOW_OPEN:
	case KVM_EXIT_HLT:
		return GO_ON;
	case KVM_EXIT_SHUTDOWN:
		return SHUT_DOWN;
	case KVM_EXIT_FAIL_ENTRY:
		return broken(engine, "the processor refuses the guest's state", run->fail_entry.hardware_entry_failure_reason);
	case KVM_EXIT_INTERNAL_ERROR:
		return broken(engine, "the kernel cannot go on with the guest", run->internal.suberror);
	}
	return broken(engine, "an exit that nobody asked for", run->exit_reason);
}

/* Ends the instruction whose access the last exit was: the vCPU's state is one between two instructions again. */
static enum outcome finish(struct ft_engine *engine)
{
	enum outcome outcome = GO_ON;
	while (engine->unfinished && outcome == GO_ON) {
		engine->run->immediate_exit = 1;
		outcome = enter(engine);
		engine->run->immediate_exit = 0;
	}
	return outcome == INTERRUPTED ? GO_ON : outcome;
}

/* An idle CPU: the machine's timers learn when the kernel's will end that. A CPU that is still halted may have an interrupt that
 * came together with our signal: it wakes as soon as it is entered again. */
static int look_whether_halted(struct ft_engine *engine, bool *halted, struct ft_error *err)
{
	struct kvm_mp_state mp;
	uint64_t due;
	bool requested;
	*halted = false;
	if (ioctl(engine->vcpu, KVM_GET_MP_STATE, &mp))
		return ft_kvm_failed(err, "KVM_GET_MP_STATE");
	if (mp.mp_state != KVM_MP_STATE_HALTED || ft_pic_asserted(&engine->m->devices->pic))
		return 0;
	int error = ft_kvm_apic(engine, &due, &requested, err);
	if (error || requested)
		return error;
	ft_timer_arm(engine->m, &engine->wake, due);
	*halted = true;
	return 0;
}

/* At a place where the vCPU's state is a machine's: behind the access that was the last exit, and with no interrupt or exception half
 * delivered (its stack was not mapped in the host, say), which takes another moment in the guest. */
static enum ft_exit leave(struct ft_engine *engine, enum ft_exit exit)
{
	for (unsigned tries = 0; tries < SETTLE_TRIES; tries++) {
		bool between = false;
		enum outcome outcome = finish(engine);
		if (outcome == GO_ON && ft_kvm_between(engine, &between, &engine->m->error))
			return FT_EXIT_ERROR;
		if (between)
			return exit;
		if (outcome == GO_ON && arm(engine, ft_kvm_now(engine) + SETTLE_NS * (1u + tries * tries), &engine->m->error))
			return FT_EXIT_ERROR;
		if (outcome == GO_ON)
			outcome = enter(engine);
		if (outcome == INTERRUPTED)
			swallow_signals();
		if (outcome == SHUT_DOWN)
			return FT_EXIT_SHUTDOWN;
		if (outcome == BROKEN)
			return FT_EXIT_ERROR;
	}
	ft_error_set(&engine->m->error, -EIO, "kvm: an event does not reach the guest");
	return FT_EXIT_ERROR;
}

static enum ft_exit run_until(struct ft_engine *engine, uint64_t until)
{
	struct ft_machine *m = engine->m;
	/* A halted CPU waits in the kernel. Idle time that is skipped should not be waited for: at most as long as the guest was busy before. */
	uint64_t look_ns = m->clock.mode == FT_CLOCK_FREE ? HALTED_NS : UINT64_MAX;
	for (;;) {
		uint64_t next = until < m->deadline ? until : m->deadline;
		if (m->leave)
			return leave(engine, FT_EXIT_STOPPED);
		if (__atomic_exchange_n(&engine->stop, 0, __ATOMIC_SEQ_CST))
			return leave(engine, FT_EXIT_STOPPED);
		if (m->icount >= next)
			return leave(engine, FT_EXIT_COUNT);
		uint64_t ahead = (uint64_t)((next - m->icount) * (__uint128_t)m->clock.ns_per_1024insn >> 10) + 1;
		if (ahead > look_ns)
			ahead = look_ns;
		if (route(engine, &m->error) || offer_pic(engine, &m->error) ||
		    arm(engine, ft_machine_vtime(m) + ahead, &m->error))
			return FT_EXIT_ERROR;
		bool halted;
		switch (enter(engine)) {
		case GO_ON:
			break;
		case INTERRUPTED:
			swallow_signals();
			if (look_whether_halted(engine, &halted, &m->error))
				return FT_EXIT_ERROR;
			if (halted && !__atomic_load_n(&engine->stop, __ATOMIC_SEQ_CST))
				return leave(engine, FT_EXIT_HALT);
			if (look_ns <= HALTED_MOST / 2)
				look_ns *= 2;
			break;
		case SHUT_DOWN:
			return FT_EXIT_SHUTDOWN;
		case BROKEN:
			return FT_EXIT_ERROR;
		}
	}
}

static enum ft_exit run(struct ft_engine *engine, uint64_t until)
{
	struct ft_machine *m = engine->m;
	if (take_thread(engine, &m->error))
		return FT_EXIT_ERROR;
	if (engine->ours && ft_kvm_push(engine, &m->error))
		return FT_EXIT_ERROR;
	if (ft_kvm_follow(engine, &m->error))
		return FT_EXIT_ERROR;
	engine->fresh = false;
	/* Interrupts and the APIC's timer are the kernel's while it runs. */
	ft_timer_disarm(m, &m->devices->lapic.timer);
	ft_timer_disarm(m, &engine->wake);
	m->devices->lapic.region.enabled = false;
	memset(m->devices->lapic.s.requests, 0, sizeof(m->devices->lapic.s.requests));
	ft_irq_refresh(m);
	return run_until(engine, until);
}

static void stop(struct ft_engine *engine)
{
	__atomic_store_n(&engine->stop, 1, __ATOMIC_SEQ_CST);
	pid_t thread = __atomic_load_n(&engine->thread, __ATOMIC_SEQ_CST);
	if (thread)
		syscall(SYS_tgkill, getpid(), thread, ft_kvm_signal());
}

/* ---- State ------------------------------------------------------------------------------------------------------- */

static void get(struct ft_engine *engine, struct ft_cpu_state *state)
{
	if (!engine->ours && !engine->fresh) {
		engine->fresh = !ft_kvm_pull(engine, &engine->m->error);
		engine->m->leave |= !engine->fresh;
	}
	*state = engine->cpu;
	state->icount = engine->m->icount;
}

static int set(struct ft_engine *engine, const struct ft_cpu_state *state, struct ft_error *err)
{
	engine->cpu = *state;
	engine->m->icount = state->icount;
	engine->m->nmi = state->nmi_pending;
	engine->ours = true;
	return 0;
}

static void cpuid(struct ft_engine *engine, uint64_t tsc_khz, uint32_t leaf, uint32_t subleaf, uint32_t registers[4])
{
	(void)engine;
	ft_model_cpuid((uint32_t)tsc_khz, leaf, subleaf, registers);
}

static int model_msr(struct ft_engine *engine, uint32_t index, uint64_t *value)
{
	return ft_model_msr(index, value) ? 0 : -1;
}

static size_t peek_in(struct ft_engine *engine, uint64_t cr3, uint64_t va, void *to, size_t length)
{
	return ft_walk_read(&engine->m->ram, cr3, va, true, to, length);
}

static void advance(struct ft_engine *engine)
{
	/* Before its first instruction its time stands still. */
	if (!engine->ours)
		ft_kvm_advance(engine);
}

static void before_fork(struct ft_engine *engine)
{
	struct ft_cpu_state cpu;
	get(engine, &cpu);
}

static void nothing(struct ft_engine *engine)
{
}

/* ---- Making ------------------------------------------------------------------------------------------------------ */

static void destroy(struct ft_engine *engine)
{
	if (!engine)
		return;
	if (engine->has_timer)
		timer_delete(engine->timer);
	if (engine->run)
		munmap(engine->run, engine->run_size);
	if (engine->vcpu >= 0)
		close(engine->vcpu);
	if (engine->vm >= 0)
		close(engine->vm);
	if (engine->kvm >= 0)
		close(engine->kvm);
	free(engine->routing);
	free(engine->shapes);
	free(engine);
}

static int enable(int vm, uint32_t capability, uint64_t argument, const char *name, struct ft_error *err)
{
	struct kvm_enable_cap cap = {.cap = capability, .args = {argument}};
	return ioctl(vm, KVM_ENABLE_CAP, &cap) ? ft_kvm_failed(err, name) : 0;
}

/* Memory before the rest: each of the others takes milliseconds when it has to wait for the memory slots. */
static int open_vm(struct ft_engine *engine, bool host_tsc, struct ft_error *err)
{
	struct ft_machine *m = engine->m;
	engine->vm = ioctl(engine->kvm, KVM_CREATE_VM, 0);
	if (engine->vm < 0)
		return ft_kvm_failed(err, "KVM_CREATE_VM");
	struct kvm_userspace_memory_region ram = {.memory_size = m->ram.size, .userspace_addr = (uint64_t)(uintptr_t)m->ram.base};
	if (ioctl(engine->vm, KVM_SET_USER_MEMORY_REGION, &ram))
		return ft_kvm_failed(err, "KVM_SET_USER_MEMORY_REGION");
	if (ioctl(engine->kvm, KVM_CHECK_EXTENSION, KVM_CAP_SET_TSS_ADDR) > 0 &&
	    ioctl(engine->vm, KVM_SET_TSS_ADDR, TSS_ADDRESS))
		return ft_kvm_failed(err, "KVM_SET_TSS_ADDR");
	int error = enable(engine->vm, KVM_CAP_SPLIT_IRQCHIP, FT_IOAPIC_PINS, "KVM_CAP_SPLIT_IRQCHIP", err);
	if (!error)
		error = enable(engine->vm, KVM_CAP_EXCEPTION_PAYLOAD, 1, "KVM_CAP_EXCEPTION_PAYLOAD", err);
	if (error)
		return error;
	engine->vcpu = ioctl(engine->vm, KVM_CREATE_VCPU, 0);
	if (engine->vcpu < 0)
		return ft_kvm_failed(err, "KVM_CREATE_VCPU");
	error = ft_kvm_hide(engine, err);
	if (error)
		return error;
	int size = ioctl(engine->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (size < (int)sizeof(*engine->run))
		return ft_error_set(err, -ENOTSUP, "kvm: KVM_GET_VCPU_MMAP_SIZE says %d", size);
	engine->run_size = (size_t)size;
	engine->run = mmap(NULL, engine->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, engine->vcpu, 0);
	if (engine->run == MAP_FAILED) {
		engine->run = NULL;
		return ft_kvm_failed(err, "the vCPU's shared page");
	}
	/* A fork would share it with us. */
	if (madvise(engine->run, engine->run_size, MADV_DONTFORK))
		return ft_kvm_failed(err, "MADV_DONTFORK");
	return ft_kvm_vcpu_open(engine, host_tsc, err);
}

static struct ft_engine *create(struct ft_machine *m, const struct ft_engine_options *options, struct ft_error *err)
{
	struct ft_engine *engine = calloc(1, sizeof(*engine));
	if (!engine) {
		ft_error_set(err, -ENOMEM, "no memory for the engine");
		return NULL;
	}
	engine->m = m;
	m->engine = engine; /* the model is asked for on the way */
	engine->kvm = engine->vm = engine->vcpu = -1;
	engine->shapes = calloc(1, sizeof(*engine->shapes));
	engine->routing = calloc(1, sizeof(*engine->routing) + FT_IOAPIC_PINS * sizeof(engine->routing->entries[0]));
	ft_timer_register(m, &engine->wake, woken, engine);
	int error = engine->shapes && engine->routing ? 0 : ft_error_set(err, -ENOMEM, "no memory for the engine");
	if (!error) {
		engine->kvm = options->kvm ? fcntl(options->kvm, F_DUPFD_CLOEXEC, 3) : open("/dev/kvm", O_RDWR | O_CLOEXEC);
		error = engine->kvm < 0 ? ft_kvm_failed(err, "/dev/kvm") : ft_kvm_host_check(engine->kvm, err);
	}
	if (!error)
		error = open_vm(engine, options->host_tsc, err);
	/* Its thread may have given up the right to make timers by the time it runs. */
	if (!error)
		error = take_thread(engine, err);
	if (error) {
		destroy(engine);
		m->engine = NULL;
		return NULL;
	}
	engine->ours = true;
	return engine;
}

const struct ft_engine_ops ft_engine_kvm = {
    .name = "kvm",
    .hosted = true,
    .advance = advance,
    .create = create,
    .destroy = destroy,
    .run = run,
    .message = message,
    .stop = stop,
    .get = get,
    .set = set,
    .frequency = ft_kvm_frequency,
    .cpuid = cpuid,
    .model_msr = model_msr,
    .cr4_known = FT_MODEL_CR4,
    .peek_in = peek_in,
    .observe = nothing,
    .part = nothing,
    .before_fork = before_fork,
    .share = nothing,
    .rest = nothing,
    .flush = nothing,
};
