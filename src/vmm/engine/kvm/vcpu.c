/* The state of the kernel's vCPU: in and out. The order of what is set follows what overwrites what: the local APIC before the MSRs
 * (its deadline timer), events after the registers (SREGS drop an exception that waits). */
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "vmm/engine/kvm/kvm.h"
#include "vmm/engine/mxcsr.h"

_Static_assert(sizeof(struct ft_kvm_regs) == sizeof(struct kvm_regs), "the neutral form is KVM's");
_Static_assert(sizeof(struct ft_kvm_sregs) == sizeof(struct kvm_sregs2), "the neutral form is KVM's");
_Static_assert(sizeof(struct ft_kvm_debugregs) == sizeof(struct kvm_debugregs), "the neutral form is KVM's");
_Static_assert(sizeof(struct ft_kvm_events) == sizeof(struct kvm_vcpu_events), "the neutral form is KVM's");
_Static_assert(sizeof(struct ft_kvm_lapic) == sizeof(struct kvm_lapic_state), "the neutral form is KVM's");
_Static_assert(sizeof(struct ft_kvm_cpuid) == sizeof(struct kvm_cpuid_entry2), "the neutral form is KVM's");
_Static_assert(sizeof(struct ft_kvm_msr) == sizeof(struct kvm_msr_entry), "the neutral form is KVM's");

#define MSR_TSC          0x10u
#define MSR_TSC_ADJUST   0x3bu
#define MSR_SYSENTER_ESP 0x175u
#define MSR_SYSENTER_EIP 0x176u
#define MSR_TSC_DEADLINE 0x6e0u

/* Register page of the local APIC: SDM Vol. 3A table 11-1. */
#define APIC_REQUESTS 0x200u
#define APIC_TIMER    0x320u
#define APIC_INITIAL  0x380u
#define APIC_COUNT    0x390u
#define APIC_DIVIDE   0x3e0u
#define APIC_MODE     0x60000u /* of the timer's register */
#define APIC_DEADLINE 0x40000u

#define SHAPE_BYTES offsetof(struct ft_state, processors) /* of the scratch: one vCPU's */

#define FXSAVE_POINTERS 6u  /* opcode's end and pointers of the last x87 instruction ... */
#define FXSAVE_MXCSR    24u /* ... up to here */
#define FXSAVE_END      416u

static int set(int fd, unsigned long request, void *argument, const char *name, struct ft_error *err)
{
	return ioctl(fd, request, argument) < 0 ? ft_kvm_failed(err, name) : 0;
}
#define SET(fd, request, argument) set(fd, request, argument, #request, err)

/* ---- MSRs ---------------------------------------------------------------------------------------------------------- */

struct msrs {
	struct kvm_msrs header;
	struct kvm_msr_entry entry[FT_STATE_MSRS_MOST];
};

static int get_msr(const struct ft_kvm_vcpu *vcpu, uint32_t index, uint64_t *value, struct ft_error *err)
{
	struct msrs list = {.header.nmsrs = 1, .entry[0].index = index};
	int n = ioctl(vcpu->fd, KVM_GET_MSRS, &list);
	if (n != 1)
		return n < 0 ? ft_kvm_failed(err, "KVM_GET_MSRS")
			     : ft_error_set(err, -ENOTSUP, "kvm: the host does not have MSR 0x%x", index);
	*value = list.entry[0].data;
	return 0;
}

static int set_msrs(const struct ft_kvm_vcpu *vcpu, const struct ft_state *s, struct ft_error *err)
{
	struct msrs list = {.header.nmsrs = s->msr_count};
	memcpy(list.entry, s->msrs, s->msr_count * sizeof(*s->msrs));
	int n = ioctl(vcpu->fd, KVM_SET_MSRS, &list);
	if (n < 0)
		return ft_kvm_failed(err, "KVM_SET_MSRS");
	if ((uint32_t)n != s->msr_count)
		return ft_error_set(err, -ENOTSUP, "kvm: the host does not take MSR 0x%x", s->msrs[n].index);
	return 0;
}

static int get_msrs(const struct ft_kvm_vcpu *vcpu, struct ft_state *s, struct ft_error *err)
{
	/* Which ones they are, and in what order, the state says. */
	struct msrs list = {.header.nmsrs = s->msr_count};
	for (uint32_t i = 0; i < s->msr_count; i++)
		list.entry[i].index = s->msrs[i].index;
	int n = ioctl(vcpu->fd, KVM_GET_MSRS, &list);
	if (n < 0)
		return ft_kvm_failed(err, "KVM_GET_MSRS");
	if ((uint32_t)n != s->msr_count)
		return ft_error_set(err, -ENOTSUP, "kvm: the host does not have MSR 0x%x", s->msrs[n].index);
	bool amd = ft_model_amd(&vcpu->engine->m->model);
	for (uint32_t i = 0; i < s->msr_count; i++) {
		uint32_t index = s->msrs[i].index;
		s->msrs[i].data = list.entry[i].data;
		/* An AMD's have 32 bits, and KVM takes no more; what the guest wrote itself may be there as it wrote it. */
		if (amd && (index == MSR_SYSENTER_ESP || index == MSR_SYSENTER_EIP))
			s->msrs[i].data = (uint32_t)s->msrs[i].data;
	}
	return 0;
}

static uint64_t msr_of(const struct ft_state *s, uint32_t index)
{
	for (uint32_t i = 0; i < s->msr_count; i++)
		if (s->msrs[i].index == index)
			return s->msrs[i].data;
	return 0;
}

/* ---- The TSC ------------------------------------------------------------------------------------------------------- */

static int tsc_offset(const struct ft_kvm_vcpu *vcpu, uint64_t offset, struct ft_error *err)
{
	struct kvm_device_attr attribute = {
	    .group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (uint64_t)(uintptr_t)&offset};
	return SET(vcpu->fd, KVM_SET_DEVICE_ATTR, &attribute);
}

static uint64_t *adjust_of(struct ft_machine *m, unsigned number)
{
	return number ? &m->devices->others[number - 1].tsc_adjust : &m->clock.tsc_adjust;
}

/* By its offset: a write of the MSR is taken for another processor's wish to be synchronous. The same for all, but for what the guest has
 * adjusted. */
static int set_tsc(struct ft_engine *engine, struct ft_error *err)
{
	struct ft_machine *m = engine->m;
	uint64_t guest = 0;
	int error = tsc_offset(engine->vcpu, 0, err);
	if (error)
		return error;
	uint64_t before = ft_kvm_host_tsc();
	error = get_msr(engine->vcpu, MSR_TSC, &guest, err);
	if (error)
		return error;
	engine->host_tsc = before + (ft_kvm_host_tsc() - before) / 2;
	engine->vtime_ns = ft_machine_vtime(m);
	uint64_t offset = ft_machine_tsc(m) - guest - m->clock.tsc_adjust;
	for (unsigned i = 0; !error && i < engine->vcpus; i++)
		error = tsc_offset(&engine->vcpu[i], offset + *adjust_of(m, i), err);
	return error;
}

static int set_frequency(struct ft_engine *engine, bool host, struct ft_error *err)
{
	struct ft_machine *m = engine->m;
	int khz = ioctl(engine->vcpu[0].fd, KVM_GET_TSC_KHZ, 0);
	if (khz < 0)
		return ft_kvm_failed(err, "KVM_GET_TSC_KHZ");
	if (!khz)
		return ft_error_set(err, -ENOTSUP, "kvm: KVM_GET_TSC_KHZ: it does not know this processor's frequency");
	engine->host_khz = (uint32_t)khz;
	if (host)
		m->clock.tsc_khz = engine->host_khz;
	if (m->clock.tsc_khz == engine->host_khz)
		return 0;
	if (ioctl(engine->kvm, KVM_CHECK_EXTENSION, KVM_CAP_TSC_CONTROL) <= 0)
		return ft_error_set(err, -ENOTSUP,
				    "kvm: the guest's TSC has %llu kHz, this processor's %u kHz, and it cannot be scaled",
				    (unsigned long long)m->clock.tsc_khz, engine->host_khz);
	for (unsigned i = 0; i < engine->vcpus; i++)
		if (ioctl(engine->vcpu[i].fd, KVM_SET_TSC_KHZ, m->clock.tsc_khz))
			return ft_kvm_failed(err, "KVM_SET_TSC_KHZ");
	return 0;
}

/* ---- What is fixed ------------------------------------------------------------------------------------------------- */

static int set_model(const struct ft_kvm_vcpu *vcpu, struct ft_error *err)
{
	struct {
		struct kvm_cpuid2 header;
		struct kvm_cpuid_entry2 entries[FT_STATE_CPUIDS_MOST];
	} list = {0};
	struct ft_kvm_cpuid model[FT_STATE_CPUIDS_MOST];
	struct ft_machine *m = vcpu->engine->m;
	if (vcpu->engine->native)
		return ft_kvm_native_set_model(vcpu, err);
	ft_state_model(m, &m->model, vcpu->number, m->clock.tsc_khz, model, &list.header.nent);
	/* A leaf that says nothing is left out: the kernel would fill in what it knows (of XSAVE, SGX). */
	uint32_t told = 0;
	for (uint32_t i = 0; i < list.header.nent; i++)
		if (model[i].eax | model[i].ebx | model[i].ecx | model[i].edx)
			memcpy(&list.entries[told++], &model[i], sizeof(model[i]));
	list.header.nent = told;
	return SET(vcpu->fd, KVM_SET_CPUID2, &list);
}

static int set_models(struct ft_engine *engine, struct ft_error *err)
{
	int error = 0;
	for (unsigned i = 0; !error && i < engine->vcpus; i++)
		error = set_model(&engine->vcpu[i], err);
	return error;
}

static int set_signals(const struct ft_kvm_vcpu *vcpu, struct ft_error *err)
{
	/* All others as they are for the thread: the kernel's mask has 8 bytes. */
	struct {
		struct kvm_signal_mask header;
		uint8_t bytes[8];
	} mask = {.header.len = 8};
	uint64_t bits = 0;
	memcpy(mask.header.sigset, &bits, sizeof(bits));
	return SET(vcpu->fd, KVM_SET_SIGNAL_MASK, &mask);
}

int ft_kvm_vcpus_become(struct ft_engine *engine, struct ft_error *err)
{
	int error = set_frequency(engine, false, err);
	return error ? error : set_models(engine, err);
}

int ft_kvm_vcpus_open(struct ft_engine *engine, bool host_tsc, struct ft_error *err)
{
	int error = set_frequency(engine, host_tsc, err);
	if (!error)
		error = set_models(engine, err);
	for (unsigned i = 0; !error && i < engine->vcpus; i++)
		error = set_signals(&engine->vcpu[i], err);
	return error;
}

/* ---- In ------------------------------------------------------------------------------------------------------------ */

static int set_xsave(const struct ft_kvm_vcpu *vcpu, const struct ft_state *s, struct ft_error *err)
{
	struct kvm_xsave xsave = {0};
	memcpy(xsave.region, &s->xsave, sizeof(s->xsave));
	return SET(vcpu->fd, KVM_SET_XSAVE, &xsave);
}

static struct ft_cpu_state *cpu_of(struct ft_engine *engine, unsigned number)
{
	return number ? &engine->m->devices->others[number - 1].cpu : &engine->cpu;
}

static struct ft_lapic *lapic_of(struct ft_machine *m, unsigned number)
{
	return number ? &m->devices->others[number - 1].lapic : &m->devices->lapic;
}

static int push_registers(const struct ft_kvm_vcpu *vcpu, struct ft_state *s, struct ft_error *err)
{
	int error = SET(vcpu->fd, KVM_SET_SREGS2, &s->sregs);
	if (!error)
		error = SET(vcpu->fd, KVM_SET_REGS, &s->regs);
	if (!error)
		error = set_xsave(vcpu, s, err);
	return error ? error : SET(vcpu->fd, KVM_SET_LAPIC, &s->lapic);
}

static int push_events(const struct ft_kvm_vcpu *vcpu, struct ft_state *s, struct ft_error *err)
{
	int error = set_msrs(vcpu, s, err);
	if (!error)
		error = SET(vcpu->fd, KVM_SET_VCPU_EVENTS, &s->events);
	if (!error)
		error = SET(vcpu->fd, KVM_SET_DEBUGREGS, &s->debugregs);
	if (!error)
		error = SET(vcpu->fd, KVM_SET_MP_STATE, &s->mp);
	vcpu->run->ready_for_interrupt_injection = 0;
	return error;
}

static void shape(struct ft_engine *engine, unsigned number)
{
	struct ft_state *s = engine->shapes;
	memset(s, 0, SHAPE_BYTES);
	s->clock.vtime_ns = ft_machine_vtime(engine->m);
	ft_state_cpu_shape(s, engine->m, number, cpu_of(engine, number));
	ft_state_lapic_take(s, lapic_of(engine->m, number));
}

/* The time stamp counters lie between: behind the local APICs, before the timers' deadlines. */
int ft_kvm_push(struct ft_engine *engine, struct ft_error *err)
{
	int error = 0;
	for (unsigned i = engine->vcpus; !error && i-- > 0;) {
		shape(engine, i);
		error = push_registers(&engine->vcpu[i], engine->shapes, err);
	}
	if (!error)
		error = set_tsc(engine, err);
	for (unsigned i = 0; !error && i < engine->vcpus; i++) {
		if (i)
			shape(engine, i);
		error = push_events(&engine->vcpu[i], engine->shapes, err);
		if (!error && engine->native)
			error = ft_kvm_native_give(&engine->vcpu[i], err);
	}
	if (engine->native)
		ft_kvm_native_given(engine);
	engine->ours = error != 0;
	return error;
}

/* ---- Out ----------------------------------------------------------------------------------------------------------- */

static int get_xsave(const struct ft_kvm_vcpu *vcpu, struct ft_state *s, struct ft_error *err)
{
	struct kvm_xsave xsave;
	const uint32_t mask = FT_MXCSR_EVERYWHERE;
	int error = SET(vcpu->fd, KVM_GET_XSAVE, &xsave);
	if (error)
		return error;
	/* x87 opcode and pointers are not part of a machine's state, nor what lies behind the registers. */
	memset(&s->xsave, 0, sizeof(s->xsave));
	memcpy(s->xsave.fxsave, xsave.region, FXSAVE_END);
	memset(s->xsave.fxsave + FXSAVE_POINTERS, 0, FXSAVE_MXCSR - FXSAVE_POINTERS);
	memcpy(s->xsave.fxsave + FXSAVE_MXCSR + 4, &mask, sizeof(mask));
	s->xsave.xstate_bv = 3;
	return 0;
}

/* What a machine has between two instructions; the rest of what KVM tells (SMM, INIT, vectors of events that are over) it does not have.
 * *injected: an event is on its way into the guest, so the vCPU is not between two instructions. */
static int get_events(const struct ft_kvm_vcpu *vcpu, struct ft_state *s, bool *injected, struct ft_error *err)
{
	struct kvm_vcpu_events e;
	int error = SET(vcpu->fd, KVM_GET_VCPU_EVENTS, &e);
	if (error)
		return error;
	*injected = e.exception.injected || e.interrupt.injected || e.nmi.injected;
	s->events = (struct ft_kvm_events){.interrupt.shadow = e.interrupt.shadow ? FT_KVM_SHADOW_STI : 0,
					   .nmi = {.pending = e.nmi.pending != 0, .masked = e.nmi.masked != 0},
					   .flags = FT_KVM_EVENTS_NMI_PENDING | FT_KVM_EVENTS_SHADOW | FT_KVM_EVENTS_PAYLOAD};
	if (e.exception.pending) {
		s->events.exception.pending = 1;
		s->events.exception.nr = e.exception.nr;
		s->events.exception.has_error_code = e.exception.has_error_code;
		s->events.exception.error_code = e.exception.error_code;
		s->events.exception_has_payload = 1;
		s->events.exception_payload = e.exception_has_payload ? e.exception_payload : 0;
	}
	return 0;
}

static uint32_t apic_register(const uint8_t *regs, unsigned at)
{
	uint32_t value;
	memcpy(&value, regs + at, sizeof(value));
	return value;
}

/* One-shot and periodic: the kernel's counts nanoseconds, divided by two to the power of this. */
static unsigned apic_shift(const uint8_t *regs)
{
	uint32_t divide = apic_register(regs, APIC_DIVIDE);
	return (((divide & 3) | (divide >> 1 & 4)) + 1) & 7;
}

/* When its counter began, as it stands: in deadline mode that has no meaning, and stays. */
static uint64_t timer_start(const struct ft_lapic *lapic, const uint8_t *regs)
{
	uint32_t initial = apic_register(regs, APIC_INITIAL), left = apic_register(regs, APIC_COUNT);
	if ((apic_register(regs, APIC_TIMER) & APIC_MODE) == APIC_DEADLINE || left > initial)
		return lapic->s.timer_start_ns;
	uint64_t now = ft_machine_vtime(lapic->m), passed = (uint64_t)(initial - left) << apic_shift(regs);
	return now > passed ? now - passed : 0;
}

static int get_lapic(const struct ft_kvm_vcpu *vcpu, struct ft_state *s, struct ft_error *err)
{
	struct ft_lapic *lapic = lapic_of(vcpu->engine->m, vcpu->number);
	int error = SET(vcpu->fd, KVM_GET_LAPIC, &s->lapic);
	if (error)
		return error;
	s->board.lapic_base = s->sregs.apic_base;
	s->board.lapic_tsc_deadline = msr_of(s, MSR_TSC_DEADLINE);
	s->board.lapic_timer_start_ns = timer_start(lapic, (const uint8_t *)s->lapic.regs);
	ft_state_lapic(s, &lapic->s);
	return 0;
}

int ft_kvm_apic(struct ft_kvm_vcpu *vcpu, uint64_t *due_ns, bool *requested, struct ft_error *err)
{
	struct kvm_lapic_state lapic;
	uint64_t deadline;
	*requested = false;
	/* Of a timer that has fired the interrupt is there before its deadline is gone: asked for in the other order. */
	int error = get_msr(vcpu, MSR_TSC_DEADLINE, &deadline, err);
	if (!error)
		error = SET(vcpu->fd, KVM_GET_LAPIC, &lapic);
	const uint8_t *regs = (const uint8_t *)lapic.regs;
	for (unsigned at = APIC_REQUESTS; !error && at < APIC_REQUESTS + 0x80; at += 0x10)
		*requested |= apic_register(regs, at) != 0;
	*due_ns = UINT64_MAX;
	if (!error && deadline) {
		*due_ns = ft_clock_tsc_to_ns(vcpu->engine->m, deadline + vcpu->engine->m->clock.tsc_adjust - *adjust_of(vcpu->engine->m, vcpu->number));
	} else if (!error) {
		uint32_t left = apic_register(regs, APIC_COUNT);
		if (left)
			*due_ns = ft_kvm_now(vcpu->engine) + ((uint64_t)left << apic_shift(regs));
	}
	return error;
}

/* One-shot and periodic timers go by the host's time, which has not passed: this much less is left of them. One that is due fires at once. */
static int skip_timer(const struct ft_kvm_vcpu *vcpu, uint64_t ns, struct ft_error *err)
{
	struct kvm_lapic_state lapic;
	int error = SET(vcpu->fd, KVM_GET_LAPIC, &lapic);
	uint32_t left = error ? 0 : apic_register((const uint8_t *)lapic.regs, APIC_COUNT);
	if (!left)
		return error;
	uint64_t ticks = ns >> apic_shift((const uint8_t *)lapic.regs);
	left = ticks < left ? left - (uint32_t)ticks : 1;
	memcpy(lapic.regs + APIC_COUNT, &left, sizeof(left));
	return SET(vcpu->fd, KVM_SET_LAPIC, &lapic);
}

int ft_kvm_follow(struct ft_engine *engine, struct ft_error *err)
{
	uint64_t deadline[FT_VCPUS_MOST], is = ft_machine_vtime(engine->m), was = ft_kvm_now(engine);
	int error = 0;
	if (is <= was)
		return 0;
	for (unsigned i = 0; !error && i < engine->vcpus; i++) {
		error = get_msr(&engine->vcpu[i], MSR_TSC_DEADLINE, &deadline[i], err);
		/* The guest may have moved its TSC since we last looked. */
		if (!error)
			error = get_msr(&engine->vcpu[i], MSR_TSC_ADJUST, adjust_of(engine->m, i), err);
	}
	if (!error)
		error = set_tsc(engine, err);
	for (unsigned i = 0; !error && i < engine->vcpus; i++) {
		struct msrs list = {.header.nmsrs = 1, .entry[0] = {.index = MSR_TSC_DEADLINE, .data = deadline[i]}};
		if (deadline[i] && ioctl(engine->vcpu[i].fd, KVM_SET_MSRS, &list) != 1)
			error = ft_kvm_failed(err, "KVM_SET_MSRS of the timer's deadline");
		if (!error && !deadline[i])
			error = skip_timer(&engine->vcpu[i], is - was, err);
	}
	return error;
}

int ft_kvm_between(struct ft_kvm_vcpu *vcpu, bool *between, struct ft_error *err)
{
	bool injected = false;
	int error = get_events(vcpu, vcpu->engine->shapes, &injected, err);
	*between = !injected;
	return error;
}

static int pull(struct ft_kvm_vcpu *vcpu, struct ft_error *err)
{
	bool injected = false;
	struct ft_engine *engine = vcpu->engine;
	struct ft_machine *m = engine->m;
	struct ft_state *s = engine->shapes;
	unsigned number = vcpu->number;
	memset(s, 0, SHAPE_BYTES);
	ft_state_cpu_shape(s, m, number, cpu_of(engine, number)); /* which MSRs there are */
	/* Before all others: it lets an INIT or a start-up IPI that has come take effect. */
	int error = SET(vcpu->fd, KVM_GET_MP_STATE, &s->mp);
	if (!error)
		error = SET(vcpu->fd, KVM_GET_REGS, &s->regs);
	if (!error)
		error = SET(vcpu->fd, KVM_GET_SREGS2, &s->sregs);
	if (!error)
		error = SET(vcpu->fd, KVM_GET_DEBUGREGS, &s->debugregs);
	if (!error)
		error = get_events(vcpu, s, &injected, err);
	if (!error && injected)
		error = ft_error_set(err, -EBUSY, "kvm: an event is on its way into the guest");
	if (!error)
		error = get_msrs(vcpu, s, err);
	if (!error)
		error = get_xsave(vcpu, s, err);
	if (!error)
		error = get_lapic(vcpu, s, err);
	if (error)
		return error;
	*adjust_of(m, number) = msr_of(s, MSR_TSC_ADJUST);
	s->clock.icount = m->icount;
	ft_state_cpu_give(s, cpu_of(engine, number));
	if (number)
		m->devices->others[number - 1].waits = ft_state_processor_waits(s->mp.state);
	return 0;
}

int ft_kvm_pull(struct ft_engine *engine, struct ft_error *err)
{
	struct ft_machine *m = engine->m;
	for (unsigned i = 0; i < engine->vcpus; i++) {
		int error = pull(&engine->vcpu[i], err);
		if (error)
			return error;
	}
	m->nmi = engine->cpu.nmi_pending;
	uint64_t due = m->devices->lapic.s.tsc_deadline;
	ft_timer_arm(m, &m->devices->lapic.timer, due ? ft_clock_tsc_to_ns(m, due) : ft_lapic_count_ends(&m->devices->lapic));
	ft_timer_disarm(m, &engine->wake);
	m->devices->lapic.region.enabled = m->devices->lapic.s.base >> 11 & 1;
	ft_irq_refresh(m);
	return 0;
}
