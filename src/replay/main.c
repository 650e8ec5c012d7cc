/* foretaste-replay: replays a guest from its journal, in a process that may read the files it was given and write what it finds,
 * and nothing else. `foretaste replay` becomes this program. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
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
#include "base/units.h"
#include "replay/peers.h"
#include "replay/trace.h"
#include "snapshot/key.h"

#define EX_DIVERGED 1
#define NOBODY	    65534u /* Debian's nobody, when root starts it */
#define STEPS_MAX   100000u

static const char usage[] =
    "Usage: foretaste-replay DIR [--disk IMAGE] [--run N] [--from CHECKPOINT] [--to COUNT|TIME] [--trace WHAT,...]\n"
    "                        [--step N] [--go-live DURATION [--seed N]] [--key FILE] [--json]\n"
    "\n"
    "Replays a guest from its journal (the directory journal/GUEST below state) and compares its state with what was recorded.\n"
    "  --disk IMAGE   the base image of the guest's disk, if it had one\n"
    "  --run N        a life of the guest's process; without it the newest\n"
    "  --from N       begins at that checkpoint; without it at the newest that --to allows\n"
    "  --to           an instruction count, or a time as 2026-11-28T03:20:00Z; without it the end of the journal\n"
    "  --trace        syscalls, network, disk, console, inputs: prints these as they happened\n"
    "  --step N       then N instructions one by one, with the registers\n"
    "  --go-live      then the guest goes on by itself for that long in its own time, its network ending here\n"
    "  --seed N       of the random numbers that it gets then\n"
    "  --peer NAME=IMAGE  the base image of another guest's disk (or nothing), whose journal lies beside this one and is referred to by it\n"
    "  --key FILE     the key that it is encrypted with (snapshots.key); --credential NAME: one of systemd's\n"
    "  --uid N        the uid and gid that root becomes; without it 65534\n"
    "Exit status: 0 everything was as recorded, 1 it was not, others as in sysexits.h.\n";

struct options {
	const char *directory, *disk, *trace, *key, *credential;
	struct ft_replay_place place;
	struct ft_replay_limits to;
	uint64_t wall_ns; /* --to a time; 0: none */
	uint64_t steps, go_live_ns, seed;
	uid_t uid;
	bool json, goes_live;
	const char *peers[FT_REPLAY_PEERS];
	unsigned peer_count;
};

struct session {
	struct options o;
	struct ft_journal journal;
	struct ft_replay replay;
	struct ft_trace trace;
	struct ft_replay_peers peers;
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

/* ---- Options ------------------------------------------------------------------------------------------------------- */

static bool number(const char *text, uint64_t *value)
{
	char *end;
	errno = 0;
	*value = strtoull(text, &end, 10);
	return *text >= '0' && *text <= '9' && !*end && !errno;
}

/* 2026-11-28T03:20:00Z, with or without a fraction. */
static bool time_of(const char *text, uint64_t *wall_ns)
{
	struct tm tm = {0};
	int n = 0;
	double second = 0;
	if (sscanf(text, "%4d-%2d-%2dT%2d:%2d:%lfZ%n", &tm.tm_year, &tm.tm_mon, &tm.tm_mday, &tm.tm_hour, &tm.tm_min, &second, &n) != 6 ||
	    text[n] || second < 0 || second >= 61 || tm.tm_year < 1970 || tm.tm_mon < 1 || tm.tm_mon > 12)
		return false;
	tm.tm_year -= 1900;
	tm.tm_mon--;
	time_t minute = timegm(&tm);
	*wall_ns = (uint64_t)minute * 1000000000u + (uint64_t)(second * 1e9);
	return minute >= 0;
}

static int read_options(struct options *o, int argc, char **argv)
{
	enum { DISK = 256, RUN, FROM, TO, TRACE, STEP, GO_LIVE, SEED, UID, PEER, KEY, CREDENTIAL, JSON, HELP };
	static const struct option options[] = {
	    {"disk", required_argument, NULL, DISK}, {"run", required_argument, NULL, RUN},	  {"from", required_argument, NULL, FROM},
	    {"to", required_argument, NULL, TO},     {"trace", required_argument, NULL, TRACE},	  {"step", required_argument, NULL, STEP},
	    {"seed", required_argument, NULL, SEED}, {"go-live", required_argument, NULL, GO_LIVE}, {"uid", required_argument, NULL, UID},
	    {"peer", required_argument, NULL, PEER},
	    {"key", required_argument, NULL, KEY},   {"credential", required_argument, NULL, CREDENTIAL},
	    {"json", no_argument, NULL, JSON},	     {"help", no_argument, NULL, HELP},		  {NULL, 0, NULL, 0}};
	struct ft_error err = {0};
	uint64_t value;
	*o = (struct options){.place = {.icount = UINT64_MAX, .wall_ns = UINT64_MAX},
			      .to = {.icount = UINT64_MAX, .vtime_ns = UINT64_MAX},
			      .uid = NOBODY,
			      .seed = 1};
	for (int c; (c = getopt_long(argc, argv, "h", options, NULL)) != -1;) {
		bool good = true;
		switch (c) {
		case DISK:
			o->disk = optarg;
			break;
		case RUN:
			good = number(optarg, &value) && value && value <= UINT32_MAX;
			o->place.run = (uint32_t)value;
			break;
		case FROM:
			good = number(optarg, &value) && value && value <= UINT32_MAX;
			o->place.checkpoint = (uint32_t)value;
			break;
		case TO:
			if (number(optarg, &o->to.icount))
				o->place.icount = o->to.icount;
			else
				good = time_of(optarg, &o->wall_ns);
			if (o->wall_ns)
				o->place.wall_ns = o->wall_ns;
			break;
		case TRACE:
			o->trace = optarg;
			break;
		case STEP:
			good = number(optarg, &o->steps) && o->steps <= STEPS_MAX;
			break;
		case GO_LIVE:
			good = !ft_units_duration(optarg, &o->go_live_ns, &err);
			o->goes_live = true;
			break;
		case SEED:
			good = number(optarg, &o->seed);
			break;
		case UID:
			good = number(optarg, &value) && value && value < UINT32_MAX;
			o->uid = (uid_t)value;
			break;
		case PEER:
			good = strchr(optarg, '=') && optarg[0] != '.' && !memchr(optarg, '/', strcspn(optarg, "=")) && o->peer_count < FT_REPLAY_PEERS;
			if (good)
				o->peers[o->peer_count++] = optarg;
			break;
		case KEY:
			o->key = optarg;
			break;
		case CREDENTIAL:
			o->credential = optarg;
			break;
		case JSON:
			o->json = true;
			break;
		case HELP:
		case 'h':
			fputs(usage, stdout);
			exit(EX_OK);
		default:
			return -EINVAL;
		}
		if (!good) {
			fprintf(stderr, "foretaste-replay: \"%.64s\" cannot be\n", optarg);
			return -EINVAL;
		}
	}
	o->directory = optind + 1 == argc ? argv[optind] : NULL;
	return o->directory ? 0 : -EINVAL;
}

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

/* ---- The whole ------------------------------------------------------------------------------------------------------- */

static double now_s(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int confine(const struct options *o, struct ft_error *err)
{
	struct ft_confine_filter filter;
	int error = ft_confine_compile(rules, sizeof(rules) / sizeof(*rules), &filter, err);
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

/* The operator's key is here for no longer than this: what is kept are the keys of the files. */
static int open_journal(struct session *s, struct ft_journal_files *files, int checkpoint, struct ft_snapshot_seal *seal, struct ft_error *err)
{
	struct ft_snapshot_header header;
	uint8_t *key = NULL;
	int error = 0;
	if (s->o.key || s->o.credential)
		error = ft_snapshot_key_read(&key, s->o.key ? s->o.key : s->o.credential,
					     s->o.key ? FT_SNAPSHOT_KEY_FILE : FT_SNAPSHOT_KEY_CREDENTIAL, err);
	files->key = key;
	if (!error)
		error = ft_journal_open(&s->journal, files, err);
	if (!error)
		error = ft_snapshot_peek(checkpoint, &header, err);
	if (!error && header.encrypted && key) {
		error = ft_snapshot_unseal(seal, checkpoint, key, err);
		s->replay.seal = error ? NULL : seal;
	}
	if (!error)
		error = open_peers(s, header.created_ns, key, err);
	files->key = NULL;
	ft_snapshot_key_free(key);
	return error;
}

/* From the names to a machine at its checkpoint. */
static int prepare(struct session *s, struct ft_replay_directory *d, struct ft_error *err)
{
	struct ft_machine_config config = {.engine = &ft_engine_soft, .disk_fd = -1};
	struct ft_journal_files files;
	struct ft_snapshot_seal seal;
	int checkpoint, disk = -1;
	unsigned kinds = 0;
	if (s->o.trace && ft_trace_kinds(s->o.trace, &kinds))
		return ft_error_set(err, -EINVAL, "--trace takes syscalls, network, disk, console and inputs, with commas between them");
	int error = ft_replay_directory_open(d, s->o.directory, &s->o.place, &checkpoint, &files, err);
	if (error)
		return error;
	if (s->o.disk && (disk = open(s->o.disk, O_RDONLY | O_CLOEXEC)) < 0)
		error = ft_error_set(err, -errno, "%s: %s", s->o.disk, strerror(errno));
	if (!error)
		error = open_journal(s, &files, checkpoint, &seal, err);
	if (!error)
		error = ft_replay_create(&s->replay, &config, &s->journal, disk, err);
	if (!error)
		error = confine(&s->o, err);
	if (!error)
		error = ft_replay_restore(&s->replay, checkpoint, err);
	sodium_memzero(&seal, sizeof(seal));
	s->replay.seal = NULL;
	if (disk >= 0)
		close(disk);
	ft_replay_directory_close(d, checkpoint, &files);
	if (error)
		return error;
	ft_trace_begin(&s->trace, &s->replay, kinds, stdout);
	if (s->o.wall_ns)
		s->o.to.vtime_ns = s->o.wall_ns > s->replay.m->clock.epoch_ns ? s->o.wall_ns - s->replay.m->clock.epoch_ns : 0;
	return 0;
}

static int exit_of(int error)
{
	return error == -EINVAL ? EX_USAGE : error == -ENOENT ? EX_NOINPUT : error == -EBADMSG || error == -ENOTSUP ? EX_DATAERR
	       : error == -EACCES || error == -EPERM || error == -EKEYREJECTED ? EX_NOPERM : error == -ENOMEM ? EX_OSERR : EX_SOFTWARE;
}

int main(int argc, char **argv)
{
	static struct session s;
	struct ft_replay_directory d = {.fd = -1};
	struct ft_error err = {0};
	if (read_options(&s.o, argc, argv)) {
		fputs(usage, stderr);
		return EX_USAGE;
	}
	if (sodium_init() < 0)
		return EX_OSERR;
	crypto_generichash_init(&s.frames_hash, NULL, 0, 32);
	s.replay.context = &s;
	s.replay.net_tx = on_net_tx;
	s.replay.console = on_console;
	s.replay.record = on_record;
	if (prepare(&s, &d, &err)) {
		fprintf(stderr, "foretaste-replay: %s\n", err.text);
		return exit_of(err.code);
	}
	double began = now_s();
	enum ft_replay_end end = ft_replay_run(&s.replay, &s.o.to, &err);
	bool good = end != FT_REPLAY_DIVERGED && end != FT_REPLAY_FAILED;
	if (good && s.o.steps)
		steps(&s);
	if (good && s.o.goes_live) {
		struct ft_replay_limits limits = {.icount = UINT64_MAX, .vtime_ns = ft_machine_vtime(s.replay.m) + s.o.go_live_ns};
		end = ft_replay_go_live(&s.replay, s.o.seed, &limits, &err);
	}
	ft_trace_end(&s.trace);
	report(&s, &d, end, &err, now_s() - began);
	ft_replay_peers_close(&s.peers);
	ft_replay_close(&s.replay);
	ft_journal_close(&s.journal);
	return end == FT_REPLAY_DIVERGED ? EX_DIVERGED : end == FT_REPLAY_FAILED ? exit_of(err.code) : EX_OK;
}
