/* The way out of the CPU to the machine and to observers. Their code is built like any other and uses vector
 * registers, so the guest's x87 and XMM state, which lives in the host's, waits in memory meanwhile. */
#include "vmm/engine/soft/system.h"

struct parked {
	uint8_t image[512] __attribute__((aligned(16)));
};

static inline void park(struct soft_cpu *cpu, struct parked *parked)
{
	static const uint32_t mxcsr = 0x1f80;
	cpu->m->icount = cpu->icount;
	__asm__ volatile("fxsave64 %0; fninit; ldmxcsr %1" : "=m"(parked->image) : "m"(mxcsr) : "memory");
}

static inline void unpark(const struct parked *parked)
{
	__asm__ volatile("fxrstor64 %0" : : "m"(parked->image) : "memory");
}

uint64_t soft_bus_read(struct soft_cpu *cpu, enum ft_space space, uint64_t address, unsigned size)
{
	struct parked parked;
	park(cpu, &parked);
	uint64_t value = ft_bus_read(cpu->m, space, address, size);
	unpark(&parked);
	return value;
}

void soft_bus_write(struct soft_cpu *cpu, enum ft_space space, uint64_t address, unsigned size,
		    uint64_t value)
{
	struct parked parked;
	park(cpu, &parked);
	ft_bus_write(cpu->m, space, address, size, value);
	unpark(&parked);
}

int soft_platform_rdmsr(struct soft_cpu *cpu, uint32_t index, uint64_t *value)
{
	struct parked parked;
	park(cpu, &parked);
	int result = ft_platform_rdmsr(cpu->m, index, value);
	unpark(&parked);
	return result;
}

int soft_platform_wrmsr(struct soft_cpu *cpu, uint32_t index, uint64_t value)
{
	struct parked parked;
	park(cpu, &parked);
	int result = ft_platform_wrmsr(cpu->m, index, value);
	unpark(&parked);
	return result;
}

uint64_t soft_platform_cr8(struct soft_cpu *cpu)
{
	struct parked parked;
	park(cpu, &parked);
	uint64_t value = ft_platform_cr8(cpu->m);
	unpark(&parked);
	return value;
}

void soft_platform_set_cr8(struct soft_cpu *cpu, uint64_t value)
{
	struct parked parked;
	park(cpu, &parked);
	ft_platform_set_cr8(cpu->m, value);
	unpark(&parked);
}

uint64_t soft_tsc(struct soft_cpu *cpu)
{
	struct parked parked;
	park(cpu, &parked);
	uint64_t value = ft_machine_rdtsc(cpu->m);
	unpark(&parked);
	return value;
}

int soft_irq_acknowledge(struct soft_cpu *cpu)
{
	struct parked parked;
	park(cpu, &parked);
	int vector = ft_irq_acknowledge(cpu->m);
	unpark(&parked);
	return vector;
}

void soft_fetch(struct soft_cpu *cpu, uint64_t gpa)
{
	struct parked parked;
	park(cpu, &parked);
	ft_memory_fetch(&cpu->m->ram, gpa);
	unpark(&parked);
}

void soft_hook_syscall(struct soft_cpu *cpu)
{
	const struct ft_hooks *hooks = &cpu->m->hooks;
	const uint64_t args[6] = {cpu->gpr[FT_RDI],    cpu->gpr[FT_RSI], cpu->gpr[FT_RDX],
				  cpu->gpr[FT_R8 + 2], cpu->gpr[FT_R8],  cpu->gpr[FT_R8 + 1]};
	struct parked parked;
	park(cpu, &parked);
	hooks->syscall(hooks->context, cpu->gpr[FT_RAX], args, cpu->rip, cpu->gpr[FT_RSP]);
	unpark(&parked);
}

void soft_hook_sysret(struct soft_cpu *cpu)
{
	const struct ft_hooks *hooks = &cpu->m->hooks;
	struct parked parked;
	park(cpu, &parked);
	hooks->sysret(hooks->context, cpu->gpr[FT_RAX], cpu->rip, cpu->gpr[FT_RSP]);
	unpark(&parked);
}

void soft_hook_cr3(struct soft_cpu *cpu, uint64_t old, uint64_t new)
{
	const struct ft_hooks *hooks = &cpu->m->hooks;
	struct parked parked;
	park(cpu, &parked);
	hooks->cr3(hooks->context, old, new);
	unpark(&parked);
}

void soft_hook_fault(struct soft_cpu *cpu, uint8_t vector, uint32_t error, uint64_t address)
{
	const struct ft_hooks *hooks = &cpu->m->hooks;
	struct parked parked;
	park(cpu, &parked);
	hooks->fault(hooks->context, vector, error, address, cpu->rip);
	unpark(&parked);
}

void soft_hook_exec_page(struct soft_cpu *cpu, uint64_t rip, uint64_t gpa, uint8_t page_flags, uint64_t pte_flags)
{
	const struct ft_hooks *hooks = &cpu->m->hooks;
	struct parked parked;
	park(cpu, &parked);
	hooks->exec_page(hooks->context, rip, gpa, page_flags, pte_flags);
	unpark(&parked);
}
