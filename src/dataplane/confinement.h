/* The dataplane's seccomp allow-list. */
#ifndef FT_DATAPLANE_CONFINEMENT_H
#define FT_DATAPLANE_CONFINEMENT_H

#include "base/error.h"

/* After the port is open and the gate is made; on all threads, DPDK's included. */
int ft_confinement_install(struct ft_error *err);

#endif
