/* Seeds that are kept: where no journal covers a verdict that is not clean, the state that its trial was forked from, as a snapshot in
 * `seeds` of the state directory, GUEST-HOLD. The seed's own process writes it, into a descriptor that it is given; under its name it
 * appears when it is whole and on disk. One of a guest at a time, no more often than seeds.every, no more than seeds.quota in all. */
#ifndef FT_GATEWAY_SEED_H
#define FT_GATEWAY_SEED_H

#include "gateway/supervisor.h"

/* A vmm's word, "seed" (one is to be kept) or "seed-kept" (borrowed). False: it makes no sense. */
bool ft_seed_told(struct ft_supervisor *s, struct ft_child *vmm, const json_t *message);

/* A vmm has ended: what it was writing is thrown away. */
void ft_seed_ended(struct ft_supervisor *s, struct ft_child *vmm);

/* UNIX time of the oldest one that is kept; INT64_MAX: there is none; 0: that cannot be found out. */
int64_t ft_seed_oldest(const struct ft_supervisor *s);

/* Of all guests: {"kept", "skipped", "failed", "removed"} since the gateway started, and what there is, {"files", "bytes", "quota"}; new
 * reference. */
json_t *ft_seed_status(const struct ft_supervisor *s);
/* Of one guest: {"kept", "skipped", "failed"}; new reference. */
json_t *ft_seed_guest_status(const struct ft_child *vmm);

/* Request `verdict-files` of the control socket: where everything is that it takes to make a verdict again. */
void ft_seed_request_files(struct ft_supervisor *s, uint64_t connection, json_t *request);

#endif
