#include "vmm/dev/lapic.h"

#include <string.h>

#include "vmm/dev/devices.h"

#define BASE_ENABLE  (1ull << 11)
#define BASE_BSP     (1ull << 8)
#define LVT_MASKED   (1u << 16)
#define LVT_PERIODIC (1u << 17)
#define LVT_DEADLINE (2u << 17)
#define LVT_MODE     (3u << 17)
#define ENABLE       (1u << 8) /* spurious vector register */

enum { MODE_FIXED = 0, MODE_LOWEST = 1, MODE_NMI = 4, MODE_EXTINT = 7 };

/* A periodic timer that ticks faster than this only keeps our process busy. */
#define PERIOD_MIN_NS 1000u

/* As KVM's: the bits that tell how an interrupt is faring (12, 14) are kept, too. */
static const uint32_t lvt_writable[FT_LVTS] = {
    [FT_LVT_TIMER] = 0x710ff, [FT_LVT_THERMAL] = 0x117ff, [FT_LVT_PERFORMANCE] = 0x117ff,
    [FT_LVT_LINT0] = 0x1f7ff, [FT_LVT_LINT1] = 0x1f7ff,   [FT_LVT_ERROR] = 0x110ff,
};

static bool bit_test(const uint32_t bits[8], unsigned n)
{
	return bits[n >> 5] >> (n & 31) & 1;
}

static void bit_put(uint32_t bits[8], unsigned n, bool set)
{
	if (set)
		bits[n >> 5] |= 1u << (n & 31);
	else
		bits[n >> 5] &= ~(1u << (n & 31));
}

static int highest(const uint32_t bits[8])
{
	for (int i = 7; i >= 0; i--)
		if (bits[i])
			return i * 32 + 31 - __builtin_clz(bits[i]);
	return -1;
}

static bool enabled(const struct ft_lapic *lapic)
{
	return (lapic->s.base & BASE_ENABLE) && (lapic->s.spurious & ENABLE);
}

static uint32_t processor_priority(const struct ft_lapic *lapic)
{
	int served = highest(lapic->s.in_service);
	uint32_t class = served < 0 ? 0 : (uint32_t)served & 0xf0;
	return (lapic->s.tpr & 0xf0) >= class ? lapic->s.tpr : class;
}

int ft_lapic_pending(const struct ft_lapic *lapic)
{
	if (!enabled(lapic))
		return -1;
	int vector = highest(lapic->s.requests);
	if (vector < 0 || ((uint32_t)vector & 0xf0) <= (processor_priority(lapic) & 0xf0))
		return -1;
	return vector;
}

void ft_lapic_accept(struct ft_lapic *lapic, int vector)
{
	bit_put(lapic->s.requests, (unsigned)vector, false);
	bit_put(lapic->s.in_service, (unsigned)vector, true);
}

bool ft_lapic_takes_pic(const struct ft_lapic *lapic)
{
	if (!(lapic->s.base & BASE_ENABLE))
		return true;
	uint32_t lint0 = lapic->s.lvt[FT_LVT_LINT0];
	return !(lint0 & LVT_MASKED) && (lint0 >> 8 & 7) == MODE_EXTINT;
}

/* Errors (SDM Vol. 3A 11.5.3) are not told, as they are not by KVM. */
static bool request(struct ft_lapic *lapic, uint8_t vector, bool level)
{
	if (vector < 16 || !enabled(lapic))
		return false;
	bit_put(lapic->s.requests, vector, true);
	bit_put(lapic->s.trigger, vector, level);
	ft_irq_refresh(lapic->m);
	return true;
}

static bool addressed(const struct ft_lapic *lapic, uint8_t destination, bool logical)
{
	if (destination == 0xff)
		return true;
	if (!logical)
		return destination == lapic->s.id >> 24;
	uint8_t own = (uint8_t)(lapic->s.ldr >> 24);
	if (lapic->s.dfr >> 28 == 0xf) /* flat */
		return own & destination;
	return own >> 4 == destination >> 4 && (own & destination & 0xf);
}

static bool other_takes(struct ft_processor *other, uint8_t destination, bool logical, uint8_t vector, unsigned mode, bool level)
{
	if (!addressed(&other->lapic, destination, logical))
		return false;
	if (mode == MODE_FIXED || mode == MODE_LOWEST)
		return request(&other->lapic, vector, level);
	if (mode == MODE_NMI)
		other->cpu.nmi_pending = 1;
	return true;
}

bool ft_lapic_message(struct ft_lapic *lapic, uint8_t destination, bool logical, uint8_t vector,
		      unsigned mode, bool level)
{
	struct ft_machine *m = lapic->m;
	bool accepted;
	if (m->engine && m->engine_ops->message &&
	    m->engine_ops->message(m->engine, FT_LAPIC_BASE | (uint64_t)destination << 12 | (uint64_t)logical << 2,
				   vector | mode << 8 | 1u << 14 | (uint32_t)level << 15, &accepted))
		return accepted;
	accepted = false;
	if (addressed(lapic, destination, logical)) {
		if (mode == MODE_FIXED || mode == MODE_LOWEST)
			accepted = request(lapic, vector, level);
		else if (mode == MODE_NMI)
			m->nmi = true;
		/* SMI, INIT and start-up have nobody to reach: there is no SMM, and no other processor runs without an engine. */
		accepted |= mode != MODE_FIXED && mode != MODE_LOWEST;
	}
	for (unsigned i = 0; i + 1 < m->vcpus && !(accepted && mode == MODE_LOWEST); i++)
		accepted |= other_takes(&m->devices->others[i], destination, logical, vector, mode, level);
	return accepted;
}

static void end_of_interrupt(struct ft_lapic *lapic)
{
	int vector = highest(lapic->s.in_service);
	if (vector < 0)
		return;
	bit_put(lapic->s.in_service, (unsigned)vector, false);
	if (bit_test(lapic->s.trigger, (unsigned)vector))
		ft_ioapic_end(&lapic->m->devices->ioapic, (uint8_t)vector);
	ft_irq_refresh(lapic->m);
}

static void send_ipi(struct ft_lapic *lapic)
{
	uint32_t low = lapic->s.command_low;
	unsigned mode = low >> 8 & 7, shorthand = low >> 18 & 3;
	uint8_t vector = (uint8_t)low;
	if (shorthand == 0)
		ft_lapic_message(lapic, (uint8_t)(lapic->s.command_high >> 24), low >> 11 & 1, vector, mode,
				 false);
	else if (shorthand != 3) /* self, all; not "all but self": nobody */
		ft_lapic_message(lapic, 0xff, false, vector, mode, false);
}

/* ---- Timer ---- */

static uint32_t divisor(const struct ft_lapic_state *s)
{
	uint32_t code = (s->divide & 3) | (s->divide >> 1 & 4);
	return code == 7 ? 1 : 2u << code;
}

static uint64_t ticks_to_ns(const struct ft_lapic_state *s, uint64_t ticks)
{
	return ticks * divisor(s) * (1000000u / FT_CRYSTAL_KHZ);
}

static uint32_t mode_of(const struct ft_lapic_state *s)
{
	return s->lvt[FT_LVT_TIMER] & LVT_MODE;
}

static uint32_t timer_mode(const struct ft_lapic *lapic)
{
	return mode_of(&lapic->s);
}

static uint64_t period_ns(const struct ft_lapic *lapic)
{
	uint64_t ns = ticks_to_ns(&lapic->s, lapic->s.initial_count);
	return ns < PERIOD_MIN_NS ? PERIOD_MIN_NS : ns;
}

static void start_timer(struct ft_lapic *lapic)
{
	uint64_t deadline = UINT64_MAX;
	if (timer_mode(lapic) == LVT_DEADLINE) {
		/* One that the TSC is past, by having been set forward perhaps to where it never was below, is due. */
		if (lapic->s.tsc_deadline)
			deadline = lapic->s.tsc_deadline <= ft_machine_tsc(lapic->m)
				       ? ft_machine_vtime(lapic->m)
				       : ft_clock_tsc_to_ns(lapic->m, lapic->s.tsc_deadline);
	} else if (lapic->s.initial_count) {
		lapic->s.timer_start_ns = ft_machine_vtime(lapic->m);
		deadline = lapic->s.timer_start_ns + (timer_mode(lapic) == LVT_PERIODIC
							  ? period_ns(lapic)
							  : ticks_to_ns(&lapic->s, lapic->s.initial_count));
	}
	ft_timer_arm(lapic->m, &lapic->timer, deadline);
}

uint32_t ft_lapic_current_count(const struct ft_lapic_state *s, uint64_t vtime_ns)
{
	if (mode_of(s) == LVT_DEADLINE || !s->initial_count)
		return 0;
	uint64_t passed = (vtime_ns - s->timer_start_ns) / ticks_to_ns(s, 1);
	if (mode_of(s) == LVT_PERIODIC)
		passed %= s->initial_count;
	return passed >= s->initial_count ? 0 : s->initial_count - (uint32_t)passed;
}

uint64_t ft_lapic_count_ends(const struct ft_lapic *lapic)
{
	uint64_t now = ft_machine_vtime(lapic->m);
	uint32_t left = ft_lapic_current_count(&lapic->s, now);
	return left ? now + ticks_to_ns(&lapic->s, left) : UINT64_MAX;
}

static void timer_fired(void *context)
{
	struct ft_lapic *lapic = context;
	if (timer_mode(lapic) == LVT_DEADLINE) {
		lapic->s.tsc_deadline = 0;
	} else if (timer_mode(lapic) == LVT_PERIODIC) {
		/* A step of the live clock may have passed several ticks: they become one interrupt, and the phase
		 * stays. */
		uint64_t period = period_ns(lapic), now = ft_machine_vtime(lapic->m);
		lapic->s.timer_start_ns += (now - lapic->s.timer_start_ns) / period * period;
		ft_timer_arm(lapic->m, &lapic->timer, lapic->s.timer_start_ns + period);
	}
	uint32_t lvt = lapic->s.lvt[FT_LVT_TIMER];
	if (!(lvt & LVT_MASKED))
		request(lapic, (uint8_t)lvt, false);
}

static void write_lvt(struct ft_lapic *lapic, unsigned n, uint32_t value)
{
	uint32_t old = lapic->s.lvt[n];
	lapic->s.lvt[n] = value & lvt_writable[n];
	if (!(lapic->s.spurious & ENABLE))
		lapic->s.lvt[n] |= LVT_MASKED;
	if (n == FT_LVT_TIMER && ((old ^ value) & LVT_MODE)) {
		/* Changing the mode disarms (SDM 11.5.4.1). */
		lapic->s.initial_count = 0;
		lapic->s.tsc_deadline = 0;
		ft_timer_disarm(lapic->m, &lapic->timer);
	}
}

static void write_spurious(struct ft_lapic *lapic, uint32_t value)
{
	lapic->s.spurious = value & 0x3ff;
	if (!(value & ENABLE))
		for (unsigned i = 0; i < FT_LVTS; i++)
			lapic->s.lvt[i] |= LVT_MASKED;
}

/* ---- Registers ---- */

static int lvt_index(uint64_t offset)
{
	switch (offset) {
	case 0x320:
		return FT_LVT_TIMER;
	case 0x330:
		return FT_LVT_THERMAL;
	case 0x340:
		return FT_LVT_PERFORMANCE;
	case 0x350:
		return FT_LVT_LINT0;
	case 0x360:
		return FT_LVT_LINT1;
	case 0x370:
		return FT_LVT_ERROR;
	}
	return -1;
}

static uint32_t read_register(const struct ft_lapic *lapic, uint64_t offset)
{
	if (lvt_index(offset) >= 0)
		return lapic->s.lvt[lvt_index(offset)];
	if (offset >= 0x100 && offset < 0x180)
		return lapic->s.in_service[(offset - 0x100) >> 4];
	if (offset >= 0x180 && offset < 0x200)
		return lapic->s.trigger[(offset - 0x180) >> 4];
	if (offset >= 0x200 && offset < 0x280)
		return lapic->s.requests[(offset - 0x200) >> 4];
	switch (offset) {
	case 0x20:
		return lapic->s.id;
	case 0x30:
		return FT_LAPIC_VERSION;
	case 0x80:
		return lapic->s.tpr;
	case 0xa0:
		return processor_priority(lapic);
	case 0xd0:
		return lapic->s.ldr;
	case 0xe0:
		return lapic->s.dfr;
	case 0xf0:
		return lapic->s.spurious;
	case 0x280:
		return lapic->s.error;
	case 0x300:
		return lapic->s.command_low;
	case 0x310:
		return lapic->s.command_high;
	case 0x380:
		return lapic->s.initial_count;
	case 0x390:
		return ft_lapic_current_count(&lapic->s, ft_machine_vtime(lapic->m));
	case 0x3e0:
		return lapic->s.divide;
	}
	return 0;
}

/* A part of a register can be read, but only a whole one written: what SDM Vol. 3A 11.4.1 leaves open is as with KVM. */
static uint64_t lapic_read(void *device, uint64_t offset, unsigned size)
{
	unsigned within = offset & 0xf;
	return within + size <= 4 ? read_register(device, offset - within) >> 8 * within : 0;
}

static void lapic_write(void *device, uint64_t offset, unsigned size, uint64_t wide)
{
	struct ft_lapic *lapic = device;
	uint32_t value = (uint32_t)wide;
	if (size != 4 || (offset & 0xf))
		return;
	if (lvt_index(offset) >= 0) {
		write_lvt(lapic, (unsigned)lvt_index(offset), value);
		ft_irq_refresh(lapic->m);
		return;
	}
	switch (offset) {
	case 0x20:
		lapic->s.id = value & 0xff000000;
		break;
	case 0x80:
		lapic->s.tpr = value & 0xff;
		break;
	case 0xb0:
		end_of_interrupt(lapic);
		break;
	case 0xd0:
		lapic->s.ldr = value & 0xff000000;
		break;
	case 0xe0:
		lapic->s.dfr = value | 0x0fffffff;
		break;
	case 0xf0:
		write_spurious(lapic, value);
		break;
	case 0x280: /* what a state of before may bring */
		lapic->s.error = lapic->s.error_pending = 0;
		break;
	case 0x300:
		lapic->s.command_low = value & 0xccfff & ~(1u << 12);
		send_ipi(lapic);
		break;
	case 0x310:
		lapic->s.command_high = value & 0xff000000;
		break;
	case 0x380:
		if (timer_mode(lapic) == LVT_DEADLINE)
			break;
		lapic->s.initial_count = value;
		start_timer(lapic);
		break;
	case 0x3e0:
		lapic->s.divide = value & 0xb;
		if (timer_mode(lapic) != LVT_DEADLINE)
			start_timer(lapic);
		break;
	}
	ft_irq_refresh(lapic->m);
}

/* ---- MSRs ---- */

#define MSR_TSC          0x10
#define MSR_APIC_BASE    0x1b
#define MSR_TSC_ADJUST   0x3b
#define MSR_TSC_DEADLINE 0x6e0

int ft_platform_rdmsr(struct ft_machine *m, uint32_t index, uint64_t *value)
{
	struct ft_lapic *lapic = &m->devices->lapic;
	switch (index) {
	case MSR_TSC:
		*value = ft_machine_rdtsc(m);
		return 0;
	case MSR_TSC_ADJUST:
		*value = m->clock.tsc_adjust;
		return 0;
	case MSR_APIC_BASE:
		*value = lapic->s.base;
		return 0;
	case MSR_TSC_DEADLINE:
		*value = lapic->s.tsc_deadline;
		return 0;
	}
	return -1;
}

int ft_platform_wrmsr(struct ft_machine *m, uint32_t index, uint64_t value)
{
	struct ft_lapic *lapic = &m->devices->lapic;
	switch (index) {
	case MSR_TSC:
		m->clock.tsc_adjust += value - ft_machine_tsc(m);
		break;
	case MSR_TSC_ADJUST:
		m->clock.tsc_adjust = value;
		break;
	case MSR_APIC_BASE:
		/* Moving the registers and x2APIC are not offered. */
		if ((value & ~(BASE_ENABLE | BASE_BSP)) != FT_LAPIC_BASE)
			return -1;
		lapic->s.base = value | BASE_BSP;
		lapic->region.enabled = value & BASE_ENABLE;
		ft_irq_refresh(m);
		return 0;
	case MSR_TSC_DEADLINE:
		if (timer_mode(lapic) != LVT_DEADLINE)
			return 0;
		lapic->s.tsc_deadline = value;
		break;
	default:
		return -1;
	}
	if (timer_mode(lapic) == LVT_DEADLINE) /* set, or its TSC has moved */
		start_timer(lapic);
	return 0;
}

void ft_lapic_restored(struct ft_lapic *lapic)
{
	lapic->region.enabled = lapic->s.base & BASE_ENABLE;
}

uint64_t ft_platform_cr8(struct ft_machine *m)
{
	return m->devices->lapic.s.tpr >> 4;
}

void ft_platform_set_cr8(struct ft_machine *m, uint64_t value)
{
	m->devices->lapic.s.tpr = (uint32_t)(value & 0xf) << 4;
	ft_irq_refresh(m);
}

void ft_lapic_reset(struct ft_lapic *lapic, struct ft_machine *m, unsigned number)
{
	*lapic = (struct ft_lapic){.m = m, .s = {.base = FT_LAPIC_BASE | BASE_ENABLE, .spurious = 0xff, .dfr = 0xffffffff, .id = number << 24}};
	for (unsigned i = 0; i < FT_LVTS; i++)
		lapic->s.lvt[i] = LVT_MASKED;
}

int ft_lapic_create(struct ft_lapic *lapic, struct ft_machine *m, struct ft_error *err)
{
	lapic->m = m;
	/* As firmware leaves it: enabled, virtual wire mode (LINT0 takes the PIC, LINT1 is NMI). */
	lapic->s.base = FT_LAPIC_BASE | BASE_ENABLE | BASE_BSP;
	lapic->s.spurious = ENABLE | 0xff;
	lapic->s.dfr = 0xffffffff;
	for (unsigned i = 0; i < FT_LVTS; i++)
		lapic->s.lvt[i] = LVT_MASKED;
	lapic->s.lvt[FT_LVT_LINT0] = MODE_EXTINT << 8;
	lapic->s.lvt[FT_LVT_LINT1] = MODE_NMI << 8;
	ft_timer_register(m, &lapic->timer, timer_fired, lapic);
	lapic->region = (struct ft_region){.space = FT_SPACE_MEMORY,
					   .base = FT_LAPIC_BASE,
					   .length = 0x1000,
					   .read = lapic_read,
					   .write = lapic_write,
					   .device = lapic,
					   .name = "local APIC",
					   .enabled = true};
	return ft_bus_add(m, &lapic->region, err);
}
