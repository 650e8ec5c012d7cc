#include "gateway/yaml.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <yaml.h>

struct reader {
	yaml_parser_t parser;
	const char *source;
	struct ft_error *err;
	unsigned nodes;
};

const char *ft_yaml_kind_name(enum ft_yaml_kind kind)
{
	return kind == FT_YAML_SCALAR ? "a value" : kind == FT_YAML_LIST ? "a list" : "a map";
}

void ft_yaml_free(struct ft_yaml *node)
{
	if (!node)
		return;
	for (size_t i = 0; i < node->count; i++)
		ft_yaml_free(node->items[i]);
	free(node->items);
	free(node->key);
	free(node->text);
	free(node->source);
	free(node);
}

static int place_error(struct ft_error *err, const char *source, int line, int column, const char *format,
		       va_list args)
{
	char text[sizeof(err->text)];
	vsnprintf(text, sizeof(text), format, args);
	return ft_error_set(err, -EINVAL, "%s:%d:%d: %s", source, line, column, text);
}

int ft_yaml_error(struct ft_error *err, const struct ft_yaml *node, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	int code = place_error(err, node->source, node->line, node->column, format, args);
	va_end(args);
	return code;
}

int ft_yaml_key_error(struct ft_error *err, const struct ft_yaml *node, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	bool key = node->key_line > 0;
	int code = place_error(err, node->source, key ? node->key_line : node->line,
			       key ? node->key_column : node->column, format, args);
	va_end(args);
	return code;
}

static int mark_error(struct reader *r, const yaml_mark_t *mark, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	int code = place_error(r->err, r->source, (int)mark->line + 1, (int)mark->column + 1, format, args);
	va_end(args);
	return code;
}

static int next_event(struct reader *r, yaml_event_t *event)
{
	if (yaml_parser_parse(&r->parser, event))
		return 0;
	const yaml_parser_t *p = &r->parser;
	yaml_mark_t mark = p->problem_mark;
	if (p->error == YAML_READER_ERROR) {
		/* The reader knows only the offset of the bad byte. */
		return ft_error_set(r->err, -EINVAL, "%s:1:1: this is not UTF-8 text (%s at byte %zu)",
				    r->source, p->problem, p->problem_offset);
	}
	return mark_error(r, &mark, "this is not YAML: %s%s%s", p->problem ? p->problem : "out of memory",
			  p->context ? ", " : "", p->context ? p->context : "");
}

static struct ft_yaml *new_node(enum ft_yaml_kind kind, const char *source, int line, int column)
{
	struct ft_yaml *node = calloc(1, sizeof(*node));
	if (!node)
		return NULL;
	node->kind = kind;
	node->source = strdup(source);
	node->line = line;
	node->column = column;
	if (!node->source) {
		free(node);
		return NULL;
	}
	return node;
}

/* The array doubles: it is full whenever count is a power of two. */
static int append(struct ft_yaml *parent, struct ft_yaml *child)
{
	if ((parent->count & (parent->count - 1)) == 0) {
		size_t room = parent->count ? 2 * parent->count : 1;
		struct ft_yaml **items = realloc(parent->items, room * sizeof(*items));
		if (!items)
			return -ENOMEM;
		parent->items = items;
	}
	parent->items[parent->count++] = child;
	return 0;
}

static int read_node(struct reader *r, const yaml_event_t *first, int depth, struct ft_yaml **out);

/* Keys are scalars, each once. */
static int read_map(struct reader *r, struct ft_yaml *map, int depth)
{
	for (;;) {
		yaml_event_t event;
		int error = next_event(r, &event);
		if (error)
			return error;
		if (event.type == YAML_MAPPING_END_EVENT) {
			yaml_event_delete(&event);
			return 0;
		}
		yaml_mark_t mark = event.start_mark;
		char *key = NULL;
		if (event.type != YAML_SCALAR_EVENT)
			error = mark_error(r, &mark, "the name of an entry has to be plain text");
		else if (event.data.scalar.anchor || event.data.scalar.tag)
			error = mark_error(r, &mark, "anchors and tags are not supported");
		else if (strlen((char *)event.data.scalar.value) != event.data.scalar.length)
			error = mark_error(r, &mark, "a NUL character in a name");
		else if (!(key = strdup((char *)event.data.scalar.value)))
			error = -ENOMEM;
		yaml_event_delete(&event);
		if (!error && map->count == FT_YAML_MAP_ENTRIES)
			error = mark_error(r, &mark, "more than %u entries in one map", FT_YAML_MAP_ENTRIES);
		const struct ft_yaml *old = error ? NULL : ft_yaml_get(map, key);
		if (old)
			error = mark_error(r, &mark, "\"%.64s\" is given twice, first in line %d", key,
					   old->key_line);
		struct ft_yaml *value = NULL;
		if (!error)
			error = next_event(r, &event);
		if (!error) {
			error = read_node(r, &event, depth, &value);
			yaml_event_delete(&event);
		}
		if (error) {
			free(key);
			return error;
		}
		value->key = key;
		value->key_line = (int)mark.line + 1;
		value->key_column = (int)mark.column + 1;
		error = append(map, value);
		if (error) {
			ft_yaml_free(value);
			return error;
		}
	}
}

static int read_list(struct reader *r, struct ft_yaml *list, int depth)
{
	for (;;) {
		yaml_event_t event;
		int error = next_event(r, &event);
		if (error)
			return error;
		if (event.type == YAML_SEQUENCE_END_EVENT) {
			yaml_event_delete(&event);
			return 0;
		}
		struct ft_yaml *value = NULL;
		error = read_node(r, &event, depth, &value);
		yaml_event_delete(&event);
		if (!error && (error = append(list, value)))
			ft_yaml_free(value);
		if (error)
			return error;
	}
}

static int read_scalar(struct reader *r, const yaml_event_t *event, struct ft_yaml *node)
{
	if (strlen((char *)event->data.scalar.value) != event->data.scalar.length)
		return mark_error(r, &event->start_mark, "a NUL character in a value");
	node->text = strdup((char *)event->data.scalar.value);
	node->plain = event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
	return node->text ? 0 : -ENOMEM;
}

static int read_node(struct reader *r, const yaml_event_t *first, int depth, struct ft_yaml **out)
{
	const yaml_mark_t *mark = &first->start_mark;
	*out = NULL;
	if (depth >= FT_YAML_DEPTH)
		return mark_error(r, mark, "nested more than %d deep", FT_YAML_DEPTH);
	if (++r->nodes > FT_YAML_NODES)
		return mark_error(r, mark, "more than %u values in one file", FT_YAML_NODES);
	enum ft_yaml_kind kind = FT_YAML_SCALAR;
	bool decorated = false;
	switch (first->type) {
	case YAML_SCALAR_EVENT:
		decorated = first->data.scalar.anchor || first->data.scalar.tag;
		break;
	case YAML_SEQUENCE_START_EVENT:
		kind = FT_YAML_LIST;
		decorated = first->data.sequence_start.anchor || first->data.sequence_start.tag;
		break;
	case YAML_MAPPING_START_EVENT:
		kind = FT_YAML_MAP;
		decorated = first->data.mapping_start.anchor || first->data.mapping_start.tag;
		break;
	default:
		return mark_error(r, mark, "anchors, aliases and tags are not supported");
	}
	if (decorated)
		return mark_error(r, mark, "anchors, aliases and tags are not supported");
	struct ft_yaml *node = new_node(kind, r->source, (int)mark->line + 1, (int)mark->column + 1);
	if (!node)
		return -ENOMEM;
	int error = kind == FT_YAML_SCALAR ? read_scalar(r, first, node)
		    : kind == FT_YAML_LIST ? read_list(r, node, depth + 1)
					   : read_map(r, node, depth + 1);
	if (error) {
		ft_yaml_free(node);
		return error;
	}
	*out = node;
	return 0;
}

/* Stream start, at most one document, stream end. */
static int read_stream(struct reader *r, struct ft_yaml **root)
{
	for (;;) {
		yaml_event_t event;
		int error = next_event(r, &event);
		if (error)
			return error;
		yaml_event_type_t type = event.type;
		if (type == YAML_DOCUMENT_START_EVENT && *root)
			error =
			    mark_error(r, &event.start_mark, "a second document; one file is one document");
		else if (type == YAML_SCALAR_EVENT || type == YAML_SEQUENCE_START_EVENT ||
			 type == YAML_MAPPING_START_EVENT || type == YAML_ALIAS_EVENT)
			error = read_node(r, &event, 0, root);
		yaml_event_delete(&event);
		if (error || type == YAML_STREAM_END_EVENT)
			return error;
	}
}

int ft_yaml_parse(const char *text, size_t length, const char *source, struct ft_yaml **root,
		  struct ft_error *err)
{
	*root = NULL;
	struct reader reader = {.source = source, .err = err};
	if (!yaml_parser_initialize(&reader.parser))
		return ft_error_set(err, -ENOMEM, "%s: out of memory", source);
	yaml_parser_set_encoding(&reader.parser, YAML_UTF8_ENCODING);
	yaml_parser_set_input_string(&reader.parser, (const unsigned char *)text, length);
	int error = read_stream(&reader, root);
	yaml_parser_delete(&reader.parser);
	if (!error && !*root && !(*root = new_node(FT_YAML_MAP, source, 1, 1)))
		error = -ENOMEM;
	/* "file: ~" and a file of comments alone read as one empty scalar. */
	if (!error && (*root)->kind == FT_YAML_SCALAR && (*root)->plain && !*(*root)->text)
		(*root)->kind = FT_YAML_MAP;
	if (error) {
		ft_yaml_free(*root);
		*root = NULL;
		ft_error_set(err, error, "%s: %s", source, strerror(-error));
	}
	return error;
}

int ft_yaml_read(const char *path, struct ft_yaml **root, struct ft_error *err)
{
	*root = NULL;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (fd < 0)
		return ft_error_set(err, -errno, "cannot open %s: %s", path, strerror(errno));
	struct stat st;
	char *text = NULL;
	size_t length = 0;
	int error = 0;
	if (fstat(fd, &st))
		error = ft_error_set(err, -errno, "cannot read %s: %s", path, strerror(errno));
	else if (!S_ISREG(st.st_mode))
		error = ft_error_set(err, -EINVAL, "cannot read %s: it is not a regular file", path);
	else if (st.st_size > FT_YAML_SIZE)
		error = ft_error_set(err, -EFBIG, "cannot read %s: it is larger than %u bytes", path,
				     FT_YAML_SIZE);
	else if (!(text = malloc(FT_YAML_SIZE + 1)))
		error = -ENOMEM;
	while (!error && length <= FT_YAML_SIZE) {
		ssize_t n = read(fd, text + length, FT_YAML_SIZE + 1 - length);
		if (n < 0 && errno != EINTR)
			error = ft_error_set(err, -errno, "cannot read %s: %s", path, strerror(errno));
		if (n == 0)
			break;
		length += n > 0 ? (size_t)n : 0;
	}
	close(fd);
	if (!error)
		error = ft_yaml_parse(text, length, path, root, err);
	free(text);
	return error;
}

struct ft_yaml *ft_yaml_get(const struct ft_yaml *node, const char *key)
{
	if (!node || node->kind != FT_YAML_MAP)
		return NULL;
	for (size_t i = 0; i < node->count; i++)
		if (!strcmp(node->items[i]->key, key))
			return node->items[i];
	return NULL;
}

static int put_entry(struct ft_yaml *map, const char *key, size_t length, struct ft_yaml *value)
{
	free(value->key);
	value->key = strndup(key, length);
	if (!value->key)
		return -ENOMEM;
	for (size_t i = 0; i < map->count; i++)
		if (!strcmp(map->items[i]->key, value->key)) {
			ft_yaml_free(map->items[i]);
			map->items[i] = value;
			return 0;
		}
	return append(map, value);
}

int ft_yaml_put(struct ft_yaml *root, const char *path, struct ft_yaml *value, struct ft_error *err)
{
	struct ft_yaml *map = root;
	int error = 0;
	for (;;) {
		size_t length = strcspn(path, ".");
		if (!length || map->kind != FT_YAML_MAP) {
			error = ft_yaml_error(err, value,
					      length ? "\"%.64s\" cannot be set: what is above it is no map"
						     : "an empty name in a path%.0s",
					      path);
			break;
		}
		if (!path[length]) {
			error = put_entry(map, path, length, value);
			break;
		}
		char *key = strndup(path, length);
		struct ft_yaml *next = key ? ft_yaml_get(map, key) : NULL;
		if (key && !next) {
			next = new_node(FT_YAML_MAP, value->source, value->line, value->column);
			if (next && (error = put_entry(map, path, length, next))) {
				ft_yaml_free(next);
				next = NULL;
			}
		}
		free(key);
		if (!next) {
			error = error ? error : -ENOMEM;
			break;
		}
		map = next;
		path += length + 1;
	}
	if (error)
		ft_yaml_free(value);
	return error;
}

int ft_yaml_wrap(struct ft_yaml *root, const char *name, const char *around)
{
	for (size_t i = 0; i < root->count; i++) {
		struct ft_yaml *inner = root->items[i];
		if (strcmp(inner->key, name))
			continue;
		struct ft_yaml *outer = new_node(FT_YAML_MAP, inner->source, inner->line, inner->column);
		if (!outer || !(outer->key = strdup(around)) || append(outer, inner)) {
			ft_yaml_free(outer);
			return -ENOMEM;
		}
		outer->key_line = inner->key_line;
		outer->key_column = inner->key_column;
		root->items[i] = outer;
	}
	return 0;
}

static json_t *scalar_json(const struct ft_yaml *node)
{
	const char *text = node->text;
	if (!node->plain)
		return json_string(text);
	if (!*text || !strcmp(text, "~") || !strcmp(text, "null"))
		return json_null();
	if (!strcmp(text, "true") || !strcmp(text, "false"))
		return json_boolean(text[0] == 't');
	char *end;
	errno = 0;
	bool octal = !strncmp(text, "0o", 2), hexadecimal = !strncmp(text, "0x", 2);
	long long whole = strtoll(octal ? text + 2 : text, &end, octal ? 8 : hexadecimal ? 16 : 10);
	if (!*end && !errno)
		return json_integer(whole);
	/* Only what looks like a decimal fraction: "inf", "nan" and "1.2.3.4" are text. */
	if (strspn(text, "+-.0123456789eE") == strlen(text) && strpbrk(text, "0123456789")) {
		double real = strtod(text, &end);
		if (!*end && isfinite(real))
			return json_real(real);
	}
	return json_string(text);
}

json_t *ft_yaml_json(const struct ft_yaml *node)
{
	if (node->kind == FT_YAML_SCALAR)
		return scalar_json(node);
	json_t *json = node->kind == FT_YAML_LIST ? json_array() : json_object();
	for (size_t i = 0; json && i < node->count; i++) {
		json_t *value = ft_yaml_json(node->items[i]);
		if (!value ||
		    (node->kind == FT_YAML_LIST ? json_array_append_new(json, value)
						: json_object_set_new(json, node->items[i]->key, value))) {
			json_decref(json);
			return NULL;
		}
	}
	return json;
}

/* Says whether the pointer's token of that length names the key: ~1 stands for / and ~0 for ~ (RFC 6901). */
static bool token_is(const char *token, size_t length, const char *key)
{
	for (const char *end = token + length; token < end; token++, key++) {
		char c = *token;
		if (c == '~' && token + 1 < end)
			c = *++token == '1' ? '/' : '~';
		if (*key != c)
			return false;
	}
	return !*key;
}

const struct ft_yaml *ft_yaml_at(const struct ft_yaml *root, const char *pointer)
{
	const struct ft_yaml *node = root;
	while (*pointer == '/') {
		const char *token = pointer + 1;
		size_t length = strcspn(token, "/");
		const struct ft_yaml *next = NULL;
		char *end;
		unsigned long index = strtoul(token, &end, 10);
		if (node->kind == FT_YAML_LIST && length && end == token + length && index < node->count)
			next = node->items[index];
		for (size_t i = 0; node->kind == FT_YAML_MAP && i < node->count && !next; i++)
			if (token_is(token, length, node->items[i]->key))
				next = node->items[i];
		if (!next)
			break;
		node = next;
		pointer = token + length;
	}
	return node;
}
