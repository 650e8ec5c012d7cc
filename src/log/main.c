/* foretaste-ledger: started by the supervisor with its control channel as descriptor 3. Writes the feed and the
 * quarantine until the channel closes or says stop; then first writes down what still waits in the record socket. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#include "base/channel.h"
#include "base/confine.h"
#include "log/ledger.h"

/* Descriptors beside the configuration (gateway/protocol.md). */
enum { RECORDS, FEED, QUARANTINE, STATE, DURABLE, DESCRIPTORS };

#define BURST     64    /* records before the control channel is looked at again */
#define RETRY_MS  1000  /* between two attempts on a feed that cannot be written */
#define DRAIN     65536 /* most records written down after stop: a peer that never ends does not keep us */
#define LINGER_MS 1000  /* after stop, for what the feed's sinks have not taken yet */

static const struct ft_confine_rule rules[] = {
    {"recvmsg", "control channel and records"},
    {"sendmsg",
     "control channel: answers, log lines; feed lines to the sockets that the supervisor connected"},
    {"ioctl", "what a reader of the feed's socket has not read yet", .arg = 2, .equals = TIOCOUTQ},
    {"poll", "waits for either"},
    {"ppoll", "the C library's poll"},
    {"write", "feed lines; quarantined packets"},
    {"pwrite64", "the log: entries, tiles, checkpoints"},
    {"pread64", "the log: the key's files when an epoch ends"},
    {"fdatasync", "the log: a commit"},
    {"fsync", "the log: names of new files"},
    {"lseek", "the log: the length of its compacted checkpoints"},
    {"mkdirat", "the log: the place of what was cut"},
    {"renameat", "the log: a file in place of another"},
    {"fstatfs", "the log: the room that is left for it"},
    {"ftruncate", "cuts a half-written feed line"},
    {"fstat", "size of the feed"},
    {"newfstatat", "size of the feed, the C library's fstat"},
    {"openat", "a new file in the quarantine directory or of the log"},
    {"renameat2", "its final name"},
    {"unlinkat", "the oldest quarantined file or segment of the log; a file that could not be finished"},
    {"close", "that file; descriptors that a lying peer sent along"},
    {"mmap", "malloc; never executable", .arg = 3, .mask = PROT_EXEC, .equals = 0},
    {"mprotect", "the log: its key's memory, before it is given back", .arg = 3, .mask = PROT_EXEC, .equals = 0},
    {"munlock", "the same"},
    {"munmap", "malloc"},
    {"mremap", "malloc"},
    {"madvise", "malloc"},
    {"brk", "malloc"},
    {"clock_gettime", "where the vDSO cannot answer"},
    {"getrandom", "malloc: random tags, once"},
    {"rt_sigreturn", "return from a signal handler"},
    {"restart_syscall", "the kernel, after a stop and continue"},
    {"exit_group", "end"},
};

static void say(const char *op, json_t *message)
{
	json_object_set_new(message, "op", json_string(op));
	ft_channel_send(FT_CHANNEL_FD, message, NULL, 0);
	json_decref(message);
}

static void log_line(void *context, const char *level, const char *text)
{
	say("log", json_pack("{s:s, s:s}", "level", level, "text", text));
}

static void hung_up(void *context, const char *sink, const char *why)
{
	say("sink-lost", json_pack("{s:s, s:s}", "name", sink, "why", why));
}

static int fail(int code, const struct ft_error *err)
{
	say("failed", json_pack("{s:i, s:s}", "code", code, "text", err->text));
	return code;
}

static void close_all(const int *fds, int count)
{
	for (int i = 0; i < count; i++)
		close(fds[i]);
}

static int receive_config(json_t **message, int fds[FT_CHANNEL_FDS], struct ft_error *err)
{
	int count;
	int error = ft_channel_receive(FT_CHANNEL_FD, message, fds, &count);
	if (error)
		return ft_error_set(err, error, "no configuration from the supervisor: %s", strerror(-error));
	const char *op = json_string_value(json_object_get(*message, "op"));
	if (!op || strcmp(op, "config") || !json_is_object(json_object_get(*message, "config")))
		return ft_error_set(err, -EPROTO, "the supervisor's first message is no configuration");
	if (count < DESCRIPTORS)
		return ft_error_set(err, -EPROTO, "the supervisor sent %d descriptors instead of %d", count,
				    DESCRIPTORS);
	return 0;
}

static const char *text_of(const json_t *map, const char *key)
{
	const char *text = json_string_value(json_object_get(map, key));
	return text ? text : "";
}

/* The sinks that are configured; their connections come later, or never. */
static int prepare_sinks(const json_t *config, struct ft_ledger_config *settings, struct ft_error *err)
{
	const json_t *syslog = json_object_get(config, "feed_syslog");
	json_int_t buffer = json_integer_value(json_object_get(config, "feed_buffer"));
	struct ft_sink_config sink = {.sensor = settings->sensor, .buffer = buffer > 0 ? (size_t)buffer : 0};
	if (*text_of(config, "feed_socket")) {
		sink.name = "socket";
		sink.path = text_of(config, "feed_socket");
		settings->sinks[settings->sink_count++] = sink;
	}
	if (!*text_of(syslog, "socket"))
		return 0;
	sink.name = "syslog";
	sink.path = text_of(syslog, "socket");
	sink.datagrams = true;
	json_int_t limit = json_integer_value(json_object_get(syslog, "limit"));
	int error =
	    ft_syslog_open(&sink.syslog, text_of(syslog, "facility"), text_of(syslog, "severity"),
			   !strcmp(text_of(syslog, "cookie"), "cee"), limit > 0 ? (size_t)limit : 0, err);
	if (!error)
		settings->sinks[settings->sink_count++] = sink;
	return error;
}

/* As its own uid, which all files of the log belong to. A log that cannot be used stops nothing else: what then becomes of
 * input is log.on_failure's to say. */
static void notarise(struct ft_ledger *ledger, const char *sensor, const json_t *config, int directory)
{
	struct ft_error err = {0};
	struct ft_notary_config settings = {.directory = directory, .sensor = sensor, .version = FT_VERSION,
					    .key_epoch = 4 * 3600ull * 1000000000u, .interval = 100000000, .publish_every = 1000000000,
					    .max_log_file = FT_NOTARY_ROTATE, .space_left_action = FT_NOTARY_SYSLOG,
					    .disk_full = FT_NOTARY_SYSLOG, .disk_error = FT_NOTARY_SYSLOG};
	ft_notary_settings(&settings, json_object_get(config, "log"));
	if (!ft_ledger_notarise(ledger, &settings, json_string_value(json_object_get(config, "config_sha256")), &err))
		return;
	log_line(NULL, "error", err.text);
	json_t *event = json_pack("{s:s, s:s, s:s}", "op", "event", "type", "error", "text", err.text);
	ft_ledger_record(ledger, event);
	json_decref(event);
}

static struct ft_durable *map_page(int fd)
{
	void *page = mmap(NULL, sizeof(struct ft_durable), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	return page == MAP_FAILED ? NULL : page;
}

/* Everything that needs the file system or privileges; afterwards neither is left. */
static int prepare(const json_t *message, const int *fds, struct ft_ledger **ledger, struct ft_error *err)
{
	const json_t *config = json_object_get(message, "config");
	const char *sensor = json_string_value(json_object_get(config, "sensor"));
	struct ft_ledger_config settings = {
	    .sensor = sensor ? sensor : "foretaste",
	    .feed_quota = (uint64_t)json_integer_value(json_object_get(config, "feed_quota")),
	    .quarantine_quota = (uint64_t)json_integer_value(json_object_get(config, "quarantine_quota")),
	    .quarantine_shares = json_object_get(config, "quarantine_shares"),
	    .feed = fds[FEED],
	    .quarantine = fds[QUARANTINE],
	    .durable = map_page(fds[DURABLE]),
	    .log = log_line,
	    .hung_up = hung_up,
	};
	if (sodium_init() < 0)
		return ft_error_set(err, -ENOSYS, "libsodium cannot be used");
	int error = prepare_sinks(config, &settings, err);
	if (error)
		return error;
	/* gmtime_r and localtime_r read the time zone file once, which the filter below would not let it. */
	tzset();
	/* The feed comes for appending; what it says already is read here once. A pipe would wait for its writer. */
	char path[32];
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fds[FEED]);
	settings.feed_reader = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	error = ft_ledger_open(ledger, &settings, err);
	if (settings.feed_reader >= 0)
		close(settings.feed_reader);
	if (error)
		return error;
	json_int_t uid = json_integer_value(json_object_get(message, "uid"));
	json_int_t gid = json_integer_value(json_object_get(message, "gid"));
	error = ft_confine_identity((uid_t)uid, (gid_t)gid, FT_CONFINE_UNDUMPABLE, err);
	if (error)
		return error;
	notarise(*ledger, settings.sensor, config, fds[STATE]);
	struct ft_confine_filter filter;
	error = ft_confine_compile(rules, sizeof(rules) / sizeof(*rules), &filter, err);
	if (error)
		return error;
	error = ft_confine_install(&filter);
	ft_confine_filter_free(&filter);
	return error ? ft_error_set(err, error, "cannot install the seccomp filter: %s", strerror(-error))
		     : 0;
}

static void answer(struct ft_ledger *ledger, const json_t *message)
{
	const char *error;
	json_t *result = ft_ledger_query(ledger, message, &error), *reply = json_object();
	if (json_object_get(message, "id"))
		json_object_set(reply, "id", json_object_get(message, "id"));
	if (result)
		json_object_set_new(reply, "result", result);
	else
		json_object_set_new(reply, "error", json_string(error));
	say("answer", reply);
}

/* One message from the supervisor. False: it is time to end. */
static bool obey(struct ft_ledger *ledger)
{
	json_t *message;
	int fds[FT_CHANNEL_FDS], count;
	int error = ft_channel_receive(FT_CHANNEL_FD, &message, fds, &count);
	if (error == -EPROTO || error == -EMSGSIZE || error == -EAGAIN)
		return true;
	if (error)
		return false;
	const char *op = json_string_value(json_object_get(message, "op"));
	bool sink = op && !strcmp(op, "sink"), known = true;
	if (sink)
		known = !ft_ledger_sink(ledger, text_of(message, "name"), fds[0],
					json_string_value(json_object_get(message, "error")));
	bool reopen = op && !strcmp(op, "reopen") && count == 1, quotas = op && !strcmp(op, "quotas");
	struct ft_error err = {0};
	if (reopen && ft_ledger_reopen(ledger, fds[0], &err))
		log_line(NULL, "error", err.text);
	if (quotas) {
		ft_ledger_configured(ledger, json_string_value(json_object_get(message, "config_sha256")));
		ft_ledger_quotas(ledger, (uint64_t)json_integer_value(json_object_get(message, "feed_quota")),
				 (uint64_t)json_integer_value(json_object_get(message, "quarantine_quota")),
				 json_object_get(message, "quarantine_shares"));
	}
	bool taken = (sink || reopen) && count;
	close_all(fds + taken, count - taken);
	bool stop = op && !strcmp(op, "stop");
	if (op && !strcmp(op, "query"))
		answer(ledger, message);
	else if (!known || (!stop && !sink && !reopen && !quotas))
		log_line(NULL, "warning", "the ledger was told something that it does not know");
	json_decref(message);
	return !stop;
}

/* Up to `most` records that wait. False: the socket's other end is gone. */
static bool take_records(struct ft_ledger *ledger, int socket, int most)
{
	for (int i = 0; i < most; i++) {
		struct pollfd waiting = {.fd = socket, .events = POLLIN};
		if (poll(&waiting, 1, 0) <= 0)
			return true;
		json_t *message;
		int fds[FT_CHANNEL_FDS], count;
		int error = ft_channel_receive(socket, &message, fds, &count);
		if (error == -EAGAIN)
			return true;
		if (error == -EPROTO || error == -EMSGSIZE) {
			ft_ledger_refuse(ledger, error == -EPROTO ? "no JSON object"
								  : "longer than a message may be");
			continue;
		}
		if (error)
			return false;
		close_all(fds, count);
		ft_ledger_record(ledger, message);
		json_decref(message);
	}
	return true;
}

static int64_t now_ms(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* The last lines of a run are often the ones somebody looks for: a reader that takes them gets a moment to do so. */
static void linger(struct ft_ledger *ledger)
{
	struct pollfd fds[FT_LEDGER_SINKS];
	for (int64_t end = now_ms() + LINGER_MS, left = LINGER_MS; left > 0; left = end - now_ms()) {
		bool waits = false;
		ft_ledger_poll(ledger, fds);
		for (unsigned i = 0; i < FT_LEDGER_SINKS; i++)
			waits |= fds[i].fd >= 0 && fds[i].events;
		if (!waits || poll(fds, FT_LEDGER_SINKS, (int)left) <= 0)
			return;
		ft_ledger_polled(ledger, fds);
	}
}

static void run(struct ft_ledger *ledger, int records)
{
	struct pollfd fds[2 + FT_LEDGER_SINKS] = {{.fd = FT_CHANNEL_FD, .events = POLLIN},
						  {.fd = records, .events = POLLIN}};
	for (bool on = true, again = false; on;) {
		ft_ledger_poll(ledger, fds + 2);
		/* What came is committed together, once there is nothing else to do. */
		int wait = ft_ledger_work(ledger);
		if (again && (wait < 0 || wait > RETRY_MS))
			wait = RETRY_MS;
		int ready = poll(fds, 2 + FT_LEDGER_SINKS, wait);
		if (ready < 0 && errno != EINTR)
			break;
		if (ready > 0)
			ft_ledger_polled(ledger, fds + 2);
		if (fds[0].revents)
			on = obey(ledger);
		if (fds[1].revents && !take_records(ledger, records, BURST))
			fds[1].fd = -1;
		/* A tick only when nothing came for a while, or records would make it as frequent as they are. */
		if (ready == 0 || !again)
			again = ft_ledger_tick(ledger);
	}
	take_records(ledger, records, DRAIN);
	ft_ledger_tick(ledger);
	ft_ledger_seal(ledger);
	linger(ledger);
	ft_ledger_end(ledger);
}

int main(void)
{
	struct ft_error err = {0};
	struct ft_ledger *ledger = NULL;
	json_t *message = NULL;
	int fds[FT_CHANNEL_FDS];
	if (receive_config(&message, fds, &err))
		return fail(EX_PROTOCOL, &err);
	int error = prepare(message, fds, &ledger, &err);
	if (error) {
		int code = error == -EPERM || error == -EACCES ? EX_NOPERM
			   : error == -EINVAL                  ? EX_CONFIG
							       : EX_IOERR;
		return fail(code, &err);
	}
	say("ready", json_pack("{s:[]}", "said"));
	run(ledger, fds[RECORDS]);
	ft_ledger_close(ledger);
	json_decref(message);
	return 0;
}
