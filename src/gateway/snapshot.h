/* Snapshots of guests, as operators see them: files in `snapshots` of the state directory. A guest's vmm writes one through the
 * descriptor that it is given; under its name it appears when the vmm says that it is whole and on disk. With a key configured
 * they are encrypted: a vmm is given the key of the one file that it writes or reads. */
#ifndef FT_GATEWAY_SNAPSHOT_H
#define FT_GATEWAY_SNAPSHOT_H

#include "gateway/supervisor.h"
#include "snapshot/file.h"

/* The key that the configuration names, once, at the start. Without one in the configuration, nothing. */
int ft_snapshot_read_key(struct ft_supervisor *s, struct ft_error *err);
void ft_snapshot_forget_key(struct ft_supervisor *s);

/* Requests of the control socket, see gateway/protocol.md. */
void ft_snapshot_request_save(struct ft_supervisor *s, uint64_t connection, json_t *request);
void ft_snapshot_request_state(struct ft_supervisor *s, uint64_t connection, json_t *request);
void ft_snapshot_request_list(struct ft_supervisor *s, uint64_t connection, json_t *request);
void ft_snapshot_request_file(struct ft_supervisor *s, uint64_t connection, json_t *request);
void ft_snapshot_request_delete(struct ft_supervisor *s, uint64_t connection, json_t *request);
void ft_snapshot_request_restore(struct ft_supervisor *s, uint64_t connection, json_t *request);
void ft_snapshot_request_attach(struct ft_supervisor *s, uint64_t connection, json_t *request);

/* A vmm's word about the snapshot it was to write (borrowed). false: it was to write none. */
bool ft_snapshot_told(struct ft_supervisor *s, struct ft_child *vmm, const json_t *message);

/* A new file's seal as part of a message; NULL: files are not encrypted. The caller wipes it (ft_snapshot_wipe_seal) when it is sent. */
json_t *ft_snapshot_new_seal(const struct ft_supervisor *s);
/* "seal" of a message; it is wiped when that has been sent. */
json_t *ft_snapshot_seal_json(const struct ft_snapshot_seal *seal);
/* Overwrites the key in a message that has been sent, or in one of its parts. */
void ft_snapshot_wipe_seal(const json_t *message);

/* A vmm has ended: what it was writing is thrown away. */
void ft_snapshot_ended(struct ft_supervisor *s, struct ft_child *vmm);

/* Has a guest that is up saved under a name, in the background. -EBUSY: it is being saved already, or is not up. */
int ft_snapshot_begin_saving(struct ft_supervisor *s, struct ft_child *vmm, const char *name, struct ft_error *err);

/* A snapshot for a vmm to start from: a descriptor, and the part of its configuration in *part; or -errno. origin: NULL, or 16 bytes
 * that have to be its own (-ESTALE: another image or configuration). */
int ft_snapshot_give(struct ft_supervisor *s, struct ft_child *vmm, const char *name, bool attach, const uint8_t *origin,
		     json_t **part, struct ft_error *err);

/* The same for the snapshot that an operator wants it to start from, once. -1: none. */
int ft_snapshot_start(struct ft_supervisor *s, struct ft_child *vmm, json_t **part, struct ft_error *err);

#endif
