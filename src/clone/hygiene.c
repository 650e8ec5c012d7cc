#include "clone/hygiene.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vmm/engine/kvm/requests.h"

#define TRIAL_RULES                                                                                          \
	{"sendto", "events to the dataplane"}, {"pread64", "virtio-blk: base image and overlay, opened read-only"},  \
	    {"preadv", "virtio-blk: the base image, opened read-only"},                                      \
	    {"rt_sigreturn", "the engine's handlers for faults of guest instructions"},                      \
	    {"rt_sigprocmask", "the engine's handlers; fork and exit"},                                      \
	    {"mmap", "malloc; never executable", .arg = 3, .mask = PROT_EXEC, .equals = 0},                  \
	    {"munmap", "malloc"}, {"mremap", "malloc"}, {"brk", "malloc"},                                   \
	    {"madvise", "malloc gives memory back; huge pages for the disk's blocks"},                       \
	    {"clock_gettime", "the wall-clock budget, where the vDSO cannot tell"},                          \
	    {"futex", "libc's locks"}, {"restart_syscall", "a sleep interrupted by SIGSTOP and SIGCONT"},    \
	    {"exit", "the end"},                                                                             \
	{                                                                                                    \
		"exit_group", "the end"                                                                      \
	}

const struct ft_confine_rule ft_hygiene_trial_rules[] = {TRIAL_RULES};
const size_t ft_hygiene_trial_rule_count = sizeof(ft_hygiene_trial_rules) / sizeof(*ft_hygiene_trial_rules);

const struct ft_confine_rule ft_hygiene_seed_rules[] = {
    TRIAL_RULES,
    /* Nothing but what fork() asks for: no thread, no namespace, no child that is somebody else's (CLONE_PARENT). */
    {"clone", "fork of a trial", .arg = 1, .mask = ~(uint64_t)(CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID),
     .equals = SIGCHLD},
    {"set_robust_list", "libc in a forked child"},
    {"rseq", "libc in a forked child"},
    {"gettid", "libc in a forked child"},
    {"getpid", "a trial is told who its parent is"},
    {"getppid", "is the parent still there"},
    {"prctl", "a trial dies with its seed", .arg = 1, .equals = PR_SET_PDEATHSIG},
    {"prctl", "a trial is not dumpable", .arg = 1, .equals = PR_SET_DUMPABLE},
    {"prctl", "before the trial's filter", .arg = 1, .equals = PR_SET_NO_NEW_PRIVS},
    {"seccomp", "the trial's filter"},
    {"close_range", "a trial keeps what it needs"},
    {"close", "the pidfd of a trial that ended"},
    {"pidfd_open", "waiting for a trial and for orders at once"},
    {"poll", "waiting for a trial and for orders at once"},
    {"ppoll", "waiting for a trial and for orders at once"},
    {"recvmsg", "orders of the vmm; the file that it is kept in"},
    {"recvfrom", "orders of the vmm"},
    {"write", "itself, where it is kept; a trial has no descriptor for it"},
    {"fsync", "the same"},
    {"getrandom", "the salt of that file; malloc"},
    {"wait4", "reaping a trial"},
    {"kill", "a trial past its wall-clock budget", .arg = 2, .equals = SIGKILL},
};
const size_t ft_hygiene_seed_rule_count = sizeof(ft_hygiene_seed_rules) / sizeof(*ft_hygiene_seed_rules);

/* The kernel looks at the lower half of a request alone. */
#define REQUEST(request) {"ioctl", "engine kvm: " #request, .arg = 2, .mask = UINT32_MAX, .equals = (uint32_t)(request)},

#define KVM_RUN_RULES                                                                                        \
	FT_KVM_REQUESTS_RUN(REQUEST)                                                                         \
	{"timer_settime", "engine kvm: the end of a slice"},                                                 \
	{"rt_sigtimedwait", "engine kvm: the signal of that timer is taken back"},                           \
	{"gettid", "engine kvm: is that timer this thread's"},                                               \
	{"getrusage", "engine kvm: pages that a clone has touched"},

#define KVM_MAKE_RULES                                                                                       \
	FT_KVM_REQUESTS_MAKE(REQUEST)                                                                        \
	{"fcntl", "engine kvm: a descriptor of /dev/kvm of its own", .arg = 2, .equals = F_DUPFD_CLOEXEC},          \
	{"timer_create", "engine kvm: the timer that ends slices"},                                          \
	{"timer_delete", "engine kvm: that of another thread"},                                              \
	{"rt_sigaction", "engine kvm: the timer's signal has a handler", .arg = 1, .equals = 34 /* SIGRTMIN */},

/* A thread of this process and nothing else; glibc 2.36, sysdeps/nptl/createthread. */
#define CLONE_A_THREAD                                                                                       \
	(CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SYSVSEM | CLONE_SIGHAND | CLONE_THREAD | CLONE_SETTLS |   \
	 CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID)

const struct ft_confine_rule ft_hygiene_kvm_rules[] = {
    KVM_RUN_RULES KVM_MAKE_RULES
    {"clone3", "engine kvm: a thread for each vCPU; libc falls back to clone, whose flags can be looked at", .error = ENOSYS},
    {"clone", "engine kvm: a thread for each vCPU", .arg = 1, .equals = CLONE_A_THREAD},
    {"rt_sigaction", "libc, with a process's first thread: its own second real-time signal", .arg = 1, .equals = 33},
    {"mprotect", "engine kvm: the stack of such a thread; never executable", .arg = 3, .mask = PROT_EXEC, .equals = 0},
};
/* The first ones. */
#define COUNT(rules) (sizeof((struct ft_confine_rule[]){rules}) / sizeof(struct ft_confine_rule))
const size_t ft_hygiene_kvm_run_rule_count = COUNT(KVM_RUN_RULES);

size_t ft_hygiene_kvm_make_rule_count(unsigned vcpus)
{
	size_t one = COUNT(KVM_RUN_RULES KVM_MAKE_RULES), all = sizeof(ft_hygiene_kvm_rules) / sizeof(*ft_hygiene_kvm_rules);
	return vcpus > 1 ? all : vcpus ? one : 0;
}

static int compile(const struct ft_confine_rule *rules, size_t count, size_t kvm, struct ft_confine_filter *filter, struct ft_error *err)
{
	struct ft_confine_rule *all = malloc((count + kvm) * sizeof(*all));
	if (!all)
		return ft_error_set(err, -ENOMEM, "no memory for a seccomp filter");
	memcpy(all, rules, count * sizeof(*all));
	memcpy(all + count, ft_hygiene_kvm_rules, kvm * sizeof(*all));
	int error = ft_confine_compile(all, count + kvm, filter, err);
	free(all);
	return error;
}

int ft_hygiene_prepare(struct ft_hygiene *hygiene, unsigned kvm, struct ft_error *err)
{
	*hygiene = (struct ft_hygiene){0};
	int error = compile(ft_hygiene_seed_rules, ft_hygiene_seed_rule_count, ft_hygiene_kvm_make_rule_count(kvm), &hygiene->seed, err);
	if (!error)
		error = compile(ft_hygiene_trial_rules, ft_hygiene_trial_rule_count, kvm ? ft_hygiene_kvm_run_rule_count : 0,
				&hygiene->trial, err);
	if (error)
		ft_hygiene_free(hygiene);
	return error;
}

void ft_hygiene_free(struct ft_hygiene *hygiene)
{
	ft_confine_filter_free(&hygiene->seed);
	ft_confine_filter_free(&hygiene->trial);
}

static int close_others(const int *keep, int count)
{
	unsigned from = 0;
	for (;;) {
		/* The next one to keep, at or above from. */
		unsigned next = UINT_MAX;
		for (int i = 0; i < count; i++)
			if (keep[i] >= 0 && (unsigned)keep[i] >= from && (unsigned)keep[i] < next)
				next = (unsigned)keep[i];
		unsigned last = next == UINT_MAX ? UINT_MAX : next - 1;
		if ((next == UINT_MAX || next > from) && syscall(SYS_close_range, from, last, 0))
			return -errno;
		if (next == UINT_MAX)
			return 0;
		from = next + 1;
	}
}

int ft_hygiene_leave(pid_t parent, const int *keep, int count)
{
	int error = ft_confine_die_with(parent, SIGKILL);
	if (!error && prctl(PR_SET_DUMPABLE, 0, 0, 0, 0))
		error = -errno;
	return error ? error : close_others(keep, count);
}

int ft_hygiene_become(const struct ft_confine_filter *filter, pid_t parent, const int *keep, int count)
{
	int error = ft_hygiene_leave(parent, keep, count);
	return error ? error : ft_confine_install(filter);
}

int ft_hygiene_seed(const struct ft_hygiene *hygiene, pid_t parent, const int *keep, int count)
{
	return ft_hygiene_become(&hygiene->seed, parent, keep, count);
}
