/* A guest's journal directory: which runs and checkpoints it has, and the files of one run from one checkpoint on. */
#ifndef FT_REPLAY_DIRECTORY_H
#define FT_REPLAY_DIRECTORY_H

#include "journal/reader.h"

struct ft_replay_directory {
	int fd;
	uint32_t run;        /* the one that was asked for, or the newest */
	uint32_t checkpoint; /* the one that was chosen */
	uint64_t icount;     /* of it, as its file says */
	uint32_t last;       /* number of the last segment that was opened */
};

struct ft_replay_place {
	uint32_t run;        /* 0: the newest that has a checkpoint */
	uint32_t checkpoint; /* 0: the newest that is not behind icount and time */
	uint64_t icount;     /* UINT64_MAX: any */
	uint64_t wall_ns;    /* UINT64_MAX: any */
};

/* Opens all that is needed: *checkpoint and files are the caller's. -ENOENT: there is none such. */
int ft_replay_directory_open(struct ft_replay_directory *d, const char *path, const struct ft_replay_place *place, int *checkpoint,
			     struct ft_journal_files *files, struct ft_error *err);
void ft_replay_directory_close(struct ft_replay_directory *d, int checkpoint, struct ft_journal_files *files);

#endif
