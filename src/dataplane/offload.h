/* What a network interface of the kernel's does to frames before a packet socket sees them, switched off
 * while the gateway owns the interface: merging of received segments (GRO, LRO), and, on a veth, segmentation
 * that the peer leaves to us. Checksums that the peer leaves to us cannot be switched off from our end; the
 * frame path completes them.
 *
 * The settings come back when the gateway lets go, also when it is killed: the veth's through the descriptor
 * that dies with the process, the others through a small process that keeps CAP_NET_ADMIN alone, waits for
 * our end of a pipe to close, sets them back and ends. */
#ifndef FT_DATAPLANE_OFFLOAD_H
#define FT_DATAPLANE_OFFLOAD_H

#include <jansson.h>
#include <sys/types.h>

#include "base/error.h"

struct ft_offload {
	int xdp_link; /* -1: not attached */
	int keeper;   /* write end of the keeper's pipe, -1: nothing to set back */
	pid_t keeper_pid;
};

#define FT_OFFLOAD_NONE ((struct ft_offload){.xdp_link = -1, .keeper = -1, .keeper_pid = -1})

/* Needs CAP_NET_ADMIN. Appends a sentence to said for each change. What cannot be changed is said, too, and
 * is no failure: frames that come merged all the same are refused with their reason. 0 or -errno (no such
 * interface). */
int ft_offload_disable(struct ft_offload *offload, const char *interface, json_t *said, struct ft_error *err);

/* Lets go. Waits for the keeper. */
void ft_offload_restore(struct ft_offload *offload);

#endif
