/* What a seed and a clone may still do, as processes. The filters are compiled once in the live vmm (that allocates)
 * and installed after the fork (that does not).
 *
 * A seed never runs guest code: it forks, waits, kills. A clone runs the guest: all that is left to it is to compute,
 * to read the disk image it inherited, to send events, and to end. */
#ifndef FT_CLONE_HYGIENE_H
#define FT_CLONE_HYGIENE_H

#include "base/confine.h"

struct ft_hygiene {
	struct ft_confine_filter seed, trial;
};

/* kvm: how many vCPUs clones have that run on engine kvm; 0: they do not. */
int ft_hygiene_prepare(struct ft_hygiene *hygiene, unsigned kvm, struct ft_error *err);
void ft_hygiene_free(struct ft_hygiene *hygiene);

/* In the child, right after fork. keep: the descriptors that stay open, at most FT_HYGIENE_KEEP, -1 entries are
 * skipped. From here on the process dies with parent, is not dumpable, and everything else is closed. 0 or -errno: then
 * the child must end at once. */
#define FT_HYGIENE_KEEP 5
int ft_hygiene_seed(const struct ft_hygiene *hygiene, pid_t parent, const int *keep, int count);
/* All of it but the filter, which the child installs itself (ft_confine_install). */
int ft_hygiene_leave(pid_t parent, const int *keep, int count);

/* The same with another filter. */
int ft_hygiene_become(const struct ft_confine_filter *filter, pid_t parent, const int *keep, int count);

/* The allow-lists, for the vmm's own, which must contain them, and for tests. */
extern const struct ft_confine_rule ft_hygiene_seed_rules[], ft_hygiene_trial_rules[];
extern const size_t ft_hygiene_seed_rule_count, ft_hygiene_trial_rule_count;

/* What engine kvm needs besides: the first ft_hygiene_kvm_run_rule_count of them to run a guest, more of them to make a virtual
 * machine: with several vCPUs threads, too. 0: for none. */
extern const struct ft_confine_rule ft_hygiene_kvm_rules[];
extern const size_t ft_hygiene_kvm_run_rule_count;
size_t ft_hygiene_kvm_make_rule_count(unsigned vcpus);

#endif
