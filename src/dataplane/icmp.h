/* ICMP and ICMPv6 errors about connections of inspected services. They carry no input for the service, but they can end a
 * connection or slow it down, so they pass only if they can be about a packet that the guest has really sent:
 *
 *  - "packet too big" / "fragmentation needed" pass, also while the flow is held: path MTU discovery has to go on, or the
 *    guest's answer never arrives
 *  - every other error is dropped while the flow is held: its sender is not gone, it waits for us, and a stack that takes
 *    an unreachable at its word would end a connection whose input is being tried. An error that stays true comes again
 *  - on a flow that is not held they pass
 *  - about a flow that does not exist, or with a sequence number that is not under way (RFC 5927 section 4), and errors that
 *    do not say what they are about: dropped
 *
 * Services that only observe, and what is no service, get all of them. */
#ifndef FT_DATAPLANE_ICMP_H
#define FT_DATAPLANE_ICMP_H

#include "dataplane/gate-t.h"

/* frame: an error that quotes this. FT_REASON_COUNT: it is not about an inspected service; else the reason to pass or drop it
 * under. */
enum ft_reason ft_icmp_judge(const struct ft_gate *gate, const struct ft_guest *guest,
			     const struct ft_frame *frame, const struct ft_frame_quote *quote);

#endif
