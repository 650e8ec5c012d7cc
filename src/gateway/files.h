/* The files that the supervisor opens, for itself and for its children. Every failure is one sentence that names the
 * file and, where the configuration named it, the line. */
#ifndef FT_GATEWAY_FILES_H
#define FT_GATEWAY_FILES_H

#include <jansson.h>
#include <sys/types.h>

#include "gateway/config.h"

#define FT_FILES_VMM    4 /* kernel, initramfs, disk, console log */
#define FT_FILES_LEDGER 3 /* feed, quarantine directory, state directory */

/* Makes the state directory when missing and locks it against a second gateway. Returns its descriptor, which holds
 * the lock, or -errno (-EADDRINUSE: another gateway has it). */
int ft_files_lock(const struct ft_config *config, struct ft_error *err);

/* The number that the first hold of a new dataplane process gets. Each process has FT_FILES_HOLDS numbers of its own, so
 * that a number names one hold for ever: verdicts and quarantined packets are found by it. What was given out is
 * remembered in the state directory. 0 or -errno. */
#define FT_FILES_HOLDS 1000000
int ft_files_first_hold(int state, long long *first, struct ft_error *err);

/* Opens what a vmm / the ledger gets, in the order of gateway/protocol.md (the ledger's record socket is not among
 * these). The caller closes them. New directories are given to uid. 0 or -errno, and then none is open. */
int ft_files_vmm(const struct ft_config *config, const char *guest, int fds[FT_FILES_VMM],
		 struct ft_error *err);
/* The file of what a guest has written to its disk: for writing, and for reading. Made when missing. The same. */
int ft_files_overlay(int state, const char *guest, int fds[2], struct ft_error *err);
int ft_files_ledger(const struct ft_config *config, uid_t uid, int fds[FT_FILES_LEDGER],
		    struct ft_error *err);

/* Whether the images that all guests name can be read; for `foretaste check`. */
int ft_files_check(const struct ft_config *config, struct ft_error *err);

/* Makes a directory and those above it (mode for the last). 0, also when it is there already. */
int ft_files_directory(const char *path, mode_t mode, struct ft_error *err);

void ft_files_close(int *fds, int count); /* also sets them to -1 */

/* The feed (guest NULL) or a guest's console log, opened again under its name, for appending. */
int ft_files_log(const struct ft_config *config, const char *guest, struct ft_error *err);

/* A JSON object in the state directory: *json is NULL when there is no such file. The new one is on disk, whole, before the
 * old one is gone. */
int ft_files_read_json(int state, const char *name, json_t **json, struct ft_error *err);
int ft_files_write_json(int state, const char *name, const json_t *json, struct ft_error *err);

#endif
