/* Virtual time and the timers that fire by it. */
#include "vmm/machine.h"

#include <string.h>

typedef unsigned __int128 u128;

uint64_t ft_machine_vtime(const struct ft_machine *m)
{
	const struct ft_clock *clock = &m->clock;
	return clock->base_ns +
	       (uint64_t)(((u128)(m->icount - clock->base_icount) * clock->ns_per_1024insn) >> 10);
}

uint64_t ft_machine_tsc(const struct ft_machine *m)
{
	/* vtime * khz / 10^6 without a 128-bit division. */
	uint64_t ns = ft_machine_vtime(m), ms = ns / 1000000u, rest = ns % 1000000u;
	return ms * m->clock.tsc_khz + rest * m->clock.tsc_khz / 1000000u + m->clock.tsc_adjust;
}

uint64_t ft_machine_rdtsc(struct ft_machine *m)
{
	ft_clock_charge(m, FT_COST_TSC);
	return ft_machine_tsc(m);
}

uint64_t ft_clock_tsc_to_ns(const struct ft_machine *m, uint64_t tsc)
{
	uint64_t raw = tsc - m->clock.tsc_adjust, khz = m->clock.tsc_khz;
	u128 ns = (u128)(raw / khz) * 1000000u + (raw % khz * 1000000u + khz - 1) / khz;
	return ns > UINT64_MAX ? UINT64_MAX : (uint64_t)ns;
}

uint64_t ft_clock_icount_at(const struct ft_machine *m, uint64_t vtime_ns)
{
	const struct ft_clock *clock = &m->clock;
	if (vtime_ns <= clock->base_ns)
		return clock->base_icount;
	/* Ten days ahead is as good as never: the deadline is computed again when it is reached. Keeps the product in
	 * 64 bits. */
	uint64_t ahead = vtime_ns - clock->base_ns;
	if (ahead > 1ull << 50)
		ahead = 1ull << 50;
	return clock->base_icount + (ahead * 1024 + clock->ns_per_1024insn - 1) / clock->ns_per_1024insn;
}

uint64_t ft_timer_next(const struct ft_machine *m)
{
	return m->timers ? m->timers->deadline_ns : UINT64_MAX;
}

void ft_timer_refresh(struct ft_machine *m)
{
	uint64_t ns = ft_timer_next(m);
	m->deadline = ft_clock_icount_at(m, ns < m->limit_ns ? ns : m->limit_ns);
}

void ft_clock_charge(struct ft_machine *m, uint64_t ns)
{
	m->clock.base_ns += ns;
	ft_timer_refresh(m);
}

void ft_clock_jump(struct ft_machine *m, uint64_t vtime_ns)
{
	if (vtime_ns <= ft_machine_vtime(m))
		return;
	m->clock.base_ns = vtime_ns;
	m->clock.base_icount = m->icount;
	ft_timer_refresh(m);
}

void ft_timer_register(struct ft_machine *m, struct ft_timer *timer, void (*fire)(void *), void *context)
{
	*timer = (struct ft_timer){
	    .deadline_ns = UINT64_MAX, .rank = m->timer_ranks++, .fire = fire, .context = context};
}

static void take_off_list(struct ft_machine *m, struct ft_timer *timer)
{
	if (timer->deadline_ns == UINT64_MAX)
		return;
	struct ft_timer **at = &m->timers;
	while (*at != timer)
		at = &(*at)->next;
	*at = timer->next;
	timer->deadline_ns = UINT64_MAX;
	timer->next = NULL;
}

void ft_timer_disarm(struct ft_machine *m, struct ft_timer *timer)
{
	take_off_list(m, timer);
	ft_timer_refresh(m);
}

void ft_timer_arm(struct ft_machine *m, struct ft_timer *timer, uint64_t deadline_ns)
{
	take_off_list(m, timer);
	if (deadline_ns != UINT64_MAX) {
		struct ft_timer **at = &m->timers;
		while (*at && ((*at)->deadline_ns < deadline_ns ||
			       ((*at)->deadline_ns == deadline_ns && (*at)->rank < timer->rank)))
			at = &(*at)->next;
		timer->deadline_ns = deadline_ns;
		timer->next = *at;
		*at = timer;
	}
	ft_timer_refresh(m);
}

void ft_timer_fire_due(struct ft_machine *m)
{
	/* A timer that re-arms itself in the past would keep us here: each fires once a pass, and the next boundary
	 * is one instruction on. */
	uint64_t now = ft_machine_vtime(m);
	for (uint32_t n = 0; m->timers && m->timers->deadline_ns <= now && n <= m->timer_ranks; n++) {
		struct ft_timer *timer = m->timers;
		take_off_list(m, timer);
		timer->fire(timer->context);
	}
	ft_timer_refresh(m);
}
