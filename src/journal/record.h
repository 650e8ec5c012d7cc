/* One record of a journal: an input of the machine, or what a replay needs to know besides, and where in the machine's run it
 * belongs. As bytes: journal.md. The bytes that a guest's input consists of travel apart from everything else (payload and
 * control), since they compress apart.
 *
 * Decoding is the one door for journals from elsewhere: whoever has a record from here has one that is possible. */
#ifndef FT_JOURNAL_RECORD_H
#define FT_JOURNAL_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "vmm/machine.h"

/* A recorded machine runs in slices of so many instructions, and may be given something between two of them. A replay stops
 * where the recorded machine did: what an engine remembers of page tables depends on it (vmm/engine.h). */
#define FT_RECORD_SLICE 200000u

/* ns: the clock of a recorded machine is set to multiples of this, which takes a byte less each time. */
#define FT_RECORD_CLOCK_UNIT 1024u

enum ft_record_kind {
	/* 0 to 7: enum ft_input_kind */
	FT_RECORD_PEER = 8,        /* value: a number; data: struct ft_record_peer, which it stands for from here on */
	FT_RECORD_FRAME_FROM,      /* an FT_INPUT_FRAME that is in that peer's journal: peer, value: its number among the frames that it sent
				      since that checkpoint; data: 4 bytes of the frame's hash, XXH3 */
	FT_RECORD_CHECK = 10,      /* 32 bits over all of the machine but RAM and disk, and 4 bits a component */
	FT_RECORD_CHECK_WRITTEN,   /* 32 bits a component; RAM and disk: what was written since the last one of these */
	FT_RECORD_STOP,            /* the machine stopped here and went on without an input */
	FT_RECORD_END,             /* value: enum ft_reset; the guest was reset, or (0) the machine was ended in order */
	FT_RECORD_CHECKPOINT,      /* value: its number. First in its segment; icount is absolute here */
	FT_RECORD_TRIAL,           /* value: kind of a piece of a trial's request (clone/transcript.h); data: the piece. Its seed was
				      forked where the last piece is */
	FT_RECORD_KINDS
};

enum ft_record_where {
	FT_WHERE_SAME,   /* at the same place as the record before: the machine has not run between them */
	FT_WHERE_SLICE,  /* one slice on */
	FT_WHERE_HALT,   /* where the machine was next without anything to run */
	FT_WHERE_COUNT,  /* at this instruction count, after whole slices and a part of one */
	FT_WHERE_INSIDE, /* within a run, at this count: the machine asked for it */
	FT_WHERES
};

#define FT_CHECK_BYTES         (4u + (FT_COMPONENT_LIGHT + 1u) / 2)
#define FT_CHECK_WRITTEN_BYTES (4u * FT_COMPONENT_COUNT)

/* Another guest that is recorded, and a segment of its journal. */
struct ft_record_peer {
	uint32_t run, segment;
	char guest[32];
};

#define FT_RECORD_PEERS 64u /* numbers of peers */

struct ft_record {
	uint8_t kind, where;
	uint8_t peer; /* of FT_RECORD_FRAME_FROM */
	uint64_t icount;
	uint64_t value;
	const uint8_t *data; /* of an input its bytes, of a check the hashes; borrowed from what was decoded */
	uint32_t length;
};

/* What one record says in relation to those before it. Zeros at the beginning of a segment. */
struct ft_record_state {
	uint64_t boundary; /* icount of the last record that is not inside a run */
	uint64_t last;     /* of the last record */
	uint64_t clock;    /* value of the last FT_INPUT_CLOCK */
	bool begun;        /* the checkpoint has been seen */
	struct {
		bool known;
		uint64_t next; /* frame that may come */
	} peers[FT_RECORD_PEERS];
};

#define FT_RECORD_CONTROL_MAX (64u + FT_CHECK_WRITTEN_BYTES) /* bytes of control of one record */
#define FT_RECORD_PAYLOAD_MAX 65536u

/* The control bytes of a record; its input's bytes (record->data, length) follow in the payload. Returns their number. */
size_t ft_record_encode(struct ft_record_state *state, const struct ft_record *record, uint8_t control[FT_RECORD_CONTROL_MAX]);
/* Whether the record's data are payload (of an input) or part of the control bytes (of a check). */
bool ft_record_has_payload(const struct ft_record *record);

struct ft_record_cursor {
	const uint8_t *at, *end;
};

/* The next record. control and payload may be one and the same cursor: the bytes of the input stand behind its control bytes
 * then. -EAGAIN: it is not there whole; -EBADMSG: it is none (err, which may be NULL, says why). Cursors and state are as
 * they were when it fails. */
int ft_record_decode(struct ft_record_state *state, struct ft_record_cursor *control, struct ft_record_cursor *payload,
		     struct ft_record *record, struct ft_error *err);

/* The hashes of a check, made of those of the components (vmm/machine.h). */
void ft_record_check(const uint64_t hash[FT_COMPONENT_COUNT], uint8_t bytes[FT_CHECK_BYTES]);
void ft_record_check_written(const uint64_t hash[FT_COMPONENT_COUNT], uint8_t bytes[FT_CHECK_WRITTEN_BYTES]);
/* The names of the components in which two checks of one kind differ, "" when they are equal, "unknown" when no single
 * one shows it. */
void ft_record_difference(bool written, const uint8_t *a, const uint8_t *b, char *text, size_t size);

const char *ft_record_name(unsigned kind);

#endif
