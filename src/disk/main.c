/* foretaste-disk: what was on a guest's disk, and when. Reads the file of what the guest has written and its disk image, beside the
 * running guest or without it, and changes nothing. The guest's file system is hostile: once the files are open, this process is nobody,
 * opens nothing more, and its memory and time are bounded. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/confine.h"
#include "base/units.h"
#include "disk/ext4.h"

#define NOBODY      65534
#define MEMORY_MOST (4ull << 30)
#define CPU_MOST_S  600
#define HASH_MOST   (256ull << 20) /* bytes of a file that tell its versions apart */

enum command { HISTORY, CAT, EXPORT };

struct options {
	enum command command;
	const char *overlay, *base, *what;
	uint64_t since_ns, until_ns;
	bool json, at; /* at: a time was given */
};

static void usage(FILE *to)
{
	fprintf(to, "usage: foretaste-disk history OVERLAY IMAGE BLOCK|PATH [--since TIME] [--until TIME] [--json]\n"
		    "       foretaste-disk cat OVERLAY IMAGE BLOCK|PATH [--at TIME]\n"
		    "       foretaste-disk export OVERLAY IMAGE [--at TIME]\n\n"
		    "history: which versions there were of a block (of 4 KiB, by number) or of a file of an ext4 disk without partitions, and when;\n"
		    "cat: the contents, at a time; export: the whole disk. Both write to standard output.\n"
		    "OVERLAY: the guest's file in the directory disks below state; IMAGE: its disk image.\n"
		    "TIME: 2026-01-31T12:00:00 (local; with Z: UTC), @SECONDS since 1970, or how long ago it was, as \"2 h\".\n"
		    "Without --since all there is; without --at now. Exit status: 0, 1 there was no such file then, or of sysexits(3).\n");
}

/* ---- Times --------------------------------------------------------------------------------------------------------- */

static uint64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_REALTIME, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static bool take_time(const char *text, uint64_t *ns)
{
	struct tm tm = {.tm_isdst = -1};
	struct ft_error err;
	uint64_t ago;
	if (*text == '@') {
		char *end;
		errno = 0;
		double seconds = strtod(text + 1, &end);
		*ns = seconds >= 0 && seconds < 9e9 ? (uint64_t)(seconds * 1e9) : 0;
		return end != text + 1 && !*end && *ns;
	}
	const char *end = strptime(text, "%Y-%m-%dT%H:%M:%S", &tm);
	if (!end)
		end = strptime(text, "%Y-%m-%d %H:%M:%S", &tm);
	if (end && (!*end || !strcmp(end, "Z"))) {
		time_t t = *end ? timegm(&tm) : mktime(&tm);
		*ns = (uint64_t)t * 1000000000u;
		return t > 0;
	}
	if (ft_units_duration(text, &ago, &err))
		return false;
	uint64_t now = now_ns();
	*ns = ago < now ? now - ago : 0;
	return true;
}

static const char *time_text(uint64_t ns, char text[40])
{
	time_t t = (time_t)(ns / 1000000000u);
	struct tm tm;
	size_t n = strftime(text, 32, "%Y-%m-%d %H:%M:%S", localtime_r(&t, &tm));
	snprintf(text + n, 40 - n, ".%03u", (unsigned)(ns / 1000000u % 1000u));
	return text;
}

/* ---- Blocks ---------------------------------------------------------------------------------------------------------- */

static void print(json_t *line, bool json, const char *text)
{
	if (json) {
		json_dumpf(line, stdout, JSON_COMPACT);
		putchar('\n');
	} else {
		puts(text);
	}
	json_decref(line);
}

static bool concerns(const struct ft_version *v, uint64_t block)
{
	return v->type == FT_DISK_RECORD_RESET || (ft_disk_record_has_blocks(v->type) && block >= v->block && block - v->block < v->count);
}

static int block_history(const struct options *o, const struct ft_history *h, uint64_t block, struct ft_error *err)
{
	uint8_t bytes[FT_DISK_RECORD_BLOCK];
	struct ft_view view;
	struct ft_disk_record last = {0};
	uint64_t length = h->head.disk_size - block * FT_DISK_RECORD_BLOCK;
	length = length < sizeof(bytes) ? length : sizeof(bytes);
	int error = ft_view_open(&view, h, err);
	for (uint64_t i = 0; !error && i < h->count && h->versions[i].wall_ns <= o->until_ns; i++) {
		const struct ft_version *v = &h->versions[i];
		struct ft_disk_record record;
		char text[160], when[40];
		/* The one that was there at --since, too: the last before it. */
		bool later = false;
		for (uint64_t k = i + 1; concerns(v, block) && v->wall_ns < o->since_ns && !later && k < h->count; k++)
			later = h->versions[k].wall_ns <= o->since_ns && concerns(&h->versions[k], block);
		if (!concerns(v, block) || later || ft_history_record(h, v, &record))
			continue;
		/* One and its copies. */
		if (record.wall_ns == last.wall_ns && record.icount == last.icount && v->type != FT_DISK_RECORD_RESET)
			continue;
		last = record;
		while (view.next <= i)
			ft_view_forward(&view, h->versions[view.next].wall_ns);
		if (ft_view_read(&view, block * FT_DISK_RECORD_BLOCK, bytes, length))
			continue;
		const char *kind = v->type == FT_DISK_RECORD_RESET ? "restored" : ft_disk_record_is_zero(v->type) ? "zeroed" : "written";
		XXH64_hash_t hash = XXH3_64bits(bytes, length);
		snprintf(text, sizeof(text), "%s  %-8s  instruction %-14llu  xxh3 %016llx", time_text(v->wall_ns, when), kind,
			 (unsigned long long)record.icount, (unsigned long long)hash);
		json_t *line = json_pack("{s:I, s:I, s:s, s:I, s:o}", "block", (json_int_t)block, "ns", (json_int_t)v->wall_ns, "kind", kind,
					 "icount", (json_int_t)record.icount, "xxh3", json_sprintf("%016llx", (unsigned long long)hash));
		print(line, o->json, text);
	}
	ft_view_close(&view);
	return error;
}

/* ---- Files ----------------------------------------------------------------------------------------------------------- */

static int add_hash(void *context, const void *bytes, size_t length)
{
	XXH3_64bits_update(context, bytes, length);
	return 0;
}

struct seen {
	bool there;
	struct ft_ext4_file file;
	uint64_t hash;
};

/* -ENOENT counts as an answer. */
static int look(struct ft_view *view, const char *path, struct seen *seen, struct ft_error *why)
{
	struct ft_error own = {0}, *err = &own;
	*seen = (struct seen){0};
	struct ft_ext4 *fs = ft_ext4_open(view, err);
	if (!fs)
		return ft_error_set(why, err->code, "%s", err->text);
	XXH3_state_t *hash = XXH3_createState();
	int error = hash ? ft_ext4_find(fs, path, &seen->file, err) : ft_error_set(err, -ENOMEM, "no memory");
	if (!error && hash) {
		XXH3_64bits_reset(hash);
		seen->there = true;
		if ((seen->file.mode & 0170000) == 0100000)
			error = ft_ext4_read(fs, &seen->file, HASH_MOST, add_hash, hash, err);
		seen->hash = XXH3_64bits_digest(hash);
	}
	XXH3_freeState(hash);
	ft_ext4_close(fs);
	return !error || error == -ENOENT ? 0 : ft_error_set(why, error, "%s", err->text);
}

static bool same(const struct seen *a, const struct seen *b)
{
	return a->there == b->there && a->hash == b->hash && !memcmp(&a->file, &b->file, sizeof(a->file));
}

static void print_seen(const struct options *o, const struct seen *s, uint64_t ns)
{
	char text[200], when[40], mtime[40];
	time_text(ns, when);
	if (!s->there)
		snprintf(text, sizeof(text), "%s  there is no such file", when);
	else
		snprintf(text, sizeof(text), "%s  inode %-8u %12llu bytes  mode %06o  uid %-5u  modified %.19s  xxh3 %016llx", when,
			 s->file.inode, (unsigned long long)s->file.size, s->file.mode, s->file.uid,
			 time_text(s->file.mtime_s * 1000000000u, mtime), (unsigned long long)s->hash);
	json_t *line = json_pack("{s:I, s:b}", "ns", (json_int_t)ns, "there", s->there);
	if (s->there) {
		json_object_set_new(line, "inode", json_integer(s->file.inode));
		json_object_set_new(line, "generation", json_integer(s->file.generation));
		json_object_set_new(line, "bytes", json_integer((json_int_t)s->file.size));
		json_object_set_new(line, "mode", json_integer(s->file.mode));
		json_object_set_new(line, "uid", json_integer(s->file.uid));
		json_object_set_new(line, "mtime", json_integer((json_int_t)s->file.mtime_s));
		json_object_set_new(line, "xxh3", json_sprintf("%016llx", (unsigned long long)s->hash));
	}
	print(line, o->json, text);
}

static bool touches(const struct ft_view *view, const struct ft_version *v)
{
	for (uint32_t i = 0; ft_disk_record_has_blocks(v->type) && i < v->count; i++)
		if (view->touched[(v->block + i) / 8] >> (v->block + i) % 8 & 1)
			return true;
	return v->type == FT_DISK_RECORD_RESET;
}

/* The file as it was at first, and again each time that something changed of what was read to see it. */
static int file_history(const struct options *o, const struct ft_history *h, const char *path, struct ft_error *err)
{
	struct ft_view view;
	struct seen before, seen;
	uint64_t at = o->since_ns > h->whole_ns ? o->since_ns : h->whole_ns;
	int error = ft_view_open(&view, h, err);
	if (error)
		return error;
	ft_view_forward(&view, at);
	error = look(&view, path, &before, err);
	if (!error)
		print_seen(o, &before, at);
	while (!error && view.next < h->count && h->versions[view.next].wall_ns <= o->until_ns) {
		uint64_t next = view.next;
		while (next < h->count && !touches(&view, &h->versions[next]))
			next++;
		if (next == h->count || h->versions[next].wall_ns > o->until_ns)
			break;
		at = h->versions[next].wall_ns;
		ft_view_forward(&view, at);
		/* In the middle of a write to several places a file system may be none. */
		struct ft_error why = {0};
		int looked = look(&view, path, &seen, &why);
		if (looked == -ESTALE)
			error = ft_error_set(err, looked, "%s", why.text);
		if (!looked && !same(&seen, &before)) {
			print_seen(o, &seen, at);
			before = seen;
		}
	}
	ft_view_close(&view);
	return error;
}

/* ---- Contents ---------------------------------------------------------------------------------------------------------- */

static int put(void *context, const void *bytes, size_t length)
{
	return fwrite(bytes, 1, length, stdout) == length ? 0 : -EIO;
}

static int put_disk(struct ft_view *view, uint64_t from, uint64_t to, struct ft_error *err)
{
	uint8_t bytes[65536];
	int error = 0;
	while (!error && from < to) {
		uint64_t n = to - from < sizeof(bytes) ? to - from : sizeof(bytes);
		error = ft_view_read(view, from, bytes, n);
		if (!error)
			error = put(NULL, bytes, n);
		from += n;
	}
	return error ? ft_error_set(err, error, "the disk cannot be read, or not written: %s", strerror(-error)) : 0;
}

static int put_file(struct ft_view *view, const char *path, struct ft_error *err)
{
	struct ft_ext4_file file;
	struct ft_ext4 *fs = ft_ext4_open(view, err);
	if (!fs)
		return err->code;
	int error = ft_ext4_find(fs, path, &file, err);
	if (!error)
		error = ft_ext4_read(fs, &file, UINT64_MAX, put, NULL, err);
	ft_ext4_close(fs);
	return error;
}

/* ---- The process --------------------------------------------------------------------------------------------------------- */

static const struct ft_confine_rule rules[] = {
    {"write", "what was found, on standard output"},
    {"pread64", "the two files"},
    {"fstat", "their lengths; standard output's buffer"},
    {"newfstatat", "fstat of newer libcs"},
    {"mmap", "malloc; never executable", .arg = 3, .mask = PROT_EXEC, .equals = 0},
    {"munmap", "malloc"},
    {"mremap", "malloc"},
    {"brk", "malloc"},
    {"madvise", "malloc gives memory back"},
    {"futex", "libc's locks"},
    {"sysinfo", "qsort asks how much memory there is"},
    {"getrandom", "malloc; the seed of jansson's hash tables"},
    {"clock_gettime", "the time, where the vDSO cannot tell"},
    {"gettimeofday", "the seed of jansson's hash tables"},
    {"getpid", "the seed of jansson's hash tables"},
    {"openat", "that seed's /dev/urandom; time zones", .error = EACCES},
    {"ioctl", "libc asks whether standard output is a terminal", .error = ENOTTY},
    {"rt_sigreturn", "handlers of the libraries"},
    {"exit_group", "the end"},
};

static int confine(struct ft_error *err)
{
	struct ft_confine_filter filter;
	int error = ft_confine_compile(rules, sizeof(rules) / sizeof(*rules), &filter, err);
	if (error)
		return error;
	tzset();
#if !defined(__SANITIZE_ADDRESS__)
	struct rlimit memory = {.rlim_cur = MEMORY_MOST, .rlim_max = MEMORY_MOST};
	setrlimit(RLIMIT_AS, &memory);
#endif
	struct rlimit cpu = {.rlim_cur = CPU_MOST_S, .rlim_max = CPU_MOST_S};
	setrlimit(RLIMIT_CPU, &cpu);
	error = geteuid() ? 0 : ft_confine_identity(NOBODY, NOBODY, FT_CONFINE_UNDUMPABLE, err);
	if (!error && (error = ft_confine_install(&filter)))
		ft_error_set(err, error, "cannot install the seccomp filter: %s", strerror(-error));
	ft_confine_filter_free(&filter);
	return error;
}

static int work(const struct options *o, int overlay, int base, struct ft_error *err)
{
	struct ft_history h;
	struct ft_view view;
	char *end = NULL, when[40];
	int error = ft_history_open(&h, overlay, base, err);
	if (error)
		return error;
	uint64_t block = o->what ? strtoull(o->what, &end, 10) : 0;
	bool number = o->what && *o->what >= '0' && *o->what <= '9' && !*end;
	if (o->what && !number && *o->what != '/')
		error = ft_error_set(err, -EDOM, "\"%s\" is neither a block's number nor a path that begins with /", o->what);
	else if (number && block >= h.blocks)
		error = ft_error_set(err, -EDOM, "the disk has %llu blocks", (unsigned long long)h.blocks);
	uint64_t from = o->command == HISTORY ? o->since_ns : o->until_ns;
	if (!error && from < h.whole_ns && (from || o->command != HISTORY))
		fprintf(stderr, "foretaste-disk: what was replaced before %s is not all there any more\n", time_text(h.whole_ns, when));
	if (!error && o->command == HISTORY)
		error = number ? block_history(o, &h, block, err) : file_history(o, &h, o->what, err);
	else if (!error && !(error = ft_view_open(&view, &h, err))) {
		ft_view_forward(&view, o->until_ns);
		uint64_t first = block * FT_DISK_RECORD_BLOCK, last = first + FT_DISK_RECORD_BLOCK;
		error = o->command == EXPORT ? put_disk(&view, 0, h.head.disk_size, err)
			: number	     ? put_disk(&view, first, last < h.head.disk_size ? last : h.head.disk_size, err)
					     : put_file(&view, o->what, err);
		ft_view_close(&view);
	}
	if (!error && fflush(stdout))
		error = ft_error_set(err, -EIO, "standard output cannot be written: %s", strerror(errno));
	ft_history_close(&h);
	return error;
}

static bool take_options(struct options *o, int argc, char **argv)
{
	enum { SINCE = 256, UNTIL, AT };
	static const struct option options[] = {{"since", required_argument, NULL, SINCE}, {"until", required_argument, NULL, UNTIL},
						{"at", required_argument, NULL, AT},	   {"json", no_argument, NULL, 'j'},
						{"help", no_argument, NULL, 'h'},	   {0}};
	*o = (struct options){.until_ns = UINT64_MAX};
	for (int option; (option = getopt_long(argc, argv, "jh", options, NULL)) >= 0;) {
		if (option == 'h') {
			usage(stdout);
			exit(EX_OK);
		}
		uint64_t *to = option == SINCE ? &o->since_ns : &o->until_ns;
		if (option == 'j')
			o->json = true;
		else if (option == '?' || !take_time(optarg, to)) {
			if (option != '?')
				fprintf(stderr, "foretaste-disk: \"%s\" is no time\n", optarg);
			return false;
		}
		o->at |= option == AT;
	}
	int left = argc - optind;
	const char *command = left ? argv[optind] : "";
	o->command = !strcmp(command, "history") ? HISTORY : !strcmp(command, "cat") ? CAT : EXPORT;
	if ((o->command == EXPORT && strcmp(command, "export")) || left != (o->command == EXPORT ? 3 : 4))
		return false;
	o->overlay = argv[optind + 1];
	o->base = argv[optind + 2];
	o->what = o->command == EXPORT ? NULL : argv[optind + 3];
	return true;
}

int main(int argc, char **argv)
{
	struct options o;
	struct ft_error err = {0};
	if (!take_options(&o, argc, argv)) {
		usage(stderr);
		return EX_USAGE;
	}
	int overlay = open(o.overlay, O_RDONLY | O_CLOEXEC), base = overlay < 0 ? -1 : open(o.base, O_RDONLY | O_CLOEXEC);
	if (overlay < 0 || base < 0) {
		fprintf(stderr, "foretaste-disk: cannot open %s: %s\n", overlay < 0 ? o.overlay : o.base, strerror(errno));
		return errno == EACCES ? EX_NOPERM : EX_NOINPUT;
	}
	int error = confine(&err);
	if (!error)
		error = work(&o, overlay, base, &err);
	if (!error)
		return EX_OK;
	fflush(stdout);
	fprintf(stderr, "foretaste-disk: %s\n", err.text);
	return error == -ENOENT ? 1 : error == -EDOM ? EX_USAGE : error == -ENOMEM ? EX_OSERR : EX_DATAERR;
}
