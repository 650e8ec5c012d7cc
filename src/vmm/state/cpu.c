/* One vCPU between an engine's form (vmm/state.h) and the KVM shapes. */
#include <errno.h>
#include <string.h>

#include "vmm/engine/mxcsr.h"
#include "vmm/state/format.h"

/* ---- Names of bits: SDM Vol. 3A 2.5, 3.4.5, 18.2 -------------------------------------------------------------------- */

#define CR0_PE     1u
#define CR0_NW     0x20000000u
#define CR0_CD     0x40000000u
#define CR0_PG     0x80000000u
#define CR0_KNOWN  0xe005003fu
#define CR4_PAE    0x20u
#define EFER_LME   0x100u
#define EFER_LMA   0x400u
#define EFER_KNOWN 0xd01u /* SCE, LME, LMA, NXE */
#define CS_L       0x2000u

#define FLAGS_KNOWN 0x3d7fd7u /* no virtual-8086 mode */
#define DR6_KNOWN   0xffffefffu
#define DR7_KNOWN   0xffff27ffu

#define PHYSICAL_BITS 40u /* of every CPU model there is: CPUID 0x80000008 */

enum {
	MSR_TSC_ADJUST = 0x3b,
	MSR_SPEC_CTRL = 0x48,
	MSR_UCODE_REV = 0x8b,
	MSR_ARCH_CAPABILITIES = 0x10a,
	MSR_SYSENTER_CS = 0x174,
	MSR_SYSENTER_ESP = 0x175,
	MSR_SYSENTER_EIP = 0x176,
	MSR_MISC_ENABLE = 0x1a0,
	MSR_PAT = 0x277,
	MSR_TSC_DEADLINE = 0x6e0,
};
#define MSR_STAR           0xc0000081u
#define MSR_LSTAR          0xc0000082u
#define MSR_CSTAR          0xc0000083u
#define MSR_FMASK          0xc0000084u
#define MSR_KERNEL_GS_BASE 0xc0000102u
#define MSR_TSC_AUX        0xc0000103u

enum msr_kind { PLAIN, CANONICAL, LOW, MODEL, PLATFORM, SPECULATION };

/* X(index, kind, member of struct ft_cpu_state): in the order in which they are saved. MODEL: what the guest can only read;
 * PLATFORM: of the clock or the local APIC; SPECULATION: only of models that have it, and so the last. */
#define MSRS(X)                                                                                              \
	X(MSR_TSC_ADJUST, PLATFORM, icount)                                                                  \
	X(MSR_UCODE_REV, MODEL, icount)                                                                      \
	X(MSR_ARCH_CAPABILITIES, MODEL, icount)                                                              \
	X(MSR_SYSENTER_CS, PLAIN, sysenter_cs)                                                               \
	X(MSR_SYSENTER_ESP, CANONICAL, sysenter_esp)                                                         \
	X(MSR_SYSENTER_EIP, CANONICAL, sysenter_eip)                                                         \
	X(MSR_MISC_ENABLE, LOW, misc_enable)                                                                 \
	X(MSR_PAT, PLAIN, pat)                                                                               \
	X(MSR_TSC_DEADLINE, PLATFORM, icount)                                                                \
	X(MSR_STAR, PLAIN, star)                                                                             \
	X(MSR_LSTAR, CANONICAL, lstar)                                                                       \
	X(MSR_CSTAR, CANONICAL, cstar)                                                                       \
	X(MSR_FMASK, LOW, fmask)                                                                             \
	X(MSR_KERNEL_GS_BASE, CANONICAL, kernel_gs_base)                                                     \
	X(MSR_TSC_AUX, LOW, tsc_aux)                                                                         \
	X(MSR_SPEC_CTRL, SPECULATION, spec_ctrl)

static const struct {
	uint32_t index;
	enum msr_kind kind;
	size_t at;
} msrs[] = {
#define X(index, kind, member) {index, kind, offsetof(struct ft_cpu_state, member)},
    MSRS(X)
#undef X
};
#define MSR_COUNT (sizeof(msrs) / sizeof(*msrs))
_Static_assert(MSR_COUNT == FT_STATE_MSR_COUNT + 1 && MSR_COUNT <= FT_STATE_MSRS_MOST, "they have room");

static uint32_t msr_count(const struct ft_model *model)
{
	return ft_model_spec_ctrl(model) ? MSR_COUNT : FT_STATE_MSR_COUNT;
}

/* ---- Segments ---------------------------------------------------------------------------------------------------- */

static struct ft_kvm_segment take_segment(const struct ft_segment *from)
{
	unsigned a = from->attributes;
	return (struct ft_kvm_segment){.base = from->base,
				       .limit = from->limit,
				       .selector = from->selector,
				       .type = a & 15,
				       .s = a >> 4 & 1,
				       .dpl = a >> 5 & 3,
				       .present = a >> 7 & 1,
				       .avl = a >> 12 & 1,
				       .l = a >> 13 & 1,
				       .db = a >> 14 & 1,
				       .g = a >> 15 & 1,
				       .unusable = !(a >> 7 & 1)};
}

static struct ft_segment give_segment(const struct ft_kvm_segment *from)
{
	unsigned a = from->type | (unsigned)from->s << 4 | (unsigned)from->dpl << 5 | (unsigned)from->present << 7 |
		     (unsigned)from->avl << 12 | (unsigned)from->l << 13 | (unsigned)from->db << 14 |
		     (unsigned)from->g << 15;
	return (struct ft_segment){
	    .base = from->base, .limit = from->limit, .selector = from->selector, .attributes = (uint16_t)a};
}

/* ---- Taking ------------------------------------------------------------------------------------------------------- */

static void take_regs(struct ft_kvm_regs *r, const struct ft_cpu_state *cpu)
{
	const uint64_t *g = cpu->gpr;
	*r = (struct ft_kvm_regs){.rax = g[FT_RAX],
				  .rbx = g[FT_RBX],
				  .rcx = g[FT_RCX],
				  .rdx = g[FT_RDX],
				  .rsi = g[FT_RSI],
				  .rdi = g[FT_RDI],
				  .rsp = g[FT_RSP],
				  .rbp = g[FT_RBP],
				  .rip = cpu->rip,
				  .rflags = cpu->rflags};
	memcpy(&r->r8, g + FT_R8, 8 * sizeof(*g));
}

static void take_sregs(struct ft_kvm_sregs *s, const struct ft_cpu_state *cpu, const struct ft_lapic_state *lapic)
{
	const struct ft_segment *segment = cpu->segment;
	*s = (struct ft_kvm_sregs){.cs = take_segment(&segment[FT_CS]),
				   .ds = take_segment(&segment[FT_DS]),
				   .es = take_segment(&segment[FT_ES]),
				   .fs = take_segment(&segment[FT_FS]),
				   .gs = take_segment(&segment[FT_GS]),
				   .ss = take_segment(&segment[FT_SS]),
				   .tr = take_segment(&cpu->tr),
				   .ldt = take_segment(&cpu->ldt),
				   .gdt = {.base = cpu->gdt.base, .limit = cpu->gdt.limit},
				   .idt = {.base = cpu->idt.base, .limit = cpu->idt.limit},
				   .cr0 = cpu->cr0,
				   .cr2 = cpu->cr2,
				   .cr3 = cpu->cr3,
				   .cr4 = cpu->cr4,
				   .cr8 = lapic->tpr >> 4,
				   .efer = cpu->efer,
				   .apic_base = lapic->base};
}

static void take_events(struct ft_kvm_events *e, const struct ft_cpu_state *cpu)
{
	*e = (struct ft_kvm_events){
	    .exception = {.nr = cpu->exception_vector,
			  .has_error_code = cpu->exception_has_error,
			  .pending = cpu->exception_pending,
			  .error_code = cpu->exception_error},
	    .interrupt = {.shadow = cpu->interrupt_shadow ? FT_KVM_SHADOW_STI : 0},
	    .nmi = {.pending = cpu->nmi_pending, .masked = cpu->nmi_masked},
	    .flags = FT_KVM_EVENTS_NMI_PENDING | FT_KVM_EVENTS_SHADOW | FT_KVM_EVENTS_PAYLOAD,
	    .exception_has_payload = cpu->exception_pending,
	    .exception_payload = cpu->exception_address,
	};
}

static void take_msrs(struct ft_state *s, struct ft_machine *m, const struct ft_cpu_state *cpu, uint64_t tsc_adjust, uint64_t tsc_deadline)
{
	s->msr_count = msr_count(&m->model);
	for (unsigned i = 0; i < s->msr_count; i++) {
		uint64_t value;
		memcpy(&value, (const uint8_t *)cpu + msrs[i].at, sizeof(value));
		if (msrs[i].kind == MODEL)
			value = ft_state_model_msr(m, &m->model, msrs[i].index);
		else if (msrs[i].index == MSR_TSC_ADJUST)
			value = tsc_adjust;
		else if (msrs[i].index == MSR_TSC_DEADLINE)
			value = tsc_deadline;
		s->msrs[i] = (struct ft_kvm_msr){.index = msrs[i].index, .data = value};
	}
}

void ft_state_cpu_shape(struct ft_state *s, struct ft_machine *m, unsigned number, const struct ft_cpu_state *cpu)
{
	static const uint32_t waiting[] = {[FT_PROCESSOR_WAITS_FOR_INIT] = FT_KVM_MP_UNINITIALIZED, [FT_PROCESSOR_WAITS_FOR_START] = FT_KVM_MP_INIT_RECEIVED};
	const struct ft_processor *other = number ? &m->devices->others[number - 1] : NULL;
	const struct ft_lapic_state *lapic = other ? &other->lapic.s : &m->devices->lapic.s;
	take_regs(&s->regs, cpu);
	take_sregs(&s->sregs, cpu, lapic);
	s->debugregs = (struct ft_kvm_debugregs){
	    .db = {cpu->dr[0], cpu->dr[1], cpu->dr[2], cpu->dr[3]}, .dr6 = cpu->dr[6], .dr7 = cpu->dr[7]};
	take_msrs(s, m, cpu, other ? other->tsc_adjust : m->clock.tsc_adjust, lapic->tsc_deadline);
	memcpy(s->xsave.fxsave, cpu->fxsave, sizeof(cpu->fxsave));
	s->xsave.xstate_bv = 3; /* x87 and SSE */
	take_events(&s->events, cpu);
	s->mp.state = other && other->waits ? waiting[other->waits] : cpu->halted ? FT_KVM_MP_HALTED : FT_KVM_MP_RUNNABLE;
}

void ft_state_cpu_take(struct ft_state *s, struct ft_machine *m)
{
	struct ft_cpu_state cpu;
	m->engine_ops->get(m->engine, &cpu);
	ft_state_model(m, &m->model, 0, m->clock.tsc_khz, s->cpuid, &s->cpuids);
	ft_state_cpu_shape(s, m, 0, &cpu);
	static const uint8_t tags[] = {FT_STATE_CPUID, FT_STATE_REGS,  FT_STATE_SREGS,  FT_STATE_DEBUG,
				       FT_STATE_MSRS,  FT_STATE_XSAVE, FT_STATE_EVENTS, FT_STATE_MP};
	for (unsigned i = 0; i < sizeof(tags); i++)
		s->present[tags[i]] = true;
}

/* ---- Giving ------------------------------------------------------------------------------------------------------- */

void ft_state_cpu_give(const struct ft_state *s, struct ft_cpu_state *cpu)
{
	const struct ft_kvm_regs *r = &s->regs;
	const struct ft_kvm_sregs *sr = &s->sregs;
	const struct ft_kvm_events *e = &s->events;
	*cpu = (struct ft_cpu_state){
	    .gpr = {[FT_RAX] = r->rax,
		    [FT_RBX] = r->rbx,
		    [FT_RCX] = r->rcx,
		    [FT_RDX] = r->rdx,
		    [FT_RSI] = r->rsi,
		    [FT_RDI] = r->rdi,
		    [FT_RSP] = r->rsp,
		    [FT_RBP] = r->rbp},
	    .rip = r->rip,
	    .rflags = r->rflags,
	    .segment = {[FT_ES] = give_segment(&sr->es),
			[FT_CS] = give_segment(&sr->cs),
			[FT_SS] = give_segment(&sr->ss),
			[FT_DS] = give_segment(&sr->ds),
			[FT_FS] = give_segment(&sr->fs),
			[FT_GS] = give_segment(&sr->gs)},
	    .ldt = give_segment(&sr->ldt),
	    .tr = give_segment(&sr->tr),
	    .gdt = {.base = sr->gdt.base, .limit = sr->gdt.limit},
	    .idt = {.base = sr->idt.base, .limit = sr->idt.limit},
	    .cr0 = sr->cr0,
	    .cr2 = sr->cr2,
	    .cr3 = sr->cr3,
	    .cr4 = sr->cr4,
	    .efer = sr->efer,
	    .interrupt_shadow = e->interrupt.shadow != 0,
	    .nmi_masked = e->nmi.masked,
	    .nmi_pending = e->nmi.pending,
	    .halted = s->mp.state == FT_KVM_MP_HALTED,
	    .exception_pending = e->exception.pending,
	    .exception_vector = e->exception.nr,
	    .exception_has_error = e->exception.has_error_code,
	    .exception_error = e->exception.error_code,
	    .exception_address = e->exception_payload,
	    .icount = s->clock.icount,
	};
	memcpy(cpu->gpr + FT_R8, &r->r8, 8 * sizeof(r->r8));
	memcpy(cpu->dr, s->debugregs.db, sizeof(s->debugregs.db));
	cpu->dr[6] = s->debugregs.dr6;
	cpu->dr[7] = s->debugregs.dr7;
	memcpy(cpu->fxsave, s->xsave.fxsave, sizeof(cpu->fxsave));
	for (unsigned i = 0; i < s->msr_count; i++)
		if (msrs[i].kind != MODEL && msrs[i].kind != PLATFORM)
			memcpy((uint8_t *)cpu + msrs[i].at, &s->msrs[i].data, sizeof(s->msrs[i].data));
}

/* ---- Checking ----------------------------------------------------------------------------------------------------- */

#define REFUSE(value, why, ...)                                                                              \
	return ft_state_refuse(err, value, why, __VA_ARGS__)

static bool canonical(uint64_t va)
{
	return (uint64_t)((int64_t)(va << 16) >> 16) == va;
}

static int check_segment(const char *name, const struct ft_kvm_segment *s, struct ft_error *err)
{
	if (!canonical(s->base))
		REFUSE(s->base, "not canonical", "sregs.%s.base", name);
	const struct {
		const char *field;
		uint8_t value, most;
	} bits[] = {{"type", s->type, 15}, {"present", s->present, 1}, {"dpl", s->dpl, 3}, {"db", s->db, 1},
		    {"s", s->s, 1},	   {"l", s->l, 1},	       {"g", s->g, 1},	   {"avl", s->avl, 1},
		    {"padding", s->padding, 0}};
	for (unsigned i = 0; i < sizeof(bits) / sizeof(*bits); i++)
		if (bits[i].value > bits[i].most)
			REFUSE(bits[i].value, "out of range", "sregs.%s.%s", name, bits[i].field);
	if (s->unusable != !s->present)
		REFUSE(s->unusable, "present says otherwise", "sregs.%s.unusable", name);
	return 0;
}

static int check_table(const char *name, const struct ft_kvm_table *t, struct ft_error *err)
{
	if (!canonical(t->base))
		REFUSE(t->base, "not canonical", "sregs.%s.base", name);
	for (unsigned i = 0; i < 3; i++)
		if (t->padding[i])
			REFUSE(t->padding[i], "not 0", "sregs.%s.padding[%u]", name, i);
	return 0;
}

/* What a processor of ours can come to: paging in long mode or none, SDM Vol. 3A 2.5 and 4.1.1. */
static int check_mode(const struct ft_kvm_sregs *s, struct ft_error *err)
{
	if (s->cr0 & ~(uint64_t)CR0_KNOWN)
		REFUSE(s->cr0, "unknown bits", "sregs.cr0");
	if (((s->cr0 & CR0_PG) && !(s->cr0 & CR0_PE)) || ((s->cr0 & CR0_NW) && !(s->cr0 & CR0_CD)))
		REFUSE(s->cr0, "no possible mode", "sregs.cr0");
	if (s->efer & ~(uint64_t)EFER_KNOWN)
		REFUSE(s->efer, "unknown bits", "sregs.efer");
	bool paging = s->cr0 & CR0_PG, lma = s->efer & EFER_LMA;
	if (paging != lma || (lma && !(s->efer & EFER_LME)))
		REFUSE(s->efer, "LMA is LME and paging", "sregs.efer");
	if (s->cr3 >> PHYSICAL_BITS)
		REFUSE(s->cr3, "beyond physical addresses", "sregs.cr3");
	if (lma && !(s->cr4 & CR4_PAE))
		REFUSE(s->cr4, "long mode needs PAE", "sregs.cr4");
	if (lma && s->cs.l && s->cs.db)
		REFUSE(s->cs.db, "64-bit code has none", "sregs.cs.db");
	unsigned cpl = s->cs.selector & 3u;
	bool conforming = (s->cs.type & 0xc) == 0xc;
	if (!s->cs.present || !s->cs.s || !(s->cs.type & 8))
		REFUSE(s->cs.type, "no code segment", "sregs.cs.type");
	if (conforming ? s->cs.dpl > cpl : s->cs.dpl != cpl)
		REFUSE(s->cs.dpl, "the selector's RPL says otherwise", "sregs.cs.dpl");
	/* The engine has no 32-bit processes. */
	if (lma && !s->cs.l && cpl == 3)
		REFUSE(s->cs.l, "user code is 64-bit code", "sregs.cs.l");
	if (s->flags)
		REFUSE(s->flags, "not 0", "sregs.flags");
	for (unsigned i = 0; i < 4; i++)
		if (s->pdptrs[i])
			REFUSE(s->pdptrs[i], "not 0", "sregs.pdptrs[%u]", i);
	return 0;
}

static int check_sregs(const struct ft_state *state, struct ft_machine *m, struct ft_error *err)
{
	const struct ft_kvm_sregs *s = &state->sregs;
	const struct {
		const char *name;
		const struct ft_kvm_segment *segment;
	} segments[] = {{"cs", &s->cs}, {"ds", &s->ds}, {"es", &s->es}, {"fs", &s->fs},
			{"gs", &s->gs}, {"ss", &s->ss}, {"tr", &s->tr}, {"ldt", &s->ldt}};
	for (unsigned i = 0; i < sizeof(segments) / sizeof(*segments); i++)
		if (check_segment(segments[i].name, segments[i].segment, err))
			return -EINVAL;
	if (check_table("gdt", &s->gdt, err) || check_table("idt", &s->idt, err) || check_mode(s, err))
		return -EINVAL;
	if (s->cr4 & ~m->engine_ops->cr4_known)
		REFUSE(s->cr4, "unknown bits", "sregs.cr4");
	return 0;
}

static int check_pat(uint64_t pat, struct ft_error *err)
{
	for (unsigned i = 0; i < 8; i++) {
		unsigned type = (unsigned)(pat >> i * 8) & 0xff;
		if (type > 7 || type == 2 || type == 3)
			REFUSE(pat, "no memory type", "msrs.pat");
	}
	return 0;
}

static int check_msrs(const struct ft_state *s, struct ft_machine *m, const struct ft_model *model, struct ft_error *err)
{
	if (s->msr_count != msr_count(model))
		REFUSE(s->msr_count, "this version and CPU model have others", "msrs.count");
	for (unsigned i = 0; i < s->msr_count; i++) {
		const struct ft_kvm_msr *msr = &s->msrs[i];
		if (msr->index != msrs[i].index)
			REFUSE(msr->index, "another one belongs here", "msrs[%u].index", i);
		if (msr->reserved)
			REFUSE(msr->reserved, "not 0", "msrs[%u].reserved", i);
		if (msrs[i].kind == MODEL && msr->data != ft_state_model_msr(m, model, msr->index)) {
			ft_state_refuse(err, msr->data, "another CPU model than CPUID's", "msrs[0x%x]", msr->index);
			if (err)
				err->code = -ENOTSUP;
			return -ENOTSUP;
		}
		if (msrs[i].kind == SPECULATION && msr->data & ~ft_model_spec_ctrl(model))
			REFUSE(msr->data, "the CPU model has no such bits", "msrs[0x%x]", msr->index);
		if (msrs[i].kind == CANONICAL && !canonical(msr->data))
			REFUSE(msr->data, "not canonical", "msrs[0x%x]", msr->index);
		if (msrs[i].kind == LOW && msr->data >> 32)
			REFUSE(msr->data, "more than 32 bits", "msrs[0x%x]", msr->index);
		if (msr->index == MSR_MISC_ENABLE && msr->data & ~(uint64_t)FT_MISC_ENABLE_RESET)
			REFUSE(msr->data, "unknown bits", "msrs[0x%x]", msr->index);
		if (msr->index == MSR_PAT && check_pat(msr->data, err))
			return -EINVAL;
		if (msr->index == MSR_TSC_ADJUST && msr->data != s->clock.tsc_adjust)
			REFUSE(msr->data, "clock.tsc_adjust says otherwise", "msrs[0x%x]", msr->index);
	}
	return 0;
}

static int check_events(const struct ft_state *s, struct ft_error *err)
{
	const struct ft_kvm_events *e = &s->events;
	struct ft_kvm_events rest = *e;
	/* By vector: what a processor of ours raises, and what pushes an error code. SDM Vol. 3A table 6-1. */
	static const uint32_t possible = 0x000b7dfbu, with_error = 0x00027d00u;
	if (e->exception.pending > 1)
		REFUSE(e->exception.pending, "out of range", "events.exception.pending");
	if (e->exception.pending) {
		if (e->exception.nr > 31 || !(possible >> e->exception.nr & 1))
			REFUSE(e->exception.nr, "no exception", "events.exception.nr");
		if (e->exception.has_error_code != (with_error >> e->exception.nr & 1))
			REFUSE(e->exception.has_error_code, "not this exception's", "events.exception.has_error_code");
		if (e->exception.error_code > 0xffff)
			REFUSE(e->exception.error_code, "out of range", "events.exception.error_code");
		if (e->exception.nr != 14 && e->exception.nr != 1 && e->exception_payload)
			REFUSE(e->exception_payload, "not this exception's", "events.exception_payload");
		if (e->exception.nr == 1 && e->exception_payload & ~(uint64_t)DR6_KNOWN)
			REFUSE(e->exception_payload, "not DR6's", "events.exception_payload");
		rest.exception.pending = rest.exception.nr = rest.exception.has_error_code = 0;
		rest.exception.error_code = 0;
		rest.exception_payload = 0;
	}
	if (e->exception_has_payload != e->exception.pending)
		REFUSE(e->exception_has_payload, "pending says otherwise", "events.exception_has_payload");
	if (e->interrupt.shadow & ~FT_KVM_SHADOW_STI)
		REFUSE(e->interrupt.shadow, "out of range", "events.interrupt.shadow");
	if (e->nmi.pending > 1 || e->nmi.masked > 1)
		REFUSE(e->nmi.pending | e->nmi.masked << 8, "out of range", "events.nmi");
	if (e->flags != (FT_KVM_EVENTS_NMI_PENDING | FT_KVM_EVENTS_SHADOW | FT_KVM_EVENTS_PAYLOAD))
		REFUSE(e->flags, "not this version's", "events.flags");
	rest.interrupt.shadow = rest.nmi.pending = rest.nmi.masked = rest.exception_has_payload = 0;
	rest.flags = 0;
	/* SMM, SIPI and injected events, which a machine at a stop point does not have. */
	static const struct ft_kvm_events none;
	if (memcmp(&rest, &none, sizeof(rest)))
		REFUSE(0, "an event that this version does not have", "events");
	return 0;
}

static int check_fpu(const struct ft_state *s, const struct ft_model *model, struct ft_error *err)
{
	uint32_t mxcsr, mask;
	memcpy(&mxcsr, s->xsave.fxsave + 24, 4);
	memcpy(&mask, s->xsave.fxsave + 28, 4);
	if (mxcsr & ~ft_mxcsr_model(model))
		REFUSE(mxcsr, "reserved bits", "xsave.mxcsr");
	if (mxcsr & ~ft_mxcsr_host())
		return ft_error_set(err, -ENOTSUP,
				    "machine state: xsave.mxcsr: 0x%x: a program of the guest is in AMD's misaligned SSE mode (MM), which this host's processor lacks",
				    mxcsr);
	if (mask != FT_MXCSR_EVERYWHERE)
		REFUSE(mask, "another CPU model's", "xsave.mxcsr_mask");
	if (s->xsave.xstate_bv != 3)
		REFUSE(s->xsave.xstate_bv, "x87 and SSE, no more", "xsave.xstate_bv");
	if (s->xsave.xcomp_bv)
		REFUSE(s->xsave.xcomp_bv, "not the standard form", "xsave.xcomp_bv");
	for (unsigned i = 0; i < 6; i++)
		if (s->xsave.reserved[i])
			REFUSE(s->xsave.reserved[i], "not 0", "xsave.reserved[%u]", i);
	/* Opcode and pointers of the last instruction: no engine keeps them. Behind the registers: nothing. */
	for (unsigned i = 5; i < 512; i++)
		if (s->xsave.fxsave[i] && (i < 24 || i >= 416))
			REFUSE(s->xsave.fxsave[i], "not 0", "xsave.fxsave[%u]", i);
	return 0;
}

int ft_state_cpu_check(const struct ft_state *s, struct ft_machine *m, const struct ft_model *model, unsigned number, struct ft_error *err)
{
	int error = check_msrs(s, m, model, err);
	if (error)
		return error;
	if (s->regs.rflags & ~(uint64_t)FLAGS_KNOWN || !(s->regs.rflags & 2))
		REFUSE(s->regs.rflags, "no possible flags", "regs.rflags");
	if (check_sregs(s, m, err))
		return -EINVAL;
	for (unsigned i = 0; i < 4; i++)
		if (!canonical(s->debugregs.db[i]))
			REFUSE(s->debugregs.db[i], "not canonical", "debugregs.db[%u]", i);
	if (s->debugregs.dr6 & ~(uint64_t)DR6_KNOWN)
		REFUSE(s->debugregs.dr6, "unknown bits", "debugregs.dr6");
	if (s->debugregs.dr7 & ~(uint64_t)DR7_KNOWN)
		REFUSE(s->debugregs.dr7, "unknown bits", "debugregs.dr7");
	if (s->debugregs.flags)
		REFUSE(s->debugregs.flags, "not 0", "debugregs.flags");
	for (unsigned i = 0; i < 9; i++)
		if (s->debugregs.reserved[i])
			REFUSE(s->debugregs.reserved[i], "not 0", "debugregs.reserved[%u]", i);
	if (check_events(s, err))
		return -EINVAL;
	error = check_fpu(s, model, err);
	if (error)
		return error;
	/* The first one waits for nobody. */
	if (s->mp.state > FT_KVM_MP_HALTED || (!number && ft_state_processor_waits(s->mp.state)))
		REFUSE(s->mp.state, "no state of this vCPU", "mp.state");
	return 0;
}
