/* A trial's request as it is kept, so that the trial can be run again: in a guest's journal a record each piece, in the snapshot of a
 * seed one chunk. The pieces are what the dataplane said (base/trial.h), in its order, and what else a clone's run depends on: the
 * outside that it met. Together with the machine's state and what its observer knew (clone/book.h) at the fork they make the run.
 *
 * They are read through the door that takes the dataplane's own words (clone/request.h), for whoever wrote them may have been in the
 * hands of its guest. */
#ifndef FT_CLONE_TRANSCRIPT_H
#define FT_CLONE_TRANSCRIPT_H

#include "base/error.h"
#include "clone/outside.h"
#include "clone/request.h"

/* What pieces there are besides enum ft_trial_kind, little endian, as laid out here. */
enum ft_transcript_kind {
	FT_TRANSCRIPT_OUTSIDE = 1 /* struct ft_transcript_outside; first */
};

struct ft_transcript_outside {
	uint32_t guest_ip, dns_address;
	uint8_t guest_ip6[16];
	uint32_t tcp, reserved;
	uint64_t delay_ns;
};

/* How the machine was made, in the place of a snapshot's `origin` where that is a seed's (snapshot/file.h): no journal says it. */
struct ft_transcript_machine {
	uint8_t mac[6];
	uint16_t mtu;
	uint32_t clock; /* enum ft_clock_mode */
	uint32_t run;   /* of the vmm whose seed it was, 0: none that is known */
};

/* The last piece, in the place of struct ft_trial_go. */
struct ft_transcript_go {
	uint64_t trial;
	uint64_t seed; /* of all seeds of one vmm, from 1 */
};

typedef void ft_transcript_piece(void *context, uint32_t kind, const void *data, size_t length);

/* A whole request, piece by piece. */
void ft_transcript_tell(const struct ft_request *request, const struct ft_outside_config *outside, uint64_t seed,
			ft_transcript_piece *piece, void *context);
/* Bytes of all its pieces; and how many pieces. */
size_t ft_transcript_size(const struct ft_request *request, size_t *pieces);

struct ft_transcript {
	uint64_t wanted; /* seed; 0: any */
	/* What came out: */
	struct ft_outside_config outside;
	bool has_outside;
	uint64_t seed;
	struct ft_request *request; /* whole, of the wanted seed; NULL: not yet. In requests */
	struct ft_requests requests;
};

/* The next piece. 1: the request of the wanted seed is whole now, 0: not yet, -EBADMSG: this is no piece of one (err may be NULL). */
int ft_transcript_take(struct ft_transcript *t, uint32_t kind, const void *data, size_t length, struct ft_error *err);
/* All pieces out of one block, as ft_transcript_pack made it; 0: it is the request of another seed. Of what is refused
 * nothing stays. */
int ft_transcript_take_all(struct ft_transcript *t, const uint8_t *bytes, size_t length, struct ft_error *err);
void ft_transcript_clear(struct ft_transcript *t);

/* The run is of the first `flows` flows alone, at least one: forgets the others. */
void ft_transcript_cut(struct ft_transcript *t, uint32_t flows);

/* A whole request, each piece with u32 kind and u32 length before it. *bytes is the caller's to free; -ENOMEM. */
int ft_transcript_pack(const struct ft_request *request, const struct ft_outside_config *outside, uint64_t seed, uint8_t **bytes,
		       size_t *length);

#endif
