#include "gateway/loop.h"

#include <errno.h>
#include <limits.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

uint64_t ft_loop_now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

int ft_loop_open(struct ft_loop *loop)
{
	loop->epoll = epoll_create1(EPOLL_CLOEXEC);
	return loop->epoll < 0 ? -errno : 0;
}

void ft_loop_close(struct ft_loop *loop)
{
	if (loop->epoll >= 0)
		close(loop->epoll);
	loop->epoll = -1;
}

static int control(struct ft_loop *loop, int operation, struct ft_watch *watch, uint32_t events)
{
	struct epoll_event event = {.events = events, .data.ptr = watch};
	return epoll_ctl(loop->epoll, operation, watch->fd, &event) ? -errno : 0;
}

int ft_loop_add(struct ft_loop *loop, struct ft_watch *watch, uint32_t events)
{
	return control(loop, EPOLL_CTL_ADD, watch, events);
}

int ft_loop_change(struct ft_loop *loop, struct ft_watch *watch, uint32_t events)
{
	return control(loop, EPOLL_CTL_MOD, watch, events);
}

void ft_loop_remove(struct ft_loop *loop, struct ft_watch *watch)
{
	control(loop, EPOLL_CTL_DEL, watch, 0);
}

void ft_loop_step(struct ft_loop *loop, uint64_t until)
{
	int timeout = -1;
	if (until != UINT64_MAX) {
		uint64_t now = ft_loop_now();
		uint64_t ms = until > now ? (until - now + 999999) / 1000000 : 0;
		timeout = ms > INT_MAX ? INT_MAX : (int)ms;
	}
	/* One event a step: with more, a callback could free the owner of the next one. epoll serves ready
	 * descriptors in turn, so nobody starves. */
	struct epoll_event event;
	if (epoll_wait(loop->epoll, &event, 1, timeout) == 1) {
		struct ft_watch *watch = event.data.ptr;
		watch->ready(watch->context, event.events);
	}
}
