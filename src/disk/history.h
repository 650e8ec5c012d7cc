/* An overlay's past, for reading: every version of every block that is still there, and the disk as it was at any time. Reads files
 * alone, beside a writer or without one; what the writer gives back meanwhile is noticed. */
#ifndef FT_DISK_HISTORY_H
#define FT_DISK_HISTORY_H

#include "disk/record.h"

struct ft_version {
	uint64_t wall_ns, at; /* at: of its record in the file */
	uint64_t block;       /* the first one */
	uint32_t count, type;
};

struct ft_history {
	int overlay, base; /* borrowed */
	struct ft_overlay_head head;
	struct ft_disk_record_key key;
	struct ft_version *versions; /* by time, then in the order of the file */
	uint64_t count, room;
	uint64_t whole_ns; /* what was replaced before this is gone */
	uint64_t blocks;   /* of the disk */
};

int ft_history_open(struct ft_history *h, int overlay, int base, struct ft_error *err);
void ft_history_close(struct ft_history *h);

/* The record of a version: its icount and sequence number. -ESTALE: it has been given back. */
int ft_history_record(const struct ft_history *h, const struct ft_version *version, struct ft_disk_record *record);

/* The disk at a time, which only goes forward. */
struct ft_view {
	const struct ft_history *h;
	uint64_t next;   /* versions before it are applied */
	uint64_t *where; /* for each block 0, or 1 + version * 2^24 + place in its record */
	uint8_t *touched; /* a bit a block that was read, for whoever wants to know; NULL */
};

int ft_view_open(struct ft_view *view, const struct ft_history *h, struct ft_error *err);
void ft_view_close(struct ft_view *view);
void ft_view_forward(struct ft_view *view, uint64_t wall_ns); /* up to and with this time */

/* at + length within the disk. 0, -ESTALE, -errno. */
int ft_view_read(struct ft_view *view, uint64_t at, void *to, uint64_t length);

#endif
