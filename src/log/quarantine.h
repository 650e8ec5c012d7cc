/* The quarantine: the packets of dropped holds as pcap files, hold-17-http.pcap (http: the service), in one directory.
 *
 * A file appears under its name only when it is whole (written under another name, then renamed). Quota: when a new file
 * does not fit, the oldest are removed first, because the attack that is going on is the one somebody will look at; each
 * removal is counted. A file that is larger than the whole quota is refused. A service may have a share: what is beyond it
 * costs its own oldest files, so that a flood at one service leaves what was kept of the others.
 *
 * The packets come from the dataplane, which may lie: numbers, sizes and order are checked, and what waits for its last
 * part is bounded. */
#ifndef FT_LOG_QUARANTINE_H
#define FT_LOG_QUARANTINE_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define FT_QUARANTINE_OPEN  64u           /* holds whose packets are not complete yet */
#define FT_QUARANTINE_BYTES (32ull << 20) /* of them together, in memory */
#define FT_QUARANTINE_FRAME 65535u        /* bytes of one frame */
#define FT_QUARANTINE_NAME  64u

/* A kept file. */
struct ft_quarantined {
	char name[FT_QUARANTINE_NAME];
	char sha256[65]; /* of the file */
	uint64_t size;
};

struct ft_quarantine;

/* directory stays the caller's. quota in bytes, 0: none. Looks at what the directory holds already and removes what an
 * interrupted write left. */
int ft_quarantine_open(struct ft_quarantine **quarantine, int directory, uint64_t quota,
		       struct ft_error *err);
void ft_quarantine_close(struct ft_quarantine *quarantine);

/* shares: {SERVICE: bytes}, may be NULL; what is beyond a smaller one goes with the next file. */
void ft_quarantine_shares(struct ft_quarantine *quarantine, uint64_t quota, const json_t *shares);

/* One `packets` record. -EINVAL when it is not what it should be (what had come of that hold is forgotten), -ENOBUFS
 * when too many holds are incomplete, -errno when the file could not be written. */
int ft_quarantine_packets(struct ft_quarantine *quarantine, const json_t *message, struct ft_error *err);

/* The file of a hold whose last packets have come, handed out once: 1 and *file, or 0. */
int ft_quarantine_take(struct ft_quarantine *quarantine, uint64_t hold, struct ft_quarantined *file);

/* {"files", "bytes", "quota", "removed", "failed", "services": {NAME: {"bytes", "share", "removed"}}}; new reference. */
json_t *ft_quarantine_status(const struct ft_quarantine *quarantine);

#endif
