/* foretaste-metrics: started by the supervisor with its control channel as descriptor 3. Serves HTTP until the channel closes
 * or says stop.
 *
 * A process of its own, because an HTTP parser that strangers to the gateway may talk to has no place in the supervisor, which
 * is root and must never wait. This one can open nothing and connect to nothing: it has one listening socket, and one
 * connection to the control socket that is good for the one question `metrics`. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#include "base/channel.h"
#include "base/confine.h"
#include "metrics/server.h"

/* Descriptors beside the configuration (gateway/protocol.md). */
enum { LISTENER, CONTROL, DESCRIPTORS };

#define ANSWER_MOST (4u << 20) /* what the control socket lets wait for one client */

static const struct ft_confine_rule rules[] = {
    {"accept4", "libmicrohttpd: a new connection"},
    {"recvfrom", "requests; the supervisor's answers"},
    {"sendto", "answers; questions to the supervisor"},
    {"sendmsg", "answers with their head; our messages on the channel"},
    {"recvmsg", "the channel"},
    {"read", "libmicrohttpd: its own wake-up"},
    {"write", "libmicrohttpd: its own wake-up"},
    {"setsockopt", "libmicrohttpd: no delay, cork"},
    {"shutdown", "the end of a connection"},
    {"close", "the same"},
    {"fcntl", "libmicrohttpd: flags of a new connection"},
    {"select", "waits for all of it"},
    {"pselect6", "the C library's select"},
    {"mmap", "malloc; never executable", .arg = 3, .mask = PROT_EXEC, .equals = 0},
    {"munmap", "malloc"},
    {"mremap", "malloc"},
    {"madvise", "malloc"},
    {"brk", "malloc"},
    {"futex", "libmicrohttpd: its locks"},
    {"clock_gettime", "where the vDSO cannot answer"},
    {"getrandom", "malloc: random tags, once"},
    {"rt_sigreturn", "return from a signal handler"},
    {"restart_syscall", "the kernel, after a stop and continue"},
    {"exit_group", "end"},
};

struct process {
	struct ft_server *server;
	int control;
	char *in;
	size_t length;
	json_int_t id; /* of the question that waits */
};

static uint64_t monotonic_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void say(const char *op, json_t *message)
{
	json_object_set_new(message, "op", json_string(op));
	ft_channel_send(FT_CHANNEL_FD, message, NULL, 0);
	json_decref(message);
}

static int fail(int code, const struct ft_error *err)
{
	say("failed", json_pack("{s:i, s:s}", "code", code, "text", err->text));
	return code;
}

static void ask(void *context)
{
	struct process *process = context;
	char text[64];
	int n = snprintf(text, sizeof(text), "{\"what\":\"metrics\",\"id\":%" JSON_INTEGER_FORMAT "}\n", ++process->id);
	/* When it cannot be asked, the server's patience ends and says so. */
	send(process->control, text, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void take_line(struct process *process, const char *line, size_t length)
{
	json_t *answer = json_loadb(line, length, 0, NULL);
	/* A late answer to an older question is none. */
	if (json_integer_value(json_object_get(answer, "id")) == process->id)
		ft_server_answer(process->server, json_object_get(answer, "result"));
	json_decref(answer);
}

/* False: the supervisor has closed the connection. */
static bool take_answers(struct process *process)
{
	ssize_t n = recv(process->control, process->in + process->length, ANSWER_MOST - process->length, MSG_DONTWAIT);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR;
	if (n == 0)
		return false;
	process->length += (size_t)n;
	for (char *newline; (newline = memchr(process->in, '\n', process->length));) {
		size_t length = (size_t)(newline - process->in);
		take_line(process, process->in, length);
		process->length -= length + 1;
		memmove(process->in, newline + 1, process->length);
	}
	return process->length < ANSWER_MOST;
}

/* One message from the supervisor. False: it is time to end. */
static bool obey(void)
{
	json_t *message;
	int fds[FT_CHANNEL_FDS], count;
	int error = ft_channel_receive(FT_CHANNEL_FD, &message, fds, &count);
	if (error)
		return error == -EAGAIN || error == -EPROTO || error == -EMSGSIZE;
	for (int i = 0; i < count; i++)
		close(fds[i]);
	const char *op = json_string_value(json_object_get(message, "op"));
	bool stop = op && !strcmp(op, "stop");
	/* How it is with itself, it has nothing to tell: that it answers is all. */
	if (op && !strcmp(op, "query"))
		say("answer", json_pack("{s:O?, s:{}}", "id", json_object_get(message, "id"), "result"));
	json_decref(message);
	return !stop;
}

static int receive_config(json_t **message, int fds[FT_CHANNEL_FDS], struct ft_error *err)
{
	int count;
	int error = ft_channel_receive(FT_CHANNEL_FD, message, fds, &count);
	if (error)
		return ft_error_set(err, error, "no configuration from the supervisor: %s", strerror(-error));
	const char *op = json_string_value(json_object_get(*message, "op"));
	if (!op || strcmp(op, "config"))
		return ft_error_set(err, -EPROTO, "the supervisor's first message is no configuration");
	if (count != DESCRIPTORS)
		return ft_error_set(err, -EPROTO, "the supervisor sent %d descriptors instead of %d", count, DESCRIPTORS);
	return 0;
}

static int confine(const json_t *message, struct ft_error *err)
{
	json_int_t uid = json_integer_value(json_object_get(message, "uid"));
	json_int_t gid = json_integer_value(json_object_get(message, "gid"));
	struct ft_confine_filter filter;
	int error = ft_confine_identity((uid_t)uid, (gid_t)gid, FT_CONFINE_UNDUMPABLE, err);
	if (!error)
		error = ft_confine_compile(rules, sizeof(rules) / sizeof(*rules), &filter, err);
	if (error)
		return error;
	error = ft_confine_install(&filter);
	ft_confine_filter_free(&filter);
	return error ? ft_error_set(err, error, "cannot install the seccomp filter: %s", strerror(-error)) : 0;
}

static void run(struct process *process)
{
	for (bool on = true; on;) {
		struct ft_server_sets sets = {.most = process->control > FT_CHANNEL_FD ? process->control : FT_CHANNEL_FD};
		FD_ZERO(&sets.read);
		FD_ZERO(&sets.write);
		FD_ZERO(&sets.except);
		FD_SET(FT_CHANNEL_FD, &sets.read);
		FD_SET(process->control, &sets.read);
		ft_server_watch(process->server, &sets);
		uint64_t due = ft_server_due(process->server), now = monotonic_ns(), wait = due > now ? due - now : 0;
		struct timeval timeout = {(time_t)(wait / 1000000000u), (suseconds_t)(wait % 1000000000u / 1000u + 1)};
		int ready = select(sets.most + 1, &sets.read, &sets.write, &sets.except,
				   due == UINT64_MAX ? NULL : &timeout);
		if (ready < 0 && errno != EINTR)
			break;
		if (ready <= 0) {
			FD_ZERO(&sets.read);
			FD_ZERO(&sets.write);
			FD_ZERO(&sets.except);
		}
		if (FD_ISSET(FT_CHANNEL_FD, &sets.read))
			on = obey();
		if (FD_ISSET(process->control, &sets.read))
			on &= take_answers(process);
		ft_server_serve(process->server, &sets, monotonic_ns());
	}
}

int main(void)
{
	struct process process = {.in = malloc(ANSWER_MOST)};
	struct ft_error err = {0};
	json_t *message = NULL;
	int fds[FT_CHANNEL_FDS];
	tzset(); /* reads the time zone file once, which the filter would not let it */
	if (!process.in || receive_config(&message, fds, &err))
		return fail(EX_PROTOCOL, &err);
	process.control = fds[CONTROL];
	int code = 0;
	if (ft_server_open(&process.server, fds[LISTENER], ask, &process, &err))
		code = EX_OSERR;
	else if (confine(message, &err))
		code = EX_NOPERM;
	json_decref(message);
	if (code)
		return fail(code, &err);
	say("ready", json_pack("{s:[]}", "said"));
	run(&process);
	ft_server_close(process.server);
	free(process.in);
	return 0;
}
