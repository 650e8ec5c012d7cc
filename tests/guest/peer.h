/* A client on the other side of the link: enough ARP and TCP to talk to one port of the guest, every frame under the
 * test's control. */
#ifndef TESTS_GUEST_PEER_H
#define TESTS_GUEST_PEER_H

#include "stand.h"

struct peer {
	struct stand *stand;
	uint8_t mac[6], guest_mac[6];
	uint32_t ip, guest_ip; /* host byte order */
	uint16_t port, guest_port;
	uint32_t sequence;     /* our next byte */
	uint32_t acknowledged; /* what the guest has of ours */
	uint32_t received_to;  /* what we have of the guest's */
	bool established, reset, finished;
	char *bytes; /* what the guest sent; owned */
	size_t length;
	uint64_t frames; /* seen from the guest, of any kind */
};

void peer_open(struct peer *p, struct stand *s, uint16_t port);
void peer_close(struct peer *p);

/* Takes what the guest sends for at most timeout_ms, until done(p) if it is not NULL. */
bool peer_run(struct peer *p, int timeout_ms, bool (*done)(const struct peer *));
void peer_meanwhile(void *peer); /* for stand_*: looks once */

bool peer_connect(struct peer *p);
void peer_syn(struct peer *p, struct stand_frame *frame); /* what that begins with, not sent */

/* The next data segment, not sent. The sender's state moves on. */
void peer_segment(struct peer *p, const void *bytes, size_t length, struct stand_frame *frame);
void peer_put(struct peer *p, const struct stand_frame *frame);

/* One request to the live guest and its whole answer (the guest closes). False: no answer. */
bool peer_get(struct stand *s, uint16_t port, const char *path);

/* The flow as a trial wants to know it: `frames` frames hold `bytes` bytes that begin at sequence from. */
struct ft_trial_flow peer_flow(const struct peer *p, uint32_t from, uint32_t bytes, uint32_t frames);

#endif
