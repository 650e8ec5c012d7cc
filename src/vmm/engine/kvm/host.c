#include "vmm/engine/kvm/host.h"

#include <errno.h>
#include <linux/kvm.h>
#include <linux/perf_event.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "vmm/engine/kvm/failed.h"

#define API_VERSION 12

int ft_kvm_failed(struct ft_error *err, const char *what)
{
	int error = -errno;
	return ft_error_set(err, error, "kvm: %s: %s", what, strerror(-error));
}

/* ---- What it has --------------------------------------------------------------------------------------------------- */

/* Features that a processor has to have for the model to be true: what the kernel does for the guest, and what only speeds it
 * up, it need not. */
static const struct {
	uint32_t leaf;
	unsigned reg; /* EAX, EBX, ECX, EDX */
	unsigned bit;
	const char *name;
} features[] = {{1, 2, 0, "SSE3"},   {1, 2, 9, "SSSE3"},	 {1, 2, 13, "CMPXCHG16B"},	    {1, 2, 19, "SSE4.1"},
	      {1, 2, 20, "SSE4.2"}, {1, 2, 23, "POPCNT"}, {7, 1, 7, "SMEP"},		    {7, 2, 2, "UMIP"},
	      {0x80000001, 3, 20, "NX"}, {0x80000001, 3, 26, "1 GiB pages"}, {0x80000001, 3, 27, "RDTSCP"},
	      {0x80000001, 3, 11, "SYSCALL"}};

#define HOST_LEAVES 256u

/* What its KVM lends to guests of the processor; *host is the caller's to free. */
static int read_leaves(int kvm, struct kvm_cpuid2 **host, struct ft_error *err)
{
	*host = calloc(1, sizeof(**host) + HOST_LEAVES * sizeof((*host)->entries[0]));
	if (!*host)
		return ft_error_set(err, -ENOMEM, "no memory for the host's CPUID");
	(*host)->nent = HOST_LEAVES;
	int error = ioctl(kvm, KVM_GET_SUPPORTED_CPUID, *host) ? ft_kvm_failed(err, "KVM_GET_SUPPORTED_CPUID") : 0;
	if (error)
		free(*host);
	return error;
}

static int check_features(int kvm, struct ft_error *err)
{
	struct kvm_cpuid2 *host;
	int error = read_leaves(kvm, &host, err);
	if (error)
		return error;
	for (unsigned i = 0; !error && i < sizeof(features) / sizeof(*features); i++) {
		bool has = false;
		for (uint32_t k = 0; k < host->nent; k++) {
			const struct kvm_cpuid_entry2 *e = &host->entries[k];
			const uint32_t registers[4] = {e->eax, e->ebx, e->ecx, e->edx};
			if (e->function == features[i].leaf && !e->index)
				has = registers[features[i].reg] >> features[i].bit & 1;
		}
		if (!has)
			error = ft_error_set(err, -ENOTSUP, "kvm: this host has no %s, which the guest's CPU model has",
					     features[i].name);
	}
	free(host);
	return error;
}

int ft_kvm_host_check(int kvm, struct ft_error *err)
{
	static const struct {
		int capability;
		const char *name;
	} needed[] = {{KVM_CAP_USER_MEMORY, "user memory"},
		      {KVM_CAP_SPLIT_IRQCHIP, "a local APIC apart from the other controllers (split irqchip)"},
		      {KVM_CAP_SIGNAL_MSI, "messages"},
		      {KVM_CAP_IRQ_ROUTING, "routes of interrupts"},
		      {KVM_CAP_EXT_CPUID, "CPU models"},
		      {KVM_CAP_XSAVE, "FPU state"},
		      {KVM_CAP_VCPU_EVENTS, "events"},
		      {KVM_CAP_EXCEPTION_PAYLOAD, "payloads of exceptions"},
		      {KVM_CAP_DEBUGREGS, "debug registers"},
		      {KVM_CAP_MP_STATE, "the halted state"},
		      {KVM_CAP_IMMEDIATE_EXIT, "immediate exits"},
		      {KVM_CAP_TSC_DEADLINE_TIMER, "the APIC timer's deadline mode"},
		      {KVM_CAP_GET_TSC_KHZ, "the frequency of the TSC"},
		      {KVM_CAP_VCPU_ATTRIBUTES, "TSC offsets"}};
	int version = ioctl(kvm, KVM_GET_API_VERSION, 0);
	if (version != API_VERSION)
		return ft_error_set(err, -ENOTSUP, "kvm: the host's API has version %d, not %d", version, API_VERSION);
	for (unsigned i = 0; i < sizeof(needed) / sizeof(*needed); i++)
		if (ioctl(kvm, KVM_CHECK_EXTENSION, needed[i].capability) <= 0)
			return ft_error_set(err, -ENOTSUP, "kvm: this host's kernel lacks %s", needed[i].name);
	return check_features(kvm, err);
}

/* ---- Which processor it is ------------------------------------------------------------------------------------------ */

#define MSR_ARCH_CAPABILITIES 0x10au

/* 0 where there is none: a kernel from before it told (4.17), a processor from before there was one. */
static int arch_capabilities(int kvm, uint64_t *value, struct ft_error *err)
{
	struct {
		struct kvm_msrs header;
		struct kvm_msr_entry entry[1];
	} one = {.header.nmsrs = 1, .entry[0].index = MSR_ARCH_CAPABILITIES};
	*value = 0;
	if (ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_GET_MSR_FEATURES) <= 0)
		return 0;
	int n = ioctl(kvm, KVM_GET_MSRS, &one);
	if (n < 0)
		return ft_kvm_failed(err, "KVM_GET_MSRS of ARCH_CAPABILITIES");
	if (n)
		*value = one.entry[0].data;
	return 0;
}

void ft_kvm_host_model_read(const struct kvm_cpuid2 *host, struct ft_model *model)
{
	*model = (struct ft_model){0};
	for (uint32_t i = 0; i < host->nent; i++) {
		const struct kvm_cpuid_entry2 *e = &host->entries[i];
		if (e->function == 0) {
			model->vendor[0] = e->ebx;
			model->vendor[1] = e->ecx;
			model->vendor[2] = e->edx;
		} else if (e->function == 1) {
			model->signature = e->eax;
		} else if (e->function == 7 && e->index == 0) {
			model->leaf7_edx = e->edx;
		} else if (e->function == 7 && e->index == 2) {
			model->leaf7_2_edx = e->edx;
		} else if (e->function == 0x80000008) {
			model->ext8_ebx = e->ebx;
		} else if (e->function == 0x80000021) {
			model->ext21_eax = e->eax;
			model->ext21_ecx = e->ecx;
		}
	}
}

int ft_kvm_host_model(int kvm, struct ft_model *model, struct ft_error *err)
{
	struct kvm_cpuid2 *host;
	int error = read_leaves(kvm, &host, err);
	if (error)
		return error;
	ft_kvm_host_model_read(host, model);
	free(host);
	error = arch_capabilities(kvm, &model->arch_capabilities, err);
	if (!error && !ft_model_known(model))
		*model = (struct ft_model){0};
	return error;
}

/* ---- How fast it is ------------------------------------------------------------------------------------------------- */

/* A machine of 16 pages: page tables for its first 2 MiB, and a loop that ends with an access to a port. */
#define TRY_MEMORY 0x10000u
#define TRY_PML4   0x1000u
#define TRY_PDPT   0x2000u
#define TRY_PD     0x3000u
#define TRY_CODE   0x4000u

/* 1: dec %ecx; jnz 1b; out %al, $0x10 */
static const uint8_t loop[] = {0xff, 0xc9, 0x75, 0xfc, 0xe6, 0x10};
#define TRY_SHORT 1000u
#define TRY_LONG  20000u
#define TRIES     3u

struct try {
	int vm, vcpu;
	uint8_t *memory;
	struct kvm_run *run;
	size_t run_size;
};

static void close_try(struct try *t)
{
	if (t->run)
		munmap(t->run, t->run_size);
	if (t->vcpu >= 0)
		close(t->vcpu);
	if (t->vm >= 0)
		close(t->vm);
	if (t->memory)
		munmap(t->memory, TRY_MEMORY);
}

static void put_entry(struct try *t, uint32_t at, uint64_t entry)
{
	memcpy(t->memory + at, &entry, sizeof(entry));
}

static int open_try(int kvm, struct try *t, struct ft_error *err)
{
	t->memory = mmap(NULL, TRY_MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (t->memory == MAP_FAILED) {
		t->memory = NULL;
		return ft_kvm_failed(err, "memory");
	}
	put_entry(t, TRY_PML4, TRY_PDPT | 3);
	put_entry(t, TRY_PDPT, TRY_PD | 3);
	put_entry(t, TRY_PD, 0x83);
	memcpy(t->memory + TRY_CODE, loop, sizeof(loop));
	t->vm = ioctl(kvm, KVM_CREATE_VM, 0);
	if (t->vm < 0)
		return ft_kvm_failed(err, "KVM_CREATE_VM");
	struct kvm_userspace_memory_region ram = {.memory_size = TRY_MEMORY, .userspace_addr = (uint64_t)(uintptr_t)t->memory};
	if (ioctl(t->vm, KVM_SET_USER_MEMORY_REGION, &ram))
		return ft_kvm_failed(err, "KVM_SET_USER_MEMORY_REGION");
	t->vcpu = ioctl(t->vm, KVM_CREATE_VCPU, 0);
	if (t->vcpu < 0)
		return ft_kvm_failed(err, "KVM_CREATE_VCPU");
	int size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (size < (int)sizeof(*t->run))
		return ft_error_set(err, -ENOTSUP, "kvm: KVM_GET_VCPU_MMAP_SIZE says %d", size);
	t->run_size = (size_t)size;
	t->run = mmap(NULL, t->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, t->vcpu, 0);
	if (t->run == MAP_FAILED) {
		t->run = NULL;
		return ft_kvm_failed(err, "the vCPU's shared page");
	}
	return 0;
}

/* 64-bit mode, ring 0. */
static int set_mode(int kvm, const struct try *t, struct ft_error *err)
{
	struct kvm_cpuid2 *host;
	struct kvm_sregs s;
	int error = read_leaves(kvm, &host, err);
	if (error)
		return error;
	if (ioctl(t->vcpu, KVM_SET_CPUID2, host))
		error = ft_kvm_failed(err, "KVM_SET_CPUID2");
	free(host);
	if (!error && ioctl(t->vcpu, KVM_GET_SREGS, &s))
		error = ft_kvm_failed(err, "KVM_GET_SREGS");
	if (error)
		return error;
	const struct kvm_segment code = {.limit = UINT32_MAX, .selector = 8, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1};
	struct kvm_segment data = code;
	data.selector = 16;
	data.type = 3;
	data.l = 0;
	data.db = 1;
	s.cs = code;
	s.ds = s.es = s.fs = s.gs = s.ss = data;
	s.cr0 = 0x80000033; /* PG, NE, ET, MP, PE */
	s.cr3 = TRY_PML4;
	s.cr4 = 0x20;  /* PAE */
	s.efer = 0x500; /* LME, LMA */
	return ioctl(t->vcpu, KVM_SET_SREGS, &s) ? ft_kvm_failed(err, "KVM_SET_SREGS") : 0;
}

static int time_loop(const struct try *t, uint32_t turns, uint64_t *ns, struct ft_error *err)
{
	struct kvm_regs regs = {.rip = TRY_CODE, .rcx = turns, .rflags = 2};
	struct timespec began, ended;
	if (ioctl(t->vcpu, KVM_SET_REGS, &regs))
		return ft_kvm_failed(err, "KVM_SET_REGS");
	clock_gettime(CLOCK_MONOTONIC, &began);
	int result;
	do
		result = ioctl(t->vcpu, KVM_RUN, 0);
	while (result && (errno == EINTR || errno == EAGAIN));
	if (result)
		return ft_kvm_failed(err, "KVM_RUN");
	clock_gettime(CLOCK_MONOTONIC, &ended);
	if (t->run->exit_reason != KVM_EXIT_IO)
		return ft_error_set(err, -EIO, "kvm: a loop in ring 0 ends with exit %u", t->run->exit_reason);
	*ns = (uint64_t)(ended.tv_sec - began.tv_sec) * 1000000000u + (uint64_t)ended.tv_nsec - (uint64_t)began.tv_nsec;
	return 0;
}

int ft_kvm_host_speed(int kvm, double *mips, uint32_t *tsc_khz, struct ft_error *err)
{
	struct try t = {.vm = -1, .vcpu = -1};
	int error = open_try(kvm, &t, err), khz = error ? 0 : ioctl(t.vcpu, KVM_GET_TSC_KHZ, 0);
	if (!error && khz < 0)
		error = ft_kvm_failed(err, "KVM_GET_TSC_KHZ");
	if (!error)
		error = set_mode(kvm, &t, err);
	*mips = 0;
	*tsc_khz = error ? 0 : (uint32_t)khz;
	/* The quickest of each: what else the host does in the meantime only adds. */
	uint64_t little = UINT64_MAX, much = UINT64_MAX, ns = 0;
	for (unsigned i = 0; i < 2 * TRIES && !error; i++) {
		uint64_t *least = i % 2 ? &much : &little;
		error = time_loop(&t, i % 2 ? TRY_LONG : TRY_SHORT, &ns, err);
		if (!error && ns < *least)
			*least = ns;
	}
	/* What entering and leaving takes is in both. Where it was not even the same, nothing is taken off. */
	if (!error)
		*mips = much > little ? 2.0 * (TRY_LONG - TRY_SHORT) * 1000 / (double)(much - little) : 2.0 * TRY_LONG * 1000 / (double)(much + !much);
	close_try(&t);
	return error;
}

/* ---- What it counts -------------------------------------------------------------------------------------------------- */

int ft_kvm_host_counter(struct ft_error *err)
{
	struct perf_event_attr counter = {.type = PERF_TYPE_HARDWARE,
					  .size = sizeof(counter),
					  .config = PERF_COUNT_HW_BRANCH_INSTRUCTIONS,
					  .pinned = 1,
					  .exclude_host = 1,
					  .disabled = 1};
	int fd = (int)syscall(SYS_perf_event_open, &counter, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);
	if (fd < 0)
		return ft_error_set(err, -errno, "perf_event_open: %s", strerror(errno));
	close(fd);
	return 0;
}
