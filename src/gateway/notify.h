/* What the service manager is told, in the datagrams of sd_notify(3): ready, stopping, reloading, one line of status,
 * and signs of life for its watchdog.
 *
 * Our own few lines instead of libsystemd: the protocol is one datagram of text that systemd promises to keep, and the
 * library would bring its compression and cryptography into the one process of ours that runs as root.
 *
 * Never waits: what the manager's socket does not take is tried again from ft_notify_serve. Without a manager
 * ($NOTIFY_SOCKET unset) every function does nothing. */
#ifndef FT_GATEWAY_NOTIFY_H
#define FT_GATEWAY_NOTIFY_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/error.h"

#define FT_NOTIFY_STATUS 256u

enum ft_notify_state { FT_NOTIFY_STARTING, FT_NOTIFY_READY, FT_NOTIFY_RELOADING, FT_NOTIFY_STOPPING };

struct ft_notify {
	int fd; /* -1: nobody wants to know */
	struct sockaddr_un address;
	socklen_t address_length;
	enum ft_notify_state state, told; /* what is so; what the manager knows */
	char status[FT_NOTIFY_STATUS], status_told[FT_NOTIFY_STATUS];
	uint64_t
	    watchdog; /* ns from one sign of life to the next, half of what the manager allows; 0: none wanted */
	uint64_t watchdog_at; /* when the next one is due */
	bool withheld;        /* no sign of life is given: the loop turns, but the work is not done */
};

/* Reads $NOTIFY_SOCKET, $WATCHDOG_USEC and $WATCHDOG_PID. 0, also when they are unset; -errno with a sentence when they
 * make no sense or no socket can be had: then the manager is told nothing. */
int ft_notify_open(struct ft_notify *notify, struct ft_error *err);
void ft_notify_close(struct ft_notify *notify);

/* What to tell; sent by ft_notify_serve where it differs from what was told before. status is one line, cut to size.
 * RELOADING ends with READY. */
void ft_notify_set(struct ft_notify *notify, enum ft_notify_state state, const char *status);

/* Sends what is due at now (ft_loop_now). Returns when to call again, UINT64_MAX: only after a change. To be called
 * from the loop that does the work: that it comes round is what the sign of life says. */
uint64_t ft_notify_serve(struct ft_notify *notify, uint64_t now);

#endif
