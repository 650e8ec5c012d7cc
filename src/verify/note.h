/* Signed notes and keys for whoever checks (c2sp.org/signed-note, tlog-checkpoint, tlog-cosignature), and the evolving
 * signature that src/ledger/ledger.md describes. Everything here comes from outside and is refused unless it is exactly as
 * described. */
#ifndef FT_VERIFY_NOTE_H
#define FT_VERIFY_NOTE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ledger/hash.h"

#define FT_SEEN_NAME 128u
#define FT_SEEN_NOTE (64u << 10) /* longest note that is looked at */

/* A public key, by what it may sign. */
enum ft_seen_kind { FT_SEEN_LOG, FT_SEEN_WITNESS };

struct ft_seen_key {
	enum ft_seen_kind kind;
	char name[FT_SEEN_NAME + 1];
	uint8_t id[4];
	unsigned depth; /* of a log's tree of epochs */
	uint8_t bytes[32]; /* the root of that tree; a witness' Ed25519 key */
};

/* A checkpoint whose log signatures are good. */
struct ft_seen {
	uint64_t size;
	struct ft_hash root;
	uint32_t epoch;
	bool witnessed;	    /* the witness that was asked for has cosigned it */
	uint64_t witnessed_at; /* seconds since 1970 */
};

/* NAME+HEX+BASE64 without a newline. False: it is no such key. */
bool ft_seen_key_parse(struct ft_seen_key *key, const char *text, size_t length);

/* Opens a note. NULL when it is good, else why not. witness may be NULL; a cosignature of its that is wrong is an error, one
 * that is not there is none. */
const char *ft_seen_open(struct ft_seen *seen, const char *note, size_t length, const struct ft_seen_key *log,
			 const struct ft_seen_key *witness);

/* Length of the first of several notes, each followed by an empty line, which is not counted; 0: there is no whole one. */
size_t ft_seen_first(const char *notes, size_t length);

/* Decimal without leading zeroes, below 2^63. */
bool ft_seen_number(const char *text, size_t length, uint64_t *number);

/* Canonical base64 of at most `room` bytes: how many they are, or -1. */
long ft_seen_decode(const char *text, size_t length, void *bytes, size_t room);

/* The same of exactly `size` bytes. */
bool ft_seen_base64(const char *text, size_t length, void *bytes, size_t size);

#endif
