/* Guests that talked to each other, replayed beside each other in one process: what one's journal has by reference is what another one's
 * replay sends. Each runs as far as somebody needs it, never further: a frame that came was sent before, so what a peer in turn needs of
 * whoever asks it is there already.
 *
 * Their journals may come from anybody, and lie about each other. */
#ifndef FT_REPLAY_PEERS_H
#define FT_REPLAY_PEERS_H

#include "replay/directory.h"
#include "replay/replay.h"

#define FT_REPLAY_PEERS	     16u	     /* lives of guests, the one that is replayed included */
#define FT_REPLAY_PEER_BYTES (256ull << 20) /* of frames that a guest sent and nobody has asked for yet: the oldest go */

struct ft_replay_sent {
	uint32_t segment, length;
	uint64_t number;
	uint8_t bytes[];
};

struct ft_replay_peer {
	struct ft_replay_peers *peers;
	char guest[32];
	uint32_t run;
	bool main, restored, busy; /* main: the one that is replayed, by whoever calls; busy: it is running, or waits for another one */
	int checkpoint; /* -1: none */
	struct ft_journal journal;
	struct ft_replay own, *replay;
	struct ft_error error;
	struct ft_snapshot_seal seal;
	struct ft_replay_sent **sent; /* first..end) */
	size_t first, end, room;
	uint64_t bytes;
};

struct ft_replay_peers {
	struct ft_replay_peer list[FT_REPLAY_PEERS];
	unsigned count;
	uint64_t frames, frame_bytes; /* that came from a peer's replay */
};

/* The one that is replayed. Its callbacks stay the caller's: ft_replay_peers_sent for each frame. */
void ft_replay_peers_main(struct ft_replay_peers *peers, struct ft_replay *replay);
/* A guest whose journal is in this directory, and what its disk was made of (-1: it has none): all of its lives at that time and since.
 * Everything that needs a file or executable memory. -ENOENT: there is none. key: the operator's, or NULL. */
int ft_replay_peers_add(struct ft_replay_peers *peers, const char *directory, uint64_t wall_ns, int disk, const uint8_t *key, struct ft_error *err);
void ft_replay_peers_sent(struct ft_replay_peers *peers, const struct ft_replay *replay, const void *frame, size_t length);
void ft_replay_peers_close(struct ft_replay_peers *peers);

#endif
