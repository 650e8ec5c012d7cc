/* Makes foretaste.yaml(5) at build time: copies its frame to standard output and puts the table of keys, as the parser
 * uses it, where the frame has a line "@KEYS@". Not installed. */
#include <stdio.h>
#include <string.h>
#include <sysexits.h>

#include "gateway/keys.h"

/* Text as roff shows it: no request at the start of a line, no escapes, hyphens that can be copied. */
static void text(const char *s)
{
	if (*s == '.' || *s == '\'')
		fputs("\\&", stdout);
	for (; *s; s++) {
		if (*s == '\\')
			fputs("\\e", stdout);
		else if (*s == '-')
			fputs("\\-", stdout);
		else
			putchar(*s);
	}
}

/* "guests.NAME.memory" */
static void path(const struct ft_key *key)
{
	for (const char *p = key->path; *p; p++) {
		if (*p == '*')
			fputs("NAME", stdout);
		else
			putchar(*p);
	}
}

/* "enforce|observe" as "enforce, observe"; "1..64" as "1 to 64" */
static void expect(const char *s)
{
	for (; *s; s++) {
		if (*s == '|')
			fputs(", ", stdout);
		else if (s[0] == '.' && s[1] == '.') {
			fputs(" to ", stdout);
			s++;
		} else
			putchar(*s);
	}
}

static const char *const kinds[] = {
    [FT_KEY_MAP] = "map",
    [FT_KEY_TEXT] = "text",
    [FT_KEY_PATH] = "path",
    [FT_KEY_STATE] = "path below state",
    [FT_KEY_SIZE] = "size",
    [FT_KEY_DURATION] = "duration",
    [FT_KEY_WHOLE] = "whole number",
    [FT_KEY_REAL] = "number",
    [FT_KEY_CHOICE] = "one of",
    [FT_KEY_NAMES] = "list of text",
    [FT_KEY_PATHS] = "list of paths",
    [FT_KEY_ADDRESS] = "IPv4 address",
    [FT_KEY_ADDRESS6] = "IPv6 address",
    [FT_KEY_MAC] = "Ethernet address",
    [FT_KEY_VLAN] = "number from 1 to 4094",
    [FT_KEY_PERCENT] = "percent of one processor",
};
_Static_assert(sizeof(kinds) / sizeof(*kinds) == FT_KEY_KINDS, "a kind of key has no name");

static void kind(const struct ft_key *key)
{
	bool word = key->kind == FT_KEY_NAMES || key->kind == FT_KEY_ADDRESS || key->kind == FT_KEY_VLAN;
	printf("%s", kinds[key->kind]);
	if (key->expect) {
		fputs(word ? ", or one of " : key->kind == FT_KEY_CHOICE ? " " : " from ", stdout);
		expect(key->expect);
	}
}

static void print_key(const struct ft_key *key)
{
	size_t length = strlen(key->path);
	bool named = length > 2 && !strcmp(key->path + length - 2, ".*");
	printf(".TP\n.B ");
	path(key);
	putchar('\n');
	if (key->kind == FT_KEY_MAP) {
		text(named ? "One of them; NAME is yours to choose." : key->doc ? key->doc : "");
		putchar('\n');
		return;
	}
	if (key->doc)
		text(key->doc);
	fputs("\n.br\n(", stdout);
	kind(key);
	if (key->fallback) {
		fputs("; default: ", stdout);
		text(key->fallback);
	} else if (key->example) {
		fputs("; no default, for example: ", stdout);
		text(key->example);
	}
	fputs(")\n", stdout);
}

int main(int argc, char **argv)
{
	char line[1024];
	bool found = false;
	FILE *frame = argc == 2 ? fopen(argv[1], "re") : NULL;
	if (!frame) {
		fprintf(stderr, "usage: foretaste-manual FRAME\n");
		return argc == 2 ? EX_NOINPUT : EX_USAGE;
	}
	while (fgets(line, sizeof(line), frame)) {
		if (strcmp(line, "@KEYS@\n")) {
			fputs(line, stdout);
			continue;
		}
		found = true;
		for (size_t i = 0; i < ft_keys_count; i++)
			print_key(&ft_keys[i]);
	}
	fclose(frame);
	if (!found)
		fprintf(stderr, "%s has no line @KEYS@\n", argv[1]);
	return !found ? EX_DATAERR : fflush(stdout) || ferror(stdout) ? EX_IOERR : EX_OK;
}
