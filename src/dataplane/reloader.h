/* The thread that makes rulebooks: compiling patterns takes the better part of a second, in which no frame may wait. It
 * touches nothing but the configuration it is given and the book it makes. To be started before the process is confined. */
#ifndef FT_DATAPLANE_RELOADER_H
#define FT_DATAPLANE_RELOADER_H

#include "dataplane/rulebook.h"

struct ft_reloader;

int ft_reloader_start(struct ft_reloader **reloader, struct ft_error *err);

/* Hands over a job: config is copied. -EBUSY: one is under way. */
int ft_reloader_begin(struct ft_reloader *reloader, const json_t *config);

/* Is the job done? Then *book is the caller's, or NULL with err. One atomic load when it is not. */
bool ft_reloader_done(struct ft_reloader *reloader, struct ft_rulebook **book, struct ft_error *err);

#endif
