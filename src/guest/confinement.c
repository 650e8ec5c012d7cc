#include "guest/confinement.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include "clone/hygiene.h"

static const struct ft_confine_rule rules[] = {
    {"read", "the eventfd that wakes us"},
    {"write", "the dataplane's eventfd; the console log; last words on stderr"},
    {"recvmsg", "the supervisor's channel, with descriptors"},
    {"sendmsg", "the supervisor's channel"},
    {"fsync", "a snapshot is on disk before anybody is told"},
    {"pwritev", "the overlay of the disk"},
    {"fdatasync", "the overlay of the disk: a flush of the guest's, in a thread of its own"},
    {"fallocate", "the overlay of the disk: room for a segment", .arg = 2, .equals = FALLOC_FL_KEEP_SIZE},
    {"fallocate", "the overlay of the disk: a segment that is given back", .arg = 2,
     .equals = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE},
    {"pipe2", "what became of a snapshot"},
    {"ftruncate", "the console log at its bound"},
    {"lseek", "the console log at its bound"},
    {"getrandom", "virtio-rng of the live guest; malloc"},
    {"socketpair", "orders to a seed"},
    {"fcntl", "a new link: are its memory's seals set", .arg = 2, .equals = F_GET_SEALS},
    {"fcntl", "a new link: its event socket", .arg = 2, .equals = F_SETFL},
    {"fstat", "a new link: has its memory the right size"},
    {"newfstatat", "fstat of newer libcs: a new link"},
    {"prctl", "name of a seed and a clone", .arg = 1, .equals = PR_SET_NAME},
    {"sigaltstack", "the engine's handlers: before the first instruction"},
    {"mprotect", "the guard page below the engine's signal stack; never executable", .arg = 3,
     .mask = PROT_EXEC, .equals = 0},
    {"getuid", "libc in error paths", .error = EPERM},
    {"openat", "libc in error paths: message catalogues, time zones", .error = EACCES},
    {"ioctl", "libc asks whether stderr is a terminal", .arg = 2, .equals = TCGETS, .error = ENOTTY},
};

int ft_guest_filter(struct ft_confine_filter *filter, bool kvm, unsigned clones, struct ft_error *err)
{
	size_t hosted = clones ? ft_hygiene_kvm_make_rule_count(clones) : kvm ? ft_hygiene_kvm_run_rule_count : 0;
	size_t own = sizeof(rules) / sizeof(*rules), count = own + ft_hygiene_seed_rule_count + hosted;
	struct ft_confine_rule *all = calloc(count, sizeof(*all));
	if (!all)
		return ft_error_set(err, -ENOMEM, "no memory for the seccomp filter");
	memcpy(all, rules, sizeof(rules));
	memcpy(all + own, ft_hygiene_seed_rules, ft_hygiene_seed_rule_count * sizeof(*all));
	memcpy(all + own + ft_hygiene_seed_rule_count, ft_hygiene_kvm_rules, hosted * sizeof(*all));
	int error = ft_confine_compile(all, count, filter, err);
	free(all);
	return error;
}

int ft_guest_identity(uid_t uid, gid_t gid, struct ft_error *err)
{
	return ft_confine_identity(uid, gid, FT_CONFINE_UNDUMPABLE, err);
}

int ft_guest_confine(const struct ft_confine_filter *filter, struct ft_error *err)
{
	int error = ft_confine_install(filter);
	return error ? ft_error_set(err, error, "cannot install the seccomp filter: %s", strerror(-error)) : 0;
}
