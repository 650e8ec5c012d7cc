#include "dataplane/offload.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/capability.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

struct setting {
	const char *name, *what;
	uint32_t get, set; /* ETHTOOL_G*, ETHTOOL_S* with a struct ethtool_value */
	uint32_t flag;     /* for ETHTOOL_[GS]FLAGS: the bit */
};

static const struct setting settings[] = {
    {"gro", "merging of received segments by the kernel (GRO)", ETHTOOL_GGRO, ETHTOOL_SGRO, 0},
    {"lro", "merging of received segments by the device (LRO)", ETHTOOL_GFLAGS, ETHTOOL_SFLAGS, ETH_FLAG_LRO},
};

#define SETTINGS (sizeof(settings) / sizeof(*settings))

static void say(json_t *said, const char *format, const char *a, const char *b)
{
	char text[256];
	snprintf(text, sizeof(text), format, a, b);
	if (said)
		json_array_append_new(said, json_string(text));
}

static int ethtool(int fd, const char *interface, void *command)
{
	struct ifreq request = {.ifr_data = command};
	strncpy(request.ifr_name, interface, IFNAMSIZ - 1);
	return ioctl(fd, SIOCETHTOOL, &request) ? -errno : 0;
}

static int get(int fd, const char *interface, const struct setting *setting, bool *on)
{
	struct ethtool_value value = {.cmd = setting->get};
	int error = ethtool(fd, interface, &value);
	*on = setting->flag ? value.data & setting->flag : value.data;
	return error;
}

static int set(int fd, const char *interface, const struct setting *setting, bool on)
{
	struct ethtool_value value = {.cmd = setting->get};
	if (setting->flag) {
		int error = ethtool(fd, interface, &value);
		if (error)
			return error;
		value.data = on ? value.data | setting->flag : value.data & ~setting->flag;
	} else {
		value.data = on;
	}
	value.cmd = setting->set;
	return ethtool(fd, interface, &value);
}

static bool is_veth(int fd, const char *interface)
{
	struct ethtool_drvinfo info = {.cmd = ETHTOOL_GDRVINFO};
	return !ethtool(fd, interface, &info) && !strncmp(info.driver, "veth", sizeof(info.driver));
}

static int bpf(enum bpf_cmd command, union bpf_attr *attr)
{
	return (int)syscall(SYS_bpf, command, attr, sizeof(*attr));
}

/* An XDP program that passes everything makes the veth driver withdraw segmentation offload from the peer
 * (veth_fix_features in the kernel): the peer's stack then cuts its segments itself. A bpf_link undoes itself
 * when its last descriptor is closed. */
static int attach_pass(const char *interface)
{
	const struct bpf_insn pass[] = {
	    {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .imm = XDP_PASS},
	    {.code = BPF_JMP | BPF_EXIT},
	};
	union bpf_attr attr = {0};
	attr.prog_type = BPF_PROG_TYPE_XDP;
	attr.insns = (uintptr_t)pass;
	attr.insn_cnt = sizeof(pass) / sizeof(*pass);
	attr.license = (uintptr_t) "Apache-2.0";
	int program = bpf(BPF_PROG_LOAD, &attr);
	if (program < 0)
		return -errno;
	attr = (union bpf_attr){0};
	attr.link_create.prog_fd = (uint32_t)program;
	attr.link_create.target_ifindex = if_nametoindex(interface);
	attr.link_create.attach_type = BPF_XDP;
	attr.link_create.flags =
	    1u << 2; /* XDP_FLAGS_DRV_MODE: the generic mode does not have the effect wanted */
	int link = bpf(BPF_LINK_CREATE, &attr);
	int error = -errno;
	close(program);
	return link < 0 ? error : link;
}

/* Runs in the keeper until everybody who holds the pipe's other end is gone. */
static void keep(int pipe_end, int fd, const char *interface, const bool *restore)
{
	/* Its parent's terminal signals are not for it: it has to outlive the parent by a moment. */
	signal(SIGINT, SIG_IGN);
	signal(SIGTERM, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	prctl(PR_SET_NAME, "ft-offload");
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	cap_t caps = cap_init();
	cap_value_t admin = CAP_NET_ADMIN;
	if (caps && !cap_set_flag(caps, CAP_PERMITTED, 1, &admin, CAP_SET) &&
	    !cap_set_flag(caps, CAP_EFFECTIVE, 1, &admin, CAP_SET))
		cap_set_proc(caps);
	cap_free(caps);
	char byte;
	while (read(pipe_end, &byte, 1) < 0 && errno == EINTR)
		;
	for (size_t i = 0; i < SETTINGS; i++)
		if (restore[i])
			set(fd, interface, &settings[i], true);
	_exit(0);
}

static int start_keeper(struct ft_offload *offload, int fd, const char *interface, const bool *restore)
{
	int ends[2];
	if (pipe2(ends, O_CLOEXEC))
		return -errno;
	pid_t pid = fork();
	if (pid < 0) {
		int error = -errno;
		close(ends[0]);
		close(ends[1]);
		return error;
	}
	if (!pid) {
		/* Everything but these two is the parent's: ports, channels, the terminal. */
		int pipe_end = fcntl(ends[0], F_DUPFD, 100), control = fcntl(fd, F_DUPFD, 100);
		syscall(SYS_close_range, 0u, 99u, 0u);
		syscall(SYS_close_range, 102u, ~0u, 0u);
		keep(pipe_end, control, interface, restore);
	}
	close(ends[0]);
	offload->keeper = ends[1];
	offload->keeper_pid = pid;
	return 0;
}

int ft_offload_disable(struct ft_offload *offload, const char *interface, json_t *said, struct ft_error *err)
{
	*offload = FT_OFFLOAD_NONE;
	if (strlen(interface) >= IFNAMSIZ || !if_nametoindex(interface))
		return ft_error_set(err, -ENODEV, "there is no network interface \"%s\"", interface);
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return ft_error_set(err, -errno, "cannot open a socket: %s", strerror(errno));
	bool before[SETTINGS] = {false}, restore[SETTINGS] = {false}, any = false;
	for (size_t i = 0; i < SETTINGS; i++)
		get(fd, interface, &settings[i], &before[i]);
	if (is_veth(fd, interface)) {
		offload->xdp_link = attach_pass(interface);
		if (offload->xdp_link >= 0)
			say(said,
			    "%s: segmentation offload of the veth's other end is off while the gateway "
			    "runs%s",
			    interface, "");
		else
			say(said, "%s: cannot switch off segmentation offload of the veth's other end: %s",
			    interface, strerror(-offload->xdp_link));
	}
	for (size_t i = 0; i < SETTINGS; i++) {
		bool on;
		if (get(fd, interface, &settings[i], &on) || !on)
			continue;
		int error = set(fd, interface, &settings[i], false);
		if (error) {
			say(said, "%s: cannot switch off %s", interface, settings[i].what);
			continue;
		}
		/* The veth driver switches GRO on by itself with XDP, and off again with it. */
		restore[i] = before[i];
		any |= restore[i];
		say(said, "%s: %s is off while the gateway runs", interface, settings[i].what);
	}
	int error = any ? start_keeper(offload, fd, interface, restore) : 0;
	close(fd);
	if (error) {
		ft_offload_restore(offload);
		return ft_error_set(err, error, "cannot start the process that restores offloads: %s",
				    strerror(-error));
	}
	return 0;
}

void ft_offload_restore(struct ft_offload *offload)
{
	if (offload->xdp_link >= 0)
		close(offload->xdp_link);
	if (offload->keeper >= 0) {
		close(offload->keeper);
		while (waitpid(offload->keeper_pid, NULL, 0) < 0 && errno == EINTR)
			;
	}
	*offload = FT_OFFLOAD_NONE;
}
