/* What is normal for a service: the programs it may start, the places it may connect to, the paths it may write.
 * Immutable after loading; many cases may read it at once.
 *
 * may_exec, may_write: absolute paths; `*`, `?` and `[...]` stay within one path component, a trailing `/` followed by
 * two stars means everything below. A path with a ".." in it is never in a list: what it means depends on links that
 * the host does not follow.
 * may_connect: "10.0.2.3", "10.0.2.3:53", "10.0.0.0/8:443", "*:53", "[2001:db8::/32]:443", "unix:/run/app.sock".
 * may_jit, may_uring: names of processes as the kernel knows them (15 bytes, no path), globs allowed: those that make memory
 * executable, and those that have the kernel work by io_uring. A process can call itself what it likes: such an entry
 * takes the rule away from the whole service, it does not prove who acted. */
#ifndef FT_DETECT_PROFILE_H
#define FT_DETECT_PROFILE_H

#include <jansson.h>
#include <stdbool.h>

#include "base/error.h"

enum ft_profile_list {
	FT_PROFILE_MAY_EXEC,
	FT_PROFILE_MAY_CONNECT,
	FT_PROFILE_MAY_WRITE,
	FT_PROFILE_MAY_JIT,
	FT_PROFILE_MAY_URING,
	FT_PROFILE_LISTS
};

struct ft_profile;

/* normal: the `normal` of a service, an object that may have the keys may_exec, may_connect, may_write, may_jit, may_uring (lists of strings; absent means nothing
 * is normal); other keys are not looked at. where: FT_DOOR_WHERE bytes for the JSON pointer of what is wrong, or NULL.
 * The caller frees *profile with ft_profile_free. */
int ft_profile_load(const json_t *normal, struct ft_profile **profile, char *where, struct ft_error *err);
void ft_profile_free(struct ft_profile *profile);

/* Is text (a path, the text of a connect, listen or net.tx event, or a process) in the list? A NULL profile holds nothing. */
bool ft_profile_has(const struct ft_profile *profile, enum ft_profile_list list, const char *text);

const char *ft_profile_list_name(enum ft_profile_list list); /* "may_exec", ... */

#endif
