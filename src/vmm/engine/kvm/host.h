/* The host's KVM: can engine kvm use it, and is it worth it. Needs no machine: for those who choose an engine, too. */
#ifndef FT_VMM_ENGINE_KVM_HOST_H
#define FT_VMM_ENGINE_KVM_HOST_H

#include "base/error.h"

/* Below so many million instructions a second in ring 0 it is emulated (1 or so on kvm_pvm; hundreds and more on a processor, 30 and
 * more where that is emulated itself), and engine soft is the faster one. */
#define FT_KVM_HOST_MIPS_LEAST 15.0

/* kvm: a descriptor of /dev/kvm. Does it have what the engine and the guests' CPU model need? 0, or -errno with a sentence. */
int ft_kvm_host_check(int kvm, struct ft_error *err);

/* Times a short loop in ring 0 of a machine of its own: million instructions a second. Takes milliseconds; 100 where it is emulated. */
int ft_kvm_host_speed(int kvm, double *mips, struct ft_error *err);

/* Has the host what a journal of a guest on kvm would need to be exact, a counter of the branches that a guest has retired? 0, or -errno
 * with a sentence. */
int ft_kvm_host_counter(struct ft_error *err);

#endif
