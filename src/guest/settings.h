/* The configuration message of the supervisor (src/gateway/protocol.md), checked and in our terms. */
#ifndef FT_GUEST_SETTINGS_H
#define FT_GUEST_SETTINGS_H

#include <jansson.h>
#include <sys/types.h>

#include "clone/outside.h"
#include "vmm/machine.h"

enum ft_guest_fd {
	FT_GUEST_FD_KERNEL,
	FT_GUEST_FD_INITRD,
	FT_GUEST_FD_DISK,
	FT_GUEST_FD_CONSOLE,
	FT_GUEST_FDS
};

struct ft_settings {
	char guest[64];
	char cmdline[2048];
	uid_t uid;
	gid_t gid;
	bool has_initrd, has_disk;
	unsigned clones;
	struct ft_outside_config outside;
	struct ft_machine_config machine; /* without what comes from descriptors */
};

/* machine.cmdline points into settings, which must stay where it is. */
int ft_settings_read(struct ft_settings *settings, const json_t *message, struct ft_error *err);

#endif
