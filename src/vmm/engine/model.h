/* The CPU model that a guest sees, the same on every engine: CPUID, and MSRs that only tell. SDM Vol. 2 CPUID, Vol. 4; AMD APM Vol. 3
 * appendix E.
 *
 * Instructions and features are the same for all guests. What a model says besides is which processor it is and what it knows of
 * speculation, because a kernel protects itself as that asks for: the software CPU's, which does not speculate, or that of a host
 * whose KVM runs the guest. It is the machine's (m->model), goes with its state, and stays what it is while the guest lives. */
#ifndef FT_VMM_ENGINE_MODEL_H
#define FT_VMM_ENGINE_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What tells models apart; of the words of bits only those that mitigation.c knows. Zeros: none. */
struct ft_model {
	uint32_t vendor[3];  /* CPUID leaf 0: EBX, ECX, EDX */
	uint32_t signature;  /* leaf 1: EAX */
	uint32_t leaf7_edx, leaf7_2_edx, ext8_ebx, ext21_eax, ext21_ecx;
	uint32_t reserved;
	uint64_t arch_capabilities; /* MSR 0x10a */
};

#define FT_MODEL_INTEL {0x756e6547, 0x6c65746e, 0x49656e69} /* GenuineIntel */
#define FT_MODEL_AMD   {0x68747541, 0x444d4163, 0x69746e65} /* AuthenticAMD */
#define FT_MODEL_HYGON {0x6f677948, 0x656e6975, 0x6e65476e} /* HygonGenuine */

#define FT_MODEL_ARCH_CAPABILITIES (1u << 29) /* leaf7_edx: there is the MSR */

/* A plain Intel family 6 part, model 0x36: one of the in-order cores that Linux lists as not speculating. That is true of engine soft's
 * own design and spares the guest retpolines, PTI and buffer clearing: what the host's processor speculates is for the host and
 * this process to contain. ARCH_CAPABILITIES: not affected by what is known up to now (RDCL, L1D flush, SSB, MDS, page size change,
 * TAA, the MMIO stale data family, PBRSB, GDS, RFDS, ITS). */
#define FT_MODEL_SOFTWARE_IS                                                                                 \
	{                                                                                                     \
		.vendor = FT_MODEL_INTEL, .signature = 0x00030661u, .leaf7_edx = FT_MODEL_ARCH_CAPABILITIES,  \
		.arch_capabilities = 1ull << 0 | 1ull << 3 | 1ull << 4 | 1ull << 5 | 1ull << 6 | 1ull << 8 |  \
				     1ull << 13 | 1ull << 14 | 1ull << 15 | 1ull << 24 | 1ull << 26 |         \
				     1ull << 27 | 1ull << 62,                                                 \
	}
#define FT_MODEL_SOFTWARE ((struct ft_model)FT_MODEL_SOFTWARE_IS)

/* Which processor of how many: cores of one package, without threads, whose APIC IDs are their numbers. */
struct ft_model_place {
	uint32_t vcpu, vcpus;
};

/* EAX, EBX, ECX, EDX; zeros for a leaf that there is not. */
void ft_model_cpuid(const struct ft_model *model, struct ft_model_place place, uint32_t tsc_khz, uint32_t leaf, uint32_t subleaf,
		    uint32_t registers[4]);

/* false: not one of them. */
bool ft_model_msr(const struct ft_model *model, uint32_t index, uint64_t *value);

/* A write to one of them, which changes nothing. false: #GP. */
bool ft_model_set_msr(const struct ft_model *model, uint32_t index, uint64_t value);

/* An AMD, or a Hygon, which is one by another name. */
static inline bool ft_model_amd(const struct ft_model *model)
{
	static const uint32_t amd[] = FT_MODEL_AMD, hygon[] = FT_MODEL_HYGON;
	bool is_amd = true, is_hygon = true;
	for (unsigned i = 0; i < 3; i++) {
		is_amd &= model->vendor[i] == amd[i];
		is_hygon &= model->vendor[i] == hygon[i];
	}
	return is_amd || is_hygon;
}

/* Bits of IA32_SPEC_CTRL (MSR 0x48) that the model has; 0: not the MSR. SDM Vol. 4 table 2-2, APM Vol. 2 3.2.9. */
static inline uint64_t ft_model_spec_ctrl(const struct ft_model *model)
{
	uint32_t a = model->leaf7_edx, b = model->leaf7_2_edx, c = model->ext8_ebx;
	if (!(a & 1u << 26) && !(c & (1u << 14 | 1u << 15 | 1u << 24)))
		return 0;
	return (a >> 26 & 1 || c >> 14 & 1 ? 1u << 0 /* IBRS */ : 0) | (a >> 27 & 1 || c >> 15 & 1 ? 1u << 1 /* STIBP */ : 0) |
	       (a >> 31 & 1 || c >> 24 & 1 ? 1u << 2 /* SSBD */ : 0) | (b >> 1 & 1 ? 3u << 3 /* IPRED_DIS */ : 0) |
	       (b >> 2 & 1 ? 3u << 5 /* RRSBA_DIS */ : 0) | (b & 1 || c >> 28 & 1 ? 1u << 7 /* PSFD */ : 0) |
	       (b >> 3 & 1 ? 1u << 8 /* DDPD_U */ : 0) | (b >> 4 & 1 ? 1u << 10 /* BHI_DIS_S */ : 0);
}

/* Of IA32_PRED_CMD (0x49) and IA32_FLUSH_CMD (0x10b), which can only be written. */
uint64_t ft_model_pred_cmd(const struct ft_model *model);
uint64_t ft_model_flush_cmd(const struct ft_model *model);

/* ---- mitigation.c ---- */

bool ft_model_same(const struct ft_model *a, const struct ft_model *b);

/* Leaves of what a processor (or a state) says of itself that what can be told to a guest; false: of no vendor that we know. */
bool ft_model_known(struct ft_model *model);

/* May a guest with this model run on a processor with that one: is it the same vendor's, has it each means of protection that the guest
 * uses, is it safe from all that the guest takes itself to be safe from? NULL, or what is missing (static text). */
const char *ft_model_misses(const struct ft_model *guest, const struct ft_model *processor);

/* What the processor does about speculation, for people: a sentence's end that begins with a verb. */
#define FT_MODEL_WORDS 1024u
void ft_model_words(const struct ft_model *model, char text[FT_MODEL_WORDS]);

/* ---- */

/* CR4 bits that can be set: VME and PVI cannot, nor what CPUID does not have. SDM Vol. 3A 2.5. */
#define FT_MODEL_CR4 0x100ffcu

#define FT_MODEL_PHYSICAL_BITS 40u /* leaf 0x80000008 */

#endif
