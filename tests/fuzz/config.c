/* The configuration as anybody may write it: one input is the main file and, each behind a line "%%%", its rule files and
 * overrides for --set. What is wrong gets one sentence with its place; what is right prints as YAML that means the same. */
#include "input.h"

#include <unistd.h>

#include "gateway/config.h"

static char directory[] = "/tmp/foretaste-fuzz-XXXXXX";
static const char *const names[] = {"main.yaml", "p.yaml", "v.yaml", "c.yaml"};
#define FILES 4u

/* By their whole names: libFuzzer's own files are relative to where it was started. */
static const char *place(const char *name)
{
	static char path[64];
	snprintf(path, sizeof(path), "%s/%s", directory, name);
	return path;
}

static void put(const char *name, const void *bytes, size_t length)
{
	FILE *file = fopen(place(name), "w");
	MUST(file && fwrite(bytes, 1, length, file) == length && !fclose(file));
}

static void remove_all(void)
{
	for (unsigned i = 0; i < FILES; i++)
		unlink(place(names[i]));
	unlink(place("vmlinuz"));
	unlink(place("printed.yaml"));
	rmdir(directory);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	MUST(mkdtemp(directory));
	atexit(remove_all);
	put("vmlinuz", "x", 1);
	return 0;
}

static void check_tree(const struct ft_yaml *node, unsigned depth)
{
	MUST(depth < FT_YAML_DEPTH && node->line >= 1 && node->column >= 1);
	MUST(node->kind != FT_YAML_SCALAR || node->text);
	for (size_t i = 0; i < node->count; i++) {
		MUST((node->kind == FT_YAML_MAP) == (node->items[i]->key != NULL));
		check_tree(node->items[i], depth + 1);
	}
}

static void read_yaml(const char *text, size_t length)
{
	struct ft_yaml *root = NULL;
	struct ft_error err = {0};
	char *exact = malloc(length ? length : 1);
	memcpy(exact, text, length);
	int error = ft_yaml_parse(exact, length, "f", &root, &err);
	free(exact);
	MUST(!error == (root != NULL));
	if (error) {
		MUST(err.text[0]);
		return;
	}
	check_tree(root, 0);
	json_t *json = ft_yaml_json(root);
	MUST(json);
	json_decref(json);
	MUST(ft_yaml_at(root, "/patterns/0/sid") && ft_yaml_at(root, "/a~1b//"));
	/* Any place: what stands behind the first slash of each line. */
	for (size_t i = 0; i < length; i++) {
		const char *end = memchr(text + i, '\n', length - i);
		size_t n = end ? (size_t)(end - text) - i : length - i;
		const char *slash = memchr(text + i, '/', n);
		char *pointer = slash ? strndup(slash, n - (size_t)(slash - text - i)) : NULL;
		MUST(!pointer || ft_yaml_at(root, pointer));
		free(pointer);
		i += n;
	}
	ft_yaml_free(root);
}

/* What is in effect loads to the same configuration. */
static void check_printed(const struct ft_config *config)
{
	struct ft_config again;
	struct ft_error err = {0};
	FILE *file = fopen(place("printed.yaml"), "w");
	MUST(file);
	ft_config_print(config, file);
	MUST(!fclose(file));
	int error = ft_config_load(&again, place("printed.yaml"), NULL, 0, &err);
	if (error)
		fprintf(stderr, "%s\n", err.text);
	MUST(!error);
	MUST(json_equal(config->values, again.values));
	ft_config_free(&again);
}

static void check_parts(const struct ft_config *config)
{
	json_t *parts[] = {ft_config_dataplane(config), ft_config_ledger(config)};
	MUST(parts[0] && parts[1]);
	json_decref(parts[0]);
	json_decref(parts[1]);
	const char *name;
	json_t *guest;
	json_object_foreach(json_object_get(config->values, "guests"), name, guest)
	{
		json_t *part = ft_config_vmm(config, name);
		MUST(part);
		json_decref(part);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = malloc(size + 1), *at = text, *sets[4];
	size_t count = 0, file = 0;
	memcpy(text, data, size);
	text[size] = 0;
	for (unsigned i = 1; i < FILES; i++)
		put(names[i], "", 0);
	while (at) {
		char *end = strstr(at, "\n%%%\n");
		size_t length = end ? (size_t)(end + 1 - at) : size - (size_t)(at - text);
		if (file < FILES) {
			put(names[file], at, length);
			read_yaml(at, length);
		} else if (count < 4) {
			at[strcspn(at, "\n")] = 0;
			sets[count++] = at;
		}
		file++;
		at = end ? end + 5 : NULL;
	}
	struct ft_config config;
	struct ft_error err = {0};
	if (ft_config_load(&config, place("main.yaml"), (const char *const *)sets, count, &err)) {
		MUST(err.text[0] && err.code < 0 && ft_config_exit(err.code));
	} else {
		check_parts(&config);
		check_printed(&config);
		ft_config_free(&config);
	}
	free(text);
	return 0;
}
