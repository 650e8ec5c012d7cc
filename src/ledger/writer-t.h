/* The writer's state and files, for the .c files of this directory alone. */
#ifndef FT_LEDGER_WRITER_T_H
#define FT_LEDGER_WRITER_T_H

#include "ledger/tree.h"
#include "ledger/writer.h"

#define FT_LEVELS	   8u /* of tiles: 2^63 leaves have no more */
#define FT_LEVEL_HEIGHT	   8u /* a tile has 2^8 hashes */
#define FT_SEGMENT_HEIGHT  16u
#define FT_NOTES_MAX	   (16u << 20) /* of `checkpoints` and `epochs` each, when they are read */
#define FT_NOTES_COMPACT   (4u << 20)  /* of `checkpoints`: then only the last one is kept */
#define FT_SEGMENT_NAME	   32u

/* Hashes of one level. Invariant: those before `written` are in the file, `count` more are to follow. */
struct ft_level {
	int fd;
	uint64_t written;
	struct ft_hash *pending;
	size_t count, room;
};

/* A part of the pending entries that goes into one segment. */
struct ft_chunk {
	uint64_t segment, offset; /* of the file, where it begins */
	size_t begin;		  /* in `pending` */
};

/* A file of notes, each followed by an empty line. */
struct ft_notes {
	int fd;
	uint64_t length;
};

/* How far the end of an epoch has come: its entry waits for a commit or is committed; its checkpoint is in `epochs`. */
enum ft_turn { FT_TURN_NONE, FT_TURN_ENDING, FT_TURN_NOTED };

struct ft_writer {
	const struct ft_io *io;
	int directory, entries, tiles; /* directories */
	struct ft_key *key;
	struct ft_tree tree;
	uint64_t committed, first;
	uint64_t bytes; /* of all segments, committed */

	int segment_fd;
	uint64_t segment;	 /* that segment_fd is */
	uint64_t segment_length; /* bytes of the segment that the next entry goes to, pending ones too */

	uint8_t *pending;
	size_t length, room, buffer;
	struct ft_chunk *chunks;
	size_t chunk_count, chunk_room;

	struct ft_level levels[FT_LEVELS];
	struct ft_notes checkpoints, epochs;
	char note[FT_NOTE_MAX]; /* the last checkpoint */
	size_t note_length;
	enum ft_turn turn;

	uint64_t cut;
	unsigned last_type;
	uint64_t last_time;
};

/* Name of a segment in `entries`. */
void ft_segment_name(uint64_t segment, char name[FT_SEGMENT_NAME]);

/* Opens `name` for reading and writing, made if it is not there. Descriptor or -errno. */
int ft_writer_file(const struct ft_writer *w, int directory, const char *name);

/* ft_tree_complete and ft_tree_read on the tiles. */
void ft_writer_complete(void *context, unsigned height, const struct ft_hash *root);
int ft_writer_read_node(void *context, unsigned height, uint64_t index, struct ft_hash *root);

/* The root of the subtree of 2^above hashes of a level's file, above < FT_LEVEL_HEIGHT. -EBADMSG: the file ends before it. */
int ft_level_read(int fd, unsigned above, uint64_t index, struct ft_hash *root);

/* Room for one more hash on each level: 0 or -ENOMEM. */
int ft_writer_reserve(struct ft_writer *w);

/* Writes the hashes that wait, and forgets that they do once `done`. */
int ft_writer_write_levels(struct ft_writer *w, bool sync);
void ft_writer_levels_done(struct ft_writer *w);

/* Everything but the key: reads what there is. */
int ft_writer_recover(struct ft_writer *w, const struct ft_writer_config *config, struct ft_error *err);

#endif
