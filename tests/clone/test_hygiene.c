/* What the filters of a seed and of a clone leave: each call here is made by a child of its own, which must die of it. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clone/hygiene.h"
#include "vmm/machine.h"

struct call {
	const char *name;
	long number, arguments[4];
};

static struct ft_hygiene hygiene;

static int prepare(void **state)
{
	struct ft_error err = {0};
	return ft_hygiene_prepare(&hygiene, 0, &err);
}

static int release(void **state)
{
	ft_hygiene_free(&hygiene);
	return 0;
}

/* The wait status of a child that confines itself and makes the call; ends with 0 when it returns. */
static int made_by(bool trial, const struct call *call)
{
	pid_t self = getpid(), child = fork();
	if (child == 0) {
		int keep[1] = {2};
		if (trial ? ft_hygiene_become(&hygiene.trial, self, keep, 1)
			  : ft_hygiene_seed(&hygiene, self, keep, 1))
			_exit(99);
		const long *a = call->arguments;
		syscall(call->number, a[0], a[1], a[2], a[3], 0, 0);
		syscall(SYS_exit_group, 0); /* a new process comes by here, too */
	}
	int status = 0;
	assert_int_equal(waitpid(child, &status, 0), child);
	return status;
}

static void expect_killed(const char *who, bool trial, const struct call *calls, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		int status = made_by(trial, &calls[i]);
		if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGSYS)
			fail_msg("%s may call %s (wait status 0x%x)", who, calls[i].name, status);
	}
}

static void expect_allowed(const char *who, bool trial, const struct call *calls, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		int status = made_by(trial, &calls[i]);
		if (!WIFEXITED(status) || WEXITSTATUS(status))
			fail_msg("%s may not call %s (wait status 0x%x)", who, calls[i].name, status);
	}
}

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define MAPPED   (MAP_PRIVATE | MAP_ANONYMOUS)

/* Neither of them; a sanitizer's run-time needs none of these. */
static const struct call forbidden[] = {
    {"open", SYS_open, {0}},
    {"socket", SYS_socket, {1, 1}},
    {"connect", SYS_connect, {2}},
    {"execve", SYS_execve, {0}},
    {"execveat", SYS_execveat, {-1}},
    {"vfork", SYS_vfork, {0}},
    {"clone3", SYS_clone3, {0}},
    {"ptrace", SYS_ptrace, {0}},
    {"process_vm_readv", SYS_process_vm_readv, {1}},
    {"process_vm_writev", SYS_process_vm_writev, {1}},
    {"pidfd_getfd", SYS_pidfd_getfd, {2}},
    {"tgkill", SYS_tgkill, {0, 0, 0}},
    {"kill with SIGTERM", SYS_kill, {0x7fffffff, SIGTERM}},
    {"unshare", SYS_unshare, {0}},
    {"setns", SYS_setns, {-1}},
    {"mount", SYS_mount, {0}},
    {"chroot", SYS_chroot, {0}},
    {"setuid", SYS_setuid, {0}},
    {"bpf", SYS_bpf, {0}},
    {"perf_event_open", SYS_perf_event_open, {0}},
    {"userfaultfd", SYS_userfaultfd, {0}},
    {"io_uring_setup", SYS_io_uring_setup, {0}},
    {"memfd_create", SYS_memfd_create, {0}},
    {"shmget", SYS_shmget, {0}},
    {"keyctl", SYS_keyctl, {0}},
    {"dup2", SYS_dup2, {2, 2}},
    {"ioctl", SYS_ioctl, {2}},
    {"sendmsg", SYS_sendmsg, {-1}},
    {"pkey_mprotect", SYS_pkey_mprotect, {0}},
    {"x32 getpid", SYS_getpid | 0x40000000, {0}},
/* mmap is a sanitizer's call, too. */
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    {"mmap of executable memory", SYS_mmap, {0, 4096, PROT_READ | PROT_EXEC, MAPPED}},
    {"mprotect", SYS_mprotect, {0}},
    {"openat", SYS_openat, {AT_FDCWD}},
    {"rt_sigaction", SYS_rt_sigaction, {0}},
#endif
};

static void a_clone_computes_and_no_more(void **state)
{
	static const struct call only_a_seed_may[] = {
	    {"fork", SYS_clone, {SIGCHLD}}, {"kill", SYS_kill, {0x7fffffff, SIGKILL}},
	    {"wait4", SYS_wait4, {-1}},     {"recvfrom", SYS_recvfrom, {-1}},
	    {"seccomp", SYS_seccomp, {0}},  {"poll", SYS_poll, {0}},
	    {"recvmsg", SYS_recvmsg, {-1}}, {"fsync", SYS_fsync, {-1}},
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
	    {"write", SYS_write, {-1}}, /* a sanitizer's call, too */
#endif
	};
	static const struct call allowed[] = {
	    {"clock_gettime", SYS_clock_gettime, {-1}},
	    {"sendto", SYS_sendto, {-1}},
	    {"pread64", SYS_pread64, {-1}},
	    {"munmap", SYS_munmap, {1}},
	    {"exit", SYS_exit, {0}},
	};
	expect_killed("a clone", true, forbidden, COUNT(forbidden));
	expect_killed("a clone", true, only_a_seed_may, COUNT(only_a_seed_may));
	expect_allowed("a clone", true, allowed, COUNT(allowed));
}

static void a_seed_forks_processes_and_nothing_else(void **state)
{
	static const struct call clones[] = {
	    {"clone(CLONE_VM)", SYS_clone, {SIGCHLD | CLONE_VM}},
	    {"clone(CLONE_FILES)", SYS_clone, {SIGCHLD | CLONE_FILES}},
	    {"clone(CLONE_FS)", SYS_clone, {SIGCHLD | CLONE_FS}},
	    {"clone(CLONE_THREAD)", SYS_clone, {CLONE_THREAD}},
	    {"clone(CLONE_PTRACE)", SYS_clone, {SIGCHLD | CLONE_PTRACE}},
	    {"clone(CLONE_PARENT)", SYS_clone, {SIGCHLD | CLONE_PARENT}},
	    {"clone(CLONE_NEWUSER)", SYS_clone, {SIGCHLD | CLONE_NEWUSER}},
	    {"clone(CLONE_NEWNS)", SYS_clone, {SIGCHLD | CLONE_NEWNS}},
	    {"clone(CLONE_NEWPID)", SYS_clone, {SIGCHLD | CLONE_NEWPID}},
	    {"clone(CLONE_NEWNET)", SYS_clone, {SIGCHLD | CLONE_NEWNET}},
	    {"clone(CLONE_NEWIPC)", SYS_clone, {SIGCHLD | CLONE_NEWIPC}},
	    {"clone(CLONE_NEWUTS)", SYS_clone, {SIGCHLD | CLONE_NEWUTS}},
	    {"clone(CLONE_NEWCGROUP)", SYS_clone, {SIGCHLD | CLONE_NEWCGROUP}},
	};
	static const struct call allowed[] = {
	    {"fork", SYS_clone, {SIGCHLD}},
	    {"libc's fork", SYS_clone, {SIGCHLD | CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID}},
	    {"kill with SIGKILL", SYS_kill, {0x7fffffff, SIGKILL}},
	    {"recvmsg", SYS_recvmsg, {-1}}, /* orders, and the file that it is kept in */
	    {"write", SYS_write, {-1}},
	    {"fsync", SYS_fsync, {-1}},
	};
	expect_killed("a seed", false, forbidden, COUNT(forbidden));
	expect_killed("a seed", false, clones, COUNT(clones));
	expect_allowed("a seed", false, allowed, COUNT(allowed));
}

/* A machine whose next instruction at 0x1000 is a HLT, in protected mode. */
static struct ft_machine *halting_machine(void)
{
	struct ft_error err = {0};
	struct ft_machine_config config = {.memory = FT_RAM_MIN,
					   .clock = FT_CLOCK_FREE,
					   .disk_fd = -1,
					   .engine = &ft_engine_soft,
					   .engine_options = {.cache_bytes = 1 << 20}};
	struct ft_machine *m = ft_machine_create(&config, &err);
	if (!m)
		fail_msg("%s", err.text);
	struct ft_cpu_state s = {.rip = 0x1000, .rflags = 2, .cr0 = 0x33, .fxsave = {0x7f, 3, [24] = 0x80, 0x1f}};
	for (unsigned i = 0; i < FT_SEGMENTS; i++)
		s.segment[i] = (struct ft_segment){
		    .limit = 0xffffffff, .selector = 0x18, .attributes = i == FT_CS ? 0xc09b : 0xc093};
	assert_true(ft_memory_write(&m->ram, ft_gpa_make(0x1000), "\xf4", 1));
	assert_int_equal(m->engine_ops->set(m->engine, &s, &err), 0);
	return m;
}

/* The live guest may be asked for a clone before it ever ran: nothing that the engine needs once may be left for its first
 * run. */
static void a_clone_runs_a_machine_that_never_ran(void **state)
{
	struct ft_machine *m = halting_machine();
	pid_t self = getpid(), child = fork();
	if (child == 0) {
		int keep[1] = {2};
		struct ft_run_limits limits = {.icount = 10, .vtime_ns = UINT64_MAX};
		if (ft_hygiene_become(&hygiene.trial, self, keep, 1))
			_exit(99);
		syscall(SYS_exit_group, ft_machine_run(m, &limits, NULL) == FT_STOP_IDLE && m->icount == 1 ? 0 : 1);
	}
	int status = 0;
	assert_int_equal(waitpid(child, &status, 0), child);
	if (!WIFEXITED(status) || WEXITSTATUS(status))
		fail_msg("wait status 0x%x", status);
	ft_machine_destroy(m);
}

struct waiting {
	pthread_mutex_t lock;
	sem_t began; /* it has done what libc does in a thread before anything else: engine kvm waits for that, too */
};

static void *waits(void *context)
{
	struct waiting *w = context;
	sem_post(&w->began);
	pthread_mutex_lock(&w->lock);
	pthread_mutex_unlock(&w->lock);
	return NULL;
}

/* A child that confines itself as a seed whose clones have so many vCPUs on engine kvm, begins a thread, becomes a clone, and waits
 * for the thread. Its wait status. */
static int thread_of(unsigned vcpus)
{
	struct ft_hygiene own;
	struct ft_error err = {0};
	assert_int_equal(ft_hygiene_prepare(&own, vcpus, &err), 0);
	pid_t self = getpid(), child = fork();
	if (child == 0) {
		int keep[1] = {2};
		pthread_t thread;
		struct waiting w = {.lock = PTHREAD_MUTEX_INITIALIZER};
		if (ft_hygiene_seed(&own, self, keep, 1))
			_exit(99);
		sem_init(&w.began, 0, 0);
		pthread_mutex_lock(&w.lock);
		if (pthread_create(&thread, NULL, waits, &w))
			_exit(98);
		sem_wait(&w.began);
		if (ft_confine_install(&own.trial))
			_exit(97);
		pthread_mutex_unlock(&w.lock);
		_exit(pthread_join(thread, NULL) ? 96 : 0);
	}
	int status = 0;
	assert_int_equal(waitpid(child, &status, 0), child);
	ft_hygiene_free(&own);
	return status;
}

/* A clone of a guest of several vCPUs has a thread for each, begun before it is a clone; no other has any. */
static void threads_are_for_several_vcpus(void **state)
{
	int status = thread_of(2);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
	for (unsigned vcpus = 0; vcpus < 2; vcpus++) {
		status = thread_of(vcpus);
		assert_true(WIFSIGNALED(status));
		assert_int_equal(WTERMSIG(status), SIGSYS);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_clone_computes_and_no_more),
	    cmocka_unit_test(a_seed_forks_processes_and_nothing_else),
	    cmocka_unit_test(threads_are_for_several_vcpus),
	    cmocka_unit_test(a_clone_runs_a_machine_that_never_ran),
	};
	return cmocka_run_group_tests(tests, prepare, release);
}
