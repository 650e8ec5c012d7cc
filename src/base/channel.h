/* Control messages between our own processes: one JSON object a datagram over a SOCK_SEQPACKET socket, with
 * descriptors beside it. The supervisor holds one end, each of its children has the other as descriptor
 * FT_CHANNEL_FD. A child may be under a guest's control: what it says is bounded here and checked by the reader.
 *
 * Every message is {"op": "...", ...}. The operations are listed in src/gateway/protocol.md. */
#ifndef FT_BASE_CHANNEL_H
#define FT_BASE_CHANNEL_H

#include <jansson.h>

#define FT_CHANNEL_FD      3
#define FT_CHANNEL_MESSAGE (128u << 10) /* bytes of JSON */
#define FT_CHANNEL_FDS     16           /* descriptors beside one message */

/* Sends message (borrowed) with count descriptors (stay the caller's). 0 or -errno (-EAGAIN: full and non-blocking,
 * -EMSGSIZE, -EPIPE). Never raises SIGPIPE. */
int ft_channel_send(int fd, json_t *message, const int *fds, int count);

/* Receives one message. *message is a new reference to a JSON object; fds gets the descriptors (close-on-exec, the
 * caller's), *count says how many; the rest of fds is -1. 0, -EAGAIN, -EPIPE at the end, -EPROTO when it is no JSON
 * object (received descriptors are closed) and -EMSGSIZE when it was cut. */
int ft_channel_receive(int fd, json_t **message, int fds[FT_CHANNEL_FDS], int *count);

#endif
