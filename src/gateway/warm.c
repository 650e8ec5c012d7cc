#include "gateway/warm.h"

#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "gateway/snapshot.h"

void ft_warm_note_origin(struct ft_supervisor *s, struct ft_child *vmm, const int fds[FT_FILES_VMM])
{
	crypto_generichash_state state;
	json_t *part = ft_config_vmm(s->config, vmm->guest);
	/* Not of the machine: what its clones may do. */
	json_object_del(part, "clone");
	char *text = json_dumps(part, JSON_COMPACT | JSON_SORT_KEYS);
	json_decref(part);
	crypto_generichash_init(&state, NULL, 0, sizeof(vmm->origin));
	crypto_generichash_update(&state, (const uint8_t *)(text ? text : ""), text ? strlen(text) : 0);
	free(text);
	for (int i = 0; i < 3; i++) { /* kernel, initramfs, disk */
		struct stat st = {0};
		fstat(fds[i], &st);
		/* A device's time says nothing; its contents are sampled with the snapshot. */
		int64_t file[] = {S_ISREG(st.st_mode), st.st_size, S_ISREG(st.st_mode) ? st.st_mtim.tv_sec : 0,
				  S_ISREG(st.st_mode) ? st.st_mtim.tv_nsec : 0};
		crypto_generichash_update(&state, (const uint8_t *)file, sizeof(file));
	}
	crypto_generichash_final(&state, vmm->origin, sizeof(vmm->origin));
}

int ft_warm_start(struct ft_supervisor *s, struct ft_child *vmm, json_t **part)
{
	struct ft_error err = {0};
	vmm->warm = vmm->save_settled = false;
	if (!*vmm->start_snapshot)
		return -1;
	int fd = vmm->cold ? ft_error_set(&err, -ECANCELED, "%s", vmm->cold_why)
			   : ft_snapshot_give(s, vmm, vmm->start_snapshot, true, vmm->origin, part, &err);
	vmm->cold = false;
	if (fd >= 0) {
		vmm->warm = true;
		ft_supervisor_record(s, "guest-restored", vmm->guest, NULL, "guest %s starts from snapshot %s", vmm->guest, vmm->start_snapshot);
		return fd;
	}
	vmm->save_settled = true;
	ft_supervisor_record(s, "cold-start", vmm->guest, NULL, "guest %s boots and does not start from snapshot %s: %s", vmm->guest,
			     vmm->start_snapshot, err.text);
	return -1;
}

void ft_warm_settled(struct ft_supervisor *s, struct ft_child *vmm)
{
	struct ft_error err = {0};
	if (vmm->kind != FT_CHILD_VMM || vmm->state != FT_CHILD_READY || !vmm->save_settled)
		return;
	vmm->save_settled = false;
	if (ft_snapshot_begin_saving(s, vmm, vmm->start_snapshot, &err))
		ft_supervisor_record(s, "snapshot-failed", vmm->guest, NULL, "snapshot %s of guest %s was not saved: %s", vmm->start_snapshot,
				     vmm->guest, err.text);
}

bool ft_warm_ended(struct ft_supervisor *s, struct ft_child *vmm, bool was_ready, bool lasted, bool rebooted, const char *how)
{
	if (vmm->kind != FT_CHILD_VMM || !*vmm->start_snapshot || (!vmm->warm && !rebooted))
		return false;
	vmm->cold = rebooted || !lasted;
	snprintf(vmm->cold_why, sizeof(vmm->cold_why), "%s",
		 rebooted	    ? "it wanted to reboot"
		 : vmm->failed_code ? vmm->failed_text
				    : "started from there it ended at once");
	bool never_was = vmm->warm && !was_ready;
	vmm->warm = false;
	return never_was;
}
