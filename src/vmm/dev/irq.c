/* How interrupt lines and messages find their way to the CPU. */
#include "vmm/dev/devices.h"

void ft_irq_refresh(struct ft_machine *m)
{
	const struct ft_devices *devices = m->devices;
	m->interrupt = ft_lapic_pending(&devices->lapic) >= 0 ||
		       (ft_pic_asserted(&devices->pic) && ft_lapic_takes_pic(&devices->lapic));
}

void ft_irq_set(struct ft_machine *m, unsigned gsi, bool level)
{
	/* The PIT's IRQ 0 is input 2 of the I/O APIC, as the MADT says. */
	if (gsi < 16)
		ft_pic_set(&m->devices->pic, gsi, level);
	ft_ioapic_set(&m->devices->ioapic, gsi == 0 ? 2 : gsi, level);
}

void ft_irq_message(struct ft_machine *m, uint64_t address, uint32_t data)
{
	if (address >> 20 != FT_LAPIC_BASE >> 20) /* a message elsewhere is a write to nobody */
		return;
	ft_lapic_message(&m->devices->lapic, (uint8_t)(address >> 12), address >> 2 & 1, (uint8_t)data,
			 data >> 8 & 7, data >> 15 & 1);
}

int ft_irq_acknowledge(struct ft_machine *m)
{
	int vector = ft_lapic_pending(&m->devices->lapic);
	if (vector >= 0)
		ft_lapic_accept(&m->devices->lapic, vector);
	else if (ft_lapic_takes_pic(&m->devices->lapic))
		vector = ft_pic_acknowledge(&m->devices->pic);
	else
		vector = (int)(m->devices->lapic.s.spurious & 0xff);
	ft_irq_refresh(m);
	return vector;
}
