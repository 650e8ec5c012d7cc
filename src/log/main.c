/* foretaste-ledger: started by the supervisor with its control channel as descriptor 3. Writes the feed and the
 * quarantine until the channel closes or says stop; then first writes down what still waits in the record socket. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#include "base/channel.h"
#include "base/confine.h"
#include "log/ledger.h"

/* Descriptors beside the configuration (gateway/protocol.md). */
enum { RECORDS, FEED, QUARANTINE, STATE, DESCRIPTORS };

#define BURST    64    /* records before the control channel is looked at again */
#define RETRY_MS 1000  /* between two attempts on a feed that cannot be written */
#define DRAIN    65536 /* most records written down after stop: a peer that never ends does not keep us */

static const struct ft_confine_rule rules[] = {
    {"recvmsg", "control channel and records"},
    {"sendmsg", "control channel: answers, log lines"},
    {"poll", "waits for either"},
    {"ppoll", "the C library's poll"},
    {"write", "feed lines; quarantined packets"},
    {"ftruncate", "cuts a half-written feed line"},
    {"fstat", "size of the feed"},
    {"newfstatat", "size of the feed, the C library's fstat"},
    {"openat", "a new file in the quarantine directory"},
    {"renameat2", "its final name"},
    {"unlinkat", "the oldest quarantined file; a file that could not be finished"},
    {"close", "that file; descriptors that a lying peer sent along"},
    {"mmap", "malloc; never executable", .arg = 3, .mask = PROT_EXEC, .equals = 0},
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

/* Everything that needs the file system or privileges; afterwards neither is left. */
static int prepare(const json_t *message, const int *fds, struct ft_ledger **ledger, struct ft_error *err)
{
	const json_t *config = json_object_get(message, "config");
	const char *sensor = json_string_value(json_object_get(config, "sensor"));
	struct ft_ledger_config settings = {
	    .sensor = sensor ? sensor : "foretaste",
	    .feed_quota = (uint64_t)json_integer_value(json_object_get(config, "feed_quota")),
	    .quarantine_quota = (uint64_t)json_integer_value(json_object_get(config, "quarantine_quota")),
	    .feed = fds[FEED],
	    .quarantine = fds[QUARANTINE],
	    .log = log_line,
	};
	if (sodium_init() < 0)
		return ft_error_set(err, -ENOSYS, "libsodium cannot be used");
	/* gmtime_r reads the time zone file once, which the filter below would not let it. */
	tzset();
	/* The feed comes for appending; what it says already is read here once. A pipe would wait for its writer. */
	char path[32];
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fds[FEED]);
	settings.feed_reader = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	int error = ft_ledger_open(ledger, &settings, err);
	if (settings.feed_reader >= 0)
		close(settings.feed_reader);
	if (error)
		return error;
	json_int_t uid = json_integer_value(json_object_get(message, "uid"));
	json_int_t gid = json_integer_value(json_object_get(message, "gid"));
	error = ft_confine_identity((uid_t)uid, (gid_t)gid, FT_CONFINE_UNDUMPABLE, err);
	if (error)
		return error;
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
	close_all(fds, count);
	const char *op = json_string_value(json_object_get(message, "op"));
	bool stop = op && !strcmp(op, "stop");
	if (op && !strcmp(op, "query"))
		answer(ledger, message);
	else if (!stop)
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

static void run(struct ft_ledger *ledger, int records)
{
	struct pollfd fds[] = {{.fd = FT_CHANNEL_FD, .events = POLLIN}, {.fd = records, .events = POLLIN}};
	for (bool on = true, again = false; on;) {
		int ready = poll(fds, 2, again ? RETRY_MS : -1);
		if (ready < 0 && errno != EINTR)
			break;
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
