#include "vmm/dev/pit.h"

#define PIT_HZ 1193182u

/* Faster periods only keep our process busy; no guest can serve them. */
#define PERIOD_MIN_NS 10000u

/* floor(ns * hz / 10^9) without a 128-bit division; exact. */
static uint64_t ns_to_ticks(uint64_t ns)
{
	return ns / 1000000000u * PIT_HZ + ns % 1000000000u * PIT_HZ / 1000000000u;
}

/* First time at which that many ticks have passed. */
static uint64_t ticks_to_ns(uint64_t ticks)
{
	return ticks / PIT_HZ * 1000000000u + (ticks % PIT_HZ * 1000000000u + PIT_HZ - 1) / PIT_HZ;
}

static uint64_t elapsed(const struct ft_pit *pit, const struct ft_pit_channel *c)
{
	return ns_to_ticks(ft_machine_vtime(pit->m) - c->start_ns);
}

static bool periodic(const struct ft_pit_channel *c)
{
	return c->mode == 2 || c->mode == 3;
}

static uint16_t current_count(const struct ft_pit *pit, const struct ft_pit_channel *c)
{
	if (!c->running)
		return (uint16_t)c->count;
	uint64_t d = elapsed(pit, c);
	if (c->mode == 2)
		return (uint16_t)(c->count - d % c->count);
	if (c->mode == 3)
		return (uint16_t)(c->count - 2 * d % c->count);
	return (uint16_t)(c->count - d);
}

static bool output(const struct ft_pit *pit, const struct ft_pit_channel *c)
{
	if (!c->running)
		return periodic(c);
	uint64_t d = elapsed(pit, c);
	if (c->mode == 2)
		return d % c->count != c->count - 1;
	if (c->mode == 3)
		return d % c->count < (c->count + 1) / 2;
	return d >= c->count;
}

/* Channel 0 interrupts when it runs out. */
static void schedule(struct ft_pit *pit)
{
	const struct ft_pit_channel *c = &pit->s.channel[0];
	if (!c->running) {
		ft_timer_disarm(pit->m, &pit->timer);
		return;
	}
	uint64_t ticks = c->count;
	if (periodic(c))
		ticks = (elapsed(pit, c) / c->count + 1) * c->count;
	uint64_t deadline = c->start_ns + ticks_to_ns(ticks), now = ft_machine_vtime(pit->m);
	if (periodic(c) && deadline < now + PERIOD_MIN_NS)
		deadline = now + PERIOD_MIN_NS;
	ft_timer_arm(pit->m, &pit->timer, deadline);
}

static void fired(void *context)
{
	struct ft_pit *pit = context;
	ft_irq_set(pit->m, 0, true);
	ft_irq_set(pit->m, 0, false);
	if (periodic(&pit->s.channel[0]))
		schedule(pit);
}

static void load(struct ft_pit *pit, struct ft_pit_channel *c, uint32_t count)
{
	c->count = count ? count : 65536;
	c->start_ns = ft_machine_vtime(pit->m);
	c->running = c->gate;
	if (c == &pit->s.channel[0])
		schedule(pit);
}

static void latch_count(struct ft_pit *pit, struct ft_pit_channel *c)
{
	if (c->count_latched)
		return;
	c->latched_count = current_count(pit, c);
	c->count_latched = c->access == 3 ? 2 : 1;
}

static void latch_status(struct ft_pit *pit, struct ft_pit_channel *c)
{
	if (c->status_latched)
		return;
	c->latched_status = (uint8_t)((output(pit, c) ? 0x80 : 0) | c->access << 4 | c->mode << 1 | c->bcd);
	c->status_latched = 1;
}

static void write_control(struct ft_pit *pit, uint8_t value)
{
	if (value >> 6 == 3) { /* read-back */
		for (unsigned i = 0; i < 3; i++) {
			if (!(value >> (i + 1) & 1))
				continue;
			if (!(value & 0x20))
				latch_count(pit, &pit->s.channel[i]);
			if (!(value & 0x10))
				latch_status(pit, &pit->s.channel[i]);
		}
		return;
	}
	struct ft_pit_channel *c = &pit->s.channel[value >> 6];
	uint8_t access = value >> 4 & 3;
	if (!access) {
		latch_count(pit, c);
		return;
	}
	c->access = access;
	c->mode = value >> 1 & 7;
	if (c->mode > 5)
		c->mode &= 3; /* 6 and 7 are 2 and 3 */
	c->bcd = value & 1;
	c->read_high = c->write_high = c->count_latched = c->status_latched = c->running = 0;
	if (c == &pit->s.channel[0])
		schedule(pit);
}

static uint8_t read_count(struct ft_pit *pit, struct ft_pit_channel *c)
{
	if (c->status_latched) {
		c->status_latched = 0;
		return c->latched_status;
	}
	uint16_t count = c->count_latched ? c->latched_count : current_count(pit, c);
	bool high = c->access == 2 || (c->access == 3 && c->read_high);
	if (c->access == 3)
		c->read_high ^= 1;
	if (c->count_latched)
		c->count_latched--;
	return (uint8_t)(high ? count >> 8 : count);
}

static void write_count(struct ft_pit *pit, struct ft_pit_channel *c, uint8_t value)
{
	if (c->access == 3 && !c->write_high) {
		c->write_low_byte = value;
		c->write_high = 1;
		return;
	}
	uint32_t count = c->access == 1 ? value : (uint32_t)value << 8;
	if (c->access == 3) {
		count |= c->write_low_byte;
		c->write_high = 0;
	}
	load(pit, c, count);
}

static uint64_t ports_read(void *device, uint64_t offset, unsigned size)
{
	struct ft_pit *pit = device;
	return offset < 3 ? read_count(pit, &pit->s.channel[offset]) : 0xff;
}

static void ports_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
	struct ft_pit *pit = device;
	if (offset == 3)
		write_control(pit, (uint8_t)value);
	else
		write_count(pit, &pit->s.channel[offset], (uint8_t)value);
}

static uint64_t gate_read(void *device, uint64_t offset, unsigned size)
{
	struct ft_pit *pit = device;
	uint64_t refresh = ft_machine_vtime(pit->m) / 15085 & 1; /* toggles with each DRAM refresh */
	return pit->s.speaker | refresh << 4 | (uint64_t)output(pit, &pit->s.channel[2]) << 5;
}

static void gate_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
	struct ft_pit *pit = device;
	struct ft_pit_channel *c = &pit->s.channel[2];
	bool rose = (value & 1) && !c->gate;
	pit->s.speaker = value & 3;
	c->gate = value & 1;
	if (rose) {
		c->start_ns = ft_machine_vtime(pit->m);
		c->running = 1;
	} else if (!c->gate) {
		c->running = 0;
	}
}

int ft_pit_create(struct ft_pit *pit, struct ft_machine *m, struct ft_error *err)
{
	pit->m = m;
	for (unsigned i = 0; i < 3; i++) {
		pit->s.channel[i].count = 65536;
		pit->s.channel[i].access = 3;
		pit->s.channel[i].gate = i != 2;
		pit->s.channel[i].mode = 3;
	}
	ft_timer_register(m, &pit->timer, fired, pit);
	pit->ports = (struct ft_region){.space = FT_SPACE_IO,
					.base = 0x40,
					.length = 4,
					.read = ports_read,
					.write = ports_write,
					.device = pit,
					.name = "interval timer",
					.enabled = true};
	pit->gate = (struct ft_region){.space = FT_SPACE_IO,
				       .base = 0x61,
				       .length = 1,
				       .read = gate_read,
				       .write = gate_write,
				       .device = pit,
				       .name = "speaker gate",
				       .enabled = true};
	int error = ft_bus_add(m, &pit->ports, err);
	return error ? error : ft_bus_add(m, &pit->gate, err);
}
