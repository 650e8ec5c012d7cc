/* One entry of the ledger, the bytes that are a leaf of its tree:
 *
 *	type (1 byte) || wall clock, nanoseconds since 1970 (8 bytes, big-endian) || body
 *
 * The body is a JSON object for people and programs; what is longer than an entry may be is in it by its SHA-256. The types
 * are one table, from which names and manual come. X(NAME, number, "name", "what it says") */
#ifndef FT_LEDGER_ENTRY_H
#define FT_LEDGER_ENTRY_H

#include <stddef.h>
#include <stdint.h>

/* tlog-tiles gives an entry 16 bits of length. */
#define FT_ENTRY_MAX	65535u
#define FT_ENTRY_HEADER 9u
#define FT_ENTRY_BODY	(FT_ENTRY_MAX - FT_ENTRY_HEADER)

#define FT_ENTRIES(X)                                                                                                \
	X(START, 1, "start", "the ledger's process begins: version, host's boot id")                                 \
	X(STOP, 2, "stop", "it ends as it was told to")                                                              \
	X(CONFIG, 3, "config", "SHA-256 of the effective configuration, from here on in force")                      \
	X(HOLD, 4, "hold", "input was held: guest, service, flow, why, SHA-256 of the input")                        \
	X(EVIDENCE, 5, "evidence", "SHA-256 of the whole record of a hold, as the feed has it")                       \
	X(DECIDED, 6, "decided", "what will be done with held input; durable before it is done")                     \
	X(DONE, 7, "done", "what was done: frames handed over")                                                      \
	X(UNKNOWN, 8, "unknown", "a decision whose outcome nobody recorded: the gateway died in between")            \
	X(OPERATOR, 9, "operator", "an operator did something: what, and who")                                       \
	X(COUNTS, 10, "counts", "clones, holds and records so far")                                                  \
	X(JOURNAL, 11, "journal", "BLAKE2b-256 of a guest's journal: a chunk, chained to the one before; a checkpoint; a ring")                                         \
	X(EVENT, 12, "event", "anything else of consequence: guests up and down, processes restarted")               \
	X(ERROR, 13, "error", "something failed")                                                                    \
	X(LOSS, 14, "loss", "entries that could not be taken, and how many")                                         \
	X(GAP, 15, "gap", "the ledger was away: from when to when")                                                  \
	X(CUT, 16, "cut", "an unsigned end was cut off at start: how much, its SHA-256, where it is kept")           \
	X(PRUNED, 17, "pruned", "the oldest entries were removed for the quota: which; their hashes stay")           \
	X(EPOCH, 18, "epoch", "the last entry of a key's epoch: nothing before it can be signed any more")           \
	X(FINDING, 19, "finding", "a correlation rule's finding about a live guest")

enum ft_entry_type {
#define X(name, number, text, says) FT_ENTRY_##name = number,
	FT_ENTRIES(X)
#undef X
};

/* "start", ...; "unknown type" for numbers that are none. */
const char *ft_entry_name(unsigned type);

#endif
