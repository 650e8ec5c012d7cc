/* The state of a machine, RAM and disk contents aside, as bytes that another machine, process, host or engine can take.
 * Format: state.md. For the thread that runs the machine, between two runs of it. */
#ifndef FT_VMM_STATE_IMAGE_H
#define FT_VMM_STATE_IMAGE_H

#include "vmm/machine.h"

/* *bytes: malloc'ed, the caller frees it. Changes nothing. -EBUSY: the guest is being reset or switched off. */
int ft_state_save(struct ft_machine *m, uint8_t **bytes, size_t *length, struct ft_error *err);

/* Puts the state into a machine that was created with the same configuration (memory, disk, network card); what it was
 * before is overwritten. The bytes are hostile: the version, the checksum and every field are checked before anything is
 * changed, and the error names the field: -EBADMSG (no state, truncated, corrupted), -ENOTSUP (another version or CPU
 * model), -EINVAL (a field). RAM and disk are the caller's, before the machine runs. The host's clock is not in it: a live
 * machine goes on at the first sync, as if no time had passed.
 *
 * The engine remembers nothing afterwards. For the saved machine to go on exactly as the restored one will, it has to
 * forget, too: ft_machine_forget, see engine.h. */
int ft_state_restore(struct ft_machine *m, const void *bytes, size_t length, struct ft_error *err);

/* What has to be known before a machine can be created for it. */
struct ft_state_summary {
	uint64_t memory, disk_size, icount, vtime_ns;
	char engine[16];
	bool same_host; /* this processor's undefined flags and transcendentals are those of the one that saved it */
};
int ft_state_summarise(const void *bytes, size_t length, struct ft_state_summary *summary, struct ft_error *err);

#endif
