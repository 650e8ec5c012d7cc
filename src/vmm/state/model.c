/* The CPU model in a state: all of CPUID, and the MSRs that only tell. They show a model if they are exactly what it looks like. */
#include <errno.h>
#include <string.h>

#include "vmm/state/format.h"

#define MSR_ARCH_CAPABILITIES 0x10au

/* ---- Showing ------------------------------------------------------------------------------------------------------ */

struct shown {
	struct ft_machine *m;
	const struct ft_model *model;
	unsigned number;
	uint64_t khz;
	struct ft_kvm_cpuid *list;
	uint32_t *count;
};

static void add_leaf(const struct shown *to, uint32_t leaf, uint32_t sub, uint32_t flags)
{
	uint32_t r[4];
	if (*to->count == FT_STATE_CPUIDS_MOST)
		return;
	to->m->engine_ops->cpuid(to->m->engine, to->model, to->number, to->khz, leaf, sub, r);
	to->list[(*to->count)++] = (struct ft_kvm_cpuid){
	    .function = leaf, .index = sub, .flags = flags, .eax = r[0], .ebx = r[1], .ecx = r[2], .edx = r[3]};
}

static void add_leaves(const struct shown *to, uint32_t first)
{
	uint32_t r[4];
	to->m->engine_ops->cpuid(to->m->engine, to->model, to->number, to->khz, first, 0, r);
	/* Each range says how far it goes; what a broken model says ends with the list. */
	for (uint32_t leaf = first; leaf <= r[0] && *to->count < FT_STATE_CPUIDS_MOST; leaf++) {
		bool caches = leaf == 4, features = leaf == 7, topology = leaf == 0xb && to->m->vcpus > 1;
		uint32_t subs = caches ? 4 : features ? (to->model->leaf7_2_edx ? 3 : 2) : topology ? 3 : 1;
		for (uint32_t sub = 0; sub < subs; sub++)
			add_leaf(to, leaf, sub, subs > 1 ? FT_KVM_CPUID_INDEXED : 0);
	}
}

void ft_state_model(struct ft_machine *m, const struct ft_model *model, unsigned number, uint64_t tsc_khz, struct ft_kvm_cpuid *list,
		    uint32_t *count)
{
	const struct shown to = {m, model, number, tsc_khz, list, count};
	*count = 0;
	memset(list, 0, FT_STATE_CPUIDS_MOST * sizeof(*list));
	add_leaves(&to, 0);
	add_leaves(&to, 0x40000000);
	add_leaves(&to, 0x80000000);
}

uint64_t ft_state_model_msr(struct ft_machine *m, const struct ft_model *model, uint32_t index)
{
	uint64_t value = 0;
	return m->engine_ops->model_msr(m->engine, model, index, &value) ? 0 : value;
}

/* ---- Finding ------------------------------------------------------------------------------------------------------ */

static const struct ft_kvm_cpuid *leaf_of(const struct ft_state *s, uint32_t leaf, uint32_t sub)
{
	static const struct ft_kvm_cpuid none;
	for (uint32_t i = 0; i < s->cpuids; i++)
		if (s->cpuid[i].function == leaf && s->cpuid[i].index == sub)
			return &s->cpuid[i];
	return &none;
}

bool ft_state_model_find(const struct ft_state *s, struct ft_model *model)
{
	const struct ft_kvm_cpuid *basic = leaf_of(s, 0, 0), *more = leaf_of(s, 0x80000021, 0);
	*model = (struct ft_model){.vendor = {basic->ebx, basic->ecx, basic->edx},
				   .signature = leaf_of(s, 1, 0)->eax,
				   .leaf7_edx = leaf_of(s, 7, 0)->edx,
				   .leaf7_2_edx = leaf_of(s, 7, 2)->edx,
				   .ext8_ebx = leaf_of(s, 0x80000008, 0)->ebx,
				   .ext21_eax = more->eax,
				   .ext21_ecx = more->ecx};
	for (uint32_t i = 0; i < s->msr_count; i++)
		if (s->msrs[i].index == MSR_ARCH_CAPABILITIES)
			model->arch_capabilities = s->msrs[i].data;
	return ft_model_known(model);
}

int ft_state_model_check(const struct ft_state *s, struct ft_machine *m, struct ft_model *model, struct ft_error *err)
{
	struct ft_kvm_cpuid own[FT_STATE_CPUIDS_MOST];
	uint32_t count;
	/* Of a vendor that is not known: it is not what this machine has, at least. */
	if (!ft_state_model_find(s, model))
		*model = m->model;
	ft_state_model(m, model, 0, s->clock.tsc_khz, own, &count);
	for (uint32_t i = 0; i < count || i < s->cpuids; i++) {
		const struct ft_kvm_cpuid *a = &s->cpuid[i], *b = &own[i];
		if (i < count && i < s->cpuids && !memcmp(a, b, sizeof(*a)))
			continue;
		return ft_error_set(err, -ENOTSUP,
				    "machine state: cpuid[0x%x.%u]: the guest was saved on another CPU model than this "
				    "engine's (%08x %08x %08x %08x, here %08x %08x %08x %08x)",
				    i < s->cpuids ? a->function : b->function, i < s->cpuids ? a->index : b->index, a->eax,
				    a->ebx, a->ecx, a->edx, b->eax, b->ebx, b->ecx, b->edx);
	}
	return 0;
}
