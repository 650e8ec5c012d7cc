/* The link between the dataplane and one guest's vmm process: a memfd with three rings, two eventfds, and a
 * SOCK_SEQPACKET socket pair for events.
 *
 *   rx   dataplane -> vmm   frames for the live guest (kind FT_LINK_FRAME)
 *   tx   vmm -> dataplane   frames from the live guest (kind FT_LINK_FRAME)
 *   cmd  dataplane -> vmm   trial commands (kinds FT_TRIAL_*, see base/trial.h)
 *   events                  vmm, its seeds and clones -> dataplane: one struct ft_event a datagram (base/event.h).
 *                           A socket and not a ring because it has many writers (each clone is a process); the kernel
 *                           keeps their records whole and apart.
 *
 * The supervisor makes a link and passes its descriptors to both sides; after either side died it makes a new one. */
#ifndef FT_BASE_LINK_H
#define FT_BASE_LINK_H

#include "base/error.h"
#include "base/ring.h"

#define FT_LINK_RX_SIZE  (4ull << 20)
#define FT_LINK_TX_SIZE  (4ull << 20)
#define FT_LINK_CMD_SIZE (4ull << 20)

#define FT_LINK_FRAME         1u /* payload: one Ethernet frame without FCS */
#define FT_LINK_FRAME_STAMPED 2u /* payload: struct ft_link_stamp, and a frame */

/* Where a frame of a guest that is recorded stands in its journal: whoever gets the very same frame can refer to it instead of keeping
 * it (sender-based message logging, journal/journal.md). The vmm that sends makes it; the dataplane, which alone knows whose ring it
 * came out of, puts the name in and hands it on with whatever it delivers for that frame; the vmm that receives compares the hash. */
struct ft_link_stamp {
	char guest[32]; /* empty on its way to the dataplane */
	uint32_t run, segment;
	uint64_t number; /* of the frame among those sent since that segment's checkpoint */
	uint64_t hash;   /* XXH3-64 of the frame */
};

enum ft_link_side { FT_LINK_DATAPLANE, FT_LINK_VMM };

/* Descriptors in the order in which they travel: both sides get all of them and close what is not theirs. */
enum ft_link_fd { FT_LINK_FD_MEMORY, FT_LINK_FD_WAKE_VMM, FT_LINK_FD_WAKE_DATAPLANE, FT_LINK_FD_EVENTS, FT_LINK_FDS };

struct ft_link {
	struct ft_ring rx, tx, cmd;
	void *memory;
	size_t length;
	int wake_own;  /* eventfd that wakes this side: poll it, read it, then look at the rings */
	int wake_peer; /* eventfd that wakes the other side (also in the rings' wake_fd) */
	int events;    /* SOCK_SEQPACKET; the vmm side writes, the dataplane side reads; non-blocking at the dataplane */
};

/* Makes the shared objects. fds_dataplane and fds_vmm: FT_LINK_FDS entries each, all owned by the caller
 * (close-on-exec). The memfd is sealed against resizing, so a peer cannot make us fault. */
int ft_link_create(int fds_dataplane[FT_LINK_FDS], int fds_vmm[FT_LINK_FDS], struct ft_error *err);

/* Takes the descriptors over (also on failure) and maps the memory; checks the memfd's size and seals. */
int ft_link_open(struct ft_link *link, enum ft_link_side side, const int fds[FT_LINK_FDS], struct ft_error *err);
void ft_link_close(struct ft_link *link);

#endif
