/* The two address spaces outside of RAM: who answers at an address. */
#include "vmm/machine.h"

#include <errno.h>

static uint64_t ones(unsigned size)
{
	return size >= 8 ? UINT64_MAX : (1ull << (8 * size)) - 1;
}

/* The first region in order of registration wins: platform devices register before PCI ones, so that a BAR the guest
 * moves over an interrupt controller hides nothing. */
static struct ft_region *find(struct ft_machine *m, enum ft_space space, uint64_t address, unsigned size)
{
	for (struct ft_region *region = m->regions[space]; region; region = region->next)
		if (region->enabled && address >= region->base && address - region->base < region->length)
			return region->length - (address - region->base) >= size ? region : NULL;
	return NULL;
}

int ft_bus_add(struct ft_machine *m, struct ft_region *region, struct ft_error *err)
{
	struct ft_region **at = &m->regions[region->space];
	for (; *at; at = &(*at)->next)
		if (region->enabled && (*at)->enabled && region->base < (*at)->base + (*at)->length &&
		    (*at)->base < region->base + region->length)
			return ft_error_set(err, -EEXIST, "%s and %s both claim address 0x%llx", region->name,
					    (*at)->name, (unsigned long long)region->base);
	region->next = NULL;
	*at = region;
	return 0;
}

void ft_bus_move(struct ft_machine *m, struct ft_region *region, uint64_t base, bool enabled)
{
	region->base = base;
	region->enabled = enabled;
}

uint64_t ft_bus_read(struct ft_machine *m, enum ft_space space, uint64_t address, unsigned size)
{
	ft_clock_charge(m, space == FT_SPACE_IO ? FT_COST_IO : FT_COST_MEMORY);
	struct ft_region *region = find(m, space, address, size);
	if (!region)
		return ones(size);
	return region->read(region->device, address - region->base, size) & ones(size);
}

void ft_bus_write(struct ft_machine *m, enum ft_space space, uint64_t address, unsigned size, uint64_t value)
{
	ft_clock_charge(m, space == FT_SPACE_IO ? FT_COST_IO : FT_COST_MEMORY);
	struct ft_region *region = find(m, space, address, size);
	if (region)
		region->write(region->device, address - region->base, size, value & ones(size));
}
