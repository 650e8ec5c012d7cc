/* The neutral state of one vCPU: what any engine can take and give. The shapes are those of the KVM ABI structs
 * (kvm_regs, kvm_sregs, kvm_fpu's FXSAVE image), spelt here so that nothing depends on kernel headers.
 * SDM Vol. 3A chapters 2, 3 and 10. */
#ifndef FT_VMM_STATE_H
#define FT_VMM_STATE_H

#include <stdint.h>

enum ft_gpr { FT_RAX, FT_RCX, FT_RDX, FT_RBX, FT_RSP, FT_RBP, FT_RSI, FT_RDI, FT_R8 }; /* x86 encoding order */
enum ft_segment_name { FT_ES, FT_CS, FT_SS, FT_DS, FT_FS, FT_GS, FT_SEGMENTS };

/* IA32_MISC_ENABLE after a reset: fast strings. SDM Vol. 4, table 2-2. */
#define FT_MISC_ENABLE_RESET 1u

struct ft_segment {
	uint64_t base;
	uint32_t limit; /* bytes, granularity applied */
	uint16_t selector;
	uint16_t attributes; /* descriptor bits 40..55: type, S, DPL, P, (limit bits zero), AVL, L, D/B, G; 0x80 clear = unusable */
};

struct ft_table {
	uint64_t base;
	uint16_t limit;
};

struct ft_cpu_state {
	uint64_t gpr[16], rip, rflags;
	struct ft_segment segment[FT_SEGMENTS], ldt, tr;
	struct ft_table gdt, idt;
	uint64_t cr0, cr2, cr3, cr4, efer;
	uint64_t dr[8];
	uint64_t star, lstar, cstar, fmask, kernel_gs_base, tsc_aux;
	uint64_t sysenter_cs, sysenter_esp, sysenter_eip, pat, misc_enable;
	uint8_t fxsave[512]; /* x87, MMX, XMM, MXCSR; host pointers sanitised */
	/* Events: SDM 6.8.3, 6.15. */
	uint8_t interrupt_shadow, nmi_masked, nmi_pending, halted; /* nmi_pending: the machine's m->nmi */
	uint8_t exception_pending, exception_vector, exception_has_error, reserved;
	uint32_t exception_error;
	uint64_t exception_address; /* of a pending #PF, which CR2 does not hold yet; of a pending #DB the bits for DR6 */
	uint64_t icount; /* instructions since the machine's start */
	uint64_t spec_ctrl; /* of models that have it, else 0. Last: hashes of machines without it do not have it */
};

#endif
