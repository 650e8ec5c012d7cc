/* The host's KVM: can engine kvm use it, and is it worth it. Needs no machine: for those who choose an engine, too. */
#ifndef FT_VMM_ENGINE_KVM_HOST_H
#define FT_VMM_ENGINE_KVM_HOST_H

#include <linux/kvm.h>
#include <stdint.h>

#include "base/error.h"
#include "vmm/engine/model.h"

/* Below so many million instructions a second in ring 0 it is emulated (1 or so on kvm_pvm; hundreds and more on a processor, 30 and
 * more where that is emulated itself), and engine soft is the faster one. */
#define FT_KVM_HOST_MIPS_LEAST 15.0

/* kvm: a descriptor of /dev/kvm. Does it have what the engine and the guests' CPU model need? 0, or -errno with a sentence. */
int ft_kvm_host_check(int kvm, struct ft_error *err);

/* The CPU model of a guest that begins on this host's KVM; zeros: the processor is of no vendor that we know. */
int ft_kvm_host_model(int kvm, struct ft_model *model, struct ft_error *err);
/* Of the leaves that KVM supports, and not yet what we know of them alone. */
void ft_kvm_host_model_read(const struct kvm_cpuid2 *host, struct ft_model *model);

/* Times a short loop in ring 0 of a machine of its own: million instructions a second, and the frequency of its TSC. Takes milliseconds;
 * 100 where it is emulated. */
int ft_kvm_host_speed(int kvm, double *mips, uint32_t *tsc_khz, struct ft_error *err);

/* Has the host what a journal of a guest on kvm would need to be exact, a counter of the branches that a guest has retired? 0, or -errno
 * with a sentence. */
int ft_kvm_host_counter(struct ft_error *err);

#endif
