/* What a guest has written to its disk, as a file that is only appended to (disk.md). The file knows records and segments; which of
 * them is a block's current one is the index of who uses it (vmm/dev/disk.h), which is told at opening and asked by the compaction.
 *
 * One process and one thread writes a file; whoever has a copy of the index (a fork) and the descriptor for reading sees all that the
 * index refers to, as long as the writer knows of it (ft_overlay_work). A reader beside it checks what it reads. */
#ifndef FT_DISK_OVERLAY_H
#define FT_DISK_OVERLAY_H

#include <sys/types.h>

#include "disk/record.h"
#include "disk/sync.h"

/* What the writer asks of the file system, as a table: a test's fails, tears and cuts. 0 or more, or -errno. */
struct ft_overlay_io {
	void *context;
	ssize_t (*pwritev)(void *context, int fd, const struct iovec *parts, int count, off_t at);
	int (*sync)(void *context, int fd);
	int (*allocate)(void *context, int fd, off_t at, off_t length); /* room that a later write will find */
	int (*punch)(void *context, int fd, off_t at, off_t length);    /* reads as zeros, takes no room */
};

extern const struct ft_overlay_io ft_overlay_io_system;

/* Where a block is: 0 in the base image; FT_DISK_WHERE_FILE set: at ft_disk_where_at in the file, all zeros with FT_DISK_WHERE_ZERO. */
#define FT_DISK_WHERE_FILE 1u
#define FT_DISK_WHERE_ZERO 2u

static inline uint64_t ft_disk_where_make(uint64_t at, bool zero)
{
	return at << 2 | (zero ? FT_DISK_WHERE_ZERO : 0) | FT_DISK_WHERE_FILE;
}

static inline uint64_t ft_disk_where_at(uint64_t where)
{
	return where >> 2;
}

struct ft_overlay_user {
	void *context;
	/* The file says that the block is there now (0: in the base image); the place it had before is returned. */
	uint64_t (*put)(void *context, uint64_t block, uint64_t where);
	uint64_t (*get)(void *context, uint64_t block);
	void (*reset)(void *context); /* all blocks are the base image's */
};

struct ft_overlay_config {
	int fd, read_fd; /* the file; and for reading alone. Stay the caller's */
	uint64_t disk_size, base_sample;
	const char *guest;
	uint64_t quota;        /* bytes of the file, 0: what ft_overlay_room says */
	uint64_t retention_ns; /* what was replaced is kept for this long */
	const struct ft_overlay_io *io;
	uint64_t (*clock)(void); /* UNIX time in ns */
	struct ft_overlay_user user;
};

/* What was found at opening. */
struct ft_overlay_found {
	bool made;            /* the file was empty */
	uint64_t records;     /* that are valid */
	uint64_t cut;         /* bytes behind the last of them that a crash left unfinished */
	uint64_t undone;      /* records of a restored disk that was never completed */
	uint64_t last_ns;     /* when the last one was written */
};

enum ft_overlay_segment_state { FT_SEGMENT_FREE, FT_SEGMENT_OPEN, FT_SEGMENT_FULL, FT_SEGMENT_LIMBO };

struct ft_overlay_segment {
	enum ft_overlay_segment_state state;
	bool resets;           /* has a RESET or its COMMIT: may go only behind all that are older */
	uint64_t id;
	uint64_t last;         /* sequence of its last record */
	uint32_t used;         /* bytes */
	uint32_t blocks, live; /* versions of blocks in it; those that are current */
	uint64_t replaced_ns;  /* when one of them was replaced last */
	uint64_t fork;         /* LIMBO: forks up to this one may read it */
};

struct ft_overlay_counts {
	uint64_t records, bytes, compactions, copied, freed, shortened; /* shortened: segments that went before their time */
	uint64_t history_ns; /* versions replaced before this have gone */
};

struct ft_overlay {
	struct ft_overlay_config config;
	struct ft_disk_record_key key;
	struct ft_sync sync;
	struct ft_overlay_segment *segments;
	uint64_t segment_count, slots; /* slots: most of them */
	uint64_t open;                 /* the one that is appended to; segment_count: none yet */
	uint64_t next_id, sequence, last_ns;
	uint32_t run;
	struct ft_disk_record_entry *entries; /* of the open one */
	uint32_t entry_count, entry_room;
	bool broken;                   /* a write or sync failed: nothing more is written */
	bool resetting;                /* between RESET and COMMIT */
	struct {
		bool active;
		uint64_t slot;
		struct ft_disk_record_entry *entries;
		uint32_t count, next, within;
		uint64_t wait; /* all is copied, and durable at this sequence number; 0: not yet */
	} compaction;
	struct ft_overlay_counts counts;
};

/* Opens, makes if empty, recovers. err: why not (-EINVAL: another base image or disk; -EBADMSG: damage that no crash makes). */
int ft_overlay_open(struct ft_overlay *o, const struct ft_overlay_config *config, struct ft_overlay_found *found, struct ft_error *err);
void ft_overlay_close(struct ft_overlay *o);

/* Syncs in a thread from here on: ft_sync_start. */
int ft_overlay_start(struct ft_overlay *o, struct ft_error *err);

/* The size that a file may have without a quota: the whole disk written, as much again for what was, and room to compact. */
uint64_t ft_overlay_room(uint64_t disk_size);

/* count whole blocks (parts: their bytes). The index is told. -ENOSPC: no room, nothing has changed and it may be tried again; another
 * error: the file takes nothing more. */
int ft_overlay_write(struct ft_overlay *o, uint64_t icount, uint64_t block, uint32_t count, const struct iovec *parts, size_t part_count);
int ft_overlay_zero(struct ft_overlay *o, uint64_t icount, uint64_t block, uint32_t count);

/* Everything is the base image's again, and then what is written until the commit: as a whole or not at all, whatever happens. */
int ft_overlay_reset(struct ft_overlay *o, uint64_t icount);
int ft_overlay_commit(struct ft_overlay *o, uint64_t icount); /* and it is durable */

/* Everything written so far is to be durable; waiting for it is another call. 0 or -errno. */
int ft_overlay_flush(struct ft_overlay *o);
int ft_overlay_wait(struct ft_overlay *o);

/* Some of the compaction's work, at most `bytes` copied. oldest_fork: number of the oldest process that has a copy of the index,
 * forks: of the newest that ever had (numbers rise; no such process: oldest_fork > forks). True: there is more to do now. */
bool ft_overlay_work(struct ft_overlay *o, uint32_t bytes, uint64_t oldest_fork, uint64_t forks);

uint64_t ft_overlay_bytes(const struct ft_overlay *o); /* of the file that are in use */

/* ---- For the files beside this one ---------------------------------------------------------------------------------- */

int ft_overlay_append(struct ft_overlay *o, struct ft_disk_record *record, const struct iovec *parts, size_t count, bool copy, uint64_t *at);
int ft_overlay_recover(struct ft_overlay *o, struct ft_overlay_found *found, struct ft_error *err);
void ft_overlay_place(struct ft_overlay *o, uint64_t block, uint64_t where);
struct ft_disk_record_entry *ft_overlay_entries(struct ft_overlay *o, const struct ft_overlay_segment *s, uint64_t slot, uint32_t *count, int *error);
ssize_t ft_overlay_pread(int fd, void *to, size_t length, uint64_t at);
int ft_overlay_note(struct ft_overlay *o, const struct ft_disk_record_entry *entry);
int ft_overlay_segments(struct ft_overlay *o, uint64_t count);

#endif
