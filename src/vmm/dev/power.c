#include "vmm/dev/power.h"

#define PM_TIMER_HZ 3579545u

enum { CONTROL_SCI_ENABLED = 1, CONTROL_SLEEP = 1 << 13 };

static uint32_t timer_count(const struct ft_power *power)
{
	uint64_t ns = ft_machine_vtime(power->m);
	return (uint32_t)((ns / 1000000000u * PM_TIMER_HZ + ns % 1000000000u * PM_TIMER_HZ / 1000000000u) &
			  0xffffff);
}

static uint64_t registers_read(void *device, uint64_t offset, unsigned size)
{
	struct ft_power *power = device;
	/* Status is always 0: there is no event source. */
	uint32_t word[4] = {(uint32_t)power->s.enable << 16, power->s.control | CONTROL_SCI_ENABLED,
			    timer_count(power), 0};
	return word[offset >> 2] >> (offset & 3) * 8;
}

static void write_control(struct ft_power *power, uint16_t value)
{
	power->s.control = value & 0x1c06;
	if ((value & CONTROL_SLEEP) && (value >> 10 & 7) == FT_POWER_SLEEP_OFF)
		ft_machine_request_reset(power->m, FT_RESET_POWEROFF);
}

static void registers_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
	struct ft_power *power = device;
	if (offset == FT_POWER_EVENT + 2 - FT_POWER_BASE)
		power->s.enable = value & 0x721;
	else if (offset == FT_POWER_CONTROL - FT_POWER_BASE && size >= 2)
		write_control(power, (uint16_t)value);
}

void ft_power_write_reset(struct ft_power *power, uint8_t value)
{
	if ((value & 4) && !(power->s.reset & 4))
		ft_machine_request_reset(power->m, FT_RESET_REBOOT);
	power->s.reset = value & 0xe;
}

int ft_power_create(struct ft_power *power, struct ft_machine *m, struct ft_error *err)
{
	power->m = m;
	power->registers = (struct ft_region){.space = FT_SPACE_IO,
					      .base = FT_POWER_BASE,
					      .length = 16,
					      .read = registers_read,
					      .write = registers_write,
					      .device = power,
					      .name = "ACPI registers",
					      .enabled = true};
	return ft_bus_add(m, &power->registers, err);
}
