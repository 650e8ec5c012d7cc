/* The configuration: one YAML file, checked against the table of keys (gateway/keys.h), completed with defaults, with
 * its rule files read in. Immutable once loaded. */
#ifndef FT_GATEWAY_CONFIG_H
#define FT_GATEWAY_CONFIG_H

#include <jansson.h>
#include <stdio.h>

#include "base/error.h"
#include "gateway/yaml.h"

#define FT_CONFIG_PATH "/etc/foretaste/foretaste.yaml"
#define FT_CONFIG_NAME    32 /* longest name of a guest or service, with its NUL */
#define FT_CONFIG_GUESTS  64u
#define FT_CONFIG_UPLINKS 16u

struct ft_config {
	char *file;           /* as it was named */
	char *directory;      /* absolute; where relative paths start */
	struct ft_yaml *tree; /* what was written, for positions */
	json_t *values; /* every key: durations in ns, sizes in bytes, paths absolute; absent ones are null */
	json_t *rules;  /* {"patterns": [...], "verdicts": [...], "correlations": [...]} of all rule files */
	const char *const *sets; /* the overrides it was loaded with; borrowed */
	size_t set_count;
	json_t *sids;   /* {path of a rule file: [sids of its patterns]} */
};

/* Loads file; sets are `count` overrides of the form "a.b=c", applied before anything is checked. 0, or with a
 * sentence in err: -EINVAL (the file is wrong), -ENOENT, -EACCES and the like. Frees what it made on failure. */
int ft_config_load(struct ft_config *config, const char *file, const char *const *sets, size_t count,
		   struct ft_error *err);
/* Takes from `from` what can change while a gateway runs (gateway/reload.h); `from` is left to be freed. Everything else of
 * `to` stays where it is: pointers into it stay valid. */
void ft_config_adopt(struct ft_config *to, struct ft_config *from);
void ft_config_free(struct ft_config *config);

/* A value by path, "guests.web.memory"; borrowed. NULL when there is no such key. */
const json_t *ft_config_get(const struct ft_config *config, const char *path);
const char *ft_config_text(const struct ft_config *config, const char *path); /* NULL when null or no text */

/* The path as the file has it: `uplink: {...}` is the uplink named "uplink" of `uplinks`. A part of path. */
const char *ft_config_written(const struct ft_config *config, const char *path);

/* Where a key was written, or the closest thing to it; for errors found later. */
const struct ft_yaml *ft_config_where(const struct ft_config *config, const char *path);

/* Puts "file:line:column: " of that key in front of an error. */
void ft_config_place(const struct ft_config *config, const char *path, struct ft_error *err);

/* What is in effect, as YAML that loads to the same configuration; values that nobody wrote are marked. */
void ft_config_print(const struct ft_config *config, FILE *file);

/* The parts that go to the children (gateway/protocol.md). New references. */
json_t *ft_config_dataplane(const struct ft_config *config);
json_t *ft_config_vmm(const struct ft_config *config, const char *guest);
json_t *ft_config_ledger(const struct ft_config *config);

/* sysexits(3) number for an error of ours. */
int ft_config_exit(int code);

#endif
