/* Who has which link address: the questions and answers of ARP (RFC 826) and of IPv6's neighbour discovery (RFC 4861), read and
 * made. Pure functions. Frames with VLAN tags are none of these here. */
#ifndef FT_DATAPLANE_NEIGHBOUR_H
#define FT_DATAPLANE_NEIGHBOUR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "dataplane/frame.h"

/* At most: Ethernet, IPv6, solicitation or advertisement with one option. */
#define FT_NEIGHBOUR_LENGTH (FT_FRAME_HEADER + 40u + 32u)

struct ft_neighbour {
	bool answer;              /* else a question */
	struct ft_address about;  /* whose link address is asked for or told */
	struct ft_address from;   /* IPv6: unspecified where the sender only asks whether an address is free (RFC 4862 5.4) */
	struct ft_address to;     /* of an answer: who had asked; unspecified: everybody */
};

/* frame: parsed. False: it is no such question or answer, or one that its receiver has to ignore (RFC 4861 7.1). Checksums and
 * options are not looked at. */
bool ft_neighbour_read(const struct ft_frame *frame, struct ft_neighbour *neighbour);

/* Makes one; `to` of a question does not matter. mac: link address of the sender, which an answer tells. mac_to: of the receiver,
 * also of a question: it is asked whether it is still there. Returns the frame's length. */
size_t ft_neighbour_make(const struct ft_neighbour *neighbour, const uint8_t mac[6], const uint8_t mac_to[6],
			 uint8_t frame[FT_NEIGHBOUR_LENGTH]);

#endif
