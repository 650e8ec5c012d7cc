/* The thread that waits for fdatasync, so that the guest's thread need not: it touches a descriptor and the numbers here, nothing
 * else. A fork of the process must not call anything here: the thread that it has not got may hold the lock. Numbers are sequence numbers of records. */
#ifndef FT_DISK_SYNC_H
#define FT_DISK_SYNC_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct ft_sync {
	int (*sync)(void *context, int fd); /* 0 or -errno */
	void *context;
	int fd;
	bool threaded, stop;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	uint64_t wanted, done, count; /* count: syncs that were made */
	int error;                    /* of the first one that failed: none after it is believed */
};

/* Each sync is made where it is asked for, until a thread is started: by a process that has given up its privileges, which are each
 * thread's own, and whose filter does not forbid threads yet. */
void ft_sync_open(struct ft_sync *sync, int fd, int (*call)(void *, int), void *context);
int ft_sync_start(struct ft_sync *sync, struct ft_error *err);
void ft_sync_close(struct ft_sync *sync);

void ft_sync_want(struct ft_sync *sync, uint64_t number); /* never waits */
uint64_t ft_sync_done(struct ft_sync *sync, int *error);  /* how far it is */
int ft_sync_wait(struct ft_sync *sync, uint64_t number);  /* 0 or the error */

#endif
