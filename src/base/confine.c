#include "base/confine.h"

#include <errno.h>
#include <grp.h>
#include <linux/securebits.h>
#include <seccomp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/capability.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <linux/seccomp.h>

/* uid 0 gives no capability, set-id changes neither, and none of this can be undone. */
#define SECUREBITS                                                                                           \
	(SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_SETUID_FIXUP_LOCKED | SECBIT_KEEP_CAPS_LOCKED |    \
	 SECBIT_NO_CAP_AMBIENT_RAISE | SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED)

/* Needs CAP_SETPCAP: a process without it has no capability that the bounding set could give back, because
 * no_new_privs follows. The first capability number the kernel does not know ends the list. */
static int drop_bounding_set(void)
{
	for (unsigned long capability = 0; prctl(PR_CAPBSET_READ, capability, 0, 0, 0) >= 0; capability++)
		if (prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) && errno != EPERM)
			return -errno;
	if (prctl(PR_SET_SECUREBITS, SECUREBITS, 0, 0, 0) && errno != EPERM)
		return -errno;
	return 0;
}

static int drop_capabilities(void)
{
	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) && errno != EINVAL)
		return -errno;
	cap_t none = cap_init();
	if (!none)
		return -ENOMEM;
	int error = cap_set_proc(none) ? -errno : 0;
	cap_free(none);
	return error;
}

static int check_capabilities(void)
{
	cap_t have = cap_get_proc();
	cap_t none = cap_init();
	int error = have && none ? (cap_compare(have, none) ? -EPERM : 0) : -ENOMEM;
	cap_free(have);
	cap_free(none);
	return error;
}

static int change_ids(uid_t uid, gid_t gid)
{
	if (getuid() == uid && geteuid() == uid && getgid() == gid && getegid() == gid) {
		/* Not allowed to an unprivileged process, and then its groups are its owner's business. */
		if (setgroups(0, NULL) && errno != EPERM)
			return -errno;
		return 0;
	}
	if (setgroups(0, NULL) || setresgid(gid, gid, gid) || setresuid(uid, uid, uid))
		return -errno;
	uid_t uids[3];
	gid_t gids[3];
	if (getresuid(&uids[0], &uids[1], &uids[2]) || getresgid(&gids[0], &gids[1], &gids[2]))
		return -errno;
	for (int i = 0; i < 3; i++)
		if (uids[i] != uid || gids[i] != gid)
			return -EPERM;
	return getgroups(0, NULL) == 0 ? 0 : -EPERM;
}

bool ft_confine_may_become(void)
{
	static const cap_value_t needed[] = {CAP_SETUID, CAP_SETGID};
	cap_t have = cap_get_proc();
	bool may = have;
	for (size_t i = 0; i < sizeof(needed) / sizeof(*needed); i++) {
		cap_flag_value_t set = CAP_CLEAR;
		may = may && !cap_get_flag(have, needed[i], CAP_EFFECTIVE, &set) && set == CAP_SET;
	}
	cap_free(have);
	return may;
}

int ft_confine_identity(uid_t uid, gid_t gid, unsigned options, struct ft_error *err)
{
	if (uid == 0 || gid == 0 || uid == (uid_t)-1 || gid == (gid_t)-1)
		return ft_error_set(err, -EINVAL,
				    "cannot run as uid %u, gid %u: a confined process is not root",
				    (unsigned)uid, (unsigned)gid);
	int death = 0;
	pid_t parent = getppid();
	prctl(PR_GET_PDEATHSIG, &death, 0, 0, 0);
	int error = drop_bounding_set();
	if (error)
		return ft_error_set(err, error, "cannot empty the capability bounding set: %s",
				    strerror(-error));
	error = change_ids(uid, gid);
	if (error)
		return ft_error_set(err, error, "cannot become uid %u, gid %u: %s", (unsigned)uid,
				    (unsigned)gid, strerror(-error));
	error = drop_capabilities();
	if (!error)
		error = check_capabilities();
	if (error)
		return ft_error_set(err, error, "cannot drop capabilities: %s", strerror(-error));
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return ft_error_set(err, -errno, "cannot set no_new_privs: %s", strerror(errno));
	if (options & FT_CONFINE_UNDUMPABLE) {
		struct rlimit none = {0, 0};
		if (setrlimit(RLIMIT_CORE, &none) || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0))
			return ft_error_set(err, -errno, "cannot become undumpable: %s", strerror(errno));
	}
	if (death && ft_confine_die_with(parent, death))
		return ft_error_set(err, -ESRCH, "the parent process ended");
	return 0;
}

int ft_confine_die_with(pid_t parent, int signal)
{
	if (prctl(PR_SET_PDEATHSIG, signal, 0, 0, 0))
		return -errno;
	return getppid() == parent ? 0 : -ESRCH;
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
/* The sanitizers' runtimes live in the process that we confine; only instrumented builds have these rows. */
static const struct ft_confine_rule sanitizer_rules[] = {
    {"mmap", "sanitizer: shadow memory"},
    {"munmap", "sanitizer: shadow memory"},
    {"madvise", "sanitizer: shadow memory"},
    {"mprotect", "sanitizer: shadow memory"},
    {"sigaltstack", "sanitizer: thread end"},
    {"sched_getaffinity", "sanitizer: thread begin, where its stack is"},
    {"getpid", "sanitizer: report"},
    {"gettid", "sanitizer: report"},
    {"write", "sanitizer: report"},
    {"sched_yield", "sanitizer: locks"},
    {"futex", "sanitizer: locks"},
    {"readlink", "sanitizer: report"},
    {"openat", "sanitizer: /proc/self/maps", .error = EACCES},
    {"prctl", "sanitizer: shadow memory, and __lsan_is_turned_off"},
    {"rt_sigprocmask", "sanitizer: thread end"},
    {"rt_sigaction", "sanitizer: report"},
};

/* The leak check at exit attaches to us with a tracer, which no confined process allows; it then waits for the tracer
 * for ever. The sanitizer asks this hook first. */
int __lsan_is_turned_off(void);

int __lsan_is_turned_off(void)
{
	return prctl(PR_GET_SECCOMP, 0, 0, 0, 0) == SECCOMP_MODE_FILTER;
}
#endif

static int add_rule(scmp_filter_ctx context, const struct ft_confine_rule *rule, struct ft_error *err)
{
	if (!rule->name || !rule->why || !*rule->why)
		return ft_error_set(err, -EINVAL, "seccomp table: %s has no reason",
				    rule->name ? rule->name : "a row");
	int number = seccomp_syscall_resolve_name(rule->name);
	if (number < 0)
		return ft_error_set(err, -EINVAL, "seccomp table: there is no syscall \"%s\"", rule->name);
	if (rule->arg > 6)
		return ft_error_set(err, -EINVAL, "seccomp table: %s has no argument %u", rule->name,
				    rule->arg);
	uint32_t action = rule->error ? SCMP_ACT_ERRNO((unsigned)rule->error) : SCMP_ACT_ALLOW;
	int error;
	if (rule->arg) {
		struct scmp_arg_cmp compare = {.arg = rule->arg - 1,
					       .op = SCMP_CMP_MASKED_EQ,
					       .datum_a = rule->mask ? rule->mask : UINT64_MAX,
					       .datum_b = rule->equals};
		error = seccomp_rule_add_array(context, action, number, 1, &compare);
	} else {
		error = seccomp_rule_add_array(context, action, number, 0, NULL);
	}
	/* The same row twice is harmless: two tables may be joined. */
	if (error && error != -EEXIST)
		return ft_error_set(err, error, "seccomp table: cannot add %s: %s", rule->name,
				    strerror(-error));
	return 0;
}

/* libseccomp 2.5 writes a program only to a descriptor; a memfd makes that a buffer. */
static int export_program(scmp_filter_ctx context, struct sock_fprog *program)
{
	int fd = memfd_create("foretaste-seccomp", MFD_CLOEXEC);
	if (fd < 0)
		return -errno;
	struct stat st;
	int error = seccomp_export_bpf(context, fd);
	if (!error && fstat(fd, &st))
		error = -errno;
	size_t length = error ? 0 : (size_t)st.st_size;
	if (!error && (length == 0 || length / sizeof(struct sock_filter) > BPF_MAXINSNS))
		error = -E2BIG;
	program->filter = error ? NULL : malloc(length);
	if (!error && !program->filter)
		error = -ENOMEM;
	if (!error && pread(fd, program->filter, length, 0) != (ssize_t)length)
		error = -EIO;
	program->len = (unsigned short)(length / sizeof(struct sock_filter));
	if (error) {
		free(program->filter);
		*program = (struct sock_fprog){0};
	}
	close(fd);
	return error;
}

int ft_confine_compile(const struct ft_confine_rule *rules, size_t count, struct ft_confine_filter *filter,
		       struct ft_error *err)
{
	*filter = (struct ft_confine_filter){0};
	scmp_filter_ctx context = seccomp_init(SCMP_ACT_KILL_PROCESS);
	if (!context)
		return ft_error_set(err, -ENOMEM, "cannot make a seccomp filter");
	int error = seccomp_attr_set(context, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
	for (size_t i = 0; i < count && !error; i++)
		error = add_rule(context, &rules[i], err);
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	for (size_t i = 0; i < sizeof(sanitizer_rules) / sizeof(*sanitizer_rules) && !error; i++)
		add_rule(context, &sanitizer_rules[i], NULL);
#endif
	if (!error)
		error = export_program(context, &filter->program);
	seccomp_release(context);
	if (error)
		ft_error_set(err, error, "cannot compile the seccomp filter: %s", strerror(-error));
	return error;
}

void ft_confine_filter_free(struct ft_confine_filter *filter)
{
	free(filter->program.filter);
	*filter = (struct ft_confine_filter){0};
}

int ft_confine_install(const struct ft_confine_filter *filter)
{
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return -errno;
	long result =
	    syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &filter->program);
	return result < 0 ? -errno : result > 0 ? -EBUSY : 0;
}
