/* What foretaste-vmm may do once its guest runs: nothing with files, networks or other processes except its own clones.
 * The list contains what seeds and clones need, too; they stack tighter ones (clone/hygiene.h). */
#ifndef FT_GUEST_CONFINEMENT_H
#define FT_GUEST_CONFINEMENT_H

#include <sys/types.h>

#include "base/confine.h"

/* Compiles the filter; before ft_guest_confine, while memory and descriptors are still to be had. kvm: the guest runs on engine kvm;
 * clones: how many vCPUs its clones have that do, too; 0: they do not. */
int ft_guest_filter(struct ft_confine_filter *filter, bool kvm, unsigned clones, struct ft_error *err);

/* Gives up identity and privileges; then installs the filter, for all threads. No way back. In between, a thread may be started: it
 * has no privileges that this one has not. */
int ft_guest_identity(uid_t uid, gid_t gid, struct ft_error *err);
int ft_guest_confine(const struct ft_confine_filter *filter, struct ft_error *err);

#endif
