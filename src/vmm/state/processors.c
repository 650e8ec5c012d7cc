/* The processors besides the first: each has in one piece what the sections of a state have of the first one. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/state/format.h"

#define MSR_TSC_ADJUST   0x3bu
#define MSR_TSC_DEADLINE 0x6e0u

/* X(member): what lies alike in a state and in a processor. */
#define ALIKE(X) X(mp) X(regs) X(sregs) X(debugregs) X(xsave) X(events) X(lapic)

static uint64_t msr_of(const struct ft_state_processor *p, uint32_t index)
{
	for (unsigned i = 0; i < FT_STATE_MSR_COUNT; i++)
		if (p->msrs[i].index == index)
			return p->msrs[i].data;
	return 0;
}

int ft_state_processors_take(struct ft_state *s, struct ft_machine *m, struct ft_error *err)
{
	if (m->vcpus == 1 || !m->engine)
		return 0;
	struct ft_state *one = malloc(sizeof(*one));
	if (!one)
		return ft_error_set(err, -ENOMEM, "no memory for the machine's state");
	s->processor_count = m->vcpus - 1;
	s->present[FT_STATE_PROCESSORS] = true;
	s->present[FT_STATE_SPECULATION] = ft_model_spec_ctrl(&m->model) != 0;
	s->speculations = s->present[FT_STATE_SPECULATION] ? s->processor_count : 0;
	for (unsigned i = 1; i < m->vcpus; i++) {
		struct ft_state_processor *to = &s->processors[i - 1];
		const struct ft_processor *from = &m->devices->others[i - 1];
		memset(one, 0, sizeof(*one));
		one->clock = s->clock;
		ft_state_cpu_shape(one, m, i, &from->cpu);
		ft_state_lapic_take(one, &from->lapic);
		to->number = i;
		to->lapic_timer_start_ns = from->lapic.s.timer_start_ns;
#define X(member) to->member = one->member;
		ALIKE(X)
#undef X
		memcpy(to->msrs, one->msrs, sizeof(to->msrs));
		if (s->speculations)
			s->speculation[i - 1] = one->msrs[FT_STATE_MSR_COUNT];
	}
	free(one);
	return 0;
}

void ft_state_processor_spread(const struct ft_state *s, unsigned number, struct ft_state *one)
{
	const struct ft_state_processor *from = &s->processors[number - 1];
	memset(one, 0, sizeof(*one));
	one->present[FT_STATE_SREGS] = true;
	one->clock = s->clock;
	one->clock.tsc_adjust = msr_of(from, MSR_TSC_ADJUST);
#define X(member) one->member = from->member;
	ALIKE(X)
#undef X
	memcpy(one->msrs, from->msrs, sizeof(from->msrs));
	one->msr_count = FT_STATE_MSR_COUNT;
	if (s->speculations)
		one->msrs[one->msr_count++] = s->speculation[number - 1];
	one->board.lapic_base = from->sregs.apic_base;
	one->board.lapic_tsc_deadline = msr_of(from, MSR_TSC_DEADLINE);
	one->board.lapic_timer_start_ns = from->lapic_timer_start_ns;
}

uint8_t ft_state_processor_waits(uint32_t mp_state)
{
	return mp_state == FT_KVM_MP_UNINITIALIZED   ? FT_PROCESSOR_WAITS_FOR_INIT
	       : mp_state == FT_KVM_MP_INIT_RECEIVED ? FT_PROCESSOR_WAITS_FOR_START
						     : FT_PROCESSOR_RUNS;
}

void ft_state_processors_give(const struct ft_state *s, struct ft_state *one, struct ft_machine *m)
{
	for (unsigned i = 1; i < m->vcpus; i++) {
		struct ft_processor *to = &m->devices->others[i - 1];
		ft_state_processor_spread(s, i, one);
		ft_state_cpu_give(one, &to->cpu);
		ft_state_lapic(one, &to->lapic.s);
		to->tsc_adjust = one->clock.tsc_adjust;
		to->waits = ft_state_processor_waits(one->mp.state);
	}
}
