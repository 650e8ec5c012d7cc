/* Model-specific registers: SDM Vol. 4. What neither this table nor the platform
 * (machine.h) knows raises #GP. */
#include "vmm/engine/model.h"
#include "vmm/engine/soft/system.h"

enum {
	MSR_SPEC_CTRL = 0x48,
	MSR_PRED_CMD = 0x49,
	MSR_FLUSH_CMD = 0x10b,
	MSR_SYSENTER_CS = 0x174,
	MSR_SYSENTER_ESP = 0x175,
	MSR_SYSENTER_EIP = 0x176,
	MSR_MISC_ENABLE = 0x1a0,
	MSR_PAT = 0x277,
};

enum {
	MSR_EFER = 0xc0000080u,
	MSR_STAR,
	MSR_LSTAR,
	MSR_CSTAR,
	MSR_FMASK,
	MSR_FS_BASE = 0xc0000100u,
	MSR_GS_BASE,
	MSR_KERNEL_GS_BASE,
	MSR_TSC_AUX,
};

/* Registers that are plain storage. canonical: the value must be an address. */
static uint64_t *stored(struct soft_cpu *cpu, uint32_t index, bool *canonical)
{
	*canonical = false;
	switch (index) {
	case MSR_SYSENTER_CS:
		return &cpu->sysenter_cs;
	case MSR_STAR:
		return &cpu->star;
	}
	*canonical = true;
	switch (index) {
	case MSR_SYSENTER_ESP:
		return &cpu->sysenter_esp;
	case MSR_SYSENTER_EIP:
		return &cpu->sysenter_eip;
	case MSR_LSTAR:
		return &cpu->lstar;
	case MSR_CSTAR:
		return &cpu->cstar;
	case MSR_FS_BASE:
		return &cpu->segment[FT_FS].base;
	case MSR_GS_BASE:
		return &cpu->segment[FT_GS].base;
	case MSR_KERNEL_GS_BASE:
		return &cpu->kernel_gs_base;
	}
	return NULL;
}

static bool read_msr(struct soft_cpu *cpu, uint32_t index, uint64_t *value)
{
	bool canonical;
	uint64_t *storage = stored(cpu, index, &canonical);
	if (storage) {
		*value = *storage;
		return true;
	}
	switch (index) {
	case MSR_EFER:
		*value = cpu->efer;
		return true;
	case MSR_FMASK:
		*value = cpu->fmask;
		return true;
	case MSR_TSC_AUX:
		*value = cpu->tsc_aux;
		return true;
	case MSR_PAT:
		*value = cpu->pat;
		return true;
	case MSR_MISC_ENABLE:
		*value = cpu->misc_enable;
		return true;
	case MSR_SPEC_CTRL:
		*value = cpu->spec_ctrl;
		return ft_model_spec_ctrl(&cpu->m->model);
	}
	return ft_model_msr(&cpu->m->model, index, value) || soft_platform_rdmsr(cpu, index, value) == 0;
}

static bool set_efer(struct soft_cpu *cpu, uint64_t value)
{
	uint64_t changed = cpu->efer ^ value;
	if (value & ~(uint64_t)(EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE))
		return false;
	if ((changed & EFER_LME) && (cpu->cr0 & CR0_PG))
		return false;
	cpu->efer = (value & ~(uint64_t)EFER_LMA) | (cpu->efer & EFER_LMA);
	if (changed & EFER_NXE)
		soft_tlb_flush(cpu, false);
	return true;
}

/* Memory types: UC 0, WC 1, WT 4, WP 5, WB 6, UC- 7. */
static bool pat_valid(uint64_t value)
{
	for (unsigned i = 0; i < 8; i++) {
		unsigned type = (unsigned)(value >> (i * 8)) & 0xff;
		if (type > 7 || type == 2 || type == 3)
			return false;
	}
	return true;
}

/* What they ask of a processor that speculates is done where nothing is remembered of who ran before. */
static bool command(uint64_t value, uint64_t bits)
{
	return bits && !(value & ~bits);
}

static bool write_msr(struct soft_cpu *cpu, uint32_t index, uint64_t value)
{
	bool canonical;
	uint64_t *storage = stored(cpu, index, &canonical);
	if (storage) {
		if (canonical && !soft_canonical(value))
			return false;
		/* An AMD's, which has no use for them in long mode, have 32 bits in its VMCB. */
		bool low = (index == MSR_SYSENTER_ESP || index == MSR_SYSENTER_EIP) && ft_model_amd(&cpu->m->model);
		*storage = low ? (uint32_t)value : value;
		return true;
	}
	switch (index) {
	case MSR_EFER:
		return set_efer(cpu, value);
	case MSR_FMASK:
		if (value >> 32)
			return false;
		cpu->fmask = value;
		return true;
	case MSR_TSC_AUX:
		if (value >> 32)
			return false;
		cpu->tsc_aux = value;
		return true;
	case MSR_PAT:
		if (!pat_valid(value))
			return false;
		cpu->pat = value;
		return true;
	case MSR_MISC_ENABLE:
		if (value & ~(uint64_t)SOFT_MISC_ENABLE_WRITABLE)
			return false;
		cpu->misc_enable = value;
		return true;
	case MSR_SPEC_CTRL:
		if (!command(value, ft_model_spec_ctrl(&cpu->m->model)))
			return false;
		cpu->spec_ctrl = value;
		return true;
	case MSR_PRED_CMD:
		return command(value, ft_model_pred_cmd(&cpu->m->model));
	case MSR_FLUSH_CMD:
		return command(value, ft_model_flush_cmd(&cpu->m->model));
	}
	return ft_model_set_msr(&cpu->m->model, index, value) || soft_platform_wrmsr(cpu, index, value) == 0;
}

enum soft_result soft_rdmsr(struct soft_cpu *cpu)
{
	uint64_t value = 0;
	if (!read_msr(cpu, (uint32_t)cpu->gpr[FT_RCX], &value))
		return soft_gp(cpu, 0);
	cpu->gpr[FT_RAX] = (uint32_t)value;
	cpu->gpr[FT_RDX] = value >> 32;
	return SOFT_SYNC;
}

enum soft_result soft_wrmsr(struct soft_cpu *cpu)
{
	uint32_t index = (uint32_t)cpu->gpr[FT_RCX];
	if (!write_msr(cpu, index, (uint32_t)cpu->gpr[FT_RAX] | cpu->gpr[FT_RDX] << 32))
		return soft_gp(cpu, 0);
	return index == MSR_EFER ? SOFT_JUMP : SOFT_SYNC;
}
