/* A disk under an overlay file whose power can be cut: it keeps what was written and not yet synced, and after a cut any of it may be
 * there or not, in pieces of a sector. Calls can be made to fail. The clock is the test's. */
#ifndef TESTS_DISK_MEDIUM_H
#define TESTS_DISK_MEDIUM_H

#include "disk/overlay.h"

#define MEDIUM_SECTOR 512u

struct medium_write {
	uint64_t at, length;
	uint8_t *bytes; /* NULL: a hole */
};

struct medium {
	int fd, read_fd;
	struct medium_write *pending; /* since the last sync, oldest first */
	uint64_t pending_count, pending_room;
	uint8_t *durable; /* the file's contents at the last sync */
	uint64_t durable_length;
	uint64_t calls, fail_at; /* the n-th call fails (from 1; 0: none does) ... */
	int failure;             /* ... with this, */
	bool torn;               /* and a write that fails has written half */
	uint64_t room;           /* bytes below which there is room; UINT64_MAX */
	bool tracking;           /* keep what is pending */
	struct ft_overlay_io io;
};

extern uint64_t medium_now; /* UNIX time in ns */
uint64_t medium_clock(void);

void medium_open(struct medium *m, bool tracking);
void medium_close(struct medium *m);

/* Another medium as this one may be after a cut now: of what is pending, the sectors that `there` says (NULL: none) of each write. */
void medium_cut(const struct medium *m, struct medium *to, bool (*there)(void *context, uint64_t write, uint64_t sector), void *context);

#endif
