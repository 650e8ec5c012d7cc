#include "vmm/engine/kvm/native.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "vmm/engine/kvm/kvm.h"

/* ---- CPUID --------------------------------------------------------------------------------------------------------
 *
 * SDM Vol. 2A, CPUID; AMD APM Vol. 3, appendix E. Leaves are those named here: what a newer processor has in others may come with state
 * that nobody here knows how to carry into a clone. For the same reason bits of known leaves are hidden that come with such state, and
 * those of what is the platform's. */

enum { EAX, EBX, ECX, EDX };

#define BIT(n) (1u << (n))

#define LEAF1_ECX_HIDDEN                                                                                                             \
	(BIT(2) /* DTES64 */ | BIT(3) /* MONITOR */ | BIT(4) /* DS-CPL */ | BIT(5) /* VMX */ | BIT(6) /* SMX */ | BIT(7) /* EIST */ |   \
	 BIT(8) /* TM2 */ | BIT(10) /* CNXT-ID */ | BIT(11) /* SDBG */ | BIT(14) /* xTPR */ | BIT(15) /* PDCM */ | BIT(18) /* DCA */ |  \
	 BIT(21) /* x2APIC: the machine's is an xAPIC */ | BIT(27) /* OSXSAVE: KVM's, by CR4 */)
#define LEAF1_ECX_SHOWN (BIT(24) /* TSC deadline */ | BIT(31) /* hypervisor */)
#define LEAF1_EDX_HIDDEN                                                                                                             \
	(BIT(7) /* MCE */ | BIT(12) /* MTRR */ | BIT(14) /* MCA */ | BIT(18) /* PSN */ | BIT(21) /* DS */ | BIT(22) /* ACPI */ |        \
	 BIT(28) /* HTT: by place */ | BIT(29) /* TM */ | BIT(31) /* PBE */)
#define LEAF7_EBX_HIDDEN (BIT(2) /* SGX */ | BIT(12) /* RDT-M */ | BIT(15) /* RDT-A */ | BIT(25) /* PT */)
#define LEAF7_ECX_HIDDEN                                                                                                             \
	(BIT(7) /* shadow stacks */ | BIT(13) /* TME */ | BIT(16) /* LA57: observers walk four levels */ | BIT(23) /* Key Locker */ |   \
	 BIT(29) /* ENQCMD */ | BIT(30) /* SGX_LC */ | BIT(31) /* PKS */)
#define LEAF7_EDX_HIDDEN                                                                                                             \
	(BIT(5) /* user interrupts */ | BIT(18) /* PCONFIG */ | BIT(19) /* LBR */ | BIT(20) /* IBT */ | BIT(22) | BIT(24) |             \
	 BIT(25) /* AMX: more than KVM_GET_XSAVE has room for */ | BIT(30) /* CORE_CAPABILITIES */)
#define LEAF7_1_EAX_HIDDEN (BIT(17) /* FRED */ | BIT(21) /* AMX */ | BIT(22) /* HRESET */ | BIT(26) /* LAM: CR3 is an address */)
#define LEAF7_1_EDX_HIDDEN (BIT(8) /* AMX */ | BIT(18) /* supervisor shadow stacks */ | BIT(21) /* APX */)
#define EXT1_ECX_HIDDEN                                                                                                              \
	(BIT(2) /* SVM */ | BIT(3) /* extended APIC */ | BIT(9) /* OSVW */ | BIT(10) /* IBS */ | BIT(12) /* SKINIT */ |                 \
	 BIT(13) /* WDT */ | BIT(15) /* LWP */ | BIT(22) /* TOPOEXT */ | BIT(23) | BIT(24) | BIT(28) /* performance counters */ |       \
	 BIT(26) /* data breakpoints' masks */ | BIT(27) /* performance TSC */ | BIT(29) /* MWAITX */)
#define EXT8_EBX_HIDDEN (BIT(1) /* IRPERF */ | BIT(4) /* RDPRU */)

#define LEAF1_EDX_HTT   BIT(28)
#define EXT1_ECX_CORES  BIT(1) /* CmpLegacy */
#define ANY_INDEX       UINT32_MAX

/* Components of XSAVE's area whose size and place KVM_GET_XSAVE and we know: x87, SSE, AVX, MPX, AVX-512, PKRU. SDM Vol. 1 13.1. */
#define XCR0_KNOWN    0x2ffu
#define XSAVE_LEGACY  576u /* and header */
#define XSAVE_OPTIONS 0xfu /* XSAVEOPT, XSAVEC, XGETBV of 1, XSAVES; not XFD */

#define BASIC_LEAST 0x16u /* frequencies, which a kernel would have to measure else */

#define X86_LEAVES(X)                                                                                                                \
	/* leaf, index; hidden of EAX, EBX, ECX, EDX */                                                                                \
	X(0, ANY_INDEX, 0, 0, 0, 0)                                                                                                   \
	X(1, ANY_INDEX, 0, 0xffff00ffu, LEAF1_ECX_HIDDEN, LEAF1_EDX_HIDDEN)                                                           \
	X(2, ANY_INDEX, 0, 0, 0, 0)                                                                                                   \
	X(4, ANY_INDEX, 0xffffc000u, 0, 0, 0) /* who shares a cache */                                                                \
	X(7, 0, 0, LEAF7_EBX_HIDDEN, LEAF7_ECX_HIDDEN, LEAF7_EDX_HIDDEN)                                                              \
	X(7, 1, LEAF7_1_EAX_HIDDEN, UINT32_MAX, UINT32_MAX, LEAF7_1_EDX_HIDDEN)                                                       \
	X(7, 2, 0, 0, 0, 0)                                                                                                           \
	X(0xd, ANY_INDEX, 0, 0, 0, 0)                                                                                                 \
	X(0x24, ANY_INDEX, 0, 0, 0, 0) /* AVX10 */                                                                                    \
	X(0x80000000, ANY_INDEX, 0, 0, 0, 0)                                                                                          \
	X(0x80000001, ANY_INDEX, 0, 0, EXT1_ECX_HIDDEN, BIT(7) | BIT(12) | BIT(14)) /* as leaf 1's */                                 \
	X(0x80000002, ANY_INDEX, 0, 0, 0, 0)                                                                                          \
	X(0x80000003, ANY_INDEX, 0, 0, 0, 0)                                                                                          \
	X(0x80000004, ANY_INDEX, 0, 0, 0, 0)                                                                                          \
	X(0x80000005, ANY_INDEX, 0, 0, 0, 0)                                                                                          \
	X(0x80000006, ANY_INDEX, 0, 0, 0, 0)                                                                                          \
	X(0x80000008, ANY_INDEX, 0, EXT8_EBX_HIDDEN, UINT32_MAX, UINT32_MAX)                                                          \
	X(0x80000019, ANY_INDEX, 0, 0, 0, 0)                                                                                          \
	X(0x8000001a, ANY_INDEX, 0, 0, 0, 0)                                                                                          \
	X(0x80000021, ANY_INDEX, 0, 0, 0, 0)

#define EXT_MOST 0x80000021u

/* Without what is hidden; false: the whole leaf is. */
static bool strip(struct kvm_cpuid_entry2 *e)
{
	static const struct {
		uint32_t function, index, hidden[4];
	} leaves[] = {
#define X(function, index, eax, ebx, ecx, edx) {function, index, {eax, ebx, ecx, edx}},
	    X86_LEAVES(X)
#undef X
	};
	for (unsigned i = 0; i < sizeof(leaves) / sizeof(*leaves); i++) {
		if (leaves[i].function != e->function || (leaves[i].index != ANY_INDEX && leaves[i].index != e->index))
			continue;
		e->eax &= ~leaves[i].hidden[EAX];
		e->ebx &= ~leaves[i].hidden[EBX];
		e->ecx &= ~leaves[i].hidden[ECX];
		e->edx &= ~leaves[i].hidden[EDX];
		return true;
	}
	return false;
}

static void add(struct kvm_cpuid2 *guest, const struct kvm_cpuid_entry2 *e)
{
	if (guest->nent < FT_KVM_NATIVE_LEAVES && (e->eax | e->ebx | e->ecx | e->edx))
		guest->entries[guest->nent++] = *e;
}

/* A leaf of the model's: what the machine is, whatever its processor. */
static struct kvm_cpuid_entry2 of_model(struct ft_model_place place, uint32_t tsc_khz, uint32_t leaf, uint32_t sub, bool indexed)
{
	uint32_t r[4];
	ft_model_cpuid(&FT_MODEL_SOFTWARE, place, tsc_khz, leaf, sub, r);
	return (struct kvm_cpuid_entry2){.function = leaf,
					 .index = sub,
					 .flags = indexed ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0,
					 .eax = r[EAX],
					 .ebx = r[EBX],
					 .ecx = r[ECX],
					 .edx = r[EDX]};
}

/* Which processor of how many this is, and how they are told apart. */
static void place_it(struct kvm_cpuid_entry2 *e, struct ft_model_place place, uint32_t tsc_khz)
{
	uint32_t of[4], bits = 0;
	while (1u << bits < place.vcpus)
		bits++;
	ft_model_cpuid(&FT_MODEL_SOFTWARE, place, tsc_khz, 1, 0, of);
	switch (e->function) {
	case 1:
		e->ebx |= of[EBX] & 0xffff0000u;
		e->edx |= of[EDX] & LEAF1_EDX_HTT;
		e->ecx |= LEAF1_ECX_SHOWN;
		break;
	case 4: /* each core has caches of its own */
		e->eax |= e->eax ? ((1u << bits) - 1) << 26 : 0;
		break;
	case 0x80000001:
		e->ecx &= place.vcpus > 1 ? UINT32_MAX : ~EXT1_ECX_CORES;
		break;
	case 0x80000008:
		e->ecx = place.vcpus > 1 ? bits << 12 | (place.vcpus - 1) : 0;
		break;
	}
}

/* XSAVE's area: known components alone, and how large it is with all of them. */
static bool strip_xsave(struct kvm_cpuid_entry2 *e, uint32_t *size)
{
	if (e->index == 0) {
		e->eax &= XCR0_KNOWN;
		e->edx = 0;
		return true;
	}
	if (e->index == 1) {
		*e = (struct kvm_cpuid_entry2){.function = e->function, .index = 1, .flags = e->flags, .eax = e->eax & XSAVE_OPTIONS};
		return true;
	}
	/* ECX bit 0: a supervisor's, in XSS. */
	if (e->index >= 32 || !(XCR0_KNOWN >> e->index & 1) || (e->ecx & 1))
		return false;
	if (e->eax > sizeof(struct kvm_xsave) || e->ebx > sizeof(struct kvm_xsave) - e->eax) {
		*size = UINT32_MAX;
		return false;
	}
	if (e->eax + e->ebx > *size)
		*size = e->eax + e->ebx;
	return true;
}

int ft_kvm_native_model(const struct kvm_cpuid2 *host, struct ft_model_place place, uint32_t tsc_khz, struct kvm_cpuid2 *guest,
			struct ft_error *err)
{
	uint32_t size = XSAVE_LEGACY;
	struct kvm_cpuid_entry2 *basic = NULL, *area = NULL;
	guest->nent = 0;
	for (uint32_t i = 0; i < host->nent; i++) {
		struct kvm_cpuid_entry2 e = host->entries[i];
		if (!strip(&e) || (e.function == 0xd && !strip_xsave(&e, &size)))
			continue;
		place_it(&e, place, tsc_khz);
		if (e.function == 0x80000000 && e.eax > EXT_MOST)
			e.eax = EXT_MOST;
		uint32_t at = guest->nent;
		add(guest, &e);
		if (guest->nent > at && e.function == 0)
			basic = &guest->entries[at];
		if (guest->nent > at && e.function == 0xd && e.index == 0)
			area = &guest->entries[at];
	}
	if (!basic || guest->nent > FT_KVM_NATIVE_LEAVES - 8)
		return ft_error_set(err, -ENOTSUP, "kvm: %u leaves of CPUID that this host supports are none of a processor's", host->nent);
	if (size > sizeof(struct kvm_xsave))
		return ft_error_set(err, -ENOTSUP, "kvm: the host's XSAVE area has more than %zu bytes", sizeof(struct kvm_xsave));
	if (area) {
		area->ebx = XSAVE_LEGACY; /* KVM's, by XCR0 */
		area->ecx = size;
	}
	if (basic->eax < BASIC_LEAST)
		basic->eax = BASIC_LEAST;
	static const struct {
		uint32_t leaf, subs;
	} own[] = {{6, 1}, {0xb, 3}, {0x15, 1}, {0x16, 1}, {0x40000000, 1}, {0x80000007, 1}};
	for (unsigned i = 0; i < sizeof(own) / sizeof(*own); i++)
		for (uint32_t sub = 0; sub < (place.vcpus > 1 ? own[i].subs : 1); sub++) {
			struct kvm_cpuid_entry2 e = of_model(place, tsc_khz, own[i].leaf, sub, own[i].subs > 1);
			add(guest, &e);
		}
	return 0;
}

/* ---- MSRs --------------------------------------------------------------------------------------------------------- */

/* X(first, number): what the machine's state has, and what is the host's or of an interface that the guest is not told of. */
#define NOT_OURS(X)                                                                                          \
	X(0x10, 3)             /* TSC; the clocks of KVM's interface */                                      \
	X(0x1b, 1)             /* APIC_BASE */                                                               \
	X(0x3b, 1)             /* TSC_ADJUST */                                                              \
	X(0x8b, 1)             /* microcode revision */                                                      \
	X(0xe7, 2)             /* MPERF, APERF */                                                            \
	X(0x10a, 1)            /* ARCH_CAPABILITIES */                                                       \
	X(0x174, 3)            /* SYSENTER_* */                                                              \
	X(0x1a0, 1)            /* MISC_ENABLE */                                                             \
	X(0x277, 1)            /* PAT */                                                                     \
	X(0x6e0, 1)            /* TSC_DEADLINE */                                                            \
	X(0x40000000, 0x1000)  /* Hyper-V's */                                                               \
	X(0x4b564d00, 0x100)   /* KVM's */                                                                   \
	X(0xc0000080, 5)       /* EFER, STAR, LSTAR, CSTAR, FMASK */                                         \
	X(0xc0000100, 4)       /* FS_BASE, GS_BASE, KERNEL_GS_BASE, TSC_AUX */

/* What kernels have without listing it (KVM_GET_MSR_INDEX_LIST); where it is not there, or never differs, nothing comes of it. */
static const uint32_t also[] = {0x1d9 /* DEBUGCTL */, 0xc0011029 /* DE_CFG */};

#define MSRS_MOST 512u

struct msrs {
	struct kvm_msrs header;
	struct kvm_msr_entry entry[MSRS_MOST];
};

struct more {
	struct kvm_xcrs xcrs;
	struct kvm_xsave xsave;
	struct msrs msrs;
};

struct ft_kvm_native {
	struct kvm_cpuid2 *host, *guest; /* guest: scratch */
	struct msrs msrs;                /* which there are */
	bool readable;                   /* they all are: those that are not have been taken out */
	bool xcrs;
	bool taken;
	struct more vcpu[];
};

static bool ours(uint32_t index)
{
#define X(first, number)                               \
	if (index - (first) < (uint32_t)(number)) \
		return false;
	NOT_OURS(X)
#undef X
	return true;
}

static void add_msr(struct msrs *list, uint32_t index)
{
	for (uint32_t i = 0; i < list->header.nmsrs; i++)
		if (list->entry[i].index == index)
			return;
	if (ours(index) && list->header.nmsrs < MSRS_MOST)
		list->entry[list->header.nmsrs++] = (struct kvm_msr_entry){.index = index};
}

static int list_msrs(int kvm, struct msrs *list, struct ft_error *err)
{
	struct {
		struct kvm_msr_list header;
		uint32_t index[MSRS_MOST];
	} all = {.header.nmsrs = MSRS_MOST};
	if (ioctl(kvm, KVM_GET_MSR_INDEX_LIST, &all))
		return ft_kvm_failed(err, "KVM_GET_MSR_INDEX_LIST");
	for (uint32_t i = 0; i < all.header.nmsrs && i < MSRS_MOST; i++)
		add_msr(list, all.index[i]);
	for (unsigned i = 0; i < sizeof(also) / sizeof(*also); i++)
		add_msr(list, also[i]);
	return 0;
}

/* Some that are listed a vCPU has not: of counters, or of what CPUID hides. */
static int drop_unreadable(const struct ft_kvm_vcpu *vcpu, struct msrs *list, struct ft_error *err)
{
	uint32_t kept = 0;
	for (uint32_t i = 0; i < list->header.nmsrs; i++) {
		struct {
			struct kvm_msrs header;
			struct kvm_msr_entry entry[1];
		} one = {.header.nmsrs = 1, .entry[0].index = list->entry[i].index};
		int n = ioctl(vcpu->fd, KVM_GET_MSRS, &one);
		if (n < 0)
			return ft_kvm_failed(err, "KVM_GET_MSRS");
		if (n)
			list->entry[kept++] = list->entry[i];
	}
	list->header.nmsrs = kept;
	return 0;
}

static int get_msrs(const struct ft_kvm_vcpu *vcpu, struct msrs *msrs, struct ft_error *err)
{
	uint32_t n = msrs->header.nmsrs;
	int got = n ? ioctl(vcpu->fd, KVM_GET_MSRS, msrs) : 0;
	if (got < 0)
		return ft_kvm_failed(err, "KVM_GET_MSRS");
	return (uint32_t)got == n ? 0 : ft_error_set(err, -ENOTSUP, "kvm: the host does not have MSR 0x%x", msrs->entry[got].index);
}

/* Those alone that are not yet what they are to be: not each can be written. */
static int give_msrs(const struct ft_kvm_vcpu *vcpu, struct msrs *msrs, struct ft_error *err)
{
	struct msrs now = *msrs;
	uint32_t n = 0;
	int error = get_msrs(vcpu, &now, err);
	if (error)
		return error;
	for (uint32_t i = 0; i < msrs->header.nmsrs; i++)
		if (msrs->entry[i].data != now.entry[i].data)
			now.entry[n++] = msrs->entry[i];
	now.header.nmsrs = n;
	int set = n ? ioctl(vcpu->fd, KVM_SET_MSRS, &now) : 0;
	if (set < 0)
		return ft_kvm_failed(err, "KVM_SET_MSRS");
	return (uint32_t)set == n ? 0 : ft_error_set(err, -ENOTSUP, "kvm: the host does not take MSR 0x%x", now.entry[set].index);
}

/* ---- The engine's ------------------------------------------------------------------------------------------------- */

static struct kvm_cpuid2 *leaves(void)
{
	struct kvm_cpuid2 *list = calloc(1, sizeof(*list) + FT_KVM_NATIVE_LEAVES * sizeof(list->entries[0]));
	if (list)
		list->nent = FT_KVM_NATIVE_LEAVES;
	return list;
}

int ft_kvm_native_open(struct ft_engine *engine, struct ft_error *err)
{
	struct ft_kvm_native *native = calloc(1, sizeof(*native) + engine->vcpus * sizeof(native->vcpu[0]));
	engine->native = native;
	if (!native || !(native->host = leaves()) || !(native->guest = leaves()))
		return ft_error_set(err, -ENOMEM, "no memory for the engine");
	if (ioctl(engine->kvm, KVM_GET_SUPPORTED_CPUID, native->host))
		return ft_kvm_failed(err, "KVM_GET_SUPPORTED_CPUID");
	native->xcrs = ioctl(engine->kvm, KVM_CHECK_EXTENSION, KVM_CAP_XCRS) > 0;
	return list_msrs(engine->kvm, &native->msrs, err);
}

void ft_kvm_native_close(struct ft_kvm_native *native)
{
	if (!native)
		return;
	free(native->host);
	free(native->guest);
	free(native);
}

int ft_kvm_native_set_model(const struct ft_kvm_vcpu *vcpu, struct ft_error *err)
{
	const struct ft_engine *engine = vcpu->engine;
	struct kvm_cpuid2 *guest = engine->native->guest;
	int error = ft_kvm_native_model(engine->native->host, (struct ft_model_place){vcpu->number, engine->vcpus},
					(uint32_t)engine->m->clock.tsc_khz, guest, err);
	if (error)
		return error;
	return ioctl(vcpu->fd, KVM_SET_CPUID2, guest) ? ft_kvm_failed(err, "KVM_SET_CPUID2") : 0;
}

int ft_kvm_native_msr(struct ft_engine *engine, uint32_t index, uint64_t *value)
{
	struct {
		struct kvm_msrs header;
		struct kvm_msr_entry entry[1];
	} one = {.header.nmsrs = 1, .entry[0].index = index};
	if (ioctl(engine->vcpu[0].fd, KVM_GET_MSRS, &one) != 1)
		return -1;
	*value = one.entry[0].data;
	return 0;
}

static int take_one(const struct ft_kvm_vcpu *vcpu, const struct ft_kvm_native *native, struct more *more, struct ft_error *err)
{
	if (native->xcrs && ioctl(vcpu->fd, KVM_GET_XCRS, &more->xcrs))
		return ft_kvm_failed(err, "KVM_GET_XCRS");
	if (ioctl(vcpu->fd, KVM_GET_XSAVE, &more->xsave))
		return ft_kvm_failed(err, "KVM_GET_XSAVE");
	memcpy(&more->msrs, &native->msrs, sizeof(native->msrs.header) + native->msrs.header.nmsrs * sizeof(native->msrs.entry[0]));
	return get_msrs(vcpu, &more->msrs, err);
}

int ft_kvm_native_take(struct ft_engine *engine, struct ft_error *err)
{
	struct ft_kvm_native *native = engine->native;
	int error = native->readable ? 0 : drop_unreadable(&engine->vcpu[0], &native->msrs, err);
	native->readable = !error;
	for (unsigned i = 0; !error && i < engine->vcpus; i++)
		error = take_one(&engine->vcpu[i], native, &native->vcpu[i], err);
	native->taken = !error;
	return error;
}

int ft_kvm_native_inherit(struct ft_engine *engine, const struct ft_engine *from, struct ft_error *err)
{
	struct ft_kvm_native *to = engine->native;
	if (!to != !from->native || engine->vcpus != from->vcpus)
		return ft_error_set(err, -EINVAL, "kvm: a guest that has the host's own processor goes on on the same alone");
	if (!to || !from->native->taken)
		return 0;
	memcpy(to->vcpu, from->native->vcpu, engine->vcpus * sizeof(to->vcpu[0]));
	to->taken = true;
	return 0;
}

int ft_kvm_native_give(struct ft_kvm_vcpu *vcpu, struct ft_error *err)
{
	struct ft_kvm_native *native = vcpu->engine->native;
	struct more *more = &native->vcpu[vcpu->number];
	if (!native->taken)
		return 0;
	if (native->xcrs && ioctl(vcpu->fd, KVM_SET_XCRS, &more->xcrs))
		return ft_kvm_failed(err, "KVM_SET_XCRS");
	if (ioctl(vcpu->fd, KVM_SET_XSAVE, &more->xsave))
		return ft_kvm_failed(err, "KVM_SET_XSAVE");
	return give_msrs(vcpu, &more->msrs, err);
}

void ft_kvm_native_given(struct ft_engine *engine)
{
	engine->native->taken = false;
}
