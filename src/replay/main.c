/* foretaste-replay: replays a guest from its journal, in a process that may read the files it was given and write what it finds,
 * and nothing else. `foretaste replay` becomes this program. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#include "base/confine.h"
#include "clone/book.h"
#include "replay/compare.h"
#include "replay/directory.h"
#include "replay/options.h"
#include "replay/past.h"
#include "replay/peers.h"
#include "replay/trace.h"
#include "snapshot/key.h"

#define EX_DIVERGED 1

struct session {
	struct ft_replay_options o;
	struct ft_journal journal;
	struct ft_replay replay;
	struct ft_trace trace;
	struct ft_replay_peers peers;
	struct ft_past verdict; /* record NULL: it is about none */
	struct ft_witness witness; /* on the machine, where a verdict is made again */
	struct ft_report nobody;   /* whom that tells */
	struct ft_replay other; /* the machine of --against */
	struct ft_witness other_witness;
	int against;		   /* its file, -1: there is none */
	struct ft_snapshot_seal seal, other_seal; /* of checkpoint or kept seed, and of that one; wiped when they are restored */
	bool found;		   /* the machine stands where the verdict's input was taken */
	struct ft_error trouble;   /* with a request in the journal */
	crypto_generichash_state frames_hash; /* of all frames that the guest sent: lengths and bytes */
	uint64_t frames_out, console_bytes;
};

static const struct ft_confine_rule rules[] = {
    {"write", "what it finds, on stdout and stderr"},
    {"pread64", "the disk's base image, the checkpoint"},
    {"read", "the same"},
    {"lseek", "the same"},
    {"fstat", "how long the checkpoint is; stdio"},
    {"newfstatat", "fstat of newer libcs"},
    {"mmap", "the checkpoint; malloc; never executable", .arg = 3, .mask = PROT_EXEC, .equals = 0},
    {"munmap", "the same"},
    {"mremap", "malloc"},
    {"brk", "malloc"},
    {"madvise", "malloc gives memory back"},
    {"mprotect", "the guard page below the engine's signal stack; never executable", .arg = 3, .mask = PROT_EXEC, .equals = 0},
    {"sigaltstack", "the engine's handlers"},
    {"rt_sigaction", "the engine's handlers"},
    {"rt_sigprocmask", "the engine's handlers"},
    {"rt_sigreturn", "the engine's handlers"},
    {"close", "the end"},
    {"futex", "libc's locks"},
    {"getrandom", "malloc"},
    {"clock_gettime", "how long it took, where the vDSO cannot tell"},
    {"ioctl", "libc asks whether stdout is a terminal", .error = ENOTTY},
    {"openat", "libc in error paths: message catalogues, time zones", .error = EACCES},
    {"exit_group", "the end"},
};

/* ---- What comes out -------------------------------------------------------------------------------------------------- */

static void on_net_tx(void *context, const void *frame, size_t length)
{
	struct session *s = context;
	uint32_t n = (uint32_t)length;
	crypto_generichash_update(&s->frames_hash, (const uint8_t *)&n, sizeof(n));
	crypto_generichash_update(&s->frames_hash, frame, length);
	s->frames_out++;
	ft_replay_peers_sent(&s->peers, &s->replay, frame, length);
	ft_trace_net_tx(&s->trace, frame, length);
}

static void on_console(void *context, const char *bytes, size_t length)
{
	((struct session *)context)->console_bytes += length;
}

static void on_record(void *context, const struct ft_record *record)
{
	ft_trace_record(&((struct session *)context)->trace, record);
}

/* Requests of trials that pass by: is this the one? Others need not be sound. */
static bool on_trial(void *context, const struct ft_record *record)
{
	struct session *s = context;
	if (s->found)
		return false;
	struct ft_error err = {0};
	int status = ft_transcript_take(&s->verdict.transcript, (uint32_t)record->value, record->data, record->length, &err);
	if (status < 0)
		s->trouble = err;
	s->found = status == 1;
	return s->found;
}

static void steps(struct session *s)
{
	struct ft_machine *m = s->replay.m;
	struct ft_error err = {0};
	for (uint64_t i = 0; i < s->o.steps; i++) {
		struct ft_replay_limits one = {.icount = m->icount + 1, .vtime_ns = UINT64_MAX};
		struct ft_cpu_state c;
		if (ft_replay_run(&s->replay, &one, &err) != FT_REPLAY_LIMIT)
			break;
		m->engine_ops->get(m->engine, &c);
		printf("%14" PRIu64 " rip %016" PRIx64 " rax %016" PRIx64 " rbx %016" PRIx64 " rcx %016" PRIx64 " rdx %016" PRIx64
		       " rsi %016" PRIx64 " rdi %016" PRIx64 " rsp %016" PRIx64 " rbp %016" PRIx64 " flags %06" PRIx64 " cr3 %" PRIx64 " cpl %u\n",
		       m->icount, c.rip, c.gpr[FT_RAX], c.gpr[FT_RBX], c.gpr[FT_RCX], c.gpr[FT_RDX], c.gpr[FT_RSI], c.gpr[FT_RDI],
		       c.gpr[FT_RSP], c.gpr[FT_RBP], c.rflags, c.cr3, c.segment[FT_CS].selector & 3u);
	}
}

static const char *end_text(enum ft_replay_end end)
{
	switch (end) {
	case FT_REPLAY_LIMIT:
		return "reached";
	case FT_REPLAY_OVER:
		return "end of the journal";
	case FT_REPLAY_RESET:
		return "guest reset";
	case FT_REPLAY_DIVERGED:
		return "DIVERGED";
	case FT_REPLAY_FAILED:
		break;
	}
	return "failed";
}

static void report(struct session *s, const struct ft_replay_directory *d, enum ft_replay_end end, const struct ft_error *err, double took)
{
	struct ft_machine *m = s->replay.m;
	struct ft_journal *j = &s->journal;
	uint8_t hash[32];
	char frames[65], chain[65], when[32];
	crypto_generichash_final(&s->frames_hash, hash, sizeof(hash));
	sodium_bin2hex(frames, sizeof(frames), hash, sizeof(hash));
	sodium_bin2hex(chain, sizeof(chain), j->hash, sizeof(j->hash));
	uint64_t wall = m->clock.epoch_ns + ft_machine_vtime(m);
	time_t seconds = (time_t)(wall / 1000000000u);
	struct tm utc;
	strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%S", gmtime_r(&seconds, &utc));
	uint64_t state = ft_machine_hash(m);
	if (s->o.json) {
		printf("{\"end\":\"%s\",\"run\":%u,\"checkpoint\":%u,\"from\":%" PRIu64 ",\"instructions\":%" PRIu64 ",\"time\":\"%s.%06" PRIu64
		       "Z\",\"vtime_ns\":%" PRIu64 ",\"state\":\"%016" PRIx64 "\",\"inputs\":%" PRIu64 ",\"frames_in\":%" PRIu64
		       ",\"frames_out\":%" PRIu64 ",\"frames_hash\":\"%s\",\"checks\":%" PRIu64 ",\"checked\":%" PRIu64 ",\"chunks\":%" PRIu64 ",\"chain\":\"%s\",\"in_ring\":%" PRIu64
		       ",\"torn\":%" PRIu64 ",\"stored\":%" PRIu64 ",\"control_stored\":%" PRIu64 ",\"payload\":%" PRIu64 ",\"of_peers\":%" PRIu64 ",\"of_peers_bytes\":%" PRIu64 ",\"took_s\":%.3f}\n",
		       end_text(end), d->run, d->checkpoint, d->icount, m->icount, when, wall / 1000 % 1000000, ft_machine_vtime(m), state,
		       s->replay.inputs, s->replay.frames_in, s->frames_out, frames, s->replay.checks, s->replay.checked, j->chunks, chain, j->in_ring, j->torn,
		       j->stored_bytes, j->control_stored, j->payload_bytes, s->peers.frames, s->peers.frame_bytes, took);
	} else {
		printf("%s at instruction %" PRIu64 ", %s.%06" PRIu64 "Z: state %016" PRIx64 "\n", end_text(end), m->icount, when,
		       wall / 1000 % 1000000, state);
		printf("from checkpoint %u of run %u (instruction %" PRIu64 "): %" PRIu64 " inputs, %" PRIu64 " frames in, %" PRIu64
		       " out (%.16s...), %" PRIu64 " state hashes as recorded, in %.1f s\n",
		       d->checkpoint, d->run, d->icount, s->replay.inputs, s->replay.frames_in, s->frames_out, frames, s->replay.checks, took);
		printf("journal: %" PRIu64 " chunks up to %.16s..., %" PRIu64 " bytes of records beyond them%s\n", j->chunks, chain, j->in_ring,
		       j->torn ? "; its last chunk was not written whole" : "");
	}
	if (err->code)
		fprintf(stderr, "foretaste-replay: %s\n", err->text);
}

static int exit_of(int error)
{
	return error == -EINVAL ? EX_USAGE : error == -ENOENT ? EX_NOINPUT : error == -EBADMSG || error == -ENOTSUP ? EX_DATAERR
	       : error == -EACCES || error == -EPERM || error == -EKEYREJECTED ? EX_NOPERM : error == -ENOMEM ? EX_OSERR : EX_SOFTWARE;
}

/* ---- The whole ------------------------------------------------------------------------------------------------------- */

static double now_s(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int confine(const struct ft_replay_options *o, struct ft_error *err)
{
	static const size_t own = sizeof(rules) / sizeof(*rules);
	struct ft_confine_filter filter;
	/* Who makes a verdict again forks as a vmm does. */
	bool forks = o->verdict && !o->to_verdict;
	struct ft_confine_rule *all = calloc(own + ft_hygiene_seed_rule_count, sizeof(*all));
	if (!all)
		return ft_error_set(err, -ENOMEM, "no memory for the seccomp filter");
	memcpy(all, rules, sizeof(rules));
	memcpy(all + own, ft_hygiene_seed_rules, ft_hygiene_seed_rule_count * sizeof(*all));
	int error = ft_confine_compile(all, own + (forks ? ft_hygiene_seed_rule_count : 0), &filter, err);
	free(all);
	if (error)
		return error;
	uid_t uid = geteuid() ? geteuid() : o->uid;
	gid_t gid = geteuid() ? getegid() : o->uid;
	error = ft_confine_identity(uid, gid, FT_CONFINE_UNDUMPABLE, err);
	if (!error && (error = ft_confine_install(&filter)))
		ft_error_set(err, error, "cannot install the seccomp filter: %s", strerror(-error));
	ft_confine_filter_free(&filter);
	return error;
}

/* The files: a journal from the right checkpoint on; of a verdict, the one before its seed was forked. */
static int open_journal(struct session *s, struct ft_replay_directory *d, int *checkpoint, struct ft_journal_files *files, struct ft_error *err)
{
	struct ft_replay_place *place = &s->o.place;
	if (s->verdict.record) {
		if (!s->verdict.seed.run)
			return ft_error_set(err, -ENODATA, "no journal covers this verdict: it can be made again from its kept seed alone (--kept)");
		place->run = s->verdict.seed.run;
		/* A checkpoint at the same count may be behind it. */
		place->icount = s->verdict.seed.icount ? s->verdict.seed.icount - 1 : 0;
	}
	int error = ft_replay_directory_open(d, s->o.directory, place, checkpoint, files, err);
	if (error == -ENOENT && s->verdict.record) {
		err->code = 0;
		place->icount = s->verdict.seed.icount;
		error = ft_replay_directory_open(d, s->o.directory, place, checkpoint, files, err);
	}
	return error;
}

/* The key of a file; where it is encrypted and there is none, whoever opens it says so. */
static int unseal(struct ft_replay *r, int file, struct ft_snapshot_seal *seal, const uint8_t *key, struct ft_error *err)
{
	struct ft_snapshot_header header;
	int error = ft_snapshot_peek(file, &header, err);
	if (!error && header.encrypted && key) {
		error = ft_snapshot_unseal(seal, file, key, err);
		r->seal = error ? NULL : seal;
	}
	return error;
}

/* Journals lie side by side, each in a directory of its guest's name. */
static int open_peers(struct session *s, uint64_t wall_ns, const uint8_t *key, struct ft_error *err)
{
	char directory[PATH_MAX];
	if (s->o.peer_count) {
		s->replay.journal = &s->journal;
		ft_replay_peers_main(&s->peers, &s->replay);
	}
	for (unsigned i = 0; i < s->o.peer_count; i++) {
		const char *image = strchr(s->o.peers[i], '=') + 1;
		snprintf(directory, sizeof(directory), "%s/../%.*s", s->o.directory, (int)(image - s->o.peers[i] - 1), s->o.peers[i]);
		int disk = *image ? open(image, O_RDONLY | O_CLOEXEC) : -1;
		if (*image && disk < 0)
			return ft_error_set(err, -errno, "%s: %s", image, strerror(errno));
		int error = ft_replay_peers_add(&s->peers, directory, wall_ns, disk, key, err);
		if (disk >= 0)
			close(disk);
		/* One that nothing refers to need not be there. */
		if (error && error != -ENOENT)
			return error;
	}
	err->code = 0;
	return 0;
}

/* Another guest like this one: what is not the same is said by its snapshot. */
static int make_other(struct session *s, struct ft_machine_config config, int disk, const uint8_t *key, struct ft_error *err)
{
	struct ft_snapshot_header header;
	int own = -1;
	s->against = open(s->o.against, O_RDONLY | O_CLOEXEC);
	if (s->against < 0 || (s->o.against_disk && (own = open(s->o.against_disk, O_RDONLY | O_CLOEXEC)) < 0))
		return ft_error_set(err, -errno, "%s: %s", s->against < 0 ? s->o.against : s->o.against_disk, strerror(errno));
	int error = ft_snapshot_peek(s->against, &header, err);
	if (!error && (header.memory < FT_RAM_MIN || header.memory > FT_RAM_MAX || header.memory % FT_PAGE_SIZE))
		error = ft_error_set(err, -EBADMSG, "%s is no snapshot", s->o.against);
	if (!error)
		error = unseal(&s->other, s->against, &s->other_seal, key, err);
	config.memory = header.memory;
	config.disk_fd = error || !header.disk_size ? -1 : own >= 0 ? own : disk;
	if (!error && header.disk_size && config.disk_fd < 0)
		error = ft_error_set(err, -EINVAL, "that guest had a disk: its base image is needed (--against-disk)");
	if (!error && !(s->other.m = ft_machine_create(&config, err)))
		error = err->code;
	if (own >= 0)
		close(own);
	return error;
}

/* A machine for what the files are of. The operator's key is needed for no longer than this: what is kept are the keys of the files. */
static int make_machine(struct session *s, struct ft_journal_files *files, int checkpoint, int disk, const uint8_t *key, struct ft_error *err)
{
	struct ft_machine_config config = {.engine = &ft_engine_soft, .disk_fd = -1};
	struct ft_snapshot_header header;
	int error = ft_snapshot_peek(checkpoint, &header, err);
	if (!error)
		error = unseal(&s->replay, checkpoint, &s->seal, key, err);
	if (!error && s->o.kept)
		error = ft_replay_create_kept(&s->replay, &config, checkpoint, disk, err);
	files->key = key;
	if (!error && !s->o.kept)
		error = ft_journal_open(&s->journal, files, err);
	files->key = NULL;
	if (!error && !s->o.kept)
		error = open_peers(s, header.created_ns, key, err);
	if (!error && !s->o.kept)
		error = ft_replay_create(&s->replay, &config, &s->journal, disk, err);
	return error || !s->o.against ? error : make_other(s, config, disk, key, err);
}

static int restore_other(struct session *s, struct ft_error *err)
{
	uint8_t *book = NULL;
	size_t length;
	if (!s->o.against)
		return 0;
	int error = ft_replay_restore(&s->other, s->against, err);
	if (error) {
		ft_error_prefix(err, "%s", s->o.against);
		return error;
	}
	error = ft_snapshot_note(&s->other.load, FT_SNAPSHOT_BOOK, &book, &length, err);
	ft_witness_live(&s->other_witness, s->other.m, &s->nobody, 0);
	if (!error)
		error = ft_book_load(&s->other_witness.observer, book, length, err);
	free(book);
	return error == -ENOENT ? 0 : error;
}

/* Who watches from the checkpoint on, and what was known there. */
static int watch(struct session *s, struct ft_error *err)
{
	unsigned kinds = 0;
	uint8_t *book = NULL;
	size_t length = 0;
	if (s->o.trace && ft_trace_kinds(s->o.trace, &kinds))
		return ft_error_set(err, -EINVAL, "--trace takes syscalls, network, disk, console and inputs, with commas between them");
	int error = ft_snapshot_note(&s->replay.load, FT_SNAPSHOT_BOOK, &book, &length, err);
	if (error && error != -ENOENT)
		return error;
	ft_report_begin(&s->nobody, -1, FT_ROLE_LIVE, 0);
	error = 0;
	if (s->o.verdict && !s->o.to_verdict) {
		ft_witness_live(&s->witness, s->replay.m, &s->nobody, 0);
		error = book ? ft_book_load(&s->witness.observer, book, length, err) : 0;
	} else {
		ft_trace_begin(&s->trace, &s->replay, kinds, stdout, book, length);
	}
	free(book);
	return error;
}

/* The request that a kept seed has with it. */
static int take_request(struct session *s, struct ft_error *err)
{
	uint8_t *bytes;
	size_t length;
	int error = ft_snapshot_note(&s->replay.load, FT_SNAPSHOT_TRIAL, &bytes, &length, err);
	if (error)
		return error == -ENOENT ? ft_error_set(err, -EINVAL, "this is a guest's snapshot, not a seed's: it has no request") : error;
	int status = ft_transcript_take_all(&s->verdict.transcript, bytes, length, err);
	free(bytes);
	s->found = status == 1;
	return status < 0 ? status : s->found ? 0 : ft_error_set(err, -EINVAL, "this is another verdict's seed");
}

/* From the names to a machine at its checkpoint. */
static int prepare(struct session *s, struct ft_replay_directory *d, struct ft_error *err)
{
	struct ft_journal_files files = {.ring = -1};
	uint8_t *key = NULL;
	int checkpoint = -1, disk = -1, error = 0;
	if (s->o.verdict)
		error = ft_past_open(&s->verdict, s->o.verdict, s->o.to_verdict ? NULL : s->o.rules, err);
	if (!error && !s->o.kept)
		error = open_journal(s, d, &checkpoint, &files, err);
	else if (!error && (checkpoint = open(s->o.kept, O_RDONLY | O_CLOEXEC)) < 0)
		error = ft_error_set(err, -errno, "%s: %s", s->o.kept, strerror(errno));
	if (error)
		return error;
	if (s->o.key || s->o.credential)
		error = ft_snapshot_key_read(&key, s->o.key ? s->o.key : s->o.credential,
					     s->o.key ? FT_SNAPSHOT_KEY_FILE : FT_SNAPSHOT_KEY_CREDENTIAL, err);
	if (!error && s->o.disk && (disk = open(s->o.disk, O_RDONLY | O_CLOEXEC)) < 0)
		error = ft_error_set(err, -errno, "%s: %s", s->o.disk, strerror(errno));
	if (!error)
		error = make_machine(s, &files, checkpoint, disk, key, err);
	ft_snapshot_key_free(key);
	if (!error)
		error = confine(&s->o, err);
	if (!error && s->o.verdict)
		error = ft_past_prepare(&s->verdict, err);
	if (!error)
		error = ft_replay_restore(&s->replay, checkpoint, err);
	if (!error)
		error = watch(s, err);
	if (!error)
		error = restore_other(s, err);
	if (!error && s->o.kept)
		error = take_request(s, err);
	sodium_memzero(&s->seal, sizeof(s->seal));
	sodium_memzero(&s->other_seal, sizeof(s->other_seal));
	s->replay.seal = s->other.seal = NULL;
	if (disk >= 0)
		close(disk);
	ft_replay_directory_close(d, checkpoint, &files);
	if (error)
		return error;
	if (s->o.wall_ns)
		s->o.to.vtime_ns = s->o.wall_ns > s->replay.m->clock.epoch_ns ? s->o.wall_ns - s->replay.m->clock.epoch_ns : 0;
	return 0;
}

/* ---- A verdict again ------------------------------------------------------------------------------------------------- */

/* The other guest's: verdict, evidence, and what of it one of the two has alone. NULL: none was asked for, or it took no input (why). */
static json_t *try_elsewhere(struct session *s, const char **why)
{
	static struct ft_error err;
	json_t *record = NULL, *gone, *added;
	*why = NULL;
	if (!s->o.against)
		return NULL;
	if (ft_replay_fill(&s->other, &err) || ft_past_try_elsewhere(&s->verdict, &s->other_witness, &record, &err)) {
		*why = err.text;
		return NULL;
	}
	ft_compare_evidence(s->verdict.record, record, &gone, &added);
	json_object_set_new(record, "gone", gone);
	json_object_set_new(record, "added", added);
	return record;
}

static void print_elsewhere(const json_t *elsewhere, const char *why)
{
	size_t i;
	const json_t *text;
	if (why)
		printf("there   : no verdict: %s\n", why);
	if (!elsewhere)
		return;
	ft_past_print(stdout, "there   ", elsewhere);
	json_array_foreach(json_object_get(elsewhere, "gone"), i, text) printf("  not there: %s\n", json_string_value(text));
	json_array_foreach(json_object_get(elsewhere, "added"), i, text) printf("  only there: %s\n", json_string_value(text));
}

static void print_again(struct session *s, const json_t *again, bool same, const char *difference, double took)
{
	const struct ft_past *v = &s->verdict;
	const char *why;
	json_t *elsewhere = try_elsewhere(s, &why);
	if (s->o.json) {
		json_t *all = json_pack("{s:b, s:s, s:O, s:O, s:o*, s:s*, s:I, s:I, s:f}", "same", same, "difference", difference, "recorded", v->record,
					"again", again, "against", elsewhere, "against_why", why, "seed", (json_int_t)v->seed.number, "instructions", (json_int_t)v->seed.icount, "took_s", took);
		json_dumpf(all, stdout, JSON_COMPACT | JSON_ENSURE_ASCII);
		putchar('\n');
		json_decref(all);
		return;
	}
	ft_past_print(stdout, "recorded", v->record);
	ft_past_print(stdout, "again   ", again);
	if (same)
		printf("the same, bit for bit: evidence and verdict, from instruction %" PRIu64 " on, in %.1f s\n", v->seed.icount, took);
	else
		printf("NOT THE SAME: %s\n", difference);
	print_elsewhere(elsewhere, why);
	json_decref(elsewhere);
}

/* The machine stands where the seed was forked. */
static int judge_again(struct session *s, double began, struct ft_error *err)
{
	struct ft_past *v = &s->verdict;
	json_t *again = NULL;
	char difference[1024];
	int error = ft_past_request(v, err);
	if (!error)
		error = ft_replay_fill(&s->replay, err);
	if (!error)
		error = ft_past_try(v, &s->witness, &again, err);
	if (error) {
		fprintf(stderr, "foretaste-replay: %s\n", err->text);
		return exit_of(error);
	}
	bool same = ft_compare_records(v->record, again, difference, sizeof(difference));
	print_again(s, again, same, difference, now_s() - began);
	json_decref(again);
	return same ? EX_OK : EX_DIVERGED;
}

/* Where the journal does not lead to it, why. */
static int not_found(struct session *s, enum ft_replay_end end, struct ft_error *err)
{
	if (!err->code && s->trouble.code)
		*err = s->trouble;
	ft_error_set(err, -ENODATA, "the journal ends at instruction %" PRIu64 " without seed %" PRIu64 ", which was forked at %" PRIu64,
		     s->replay.m->icount, s->verdict.seed.number, s->verdict.seed.icount);
	fprintf(stderr, "foretaste-replay: %s\n", err->text);
	return end == FT_REPLAY_DIVERGED ? EX_DIVERGED : exit_of(err->code);
}

/* As far as it is to go. */
static enum ft_replay_end go(struct session *s, struct ft_error *err)
{
	/* A kept seed stands there already. */
	return s->o.kept ? FT_REPLAY_LIMIT : ft_replay_run(&s->replay, &s->o.to, err);
}

static int look(struct session *s, const struct ft_replay_directory *d, enum ft_replay_end end, double began, struct ft_error *err)
{
	bool good = end != FT_REPLAY_DIVERGED && end != FT_REPLAY_FAILED;
	if (good && s->o.steps && !s->o.kept)
		steps(s);
	if (good && s->o.goes_live) {
		struct ft_replay_limits limits = {.icount = UINT64_MAX, .vtime_ns = ft_machine_vtime(s->replay.m) + s->o.go_live_ns};
		end = ft_replay_go_live(&s->replay, s->o.seed, &limits, err);
	}
	ft_trace_end(&s->trace);
	report(s, d, end, err, now_s() - began);
	return end == FT_REPLAY_DIVERGED ? EX_DIVERGED : end == FT_REPLAY_FAILED ? exit_of(err->code) : EX_OK;
}

int main(int argc, char **argv)
{
	static struct session s;
	struct ft_replay_directory d = {.fd = -1};
	struct ft_error err = {0};
	int asked = ft_replay_options_read(&s.o, argc, argv);
	if (asked) {
		if (asked < 0)
			ft_replay_options_usage(stderr);
		return asked < 0 ? EX_USAGE : EX_OK;
	}
	if (sodium_init() < 0)
		return EX_OSERR;
	crypto_generichash_init(&s.frames_hash, NULL, 0, 32);
	s.replay.context = &s;
	s.replay.net_tx = on_net_tx;
	s.replay.console = on_console;
	s.replay.record = on_record;
	if (s.o.verdict)
		s.replay.trial = on_trial;
	if (prepare(&s, &d, &err)) {
		fprintf(stderr, "foretaste-replay: %s\n", err.text);
		return exit_of(err.code);
	}
	double began = now_s();
	enum ft_replay_end end = go(&s, &err);
	int code;
	if (s.o.verdict && !s.found)
		code = not_found(&s, end, &err);
	else if (s.o.verdict && !s.o.to_verdict)
		code = judge_again(&s, began, &err);
	else
		code = look(&s, &d, end, began, &err);
	ft_replay_peers_close(&s.peers);
	ft_replay_close(&s.replay);
	ft_replay_close(&s.other);
	ft_past_close(&s.verdict);
	ft_journal_close(&s.journal);
	return code;
}
