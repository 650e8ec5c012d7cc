/* foretaste-verify: is this ledger what was signed? Needs the public key and nothing of the gateway: it shares only the hash
 * with the program that wrote the ledger, and opens files for reading alone. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <jansson.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#include "verify/cosign.h"
#include "verify/directory.h"
#include "verify/proof.h"

/* Exit statuses beside those of sysexits.h; the manual has them. */
enum { FRESH = 0, TAMPERED = 1, NOT_PROVEN_FRESH = 3 };

#define FILE_MAX (1u << 30)

struct options {
	const char *directory, *key, *witness, *proof, *cosign;
	const char *since[16];
	unsigned since_count;
	bool json;
};

struct state {
	char key_text[1024];
	struct ft_seen_key key, witness;
	bool has_witness;
	struct ft_kept *kept;
	size_t kept_count;
	struct ft_checked checked;
	struct ft_findings findings;
};

static int complain(int code, const char *format, const char *what)
{
	fprintf(stderr, "foretaste-verify: ");
	fprintf(stderr, format, what);
	fprintf(stderr, "\n");
	return code;
}

/* A key as it is, or the file that has it. */
static bool load_key(const char *argument, struct ft_seen_key *key, enum ft_seen_kind kind, char text[1024])
{
	size_t length = strlen(argument);
	char *file = NULL;
	if (!ft_seen_key_parse(key, argument, length)) {
		file = ft_read_file(AT_FDCWD, argument, 1000, &length);
		if (!file)
			return false;
		while (length && (file[length - 1] == '\n' || file[length - 1] == ' '))
			length--;
		file[length] = 0;
		argument = file;
	}
	bool good = length < 1024 && ft_seen_key_parse(key, argument, length) && key->kind == kind;
	if (good)
		memcpy(text, argument, length + 1);
	free(file);
	return good;
}

/* ---- What somebody kept ----------------------------------------------------------------------------------------- */

static int keep(struct state *s, const char *note, size_t length, const char *file, uint64_t line)
{
	struct ft_kept *more = realloc(s->kept, (s->kept_count + 1) * sizeof(*more));
	if (!more)
		return EX_OSERR;
	s->kept = more;
	struct ft_kept *k = &more[s->kept_count];
	const char *wrong = ft_seen_open(&k->seen, note, length, &s->key, s->has_witness ? &s->witness : NULL);
	const char *name = strrchr(file, '/') ? strrchr(file, '/') + 1 : file;
	if (line)
		snprintf(k->where, sizeof(k->where), "%.60s line %" PRIu64, name, line);
	else
		snprintf(k->where, sizeof(k->where), "%.80s", name);
	if (wrong)
		ft_finding(&s->findings, "the checkpoint of %s %s", k->where, wrong);
	else if (s->has_witness && !k->seen.witnessed)
		ft_finding(&s->findings, "the checkpoint of %s has no cosignature of the witness", k->where);
	else
		s->kept_count++;
	return 0;
}

/* The checkpoints among a feed's lines (`engine` events of the module "checkpoint"). */
static int keep_feed(struct state *s, const char *text, size_t length, const char *file)
{
	uint64_t number = 0, found = 0;
	int status = 0;
	for (const char *at = text, *end = text + length; at < end && !status;) {
		const char *newline = memchr(at, '\n', (size_t)(end - at));
		size_t n = newline ? (size_t)(newline - at) : (size_t)(end - at);
		number++;
		/* Most lines are none: only those are parsed that may be. */
		if (memmem(at, n, "\"checkpoint\"", 12)) {
			json_t *line = json_loadb(at, n, 0, NULL);
			const json_t *engine = json_object_get(line, "engine");
			const char *module = json_string_value(json_object_get(engine, "module"));
			const json_t *message = json_object_get(engine, "message");
			if (module && !strcmp(module, "checkpoint") && json_is_string(message)) {
				status = keep(s, json_string_value(message), json_string_length(message), file, number);
				found++;
			}
			json_decref(line);
		}
		at += n + 1;
	}
	return status ? status : found ? 0 : complain(EX_DATAERR, "%s has no checkpoint of a ledger", file);
}

static int load_since(struct state *s, const char *file)
{
	size_t length;
	char *text = ft_read_file(AT_FDCWD, file, FILE_MAX, &length);
	if (!text)
		return complain(EX_NOINPUT, "cannot read %s", file);
	size_t n = length && text[0] != '{' ? ft_seen_first(text, length) : 0;
	int status;
	if (length && text[0] == '{')
		status = keep_feed(s, text, length, file);
	else
		/* A checkpoint, or the first of several. */
		status = keep(s, text, n ? n : length, file, 0);
	free(text);
	return status;
}

/* ---- What comes of it ------------------------------------------------------------------------------------------- */

static int say(const struct state *s, const struct options *o)
{
	const struct ft_checked *c = &s->checked;
	bool fresh = s->kept_count > 0;
	int code = s->findings.count ? TAMPERED : fresh ? FRESH : NOT_PROVEN_FRESH;
	uint64_t newest = 0;
	for (size_t i = 0; i < s->kept_count; i++)
		newest = s->kept[i].seen.size > newest ? s->kept[i].seen.size : newest;
	if (o->json) {
		json_t *findings = json_array(), *out;
		for (unsigned i = 0; i < s->findings.count && i < FT_FINDINGS; i++)
			json_array_append_new(findings, json_string(s->findings.text[i]));
		out = json_pack("{s:s, s:b, s:b, s:I, s:I, s:i, s:I, s:i, s:o}", "ledger", s->key.name, "consistent",
				!s->findings.count, "compared", fresh, "entries", (json_int_t)c->size, "first", (json_int_t)c->first,
				"epoch", (int)c->epoch, "compared_to", (json_int_t)newest, "findings_count",
				(int)s->findings.count, "findings", findings);
		json_dumpf(out, stdout, JSON_COMPACT);
		printf("\n");
		json_decref(out);
		return code;
	}
	for (unsigned i = 0; i < s->findings.count && i < FT_FINDINGS; i++)
		printf("WRONG: %s\n", s->findings.text[i]);
	if (s->findings.count > FT_FINDINGS)
		printf("WRONG: and %u more\n", s->findings.count - FT_FINDINGS);
	if (s->findings.count) {
		printf("%s is not as it was written.\n", s->key.name);
		return code;
	}
	if (c->hashes_missing)
		printf("The newest %" PRIu64 " hashes are not in the tiles, as after a power cut; the entries are.\n", c->hashes_missing);
	if (c->first)
		printf("Entries before %" PRIu64 " were removed; their hashes are there.\n", c->first);
	if (!c->size)
		printf("%s has no entries yet; freshness not proven.\n", s->key.name);
	else if (fresh)
		printf("%s is consistent up to entry %" PRIu64 " and goes on from the %" PRIu64 " entries known before.\n",
		       s->key.name, c->size - 1, newest);
	else
		printf("%s is consistent up to entry %" PRIu64 "; freshness not proven.\n", s->key.name, c->size - 1);
	return code;
}

static int check_directory(struct state *s, const struct options *o)
{
	int directory = open(o->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (directory < 0)
		return complain(EX_NOINPUT, "cannot open the directory %s", o->directory);
	struct ft_findings before = s->findings;
	int error = 0;
	/* A ledger at work: entries that were not signed when we came are signed a moment later. */
	for (unsigned attempt = 0; attempt < 4; attempt++) {
		struct timespec moment = {.tv_nsec = 500000000};
		if (attempt) {
			nanosleep(&moment, NULL);
			free(s->checked.checkpoints);
			s->findings = before;
		}
		error = ft_directory_check(directory, &s->key, s->key_text, s->kept, s->kept_count, &s->checked, &s->findings);
		if (error || !s->checked.tail)
			break;
	}
	close(directory);
	if (error)
		return complain(error == -ENOMEM ? EX_OSERR : EX_NOINPUT, "the ledger cannot be read: %s", strerror(-error));
	if (!o->cosign)
		return say(s, o);
	if (s->findings.count || !s->checked.size)
		return say(s, o);
	return ft_cosign(o->cosign, s->checked.checkpoints + s->checked.last, s->checked.last_length, stdout)
		   ? complain(EX_NOINPUT, "cannot cosign with %s", o->cosign)
		   : FRESH;
}

static int check_proof(struct state *s, const struct options *o)
{
	size_t length;
	char *text = strcmp(o->proof, "-") ? ft_read_file(AT_FDCWD, o->proof, 1u << 20, &length) : NULL;
	if (!strcmp(o->proof, "-") && (text = malloc(1u << 20)))
		length = fread(text, 1, 1u << 20, stdin);
	if (!text)
		return complain(EX_NOINPUT, "cannot read %s", o->proof);
	struct ft_proof proof;
	const char *wrong = ft_proof_check(&proof, text, length, &s->key, s->has_witness ? &s->witness : NULL,
					   s->kept_count ? &s->kept[0].seen : NULL);
	if (!wrong && s->has_witness && !proof.at.witnessed)
		wrong = "has no cosignature of the witness";
	int code = wrong ? TAMPERED : 0;
	if (wrong)
		printf("WRONG: the proof %s\n", wrong);
	else if (proof.consistency)
		printf("%s: the tree of %" PRIu64 " entries goes on from that of %" PRIu64 ".\n", s->key.name, proof.at.size, proof.index);
	else if (proof.length > 9)
		printf("%s has as entry %" PRIu64 " of %" PRIu64 ":\n%.*s\n", s->key.name, proof.index, proof.at.size,
		       (int)proof.length - 9, (const char *)proof.entry + 9);
	free(proof.entry);
	free(text);
	return code;
}

static int usage(FILE *to, int code)
{
	fprintf(to, "usage: foretaste-verify DIR --key KEY [--since FILE]... [--witness KEY] [--cosign SECRET] [--json]\n"
		    "       foretaste-verify --proof FILE --key KEY [--since CHECKPOINT] [--witness KEY]\n"
		    "       foretaste-verify --new-witness NAME\n"
		    "KEY: a key as text, or the file that has it. FILE of --since: a checkpoint, with cosignatures or without, or a feed.\n"
		    "Exit status: 0 consistent, and goes on from what --since says; 3 consistent, freshness not proven; 1 it is not.\n");
	return code;
}

int main(int argc, char **argv)
{
	enum { KEY = 256, SINCE, WITNESS, PROOF, COSIGN, NEW_WITNESS, JSON, HELP };
	static const struct option options[] = {
	    {"key", required_argument, NULL, KEY},	   {"since", required_argument, NULL, SINCE},
	    {"witness", required_argument, NULL, WITNESS}, {"proof", required_argument, NULL, PROOF},
	    {"cosign", required_argument, NULL, COSIGN},   {"new-witness", required_argument, NULL, NEW_WITNESS},
	    {"json", no_argument, NULL, JSON},		   {"help", no_argument, NULL, HELP},
	    {0},
	};
	struct options o = {0};
	static struct state s;
	if (sodium_init() < 0)
		return complain(EX_OSERR, "%s cannot be used", "libsodium");
	for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
		switch (option) {
		case KEY:
			o.key = optarg;
			break;
		case SINCE:
			if (o.since_count == 16)
				return usage(stderr, EX_USAGE);
			o.since[o.since_count++] = optarg;
			break;
		case WITNESS:
			o.witness = optarg;
			break;
		case PROOF:
			o.proof = optarg;
			break;
		case COSIGN:
			o.cosign = optarg;
			break;
		case NEW_WITNESS:
			return ft_cosign_make(optarg, stdout, stderr) ? usage(stderr, EX_USAGE) : 0;
		case JSON:
			o.json = true;
			break;
		case HELP:
			return usage(stdout, 0);
		default:
			return usage(stderr, EX_USAGE);
		}
	}
	o.directory = optind < argc ? argv[optind] : NULL;
	if (!o.key || !o.directory == !o.proof || optind + 1 < argc)
		return usage(stderr, EX_USAGE);
	if (!load_key(o.key, &s.key, FT_SEEN_LOG, s.key_text))
		return complain(EX_USAGE, "%s is no key of a ledger, nor a file that has one", o.key);
	char text[1024];
	s.has_witness = o.witness != NULL;
	if (o.witness && !load_key(o.witness, &s.witness, FT_SEEN_WITNESS, text))
		return complain(EX_USAGE, "%s is no key of a witness, nor a file that has one", o.witness);
	int status = 0;
	for (unsigned i = 0; i < o.since_count && !status; i++)
		status = load_since(&s, o.since[i]);
	if (!status)
		status = o.proof ? check_proof(&s, &o) : check_directory(&s, &o);
	free(s.kept);
	free(s.checked.checkpoints);
	return status;
}
