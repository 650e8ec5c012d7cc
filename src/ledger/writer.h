/* The ledger's only writer: takes entries, makes them durable in groups, signs the tree they make. The files are described in
 * ledger.md. One thread; ft_writer_commit waits for the disk, nothing else does.
 *
 * What holds, whatever fails and whenever the power goes:
 *   - An index below ft_writer_committed is on disk with a signed checkpoint over it, and stays. Entries are made durable
 *     before the checkpoint that covers them is written, so a checkpoint on disk has all of its entries.
 *   - What is behind the last checkpoint on disk has been promised to nobody. At the next open it is cut off, kept in cut/,
 *     and the cut is an entry: were it taken in, somebody who can write the files while nobody watches could have his
 *     entries signed by us.
 *   - A failed commit has changed nothing that counts; the same entries are written again by the next one. */
#ifndef FT_LEDGER_WRITER_H
#define FT_LEDGER_WRITER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "ledger/entry.h"
#include "ledger/io.h"
#include "ledger/key.h"

#define FT_WRITER_SEGMENT 65536u /* entries of one file: those below one tile of level 1 */

/* An entry of an earlier run, of the newest two segments, while the ledger is opened. */
typedef void ft_writer_seen(void *context, unsigned type, uint64_t time_ns, const char *body, size_t length);

struct ft_writer_config {
	const struct ft_io *io; /* kept */
	int directory;		/* kept; the caller's */
	const char *origin;	/* of a new ledger; an old one has its own */
	unsigned depth;		/* of a new ledger's key, 0: FT_KEY_DEPTH */
	size_t buffer;		/* bytes that may wait for a commit, 0: 16 MiB */
	ft_writer_seen *seen;	/* may be NULL */
	void *context;		/* of seen */
};

struct ft_writer;

/* Opens the ledger in the directory or begins one there, cuts what must be cut and ends what a crash interrupted. -EBADMSG: the
 * files contradict each other or their signatures; nothing is changed then. The caller closes it. */
int ft_writer_open(struct ft_writer **writer, const struct ft_writer_config *config, struct ft_error *err);
void ft_writer_close(struct ft_writer *writer); /* does not commit; NULL is fine */

/* Takes an entry. *index (may be NULL): where it is in the log. -ENOBUFS: commit first; -EMSGSIZE: body longer than
 * FT_ENTRY_BODY. */
int ft_writer_append(struct ft_writer *writer, enum ft_entry_type type, uint64_t time_ns, const char *body, size_t length,
		     uint64_t *index);

/* Makes all that was taken durable, with a checkpoint over it: two times fdatasync, more when a segment is begun. Returns at
 * once when there is nothing. -errno: nothing is promised, call again later. */
int ft_writer_commit(struct ft_writer *writer);

/* Commits and ends the key's epoch: nothing that was signed before can be signed otherwise from here on, not even by us.
 * -ENOKEY: it was the last one and does not end. After another error ft_writer_commit goes on with it; until it succeeds,
 * entries are refused with -ENOBUFS. */
int ft_writer_evolve(struct ft_writer *writer, uint64_t time_ns);

/* Removes the oldest segment, whose hashes stay: an entry says so first. -ENOENT: there is none but the newest. */
int ft_writer_prune(struct ft_writer *writer, uint64_t time_ns);

uint64_t ft_writer_size(const struct ft_writer *writer);      /* entries taken */
uint64_t ft_writer_committed(const struct ft_writer *writer); /* entries durable and signed */
uint64_t ft_writer_bytes(const struct ft_writer *writer);     /* of entries, in files */
uint64_t ft_writer_first(const struct ft_writer *writer);     /* first entry that is not pruned */
uint64_t ft_writer_cut(const struct ft_writer *writer);	      /* bytes that were cut off at open */
const struct ft_key *ft_writer_key(const struct ft_writer *writer);

/* The last entry before this open: 0 in a new ledger, else its type, and *time_ns. */
unsigned ft_writer_last(const struct ft_writer *writer, uint64_t *time_ns);

/* The last checkpoint, a signed note; NULL before the first commit. Valid until the next one. */
const char *ft_writer_checkpoint(const struct ft_writer *writer, size_t *length);

#endif
