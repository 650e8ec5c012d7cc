/* The supervisor's event loop: descriptors and what to do when they are ready. Single-threaded. */
#ifndef FT_GATEWAY_LOOP_H
#define FT_GATEWAY_LOOP_H

#include <stdint.h>

struct ft_loop {
	int epoll;
};

/* Embedded in its owner; fd stays the owner's. May be removed, and its owner freed, from any callback: the loop takes
 * one event at a time and keeps no pointer beyond it. */
struct ft_watch {
	int fd;
	void (*ready)(void *context, uint32_t events);
	void *context;
};

int ft_loop_open(struct ft_loop *loop);
void ft_loop_close(struct ft_loop *loop);
int ft_loop_add(struct ft_loop *loop, struct ft_watch *watch, uint32_t events); /* EPOLLIN, EPOLLOUT */
int ft_loop_change(struct ft_loop *loop, struct ft_watch *watch, uint32_t events);
void ft_loop_remove(struct ft_loop *loop, struct ft_watch *watch);

/* Waits until now_ns() reaches `until` (UINT64_MAX: for ever) or a descriptor is ready, and serves one event. */
void ft_loop_step(struct ft_loop *loop, uint64_t until);

uint64_t ft_loop_now(void); /* CLOCK_MONOTONIC in ns */

#endif
