/* Who is where: the forwarding table of the guests, fixed at the start. A guest is on one uplink and there in one VLAN,
 * or it is a trunk and sees all tags as they are; its MAC address tells it from others of the same VLAN. A guest without
 * one takes everything, and so is alone in its VLAN. */
#ifndef FT_DATAPLANE_FDB_H
#define FT_DATAPLANE_FDB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "dataplane/gate.h"

#define FT_FDB_UNTAGGED 0u
#define FT_FDB_VLANS    4094u  /* the largest number of a VLAN */
#define FT_FDB_TRUNK    0xfffu /* IEEE 802.1Q reserves it, so no frame has it */

struct ft_fdb {
	uint64_t places[FT_GATE_GUESTS]; /* uplink, VLAN and MAC of each guest in one word */
	unsigned count;
	bool special; /* there is a trunk, or a guest without MAC */
};

/* Adds the next guest; mac NULL: none. 0, or -EINVAL with the contradiction in err. */
int ft_fdb_add(struct ft_fdb *fdb, unsigned uplink, unsigned vlan, const uint8_t *mac, struct ft_error *err);

/* The guest that a frame to this single MAC is for, or -1. */
int ft_fdb_find(const struct ft_fdb *fdb, unsigned uplink, unsigned vlan, const uint8_t *mac);

/* Does this guest get the group frames of that VLAN? */
bool ft_fdb_member(const struct ft_fdb *fdb, unsigned guest, unsigned uplink, unsigned vlan);

/* The VLAN of a frame of at least 14 bytes. Stacked tags and 802.1ad are for trunks alone: FT_FDB_TRUNK. */
unsigned ft_fdb_vlan(const uint8_t *frame, size_t length);

/* Takes a 802.1Q tag out of a frame, if it has one, and returns where it begins now. */
uint8_t *ft_fdb_untag(uint8_t *frame, size_t *length);

/* Puts the tag of a VLAN into a frame; there are 4 writable bytes before it. Returns where it begins now. */
uint8_t *ft_fdb_tag(uint8_t *frame, size_t *length, unsigned vlan);

#endif
