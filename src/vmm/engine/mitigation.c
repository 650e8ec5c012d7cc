/* What processors say of speculation: SDM Vol. 2A CPUID leaf 7, Vol. 4 table 2-2 (IA32_ARCH_CAPABILITIES); AMD APM Vol. 3, E.4.4 and
 * E.4.16; and what the kernel's names for the later ones are (Linux arch/x86/include/asm/cpufeatures.h, msr-index.h). Bits that
 * come with registers that a machine's state does not have (TSX_CTRL, automatic IBRS in EFER) are not among them. */
#include <stdio.h>
#include <string.h>

#include "vmm/engine/model.h"

/* MEANS: of protection. SAFE: from an attack, so that no protection is needed. WEAK: the processor admits that it needs more of it.
 * Last: what people call it, or the attack (Linux Documentation/admin-guide/hw-vuln); NULL: the name will do; "": nobody needs to hear of
 * it. One attack that several bits speak of is safe with all of them. */
enum kind { MEANS, SAFE, WEAK };

#define INTEL(X)                                                                                             \
	X(leaf7_edx, 10, MEANS, "MD_CLEAR", NULL)                                                            \
	X(leaf7_edx, 26, MEANS, "IBRS and IBPB (SPEC_CTRL)", NULL)                                           \
	X(leaf7_edx, 27, MEANS, "STIBP", NULL)                                                               \
	X(leaf7_edx, 28, MEANS, "L1D_FLUSH", NULL)                                                           \
	X(leaf7_edx, 29, MEANS, "ARCH_CAPABILITIES", "")                                                     \
	X(leaf7_edx, 31, MEANS, "SSBD", NULL)                                                                \
	X(leaf7_2_edx, 0, MEANS, "PSFD", NULL)                                                               \
	X(leaf7_2_edx, 1, MEANS, "IPRED_CTRL", NULL)                                                         \
	X(leaf7_2_edx, 2, MEANS, "RRSBA_CTRL", NULL)                                                         \
	X(leaf7_2_edx, 3, MEANS, "DDPD_U", NULL)                                                             \
	X(leaf7_2_edx, 4, MEANS, "BHI_CTRL", NULL)                                                           \
	X(leaf7_2_edx, 5, SAFE, "MCDT_NO", "MCDT")                                                           \
	X(arch_capabilities, 0, SAFE, "RDCL_NO", "Meltdown, L1TF")                                           \
	X(arch_capabilities, 1, MEANS, "IBRS_ALL", NULL)                                                     \
	X(arch_capabilities, 2, WEAK, "RSBA", NULL)                                                          \
	X(arch_capabilities, 3, SAFE, "SKIP_L1DFL_VMENTRY", "")                                              \
	X(arch_capabilities, 4, SAFE, "SSB_NO", "Speculative Store Bypass")                                  \
	X(arch_capabilities, 5, SAFE, "MDS_NO", "MDS")                                                       \
	X(arch_capabilities, 6, SAFE, "PSCHANGE_MC_NO", "iTLB multihit")                                     \
	X(arch_capabilities, 8, SAFE, "TAA_NO", "TAA")                                                       \
	X(arch_capabilities, 13, SAFE, "SBDR_SSDP_NO", "MMIO stale data")                                    \
	X(arch_capabilities, 14, SAFE, "FBSDP_NO", "MMIO stale data")                                        \
	X(arch_capabilities, 15, SAFE, "PSDP_NO", "MMIO stale data")                                         \
	X(arch_capabilities, 17, MEANS, "FB_CLEAR", NULL)                                                    \
	X(arch_capabilities, 19, WEAK, "RRSBA", NULL)                                                        \
	X(arch_capabilities, 20, SAFE, "BHI_NO", "BHI")                                                      \
	X(arch_capabilities, 24, SAFE, "PBRSB_NO", "PBRSB")                                                  \
	X(arch_capabilities, 26, SAFE, "GDS_NO", "GDS")                                                      \
	X(arch_capabilities, 27, SAFE, "RFDS_NO", "RFDS")                                                    \
	X(arch_capabilities, 28, MEANS, "RFDS_CLEAR", NULL)                                                  \
	X(arch_capabilities, 62, SAFE, "ITS_NO", "ITS")

#define AMD(X)                                                                                               \
	X(ext8_ebx, 12, MEANS, "IBPB", NULL)                                                                 \
	X(ext8_ebx, 14, MEANS, "IBRS", NULL)                                                                 \
	X(ext8_ebx, 15, MEANS, "STIBP", NULL)                                                                \
	X(ext8_ebx, 16, MEANS, "IBRS that is always on", NULL)                                               \
	X(ext8_ebx, 17, MEANS, "STIBP that is always on", NULL)                                              \
	X(ext8_ebx, 18, MEANS, "IBRS that is preferred", NULL)                                               \
	X(ext8_ebx, 19, MEANS, "IBRS of the same mode", NULL)                                                \
	X(ext8_ebx, 24, MEANS, "SSBD", NULL)                                                                 \
	X(ext8_ebx, 26, SAFE, "SSB_NO", "Speculative Store Bypass")                                          \
	X(ext8_ebx, 28, MEANS, "PSFD", NULL)                                                                 \
	X(ext8_ebx, 29, SAFE, "BTC_NO", "Retbleed")                                                          \
	X(ext8_ebx, 30, MEANS, "IBPB_RET", NULL)                                                             \
	X(ext21_eax, 2, MEANS, "LFENCE that is always serializing", NULL)                                    \
	X(ext21_eax, 5, MEANS, "VERW_CLEAR", NULL)                                                           \
	X(ext21_eax, 6, SAFE, "NULL_SEL_CLR_BASE", "")                                                       \
	X(ext21_eax, 27, MEANS, "SBPB", NULL)                                                                \
	X(ext21_eax, 28, MEANS, "IBPB_BRTYPE", NULL)                                                         \
	X(ext21_eax, 29, SAFE, "SRSO_NO", "SRSO")                                                            \
	X(ext21_eax, 30, SAFE, "SRSO_USER_KERNEL_NO", "SRSO between user and kernel")                        \
	X(ext21_ecx, 1, SAFE, "TSA_SQ_NO", "TSA")                                                            \
	X(ext21_ecx, 2, SAFE, "TSA_L1_NO", "TSA")

#define SIGNATURE 0x0fff3fffu /* family, model, stepping; reserved bits are not set */

static const struct bit {
	size_t at, size;
	unsigned bit;
	enum kind kind;
	bool amd;
	const char *name, *known_as;
} bits[] = {
#define X(word, bit, kind, name, known_as) \
	{offsetof(struct ft_model, word), sizeof(((struct ft_model *)0)->word), bit, kind, false, name, known_as},
    INTEL(X)
#undef X
#define X(word, bit, kind, name, known_as) \
	{offsetof(struct ft_model, word), sizeof(((struct ft_model *)0)->word), bit, kind, true, name, known_as},
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

/* ---- For people ------------------------------------------------------------------------------------------------------ */

static const char *called(const struct bit *bit)
{
	return bit->known_as ? bit->known_as : bit->name;
}

static void add(char *text, const char *word)
{
	size_t length = strlen(text);
	snprintf(text + length, FT_MODEL_WORDS - length, "%s", word);
}

/* before, and all of a kind with commas between; false: there are none. */
static bool add_all(const struct ft_model *model, enum kind kind, const char *before, char *text)
{
	bool any = false, amd = ft_model_amd(model);
	for (unsigned i = 0; i < BITS; i++) {
		bool all = has(model, &bits[i]);
		while (i + 1 < BITS && *called(&bits[i]) && !strcmp(called(&bits[i]), called(&bits[i + 1])))
			all &= has(model, &bits[++i]);
		if (bits[i].kind != kind || bits[i].amd != amd || !all || !*called(&bits[i]))
			continue;
		add(text, any ? ", " : before);
		add(text, called(&bits[i]));
		any = true;
	}
	return any;
}

void ft_model_words(const struct ft_model *model, char text[FT_MODEL_WORDS])
{
	*text = 0;
	if (ft_model_same(model, &FT_MODEL_SOFTWARE)) {
		add(text, "does not speculate, so that the guest's kernel does not protect itself from its own programs");
		return;
	}
	if (!add_all(model, SAFE, "says that it is safe from ", text))
		add(text, "says of no attack by speculation that it is safe from it");
	if (!add_all(model, MEANS, "; against the rest it has ", text))
		add(text, "; it has no means against the rest");
	add_all(model, WEAK, "; it admits ", text);
}
