/* The CPU model, whatever the engine: a plain 64-bit Intel family 6 part with SSE4.2.
 *
 * Model 0x36 is one of the in-order cores that Linux lists as not speculating. That is true of this engine's own
 * design and spares the guest retpolines, PTI and buffer clearing, none of which could work on translated code: what the
 * host's processor speculates is for the host and this process to contain. The hypervisor bit tells drivers that errata
 * and microcode do not apply. Leaves 0x15 and 0x16 give the clock, so no kernel has to calibrate it. */
#include "vmm/engine/model.h"

#include "vmm/engine/soft/system.h"

#define FAMILY_MODEL_STEPPING 0x00030661u /* family 6, model 0x36, stepping 1 */

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
#define LEAF7_EDX (1u << 4 /* FSRM */ | 1u << 29 /* ARCH_CAPABILITIES */)

#define EXT1_ECX (1u << 0 /* LAHF */)
#define EXT1_EDX                                                                                             \
	(1u << 11 /* SYSCALL */ | 1u << 20 /* NX */ | 1u << 26 /* 1 GiB pages */ | 1u << 27 /* RDTSCP */ |   \
	 1u << 29 /* LM */)

#define DRIFT_MOST 100000u /* one in so many: 10 ppm */

#define LEAF1_EDX_APIC (1u << 9)
#define LEAF1_EDX_HTT  (1u << 28)
#define APIC_ENABLED   (1u << 11) /* IA32_APIC_BASE */

#define LEAF_MAX 0x16u
#define EXT_MAX  0x80000008u

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

static struct leaf brand(uint32_t part)
{
	static const char text[48] = "Foretaste software CPU";
	struct leaf leaf;
	soft_copy(&leaf, text + part * 16, 16);
	return leaf;
}

static struct leaf vendor(uint32_t max)
{
	return (struct leaf){
	    .eax = max, .ebx = 0x756e6547, .ecx = 0x6c65746e, .edx = 0x49656e69}; /* GenuineIntel */
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

/* A leaf beyond its range is the highest basic one. SDM Vol. 2A, CPUID. */
static uint32_t within(uint32_t index)
{
	bool basic = index <= LEAF_MAX, own = index == 0x40000000, extended = index >= 0x80000000 && index <= EXT_MAX;
	return basic || own || extended ? index : LEAF_MAX;
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
static struct leaf placed(struct leaf leaf, struct ft_model_place place, uint32_t index, uint32_t sub)
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
	}
	return leaf;
}

static struct leaf lookup(uint32_t khz, uint32_t index, uint32_t sub)
{
	switch (within(index)) {
	case 0:
		return vendor(LEAF_MAX);
	case 1: /* CLFLUSH line 8 * 8 bytes, one logical processor, APIC id 0 */
		return (struct leaf){FAMILY_MODEL_STEPPING, 8u << 8 | 1u << 16, LEAF1_ECX, LEAF1_EDX};
	case 2: /* "see leaf 4" */
		return (struct leaf){.eax = 0x00feff01};
	case 4:
		return cache_leaf(sub);
	case 6: /* ARAT: the APIC timer always runs */
		return (struct leaf){.eax = 1u << 2};
	case 7:
		return sub ? (struct leaf){0} : (struct leaf){0, LEAF7_EBX, LEAF7_ECX, LEAF7_EDX};
	case 0x15:
		return frequency_leaf(khz);
	case 0x16:
		return (struct leaf){.eax = khz / 1000, .ebx = khz / 1000, .ecx = 100};
	case 0x40000000: /* the signature alone: there is no paravirtual interface */
		return (struct leaf){0x40000000, 0x65726f46, 0x74736174, 0x004d5665}; /* "ForetasteVM" */
	case 0x80000000:
		return vendor(EXT_MAX);
	case 0x80000001:
		return (struct leaf){.ecx = EXT1_ECX, .edx = EXT1_EDX};
	case 0x80000002:
	case 0x80000003:
	case 0x80000004:
		return brand(index - 0x80000002);
	case 0x80000006: /* L2: 512 KiB, 8 ways, 64-byte lines */
		return (struct leaf){.ecx = 512u << 16 | 6u << 12 | 64};
	case 0x80000007: /* invariant TSC */
		return (struct leaf){.edx = 1u << 8};
	case 0x80000008:
		return (struct leaf){.eax = 48u << 8 | SOFT_PHYSICAL_BITS};
	}
	return (struct leaf){0};
}

void ft_model_cpuid(struct ft_model_place place, uint32_t tsc_khz, uint32_t index, uint32_t sub, uint32_t registers[4])
{
	struct leaf leaf = placed(lookup(tsc_khz, index, sub), place, index, sub);
	soft_copy(registers, &leaf, sizeof(leaf));
}

void soft_cpuid(struct soft_cpu *cpu)
{
	struct leaf leaf =
	    lookup((uint32_t)cpu->m->clock.tsc_khz, (uint32_t)cpu->gpr[FT_RAX], (uint32_t)cpu->gpr[FT_RCX]);
	/* A processor whose APIC is off has none. SDM Vol. 3A 11.4.3. */
	uint64_t base;
	if ((uint32_t)cpu->gpr[FT_RAX] == 1 && !soft_platform_rdmsr(cpu, 0x1b, &base) && !(base & APIC_ENABLED))
		leaf.edx &= ~LEAF1_EDX_APIC;
	cpu->gpr[FT_RAX] = leaf.eax;
	cpu->gpr[FT_RBX] = leaf.ebx;
	cpu->gpr[FT_RCX] = leaf.ecx;
	cpu->gpr[FT_RDX] = leaf.edx;
}
