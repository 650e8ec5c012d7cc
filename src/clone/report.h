/* Where a process's events go: the writer's end of the link's event socket, its numbering, its bounds.
 *
 * The live guest's writer never waits: what the socket cannot take is counted and told as LOST before the next record
 * that fits. A clone's writer waits: it has a wall-clock budget and nobody else to hold up, and it may gather records
 * (ft_report_gather), for each message wakes the dataplane. What a process that dies had gathered is not told; a trial flushes before
 * each slice, and one that dies is never clean. Allocates nothing; one thread. */
#ifndef FT_CLONE_REPORT_H
#define FT_CLONE_REPORT_H

#include "base/event.h"

/* Most records of one clone: a hostile one must not buy the dataplane's time. The rest is LOST, so never clean. */
#define FT_REPORT_LIMIT 16384u

struct ft_report {
	int fd; /* borrowed; -1: nobody listens, records are not made */
	/* Instead of the socket, for who listens in the same process; fd is not used then but may not be -1. */
	void (*take)(void *context, const void *record, size_t length);
	void *context;
	enum ft_event_role role;
	bool wait;
	bool dead; /* the other side is gone */
	uint64_t trial, sequence;
	uint64_t lost;  /* since the last LOST record */
	uint64_t limit; /* records still allowed, LOST and the life of the trial aside */
	uint8_t *room;  /* FT_EVENTS_MAX bytes, `gathered` of them used; NULL: each record is a message */
	size_t gathered;
};

void ft_report_begin(struct ft_report *report, int fd, enum ft_event_role role, uint64_t trial);

/* From here on records wait in room until it is full, or one of the trial's life comes, or ft_report_flush is called. */
void ft_report_gather(struct ft_report *report, uint8_t room[FT_EVENTS_MAX]);
void ft_report_flush(struct ft_report *report);

/* Sends event (type, icount, vtime_ns, cr3, pid, process, a[] are the caller's) with its strings. */
void ft_report_send(struct ft_report *report, struct ft_event *event, const char *string0,
		    const char *string1);

#endif
