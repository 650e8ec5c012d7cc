/* What engine kvm asks of the kernel by ioctl: for those who confine a process that runs a guest on it. */
#ifndef FT_VMM_ENGINE_KVM_REQUESTS_H
#define FT_VMM_ENGINE_KVM_REQUESTS_H

#include <linux/kvm.h>

/* X(request): while a guest runs, stops, and is looked at. */
#define FT_KVM_REQUESTS_RUN(X)                                                                                                       \
	X(KVM_RUN) X(KVM_SIGNAL_MSI) X(KVM_SET_GSI_ROUTING) X(KVM_INTERRUPT) X(KVM_SET_DEVICE_ATTR)                                  \
	X(KVM_GET_MP_STATE) X(KVM_GET_MSRS) X(KVM_GET_LAPIC) X(KVM_GET_VCPU_EVENTS) X(KVM_GET_REGS) X(KVM_GET_SREGS2)                \
	X(KVM_GET_DEBUGREGS) X(KVM_GET_XSAVE) X(KVM_GET_XCRS)                                                                        \
	X(KVM_SET_MP_STATE) X(KVM_SET_MSRS) X(KVM_SET_LAPIC) X(KVM_SET_VCPU_EVENTS) X(KVM_SET_REGS) X(KVM_SET_SREGS2)                \
	X(KVM_SET_DEBUGREGS) X(KVM_SET_XSAVE) X(KVM_SET_XCRS)

/* While a virtual machine is made. */
#define FT_KVM_REQUESTS_MAKE(X)                                                                                                      \
	X(KVM_GET_API_VERSION) X(KVM_CHECK_EXTENSION) X(KVM_CREATE_VM) X(KVM_SET_USER_MEMORY_REGION) X(KVM_SET_TSS_ADDR)             \
	X(KVM_ENABLE_CAP) X(KVM_CREATE_VCPU) X(KVM_GET_VCPU_MMAP_SIZE) X(KVM_GET_TSC_KHZ) X(KVM_SET_TSC_KHZ)                         \
	X(KVM_GET_SUPPORTED_CPUID) X(KVM_SET_CPUID2) X(KVM_X86_SET_MSR_FILTER) X(KVM_SET_SIGNAL_MASK)         \
	X(KVM_GET_MSR_INDEX_LIST)

#endif
