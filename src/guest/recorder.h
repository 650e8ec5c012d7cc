/* The recorder: the vmm's side of a guest's journal. Everything that comes through the machine's one door for non-determinism
 * is put into the ring (journal/ring.h), with the place in the run where it came, and now and then a hash of the
 * machine's state. A scribe, forked before there is a guest, takes it from there.
 *
 * When the ring is full: `hold`, the guest waits until there is room; else the rest is lost, the supervisor is told, and
 * the journal goes on at the next checkpoint.
 *
 * With output commit what the guest sends waits (guest/output.h) for all that led to it to be durable: its inputs, and how far it
 * had run. ft_recorder_commit is the place in the journal to wait for. */
#ifndef FT_GUEST_RECORDER_H
#define FT_GUEST_RECORDER_H

#include <sys/types.h>

#include "base/link.h"
#include "clone/transcript.h"
#include "journal/ring.h"
#include "journal/segment.h"
#include "vmm/machine.h"

#define FT_RECORDER_CHECK_EVERY   20000000u   /* instructions: 12 bytes and a microsecond each */
#define FT_RECORDER_WRITTEN	  100u /* so many checks after each other, one with RAM and disk: a millisecond or two */

struct ft_recorder {
	struct ft_journal_ring ring; /* page NULL: there is no journal */
	struct ft_machine *m;
	struct ft_record_state state;
	bool hold;      /* policy: the guest waits */
	bool commits;   /* output commit */
	bool recording; /* a checkpoint has been put, and nothing was lost since */
	bool lost;      /* to be told */
	bool inside, ran, halted; /* since the last record that is no input inside a run */
	uint64_t check_every, next_check, next_written;
	uint64_t kicked; /* the scribe was woken for what is before this position */
	uint64_t records, gaps;
	pid_t scribe;
	int wake, orders;
	bool stamps;   /* frames that are sent say where they stand in this journal */
	uint32_t run, segment;
	uint64_t sent; /* frames since the segment's checkpoint */
	const struct ft_link_stamp *reference; /* of the frame that is being given to the machine: it is kept by reference; NULL: by value */
	struct ft_record_peer peers[FT_RECORD_PEERS]; /* of this segment */
	unsigned peer_count;
	uint64_t referred, referred_bytes; /* frames that are not in this journal, but in their senders' */
	int done; /* eventfd: what was committed is durable, or cannot be made so */
};

/* What a vmm gets for a journal. */
struct ft_recorder_config {
	int ring; /* borrowed */
	const struct ft_snapshot_seal *seal; /* that it was made with; NULL: it is not encrypted */
	int channel;
	uid_t uid;
	gid_t gid;
	bool hold, commits, stamps;
	uint64_t check_every; /* 0: as above */
	struct ft_segment_header header; /* run, guest and what is known of the machine */
};

/* Maps the ring and forks the scribe: before there is a machine, and before confinement. */
int ft_recorder_open(struct ft_recorder *r, const struct ft_recorder_config *config, struct ft_error *err);
/* What there is is written; waits for the scribe. end: whether the run's end is said, and how it came. */
void ft_recorder_close(struct ft_recorder *r, enum ft_reset end);

/* The machine is about to be saved as checkpoint `number`: its journal begins anew with that, in segment, which is taken over.
 * seal: of both, or NULL. The machine forgets what its engine remembers, as the one that is restored will have. */
int ft_recorder_checkpoint(struct ft_recorder *r, struct ft_machine *m, uint32_t number, int segment,
			   const struct ft_snapshot_seal *seal, struct ft_error *err);

/* A seed of this request is about to be forked, the number-th: put into the journal, with a hash of the machine as it is. The run; 0:
 * there is no journal now, or no room for a request of this size. */
uint32_t ft_recorder_seed(struct ft_recorder *r, const struct ft_request *request, const struct ft_outside_config *outside, uint64_t number);

/* Around each ft_machine_run. wake: as it was filled. */
void ft_recorder_before(struct ft_recorder *r);
void ft_recorder_after(struct ft_recorder *r, enum ft_stop stop, uint64_t wake);

/* Wall time for ft_machine_sync: rounded up to what takes little to remember. */
uint64_t ft_recorder_wall(const struct ft_recorder *r, uint64_t monotonic_ns);

/* The guest sends a frame: where it stands in its journal. False: in none. Called for each frame, whatever becomes of it. */
bool ft_recorder_stamp(struct ft_recorder *r, const void *frame, size_t length, struct ft_link_stamp *stamp);
/* Is this the very frame that the stamp is about, so that it can be referred to (r->reference)? */
bool ft_recorder_refers(const struct ft_recorder *r, const struct ft_link_stamp *stamp, const void *frame, size_t length);

/* Has the guest to wait until there is room? */
bool ft_recorder_full(const struct ft_recorder *r);

/* After a run: that the machine has come so far is recorded, and everything up to there is written at once. The position in the journal
 * that has to be durable (ft_recorder_durable) before anybody may see what the machine did; 0: nothing is recorded any more. */
uint64_t ft_recorder_commit(struct ft_recorder *r);
uint64_t ft_recorder_durable(const struct ft_recorder *r);
/* Nothing is made durable at the moment: the last write or sync failed. */
bool ft_recorder_failing(const struct ft_recorder *r);

#endif
