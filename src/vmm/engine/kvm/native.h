/* Guests that have the instructions of the host's own processor (`portable: false`) instead of the CPU model's (model.h). The rest of the
 * machine stays what it is: local APIC, clock, topology, and nothing of the host's platform (power, machine checks, counters, nesting).
 *
 * Such a CPU has more than the machine's state has a place for: registers of AVX and later, XCR0, the MSRs of what it can do. They
 * go nowhere but into forks of this process, whose engine takes them over from the one that they have inherited. */
#ifndef FT_VMM_ENGINE_KVM_NATIVE_H
#define FT_VMM_ENGINE_KVM_NATIVE_H

#include <linux/kvm.h>

#include "base/error.h"
#include "vmm/engine/model.h"

struct ft_engine;
struct ft_kvm_vcpu;
struct ft_kvm_native;

#define FT_KVM_NATIVE_LEAVES 256u

/* What a guest is told of a host whose KVM supports these leaves. guest: room for FT_KVM_NATIVE_LEAVES. -ENOTSUP: the host's processor is
 * none that this can be done with. */
int ft_kvm_native_model(const struct kvm_cpuid2 *host, struct ft_model_place place, uint32_t tsc_khz, struct kvm_cpuid2 *guest,
			struct ft_error *err);

/* What the host has. Before the vCPUs are set up. The engine's `native` until ft_kvm_native_close, which takes NULL, too. */
int ft_kvm_native_open(struct ft_engine *engine, struct ft_error *err);
void ft_kvm_native_close(struct ft_kvm_native *native);

/* CPUID of this vCPU. */
int ft_kvm_native_set_model(const struct ft_kvm_vcpu *vcpu, struct ft_error *err);
/* MSRs that only tell are the host's: what they are is left alone. */
int ft_kvm_native_msr(struct ft_engine *engine, uint32_t index, uint64_t *value);

/* What the machine's state has no place for, of all vCPUs: out of the kernel, of which nothing has run since `get`; into an engine of a
 * fork, from the one it had inherited; into the kernel, behind the rest. Where nothing was taken nothing is given. */
int ft_kvm_native_take(struct ft_engine *engine, struct ft_error *err);
int ft_kvm_native_inherit(struct ft_engine *engine, const struct ft_engine *from, struct ft_error *err);
int ft_kvm_native_give(struct ft_kvm_vcpu *vcpu, struct ft_error *err);
void ft_kvm_native_given(struct ft_engine *engine); /* to all of them: what was taken is over */

#endif
