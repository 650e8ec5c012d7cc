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
#define HALTED_NS    50000u      /* whether the guest has halted is looked at so long after it was last known to run; next time ... */
#define HALTED_MOST  3200000u    /* ... after twice that, if it has not, up to this, and half of it, if it has: as long as it is busy mostly */
#define LEAST_NS     20000u      /* once in the guest, it has this much time before a timer of a device's is looked at ... */
#define HURRIED_MOST 7u          /* ... and twice that each time that was all it had, so often: an entry may take as long */
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
static int arm(struct ft_kvm_vcpu *vcpu, uint64_t vtime_ns, struct ft_error *err)
{
	uint64_t now = ft_kvm_now(vcpu->engine), ns = vtime_ns > now ? vtime_ns - now : 1;
	if (ns > LATEST_NS)
		ns = LATEST_NS;
	struct itimerspec when = {.it_value = {.tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u)}};
	if (timer_settime(vcpu->timer, 0, &when, NULL))
		return ft_kvm_failed(err, "timer_settime");
	return 0;
}

static void ignore(int number)
{
}

/* The timer and stop() reach the thread that runs now. The signal has a handler all the same: whoever unblocks it must not die of it. */
static int take_thread(struct ft_kvm_vcpu *vcpu, struct ft_error *err)
{
	pid_t self = (pid_t)syscall(SYS_gettid);
	if (vcpu->thread == self)
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
	if (vcpu->has_timer)
		timer_delete(vcpu->timer);
	vcpu->has_timer = false;
	struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = ft_kvm_signal()};
	event._sigev_un._tid = self;
	if (timer_create(CLOCK_MONOTONIC, &event, &vcpu->timer))
		return ft_kvm_failed(err, "timer_create");
	vcpu->has_timer = true;
	__atomic_store_n(&vcpu->thread, self, __ATOMIC_SEQ_CST);
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

/* The PIC's interrupt, which is the first vCPU's, when it can take one; else we are told when. */
static int offer_pic(struct ft_engine *engine, struct ft_error *err)
{
	struct ft_pic *pic = &engine->m->devices->pic;
	bool wants = ft_pic_asserted(pic);
	struct kvm_run *first = engine->vcpu[0].run;
	if (wants && first->ready_for_interrupt_injection) {
		struct kvm_interrupt interrupt = {.irq = (uint32_t)ft_pic_acknowledge(pic)};
		if (ioctl(engine->vcpu[0].fd, KVM_INTERRUPT, &interrupt))
			return ft_kvm_failed(err, "KVM_INTERRUPT");
		first->ready_for_interrupt_injection = 0;
		wants = ft_pic_asserted(pic);
	}
	first->request_interrupt_window = wants;
	return 0;
}

/* ---- Exits ------------------------------------------------------------------------------------------------------- */

static void access_io(struct ft_machine *m, struct kvm_run *run)
{
	uint8_t *at = (uint8_t *)run + run->io.data_offset;
	for (uint32_t i = 0; i < run->io.count; i++, at += run->io.size) {
		uint64_t value = 0;
		if (run->io.direction == KVM_EXIT_IO_OUT) {
			memcpy(&value, at, run->io.size);
			ft_bus_write(m, FT_SPACE_IO, run->io.port, run->io.size, value);
		} else {
			value = ft_bus_read(m, FT_SPACE_IO, run->io.port, run->io.size);
			memcpy(at, &value, run->io.size);
		}
	}
}

/* What is no 1, 2, 4 or 8 bytes long (an access that was cut at a page's end) goes byte by byte. */
static void access_memory(struct ft_machine *m, struct kvm_run *run)
{
	uint32_t length = run->mmio.len <= 8 ? run->mmio.len : 8, step = length & (length - 1) ? 1 : length;
	for (uint32_t done = 0; done < length; done += step) {
		uint64_t value = 0;
		if (run->mmio.is_write) {
			memcpy(&value, run->mmio.data + done, step);
			ft_bus_write(m, FT_SPACE_MEMORY, run->mmio.phys_addr + done, step, value);
		} else {
			value = ft_bus_read(m, FT_SPACE_MEMORY, run->mmio.phys_addr + done, step);
			memcpy(run->mmio.data + done, &value, step);
		}
	}
}

enum outcome { GO_ON, INTERRUPTED, SHUT_DOWN, BROKEN };

/* Where there are several vCPUs: no thread is in the guest without having let go of the machine. */
static void lock(struct ft_engine *engine)
{
	if (!ft_kvm_alone(engine))
		pthread_mutex_lock(&engine->lock);
}

static void unlock(struct ft_engine *engine)
{
	if (!ft_kvm_alone(engine))
		pthread_mutex_unlock(&engine->lock);
}

static enum outcome broken(struct ft_engine *engine, const char *what, uint64_t detail)
{
	ft_error_set(&engine->m->error, -EIO, "kvm: %s (%llu)", what, (unsigned long long)detail);
	return BROKEN;
}

static enum outcome enter(struct ft_kvm_vcpu *vcpu)
{
	struct ft_engine *engine = vcpu->engine;
	struct kvm_run *run = vcpu->run;
	unlock(engine);
	int result = ioctl(vcpu->fd, KVM_RUN, 0);
	int error = errno;
	lock(engine);
	vcpu->unfinished = false;
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
		access_io(engine->m, run);
		vcpu->unfinished = true;
		return GO_ON;
	case KVM_EXIT_MMIO:
		access_memory(engine->m, run);
		vcpu->unfinished = true;
		return GO_ON;
	case KVM_EXIT_X86_RDMSR:
		run->msr.error = !ft_model_msr(&engine->m->model, run->msr.index, (uint64_t *)&run->msr.data);
		vcpu->unfinished = true;
		return GO_ON;
	case KVM_EXIT_X86_WRMSR:
		run->msr.error = !ft_model_set_msr(&engine->m->model, run->msr.index, run->msr.data);
		vcpu->unfinished = true;
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
static enum outcome finish(struct ft_kvm_vcpu *vcpu)
{
	enum outcome outcome = GO_ON;
	while (vcpu->unfinished && outcome == GO_ON) {
		vcpu->run->immediate_exit = 1;
		outcome = enter(vcpu);
		vcpu->run->immediate_exit = 0;
	}
	return outcome == INTERRUPTED ? GO_ON : outcome;
}

/* To a place where the vCPU's state is a machine's: behind the access that was the last exit, and with no interrupt or exception half
 * delivered (its stack was not mapped in the host, say), which takes another moment in the guest. GO_ON: it is there. */
static enum outcome settle(struct ft_kvm_vcpu *vcpu)
{
	struct ft_engine *engine = vcpu->engine;
	for (unsigned tries = 0; tries < SETTLE_TRIES; tries++) {
		bool between = false;
		enum outcome outcome = finish(vcpu);
		if (outcome == GO_ON && ft_kvm_between(vcpu, &between, &engine->m->error))
			return BROKEN;
		if (between)
			return GO_ON;
		if (outcome == GO_ON && arm(vcpu, ft_kvm_now(engine) + SETTLE_NS * (1u + tries * tries), &engine->m->error))
			return BROKEN;
		if (outcome == GO_ON)
			outcome = enter(vcpu);
		if (outcome == INTERRUPTED)
			swallow_signals();
		if (outcome == SHUT_DOWN || outcome == BROKEN)
			return outcome;
	}
	ft_error_set(&engine->m->error, -EIO, "kvm: an event does not reach the guest");
	return BROKEN;
}

/* ---- The other vCPUs --------------------------------------------------------------------------------------------- */

/* The first one comes out of the guest and looks around. */
static void call_first(struct ft_engine *engine)
{
	if (arm(&engine->vcpu[0], 0, &engine->m->error))
		engine->fate = FT_KVM_BROKEN;
}

/* What this one did to the machine may be the first one's to see to: a timer before those it knows of, a reset, an interrupt of the PIC. */
static void tell_first(struct ft_engine *engine)
{
	const struct ft_machine *m = engine->m;
	bool pic = ft_pic_asserted(&m->devices->pic) && !engine->vcpu[0].run->request_interrupt_window;
	if (m->leave || m->deadline < engine->next || pic)
		call_first(engine);
}

static void end_of(struct ft_engine *engine, enum outcome outcome)
{
	if (outcome != SHUT_DOWN && outcome != BROKEN)
		return;
	engine->fate = outcome == SHUT_DOWN ? FT_KVM_SHUT_DOWN : FT_KVM_BROKEN;
	call_first(engine);
}

static void go_away(struct ft_kvm_vcpu *vcpu)
{
	struct ft_engine *engine = vcpu->engine;
	enum outcome outcome = GO_ON;
	while (!engine->stand && !engine->fate && outcome != SHUT_DOWN && outcome != BROKEN) {
		outcome = enter(vcpu);
		if (outcome == INTERRUPTED)
			swallow_signals();
		if (outcome == GO_ON && route(engine, &engine->m->error))
			outcome = BROKEN;
		if (outcome == GO_ON)
			tell_first(engine);
	}
	if (outcome != SHUT_DOWN && outcome != BROKEN)
		outcome = settle(vcpu);
	end_of(engine, outcome);
}

static void *be_other(void *context)
{
	struct ft_kvm_vcpu *vcpu = context;
	struct ft_engine *engine = vcpu->engine;
	lock(engine);
	if (take_thread(vcpu, &engine->m->error))
		engine->fate = FT_KVM_BROKEN;
	vcpu->away = false;
	pthread_cond_signal(&engine->stands);
	for (;;) {
		while (!vcpu->away && !engine->end)
			pthread_cond_wait(&engine->go, &engine->lock);
		if (engine->end)
			break;
		go_away(vcpu);
		vcpu->away = false;
		pthread_cond_signal(&engine->stands);
	}
	unlock(engine);
	return NULL;
}

static bool any_away(const struct ft_engine *engine)
{
	for (unsigned i = 1; i < engine->vcpus; i++)
		if (engine->vcpu[i].away)
			return true;
	return false;
}

static void send_others(struct ft_engine *engine)
{
	if (ft_kvm_alone(engine) || !engine->stand || engine->fate)
		return;
	engine->stand = false;
	for (unsigned i = 1; i < engine->vcpus; i++)
		engine->vcpu[i].away = true;
	pthread_cond_broadcast(&engine->go);
}

/* All of them stand when it returns. Each signal finds its thread, in the guest or on its way there: it waits where it comes too early. */
static void stand_others(struct ft_engine *engine)
{
	if (ft_kvm_alone(engine) || engine->stand)
		return;
	engine->stand = true;
	for (unsigned i = 1; i < engine->vcpus; i++)
		if (engine->vcpu[i].away && arm(&engine->vcpu[i], 0, &engine->m->error))
			engine->fate = FT_KVM_BROKEN;
	while (any_away(engine))
		pthread_cond_wait(&engine->stands, &engine->lock);
}

static int get_ready(struct ft_engine *engine, struct ft_error *err)
{
	if (ft_kvm_alone(engine) || engine->process)
		return 0;
	engine->process = getpid();
	engine->stand = true;
	lock(engine);
	int error = take_thread(&engine->vcpu[0], err); /* whose blocked signal they inherit */
	for (unsigned i = 1; !error && i < engine->vcpus; i++) {
		struct ft_kvm_vcpu *vcpu = &engine->vcpu[i];
		vcpu->away = true;
		error = pthread_create(&vcpu->own, NULL, be_other, vcpu);
		vcpu->has_own = !error;
		vcpu->away &= !error;
		if (error)
			error = ft_error_set(err, -error, "kvm: a vCPU's thread: %s", strerror(error));
	}
	while (any_away(engine))
		pthread_cond_wait(&engine->stands, &engine->lock);
	unlock(engine);
	if (!error && engine->fate) {
		*err = engine->m->error;
		error = err->code;
	}
	return error;
}

static void end_others(struct ft_engine *engine)
{
	if (ft_kvm_alone(engine) || engine->process != getpid())
		return;
	lock(engine);
	engine->end = true;
	pthread_cond_broadcast(&engine->go);
	unlock(engine);
	for (unsigned i = 1; i < engine->vcpus; i++)
		if (engine->vcpu[i].has_own)
			pthread_join(engine->vcpu[i].own, NULL);
}

/* ---- Running ----------------------------------------------------------------------------------------------------- */

/* An idle CPU: when will the kernel's timer end that? A CPU that is still halted may have an interrupt that came together with our
 * signal: it wakes as soon as it is entered again. One that waits to be started is idle, too. */
static int look_whether_idle(struct ft_kvm_vcpu *vcpu, bool *idle, uint64_t *due_ns, struct ft_error *err)
{
	struct kvm_mp_state mp;
	bool requested = false;
	*idle = false;
	*due_ns = UINT64_MAX;
	if (ioctl(vcpu->fd, KVM_GET_MP_STATE, &mp))
		return ft_kvm_failed(err, "KVM_GET_MP_STATE");
	if (mp.mp_state == KVM_MP_STATE_UNINITIALIZED || mp.mp_state == KVM_MP_STATE_INIT_RECEIVED) {
		*idle = true;
		return 0;
	}
	if (mp.mp_state != KVM_MP_STATE_HALTED)
		return 0;
	int error = ft_kvm_apic(vcpu, due_ns, &requested, err);
	*idle = !error && !requested;
	return error;
}

/* The machine's timers learn when the first of the kernel's will end that. All vCPUs stand. */
static int look_at_all(struct ft_engine *engine, bool *halted, struct ft_error *err)
{
	uint64_t due, first = UINT64_MAX;
	*halted = !ft_pic_asserted(&engine->m->devices->pic);
	for (unsigned i = 0; *halted && i < engine->vcpus; i++) {
		int error = look_whether_idle(&engine->vcpu[i], halted, &due, err);
		if (error)
			return error;
		first = due < first ? due : first;
	}
	/* A one-shot timer that has just run out counts no more, and is no interrupt yet: KVM makes it one when the vCPU is entered next. So
	 * that nothing will ever end this is believed the second time. */
	bool first_time = !engine->endless;
	engine->endless = *halted && first == UINT64_MAX;
	if (engine->endless && first_time)
		*halted = false;
	if (*halted)
		ft_timer_arm(engine->m, &engine->wake, first);
	return 0;
}

/* The others are not stopped for it while the first one works. */
static int look_whether_halted(struct ft_engine *engine, bool *halted, struct ft_error *err)
{
	struct kvm_mp_state mp;
	*halted = false;
	if (ioctl(engine->vcpu[0].fd, KVM_GET_MP_STATE, &mp))
		return ft_kvm_failed(err, "KVM_GET_MP_STATE");
	if (mp.mp_state == KVM_MP_STATE_RUNNABLE) {
		engine->endless = false;
	} else {
		stand_others(engine);
		int error = look_at_all(engine, halted, err);
		if (error)
			return error;
	}
	if (!*halted && engine->look_ns <= HALTED_MOST / 2)
		engine->look_ns *= 2;
	else if (*halted && engine->look_ns >= HALTED_NS * 2)
		engine->look_ns /= 2;
	return 0;
}

static enum ft_exit run_until(struct ft_engine *engine, uint64_t until)
{
	struct ft_machine *m = engine->m;
	/* A device's timer may be due again before the guest is entered (a guest can ask the PIT for that): it must get on all the same. */
	for (bool entered = false;; entered = true) {
		engine->next = until < m->deadline ? until : m->deadline;
		if (engine->fate)
			return engine->fate == FT_KVM_SHUT_DOWN ? FT_EXIT_SHUTDOWN : FT_EXIT_ERROR;
		if (m->leave)
			return FT_EXIT_STOPPED;
		if (__atomic_exchange_n(&engine->stop, 0, __ATOMIC_SEQ_CST))
			return FT_EXIT_STOPPED;
		if (m->icount >= until || (entered && m->icount >= engine->next))
			return FT_EXIT_COUNT;
		uint64_t left = engine->next > m->icount ? engine->next - m->icount : 0, least = LEAST_NS << engine->hurried;
		uint64_t ahead = (uint64_t)(left * (__uint128_t)m->clock.ns_per_1024insn >> 10) + 1;
		/* A halted CPU waits in the kernel, and what comes for the guest, or left it, waits for the end of the slice with it; so does idle
		 * time that is skipped. It should be for no longer than the guest was busy before. */
		if (ahead > engine->look_ns)
			ahead = engine->look_ns;
		bool hurries = ahead < least;
		/* From now, where the machine may still be at the last exit. */
		uint64_t from = hurries ? ft_kvm_now(engine) : ft_machine_vtime(m);
		if (hurries)
			ahead = least;
		if (route(engine, &m->error) || offer_pic(engine, &m->error) ||
		    arm(&engine->vcpu[0], from + ahead, &m->error))
			return FT_EXIT_ERROR;
		send_others(engine);
		bool halted;
		switch (enter(&engine->vcpu[0])) {
		case GO_ON:
			break;
		case INTERRUPTED:
			swallow_signals();
			if (!hurries)
				engine->hurried = 0;
			else if (engine->hurried < HURRIED_MOST)
				engine->hurried++;
			if (look_whether_halted(engine, &halted, &m->error))
				return FT_EXIT_ERROR;
			if (halted && !__atomic_load_n(&engine->stop, __ATOMIC_SEQ_CST))
				return FT_EXIT_HALT;
			break;
		case SHUT_DOWN:
			return FT_EXIT_SHUTDOWN;
		case BROKEN:
			return FT_EXIT_ERROR;
		}
	}
}

/* Leaves the guest, all of it. */
static enum ft_exit leave(struct ft_engine *engine, enum ft_exit exit)
{
	stand_others(engine);
	if (exit == FT_EXIT_SHUTDOWN || exit == FT_EXIT_ERROR)
		return exit;
	enum outcome outcome = settle(&engine->vcpu[0]);
	if (outcome == GO_ON && engine->fate)
		outcome = engine->fate == FT_KVM_SHUT_DOWN ? SHUT_DOWN : BROKEN;
	return outcome == GO_ON ? exit : outcome == SHUT_DOWN ? FT_EXIT_SHUTDOWN : FT_EXIT_ERROR;
}

static enum ft_exit run(struct ft_engine *engine, uint64_t until)
{
	struct ft_machine *m = engine->m;
	if (take_thread(&engine->vcpu[0], &m->error) || get_ready(engine, &m->error))
		return FT_EXIT_ERROR;
	if (engine->ours && ft_kvm_push(engine, &m->error))
		return FT_EXIT_ERROR;
	if (ft_kvm_follow(engine, &m->error))
		return FT_EXIT_ERROR;
	engine->fresh = engine->endless = false;
	/* Interrupts and the APIC's timer are the kernel's while it runs. */
	ft_timer_disarm(m, &m->devices->lapic.timer);
	ft_timer_disarm(m, &engine->wake);
	m->devices->lapic.region.enabled = false;
	memset(m->devices->lapic.s.requests, 0, sizeof(m->devices->lapic.s.requests));
	ft_irq_refresh(m);
	lock(engine);
	enum ft_exit exit = leave(engine, run_until(engine, until));
	unlock(engine);
	return exit;
}

static void stop(struct ft_engine *engine)
{
	__atomic_store_n(&engine->stop, 1, __ATOMIC_SEQ_CST);
	pid_t thread = __atomic_load_n(&engine->vcpu[0].thread, __ATOMIC_SEQ_CST);
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

static void cpuid(struct ft_engine *engine, const struct ft_model *model, unsigned vcpu, uint64_t tsc_khz, uint32_t leaf, uint32_t subleaf,
		  uint32_t registers[4])
{
	ft_model_cpuid(model, (struct ft_model_place){vcpu, engine->vcpus}, (uint32_t)tsc_khz, leaf, subleaf, registers);
}

static int model_msr(struct ft_engine *engine, const struct ft_model *model, uint32_t index, uint64_t *value)
{
	if (engine->native)
		return ft_kvm_native_msr(engine, index, value);
	return ft_model_msr(model, index, value) ? 0 : -1;
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
	struct ft_error *err = &engine->m->error;
	get(engine, &cpu);
	if (engine->native && !engine->ours && !err->code)
		ft_kvm_native_take(engine, err);
}

static void nothing(struct ft_engine *engine)
{
}

/* ---- Making ------------------------------------------------------------------------------------------------------ */

static void close_vcpu(struct ft_kvm_vcpu *vcpu, size_t run_size)
{
	if (vcpu->has_timer)
		timer_delete(vcpu->timer);
	if (vcpu->run)
		munmap(vcpu->run, run_size);
	if (vcpu->fd >= 0)
		close(vcpu->fd);
}

static void destroy(struct ft_engine *engine)
{
	if (!engine)
		return;
	end_others(engine);
	for (unsigned i = 0; i < engine->vcpus; i++)
		close_vcpu(&engine->vcpu[i], engine->run_size);
	pthread_cond_destroy(&engine->stands);
	pthread_cond_destroy(&engine->go);
	pthread_mutex_destroy(&engine->lock);
	if (engine->vm >= 0)
		close(engine->vm);
	if (engine->kvm >= 0)
		close(engine->kvm);
	ft_kvm_native_close(engine->native);
	free(engine->routing);
	free(engine->shapes);
	free(engine);
}

static int enable(int vm, uint32_t capability, uint64_t argument, const char *name, struct ft_error *err)
{
	struct kvm_enable_cap cap = {.cap = capability, .args = {argument}};
	return ioctl(vm, KVM_ENABLE_CAP, &cap) ? ft_kvm_failed(err, name) : 0;
}

/* Its number is its APIC ID. */
static int open_vcpu(struct ft_kvm_vcpu *vcpu, size_t run_size, struct ft_error *err)
{
	vcpu->fd = ioctl(vcpu->engine->vm, KVM_CREATE_VCPU, (unsigned long)vcpu->number);
	if (vcpu->fd < 0)
		return ft_kvm_failed(err, "KVM_CREATE_VCPU");
	vcpu->run = mmap(NULL, run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
	if (vcpu->run == MAP_FAILED) {
		vcpu->run = NULL;
		return ft_kvm_failed(err, "the vCPU's shared page");
	}
	/* A fork would share it with us. */
	return madvise(vcpu->run, run_size, MADV_DONTFORK) ? ft_kvm_failed(err, "MADV_DONTFORK") : 0;
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
	int size = ioctl(engine->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (size < (int)sizeof(struct kvm_run))
		return ft_error_set(err, -ENOTSUP, "kvm: KVM_GET_VCPU_MMAP_SIZE says %d", size);
	engine->run_size = (size_t)size;
	for (unsigned i = 0; !error && i < engine->vcpus; i++)
		error = open_vcpu(&engine->vcpu[i], engine->run_size, err);
	if (!error)
		error = ft_kvm_hide(engine, err);
	return error ? error : ft_kvm_vcpus_open(engine, host_tsc, err);
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
	engine->kvm = engine->vm = -1;
	engine->vcpus = m->vcpus;
	for (unsigned i = 0; i < engine->vcpus; i++)
		engine->vcpu[i] = (struct ft_kvm_vcpu){.engine = engine, .number = i, .fd = -1};
	pthread_mutex_init(&engine->lock, NULL);
	pthread_cond_init(&engine->go, NULL);
	pthread_cond_init(&engine->stands, NULL);
	engine->shapes = calloc(1, sizeof(*engine->shapes));
	engine->routing = calloc(1, sizeof(*engine->routing) + FT_IOAPIC_PINS * sizeof(engine->routing->entries[0]));
	ft_timer_register(m, &engine->wake, woken, engine);
	int error = engine->shapes && engine->routing ? 0 : ft_error_set(err, -ENOMEM, "no memory for the engine");
	if (!error) {
		engine->kvm = options->kvm ? fcntl(options->kvm, F_DUPFD_CLOEXEC, 3) : open("/dev/kvm", O_RDWR | O_CLOEXEC);
		error = engine->kvm < 0 ? ft_kvm_failed(err, "/dev/kvm") : ft_kvm_host_check(engine->kvm, err);
	}
	if (!error && options->native)
		error = ft_kvm_native_open(engine, err);
	if (!error)
		error = ft_kvm_model_open(engine, err);
	if (!error)
		error = open_vm(engine, options->host_tsc, err);
	/* Its thread may have given up the right to make timers by the time it runs. */
	if (!error)
		error = take_thread(&engine->vcpu[0], err);
	if (error) {
		destroy(engine);
		m->engine = NULL;
		return NULL;
	}
	engine->ours = true;
	engine->look_ns = HALTED_NS;
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
    .get_ready = get_ready,
    .get = get,
    .set = set,
    .become = ft_kvm_become,
    .cpuid = cpuid,
    .model_msr = model_msr,
    .cr4_known = FT_MODEL_CR4,
    .peek_in = peek_in,
    .observe = nothing,
    .part = nothing,
    .before_fork = before_fork,
    .inherit = ft_kvm_native_inherit,
    .share = nothing,
    .rest = nothing,
    .flush = nothing,
};
