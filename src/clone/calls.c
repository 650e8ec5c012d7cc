#include "clone/calls.h"

#include <fcntl.h>
#include <stddef.h>
#include <sys/syscall.h>

#include "base/event.h"

#define CREATES (O_WRONLY | O_CREAT)

static const struct ft_call_file files[] = {
    /* nr, event, directory, path, directory2, path2, value, fixed */
    {SYS_open, FT_EVENT_FILE_WRITE, -1, 0, -1, -1, 1, 0},
    {SYS_openat, FT_EVENT_FILE_WRITE, 0, 1, -1, -1, 2, 0},
    {SYS_openat2, FT_EVENT_FILE_WRITE, 0, 1, -1, -1, -1, 0}, /* flags are in memory */
    {SYS_creat, FT_EVENT_FILE_WRITE, -1, 0, -1, -1, -1, CREATES | O_TRUNC},
    {SYS_truncate, FT_EVENT_FILE_WRITE, -1, 0, -1, -1, -1, O_WRONLY | O_TRUNC},
    {SYS_mkdir, FT_EVENT_FILE_WRITE, -1, 0, -1, -1, -1, CREATES | O_DIRECTORY},
    {SYS_mkdirat, FT_EVENT_FILE_WRITE, 0, 1, -1, -1, -1, CREATES | O_DIRECTORY},
    {SYS_mknod, FT_EVENT_FILE_WRITE, -1, 0, -1, -1, -1, CREATES},
    {SYS_mknodat, FT_EVENT_FILE_WRITE, 0, 1, -1, -1, -1, CREATES},
    {SYS_symlink, FT_EVENT_FILE_LINK, -1, 0, -1, 1, -1, CREATES},
    {SYS_symlinkat, FT_EVENT_FILE_LINK, -1, 0, 1, 2, -1, CREATES},
    {SYS_link, FT_EVENT_FILE_LINK, -1, 0, -1, 1, -1, CREATES},
    {SYS_linkat, FT_EVENT_FILE_LINK, 0, 1, 2, 3, -1, CREATES},
    {SYS_unlink, FT_EVENT_FILE_REMOVE, -1, 0, -1, -1, -1, 0},
    {SYS_rmdir, FT_EVENT_FILE_REMOVE, -1, 0, -1, -1, -1, 0},
    {SYS_unlinkat, FT_EVENT_FILE_REMOVE, 0, 1, -1, -1, -1, 0},
    {SYS_rename, FT_EVENT_FILE_RENAME, -1, 0, -1, 1, -1, 0},
    {SYS_renameat, FT_EVENT_FILE_RENAME, 0, 1, 2, 3, -1, 0},
    {SYS_renameat2, FT_EVENT_FILE_RENAME, 0, 1, 2, 3, -1, 0},
    {SYS_chmod, FT_EVENT_FILE_MODE, -1, 0, -1, -1, 1, 0},
    {SYS_fchmod, FT_EVENT_FILE_MODE, 0, -1, -1, -1, 1, 0},
    {SYS_fchmodat, FT_EVENT_FILE_MODE, 0, 1, -1, -1, 2, 0},
    {452 /* fchmodat2, Linux 6.6 */, FT_EVENT_FILE_MODE, 0, 1, -1, -1, 2, 0},
};

#define KINDS 512

static const uint8_t kinds[KINDS] = {
    [SYS_execve] = FT_CALL_EXEC,
    [SYS_execveat] = FT_CALL_EXEC,
    [SYS_fork] = FT_CALL_FORK,
    [SYS_vfork] = FT_CALL_FORK,
    [SYS_clone] = FT_CALL_FORK,
    [SYS_clone3] = FT_CALL_FORK,
    [SYS_exit_group] = FT_CALL_EXIT,
    [SYS_exit] = FT_CALL_THREAD_EXIT,
    [SYS_set_tid_address] = FT_CALL_IDENTITY,
    [SYS_getpid] = FT_CALL_IDENTITY,
    [SYS_chdir] = FT_CALL_DIRECTORY,
    [SYS_chroot] = FT_CALL_NOTABLE,
    [SYS_fchdir] = FT_CALL_DIRECTORY_FD,
    [SYS_prctl] = FT_CALL_NAME,
    [SYS_wait4] = FT_CALL_WAIT,
    [SYS_waitid] = FT_CALL_WAIT,
    [SYS_kill] = FT_CALL_SIGNAL,
    [SYS_tkill] = FT_CALL_SIGNAL,
    [SYS_tgkill] = FT_CALL_SIGNAL,
    [SYS_rt_sigqueueinfo] = FT_CALL_SIGNAL,
    [SYS_connect] = FT_CALL_CONNECT,
    [SYS_bind] = FT_CALL_BIND,
    [SYS_listen] = FT_CALL_LISTEN,

    [SYS_open] = FT_CALL_FILE,
    [SYS_openat] = FT_CALL_FILE,
    [SYS_openat2] = FT_CALL_FILE,
    [SYS_creat] = FT_CALL_FILE,
    [SYS_truncate] = FT_CALL_FILE,
    [SYS_mkdir] = FT_CALL_FILE,
    [SYS_mkdirat] = FT_CALL_FILE,
    [SYS_mknod] = FT_CALL_FILE,
    [SYS_mknodat] = FT_CALL_FILE,
    [SYS_symlink] = FT_CALL_FILE,
    [SYS_symlinkat] = FT_CALL_FILE,
    [SYS_link] = FT_CALL_FILE,
    [SYS_linkat] = FT_CALL_FILE,
    [SYS_unlink] = FT_CALL_FILE,
    [SYS_rmdir] = FT_CALL_FILE,
    [SYS_unlinkat] = FT_CALL_FILE,
    [SYS_rename] = FT_CALL_FILE,
    [SYS_renameat] = FT_CALL_FILE,
    [SYS_renameat2] = FT_CALL_FILE,
    [SYS_chmod] = FT_CALL_FILE,
    [SYS_fchmod] = FT_CALL_FILE,
    [SYS_fchmodat] = FT_CALL_FILE,
    [452] = FT_CALL_FILE,

    /* What changes the rules: other processes' memory, the kernel, identities, mounts, namespaces. */
    [SYS_ptrace] = FT_CALL_NOTABLE,
    [SYS_process_vm_readv] = FT_CALL_NOTABLE,
    [SYS_process_vm_writev] = FT_CALL_NOTABLE,
    [SYS_init_module] = FT_CALL_NOTABLE,
    [SYS_finit_module] = FT_CALL_NOTABLE,
    [SYS_delete_module] = FT_CALL_NOTABLE,
    [SYS_kexec_load] = FT_CALL_NOTABLE,
    [SYS_kexec_file_load] = FT_CALL_NOTABLE,
    [SYS_reboot] = FT_CALL_NOTABLE,
    [SYS_mount] = FT_CALL_NOTABLE,
    [SYS_umount2] = FT_CALL_NOTABLE,
    [SYS_move_mount] = FT_CALL_NOTABLE,
    [SYS_pivot_root] = FT_CALL_NOTABLE,
    [SYS_unshare] = FT_CALL_NOTABLE,
    [SYS_setns] = FT_CALL_NOTABLE,
    [SYS_setuid] = FT_CALL_NOTABLE,
    [SYS_setgid] = FT_CALL_NOTABLE,
    [SYS_setreuid] = FT_CALL_NOTABLE,
    [SYS_setregid] = FT_CALL_NOTABLE,
    [SYS_setresuid] = FT_CALL_NOTABLE,
    [SYS_setresgid] = FT_CALL_NOTABLE,
    [SYS_capset] = FT_CALL_NOTABLE,
    [SYS_bpf] = FT_CALL_NOTABLE,
    [SYS_perf_event_open] = FT_CALL_NOTABLE,
    [SYS_userfaultfd] = FT_CALL_NOTABLE,
    [SYS_memfd_create] = FT_CALL_NOTABLE,
    [SYS_keyctl] = FT_CALL_NOTABLE,
    [SYS_iopl] = FT_CALL_NOTABLE,
    [SYS_ioperm] = FT_CALL_NOTABLE,
    [SYS_settimeofday] = FT_CALL_NOTABLE,
    [SYS_clock_settime] = FT_CALL_NOTABLE,
    [SYS_swapon] = FT_CALL_NOTABLE,
    [SYS_personality] = FT_CALL_NOTABLE,
    /* What is done through a ring shows no system call; one that was set up before the fork is used all the same. With
     * a polling kernel thread (IORING_SETUP_SQPOLL) that has not gone to sleep even its use shows none: connections are
     * still seen in their packets, files are not. */
    [SYS_io_uring_setup] = FT_CALL_NOTABLE,
    [SYS_io_uring_enter] = FT_CALL_RING,
    [SYS_io_uring_register] = FT_CALL_RING,

    [SYS_read] = FT_CALL_HOT,
    [SYS_write] = FT_CALL_HOT,
    [SYS_close] = FT_CALL_HOT,
    [SYS_poll] = FT_CALL_HOT,
    [SYS_select] = FT_CALL_HOT,
    [SYS_epoll_wait] = FT_CALL_HOT,
    [SYS_epoll_pwait] = FT_CALL_HOT,
    [SYS_futex] = FT_CALL_HOT,
    [SYS_rt_sigaction] = FT_CALL_HOT,
    [SYS_rt_sigprocmask] = FT_CALL_HOT,
    [SYS_rt_sigreturn] = FT_CALL_HOT,
    [SYS_brk] = FT_CALL_HOT,
    [SYS_lseek] = FT_CALL_HOT,
    [SYS_fstat] = FT_CALL_HOT,
    [SYS_sched_yield] = FT_CALL_HOT,
    [SYS_nanosleep] = FT_CALL_HOT,
    [SYS_clock_nanosleep] = FT_CALL_HOT,
    [SYS_clock_gettime] = FT_CALL_HOT,
    [SYS_gettimeofday] = FT_CALL_HOT,
    [SYS_time] = FT_CALL_HOT,
    [SYS_getppid] = FT_CALL_HOT,
    [SYS_gettid] = FT_CALL_HOT,
    [SYS_pselect6] = FT_CALL_HOT,
    [SYS_ppoll] = FT_CALL_HOT,
    [SYS_epoll_ctl] = FT_CALL_HOT,
    [SYS_mmap] = FT_CALL_HOT, /* except where it makes code: observe.c */
    [SYS_munmap] = FT_CALL_HOT,
    [SYS_mprotect] = FT_CALL_HOT,
    [SYS_madvise] = FT_CALL_HOT,
    [SYS_arch_prctl] = FT_CALL_HOT,
    [SYS_set_robust_list] = FT_CALL_HOT,
    [SYS_rseq] = FT_CALL_HOT,
    [SYS_prlimit64] = FT_CALL_HOT,
    [SYS_getrandom] = FT_CALL_HOT,
    [SYS_pread64] = FT_CALL_HOT,
    [SYS_pwrite64] = FT_CALL_HOT,
    [SYS_readv] = FT_CALL_HOT,
    [SYS_writev] = FT_CALL_HOT,
    [SYS_sendfile] = FT_CALL_HOT,
    [SYS_recvfrom] = FT_CALL_HOT,
    [SYS_dup] = FT_CALL_HOT,
    [SYS_dup2] = FT_CALL_HOT,
    [SYS_dup3] = FT_CALL_HOT,
    [SYS_fcntl] = FT_CALL_HOT,
    [SYS_pipe] = FT_CALL_HOT,
    [SYS_pipe2] = FT_CALL_HOT,
    [SYS_getuid] = FT_CALL_HOT,
    [SYS_geteuid] = FT_CALL_HOT,
    [SYS_getgid] = FT_CALL_HOT,
    [SYS_getegid] = FT_CALL_HOT,
};

enum ft_call_kind ft_call_kind(uint64_t nr)
{
	return nr < KINDS ? (enum ft_call_kind)kinds[nr] : FT_CALL_OTHER;
}

const struct ft_call_file *ft_call_file(uint64_t nr)
{
	for (size_t i = 0; i < sizeof(files) / sizeof(*files); i++)
		if (files[i].nr == nr)
			return &files[i];
	return NULL;
}
