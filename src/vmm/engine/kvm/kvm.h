/* The `kvm` engine from inside. Linux Documentation/virt/kvm/api.rst has each ioctl.
 *
 * The local APIC is the kernel's (KVM_CAP_SPLIT_IRQCHIP); PIC, I/O APIC and PIT are the machine's own devices, as with any engine:
 * a guest that uses MSI-X and the APIC timer does not feel it, and what a guest sees of them cannot differ between engines. The kernel's
 * own (KVM_CREATE_IRQCHIP, KVM_CREATE_PIT2) would have to be made anew and filled in each clone, before its first instruction, and its PIT
 * goes by the host's time, where a clone skips its idle time. What that costs is an exit for each access to one of them, and one at the end
 * of an interrupt from a level-triggered pin.
 *
 * Instructions are not counted: m->icount is what virtual time makes of it, and virtual time is the host's TSC.
 *
 * Several vCPUs: the first is run by the thread that calls `run`, each other by a thread of its own, which stands unless `run` has sent it
 * off (`away`). While `run` lasts its thread holds the lock but in KVM_RUN, and so do the others: whoever is outside of the guest has the
 * machine to itself. `run` returns when all of them stand again, each between two instructions. Time, and with it the end of a
 * slice, is the first one's: the others run until they are signalled, by their timers. */
#ifndef FT_VMM_ENGINE_KVM_KVM_H
#define FT_VMM_ENGINE_KVM_KVM_H

#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>

#include "vmm/dev/devices.h"
#include "vmm/engine/kvm/failed.h"
#include "vmm/engine/kvm/native.h"
#include "vmm/machine.h"
#include "vmm/state/format.h"

struct ft_kvm_vcpu {
	struct ft_engine *engine;
	unsigned number;
	int fd;                   /* -1: none */
	struct kvm_run *run;
	bool unfinished;          /* the last exit was an access: the kernel has to end its instruction */
	timer_t timer;
	bool has_timer;
	pid_t thread;             /* that runs the vCPU: who the timer's and stop()'s signals are for */
	/* Of those with threads of their own: */
	pthread_t own;
	bool has_own;
	bool away;                /* it runs, or is on its way to standing */
};

enum ft_kvm_fate { FT_KVM_GOES_ON, FT_KVM_SHUT_DOWN, FT_KVM_BROKEN };

struct ft_engine {
	struct ft_machine *m;
	int kvm, vm; /* -1: none */
	struct ft_kvm_vcpu vcpu[FT_VCPUS_MOST];
	unsigned vcpus;
	size_t run_size;
	struct ft_kvm_native *native; /* NULL: the guest sees the CPU model */
	struct ft_model host;         /* what it would be on this host; zeros: of no vendor that we know */
	struct ft_state *shapes;  /* scratch */
	struct ft_cpu_state cpu;  /* of the first; this, and the others in the machine, are newer than the vCPUs' if `ours` */
	bool ours;
	bool fresh;               /* they, and the machine's local APICs, are what the vCPUs' are: pulled, and not run since */
	int stop;                 /* atomic */
	pthread_mutex_t lock;
	pthread_cond_t go, stands;
	bool stand;               /* the others are to stand */
	bool end;                 /* their threads are to end */
	pid_t process;            /* that has these threads: a fork of it has not */
	bool endless;             /* the last look found all halted and nothing that would end that */
	enum ft_kvm_fate fate;    /* what one of the others came to */
	uint64_t look_ns;         /* so long after it was last known to run the guest is looked at, whether it has halted */
	uint64_t next;            /* m->icount at which the first has to look around */
	unsigned hurried;         /* how often in a row that was too soon for the guest to have done anything, perhaps */
	struct ft_timer wake;     /* when the kernel's APIC timers are due, while all are halted */
	uint64_t routes[FT_IOAPIC_PINS]; /* redirection entries as the kernel knows them */
	struct kvm_irq_routing *routing;
	uint64_t host_tsc, vtime_ns; /* one moment by both */
	uint32_t host_khz;
};

/* The signal that ends KVM_RUN. Blocked everywhere else: one that comes before is found there. */
int ft_kvm_signal(void);

uint64_t ft_kvm_host_tsc(void);

/* engine.c: virtual time by the host's TSC. */
uint64_t ft_kvm_now(const struct ft_engine *engine);
void ft_kvm_advance(struct ft_engine *engine); /* m->icount */

static inline bool ft_kvm_alone(const struct ft_engine *engine)
{
	return engine->vcpus == 1;
}

/* model.c. May a guest go on on this host? note: what is to be known of it all the same, or "". */
int ft_kvm_model_fits(const struct ft_model *host, const struct ft_model *guest, char *note, size_t size, struct ft_error *err);
/* The machine gets its model, unless it has one. Before the vCPUs are set up. */
int ft_kvm_model_open(struct ft_engine *engine, struct ft_error *err);
/* The machine's model and its TSC's frequency become these; before the first run. */
int ft_kvm_become(struct ft_engine *engine, const struct ft_model *model, uint64_t tsc_khz, struct ft_error *err);

/* hide.c. What KVM shows beyond the CPU model; once. Its MSRs are those of the machine's model: the filter again when that changes. */
int ft_kvm_hide(const struct ft_engine *engine, struct ft_error *err);
int ft_kvm_filter(const struct ft_engine *engine, struct ft_error *err);

/* vcpu.c. What is fixed for the vCPUs' lives (CPU model, signal mask); once. */
int ft_kvm_vcpus_open(struct ft_engine *engine, bool host_tsc, struct ft_error *err);
/* They get the machine's CPU model and the frequency of its TSC; before the first run. */
int ft_kvm_vcpus_become(struct ft_engine *engine, struct ft_error *err);
/* All vCPUs: engine->cpu, the machine's others, its local APICs and clock to the kernel; and back. */
int ft_kvm_push(struct ft_engine *engine, struct ft_error *err);
int ft_kvm_pull(struct ft_engine *engine, struct ft_error *err);
/* Is the vCPU between two instructions, with no event half delivered? */
int ft_kvm_between(struct ft_kvm_vcpu *vcpu, bool *between, struct ft_error *err);
/* Virtual time that was moved forward (idle is skipped) is the guest's TSC, too, and its timer comes nearer. */
int ft_kvm_follow(struct ft_engine *engine, struct ft_error *err);
/* The kernel's APIC: the virtual time at which its timer is due (UINT64_MAX: it is not armed); does an interrupt wait in it. */
int ft_kvm_apic(struct ft_kvm_vcpu *vcpu, uint64_t *due_ns, bool *requested, struct ft_error *err);

#endif
