/* The byte shapes of the KVM ABI (Linux Documentation/virt/kvm/api.rst, arch/x86/include/uapi/asm/kvm.h), spelt here so
 * that nothing depends on kernel headers; tests/vmm/test_state.c compares them with the host's. They are the neutral form
 * of what is saved: an engine on KVM fills them by ioctl, any other by conversion. Little endian, as x86 is. */
#ifndef FT_VMM_STATE_KVM_H
#define FT_VMM_STATE_KVM_H

#include <stdint.h>

struct ft_kvm_regs {
	uint64_t rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags;
};

struct ft_kvm_segment {
	uint64_t base;
	uint32_t limit;
	uint16_t selector;
	uint8_t type, present, dpl, db, s, l, g, avl, unusable, padding;
};

struct ft_kvm_table {
	uint64_t base;
	uint16_t limit, padding[3];
};

struct ft_kvm_sregs {
	struct ft_kvm_segment cs, ds, es, fs, gs, ss, tr, ldt;
	struct ft_kvm_table gdt, idt;
	uint64_t cr0, cr2, cr3, cr4, cr8, efer, apic_base;
	uint64_t flags, pdptrs[4]; /* kvm_sregs2 */
};

struct ft_kvm_debugregs {
	uint64_t db[4], dr6, dr7, flags, reserved[9];
};

struct ft_kvm_msr {
	uint32_t index, reserved;
	uint64_t data;
};

struct ft_kvm_cpuid {
	uint32_t function, index, flags, eax, ebx, ecx, edx, padding[3]; /* kvm_cpuid_entry2 */
};
#define FT_KVM_CPUID_INDEXED 1u /* KVM_CPUID_FLAG_SIGNIFCANT_INDEX */

/* The beginning of kvm_xsave: the legacy region (FXSAVE) and the XSAVE header, SDM Vol. 1 section 13.4. */
struct ft_kvm_xsave {
	uint8_t fxsave[512];
	uint64_t xstate_bv, xcomp_bv, reserved[6];
};

struct ft_kvm_events {
	struct {
		uint8_t injected, nr, has_error_code, pending;
		uint32_t error_code;
	} exception;
	struct {
		uint8_t injected, nr, soft, shadow;
	} interrupt;
	struct {
		uint8_t injected, pending, masked, pad;
	} nmi;
	uint32_t sipi_vector, flags;
	struct {
		uint8_t smm, pending, smm_inside_nmi, latched_init;
	} smi;
	uint8_t triple_fault_pending;
	uint8_t reserved[26];
	uint8_t exception_has_payload;
	uint64_t exception_payload;
};
#define FT_KVM_EVENTS_NMI_PENDING 1u
#define FT_KVM_EVENTS_SHADOW      4u
#define FT_KVM_EVENTS_PAYLOAD     16u
#define FT_KVM_SHADOW_STI         2u

struct ft_kvm_mp {
	uint32_t state;
};
enum { FT_KVM_MP_RUNNABLE, FT_KVM_MP_UNINITIALIZED, FT_KVM_MP_INIT_RECEIVED, FT_KVM_MP_HALTED };

struct ft_kvm_pic {
	uint8_t last_irr, irr, imr, isr, priority_add, irq_base, read_reg_select, poll, special_mask, init_state, auto_eoi,
	    rotate_on_auto_eoi, special_fully_nested_mode, init4, elcr, elcr_mask;
};

struct ft_kvm_ioapic {
	uint64_t base_address;
	uint32_t ioregsel, id, irr, pad;
	uint64_t redirtbl[24];
};

struct ft_kvm_lapic {
	uint8_t regs[0x400]; /* the register page, xAPIC layout: a register each 16 bytes */
};

struct ft_kvm_pit_channel {
	uint32_t count; /* 1 to 65536 */
	uint16_t latched_count;
	uint8_t count_latched, status_latched, status, read_state, write_state, write_latch, rw_mode, mode, bcd, gate;
	int64_t count_load_time;
};
/* read_state, write_state, count_latched: which byte is next. */
enum { FT_KVM_PIT_LOW = 1, FT_KVM_PIT_HIGH = 2, FT_KVM_PIT_WORD0 = 3, FT_KVM_PIT_WORD1 = 4 };

struct ft_kvm_pit {
	struct ft_kvm_pit_channel channels[3];
	uint32_t flags, reserved[9];
};
#define FT_KVM_PIT_SPEAKER 2u

#endif
