#include "vmm/dev/generation.h"

#include "vmm/boot.h"

void ft_generation_set(struct ft_machine *m, const uint8_t id[FT_GENERATION_BYTES])
{
	ft_memory_write(&m->ram, ft_gpa_make(FT_BOOT_GENERATION), id, FT_GENERATION_BYTES); /* inside the least RAM */
	ft_irq_set(m, FT_GENERATION_GSI, true);
	ft_irq_set(m, FT_GENERATION_GSI, false);
}
