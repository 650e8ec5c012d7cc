/* Cuts a datagram that was put together from fragments (dataplane/reassembly.h) to what a guest's MTU takes. A pure function
 * of frame and MTU: the clone that tries a datagram and the live guest get the same pieces. */
#ifndef FT_DATAPLANE_CUT_H
#define FT_DATAPLANE_CUT_H

#include "dataplane/frame.h"

/* Most pieces of one frame: FT_FRAME_MOST in the smallest MTU. */
#define FT_CUT_PIECES 8u

/* Into how many frames with IP packets of at most mtu bytes the frame is cut. 1: it fits as it is. 0: it must not be cut, or
 * not into that many. */
unsigned ft_cut_pieces(const void *data, size_t length, uint32_t mtu);

/* Writes piece number n, which is at most mtu bytes behind an Ethernet header; returns its length. Only for frames that
 * ft_cut_pieces gives more than one for. */
size_t ft_cut_piece(const void *data, size_t length, uint32_t mtu, unsigned n, uint8_t *to);

#endif
