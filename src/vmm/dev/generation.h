/* The Virtual Machine Generation ID: 16 bytes that are others in each machine that goes on from an old state, so that a guest
 * knows that what it believes to be unique (random numbers, above all) may be another machine's, too. Microsoft, "Virtual Machine
 * Generation ID"; in Linux drivers/virt/vmgenid.c, which then mixes the ID into its random numbers and reseeds them.
 *
 * The ID lies in memory that the tables name (acpi.c: device VGEN, method ADDR) and that no guest takes for RAM; that it has
 * changed is told by the pulse of an edge-triggered interrupt of an ACPI event device (ACPI 6.4 section 5.6.9), whose method
 * notifies VGEN. So it needs no register and no state besides RAM and interrupt controllers. */
#ifndef FT_VMM_DEV_GENERATION_H
#define FT_VMM_DEV_GENERATION_H

#include "vmm/machine.h"

#define FT_GENERATION_BYTES 16u
#define FT_GENERATION_GSI   5u

/* An input (FT_INPUT_GENERATION): a machine that starts, or starts again elsewhere. Clones keep theirs: they are functions of the
 * state that they are forked from. */
void ft_generation_set(struct ft_machine *m, const uint8_t id[FT_GENERATION_BYTES]);

#endif
