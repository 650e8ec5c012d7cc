/* Small ledgers for tests: written by the product's writer, checked by the product's verifier, and forged by somebody who has
 * taken the key. */
#ifndef FT_TEST_LEDGER_LOG_H
#define FT_TEST_LEDGER_LOG_H

#include "ledger/writer.h"
#include "verify/directory.h"

#define LOG_ORIGIN "example.com/test-ledger"
#define LOG_DEPTH  3u

/* Opens with depth LOG_DEPTH; fails the test when it cannot. */
struct ft_writer *log_open(const struct ft_io *io, int directory);

/* Appends entry number `number`: its type, time and body are functions of the number. */
int log_append(struct ft_writer *w, uint64_t number);

/* `count` entries from `number` on, then a commit. */
void log_write(struct ft_writer *w, uint64_t number, unsigned count);

/* What the verifier finds. since may be NULL. */
void log_check(int directory, const struct ft_kept *since, struct ft_checked *checked, struct ft_findings *findings);

/* No finding, or the test fails with the first. Returns the signed size. */
uint64_t log_good(int directory);

/* At least one finding that has `words` in it, or the test fails. */
void log_bad(int directory, const struct ft_kept *since, const char *words);

/* The last checkpoint, as somebody would keep it. */
struct ft_kept log_keep(int directory);

/* Writes the log anew into `to` with the key of `from` as it is now: entry `changed` is another, everything behind it is
 * hashed again, and all checkpoints are signed again. Those of epochs that ended before entry `changed` stay genuine. */
void log_forge(int from, int to, uint64_t changed);

/* Copies a file. */
void log_copy(int from, int to, const char *name);

#endif
