/* A server that has been up for a while, as servers have. For two minutes after its boot a guest's clones do what it has not yet done:
 * what it runs every minute or two, and each clone does within its horizon, is translated by each of them, some 2,000 blocks; and
 * what begins some time after a boot is in their horizon: 3.3 to 5 M instructions a trial instead of 1.8. */
#ifndef FT_BENCH_SETTLED_H
#define FT_BENCH_SETTLED_H

#include "../guest/peer.h"

#define SETTLED_S 130 /* the horizon, and some */

/* The value of the only option there is besides: argv[from] "--settle" N; SETTLED_S without it. -1: neither. */
int settled_option(int argc, char **argv, int from);

/* Waits until the guest's services are up, and then for so long. idle: any port of a client's. */
bool settled(struct stand *s, struct peer *idle, uint16_t port, int seconds);

#endif
