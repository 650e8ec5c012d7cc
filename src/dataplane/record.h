/* The record of a hold for the ledger (src/log/hold.md). */
#ifndef FT_DATAPLANE_RECORD_H
#define FT_DATAPLANE_RECORD_H

#include "dataplane/gate-t.h"

/* Everything but trials, evidence, verdict and disposition. New reference; NULL when there is no memory. */
json_t *ft_record_hold(const struct ft_gate *gate, const struct ft_hold *hold);

/* Hands the held frames to the ledger, as `packets` records. */
void ft_record_packets(struct ft_gate *gate, const struct ft_hold *hold);

#endif
