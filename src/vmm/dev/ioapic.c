#include "vmm/dev/ioapic.h"

#include "vmm/dev/devices.h"

#define ENTRY_VECTOR     0xffull
#define ENTRY_LOGICAL    (1ull << 11)
#define ENTRY_PENDING    (1ull << 12)
#define ENTRY_REMOTE_IRR (1ull << 14)
#define ENTRY_LEVEL      (1ull << 15)
#define ENTRY_MASKED     (1ull << 16)
#define ENTRY_WRITABLE   (0xff0000000001afffull & ~ENTRY_PENDING)

#define VERSION (0x11u | (FT_IOAPIC_PINS - 1) << 16)

static void deliver(struct ft_ioapic *ioapic, unsigned pin)
{
	uint64_t *entry = &ioapic->s.entry[pin];
	if (*entry & ENTRY_MASKED)
		return;
	if ((*entry & ENTRY_LEVEL) && (*entry & ENTRY_REMOTE_IRR))
		return; /* still being served */
	bool accepted = ft_lapic_message(&ioapic->m->devices->lapic, (uint8_t)(*entry >> 56),
					 *entry & ENTRY_LOGICAL, (uint8_t)(*entry & ENTRY_VECTOR),
					 (unsigned)(*entry >> 8) & 7, *entry & ENTRY_LEVEL);
	if (accepted && (*entry & ENTRY_LEVEL))
		*entry |= ENTRY_REMOTE_IRR;
}

void ft_ioapic_set(struct ft_ioapic *ioapic, unsigned pin, bool level)
{
	uint32_t bit = 1u << pin;
	bool rose = level && !(ioapic->s.lines & bit);
	if (level)
		ioapic->s.lines |= bit;
	else
		ioapic->s.lines &= ~bit;
	if (rose || (level && (ioapic->s.entry[pin] & ENTRY_LEVEL)))
		deliver(ioapic, pin);
}

void ft_ioapic_end(struct ft_ioapic *ioapic, uint8_t vector)
{
	for (unsigned pin = 0; pin < FT_IOAPIC_PINS; pin++) {
		uint64_t *entry = &ioapic->s.entry[pin];
		if ((*entry & ENTRY_VECTOR) != vector || !(*entry & ENTRY_LEVEL) ||
		    !(*entry & ENTRY_REMOTE_IRR))
			continue;
		*entry &= ~ENTRY_REMOTE_IRR;
		if (ioapic->s.lines >> pin & 1)
			deliver(ioapic, pin);
	}
}

static uint32_t read_register(const struct ft_ioapic *ioapic)
{
	unsigned index = ioapic->s.select;
	if (index == 0 || index == 2)
		return (uint32_t)ioapic->s.id << 24;
	if (index == 1)
		return VERSION;
	if (index >= 0x10 && index < 0x10 + 2 * FT_IOAPIC_PINS)
		return (uint32_t)(ioapic->s.entry[(index - 0x10) / 2] >> (index & 1 ? 32 : 0));
	return 0;
}

static void write_register(struct ft_ioapic *ioapic, uint32_t value)
{
	unsigned index = ioapic->s.select;
	if (index == 0)
		ioapic->s.id = (value >> 24) & 0xf;
	if (index < 0x10 || index >= 0x10 + 2 * FT_IOAPIC_PINS)
		return;
	unsigned pin = (index - 0x10) / 2, shift = index & 1 ? 32 : 0;
	uint64_t mask = (0xffffffffull << shift) & ENTRY_WRITABLE;
	uint64_t *entry = &ioapic->s.entry[pin];
	*entry = (*entry & ~mask) | ((uint64_t)value << shift & mask);
	if (!(*entry & ENTRY_LEVEL))
		*entry &=
		    ~ENTRY_REMOTE_IRR; /* edge mode has none: how version 0x11 chips are made to forget one */
	if ((*entry & ENTRY_LEVEL) && (ioapic->s.lines >> pin & 1))
		deliver(ioapic, pin);
}

static uint64_t ioapic_read(void *device, uint64_t offset, unsigned size)
{
	struct ft_ioapic *ioapic = device;
	if (offset == 0)
		return ioapic->s.select;
	return offset == 0x10 ? read_register(ioapic) : 0;
}

static void ioapic_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
	struct ft_ioapic *ioapic = device;
	if (offset == 0)
		ioapic->s.select = (uint8_t)value;
	else if (offset == 0x10)
		write_register(ioapic, (uint32_t)value);
}

int ft_ioapic_create(struct ft_ioapic *ioapic, struct ft_machine *m, struct ft_error *err)
{
	ioapic->m = m;
	for (unsigned pin = 0; pin < FT_IOAPIC_PINS; pin++)
		ioapic->s.entry[pin] = ENTRY_MASKED;
	ioapic->region = (struct ft_region){.space = FT_SPACE_MEMORY,
					    .base = FT_IOAPIC_BASE,
					    .length = 0x1000,
					    .read = ioapic_read,
					    .write = ioapic_write,
					    .device = ioapic,
					    .name = "I/O APIC",
					    .enabled = true};
	return ft_bus_add(m, &ioapic->region, err);
}
