/* The live guest's overlay file: opened before the guest runs, looked after while it does. What of it an operator must know is told to
 * the supervisor, as `disk` messages of src/gateway/protocol.md. */
#ifndef FT_GUEST_OVERLAY_H
#define FT_GUEST_OVERLAY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "vmm/machine.h"

struct ft_guest_overlay {
	bool open;
	int failure;         /* what was told, 0: that it works */
	uint64_t failures;   /* how often writes began to fail */
	uint64_t looked_ns, told_ns;
	uint64_t shortened;  /* of the counts, as told */
	char found[256];     /* what the opening found that is worth telling, "": nothing */
};

/* Before confinement, right after the machine was made: fd and read_fd are taken over. 0 or -errno. */
int ft_guest_overlay_open(struct ft_guest_overlay *overlay, struct ft_machine *m, const char *guest, int fd, int read_fd, uint64_t quota,
			  uint64_t retention_ns, struct ft_error *err);

/* After each stop of the machine: its disk fails, or works again, at this instruction; and now and then some compaction. oldest, newest:
 * numbers of forks (disk/overlay.h). type, text: an event that is to be told. False: there is none. */
bool ft_guest_overlay_look(struct ft_guest_overlay *overlay, struct ft_machine *m, uint64_t now, bool idle, uint64_t oldest, uint64_t newest,
			   const char **type, char *text, size_t size);

#endif
