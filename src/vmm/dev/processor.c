#include "vmm/dev/processor.h"

void ft_processor_reset(struct ft_processor *processor, struct ft_machine *m, unsigned number)
{
	struct ft_segment data = {.limit = 0xffff, .attributes = 0x93}, code = {.base = 0xffff0000, .limit = 0xffff, .selector = 0xf000, .attributes = 0x9b};
	*processor = (struct ft_processor){.cpu = {.rip = 0xfff0, .rflags = 2, .cr0 = 0x60000010}, .waits = FT_PROCESSOR_WAITS_FOR_INIT};
	struct ft_cpu_state *cpu = &processor->cpu;
	for (unsigned i = 0; i < FT_SEGMENTS; i++)
		cpu->segment[i] = data;
	cpu->segment[FT_CS] = code;
	cpu->ldt = (struct ft_segment){.limit = 0xffff, .attributes = 0x82};
	cpu->tr = (struct ft_segment){.limit = 0xffff, .attributes = 0x8b};
	cpu->gdt.limit = cpu->idt.limit = 0xffff;
	cpu->dr[6] = 0xffff0ff0;
	cpu->dr[7] = 0x400;
	cpu->pat = 0x0007040600070406ull;
	cpu->misc_enable = FT_MISC_ENABLE_RESET;
	cpu->icount = m->icount;
	cpu->fxsave[0] = 0x7f; /* FCW 0x037f, as after INIT */
	cpu->fxsave[1] = 0x03;
	cpu->fxsave[24] = 0x80; /* MXCSR 0x1f80 */
	cpu->fxsave[25] = 0x1f;
	cpu->fxsave[28] = cpu->fxsave[29] = 0xff; /* MXCSR_MASK */
	ft_lapic_reset(&processor->lapic, m, number);
}
