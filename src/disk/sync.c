#include "disk/sync.h"

#include <errno.h>
#include <signal.h>
#include <string.h>

static void make(struct ft_sync *sync)
{
	uint64_t number = sync->wanted;
	pthread_mutex_unlock(&sync->lock);
	int error = sync->sync(sync->context, sync->fd);
	pthread_mutex_lock(&sync->lock);
	sync->count++;
	/* After one that failed the kernel forgets what it could not write: a later success says nothing. */
	if (error && !sync->error)
		sync->error = error;
	if (!sync->error)
		sync->done = number;
	else
		sync->wanted = sync->done;
	pthread_cond_broadcast(&sync->changed);
}

static void *run(void *context)
{
	struct ft_sync *sync = context;
	pthread_mutex_lock(&sync->lock);
	while (!sync->stop) {
		if (sync->wanted > sync->done && !sync->error)
			make(sync);
		else
			pthread_cond_wait(&sync->changed, &sync->lock);
	}
	pthread_mutex_unlock(&sync->lock);
	return NULL;
}

void ft_sync_open(struct ft_sync *sync, int fd, int (*call)(void *, int), void *context)
{
	*sync = (struct ft_sync){.fd = fd, .sync = call, .context = context};
	pthread_mutex_init(&sync->lock, NULL);
	pthread_cond_init(&sync->changed, NULL);
}

int ft_sync_start(struct ft_sync *sync, struct ft_error *err)
{
	/* The engine's signals are the other thread's. */
	sigset_t all, old;
	sigfillset(&all);
	pthread_attr_t attributes;
	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, 256 << 10);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	int error = pthread_create(&sync->thread, &attributes, run, sync);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attributes);
	sync->threaded = !error;
	return !error ? 0 : ft_error_set(err, -error, "no thread can be started for the disk: %s", strerror(error));
}

void ft_sync_close(struct ft_sync *sync)
{
	if (!sync->sync)
		return;
	pthread_mutex_lock(&sync->lock);
	sync->stop = true;
	pthread_cond_broadcast(&sync->changed);
	pthread_mutex_unlock(&sync->lock);
	if (sync->threaded)
		pthread_join(sync->thread, NULL);
	pthread_cond_destroy(&sync->changed);
	pthread_mutex_destroy(&sync->lock);
	sync->sync = NULL;
}

void ft_sync_want(struct ft_sync *sync, uint64_t number)
{
	pthread_mutex_lock(&sync->lock);
	if (number > sync->wanted && !sync->error) {
		sync->wanted = number;
		if (sync->threaded)
			pthread_cond_broadcast(&sync->changed);
		else
			make(sync);
	}
	pthread_mutex_unlock(&sync->lock);
}

uint64_t ft_sync_done(struct ft_sync *sync, int *error)
{
	pthread_mutex_lock(&sync->lock);
	uint64_t done = sync->done;
	if (error)
		*error = sync->error;
	pthread_mutex_unlock(&sync->lock);
	return done;
}

int ft_sync_wait(struct ft_sync *sync, uint64_t number)
{
	pthread_mutex_lock(&sync->lock);
	while (sync->done < number && !sync->error)
		pthread_cond_wait(&sync->changed, &sync->lock);
	int error = sync->error;
	pthread_mutex_unlock(&sync->lock);
	return error;
}
