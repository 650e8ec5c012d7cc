/* Fragments of datagrams that may be for an inspected service, kept until the datagram is whole (rte_ip_frag does the
 * putting together). What an inspected service's guest gets is the whole datagram, cut anew where it is larger than the
 * guest's MTU (dataplane/cut.h): never a sender's own fragments, so that nobody's overlaps, orders or gaps are judged by two
 * stacks in two ways, and what is held, recorded and tried is one datagram. Its identification is a new one that no sender
 * can choose: what a guest may still keep of a datagram that it lost a piece of fits no other.
 *
 * Limits: datagrams at one time, of them one source's (an IPv4 address or an IPv6 /64), bytes of all, fragments and bytes of
 * one datagram, and time. A datagram with overlapping fragments is given up whole, with what still comes of it (RFC 5722,
 * here for IPv4 as well); so is one that breaks a limit. */
#ifndef FT_DATAPLANE_REASSEMBLY_H
#define FT_DATAPLANE_REASSEMBLY_H

#include "base/error.h"
#include "dataplane/frame.h"

#define FT_REASSEMBLY_DATAGRAMS  128u
#define FT_REASSEMBLY_SOURCE     16u          /* datagrams of one source */
#define FT_REASSEMBLY_BYTES      (768u << 10) /* frames kept, all together */
#define FT_REASSEMBLY_FRAGMENTS  8u           /* of one datagram: what rte_ip_frag is built for */
#define FT_REASSEMBLY_NS         5000000000ull

struct ft_reassembly;

/* One frame as it came. */
struct ft_fragment {
	uint32_t length;
	uint8_t *data;
};

struct ft_datagram {
	uint8_t *data; /* the whole, with right lengths; checksums of TCP and UDP as the sender made them */
	size_t length;
	/* What it was made of, in the order in which it came, for who is to get it unchanged. */
	struct ft_fragment list[FT_REASSEMBLY_FRAGMENTS];
	unsigned count;
};

/* Needs a started EAL. */
int ft_reassembly_new(struct ft_reassembly **reassembly, struct ft_error *err);
void ft_reassembly_free(struct ft_reassembly *reassembly);

/* Takes a fragment (frame->fragment) for the guest of that index. Returns FT_REASON_COUNT when it made a datagram whole: *datagram is filled, valid until
 * the next call with this reassembly. Else the reason under which this fragment is counted: FT_REASON_HOLD_FRAGMENT (kept)
 * or why it was dropped; *lost is how many kept fragments were given up with it, for the same reason. */
enum ft_reason ft_reassembly_take(struct ft_reassembly *reassembly, uint8_t guest, const struct ft_frame *frame,
				  uint64_t now, struct ft_datagram *datagram, unsigned *lost);

/* Gives a datagram that is to be cut a new identification in data, the bytes frame was parsed from: see above. */
void ft_reassembly_rename(struct ft_reassembly *reassembly, const struct ft_frame *frame, uint8_t *data);

/* Gives up what has waited too long; returns how many fragments. */
unsigned ft_reassembly_expire(struct ft_reassembly *reassembly, uint64_t now);

/* Datagrams being put together. */
unsigned ft_reassembly_count(const struct ft_reassembly *reassembly);

#endif
