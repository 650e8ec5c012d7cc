#include "gateway/share.h"

#include <stdio.h>

/* Does it ask for more than the kernel gives to anybody? */
static bool wants_share(const struct ft_child *vmm)
{
	return vmm->kind == FT_CHILD_VMM && (vmm->cpu || vmm->cpu_weight != FT_CGROUP_WEIGHT);
}

static void lacks_share(struct ft_supervisor *s, struct ft_child *vmm, const char *why)
{
	char bound[32] = "", weight[32] = "";
	snprintf(vmm->cpu_why, sizeof(vmm->cpu_why), "%s", why);
	if (vmm->cpu)
		snprintf(bound, sizeof(bound), "cpu: %u %%", vmm->cpu);
	if (vmm->cpu_weight != FT_CGROUP_WEIGHT)
		snprintf(weight, sizeof(weight), "%scpu_weight: %u", *bound ? " and " : "", vmm->cpu_weight);
	ft_supervisor_record(s, "cpu-unbounded", vmm->guest, NULL, "guest %s: %s%s is not in force: %s", vmm->guest, bound,
			     weight, why);
}

void ft_share_give(struct ft_supervisor *s, struct ft_child *child)
{
	struct ft_error err = {0};
	if (child->kind != FT_CHILD_VMM || s->cgroup.own < 0)
		return;
	child->cpu_why[0] = 0;
	if (ft_cgroup_put(&s->cgroup, child->guest, child->cpu, child->cpu_weight, child->pid, &err) && wants_share(child))
		lacks_share(s, child, err.text);
}

void ft_share_open(struct ft_supervisor *s)
{
	struct ft_error err = {0};
	bool wanted = false;
	for (unsigned i = 0; i < s->count; i++)
		wanted |= wants_share(&s->children[i]);
	if (!wanted || !ft_cgroup_open(&s->cgroup, &err))
		return;
	for (unsigned i = 0; i < s->count; i++) {
		if (wants_share(&s->children[i]))
			lacks_share(s, &s->children[i], err.text);
	}
}
