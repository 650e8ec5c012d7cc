/* The configuration message of the supervisor (src/gateway/protocol.md), checked and in our terms. */
#ifndef FT_GUEST_SETTINGS_H
#define FT_GUEST_SETTINGS_H

#include <jansson.h>
#include <sys/types.h>

#include "clone/outside.h"
#include "snapshot/file.h"
#include "vmm/machine.h"

enum ft_guest_fd {
	FT_GUEST_FD_KERNEL,
	FT_GUEST_FD_INITRD,
	FT_GUEST_FD_DISK,
	FT_GUEST_FD_CONSOLE,
	FT_GUEST_FDS /* and then the overlay twice, for writing and for reading, when it is kept; the snapshot that it starts from; /dev/kvm */
};

/* Behind those, when there is a journal. */
enum ft_guest_journal_fd { FT_GUEST_FD_RING, FT_GUEST_FD_SEGMENT, FT_GUEST_FD_CHECKPOINT, FT_GUEST_JOURNAL_FDS };

struct ft_settings {
	char guest[64];
	char cmdline[2048];
	uid_t uid;
	gid_t gid;
	bool has_initrd, has_disk;
	bool keeps; /* what the guest writes to its disk, in an overlay file */
	uint64_t overlay_quota, overlay_retention_ns;
	bool restores, attached, sealed; /* from a snapshot; whether its network is connected from the beginning; is it encrypted */
	struct ft_snapshot_seal seal;
	bool kvm, clone_kvm; /* the guest runs on engine kvm; its clones do */
	bool journal, journal_holds, journal_commits, journal_refers; /* commits: what the guest sends waits for it; refers: to frames of peers */
	bool journal_sealed; /* is it encrypted? */
	struct ft_snapshot_seal journal_seal; /* of its ring, first segment and first checkpoint */
	uint32_t journal_run, journal_number; /* of its first checkpoint */
	uint64_t journal_check_every; /* instructions; 0: as guest/recorder.h says */
	unsigned clones;
	struct ft_outside_config outside;
	struct ft_machine_config machine; /* without what comes from descriptors */
};

/* machine.cmdline points into settings, which must stay where it is. */
/* "seal" of a message: salt and key, each 64 hexadecimal digits. 0: there is none, 1: it is filled, and the key in the
 * message overwritten, -EINVAL. */
int ft_settings_seal(const json_t *seal, struct ft_snapshot_seal *to, struct ft_error *err);

/* "origin" of a message, 32 hexadecimal digits; what is none is zeros. */
void ft_settings_origin(const json_t *message, uint8_t origin[16]);

int ft_settings_read(struct ft_settings *settings, const json_t *message, struct ft_error *err);

#endif
