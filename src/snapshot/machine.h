/* A machine into a snapshot's file and out of it. */
#ifndef FT_SNAPSHOT_MACHINE_H
#define FT_SNAPSHOT_MACHINE_H

#include "snapshot/file.h"
#include "vmm/machine.h"

/* What a save came to. */
struct ft_snapshot_told {
	uint64_t bytes, chunks;
	uint8_t mac[32]; /* names these contents: who notes it down knows later that nothing was changed */
};

/* What a snapshot says of its guest that the machine does not know. */
struct ft_snapshot_about {
	char guest[64];
	uint64_t created_ns; /* UNIX time */
	uint8_t origin[16];  /* see struct ft_snapshot_header */
	struct ft_snapshot_note {
		const uint8_t *bytes; /* NULL: there is none; at most FT_SNAPSHOT_CONTENT_MAX */
		size_t length;
	} book, trial; /* FT_SNAPSHOT_BOOK, FT_SNAPSHOT_TRIAL: borrowed */
};

/* Writes m, which stands still meanwhile (a fork of the live vmm, at a stop point), to fd. Everything it needs is memory,
 * write(2) and fsync(2). */
int ft_snapshot_save(struct ft_machine *m, const struct ft_snapshot_about *about, int fd, const struct ft_snapshot_seal *seal,
		     struct ft_snapshot_told *told, struct ft_error *err);

/* RAM that comes by and by. */
struct ft_snapshot_load {
	struct ft_snapshot file;
	struct ft_machine *m;
	struct ft_memory_source source;
	struct ft_snapshot_entry **parts; /* of each part of RAM; NULL: zeros */
	uint8_t *room;
	uint64_t next; /* where ft_snapshot_fill goes on */
};

/* Puts the snapshot into m, which was created with the guest's configuration and not booted. Its state and its disk are there
 * afterwards; RAM comes when it is touched, and by ft_snapshot_fill. load stays where it is until ft_snapshot_loaded. Refused like a state (vmm/state/image.h), and -EINVAL for another base image. */
int ft_snapshot_restore(struct ft_snapshot_load *load, struct ft_machine *m, int fd, const struct ft_snapshot_seal *seal, struct ft_error *err);

/* A note that the file has, FT_SNAPSHOT_BOOK or FT_SNAPSHOT_TRIAL: *bytes is the caller's to free. -ENOENT: it has none. Before
 * ft_snapshot_loaded. */
int ft_snapshot_note(struct ft_snapshot_load *load, enum ft_snapshot_kind kind, uint8_t **bytes, size_t *length, struct ft_error *err);

/* One part that is not here yet; false when all are. */
bool ft_snapshot_fill(struct ft_snapshot_load *load);
void ft_snapshot_loaded(struct ft_snapshot_load *load); /* lets go of the file: all RAM is here, or the machine, which still is, does not run again */

/* Reads everything, and checks it as far as that goes without a machine. */
int ft_snapshot_verify(struct ft_snapshot *file, struct ft_error *err);

#endif
