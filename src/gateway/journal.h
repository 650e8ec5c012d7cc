/* Guests' journals, as the supervisor sees them: files in `journal/GUEST` of the state directory (journal/reader.h has their
 * names). It opens them for the vmm, asks for a checkpoint every so often, hands the hashes of chunks and checkpoints on to
 * the ledger, and removes what is too old or too much. It reads nothing of what a vmm wrote but lengths. */
#ifndef FT_GATEWAY_JOURNAL_H
#define FT_GATEWAY_JOURNAL_H

#include "gateway/supervisor.h"

#define FT_JOURNAL_FILES 3 /* ring, segment, checkpoint */

/* A vmm is about to start. 0: it has a journal, and part gets "journal"; 1: it is not to have one; -errno: it could have none,
 * and whether it starts all the same is the policy's to say (journal.on_failure: hold). fds are the caller's. */
int ft_journal_start(struct ft_supervisor *s, struct ft_child *vmm, json_t *part, int fds[FT_JOURNAL_FILES], struct ft_error *err);

/* A vmm's word about it: "checkpoint" or "journal" (borrowed). false: it has none. */
bool ft_journal_told(struct ft_supervisor *s, struct ft_child *vmm, const json_t *message);

/* A vmm has ended: what was left in its ring goes into the ledger by its hash. */
void ft_journal_ended(struct ft_supervisor *s, struct ft_child *vmm);

/* What is known of a guest's journal, for its status; NULL: it never had one. A new reference. */
json_t *ft_journal_json(const struct ft_supervisor *s, const struct ft_child *vmm);

/* Checkpoints that are due. When to call it next. */
uint64_t ft_journal_serve(struct ft_supervisor *s, uint64_t now);

/* UNIX time of the oldest checkpoint or segment that there is, of any guest, also of those that are none any more; INT64_MAX: there is
 * none; 0: that cannot be found out. */
int64_t ft_journal_oldest(const struct ft_supervisor *s);

/* What it takes to replay a guest: where its journal, its disk and its key are, and those of others that it may refer to. New reference. */
json_t *ft_journal_files(const struct ft_supervisor *s, const struct ft_child *vmm);

/* Request `journal-files` of the control socket: where a guest's journal and disk are. */
void ft_journal_request_files(struct ft_supervisor *s, uint64_t connection, json_t *request);

#endif
