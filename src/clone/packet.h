/* An Ethernet frame to or from a guest, taken apart as far as its IP payload: for what plays the outside of a clone and for
 * what is told of frames. Nothing in it is trusted; the parts point into the frame. */
#ifndef FT_CLONE_PACKET_H
#define FT_CLONE_PACKET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/address.h"
#include "base/ethernet.h"

struct ft_packet {
	const uint8_t *frame;
	size_t length;
	struct ft_tags tags;
	size_t ip; /* where the IP header is */
	bool six;
	bool piece; /* a later fragment: no ports in front */
	bool more;  /* a fragment that is not the last */
	uint8_t protocol;
	struct ft_address source, destination;
	const uint8_t *payload; /* behind all IP headers */
	size_t size;
};

/* False when the frame is no IP packet or lies about its lengths. *type: the EtherType, 0 when there is none. */
bool ft_packet_open(struct ft_packet *packet, const uint8_t *frame, size_t length, uint16_t *type);

/* RFC 1071: of a header or an ICMP message, as it is stored when the field was 0. */
uint16_t ft_packet_sum(const uint8_t *p, size_t length);
/* Of TCP, UDP or ICMPv6 at p, over the pseudo header of the IP header ip. */
uint16_t ft_packet_transport_sum(const uint8_t *ip, unsigned protocol, const uint8_t *p, size_t length);

#endif
