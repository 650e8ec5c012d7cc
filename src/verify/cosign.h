/* Cosignatures (c2sp.org/tlog-cosignature, Ed25519): a witness that has verified a ledger says so under its last checkpoint, and
 * whoever has that statement can later show that the ledger was not truncated, rolled back or forked.
 *
 * A witness' secret is one line, PRIVATE+KEY+NAME+HEX+BASE64 of (0x04 || seed), as Go's note package writes them. */
#ifndef FT_VERIFY_COSIGN_H
#define FT_VERIFY_COSIGN_H

#include <stddef.h>
#include <stdio.h>

/* Makes a witness: its secret to `secret`, its public key to `public`. -EINVAL: no name for a witness. */
int ft_cosign_make(const char *name, FILE *secret, FILE *public);

/* Writes the note with one more signature line, made now with the secret in `file`. -errno. */
int ft_cosign(const char *file, const char *note, size_t length, FILE *out);

#endif
