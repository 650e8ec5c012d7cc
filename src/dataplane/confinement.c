#include "dataplane/confinement.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "base/confine.h"

static const struct ft_confine_rule rules[] = {
    {"read", "eventfd of the link; pcap port: next bytes of the capture file"},
    {"write", "eventfd of the link; pcap port: received frames; stderr: DPDK's error log"},
    {"writev", "stderr: DPDK's error log"},
    {"recvmsg", "control channel and link descriptors"},
    {"recvfrom", "events of the guest's vmm"},
    {"sendmsg", "control channel, records"},
    {"sendto", "af_packet port: tells the kernel that frames wait"},
    {"poll", "control channel; af_packet port: full transmit ring"},
    {"ppoll", "idle: link, events, channel, with a timeout"},
    {"close", "descriptors of a link that ended; port at the end"},
    {"fcntl", "a new link: seals of its memory, non-blocking events"},
    {"fstat", "a new link: size of its memory; stdio: pcap file"},
    {"newfstatat", "the C library's fstat"},
    {"lseek", "stdio: pcap file"},
    {"mmap", "a new link; malloc. Never executable", .arg = 3, .mask = PROT_EXEC, .equals = 0},
    {"munmap", "a link that ended; malloc; port at the end"},
    {"mremap", "malloc"},
    {"madvise", "malloc"},
    {"mprotect", "malloc; never executable", .arg = 3, .mask = PROT_EXEC, .equals = 0},
    {"brk", "malloc"},
    {"futex", "locks of malloc and DPDK; end of DPDK's interrupt thread"},
    {"clock_gettime", "where the vDSO cannot answer"},
    {"clock_nanosleep", "DPDK: delays while the port stops"},
    {"nanosleep", "DPDK: delays while the port stops"},
    {"getrandom", "seeds of trials; hash seeds"},
    {"epoll_wait", "DPDK's interrupt thread"},
    {"epoll_pwait", "DPDK's interrupt thread"},
    {"epoll_ctl", "DPDK's interrupt thread"},
    {"epoll_create1", "DPDK's interrupt thread, when its descriptors change"},
    {"sched_yield", "DPDK locks"},
    {"rt_sigprocmask", "the C library ends a thread"},
    {"rt_sigreturn", "return from a signal handler"},
    {"restart_syscall", "the kernel, after a stop and continue"},
    {"set_robust_list", "thread start"},
    {"tgkill", "DPDK ends its interrupt thread"},
    {"gettid", "DPDK's log and locks"},
    {"getpid", "cancellation of DPDK's interrupt thread"},
    {"wait4", "at the end: the process that restores offloads"},
    {"getsockopt", "af_packet port: frames that its ring had no room for"},
    {"setsockopt", "af_packet port: leaving promiscuous mode at the end"},
    {"ioctl", "af_packet port: interface flags at the end; refused, DPDK goes on", .error = EPERM},
    {"openat", "DPDK and the C library at the end: optional files; refused", .error = EACCES},
    {"unlink", "DPDK: runtime files that --in-memory never made; refused", .error = EACCES},
    {"unlinkat", "DPDK: runtime files that --in-memory never made; refused", .error = EACCES},
    {"rmdir", "DPDK: runtime files that --in-memory never made; refused", .error = EACCES},
    {"exit", "end of DPDK's interrupt thread"},
    {"exit_group", "end"},
};

int ft_confinement_install(struct ft_error *err)
{
	struct ft_confine_filter filter;
	int error = ft_confine_compile(rules, sizeof(rules) / sizeof(*rules), &filter, err);
	if (error)
		return error;
	error = ft_confine_install(&filter);
	ft_confine_filter_free(&filter);
	return error ? ft_error_set(err, error, "cannot install the seccomp filter: %s", strerror(-error))
		     : 0;
}
