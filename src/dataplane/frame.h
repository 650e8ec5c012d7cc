/* One Ethernet frame, parsed once: every length and count in it is checked here, and everybody behind this
 * door works with the offsets found. Frames come from strangers.
 *
 * A struct ft_frame only points into the caller's bytes; it is valid as long as those are. Ports and TCP numbers are in host
 * byte order. */
#ifndef FT_DATAPLANE_FRAME_H
#define FT_DATAPLANE_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/address.h"
#include "base/ethernet.h"
#include "base/reason.h"

#define FT_FRAME_HEADER FT_ETHERNET_HEADER
#define FT_FRAME_USUAL  1514u /* largest frame that is no jumbo: 1500 bytes of IP without a VLAN tag */
#define FT_FRAME_MOST   9216u /* largest frame from the port: 9000 bytes of IP, tags, and some room */

/* Most IPv6 extension headers that are looked behind. Real packets have one or two. */
#define FT_FRAME_EXTENSIONS 8u

/* Bytes of a TCP frame without its payload: Ethernet with tags, IP with options or extension headers, TCP with options.
 * Frames with more headers than that are refused where they would have to be copied. */
#define FT_FRAME_HEADERS 512u

#define FT_TCP_FIN 0x01u
#define FT_TCP_SYN 0x02u
#define FT_TCP_RST 0x04u
#define FT_TCP_PSH 0x08u
#define FT_TCP_ACK 0x10u
#define FT_TCP_URG 0x20u

enum ft_frame_kind { FT_FRAME_ARP, FT_FRAME_IPV4, FT_FRAME_IPV6, FT_FRAME_OTHER };

enum ft_frame_checksum {
	FT_CHECKSUM_GOOD,    /* right, or none needed */
	FT_CHECKSUM_PARTIAL, /* the pseudo-header's sum alone: a kernel left the rest to hardware that never
				came */
	FT_CHECKSUM_BAD
};

struct ft_frame {
	const uint8_t *data;
	uint32_t length;
	enum ft_frame_kind kind;
	struct ft_tags tags;
	/* First or later fragment: nothing behind the IP headers was looked at, payload is the piece. An IPv6 fragment
	 * header that says "all of it" (RFC 6946) makes no fragment. */
	bool fragment, more_fragments;
	uint16_t fragment_offset;  /* bytes */
	uint16_t fragment_header;  /* IPv6: offset of the fragment header, also of a whole packet's; 0: none */
	uint32_t identification;   /* of fragments */
	bool extension;   /* IPv6 headers that cannot be looked behind: nothing behind them was looked at */
	bool ipsec;       /* AH or ESP: only who has its keys can look behind it */
	bool transport;   /* protocol is TCP or UDP and the fields below are set */
	uint8_t protocol; /* IP protocol behind all headers, 0 when there is none */
	uint16_t ip;      /* offset of the IP header */
	uint16_t l4;      /* offset behind the IP headers */
	uint32_t payload; /* offset of the payload behind TCP/UDP */
	uint32_t payload_length;
	struct ft_address source, destination;
	uint16_t source_port, destination_port;
	/* TCP */
	uint32_t sequence, acknowledgement;
	uint16_t window;
	uint8_t flags;
	int8_t window_scale; /* -1: no such option */
	bool sack_permitted; /* RFC 2018 section 2 */
	uint16_t timestamp;  /* offset of TSval, 0: no such option */
	/* Options that run over their end, or more than FT_FRAME_HEADERS bytes in front of the payload: none was read. A stack may
	 * take the bytes all the same, so such a segment is nothing for who follows the connection. */
	bool odd_options;
};

/* Parses data (borrowed). 0, or -EPROTO with *why set to FT_REASON_DROP_RUNT, _DROP_MALFORMED, _DROP_CHECKSUM
 * (of the IPv4 header) or, when a frame above FT_FRAME_USUAL was cut by the port, _DROP_OVERSIZE. */
int ft_frame_parse(struct ft_frame *frame, const void *data, size_t length, enum ft_reason *why);

/* Sequence numbers a TCP segment occupies: payload, SYN and FIN. */
uint32_t ft_frame_span(const struct ft_frame *frame);

/* Checksum of the TCP or UDP part. Frames without one are FT_CHECKSUM_GOOD. */
enum ft_frame_checksum ft_frame_checksum(const struct ft_frame *frame);

/* What an ICMP error quotes: the start of a packet that the error's receiver sent. */
struct ft_frame_quote {
	struct ft_address source, destination;
	uint8_t protocol;
	bool ports; /* the quote reaches the ports, and for TCP the sequence number */
	uint16_t source_port, destination_port;
	uint32_t sequence;
};

/* Is the frame an ICMP or ICMPv6 error? *quote says about what; with protocol 0: about nothing that can be told. */
bool ft_frame_is_error(const struct ft_frame *frame, struct ft_frame_quote *quote);

/* Is the ICMP error one that tells of a smaller MTU? */
bool ft_frame_is_too_big(const struct ft_frame *frame);

/* Writes the right IPv4 header checksum and TCP/UDP checksum into data, the bytes frame was parsed from. */
void ft_frame_seal(const struct ft_frame *frame, uint8_t *data);

/* Writes the checksum of an ICMPv6 message (RFC 4443 2.3) that is all there. */
void ft_frame_seal_icmp6(const struct ft_frame *frame, uint8_t *data);

/* What ft_frame_bare changes. */
struct ft_frame_bare {
	uint32_t sequence;
	uint8_t flags;
	bool set_timestamp;
	uint32_t timestamp; /* TSval */
};

/* Copies a TCP frame without its payload into to (frame->payload bytes are enough; without odd_options these are at
 * most FT_FRAME_HEADERS), with other sequence number, flags and timestamp and right checksums. TCP options and
 * everything below are kept. Returns its length. */
size_t ft_frame_bare(const struct ft_frame *frame, const struct ft_frame_bare *change, uint8_t *to);

/* Clears the urgent flag and pointer of a TCP frame in data, the bytes frame was parsed from, and sets the checksum right.
 * False when there was none. */
bool ft_frame_calm(struct ft_frame *frame, uint8_t *data);

/* Copies a TCP frame with the bytes from..end of its payload alone, and with its FIN or without, into to (frame->payload
 * bytes and those): the segment that has these numbers. Parses the copy into slice. */
void ft_frame_slice(const struct ft_frame *frame, uint32_t from, uint32_t end, bool fin, uint8_t *to, struct ft_frame *slice);

/* What ft_frame_refresh changes. */
struct ft_frame_news {
	uint32_t acknowledgement;
	uint16_t window; /* as in the header */
	bool has_timestamp;
	uint32_t timestamp; /* the least TSval */
};

/* A TCP frame that waited, in data, the bytes frame was parsed from: says what its sender has said since about the other
 * direction. SACK blocks, which went with an older acknowledgement, become NOPs. A TSval below the least is raised to it: with
 * an older one than the receiver has seen since it would be discarded (PAWS, RFC 7323 section 5.3). */
void ft_frame_refresh(struct ft_frame *frame, uint8_t *data, const struct ft_frame_news *news);

/* Loads and stores of big-endian fields at any alignment. */
static inline uint16_t ft_load16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

static inline uint32_t ft_load32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static inline void ft_store16(uint8_t *p, uint16_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static inline void ft_store32(uint8_t *p, uint32_t v)
{
	ft_store16(p, (uint16_t)(v >> 16));
	ft_store16(p + 2, (uint16_t)v);
}

#endif
