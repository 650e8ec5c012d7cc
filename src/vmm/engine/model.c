/* The CPU model, whatever the engine: a 64-bit processor with SSE4.2.
 *
 * The hypervisor bit tells drivers that errata and microcode do not apply. Leaves 0x15 and 0x16 give the clock, so that no kernel on
 * an Intel has to measure it; AMD's have no such leaves, and Linux is told at boot (boot.c). */
#include "vmm/engine/model.h"

#include "vmm/engine/soft/system.h"

#define LEAF1_ECX                                                                                            \
	(1u << 0 /* SSE3 */ | 1u << 9 /* SSSE3 */ | 1u << 13 /* CMPXCHG16B */ | 1u << 19 /* SSE4.1 */ |      \
	 1u << 20 /* SSE4.2 */ | 1u << 23 /* POPCNT */ | 1u << 24 /* TSC deadline */ |                       \
	 1u << 31 /* hypervisor */)

#define LEAF1_EDX                                                                                            \
	(1u << 0 /* FPU */ | 1u << 2 /* DE */ | 1u << 3 /* PSE */ | 1u << 4 /* TSC */ | 1u << 5 /* MSR */ |  \
	 1u << 6 /* PAE */ | 1u << 8 /* CMPXCHG8B */ | 1u << 9 /* APIC */ | 1u << 13 /* PGE */ |             \
	 1u << 15 /* CMOV */ | 1u << 16 /* PAT */ | 1u << 17 /* PSE36 */ | 1u << 19 /* CLFLUSH */ |          \
	 1u << 23 /* MMX */ | 1u << 24 /* FXSR */ | 1u << 25 /* SSE */ | 1u << 26 /* SSE2 */)

#define LEAF7_EBX (1u << 1 /* TSC_ADJUST */ | 1u << 7 /* SMEP */ | 1u << 9 /* ERMS */)
#define LEAF7_ECX (1u << 2 /* UMIP */)
#define LEAF7_EDX (1u << 4 /* FSRM */)

#define EXT1_ECX       (1u << 0 /* LAHF */)
#define EXT1_ECX_CORES (1u << 1) /* CmpLegacy */
#define EXT1_EDX                                                                                             \
	(1u << 11 /* SYSCALL */ | 1u << 20 /* NX */ | 1u << 26 /* 1 GiB pages */ | 1u << 27 /* RDTSCP */ |   \
	 1u << 29 /* LM */)

#define DRIFT_MOST 100000u /* one in so many: 10 ppm */

#define LEAF1_EDX_APIC (1u << 9)
#define LEAF1_EDX_HTT  (1u << 28)
#define APIC_ENABLED   (1u << 11) /* IA32_APIC_BASE */

#define LEAF_MAX 0x16u
#define EXT_MAX  0x80000008u
#define EXT_MORE 0x80000021u /* where there is something to tell */

struct leaf {
	uint32_t eax, ebx, ecx, edx;
};

/* Deterministic cache parameters: type, level, size as (ways, line 64, sets). */
static struct leaf cache_leaf(uint32_t index)
{
	static const struct {
		uint8_t type, level, ways;
		uint16_t sets;
	} caches[] = {{1, 1, 8, 64}, {2, 1, 8, 64}, {3, 2, 8, 1024}};
	if (index >= sizeof(caches) / sizeof(caches[0]))
		return (struct leaf){0};
	return (struct leaf){.eax = caches[index].type | (uint32_t)caches[index].level << 5 | 1u << 8,
			     .ebx = 63u | (uint32_t)(caches[index].ways - 1) << 22,
			     .ecx = caches[index].sets - 1u};
}

/* Model and host are told apart by numbers: this is for people. */
static struct leaf brand(const struct ft_model *model, uint32_t part)
{
	static const char software[48] = "Foretaste software CPU", host[48] = "Foretaste CPU";
	struct leaf leaf;
	soft_copy(&leaf, (model->signature == FT_MODEL_SOFTWARE.signature ? software : host) + part * 16, 16);
	return leaf;
}

static struct leaf vendor(const struct ft_model *model, uint32_t max)
{
	return (struct leaf){.eax = max, .ebx = model->vendor[0], .ecx = model->vendor[1], .edx = model->vendor[2]};
}

static uint32_t ext_max(const struct ft_model *model)
{
	return model->ext21_eax | model->ext21_ecx ? EXT_MORE : EXT_MAX;
}

/* TSC = crystal (ECX, Hz) * EBX / EAX. Linux works that out in kHz and 32 bits (native_calibrate_tsc), so EBX is small: the first
 * fraction that comes out at the kHz, or else the nearest. Where that would let the guest's clock drift (some frequencies next to a
 * multiple of the crystal's), the TSC is its own crystal, and the APIC's timer true to its word in deadline mode only. */
static struct leaf frequency_leaf(uint32_t khz)
{
	uint32_t least = UINT32_MAX;
	struct leaf leaf = {.ecx = FT_CRYSTAL_KHZ * 1000u};
	for (uint32_t a = 1; least; a++) {
		uint64_t b = ((uint64_t)khz * a + FT_CRYSTAL_KHZ / 2) / FT_CRYSTAL_KHZ;
		if (b > UINT32_MAX / FT_CRYSTAL_KHZ || a > FT_CRYSTAL_KHZ)
			break;
		uint32_t is = (uint32_t)(FT_CRYSTAL_KHZ * b / a), off = is > khz ? is - khz : khz - is;
		if (off >= least)
			continue;
		least = off;
		leaf.eax = a;
		leaf.ebx = (uint32_t)b;
	}
	if (least > khz / DRIFT_MOST && khz < UINT32_MAX / 1000)
		return (struct leaf){.eax = 1, .ebx = 1, .ecx = khz * 1000};
	return leaf;
}

#define NOWHERE UINT32_MAX

/* A leaf beyond its range is Intel's highest basic one (SDM Vol. 2A, CPUID), and nothing on an AMD. */
static uint32_t within(const struct ft_model *model, uint32_t index)
{
	bool basic = index <= LEAF_MAX, own = index == 0x40000000, extended = index >= 0x80000000 && index <= ext_max(model);
	return basic || own || extended ? index : ft_model_amd(model) ? NOWHERE : LEAF_MAX;
}

/* ---- Several processors: SDM Vol. 3A 9.9.3 ---- */

/* Bits of an APIC ID that tell the cores of the package apart. */
static uint32_t core_bits(struct ft_model_place place)
{
	uint32_t bits = 0;
	while (1u << bits < place.vcpus)
		bits++;
	return bits;
}

/* Leaf 0xB: 1 thread a core, then the cores of the package. What is beyond says its number and the APIC ID alone. */
static struct leaf topology_leaf(struct ft_model_place place, uint32_t sub)
{
	struct leaf leaf = {.ecx = sub & 0xff, .edx = place.vcpu};
	if (sub == 0) {
		leaf.ebx = 1;
		leaf.ecx |= 1u << 8;
	} else if (sub == 1) {
		leaf.eax = core_bits(place);
		leaf.ebx = place.vcpus;
		leaf.ecx |= 2u << 8;
	}
	return leaf;
}

/* What tells the processors apart, and that there are several: nothing of it where there is one. */
static struct leaf placed(struct leaf leaf, const struct ft_model *model, struct ft_model_place place, uint32_t index, uint32_t sub)
{
	if (place.vcpus < 2)
		return leaf;
	if (index == 1) {
		leaf.ebx = (leaf.ebx & 0xffff) | (1u << core_bits(place)) << 16 | place.vcpu << 24;
		leaf.edx |= LEAF1_EDX_HTT;
	} else if (index == 4 && leaf.eax) { /* each core has caches of its own */
		leaf.eax |= ((1u << core_bits(place)) - 1) << 26;
	} else if (index == 0xb) {
		leaf = topology_leaf(place, sub);
	} else if (index == 0x80000001 && ft_model_amd(model)) { /* APM Vol. 3, E.5 */
		leaf.ecx |= EXT1_ECX_CORES;
	} else if (index == 0x80000008 && ft_model_amd(model)) {
		leaf.ecx |= core_bits(place) << 12 | (place.vcpus - 1);
	}
	return leaf;
}

static struct leaf features(const struct ft_model *model, uint32_t sub)
{
	if (sub == 0)
		return (struct leaf){model->leaf7_2_edx ? 2 : 0, LEAF7_EBX, LEAF7_ECX, LEAF7_EDX | model->leaf7_edx};
	return sub == 2 ? (struct leaf){.edx = model->leaf7_2_edx} : (struct leaf){0};
}

static struct leaf lookup(const struct ft_model *model, uint32_t khz, uint32_t index, uint32_t sub)
{
	bool amd = ft_model_amd(model);
	switch (within(model, index)) {
	case 0:
		return vendor(model, LEAF_MAX);
	case 1: /* CLFLUSH line 8 * 8 bytes, one logical processor, APIC id 0 */
		return (struct leaf){model->signature, 8u << 8 | 1u << 16, LEAF1_ECX, LEAF1_EDX};
	case 2: /* "see leaf 4" */
		return (struct leaf){.eax = amd ? 0 : 0x00feff01};
	case 4:
		return amd ? (struct leaf){0} : cache_leaf(sub);
	case 6: /* ARAT: the APIC timer always runs */
		return (struct leaf){.eax = 1u << 2};
	case 7:
		return features(model, sub);
	case 0x15:
		return frequency_leaf(khz);
	case 0x16:
		return (struct leaf){.eax = khz / 1000, .ebx = khz / 1000, .ecx = 100};
	case 0x40000000: /* the signature alone: there is no paravirtual interface */
		return (struct leaf){0x40000000, 0x65726f46, 0x74736174, 0x004d5665}; /* "ForetasteVM" */
	case 0x80000000:
		return vendor(model, ext_max(model));
	case 0x80000001:
		return (struct leaf){.ecx = EXT1_ECX, .edx = EXT1_EDX};
	case 0x80000002:
	case 0x80000003:
	case 0x80000004:
		return brand(model, index - 0x80000002);
	case 0x80000005: /* AMD's L1: 32 KiB, 8 ways, 1 line a tag, 64-byte lines; data and code */
		return amd ? (struct leaf){.ecx = 32u << 24 | 8u << 16 | 1u << 8 | 64, .edx = 32u << 24 | 8u << 16 | 1u << 8 | 64} : (struct leaf){0};
	case 0x80000006: /* L2: 512 KiB, 8 ways, 64-byte lines */
		return (struct leaf){.ecx = 512u << 16 | 6u << 12 | (amd ? 1u << 8 : 0) | 64};
	case 0x80000007: /* invariant TSC */
		return (struct leaf){.edx = 1u << 8};
	case 0x80000008:
		return (struct leaf){.eax = 48u << 8 | SOFT_PHYSICAL_BITS, .ebx = model->ext8_ebx};
	case 0x80000021:
		return (struct leaf){.eax = model->ext21_eax, .ecx = model->ext21_ecx};
	}
	return (struct leaf){0};
}

void ft_model_cpuid(const struct ft_model *model, struct ft_model_place place, uint32_t tsc_khz, uint32_t index, uint32_t sub,
		    uint32_t registers[4])
{
	struct leaf leaf = placed(lookup(model, tsc_khz, index, sub), model, place, index, sub);
	soft_copy(registers, &leaf, sizeof(leaf));
}

void soft_cpuid(struct soft_cpu *cpu)
{
	struct leaf leaf =
	    lookup(&cpu->m->model, (uint32_t)cpu->m->clock.tsc_khz, (uint32_t)cpu->gpr[FT_RAX], (uint32_t)cpu->gpr[FT_RCX]);
	/* A processor whose APIC is off has none. SDM Vol. 3A 11.4.3. */
	uint64_t base;
	if ((uint32_t)cpu->gpr[FT_RAX] == 1 && !soft_platform_rdmsr(cpu, 0x1b, &base) && !(base & APIC_ENABLED))
		leaf.edx &= ~LEAF1_EDX_APIC;
	cpu->gpr[FT_RAX] = leaf.eax;
	cpu->gpr[FT_RBX] = leaf.ebx;
	cpu->gpr[FT_RCX] = leaf.ecx;
	cpu->gpr[FT_RDX] = leaf.edx;
}

/* ---- MSRs ---- */

uint64_t ft_model_pred_cmd(const struct ft_model *model)
{
	bool ibpb = (model->leaf7_edx & 1u << 26) || (model->ext8_ebx & 1u << 12);
	return (ibpb ? 1 : 0) | (ibpb && (model->ext21_eax & 1u << 27) ? 1ull << 7 : 0);
}

uint64_t ft_model_flush_cmd(const struct ft_model *model)
{
	return model->leaf7_edx >> 28 & 1;
}

enum {
	MSR_PLATFORM_ID = 0x17,
	MSR_FEATURE_CONTROL = 0x3a,
	MSR_UCODE_REV = 0x8b,
	MSR_PLATFORM_INFO = 0xce,
	MSR_ARCH_CAPABILITIES = 0x10a,
	MSR_MCG_CAP = 0x179,
	MSR_MCG_STATUS = 0x17a,
	MSR_DEBUGCTL = 0x1d9,
};

/* Of AMD's: what kernels read there without asking whether it is there. */
enum {
	MSR_SYSCFG = 0xc0010010u,
	MSR_HWCR = 0xc0010015u,
	MSR_NB_CFG = 0xc001001fu,
	MSR_INT_PENDING = 0xc0010055u,
	MSR_DE_CFG = 0xc0011029u,
};

#define UCODE_REVISION (1ull << 32)
#define HWCR           (1ull << 24) /* TscFreqSel: the TSC counts at the frequency of P0 */
#define DE_CFG         (1ull << 1)  /* LFENCE is serializing */

static bool amd_msr(uint32_t index, uint64_t *value)
{
	switch (index) {
	case MSR_HWCR:
		*value = HWCR;
		return true;
	case MSR_DE_CFG:
		*value = DE_CFG;
		return true;
	case MSR_SYSCFG:
	case MSR_NB_CFG:
	case MSR_INT_PENDING:
		*value = 0;
		return true;
	}
	return false;
}

static bool intel_msr(uint32_t index, uint64_t *value)
{
	switch (index) {
	case MSR_FEATURE_CONTROL:
		*value = 1; /* locked, nothing enabled */
		return true;
	case MSR_PLATFORM_ID:
	case MSR_PLATFORM_INFO:
		*value = 0;
		return true;
	}
	return false;
}

bool ft_model_msr(const struct ft_model *model, uint32_t index, uint64_t *value)
{
	switch (index) {
	case MSR_UCODE_REV:
		*value = UCODE_REVISION;
		return true;
	case MSR_ARCH_CAPABILITIES:
		*value = model->arch_capabilities;
		return model->leaf7_edx & FT_MODEL_ARCH_CAPABILITIES;
	case MSR_MCG_CAP:
	case MSR_MCG_STATUS:
	case MSR_DEBUGCTL:
		*value = 0;
		return true;
	}
	return ft_model_amd(model) ? amd_msr(index, value) : intel_msr(index, value);
}

bool ft_model_set_msr(const struct ft_model *model, uint32_t index, uint64_t value)
{
	uint64_t is;
	switch (index) {
	case MSR_UCODE_REV: /* written before CPUID makes the revision appear */
	case MSR_MCG_STATUS:
		return value == 0;
	case MSR_DEBUGCTL: /* no branch records and no branch stepping: reads as zero */
		return true;
	}
	if (!ft_model_amd(model) || !amd_msr(index, &is))
		return false;
	/* Linux would have all of configuration space by ports, which this machine's has not. */
	return index == MSR_NB_CFG || value == is;
}
