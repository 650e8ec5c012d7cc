/* The live loop: runs the guest in short slices and, between them, moves frames between link and machine, takes trial
 * commands, forks seeds, listens to the supervisor. One thread does it all, so a fork between two slices is a correct
 * clone, and no lock exists. A slice is 0.1-0.5 ms: what a frame waits at most while the guest is busy. An idle guest is
 * woken by the link's eventfd at once. */
#ifndef FT_GUEST_LIVE_H
#define FT_GUEST_LIVE_H

#include "base/link.h"
#include "clone/mend.h"
#include "clone/slots.h"
#include "guest/console.h"
#include "guest/output.h"
#include "guest/recorder.h"
#include "guest/overlay.h"
#include "guest/saver.h"

/* Why the loop ended: foretaste-vmm's exit status. 64 and above are sysexits of failures. */
enum ft_live_end {
	FT_LIVE_STOPPED = 0, /* asked to, or the supervisor is gone */
	FT_LIVE_REBOOT = 10,
	FT_LIVE_POWEROFF = 11,
	FT_LIVE_TRIPLE_FAULT = 12,
	FT_LIVE_ERROR = 70 /* EX_SOFTWARE: the engine cannot go on */
};

struct ft_live {
	/* Set by the caller, who owns them. */
	const char *guest;
	int channel;
	struct ft_machine *m;
	struct ft_witness *witness;
	struct ft_slots *slots;
	struct ft_report *report; /* the live guest's events */
	bool isolated; /* no frame reaches the guest or comes from it, until the supervisor says `attach` */
	bool restored; /* it goes on from a snapshot */
	int disk;      /* what the machine reads its disk from, -1: none */
	struct ft_snapshot_load load; /* of a restored guest: RAM that is not here yet; load.m NULL: all is */
	uint8_t mac[6]; /* of its card, and what that says of frames' length: how the machine was made */
	uint16_t mtu;
	struct ft_saver saver;
	struct ft_recorder recorder;
	struct ft_output output; /* what waits for the journal */
	uint64_t full_since_ns, full_ns; /* the guest stands still for its journal: since when (0: it does not), how long before that */
	bool full_told;
	int segment, checkpoint; /* files for the first checkpoint of a journal */
	struct ft_snapshot_seal *journal_seal; /* of both; NULL: they are not encrypted. Wiped when it was used */
	uint32_t checkpoint_number; /* that is being saved, or is to be saved before the guest runs; 0: none */
	struct ft_guest_overlay overlay;

	struct ft_console console;
	struct ft_link link;
	uint64_t kicked; /* position in its tx ring up to which the dataplane was woken */
	bool linked;
	struct ft_mend mend;
	uint64_t mend_ns; /* when to begin again, 0: nothing has been forked since it began */
	bool running_told, settled_told, stop;
	uint64_t settling_ns, settling_busy_ns; /* since when it is watched whether it is idle; how long it was busy */
	uint64_t began_ns, channel_looked_ns, last_frame_ns, looked_ns;
	uint64_t rx_frames, tx_frames, tx_full, rx_dropped;
	uint64_t rx_isolated, tx_isolated; /* frames that were not passed on because the guest is not attached */
	uint64_t filled_ns; /* when a part of RAM was fetched last */
};

/* Before confinement: console_fd is taken over. */
void ft_live_open(struct ft_live *live, int console_fd);

/* Waits for the first link (an isolated guest gets none until it is attached), then runs the guest until something ends it. */
enum ft_live_end ft_live_run(struct ft_live *live);
void ft_live_close(struct ft_live *live);

/* Of its slots' configuration (clone/slots.h), context the live. */
int ft_live_ask_seed(void *context, uint64_t number, uint64_t hold);
void ft_live_told_seed(void *context, uint64_t number, const struct ft_seed_kept *kept);
void ft_live_write_seed(void *context, const struct ft_seed_plan *plan, const struct ft_seed_order *order, int file, struct ft_seed_kept *kept);

/* One line for the supervisor's log. */
void ft_live_log(struct ft_live *live, const char *level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
