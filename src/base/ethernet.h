/* The Ethernet header of a frame with its VLAN tags (802.1Q, 802.1ad). Both sides of the link read frames, so it lives here. */
#ifndef FT_BASE_ETHERNET_H
#define FT_BASE_ETHERNET_H

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define FT_ETHERNET_HEADER 14u
#define FT_ETHERNET_TAGS   2u /* 802.1ad allows two; more is somebody hiding something */
#define FT_ETHERNET_MOST   (FT_ETHERNET_HEADER + 4 * FT_ETHERNET_TAGS)

/* Which VLANs a frame is in, outermost first, 0 behind the last: VLAN number, with FT_TAG_SERVICE set for an 802.1ad tag.
 * Number 0 names no VLAN, only a priority: who receives such a tag takes it off (802.1Q 6.9), so frames with and without
 * it are of the same flow and it is not listed here. */
struct ft_tags {
	uint16_t list[FT_ETHERNET_TAGS];
};

#define FT_TAG_SERVICE 0x8000u

/* *tags and *type are set. Returns the length of the header, or -EMSGSIZE (shorter than its headers) or -EPROTO (too many
 * tags). */
static inline int ft_ethernet_open(const uint8_t *frame, size_t length, struct ft_tags *tags, uint16_t *type)
{
	size_t at = 12;
	unsigned named = 0;
	memset(tags, 0, sizeof(*tags));
	for (unsigned count = 0;; count++, at += 4) {
		if (length < at + 2)
			return -EMSGSIZE;
		*type = (uint16_t)(frame[at] << 8 | frame[at + 1]);
		if (*type != 0x8100 && *type != 0x88a8)
			return (int)at + 2;
		if (count == FT_ETHERNET_TAGS)
			return -EPROTO;
		if (length < at + 6)
			return -EMSGSIZE;
		uint16_t number = (uint16_t)((frame[at + 2] << 8 | frame[at + 3]) & 0xfff);
		if (number)
			tags->list[named++] = (uint16_t)(number | (*type == 0x88a8 ? FT_TAG_SERVICE : 0));
	}
}

#endif
