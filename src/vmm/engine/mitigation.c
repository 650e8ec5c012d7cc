/* What processors say of speculation: SDM Vol. 2A CPUID leaf 7, Vol. 4 table 2-2 (IA32_ARCH_CAPABILITIES); AMD APM Vol. 3, E.4.4 and
 * E.4.16; and what the kernel's names for the later ones are (Linux arch/x86/include/asm/cpufeatures.h, msr-index.h). Bits that
 * come with registers that a machine's state does not have (TSX_CTRL, automatic IBRS in EFER) are not among them. */
#include <string.h>

#include "vmm/engine/model.h"

/* MEANS: of protection. SAFE: from an attack, so that no protection is needed. WEAK: the processor admits that it needs more of it. */
enum kind { MEANS, SAFE, WEAK };

#define INTEL(X)                                                                                             \
	X(leaf7_edx, 10, MEANS, "MD_CLEAR")                                                                  \
	X(leaf7_edx, 26, MEANS, "IBRS and IBPB (SPEC_CTRL)")                                                 \
	X(leaf7_edx, 27, MEANS, "STIBP")                                                                     \
	X(leaf7_edx, 28, MEANS, "L1D_FLUSH")                                                                 \
	X(leaf7_edx, 29, MEANS, "ARCH_CAPABILITIES")                                                         \
	X(leaf7_edx, 31, MEANS, "SSBD")                                                                      \
	X(leaf7_2_edx, 0, MEANS, "PSFD")                                                                     \
	X(leaf7_2_edx, 1, MEANS, "IPRED_CTRL")                                                               \
	X(leaf7_2_edx, 2, MEANS, "RRSBA_CTRL")                                                               \
	X(leaf7_2_edx, 3, MEANS, "DDPD_U")                                                                   \
	X(leaf7_2_edx, 4, MEANS, "BHI_CTRL")                                                                 \
	X(leaf7_2_edx, 5, SAFE, "MCDT_NO")                                                                   \
	X(arch_capabilities, 0, SAFE, "RDCL_NO")                                                             \
	X(arch_capabilities, 1, MEANS, "IBRS_ALL")                                                           \
	X(arch_capabilities, 2, WEAK, "RSBA")                                                                \
	X(arch_capabilities, 3, SAFE, "SKIP_L1DFL_VMENTRY")                                                  \
	X(arch_capabilities, 4, SAFE, "SSB_NO")                                                              \
	X(arch_capabilities, 5, SAFE, "MDS_NO")                                                              \
	X(arch_capabilities, 6, SAFE, "PSCHANGE_MC_NO")                                                      \
	X(arch_capabilities, 8, SAFE, "TAA_NO")                                                              \
	X(arch_capabilities, 13, SAFE, "SBDR_SSDP_NO")                                                       \
	X(arch_capabilities, 14, SAFE, "FBSDP_NO")                                                           \
	X(arch_capabilities, 15, SAFE, "PSDP_NO")                                                            \
	X(arch_capabilities, 17, MEANS, "FB_CLEAR")                                                          \
	X(arch_capabilities, 19, WEAK, "RRSBA")                                                              \
	X(arch_capabilities, 20, SAFE, "BHI_NO")                                                             \
	X(arch_capabilities, 24, SAFE, "PBRSB_NO")                                                           \
	X(arch_capabilities, 26, SAFE, "GDS_NO")                                                             \
	X(arch_capabilities, 27, SAFE, "RFDS_NO")                                                            \
	X(arch_capabilities, 28, MEANS, "RFDS_CLEAR")                                                        \
	X(arch_capabilities, 62, SAFE, "ITS_NO")

#define AMD(X)                                                                                               \
	X(ext8_ebx, 12, MEANS, "IBPB")                                                                       \
	X(ext8_ebx, 14, MEANS, "IBRS")                                                                       \
	X(ext8_ebx, 15, MEANS, "STIBP")                                                                      \
	X(ext8_ebx, 16, MEANS, "IBRS that is always on")                                                     \
	X(ext8_ebx, 17, MEANS, "STIBP that is always on")                                                    \
	X(ext8_ebx, 18, MEANS, "IBRS that is preferred")                                                     \
	X(ext8_ebx, 19, MEANS, "IBRS of the same mode")                                                      \
	X(ext8_ebx, 24, MEANS, "SSBD")                                                                       \
	X(ext8_ebx, 26, SAFE, "SSB_NO")                                                                      \
	X(ext8_ebx, 28, MEANS, "PSFD")                                                                       \
	X(ext8_ebx, 29, SAFE, "BTC_NO")                                                                      \
	X(ext8_ebx, 30, MEANS, "IBPB_RET")                                                                   \
	X(ext21_eax, 2, MEANS, "LFENCE that is always serializing")                                          \
	X(ext21_eax, 5, MEANS, "VERW_CLEAR")                                                                 \
	X(ext21_eax, 6, SAFE, "NULL_SEL_CLR_BASE")                                                           \
	X(ext21_eax, 27, MEANS, "SBPB")                                                                      \
	X(ext21_eax, 28, MEANS, "IBPB_BRTYPE")                                                               \
	X(ext21_eax, 29, SAFE, "SRSO_NO")                                                                    \
	X(ext21_eax, 30, SAFE, "SRSO_USER_KERNEL_NO")                                                        \
	X(ext21_ecx, 1, SAFE, "TSA_SQ_NO")                                                                   \
	X(ext21_ecx, 2, SAFE, "TSA_L1_NO")

#define SIGNATURE 0x0fff3fffu /* family, model, stepping; reserved bits are not set */

static const struct bit {
	size_t at, size;
	unsigned bit;
	enum kind kind;
	bool amd;
	const char *name;
} bits[] = {
#define X(word, bit, kind, name) {offsetof(struct ft_model, word), sizeof(((struct ft_model *)0)->word), bit, kind, false, name},
    INTEL(X)
#undef X
#define X(word, bit, kind, name) {offsetof(struct ft_model, word), sizeof(((struct ft_model *)0)->word), bit, kind, true, name},
    AMD(X)
#undef X
};
#define BITS (sizeof(bits) / sizeof(*bits))

static bool has(const struct ft_model *model, const struct bit *bit)
{
	uint64_t word = 0;
	memcpy(&word, (const uint8_t *)model + bit->at, bit->size);
	return word >> bit->bit & 1;
}

static void give(struct ft_model *model, const struct bit *bit)
{
	uint64_t word = 0;
	memcpy(&word, (const uint8_t *)model + bit->at, bit->size);
	word |= 1ull << bit->bit;
	memcpy((uint8_t *)model + bit->at, &word, bit->size);
}

bool ft_model_same(const struct ft_model *a, const struct ft_model *b)
{
	return !memcmp(a, b, sizeof(*a));
}

bool ft_model_known(struct ft_model *model)
{
	static const uint32_t vendors[][3] = {FT_MODEL_INTEL, FT_MODEL_AMD, FT_MODEL_HYGON};
	struct ft_model of = {.signature = model->signature & SIGNATURE};
	bool amd = ft_model_amd(model), known = false;
	for (unsigned i = 0; i < sizeof(vendors) / sizeof(*vendors); i++)
		known |= !memcmp(model->vendor, vendors[i], sizeof(vendors[i]));
	memcpy(of.vendor, model->vendor, sizeof(of.vendor));
	for (unsigned i = 0; i < BITS; i++)
		if (bits[i].amd == amd && has(model, &bits[i]))
			give(&of, &bits[i]);
	if (!(of.leaf7_edx & FT_MODEL_ARCH_CAPABILITIES))
		of.arch_capabilities = 0;
	*model = of;
	return known;
}

const char *ft_model_misses(const struct ft_model *guest, const struct ft_model *processor)
{
	if (memcmp(guest->vendor, processor->vendor, sizeof(guest->vendor)))
		return "the guest's vendor";
	for (unsigned i = 0; i < BITS; i++)
		if (bits[i].kind == WEAK ? has(processor, &bits[i]) && !has(guest, &bits[i]) : has(guest, &bits[i]) && !has(processor, &bits[i]))
			return bits[i].kind == WEAK ? "a guest that knows of what it admits (RSBA, RRSBA)" : bits[i].name;
	return NULL;
}
