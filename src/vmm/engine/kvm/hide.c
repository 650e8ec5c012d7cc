/* What KVM would show of itself and the host beyond the CPU model: MSRs, the instructions of its paravirtual interface. */
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include "vmm/engine/kvm/kvm.h"

/* X(first, number): the rest exits to us, and is the model's (model.c) or #GP. Deny is the default, so that what a newer kernel
 * brings is not there either. SDM Vol. 4. */
#define KERNELS(X)                                                                                            \
	X(0x10, 1)        /* TSC */                                                                           \
	X(0x1b, 1)        /* APIC_BASE */                                                                     \
	X(0x3b, 1)        /* TSC_ADJUST */                                                                    \
	X(0x174, 3)       /* SYSENTER_* */                                                                    \
	X(0x1a0, 1)       /* MISC_ENABLE */                                                                   \
	X(0x277, 1)       /* PAT */                                                                           \
	X(0x6e0, 1)       /* TSC_DEADLINE */                                                                  \
	X(0xc0000080, 5)  /* EFER, STAR, LSTAR, CSTAR, FMASK */                                               \
	X(0xc0000100, 4)  /* FS_BASE, GS_BASE, KERNEL_GS_BASE, TSC_AUX */

/* Those of the model's that have to be the processor's own. One that the model does not have is not left to KVM, which may have been told
 * to ignore what it does not know (ignore_msrs). */
#define SPECULATION(X)                                                                                        \
	X(0x48, ft_model_spec_ctrl)                                                                           \
	X(0x49, ft_model_pred_cmd)                                                                            \
	X(0x10b, ft_model_flush_cmd)

int ft_kvm_filter(const struct ft_engine *engine, struct ft_error *err)
{
	const struct ft_model *model = &engine->m->model;
	static uint8_t all[] = {0xff};
	struct kvm_msr_filter filter = {.flags = KVM_MSR_FILTER_DEFAULT_DENY};
	unsigned n = 0;
#define X(first, number)                                                                                             \
	filter.ranges[n++] = (struct kvm_msr_filter_range){                                                           \
	    .flags = KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE, .nmsrs = number, .base = first, .bitmap = all};
	KERNELS(X)
#undef X
#define X(first, bits)                                                                                               \
	if (bits(model))                                                                                              \
		filter.ranges[n++] = (struct kvm_msr_filter_range){                                                   \
		    .flags = KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE, .nmsrs = 1, .base = first, .bitmap = all};
	SPECULATION(X)
#undef X
	return ioctl(engine->vm, KVM_X86_SET_MSR_FILTER, &filter) ? ft_kvm_failed(err, "KVM_X86_SET_MSR_FILTER") : 0;
}

static int enable(int fd, uint32_t capability, uint64_t argument, const char *name, struct ft_error *err)
{
	struct kvm_enable_cap cap = {.cap = capability, .args = {argument}};
	return ioctl(fd, KVM_ENABLE_CAP, &cap) ? ft_kvm_failed(err, name) : 0;
}

int ft_kvm_hide(const struct ft_engine *engine, struct ft_error *err)
{
	/* Hypercalls of the other vendor's processors that are patched into the guest; MONITOR and MWAIT that do nothing. A kernel from
	 * before it could leave these off (6.0) has them on. */
	int quirks = ioctl(engine->kvm, KVM_CHECK_EXTENSION, KVM_CAP_DISABLE_QUIRKS2);
	uint64_t off = (uint64_t)(quirks > 0 ? quirks : 0) & (KVM_X86_QUIRK_FIX_HYPERCALL_INSN | KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS);
	int error = off ? enable(engine->vm, KVM_CAP_DISABLE_QUIRKS2, off, "KVM_CAP_DISABLE_QUIRKS2", err) : 0;
	/* Of the host's own processor KVM knows which MSRs it has. */
	if (!error && !engine->native)
		error = enable(engine->vm, KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_FILTER, "KVM_CAP_X86_USER_SPACE_MSR", err);
	if (!error && !engine->native)
		error = ft_kvm_filter(engine, err);
	/* Of the calls only those that CPUID announces, which is none. */
	for (unsigned i = 0; !error && i < engine->vcpus; i++)
		error = enable(engine->vcpu[i].fd, KVM_CAP_ENFORCE_PV_FEATURE_CPUID, 1, "KVM_CAP_ENFORCE_PV_FEATURE_CPUID", err);
	return error;
}
