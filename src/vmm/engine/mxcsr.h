/* Bits of MXCSR. SDM Vol. 1 10.2.3; APM Vol. 1 4.2.2.
 *
 * AMD's misaligned SSE mode (MM) no control register turns off and KVM cannot intercept, so any program of a guest on such a processor may set it,
 * and FXSAVE's MXCSR_MASK shows it. A guest of engine soft has it where one on KVM would. In a machine's state the mask is always
 * FT_MXCSR_EVERYWHERE: which bits there are follows from the CPU model and the host. */
#ifndef FT_VMM_ENGINE_MXCSR_H
#define FT_VMM_ENGINE_MXCSR_H

#include <stdint.h>

#include "vmm/engine/model.h"

#define FT_MXCSR_EVERYWHERE 0xffffu
#define FT_MXCSR_MM         0x20000u

/* Bits that the processor under us has, of those two. Asked from itself (FXSAVE), since it is the processor that takes the bit, whatever CPUID
 * is made to say in a virtual machine. */
uint32_t ft_mxcsr_host(void);

/* Bits that a guest with this model may have set: MM unless its processor is an Intel's. Engine soft's own model, which is taken to any host, is none. */
uint32_t ft_mxcsr_model(const struct ft_model *model);

#endif
