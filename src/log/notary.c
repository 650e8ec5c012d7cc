#include "log/notary.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "ledger/writer.h"
#include "log/record.h"

#define SECOND	     1000000000ull
#define RETRY	     SECOND	    /* between attempts on a disk that fails */
#define SLOW	     SECOND	    /* a commit that takes so long is told */
#define LOOK	     (10 * SECOND)  /* between looks at the room that is left */
#define OPEN_MOST    100000u	    /* decisions without an outcome that are remembered */

struct ft_notary {
	struct ft_notary_config config;
	struct ft_writer *writer;
	json_t *open;		     /* decisions without an outcome: {hold as text: true} */
	uint64_t waiting_since;	     /* monotonic; 0: nothing waits */
	bool urgent;		     /* a decision waits */
	uint64_t sequence, durable;  /* of decisions: taken, committed */
	uint64_t missed;	     /* decisions that were not taken */
	uint64_t evolve_at, look_at, retry_at, published_at;
	uint64_t published;	     /* size of the checkpoint that was */
	uint64_t commits, slowest, lost, lost_untold, lost_since;
	int trouble;		     /* errno of the last commit, 0 while all is well */
	bool suspended, full_told, slow_told, quota_told, space_told, last_epoch_told;
};

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec t;
	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

static uint64_t wall(void)
{
	return clock_ns(CLOCK_REALTIME);
}

static uint64_t now(void)
{
	return clock_ns(CLOCK_MONOTONIC);
}

static void tell(struct ft_notary *n, bool error, const char *format, ...) __attribute__((format(printf, 3, 4)));

static void tell(struct ft_notary *n, bool error, const char *format, ...)
{
	char text[400];
	va_list args;
	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	n->config.tell(n->config.context, text, error);
}

/* ---- Settings --------------------------------------------------------------------------------------------------- */

static void read_action(enum ft_notary_action *action, const json_t *word)
{
	static const char *const words[] = {"ignore", "syslog", "rotate", "suspend"};
	for (unsigned i = 0; i < 4; i++)
		if (json_is_string(word) && !strcmp(json_string_value(word), words[i]))
			*action = (enum ft_notary_action)i;
	/* auditd's word for ignoring that a file is large. */
	if (json_is_string(word) && !strcmp(json_string_value(word), "keep_logs"))
		*action = FT_NOTARY_IGNORE;
}

static void read_number(uint64_t *number, const json_t *value)
{
	if (json_is_integer(value) && json_integer_value(value) >= 0)
		*number = (uint64_t)json_integer_value(value);
}

void ft_notary_settings(struct ft_notary_config *config, const json_t *settings)
{
	read_number(&config->key_epoch, json_object_get(settings, "key_epoch"));
	read_number(&config->interval, json_object_get(settings, "interval"));
	read_number(&config->publish_every, json_object_get(settings, "publish_every"));
	read_number(&config->quota, json_object_get(settings, "quota"));
	read_number(&config->space_left, json_object_get(settings, "space_left"));
	read_action(&config->max_log_file, json_object_get(settings, "max_log_file_action"));
	read_action(&config->space_left_action, json_object_get(settings, "space_left_action"));
	read_action(&config->disk_full, json_object_get(settings, "disk_full_action"));
	read_action(&config->disk_error, json_object_get(settings, "disk_error_action"));
}

/* ---- Entries ---------------------------------------------------------------------------------------------------- */

static int append_text(struct ft_notary *n, enum ft_entry_type type, uint64_t time_ns, const char *text, size_t length)
{
	int error = n->suspended ? -ENOBUFS : ft_writer_append(n->writer, type, time_ns, text, length, NULL);
	/* Full: what waits goes to the disk first. */
	if (error == -ENOBUFS && !n->suspended && !n->trouble && !ft_writer_commit(n->writer))
		error = ft_writer_append(n->writer, type, time_ns, text, length, NULL);
	if (error) {
		n->lost++;
		if (!n->lost_untold++)
			n->lost_since = wall();
	} else if (!n->waiting_since) {
		n->waiting_since = now();
	}
	return error;
}

void ft_notary_note(struct ft_notary *n, enum ft_entry_type type, uint64_t time_ns, const json_t *body)
{
	if (!n)
		return;
	char text[4096];
	size_t length = json_dumpb(body, text, sizeof(text), JSON_COMPACT | JSON_ENSURE_ASCII);
	if (length && length <= sizeof(text)) {
		append_text(n, type, time_ns, text, length);
		return;
	}
	/* Longer than an entry of ours is: its digest, and what it was. */
	char *whole = json_dumps(body, JSON_COMPACT | JSON_ENSURE_ASCII), hex[65];
	uint8_t hash[32];
	if (!whole)
		return;
	crypto_hash_sha256(hash, (const uint8_t *)whole, strlen(whole));
	sodium_bin2hex(hex, sizeof(hex), hash, sizeof(hash));
	int m = snprintf(text, sizeof(text), "{\"bytes\":%zu,\"sha256\":\"%s\"}", strlen(whole), hex);
	free(whole);
	append_text(n, type, time_ns, text, (size_t)m);
}

static void note(struct ft_notary *n, enum ft_entry_type type, uint64_t time_ns, json_t *body)
{
	ft_notary_note(n, type, time_ns, body);
	json_decref(body);
}

static void copy(json_t *to, const json_t *from, const char *const *keys)
{
	for (; *keys; keys++)
		if (json_object_get(from, *keys))
			json_object_set(to, *keys, json_object_get(from, *keys));
}

static json_t *part(const json_t *from, const char *const *keys)
{
	json_t *to = json_object();
	copy(to, from, keys);
	return to;
}

static void hold_key(char key[24], const json_t *record)
{
	snprintf(key, 24, "%" JSON_INTEGER_FORMAT, json_integer_value(json_object_get(record, "hold")));
}

void ft_notary_hold(struct ft_notary *n, const json_t *record)
{
	if (!n)
		return;
	char key[24], hex[65];
	uint8_t hash[32];
	hold_key(key, record);
	uint64_t started = (uint64_t)json_integer_value(json_object_get(record, "started_ns"));
	uint64_t ended = (uint64_t)json_integer_value(json_object_get(record, "ended_ns"));
	json_t *hold = part(record, (const char *[]){"hold", "guest", "service", "mode", NULL});
	json_object_set_new(hold, "flow", part(json_object_get(record, "flow"),
					       (const char *[]){"proto", "client", "client_port", "server", "server_port", NULL}));
	json_object_set_new(hold, "input", part(json_object_get(record, "input"), (const char *[]){"frames", "bytes", "sha256", NULL}));
	json_object_set_new(hold, "trigger", part(json_object_get(record, "trigger"), (const char *[]){"reason", "sid", "name", "risk", NULL}));
	note(n, FT_ENTRY_HOLD, started, hold);
	/* The record in one form, whatever the order of its keys: jq -caS gives it from the feed. */
	char *whole = json_dumps(record, JSON_COMPACT | JSON_SORT_KEYS | JSON_ENSURE_ASCII);
	if (whole) {
		crypto_hash_sha256(hash, (const uint8_t *)whole, strlen(whole));
		sodium_bin2hex(hex, sizeof(hex), hash, sizeof(hash));
		json_t *digest = part(record, (const char *[]){"hold", NULL});
		json_object_set_new(digest, "bytes", json_integer((json_int_t)strlen(whole)));
		json_object_set_new(digest, "sha256", json_string(hex));
		json_object_set_new(digest, "trials", json_integer((json_int_t)json_array_size(json_object_get(record, "trials"))));
		/* What a replay of the verdict has to come to again. */
		json_t *runs = json_array();
		for (size_t i = 0; i < json_array_size(json_object_get(record, "trials")); i++)
			json_array_append(runs, json_object_get(json_array_get(json_object_get(record, "trials"), i), "sha256"));
		json_object_set_new(digest, "runs", runs);
		copy(digest, record, (const char *[]){"seed", "rules_sha256", NULL});
		note(n, FT_ENTRY_EVIDENCE, ended, digest);
		free(whole);
	}
	/* Who decides without waiting for us tells both at once. */
	if (json_object_del(n->open, key))
		note(n, FT_ENTRY_DECIDED, ended,
		     part(record, (const char *[]){"hold", "verdict", "severity", "rule", "rule_sid", "disposition", "disposition_reason", NULL}));
	note(n, FT_ENTRY_DONE, ended,
	     part(record, (const char *[]){"hold", "disposition", "disposition_reason", "frames_done", "quarantine", NULL}));
}

int ft_notary_decided(struct ft_notary *n, const json_t *message)
{
	char key[24];
	const json_t *sequence = json_object_get(message, "sequence"), *hold = json_object_get(message, "hold");
	json_t *body = json_object();
	if (json_is_integer(hold) && json_integer_value(hold) >= 0)
		json_object_set(body, "hold", (json_t *)hold);
	for (const char *const *word = (const char *[]){"verdict", "disposition", "disposition_reason", "rule", NULL}; *word; word++) {
		json_t *text = ft_record_text(json_object_get(message, *word), 64);
		if (text)
			json_object_set_new(body, *word, text);
	}
	if (!json_object_get(body, "hold") || !json_object_get(body, "verdict") || !json_object_get(body, "disposition") ||
	    !json_is_integer(sequence) || json_integer_value(sequence) < 0) {
		json_decref(body);
		return -EINVAL;
	}
	if (n) {
		uint64_t lost = n->lost;
		note(n, FT_ENTRY_DECIDED, wall(), json_incref(body));
		hold_key(key, body);
		if (lost == n->lost && json_object_size(n->open) < OPEN_MOST)
			json_object_set_new(n->open, key, json_true());
		/* What was lost is never said to be durable: who waits for it does what log.on_failure says. */
		if (lost == n->lost && (uint64_t)json_integer_value(sequence) > n->sequence)
			n->sequence = (uint64_t)json_integer_value(sequence);
		n->missed += lost != n->lost;
		n->urgent |= json_integer_value(sequence) > 0;
	}
	json_decref(body);
	return 0;
}

int ft_notary_done(struct ft_notary *n, const json_t *message)
{
	char key[24];
	const json_t *hold = json_object_get(message, "hold"), *frames = json_object_get(message, "frames_done");
	json_t *disposition = ft_record_text(json_object_get(message, "disposition"), 64);
	json_t *reason = ft_record_text(json_object_get(message, "disposition_reason"), 64);
	bool good = json_is_integer(hold) && json_integer_value(hold) >= 0 && disposition && reason && json_is_integer(frames);
	if (good && n) {
		hold_key(key, message);
		json_object_del(n->open, key);
		note(n, FT_ENTRY_DONE, wall(), json_pack("{s:O, s:O, s:O, s:O}", "hold", hold, "disposition", disposition,
							 "disposition_reason", reason, "frames_done", frames));
	}
	json_decref(disposition);
	json_decref(reason);
	return good ? 0 : -EINVAL;
}

uint64_t ft_notary_missed(const struct ft_notary *n)
{
	return n ? n->missed : 0;
}

bool ft_notary_works(const struct ft_notary *n)
{
	return n && !n->suspended;
}

uint64_t ft_notary_durable(const struct ft_notary *n)
{
	return n ? n->durable : 0;
}

void ft_notary_event(struct ft_notary *n, const char *type, uint64_t time_ns, const json_t *message)
{
	static const char *const operators[] = {"guest-start", "guest-stop", "guest-restart", "reload", "reload-failed", "reopen-logs",
						"reopen-failed", "suppress", "suppress-end", "mode", "bypass-on", "bypass-off",
						"release", "drop", NULL};
	static const char *const errors[] = {"error", "restart", "cpu-unbounded", "self-test-failed", "disk-failed", "seed-failed", NULL};
	enum ft_entry_type entry = strcmp(type, "correlation") ? FT_ENTRY_EVENT : FT_ENTRY_FINDING;
	for (const char *const *word = operators; *word; word++)
		entry = strcmp(type, *word) ? entry : FT_ENTRY_OPERATOR;
	for (const char *const *word = errors; *word; word++)
		entry = strcmp(type, *word) ? entry : FT_ENTRY_ERROR;
	json_t *body = json_pack("{s:s}", "type", type);
	for (const char *const *key = (const char *[]){"text", "guest", "process", "rule", NULL}; *key; key++) {
		json_t *text = ft_record_text(json_object_get(message, *key), 512);
		if (text)
			json_object_set_new(body, *key, text);
	}
	for (const char *const *key = (const char *[]){"sid", "severity", NULL}; *key; key++)
		if (json_is_integer(json_object_get(message, *key)))
			json_object_set(body, *key, json_object_get(message, *key));
	json_t *config = ft_record_text(json_object_get(message, "config_sha256"), 64);
	if (config && n) {
		json_t *digest = json_pack("{s:O}", "sha256", config);
		note(n, FT_ENTRY_CONFIG, time_ns, digest);
	}
	json_decref(config);
	note(n, entry, time_ns, body);
}

int ft_notary_journal(struct ft_notary *n, uint64_t time_ns, const json_t *message)
{
	json_t *guest = ft_record_text(json_object_get(message, "guest"), 64);
	json_t *body = guest ? json_pack("{s:o}", "guest", guest) : NULL;
	bool hash = false;
	for (const char *const *key = (const char *[]){"hash", "checkpoint", NULL}; body && *key; key++) {
		const char *hex = json_string_value(json_object_get(message, *key));
		if (!hex || strlen(hex) != 64 || strspn(hex, "0123456789abcdef") != 64)
			continue;
		json_object_set_new(body, *key, json_string(hex));
		hash = true;
	}
	for (const char *const *key = (const char *[]){"run", "segment", "chunk", "instructions", "ring_from", "ring_to", NULL}; body && *key; key++)
		if (json_is_integer(json_object_get(message, *key)))
			json_object_set(body, *key, json_object_get(message, *key));
	if (!hash || !json_object_get(body, "run")) {
		json_decref(body);
		return -EINVAL;
	}
	if (n)
		note(n, FT_ENTRY_JOURNAL, time_ns, body);
	else
		json_decref(body);
	return 0;
}

/* ---- Work ------------------------------------------------------------------------------------------------------- */

static void publish(struct ft_notary *n)
{
	size_t length;
	const char *text = ft_writer_checkpoint(n->writer, &length);
	if (!text || !n->config.publish_every || ft_writer_committed(n->writer) == n->published)
		return;
	n->published = ft_writer_committed(n->writer);
	n->published_at = now();
	char *copy_of = strndup(text, length);
	if (copy_of)
		n->config.publish(n->config.context, copy_of);
	free(copy_of);
}

static void suspend(struct ft_notary *n, const char *why)
{
	if (n->suspended)
		return;
	n->suspended = true;
	tell(n, true, "the ledger takes no more entries until it is started again: %s", why);
}

/* Does what the configuration says; true: it may help to try again at once. */
static bool act(struct ft_notary *n, enum ft_notary_action action, const char *why, bool *told)
{
	if (action != FT_NOTARY_IGNORE && !*told)
		tell(n, true, "the ledger: %s", why);
	*told = true;
	if (action == FT_NOTARY_SUSPEND)
		suspend(n, why);
	return action == FT_NOTARY_ROTATE && !ft_writer_prune(n->writer, wall());
}

static void committed(struct ft_notary *n)
{
	n->commits++;
	n->waiting_since = 0;
	n->urgent = false;
	n->durable = n->sequence;
	n->full_told = false;
	if (n->trouble)
		tell(n, false, "the ledger can be written again");
	n->trouble = 0;
	if (n->lost_untold && !n->suspended) {
		json_t *body = json_pack("{s:I, s:I, s:I}", "lost", (json_int_t)n->lost_untold, "from_ns", (json_int_t)n->lost_since,
					 "to_ns", (json_int_t)wall());
		n->lost_untold = 0;
		note(n, FT_ENTRY_LOSS, wall(), body);
	}
	if (now() - n->published_at >= n->config.publish_every)
		publish(n);
}

static void commit(struct ft_notary *n)
{
	uint64_t before = now();
	int error = ft_writer_commit(n->writer);
	uint64_t took = now() - before;
	n->slowest = took > n->slowest ? took : n->slowest;
	if (took > SLOW && !n->slow_told)
		tell(n, true, "the ledger's disk is slow: a commit took %" PRIu64 " ms", took / 1000000);
	n->slow_told = took > SLOW;
	if (!error) {
		committed(n);
		return;
	}
	bool full = error == -ENOSPC || error == -EDQUOT || error == -EFBIG;
	char why[160];
	snprintf(why, sizeof(why), "it cannot be written: %s", strerror(-error));
	n->trouble = -error;
	n->retry_at = now() + RETRY;
	act(n, full ? n->config.disk_full : n->config.disk_error, why, &n->full_told);
}

static void look_at_room(struct ft_notary *n)
{
	struct statvfs fs;
	n->look_at = now() + LOOK;
	if (!n->config.quota || ft_writer_bytes(n->writer) <= n->config.quota)
		n->quota_told = false;
	while (n->config.quota && ft_writer_bytes(n->writer) > n->config.quota)
		if (!act(n, n->config.max_log_file, "it has reached log.quota", &n->quota_told))
			break;
	if (!n->config.space_left || fstatvfs(n->config.directory, &fs))
		return;
	if ((uint64_t)fs.f_bavail * fs.f_frsize >= n->config.space_left)
		n->space_told = false;
	else
		act(n, n->config.space_left_action, "less than log.space_left is left on its disk", &n->space_told);
}

static void evolve(struct ft_notary *n)
{
	int error = ft_writer_evolve(n->writer, wall());
	n->evolve_at = now() + n->config.key_epoch;
	if (!error) {
		committed(n);
	} else if (error == -ENOKEY) {
		if (!n->last_epoch_told)
			tell(n, true, "the ledger's key has come to its last epoch: begin a new ledger soon");
		n->last_epoch_told = true;
	} else {
		n->trouble = -error;
		n->retry_at = now() + RETRY;
	}
}

int ft_notary_work(struct ft_notary *n)
{
	if (!n)
		return -1;
	uint64_t time = now(), next = UINT64_MAX;
	bool due = n->waiting_since && (n->urgent || time >= n->waiting_since + n->config.interval);
	if (n->trouble ? time >= n->retry_at : due)
		commit(n);
	if (!n->trouble && !n->suspended && n->config.key_epoch && time >= n->evolve_at)
		evolve(n);
	if (!n->trouble && time >= n->look_at)
		look_at_room(n);
	time = now();
	if (n->published != ft_writer_committed(n->writer) && time - n->published_at >= n->config.publish_every)
		publish(n);
	if (n->trouble)
		next = n->retry_at;
	else if (n->waiting_since)
		next = n->waiting_since + n->config.interval;
	if (n->config.publish_every && n->published != ft_writer_committed(n->writer) &&
	    n->published_at + n->config.publish_every < next)
		next = n->published_at + n->config.publish_every;
	if (!n->suspended && n->config.key_epoch && n->evolve_at < next)
		next = n->evolve_at;
	if (next == UINT64_MAX)
		return -1;
	uint64_t wait = next > time ? (next - time + 999999) / 1000000 : 0;
	return wait > 3600000 ? 3600000 : (int)wait;
}

/* ---- Open and close --------------------------------------------------------------------------------------------- */

/* Entries of earlier runs, newest segments only: which decisions have no outcome. */
static void saw(void *context, unsigned type, uint64_t time_ns, const char *body, size_t length)
{
	struct ft_notary *n = context;
	if (type != FT_ENTRY_DECIDED && type != FT_ENTRY_DONE && type != FT_ENTRY_UNKNOWN)
		return;
	json_t *json = json_loadb(body, length, 0, NULL);
	char key[24];
	hold_key(key, json);
	if (type == FT_ENTRY_DECIDED)
		json_object_set_new(n->open, key, json_true());
	else
		json_object_del(n->open, key);
	json_decref(json);
}

static void begin(struct ft_notary *n)
{
	uint64_t last = 0;
	unsigned type = ft_writer_last(n->writer, &last);
	const char *hold;
	json_t *value;
	if (type)
		note(n, FT_ENTRY_GAP, wall(), json_pack("{s:I, s:b}", "from_ns", (json_int_t)last, "clean", type == FT_ENTRY_STOP));
	json_object_foreach(n->open, hold, value)
		note(n, FT_ENTRY_UNKNOWN, wall(), json_pack("{s:I}", "hold", (json_int_t)strtoll(hold, NULL, 10)));
	json_object_clear(n->open);
	char boot[40] = "";
	int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	ssize_t length = fd < 0 ? 0 : read(fd, boot, 36);
	boot[length > 0 ? length : 0] = 0;
	if (fd >= 0)
		close(fd);
	note(n, FT_ENTRY_START, wall(), json_pack("{s:s, s:s, s:I}", "version", n->config.version, "boot_id", boot, "cut_bytes",
						  (json_int_t)ft_writer_cut(n->writer)));
}

/* foretaste/SENSOR/RANDOM: no two ledgers have the same. */
static void name_of(const char *sensor, char origin[97])
{
	size_t n = (size_t)snprintf(origin, 97, "foretaste/%.64s", sensor);
	for (size_t i = 0; i < n; i++)
		if (origin[i] <= ' ' || origin[i] > '~' || origin[i] == '+')
			origin[i] = '-';
	snprintf(origin + n, 97 - n, "/%08" PRIx32, randombytes_random());
}

int ft_notary_open(struct ft_notary **out, const struct ft_notary_config *config, struct ft_error *err)
{
	char origin[97];
	struct ft_notary *n = calloc(1, sizeof(*n));
	*out = NULL;
	if (n)
		n->open = json_object();
	if (!n || !n->open) {
		free(n);
		return ft_error_set(err, -ENOMEM, "no memory for the ledger");
	}
	n->config = *config;
	name_of(config->sensor, origin);
	struct ft_writer_config settings = {.io = config->io ? config->io : &ft_io_system, .directory = config->directory,
					    .origin = origin, .seen = saw, .context = n};
	int error = ft_writer_open(&n->writer, &settings, err);
	if (error) {
		json_decref(n->open);
		free(n);
		return error;
	}
	n->evolve_at = now() + config->key_epoch;
	n->published = ft_writer_committed(n->writer);
	if (ft_writer_cut(n->writer))
		tell(n, true, "the ledger ended in %" PRIu64 " bytes that were not signed: they were cut off and are kept",
		     ft_writer_cut(n->writer));
	begin(n);
	/* A start that cannot be written down is no start. */
	error = ft_writer_commit(n->writer);
	if (error) {
		ft_writer_close(n->writer);
		json_decref(n->open);
		free(n);
		return ft_error_set(err, error, "the ledger cannot be written: %s", strerror(-error));
	}
	committed(n);
	*out = n;
	return 0;
}

void ft_notary_close(struct ft_notary *n)
{
	if (!n)
		return;
	append_text(n, FT_ENTRY_STOP, wall(), "{}", 2);
	if (!ft_writer_commit(n->writer))
		committed(n);
	publish(n);
	ft_writer_close(n->writer);
	json_decref(n->open);
	free(n);
}

json_t *ft_notary_status(const struct ft_notary *n)
{
	if (!n)
		return json_pack("{s:s}", "trouble", "the ledger is not open");
	char id[FT_NOTE_KEY];
	ft_note_key_format(ft_key_public(ft_writer_key(n->writer)), id);
	json_t *status = json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:b}", "key", id, "entries",
				   (json_int_t)ft_writer_size(n->writer), "signed", (json_int_t)ft_writer_committed(n->writer),
				   "first", (json_int_t)ft_writer_first(n->writer), "bytes", (json_int_t)ft_writer_bytes(n->writer),
				   "epoch", (json_int_t)ft_key_epoch(ft_writer_key(n->writer)), "commits", (json_int_t)n->commits,
				   "slowest_ns", (json_int_t)n->slowest, "lost", (json_int_t)n->lost, "undecided",
				   (json_int_t)json_object_size(n->open), "suspended", n->suspended);
	if (n->trouble)
		json_object_set_new(status, "trouble", json_string(strerror(n->trouble)));
	return status;
}
