/* The table of configuration keys: name, kind, what is allowed, default, meaning. Validation, the effective
 * configuration that `foretaste check` prints and config/foretaste.yaml are all made from it.
 *
 * A path's components are separated by dots; "*" stands for a name that the operator chooses. */
#ifndef FT_GATEWAY_KEYS_H
#define FT_GATEWAY_KEYS_H

#include <jansson.h>
#include <stddef.h>
#include <stdio.h>

#include "gateway/yaml.h"

enum ft_key_kind {
	FT_KEY_MAP,
	FT_KEY_TEXT,
	FT_KEY_PATH,     /* relative to the configuration file's directory */
	FT_KEY_STATE,    /* path relative to the `state` directory; * in it is the name of the map it is in */
	FT_KEY_SIZE,     /* expect: least and most, "1 MiB..4 GiB" */
	FT_KEY_DURATION, /* expect: least and most */
	FT_KEY_WHOLE,    /* expect: least and most, "1..64" */
	FT_KEY_REAL,     /* expect: least and most */
	FT_KEY_CHOICE,   /* expect: "a|b|c" */
	FT_KEY_NAMES,    /* list of text; expect: words that may stand instead of the list, or NULL */
	FT_KEY_PATHS,    /* list of paths */
	FT_KEY_ADDRESS,  /* IPv4; expect: words that may stand instead, or NULL */
	FT_KEY_ADDRESS6, /* IPv6 */
	FT_KEY_MAC,
	FT_KEY_VLAN,   /* a number from 1 to 4094, or one of the words in expect */
	FT_KEY_PERCENT, /* of one processor; expect: least and most, "1..6400" */
	FT_KEY_KINDS
};

struct ft_key {
	const char *path;
	enum ft_key_kind kind;
	const char *expect;
	const char
	    *fallback; /* default as YAML text; "none" means absent (JSON null); NULL: has to be given */
	const char *example; /* in config/foretaste.yaml where there is no default */
	const char *doc;
};

extern const struct ft_key ft_keys[];
extern const size_t ft_keys_count;

/* The row for a path with real names in it ("guests.web.memory"), NULL when there is none. */
const struct ft_key *ft_key_find(const char *path);

/* Whether b is directly below a in the table: "guests.*" and "guests.*.memory". */
int ft_key_is_child(const struct ft_key *parent, const struct ft_key *child);

const char *ft_key_last(const struct ft_key *key); /* "memory" of "guests.*.memory" */

/* Reads a value: checks kind, range and form. 0 with a new reference in *value, or -EINVAL with position. */
int ft_key_value(const struct ft_key *key, const struct ft_yaml *node, json_t **value, struct ft_error *err);

/* The value as YAML text that reads back to it; cut to size. */
void ft_key_format(const struct ft_key *key, const json_t *value, char *text, size_t size);

/* Writes config/foretaste.yaml. */
void ft_keys_template(FILE *file);

#endif
