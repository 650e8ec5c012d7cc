/* Signed notes (c2sp.org/signed-note) as far as the ledger makes and reads its own: a text, an empty line, signature lines
 *
 *	— NAME base64(key ID || signature)
 *
 * and the keys that go with them, NAME+HEX+BASE64. A checkpoint (c2sp.org/tlog-checkpoint) is a note whose text is
 *
 *	ORIGIN
 *	SIZE
 *	base64(ROOT)
 *
 * Ours have no extension lines. They carry two signatures under the name ORIGIN, both with the key of the epoch (key.h):
 * an Ed25519 signature (type 0x01), which any C2SP client understands that knows the epoch's key, and an evolving one (type
 * 0xff FT_NOTE_EVOLVING) that proves that key itself to whoever knows the ledger's one public key. Others, as witnesses'
 * cosignatures, may follow. */
#ifndef FT_LEDGER_NOTE_H
#define FT_LEDGER_NOTE_H

#include <stdint.h>

#include "base/error.h"
#include "ledger/hash.h"

#define FT_NOTE_NAME     96u   /* longest key name or origin, without NUL */
#define FT_NOTE_MAX      8192u /* longest note that is read: ours has about 1,100 bytes, each cosignature adds about 150 */
#define FT_NOTE_KEY      512u  /* room for a key as text */
#define FT_NOTE_EVOLVING "foretaste/evolving-ed25519/v1"

enum { FT_NOTE_ED25519 = 0x01, FT_NOTE_COSIGNATURE = 0x04, FT_NOTE_OTHER = 0xff };

/* One level of the tree of epoch keys is 32 bytes of each evolving signature. */
#define FT_NOTE_DEPTH 20u

/* The ledger's public key: the root of the tree of its epochs' public keys. */
struct ft_note_key {
	char name[FT_NOTE_NAME + 1];
	uint8_t depth; /* there are 2^depth epochs; 1..FT_NOTE_DEPTH */
	struct ft_hash root;
};

/* An evolving signature. */
struct ft_note_evolving {
	uint32_t epoch;
	uint8_t public[32];
	struct ft_hash path[FT_NOTE_DEPTH]; /* siblings, leaf's first; `depth` of them */
	uint8_t signature[64];		    /* Ed25519 of the note's text */
};

struct ft_checkpoint {
	char origin[FT_NOTE_NAME + 1];
	uint64_t size;
	struct ft_hash root;
};

/* Non-empty, no space, control character or plus, plain ASCII (stricter than the C2SP text), at most FT_NOTE_NAME. */
int ft_note_name_ok(const char *name);

/* SHA-256(name || "\n" || type || public)[:4]; identifier is what follows the type byte 0xff, else NULL. */
void ft_note_key_id(uint8_t id[4], const char *name, uint8_t type, const char *identifier, const void *public, size_t length);

/* The key as text, without a newline; and back: -EINVAL. */
void ft_note_key_format(const struct ft_note_key *key, char text[FT_NOTE_KEY]);
int ft_note_key_parse(struct ft_note_key *key, const char *text, size_t length);

/* Text of a checkpoint; returns its length. */
size_t ft_checkpoint_text(const struct ft_checkpoint *checkpoint, char text[FT_NOTE_MAX]);

/* The text with both signatures: a whole note. Returns its length. */
size_t ft_checkpoint_note(const struct ft_checkpoint *checkpoint, const struct ft_note_key *key,
			  const struct ft_note_evolving *signature, char note[FT_NOTE_MAX]);

/* Reads a note of `length` bytes and checks both of our signatures against key. -EINVAL: no checkpoint; -EBADMSG: one that
 * key has not signed. *signature may be NULL. */
int ft_checkpoint_open(const char *note, size_t length, const struct ft_note_key *key, struct ft_checkpoint *checkpoint,
		       struct ft_note_evolving *signature);

/* Length of the first note in a sequence of notes, each followed by an empty line (which is not counted); 0 when there is no
 * whole one. */
size_t ft_note_first(const char *notes, size_t length);

#endif
