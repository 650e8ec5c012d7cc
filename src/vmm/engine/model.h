/* The CPU model that a guest sees, the same on every engine: CPUID, and MSRs that only tell. SDM Vol. 2 CPUID, Vol. 4. */
#ifndef FT_VMM_ENGINE_MODEL_H
#define FT_VMM_ENGINE_MODEL_H

#include <stdbool.h>
#include <stdint.h>

/* Which processor of how many: cores of one package, without threads, whose APIC IDs are their numbers. */
struct ft_model_place {
	uint32_t vcpu, vcpus;
};

/* EAX, EBX, ECX, EDX; zeros for a leaf that there is not. */
void ft_model_cpuid(struct ft_model_place place, uint32_t tsc_khz, uint32_t leaf, uint32_t subleaf, uint32_t registers[4]);

/* false: not one of them. */
bool ft_model_msr(uint32_t index, uint64_t *value);

/* A write to one of them, which changes nothing. false: #GP. */
bool ft_model_set_msr(uint32_t index, uint64_t value);

/* CR4 bits that can be set: VME and PVI cannot, nor what CPUID does not have. SDM Vol. 3A 2.5. */
#define FT_MODEL_CR4 0x100ffcu

#define FT_MODEL_PHYSICAL_BITS 40u /* leaf 0x80000008 */

#endif
