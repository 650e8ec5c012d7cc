/* The operator's key: what snapshots are encrypted with. Read once, from a file that nobody else may touch, into memory that is
 * locked, between guard pages and in no core dump (sodium_malloc), and wiped when it is let go. */
#ifndef FT_SNAPSHOT_KEY_H
#define FT_SNAPSHOT_KEY_H

#include "snapshot/file.h"

enum ft_snapshot_key_place {
	FT_SNAPSHOT_KEY_FILE,
	FT_SNAPSHOT_KEY_CREDENTIAL /* path is a name in $CREDENTIALS_DIRECTORY (systemd.exec(5), LoadCredential=) */
};

/* *key: FT_SNAPSHOT_KEY bytes, read only. The file has 32 bytes, or 64 hexadecimal digits and at most a newline. -EACCES: others
 * may read or write it; -EINVAL: it is no key; -ENOENT and the like. */
int ft_snapshot_key_read(uint8_t **key, const char *path, enum ft_snapshot_key_place place, struct ft_error *err);
void ft_snapshot_key_free(uint8_t *key);

#endif
