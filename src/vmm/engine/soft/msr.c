/* Model-specific registers: SDM Vol. 4. What neither this table nor the platform
 * (machine.h) knows raises #GP. */
#include "vmm/engine/model.h"
#include "vmm/engine/soft/system.h"

enum {
	MSR_PLATFORM_ID = 0x17,
	MSR_FEATURE_CONTROL = 0x3a,
	MSR_UCODE_REV = 0x8b,
	MSR_PLATFORM_INFO = 0xce,
	MSR_ARCH_CAPABILITIES = 0x10a,
	MSR_SYSENTER_CS = 0x174,
	MSR_SYSENTER_ESP = 0x175,
	MSR_SYSENTER_EIP = 0x176,
	MSR_MCG_CAP = 0x179,
	MSR_MCG_STATUS = 0x17a,
	MSR_MISC_ENABLE = 0x1a0,
	MSR_DEBUGCTL = 0x1d9,
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

/* IA32_ARCH_CAPABILITIES: not affected by what is known up to now (RDCL, L1D flush, SSB, MDS, page size change, TAA, the
 * MMIO stale data family, PBRSB, GDS, RFDS, ITS). Nothing of this CPU speculates; its host's own mitigations are the
 * host's. */
#define ARCH_CAPABILITIES                                                                                    \
	(1ull << 0 | 1ull << 3 | 1ull << 4 | 1ull << 5 | 1ull << 6 | 1ull << 8 | 1ull << 13 | 1ull << 14 |   \
	 1ull << 15 | 1ull << 24 | 1ull << 26 | 1ull << 27 | 1ull << 62)

#define UCODE_REVISION       (1ull << 32)

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

bool ft_model_msr(uint32_t index, uint64_t *value)
{
	switch (index) {
	case MSR_UCODE_REV:
		*value = UCODE_REVISION;
		return true;
	case MSR_ARCH_CAPABILITIES:
		*value = ARCH_CAPABILITIES;
		return true;
	case MSR_FEATURE_CONTROL:
		*value = 1; /* locked, nothing enabled */
		return true;
	case MSR_PLATFORM_ID:
	case MSR_PLATFORM_INFO:
	case MSR_MCG_CAP:
	case MSR_MCG_STATUS:
	case MSR_DEBUGCTL:
		*value = 0;
		return true;
	}
	return false;
}

bool ft_model_set_msr(uint32_t index, uint64_t value)
{
	switch (index) {
	case MSR_UCODE_REV: /* written before CPUID makes the revision appear */
	case MSR_MCG_STATUS:
		return value == 0;
	case MSR_DEBUGCTL: /* no branch records and no branch stepping: reads as zero */
		return true;
	}
	return false;
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
	}
	return ft_model_msr(index, value) || soft_platform_rdmsr(cpu, index, value) == 0;
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

static bool write_msr(struct soft_cpu *cpu, uint32_t index, uint64_t value)
{
	bool canonical;
	uint64_t *storage = stored(cpu, index, &canonical);
	if (storage) {
		if (canonical && !soft_canonical(value))
			return false;
		*storage = value;
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
	}
	return ft_model_set_msr(index, value) || soft_platform_wrmsr(cpu, index, value) == 0;
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
