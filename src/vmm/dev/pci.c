#include "vmm/dev/pci.h"

#include <errno.h>
#include <string.h>

#include "vmm/dev/devices.h"

#define CONFIG_PORT 0xcf8

enum {
	COMMAND = 0x04,
	STATUS = 0x06,
	BAR0 = 0x10,
	CAPABILITIES = 0x34,
	INTERRUPT_LINE = 0x3c,
	INTERRUPT_PIN = 0x3d,
	FIRST_CAPABILITY = 0x40
};
enum { COMMAND_MEMORY = 2, COMMAND_MASTER = 4, COMMAND_INTX_OFF = 0x400 };
enum { STATUS_INTERRUPT = 8, STATUS_CAPABILITIES = 0x10 };
enum { CAPABILITY_MSIX = 0x11, MSIX_ENABLE = 0x8000, MSIX_MASK_ALL = 0x4000, VECTOR_MASKED = 1 };

#define PBA_OFFSET 0x800u

static uint16_t get16(const uint8_t *at)
{
	return (uint16_t)(at[0] | at[1] << 8);
}

static void put16(uint8_t *at, uint16_t value)
{
	at[0] = (uint8_t)value;
	at[1] = (uint8_t)(value >> 8);
}

static void put32(uint8_t *at, uint32_t value)
{
	put16(at, (uint16_t)value);
	put16(at + 2, (uint16_t)(value >> 16));
}

/* ---- Interrupts ---- */

static void update_line(struct ft_pci_function *function)
{
	uint8_t *config = function->s.config;
	bool level = function->s.line && !(get16(config + COMMAND) & COMMAND_INTX_OFF) &&
		     !ft_pci_msix_enabled(function);
	config[STATUS] =
	    (uint8_t)((config[STATUS] & ~STATUS_INTERRUPT) | (function->s.line ? STATUS_INTERRUPT : 0));
	ft_irq_set(function->pci->m, FT_PCI_GSI_BASE + function->slot, level);
}

void ft_pci_interrupt(struct ft_pci_function *function, bool level)
{
	if (function->s.line == level)
		return;
	function->s.line = level;
	update_line(function);
}

bool ft_pci_master(const struct ft_pci_function *function)
{
	return get16(function->s.config + COMMAND) & COMMAND_MASTER;
}

static uint16_t msix_control(const struct ft_pci_function *function)
{
	return function->msix_capability ? get16(function->s.config + function->msix_capability + 2) : 0;
}

bool ft_pci_msix_enabled(const struct ft_pci_function *function)
{
	return msix_control(function) & MSIX_ENABLE;
}

void ft_pci_msix_send(struct ft_pci_function *function, unsigned vector)
{
	if (vector >= FT_PCI_MSIX_VECTORS)
		return;
	const uint32_t *entry = function->s.msix[vector];
	if ((msix_control(function) & MSIX_MASK_ALL) || (entry[3] & VECTOR_MASKED)) {
		function->s.msix_pending |= 1u << vector;
		return;
	}
	/* Only a bus master may write, and a message is a write. */
	if (ft_pci_master(function))
		ft_irq_message(function->pci->m, (uint64_t)entry[1] << 32 | entry[0], entry[2]);
}

static void send_pending(struct ft_pci_function *function)
{
	uint32_t pending = function->s.msix_pending;
	if (!pending || !ft_pci_msix_enabled(function))
		return;
	function->s.msix_pending = 0;
	for (unsigned vector = 0; vector < FT_PCI_MSIX_VECTORS; vector++)
		if (pending >> vector & 1)
			ft_pci_msix_send(function, vector);
}

static uint64_t table_read(void *device, uint64_t offset, unsigned size)
{
	struct ft_pci_function *function = device;
	uint64_t value = 0;
	if (offset < sizeof(function->s.msix) && size <= sizeof(function->s.msix) - offset)
		memcpy(&value, (const uint8_t *)function->s.msix + offset, size);
	else if (offset == PBA_OFFSET)
		value = function->s.msix_pending;
	return value;
}

static void table_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
	struct ft_pci_function *function = device;
	/* Software writes whole dwords or quadwords (PCI 3.0 section 6.8.2). */
	if ((size != 4 && size != 8) || offset % size || offset >= sizeof(function->s.msix))
		return;
	memcpy((uint8_t *)function->s.msix + offset, &value, size);
	send_pending(function);
}

/* ---- Configuration space ---- */

static void place_bars(struct ft_pci_function *function)
{
	bool memory = get16(function->s.config + COMMAND) & COMMAND_MEMORY;
	for (unsigned n = 0; n < FT_PCI_BARS; n++) {
		struct ft_region *bar = &function->bar[n];
		if (!bar->length)
			continue;
		const uint8_t *at = function->s.config + BAR0 + 4 * n;
		uint64_t base = (get16(at) | (uint64_t)get16(at + 2) << 16) & ~0xfull;
		ft_bus_move(function->pci->m, bar, base, memory && base);
	}
}

static struct ft_pci_function *selected(const struct ft_pci *pci)
{
	uint32_t address = pci->s.address;
	unsigned bus = address >> 16 & 0xff, slot = address >> 11 & 31, number = address >> 8 & 7;
	if (!(address >> 31) || bus || number || slot >= FT_PCI_SLOTS)
		return NULL;
	return pci->functions[slot];
}

static uint64_t config_read(struct ft_pci *pci, unsigned at, unsigned size)
{
	const struct ft_pci_function *function = selected(pci);
	uint64_t value = UINT64_MAX;
	if (function && at + size <= sizeof(function->s.config)) {
		value = 0;
		memcpy(&value, function->s.config + at, size);
	}
	return value;
}

static void config_write(struct ft_pci *pci, unsigned at, unsigned size, uint64_t value)
{
	struct ft_pci_function *function = selected(pci);
	if (!function || at + size > sizeof(function->s.config))
		return;
	bool master = ft_pci_master(function);
	for (unsigned i = 0; i < size; i++) {
		uint8_t *byte = &function->s.config[at + i], mask = function->writable[at + i];
		*byte = (uint8_t)((*byte & ~mask) | ((uint8_t)(value >> 8 * i) & mask));
	}
	place_bars(function);
	update_line(function);
	send_pending(function);
	if (!master && ft_pci_master(function) && function->mastered)
		function->mastered(function);
}

static uint64_t ports_read(void *device, uint64_t offset, unsigned size)
{
	struct ft_pci *pci = device;
	if (offset >= 4)
		return config_read(pci, (pci->s.address & 0xfc) + (unsigned)(offset & 3), size);
	return offset == 0 && size == 4 ? pci->s.address : UINT64_MAX;
}

static void ports_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
	struct ft_pci *pci = device;
	if (offset >= 4)
		config_write(pci, (pci->s.address & 0xfc) + (unsigned)(offset & 3), size, value);
	else if (offset == 0 && size == 4)
		pci->s.address = (uint32_t)value & 0x80fffffc;
	else if (offset == FT_POWER_RESET - CONFIG_PORT && size == 1)
		ft_power_write_reset(&pci->m->devices->power, (uint8_t)value);
}

void ft_pci_restored(struct ft_pci_function *function)
{
	place_bars(function);
}

bool ft_pci_possible(const struct ft_pci_function *function, const struct ft_pci_state *state, unsigned *at)
{
	for (*at = 0; *at < sizeof(state->config); ++*at) {
		uint8_t fixed = (uint8_t)~function->writable[*at], own = function->s.config[*at];
		if (*at == STATUS)
			own = (uint8_t)((own & ~STATUS_INTERRUPT) | (state->line ? STATUS_INTERRUPT : 0));
		if ((state->config[*at] ^ own) & fixed)
			return false;
	}
	return true;
}

/* ---- Building ---- */

int ft_pci_add(struct ft_pci *pci, struct ft_pci_function *function, uint16_t vendor, uint16_t device,
	       uint32_t class, uint16_t subsystem, struct ft_error *err)
{
	unsigned slot = 0;
	while (slot < FT_PCI_SLOTS && pci->functions[slot])
		slot++;
	if (slot == FT_PCI_SLOTS)
		return ft_error_set(err, -ENOSPC, "no PCI slot is left");
	uint8_t *config = function->s.config;
	put16(config, vendor);
	put16(config + 2, device);
	put32(config + 8, class << 8 | 1);
	put16(config + 0x2c, vendor);
	put16(config + 0x2e, subsystem);
	put16(function->writable + COMMAND, COMMAND_MEMORY | COMMAND_MASTER | COMMAND_INTX_OFF);
	function->writable[INTERRUPT_LINE] = 0xff;
	function->pci = pci;
	function->slot = slot;
	function->capability_end = FIRST_CAPABILITY;
	pci->functions[slot] = function;
	return 0;
}

int ft_pci_add_bar(struct ft_pci_function *function, unsigned n, const struct ft_region *region,
		   struct ft_error *err)
{
	uint32_t length = (uint32_t)region->length;
	uint32_t base = FT_PCI_WINDOW + function->slot * 0x100000u + n * 0x10000u;
	put32(function->s.config + BAR0 + 4 * n, base);
	put32(function->writable + BAR0 + 4 * n, ~(length - 1));
	put16(function->s.config + COMMAND, COMMAND_MEMORY);
	function->bar[n] = *region;
	function->bar[n].space = FT_SPACE_MEMORY;
	function->bar[n].base = base;
	function->bar[n].enabled = true;
	return ft_bus_add(function->pci->m, &function->bar[n], err);
}

unsigned ft_pci_add_capability(struct ft_pci_function *function, uint8_t id, const void *body,
			       unsigned length)
{
	uint8_t *config = function->s.config;
	unsigned at = function->capability_end;
	config[at] = id;
	memcpy(config + at + 2, body, length);
	config[function->capability_last ? function->capability_last + 1 : CAPABILITIES] = (uint8_t)at;
	config[STATUS] |= STATUS_CAPABILITIES;
	function->capability_last = at;
	function->capability_end = (at + 2 + length + 3) & ~3u;
	return at;
}

int ft_pci_add_msix(struct ft_pci_function *function, unsigned n, unsigned vectors, struct ft_error *err)
{
	uint8_t body[10];
	put16(body, (uint16_t)(vectors - 1));
	put32(body + 2, n);
	put32(body + 6, PBA_OFFSET | n);
	function->msix_capability = ft_pci_add_capability(function, CAPABILITY_MSIX, body, sizeof(body));
	put16(function->writable + function->msix_capability + 2, MSIX_ENABLE | MSIX_MASK_ALL);
	for (unsigned i = 0; i < FT_PCI_MSIX_VECTORS; i++)
		function->s.msix[i][3] = VECTOR_MASKED;
	function->s.config[INTERRUPT_PIN] = 1;
	function->s.config[INTERRUPT_LINE] = (uint8_t)(FT_PCI_GSI_BASE + function->slot);
	return ft_pci_add_bar(function, n,
			      &(struct ft_region){.length = 0x1000,
						  .read = table_read,
						  .write = table_write,
						  .device = function,
						  .name = "MSI-X table"},
			      err);
}

int ft_pci_create(struct ft_pci *pci, struct ft_machine *m, struct ft_error *err)
{
	pci->m = m;
	pci->ports = (struct ft_region){.space = FT_SPACE_IO,
					.base = CONFIG_PORT,
					.length = 8,
					.read = ports_read,
					.write = ports_write,
					.device = pci,
					.name = "PCI configuration",
					.enabled = true};
	int error = ft_bus_add(m, &pci->ports, err);
	/* A generic host bridge; nothing in Linux is specific to it. */
	return error ? error : ft_pci_add(pci, &pci->bridge, 0x1b36, 0x0008, 0x060000, 0x1100, err);
}
