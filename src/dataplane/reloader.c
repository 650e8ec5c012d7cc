#include "dataplane/reloader.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { IDLE, WORKING, DONE };

struct ft_reloader {
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t begun;
	_Atomic int state;
	json_t
	    *config; /* the thread's while it works; its own copy, so that no count of references is shared */
	struct ft_rulebook *book;
	struct ft_error err;
};

static void *work(void *context)
{
	struct ft_reloader *reloader = context;
	for (;;) {
		pthread_mutex_lock(&reloader->lock);
		while (atomic_load(&reloader->state) != WORKING)
			pthread_cond_wait(&reloader->begun, &reloader->lock);
		pthread_mutex_unlock(&reloader->lock);
		reloader->err = (struct ft_error){0};
		reloader->book = NULL;
		if (ft_rulebook_new(reloader->config, &reloader->book, &reloader->err))
			reloader->book = NULL;
		json_decref(reloader->config);
		reloader->config = NULL;
		atomic_store(&reloader->state, DONE);
	}
	return NULL;
}

int ft_reloader_start(struct ft_reloader **reloader, struct ft_error *err)
{
	struct ft_reloader *made = calloc(1, sizeof(*made));
	if (!made)
		return ft_error_set(err, -ENOMEM, "no memory for the thread of reloads");
	pthread_mutex_init(&made->lock, NULL);
	pthread_cond_init(&made->begun, NULL);
	int error = pthread_create(&made->thread, NULL, work, made);
	if (error) {
		free(made);
		return ft_error_set(err, -error, "cannot start the thread of reloads: %s", strerror(error));
	}
	*reloader = made;
	return 0;
}

int ft_reloader_begin(struct ft_reloader *reloader, const json_t *config)
{
	if (atomic_load(&reloader->state) != IDLE)
		return -EBUSY;
	reloader->config = json_deep_copy(config);
	if (!reloader->config)
		return -ENOMEM;
	pthread_mutex_lock(&reloader->lock);
	atomic_store(&reloader->state, WORKING);
	pthread_cond_signal(&reloader->begun);
	pthread_mutex_unlock(&reloader->lock);
	return 0;
}

bool ft_reloader_done(struct ft_reloader *reloader, struct ft_rulebook **book, struct ft_error *err)
{
	if (atomic_load_explicit(&reloader->state, memory_order_acquire) != DONE)
		return false;
	*book = reloader->book;
	*err = reloader->err;
	reloader->book = NULL;
	atomic_store(&reloader->state, IDLE);
	return true;
}
