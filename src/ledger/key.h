/* The ledger's signing key, which evolves: whoever takes it learns how to sign from now on, and nothing of how to sign what was
 * signed before (forward security).
 *
 * There are 2^depth epochs. Epoch 0 has a random seed; the next epoch's seed is SHA-256("foretaste next" || seed), the
 * Ed25519 key of an epoch is made from SHA-256("foretaste key" || seed). All public keys are computed once, when the key is
 * made: they are the leaves of a Merkle tree (RFC 6962) whose root is the one public key that people keep. A signature names
 * its epoch and carries the epoch's public key with its path to that root, so the same public key verifies every epoch.
 * After an epoch its seed is forgotten, in memory and on disk (overwritten in place before it is removed: what a file
 * system or an SSD keeps of it is beyond us).
 *
 * Files: `secret/key` (epoch and seed; the directory is readable by the ledger alone) and `keys` (all public keys).
 * The last epoch does not end. */
#ifndef FT_LEDGER_KEY_H
#define FT_LEDGER_KEY_H

#include <stdint.h>

#include "base/error.h"
#include "ledger/io.h"
#include "ledger/note.h"

/* 4,096 epochs: more than a year and a half of four hours each. Making them takes 0.1 to 0.4 s. */
#define FT_KEY_DEPTH 12u

struct ft_key;

/* Makes a new key in the directory; there must be none. origin: ft_note_name_ok. */
int ft_key_make(const struct ft_io *io, int directory, const char *origin, unsigned depth, struct ft_error *err);

/* Loads the key of the directory. -ENOENT: there is none. -EBADMSG: its files do not fit each other. The caller frees it. */
int ft_key_load(struct ft_key **key, int directory, struct ft_error *err);
void ft_key_free(struct ft_key *key); /* wipes the secret; NULL is fine */

const struct ft_note_key *ft_key_public(const struct ft_key *key);
uint32_t ft_key_epoch(const struct ft_key *key);
uint32_t ft_key_epochs(const struct ft_key *key); /* how many there are */

/* Signs a text with the key of this epoch. */
void ft_key_sign(const struct ft_key *key, const void *text, size_t length, struct ft_note_evolving *signature);

/* Goes on to the next epoch, on disk first. -ENOKEY: this is the last one. After another error the key in memory is as it was,
 * while the one on disk may be the next already: nothing may be signed before the same call has succeeded. */
int ft_key_evolve(struct ft_key *key, const struct ft_io *io, int directory);

#endif
