/* Warm starts: a guest with `start: snapshot` goes on from its snapshot wherever its vmm process is started, which takes a fraction
 * of a second where a boot takes several. It boots where there is none, or it does not fit (another image, kernel, command line,
 * configuration, processor model), after a start from it that came to no good, and when the guest itself wanted to reboot; the feed
 * says why. What has booted is saved as the new snapshot when it is idle for the first time (the vmm says `settled`), before
 * anybody's input has made it what it is. */
#ifndef FT_GATEWAY_WARM_H
#define FT_GATEWAY_WARM_H

#include "gateway/files.h"
#include "gateway/supervisor.h"

/* What the guest's next process is started from: its part of the configuration, sizes and times of change of its image's files.
 * Kept in the snapshots that it saves. */
void ft_warm_note_origin(struct ft_supervisor *s, struct ft_child *vmm, const int fds[FT_FILES_VMM]);

/* The snapshot that this vmm is to start from: a descriptor, and the part of its configuration in *part. -1: it boots. */
int ft_warm_start(struct ft_supervisor *s, struct ft_child *vmm, json_t **part);

/* The guest is idle for the first time. */
void ft_warm_settled(struct ft_supervisor *s, struct ft_child *vmm);

/* Its process has ended; rebooted: the guest wanted that. Decides whether the next one boots. true: this one could not even be
 * started from the snapshot; the caller starts the next one at once, which will boot. */
bool ft_warm_ended(struct ft_supervisor *s, struct ft_child *vmm, bool was_ready, bool lasted, bool rebooted, const char *how);

#endif
