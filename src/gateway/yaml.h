/* YAML with positions: a tree in which every node knows where it stands, so that an error in a configuration or rule
 * file can say file:line:column. Made on libyaml's events; anchors, aliases, tags, several documents and duplicate
 * keys are refused (a bomb of aliases never gets as far as memory), depth and size are bounded. */
#ifndef FT_GATEWAY_YAML_H
#define FT_GATEWAY_YAML_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

#define FT_YAML_DEPTH       32
#define FT_YAML_SIZE        (4u << 20) /* bytes of one file */
#define FT_YAML_NODES       200000u    /* nodes of one file */
#define FT_YAML_MAP_ENTRIES 4096u      /* of one map: each new name is compared with all before it */

enum ft_yaml_kind { FT_YAML_SCALAR, FT_YAML_LIST, FT_YAML_MAP };

struct ft_yaml {
	enum ft_yaml_kind kind;
	char *key;        /* in a map: the name of this entry */
	char *source;     /* name of the file; owned by each node */
	int line, column; /* from 1; of the value */
	int key_line, key_column;
	char *text;             /* scalar */
	bool plain;             /* scalar written without quotes: may be a number, boolean or null */
	struct ft_yaml **items; /* list or map, in the order of the file */
	size_t count;
};

/* Reads a file / a text named source. *root is the caller's (ft_yaml_free). -EINVAL for bad YAML, -ENOENT and the like
 * for files, with the sentence in err. An empty document is an empty map. */
int ft_yaml_read(const char *path, struct ft_yaml **root, struct ft_error *err);
int ft_yaml_parse(const char *text, size_t length, const char *source, struct ft_yaml **root,
		  struct ft_error *err);
void ft_yaml_free(struct ft_yaml *node);

/* Entry of a map; NULL when it is not there or node is no map. */
struct ft_yaml *ft_yaml_get(const struct ft_yaml *node, const char *key);

/* Puts value at a dotted path, making maps on the way and replacing what stood there. Takes value over, also on
 * failure. -EINVAL when the path is empty or goes through something that is no map. */
int ft_yaml_put(struct ft_yaml *root, const char *path, struct ft_yaml *value, struct ft_error *err);

/* Puts the entry `name` of the map root into a new map called `around`, which takes its place. 0 or -ENOMEM. */
int ft_yaml_wrap(struct ft_yaml *root, const char *name, const char *around);

/* The tree as JSON; plain scalars become null, booleans, numbers or text as in YAML's core schema. New reference. */
json_t *ft_yaml_json(const struct ft_yaml *node);

/* The node that a JSON pointer such as "/patterns/2/pattern" names, or the deepest one on the way that exists. Never
 * NULL. */
const struct ft_yaml *ft_yaml_at(const struct ft_yaml *root, const char *pointer);

/* Fills err with "source:line:column: text". Returns -EINVAL. */
int ft_yaml_error(struct ft_error *err, const struct ft_yaml *node, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
int ft_yaml_key_error(struct ft_error *err, const struct ft_yaml *node, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

const char *ft_yaml_kind_name(enum ft_yaml_kind kind); /* "a value", "a list", "a map" */

#endif
